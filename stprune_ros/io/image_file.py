"""What an image file says of itself before anything of it is decoded: its format, its size, whether it is whole."""

from __future__ import annotations

import io
from collections.abc import Mapping

from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from stprune_ros.errors import StpruneError

STARTS: Mapping[str, tuple[bytes, ...]] = {
    'jpeg': (b'\xff\xd8',),
    'png': (b'\x89PNG\r\n\x1a\n',),
    'bmp': (b'BM',),
    'tiff': (b'II*\0', b'MM\0*'),
}
# These read no more than the header when they are made, and unlike Image.open neither warn of many pixels nor refuse
# them by a limit that is global to the process.
READERS: Mapping[str, type[ImageFile]] = {'jpeg': JpegImageFile, 'bmp': BmpImageFile, 'tiff': TiffImageFile}
PNG_HEADER = slice(8, 16)  # length and name of the first chunk
JPEG_SCAN, JPEG_END, PNG_END = b'\xff\xda', b'\xff\xd9', b'IEND'
MAX_SCANS = 100  # of a JPEG; a progressive one has ten, and each goes over the whole image


def file_format(data: bytes) -> str:
    """One of STARTS, '' for anything else."""
    return next((name for name, starts in STARTS.items() if data.startswith(starts)), '')


def file_size(data: bytes) -> tuple[int, int]:
    """(height, width) from the header of a file that `file_format` knows. Raises StpruneError where it has none."""
    kind, height, width = file_format(data), 0, 0
    if kind == 'png':
        if data[PNG_HEADER] == b'\0\0\0\x0dIHDR':
            width, height = (int.from_bytes(data[start : start + 4], 'big') for start in (16, 20))
    elif kind:
        try:
            width, height = READERS[kind](io.BytesIO(data)).size
        except Exception:  # SyntaxError, struct.error and whatever else a broken header makes of the parsers
            pass
    if width <= 0 or height <= 0:
        raise StpruneError(f'{len(data)} bytes that begin as a {kind or "file"} have no header that can be read')
    return height, width


def is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end: OpenCV would silently fill the rest with grey.

    Entropy-coded JPEG data never holds an end marker, so one must follow the last start of scan; an embedded preview
    has an end marker of its own.
    """
    kind = file_format(data)
    if kind == 'jpeg':
        end = data.rfind(JPEG_END)
        return end < 0 or data.find(JPEG_SCAN, end) >= 0
    return kind == 'png' and PNG_END not in data[-64:]


def too_many_scans(data: bytes) -> bool:
    """Whether a JPEG goes over its image again and again, which takes time without end for a few bytes each."""
    return file_format(data) == 'jpeg' and data.count(JPEG_SCAN) > MAX_SCANS
