"""What the bytes of an image mean: encodings of sensor_msgs, and the format string of a CompressedImage.

image_transport writes 'ORIGINAL; CODEC compressed GIVEN': the encoding of the image that was published, and that of
what the encoder was given, where it is not the original. An encoder of OpenCV takes three channels for BGR.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import cv2


class Encoding(NamedTuple):
    """An encoding that can be shown: ``channels`` of ``bits`` bits, and OpenCV's code to RGB (None: it is RGB)."""

    channels: int
    bits: int
    to_rgb: int | None

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of one pixel."""
        return self.channels * self.bits // 8


_COLOURS = {
    'rgb': (3, None),
    'bgr': (3, cv2.COLOR_BGR2RGB),
    'rgba': (4, cv2.COLOR_RGBA2RGB),
    'bgra': (4, cv2.COLOR_BGRA2RGB),
    'mono': (1, cv2.COLOR_GRAY2RGB),
    # OpenCV names a pattern by its second row.
    'bayer_rggb': (1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr': (1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg': (1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg': (1, cv2.COLOR_BayerGB2RGB),
}
ENCODINGS = {
    f'{name}{bits}': Encoding(channels, bits, code) for bits in (8, 16) for name, (channels, code) in _COLOURS.items()
} | {
    'uyvy': Encoding(2, 8, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422': Encoding(2, 8, cv2.COLOR_YUV2RGB_UYVY),
    'yuyv': Encoding(2, 8, cv2.COLOR_YUV2RGB_YUY2),
    'yuv422_yuy2': Encoding(2, 8, cv2.COLOR_YUV2RGB_YUY2),
}
# OpenCV's names of plain arrays, such as 8UC3: they say how many channels there are, not what they mean.
PLAIN_ARRAY = re.compile(r'(8|16|32|64)[USF](C\d*)?', re.IGNORECASE)
NO_PICTURE = re.compile(r'16U(C1?)?|(8|16|32)S(C\d*)?|(32|64)F(C\d*)?', re.IGNORECASE)
VIDEO = re.compile(r'(lib)?(x?h?\.?26[45]|hevc|avc1?|av1|svtav1|vp[89]|mpeg[124]|theora)\b', re.IGNORECASE)
VIDEO_START = (b'\0\0\0\1', b'\0\0\1')  # Annex B, which H.264 and H.265 streams are in


def is_depth(encoding: str) -> bool:
    """Whether an encoding is of depth or other measurements (REP 118: 16UC1 and 32FC1), which are no picture."""
    return NO_PICTURE.fullmatch(encoding) is not None


@dataclass(frozen=True)
class ImageFormat:
    """A format string, in lower case: ``original`` is '' where it does not say, ``given`` is what was encoded."""

    original: str = ''
    given: str = ''

    @classmethod
    def parse(cls, text: str) -> ImageFormat:
        """Read the format string of a CompressedImage; what is unknown says nothing, as older drivers' 'jpeg'."""
        head, semicolon, tail = text.lower().partition(';')
        original, words = head.strip(), tail.split()
        if not semicolon:
            # Only a driver's own label: a mosaic or depth is believed, colours are those of the file.
            return cls(original, original if original.startswith('bayer_') else '')
        target = words[words.index('compressed') + 1 :] if 'compressed' in words else []
        return cls(original, target[0] if target else original)

    @property
    def mosaic(self) -> str:
        """The Bayer pattern of the pixels without the number of bits ('bayer_rggb'), '' where they are no mosaic."""
        pattern = self.given.rstrip('0123456789')
        return pattern if pattern.startswith('bayer_') and pattern in _COLOURS else ''

    @property
    def is_red_first(self) -> bool:
        """Whether RGB was given to an encoder that takes BGR, so that red and blue come out exchanged."""
        return self.given in ('rgb8', 'rgba8', 'rgb16', 'rgba16')

    @property
    def is_depth(self) -> bool:
        """Whether the original was depth."""
        return is_depth(self.original)

    @property
    def is_16_bit(self) -> bool:
        """Whether the encoder was given 16 bits."""
        return self.given in ENCODINGS and ENCODINGS[self.given].bits == 16
