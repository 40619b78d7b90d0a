"""From image messages to pixels. Messages are duck-typed, so rclpy's and rosbags' decode alike; needs no ROS.

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

from stprune_ros.core.types import CameraFrame, StpruneError

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

JPEG_START, JPEG_SCAN, JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'
PNG_START, PNG_END = b'\x89PNG', b'IEND'


def decode(frame: CameraFrame) -> np.ndarray:
    """Pixels of a camera frame: RGB, uint8 (height, width, 3).

    Raises StpruneError saying what is wrong with the image.
    """
    compressed = hasattr(frame.payload, 'format')  # an Image has an encoding instead
    return decode_compressed(frame.payload) if compressed else decode_raw(frame.payload)


def decode_raw(message: Any) -> np.ndarray:
    """RGB uint8 (height, width, 3) of a sensor_msgs/Image; may share memory with it. Raises StpruneError."""
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
    if step > row:  # rosbags-image knows no padding
        data = np.ascontiguousarray(data[: step * height].reshape(height, step)[:, :row]).reshape(-1)
    plain = SimpleNamespace(
        height=height, width=width, step=row, encoding=encoding, is_bigendian=message.is_bigendian, data=data
    )
    try:
        return _converter()(plain)
    except cv2.error as error:
        raise StpruneError(f'{width}x{height} {encoding} cannot be converted to RGB: {_one_line(error)}') from None


def decode_compressed(message: Any) -> np.ndarray:
    """RGB uint8 (height, width, 3) of a sensor_msgs/CompressedImage. Raises StpruneError."""
    data = np.frombuffer(message.data, np.uint8)
    if len(data) == 0:
        raise StpruneError('the compressed image has no bytes')
    if is_truncated(data.tobytes()):
        raise StpruneError(f"the compressed image ('{message.format}', {len(data)} bytes) is truncated")
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise StpruneError(f"{len(data)} bytes of format '{message.format}' are no image that OpenCV can decode")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end: OpenCV would fill the rest with grey and say nothing.

    Coded JPEG data never holds an end marker, so one must follow the last start of scan; a preview inside has its own.
    """
    if data.startswith(JPEG_START):
        return data.rfind(JPEG_END) <= data.rfind(JPEG_SCAN)
    if data.startswith(PNG_START):
        return PNG_END not in data[-64:]
    return False


@cache
def _converter() -> Callable[[Any], np.ndarray]:
    """What turns a checked Image without row padding into RGB."""
    try:
        from cv_bridge import CvBridge
    except (ImportError, AttributeError):  # AttributeError: built for another NumPy (vision_opencv #535)
        from rosbags.image import image_to_cvimage

        return lambda message: image_to_cvimage(message, 'rgb8')
    bridge = CvBridge()
    return lambda message: bridge.imgmsg_to_cv2(message, 'rgb8')


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split())
