"""The format string of a CompressedImage: what the encoder was given decides what the bytes mean."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from stprune_ros.core.types import CameraFrame
from stprune_ros.errors import StpruneError
from stprune_ros.io.image_format import ENCODINGS, ImageFormat
from stprune_ros.io.images import DecodeLimits, _converter, _with_opencv, decode_for_model

HEIGHT, WIDTH = 24, 32
ORANGE = (210, 120, 40)  # RGB
PATTERNS = {'rggb': 'RGGB', 'bggr': 'BGGR', 'gbrg': 'GBRG', 'grbg': 'GRBG'}


def flat(colour: tuple[int, ...], scale: int = 1) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, len(colour)), colour, np.uint16 if scale > 1 else np.uint8) * scale


def grey(value: int, scale: int = 1) -> np.ndarray:
    return flat((value,), scale)[..., 0]


def mosaic(pattern: str, scale: int = 1) -> np.ndarray:
    channel = dict(zip('RGB', ORANGE))
    cell = np.array([channel[letter] for letter in PATTERNS[pattern]]).reshape(2, 2) * scale
    return np.tile(cell, (HEIGHT // 2, WIDTH // 2)).astype(np.uint16 if scale > 1 else np.uint8)


def message(text: str, given: np.ndarray, extension: str = '') -> SimpleNamespace:
    """What a publisher would send that gives the array ``given`` to OpenCV's encoder."""
    extension = extension or ('.png' if 'png' in text else '.tiff' if 'tiff' in text else '.jpg')
    return SimpleNamespace(format=text, data=array('B', cv2.imencode(extension, given)[1].tobytes()))


def decoded(found: Any) -> np.ndarray:
    limits = DecodeLimits(formats=('jpeg', 'png', 'tiff'))
    return decode_for_model(CameraFrame('front', 1, payload=found), limits)[0]


BGR, RGB = flat(ORANGE[::-1]), flat(ORANGE)
SHOWN_ORANGE = {
    'jpeg': BGR,
    'JPEG': BGR,
    'jpg': BGR,
    'png': BGR,
    '': BGR,
    'rgb8': BGR,  # a driver's own label
    'bgr8; jpeg compressed bgr8': BGR,
    'rgb8; jpeg compressed bgr8': BGR,
    'RGB8;jpeg compressed BGR8': BGR,
    'bgr8; jpeg compressed': BGR,
    'rgb8; png compressed bgr8': BGR,
    'bgr8; jpeg compressed rgb8': RGB,
    'rgb8; jpeg compressed rgb8': RGB,
    'rgb8; png compressed rgb8': RGB,
    'rgb8; tiff compressed ': RGB,
    'bgr8; tiff compressed ': BGR,
    'yuv422; jpeg compressed bgr8': BGR,
    'something; jpeg compressed bgr8': BGR,
    '8UC3; png compressed ': BGR,
    'bayer_rggb8; jpeg compressed bgr8': BGR,  # converted before it was compressed
    'bgra8; png compressed bgr8': BGR,
    'bgra8; png compressed bgra8': np.dstack([BGR, grey(9)]),
    'rgba8; png compressed rgba8': np.dstack([RGB, grey(9)]),
    'rgb16; png compressed bgr16': flat(ORANGE[::-1], 257),
    'rgb16; png compressed rgb16': flat(ORANGE, 257),
    'bgr16; tiff compressed ': flat(ORANGE[::-1], 257),
}


@pytest.mark.parametrize('text', SHOWN_ORANGE)
def test_colours_are_those_that_were_published(text):
    given = SHOWN_ORANGE[text]
    image = decoded(message(text, given))
    assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert np.abs(image.astype(int) - ORANGE).max() <= 3


@pytest.mark.parametrize('pattern', PATTERNS)
@pytest.mark.parametrize(
    ('text', 'scale'),
    [
        ('bayer_{}8; jpeg compressed ', 1),
        ('bayer_{}8; jpeg compressed bayer_{}8', 1),
        ('bayer_{}8; png compressed ', 1),
        ('bayer_{}16; png compressed ', 257),
        ('bayer_{}8', 1),
    ],
)
def test_a_mosaic_is_demosaiced(pattern, text, scale):
    # Smooth chroma is what JPEG keeps of single pixels, so a margin is left for it.
    image = decoded(message(text.replace('{}', pattern), mosaic(pattern, scale)))
    assert np.abs(image[4:-4, 4:-4].astype(int) - ORANGE).max() <= (12 if 'png' not in text else 0)


def test_a_mosaic_keeps_its_size_however_small_the_model_sees_it():
    big = np.tile(mosaic('rggb'), (20, 20))
    image, factor = decode_for_model(
        CameraFrame('front', 1, payload=message('bayer_rggb8; jpeg compressed ', big)), DecodeLimits(16 * 16)
    )
    assert (factor, image.shape[:2]) == (1, big.shape)


@pytest.mark.parametrize(
    ('text', 'given'),
    [
        ('mono8; jpeg compressed mono8', grey(90)),
        ('mono8; png compressed ', grey(90)),
        ('mono16; jpeg compressed mono8', grey(90)),
        ('mono16; png compressed ', grey(90, 257)),
        ('mono16; tiff compressed ', grey(90, 257)),
        ('bayer_rggb8; jpeg compressed mono8', grey(90)),  # image_transport makes real grey of it
        ('8UC1; png compressed ', grey(90)),
    ],
)
def test_grey_is_grey(text, given):
    assert np.abs(decoded(message(text, given)).astype(int) - 90).max() <= 1


def test_a_palette_is_looked_up():
    image_module = pytest.importorskip('PIL.Image')
    import io

    file = io.BytesIO()
    image_module.fromarray(RGB).quantize(4).save(file, 'PNG')
    assert np.abs(decoded(SimpleNamespace(format='png', data=array('B', file.getvalue()))) - ORANGE).max() == 0


def test_a_turned_camera_is_shown_as_it_was_sent():
    image_module = pytest.importorskip('PIL.Image')
    import io

    file, exif = io.BytesIO(), image_module.Exif()
    exif[0x112] = 6  # turn by 90 degrees
    image_module.fromarray(RGB).save(file, 'JPEG', exif=exif)
    assert decoded(SimpleNamespace(format='jpeg', data=array('B', file.getvalue()))).shape == (HEIGHT, WIDTH, 3)


DEPTH = ['is depth', 'leave this topic out']
REFUSED = {
    '16UC1; png compressed ': (grey(9, 257), DEPTH),
    '16UC1; compressedDepth png': (grey(9, 257), DEPTH),
    '32FC1; compressedDepth rvl': (grey(9), DEPTH),
    '32FC1; tiff compressed ': (grey(9).astype(np.float32), DEPTH),
    '16uc1; jpeg compressed mono8': (grey(9), DEPTH),
    'png': (grey(9, 257), ['may be depth', 'mono16']),
    'tiff': (flat(ORANGE).astype(np.float32), ['begin as a tiff have no header']),
    'mono16; jpeg compressed ': (grey(9), ['16-bit pixels', 'not scaled', 'png']),
    'bayer_rggb16; jpeg compressed ': (grey(9), ['16-bit pixels']),
    'h264': (BGR, ["'h264'", 'video', 'jpeg', 'ffmpeg']),
    'hevc': (BGR, ['video']),
    'H.265': (BGR, ['video']),
    'av1': (BGR, ['video']),
    'libx264': (BGR, ['video']),
}


@pytest.mark.parametrize('text', REFUSED)
def test_what_is_no_picture_is_refused_in_one_sentence(text):
    given, words = REFUSED[text]
    with pytest.raises(StpruneError) as caught:
        decoded(message(text, given))
    assert '\n' not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_video_stream_is_known_by_its_bytes():
    with pytest.raises(StpruneError, match='video stream'):
        decoded(SimpleNamespace(format='jpeg', data=array('B', b'\0\0\0\1\x67abcdef')))


def raw(encoding: str, **changes: Any) -> SimpleNamespace:
    row = 2 * WIDTH
    fields = {'height': HEIGHT, 'width': WIDTH, 'encoding': encoding, 'is_bigendian': 0, 'step': row}
    return SimpleNamespace(**{**fields, 'data': array('B', bytes(row * HEIGHT)), **changes})


@pytest.mark.parametrize(
    ('encoding', 'words'),
    [
        ('16UC1', 'is depth'),
        ('32FC1', 'is depth'),
        ('64F', 'is depth'),
        ('8SC1', 'is depth'),
        ('8UC1', 'what its channels are'),
        ('8UC3', 'let the driver publish bgr8'),
        ('16UC3', 'what its channels are'),
        ('nv21', "'nv21' is not supported; use one of rgb8"),
        ('', "'' is not supported"),
    ],
)
def test_raw_encodings_that_say_too_little_are_refused(encoding, words):
    with pytest.raises(StpruneError, match=words):
        decoded(raw(encoding))


@pytest.mark.parametrize('pattern', PATTERNS)
@pytest.mark.parametrize('order', ['<u2', '>u2'])
def test_raw_mosaics_of_16_bits(pattern, order):
    data = mosaic(pattern, 257).astype(order)
    image = decoded(raw(f'bayer_{pattern}16', is_bigendian=int(order == '>u2'), data=array('B', data.tobytes())))
    assert np.abs(image[2:-2, 2:-2].astype(int) - ORANGE).max() == 0


def test_16_bits_are_rounded_over_their_whole_range():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(_with_opencv(values, 'mono16')[..., 0], np.rint(values / 257).astype(np.uint8))


@pytest.mark.parametrize('encoding', ENCODINGS)
@pytest.mark.parametrize('size', [(48, 64), (31, 46)])
def test_cv_bridge_gives_the_same_pixels(encoding, size):
    convert = _converter()
    if convert is _with_opencv:
        pytest.skip('cv_bridge cannot be imported')
    kind, (height, width) = ENCODINGS[encoding], size
    shape = size if kind.channels == 1 else (*size, kind.channels)
    pixels = np.random.default_rng(len(encoding)).integers(0, 2**kind.bits, shape, f'u{kind.bits // 8}')
    ours, theirs = _with_opencv(pixels, encoding), convert(pixels, encoding)
    assert ours.shape == (height, width, 3) and theirs.dtype == ours.dtype == np.uint8
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ('text', 'original', 'given', 'pattern', 'red_first'),
    [
        ('jpeg', 'jpeg', '', '', False),
        ('rgb8; jpeg compressed', 'rgb8', 'rgb8', '', True),
        ('mono8; jpeg', 'mono8', 'mono8', '', False),
        ('; jpeg compressed rgb8', '', 'rgb8', '', True),
        ('bayer_gbrg16; png compressed ', 'bayer_gbrg16', 'bayer_gbrg16', 'bayer_gbrg', False),
        ('bayer_xyzw8; png compressed ', 'bayer_xyzw8', 'bayer_xyzw8', '', False),
    ],
)
def test_parts_of_the_format_string(text, original, given, pattern, red_first):
    kind = ImageFormat.parse(text)
    assert (kind.original, kind.given, kind.mosaic, kind.is_red_first) == (original, given, pattern, red_first)
