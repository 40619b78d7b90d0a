"""Decode image messages to RGB. Messages are duck-typed: those of rclpy and of rosbags decode alike; needs no ROS.

Raw images go through cv_bridge where it can be imported and through rosbags-image elsewhere (bit-equal for 8-bit
encodings); compressed ones through OpenCV, which is what both of them use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from stprune_ros.core.types import CameraFrame
from stprune_ros.errors import StpruneError, one_line

# Bytes per pixel. Encodings such as 8UC3 are left out: they do not say the order of their colours.
BYTES_PER_PIXEL = {
    'rgb8': 3,
    'bgr8': 3,
    'rgba8': 4,
    'bgra8': 4,
    'mono8': 1,
    'rgb16': 6,
    'bgr16': 6,
    'mono16': 2,
    'bayer_rggb8': 1,
    'bayer_bggr8': 1,
    'bayer_gbrg8': 1,
    'bayer_grbg8': 1,
    'yuv422': 2,
    'uyvy': 2,
    'yuv422_yuy2': 2,
    'yuyv': 2,
}

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
    if encoding not in BYTES_PER_PIXEL:
        raise StpruneError(f"encoding '{encoding}' is not supported; use one of {', '.join(BYTES_PER_PIXEL)}")
    row = width * BYTES_PER_PIXEL[encoding]
    if step < row:
        raise StpruneError(f'step is {step} bytes, but a row of {width} {encoding} pixels takes {row}')
    data = np.frombuffer(message.data, np.uint8)
    if len(data) < step * height:
        raise StpruneError(f'the image has {len(data)} bytes, but {height} rows of step {step} take {step * height}')
    rows = data[: step * height].reshape(height, step)[:, :row]
    if encoding == 'rgb8':
        return rows.reshape(height, width, 3)
    data = np.ascontiguousarray(rows).reshape(-1)  # rosbags-image knows no padding
    plain = SimpleNamespace(
        height=height, width=width, step=row, encoding=encoding, is_bigendian=message.is_bigendian, data=data
    )
    try:
        return _converter()(plain)
    except cv2.error as error:
        raise StpruneError(f'{width}x{height} {encoding} cannot be converted to RGB: {one_line(error)}') from None


def decode_compressed(message: Any, model_pixels: int = 0) -> tuple[np.ndarray, int]:
    """RGB uint8 (height, width, 3) of a sensor_msgs/CompressedImage, and the factor as in `decode_for_model`.

    Raises StpruneError if the bytes are missing, truncated, or no image that OpenCV decodes.
    """
    data = np.frombuffer(message.data, np.uint8)
    if len(data) == 0:
        raise StpruneError('the compressed image has no bytes')
    content = data.tobytes()
    if is_truncated(content):
        raise StpruneError(f"the compressed image ('{message.format}', {len(data)} bytes) is truncated")
    try:
        reduced_by = reduction_factor(content, model_pixels)
        image = cv2.imdecode(data, REDUCED_DECODING.get(reduced_by, cv2.IMREAD_COLOR))
    except cv2.error:
        image = None
    if image is None:
        raise StpruneError(f"{len(data)} bytes of format '{message.format}' are no image that OpenCV can decode")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), reduced_by


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


@cache
def _converter() -> Callable[[Any], np.ndarray]:
    """The function that converts a checked Image without row padding to RGB."""
    try:
        from cv_bridge import CvBridge
    except (ImportError, AttributeError):  # AttributeError: built for another NumPy (vision_opencv #535)
        from rosbags.image import image_to_cvimage

        return lambda message: image_to_cvimage(message, 'rgb8')
    bridge = CvBridge()
    return lambda message: bridge.imgmsg_to_cv2(message, 'rgb8')
