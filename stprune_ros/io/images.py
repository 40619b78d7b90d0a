"""Decode image messages to RGB. Messages are duck-typed: those of rclpy and of rosbags decode alike; needs no ROS.

Raw images go through cv_bridge where it can be imported and through OpenCV, which cv_bridge uses too, elsewhere: the
same pixels (a test compares them). Compressed ones go through OpenCV.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from stprune_ros.core.types import CameraFrame
from stprune_ros.errors import StpruneError, one_line, plain
from stprune_ros.io.image_file import MAX_SCANS, file_format, file_size, is_truncated, too_many_scans
from stprune_ros.io.image_format import ENCODINGS, PLAIN_ARRAY, VIDEO, VIDEO_START, ImageFormat, is_depth

OVERSAMPLING = 2  # how much larger, per side, a reduced image must be than what the model resizes it to (measured)
FAR_LARGER = 16  # times the pixels of camera_info: four times each side
REDUCED_DECODING = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What is decoded, and how large.

    The model resizes an image to at most ``model_pixels`` pixels (0: not known); a JPEG with far more is decoded at a
    reduced size, which is faster. An image of more than ``max_pixels`` is refused by its header, and so is a file of
    another format than ``formats``, names of `image_file.STARTS`.
    """

    model_pixels: int = 0
    max_pixels: int = 2**26
    formats: tuple[str, ...] = ('jpeg', 'png')


def decode(frame: CameraFrame) -> np.ndarray:
    """Pixels of a camera frame: RGB, uint8 (height, width, 3).

    Raises StpruneError if the image is empty, broken, too large, or of an encoding that is not supported.
    """
    return decode_for_model(frame, DecodeLimits())[0]


def decode_for_model(frame: CameraFrame, limits: DecodeLimits) -> tuple[np.ndarray, int]:
    """Pixels as `decode` returns them, and the factor by which their sides were reduced: 1, 2, 4 or 8.

    Raises StpruneError like `decode`.
    """
    compressed = hasattr(frame.payload, 'format')  # an Image has an encoding instead
    try:
        if compressed:
            return decode_compressed(frame.payload, limits)
        return decode_raw(frame.payload, limits.max_pixels), 1
    except (cv2.error, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise StpruneError(f'the image cannot be decoded: {one_line(error)}') from None


def decode_raw(message: Any, max_pixels: int) -> np.ndarray:
    """RGB uint8 (height, width, 3) of a sensor_msgs/Image; may share memory with it.

    Raises StpruneError if size, step, data and encoding do not fit together, or the encoding is not supported.
    """
    height, width, step, encoding = message.height, message.width, message.step, plain(message.encoding)
    if height == 0 or width == 0:
        raise StpruneError(f'the image is empty: {width}x{height} pixels')
    _check_encoding(encoding)
    _check_size(height, width, max_pixels)
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


def decode_compressed(message: Any, limits: DecodeLimits) -> tuple[np.ndarray, int]:
    """RGB uint8 (height, width, 3) of a sensor_msgs/CompressedImage, and the factor as in `decode_for_model`.

    Raises StpruneError if the bytes are missing, truncated, no image that OpenCV decodes, no picture, or too large.
    """
    content, text = np.frombuffer(message.data, np.uint8).tobytes(), plain(message.format)
    kind = ImageFormat.parse(text)
    _check_compressed(text, kind, content)
    if file_format(content) not in limits.formats:
        raise StpruneError(
            f"{len(content)} bytes of format '{text}' are no {' or '.join(limits.formats)}: let the driver send one of"
            ' these, or name what they are in cameras.formats'
        )
    size = file_size(content)
    _check_size(*size, limits.max_pixels)
    if too_many_scans(content):
        raise StpruneError(f'the JPEG of {len(content)} bytes has more than {MAX_SCANS} scans; a camera sends one')
    reducible = file_format(content) == 'jpeg' and not kind.mosaic  # a reduced mosaic is none
    reduced_by = reduction_factor(size, limits.model_pixels) if reducible else 1
    flags = REDUCED_DECODING.get(reduced_by, cv2.IMREAD_COLOR) if reducible else cv2.IMREAD_UNCHANGED
    try:
        # camera_info is for the pixels as they were sent, whichever way up a header says that they are.
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise StpruneError(f"{len(content)} bytes of format '{text}' are no image that OpenCV can decode")
    return _to_rgb(image, _decoded_encoding(image, kind, text), _with_opencv), reduced_by


def reduction_factor(size: tuple[int, int], model_pixels: int) -> int:
    """The factor by which the sides of a JPEG may be reduced for a model that resizes it to ``model_pixels`` pixels.

    ``size`` is (height, width), ``model_pixels`` 0 where it is not known.
    One of 8, 4, 2 and 1. The reduced image is still `OVERSAMPLING` times as large, per side, as what the model gets:
    reduced to just that size, it differs enough from one that the model resized itself to turn hints. The sides must
    be divisible by the factor, or the aspect ratio would change.
    """
    height, width = size
    for factor in REDUCED_DECODING if model_pixels else ():
        fits = height * width >= model_pixels * (OVERSAMPLING * factor) ** 2
        if fits and height % factor == width % factor == 0:
            return factor
    return 1


def _check_size(height: int, width: int, max_pixels: int) -> None:
    """Raise StpruneError where an image is too large to be decoded."""
    if height * width > max_pixels:
        raise StpruneError(
            f'the image has {width}x{height} pixels, more than {max_pixels} in all: mend the driver or its camera_info,'
            ' or set cameras.max_pixels'
        )


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
    if file_format(content) == 'jpeg' and kind.is_16_bit:
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
