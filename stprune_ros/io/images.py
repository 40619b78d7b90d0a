"""Decode image messages to RGB. Messages are duck-typed: those of rclpy and of rosbags decode alike; needs no ROS.

Raw images go through cv_bridge where it can be imported and through OpenCV, which cv_bridge uses too, elsewhere: the
same pixels (a test compares them). Compressed ones go through OpenCV.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from stprune_ros.core.types import CameraFrame
from stprune_ros.errors import StpruneError, one_line
from stprune_ros.io.image_format import ENCODINGS, PLAIN_ARRAY, VIDEO, VIDEO_START, ImageFormat, is_depth

OVERSAMPLING = 2  # how much larger, per side, a reduced image must be than what the model resizes it to (measured)
REDUCED_DECODING = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
JPEG_START, JPEG_SCAN, JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'
PNG_START, PNG_END = b'\x89PNG', b'IEND'


def decode(frame: CameraFrame) -> np.ndarray:
    """Pixels of a camera frame: RGB, uint8 (height, width, 3).

    Raises StpruneError if the image is empty, broken, or of an encoding that is not supported.
    """
    return decode_for_model(frame, 0)[0]


def decode_for_model(frame: CameraFrame, model_pixels: int) -> tuple[np.ndarray, int]:
    """Pixels as `decode` returns them, and the factor by which their sides were reduced: 1, 2, 4 or 8.

    The model resizes an image to at most ``model_pixels`` pixels (0: not known). A JPEG with far more is decoded at a
    reduced size, which is faster. Raises StpruneError like `decode`.
    """
    compressed = hasattr(frame.payload, 'format')  # an Image has an encoding instead
    return decode_compressed(frame.payload, model_pixels) if compressed else (decode_raw(frame.payload), 1)


def decode_raw(message: Any) -> np.ndarray:
    """RGB uint8 (height, width, 3) of a sensor_msgs/Image; may share memory with it.

    Raises StpruneError if size, step, data and encoding do not fit together, or the encoding is not supported.
    """
    height, width, step, encoding = message.height, message.width, message.step, message.encoding
    if height == 0 or width == 0:
        raise StpruneError(f'the image is empty: {width}x{height} pixels')
    _check_encoding(encoding)
    kind = ENCODINGS[encoding]
    row = width * kind.bytes_per_pixel
    if step < row:
        raise StpruneError(f'step is {step} bytes, but a row of {width} {encoding} pixels takes {row}')
    data = np.frombuffer(message.data, np.uint8)
    if len(data) < step * height:
        raise StpruneError(f'the image has {len(data)} bytes, but {height} rows of step {step} take {step * height}')
    rows = data[: step * height].reshape(height, step)[:, :row]
    if encoding == 'rgb8':
        return rows.reshape(height, width, 3)
    pixels = np.ascontiguousarray(rows)
    if kind.bits == 16:
        pixels = pixels.view('>u2' if message.is_bigendian else '<u2').astype(np.uint16)
    shape = (height, width) if kind.channels == 1 else (height, width, kind.channels)
    return _to_rgb(pixels.reshape(shape), encoding, _converter())


def decode_compressed(message: Any, model_pixels: int = 0) -> tuple[np.ndarray, int]:
    """RGB uint8 (height, width, 3) of a sensor_msgs/CompressedImage, and the factor as in `decode_for_model`.

    Raises StpruneError if the bytes are missing, truncated, no image that OpenCV decodes, or no picture.
    """
    content = np.frombuffer(message.data, np.uint8).tobytes()
    kind = ImageFormat.parse(message.format)
    _check_compressed(message.format, kind, content)
    reducible = content.startswith(JPEG_START) and not kind.mosaic  # a reduced mosaic is none
    reduced_by = reduction_factor(content, model_pixels) if reducible else 1
    flags = REDUCED_DECODING.get(reduced_by, cv2.IMREAD_COLOR) if reducible else cv2.IMREAD_UNCHANGED
    try:
        # camera_info is for the pixels as they were sent, whichever way up a header says that they are.
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise StpruneError(f"{len(content)} bytes of format '{message.format}' are no image that OpenCV can decode")
    return _to_rgb(image, _decoded_encoding(image, kind, message.format), _with_opencv), reduced_by


def reduction_factor(data: bytes, model_pixels: int) -> int:
    """The factor by which the sides of a JPEG may be reduced for a model that resizes it to ``model_pixels`` pixels.

    One of 8, 4, 2 and 1. The reduced image is still `OVERSAMPLING` times as large, per side, as what the model gets:
    reduced to just that size, it differs enough from one that the model resized itself to turn hints. The sides must
    be divisible by the factor, or the aspect ratio would change.
    """
    height, width = jpeg_size(data) if model_pixels else (0, 0)
    for factor in REDUCED_DECODING:
        fits = height * width >= model_pixels * (OVERSAMPLING * factor) ** 2
        if height and fits and height % factor == width % factor == 0:
            return factor
    return 1


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(height, width) from the frame header of a JPEG, (0, 0) if it has none."""
    position = 2
    while data.startswith(JPEG_START) and position + 9 <= len(data) and data[position] == 0xFF:
        kind = data[position + 1]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            return int.from_bytes(height, 'big'), int.from_bytes(width, 'big')
        position += 1 if kind == 0xFF else 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
    return 0, 0


def is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end: OpenCV would silently fill the rest with grey.

    Entropy-coded JPEG data never holds an end marker, so one must follow the last start of scan; an embedded preview
    has an end marker of its own.
    """
    if data.startswith(JPEG_START):
        end = data.rfind(JPEG_END)
        return end < 0 or data.find(JPEG_SCAN, end) >= 0
    if data.startswith(PNG_START):
        return PNG_END not in data[-64:]
    return False


def _check_encoding(encoding: str) -> None:
    """Raise StpruneError where an Image of this encoding is no picture, or none that can be read."""
    if encoding in ENCODINGS:
        return
    if is_depth(encoding):
        raise StpruneError(
            f"encoding '{encoding}' is depth or another measurement, which is no view; leave this topic out of the ring"
        )
    if PLAIN_ARRAY.fullmatch(encoding):
        raise StpruneError(
            f"encoding '{encoding}' does not say what its channels are; let the driver publish bgr8, rgb8, mono8 or"
            ' bayer_*'
        )
    raise StpruneError(f"encoding '{encoding}' is not supported; use one of {', '.join(ENCODINGS)}")


def _check_compressed(text: str, kind: ImageFormat, content: bytes) -> None:
    """Raise StpruneError where the bytes of a CompressedImage with format string ``text`` are no picture."""
    if not content:
        raise StpruneError('the compressed image has no bytes')
    if kind.is_depth or 'compresseddepth' in text.lower():
        raise StpruneError(f"format '{text}' is depth, which is no view; leave this topic out of the ring")
    if VIDEO.match(text) or content.startswith(VIDEO_START):
        raise StpruneError(
            f"format '{text}' is a piece of a video stream, not an image: let the driver send jpeg; what is recorded"
            " becomes a video file when the data of all its messages are joined, and 'ffmpeg -i FILE OUT_%06d.png'"
            ' makes pictures of that'
        )
    if is_truncated(content):
        raise StpruneError(f"the compressed image ('{text}', {len(content)} bytes) is truncated")
    if content.startswith(JPEG_START) and kind.is_16_bit:
        raise StpruneError(
            f"format '{text}' is a JPEG of 16-bit pixels, which were cut off at 255 and not scaled; publish png, or"
            ' an 8-bit encoding'
        )


def _decoded_encoding(image: np.ndarray, kind: ImageFormat, text: str) -> str:
    """The encoding of pixels that OpenCV decoded: BGR unless the encoder was given something else."""
    channels, bits = (1 if image.ndim == 2 else image.shape[2]), 8 * image.dtype.itemsize
    if channels == 1 and bits == 16 and not kind.is_16_bit:
        raise StpruneError(
            f"format '{text}' is a 16-bit grey image that may be depth; publish it as mono16 ('mono16; png compressed')"
        )
    order = {3: 'rgb' if kind.is_red_first else 'bgr', 4: 'rgba' if kind.is_red_first else 'bgra'}
    encoding = f'{kind.mosaic or "mono" if channels == 1 else order.get(channels, "")}{bits}'
    if encoding not in ENCODINGS or image.dtype.kind != 'u':
        raise StpruneError(f"format '{text}' holds {channels} channels of {image.dtype}, which is no picture")
    return encoding


def _to_rgb(pixels: np.ndarray, encoding: str, convert: Callable[[np.ndarray, str], np.ndarray]) -> np.ndarray:
    height, width = pixels.shape[:2]
    try:
        return convert(pixels, encoding)
    except (cv2.error, TypeError, RuntimeError) as error:  # cv_bridge raises a TypeError of its own
        raise StpruneError(f'{width}x{height} {encoding} cannot be converted to RGB: {one_line(error)}') from None


def _with_opencv(pixels: np.ndarray, encoding: str) -> np.ndarray:
    """RGB uint8 of pixels uint8 or uint16 (height, width) or (height, width, channels) in one of ENCODINGS.

    16 bits are scaled by their whole range, as in cv_bridge.
    """
    code = ENCODINGS[encoding].to_rgb
    image = pixels if code is None else cv2.cvtColor(pixels, code)
    return image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=255 / 65535)


@cache
def _converter() -> Callable[[np.ndarray, str], np.ndarray]:
    """The function that converts the pixels of an Image to RGB, as `_with_opencv` does."""
    try:
        from cv_bridge import CvBridge
    except (ImportError, AttributeError):  # AttributeError: built for another NumPy (vision_opencv #535)
        return _with_opencv
    bridge = CvBridge()
    known = {'uyvy': 'yuv422', 'yuyv': 'yuv422_yuy2'}  # the only names that cv_bridge has for these

    def convert(pixels: np.ndarray, encoding: str) -> np.ndarray:
        height, width = pixels.shape[:2]
        plain = SimpleNamespace(
            height=height,
            width=width,
            step=width * ENCODINGS[encoding].bytes_per_pixel,
            encoding=known.get(encoding, encoding),
            is_bigendian=int(sys.byteorder == 'big'),
            data=pixels.reshape(-1).view(np.uint8),
        )
        return np.asarray(bridge.imgmsg_to_cv2(plain, 'rgb8'))

    return convert
