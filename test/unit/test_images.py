"""Messages to pixels: right colours for every encoding, one sentence for every broken image."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from stprune_ros.core.types import CameraFrame
from stprune_ros.errors import StpruneError
from stprune_ros.io import images
from stprune_ros.io.image_file import file_size, is_truncated
from stprune_ros.io.image_format import ENCODINGS
from stprune_ros.io.images import DecodeLimits, decode, decode_for_model, reduction_factor

HEIGHT, WIDTH = 6, 8
COLOUR = (200, 120, 40)  # RGB


def flat(colour: tuple[int, ...] = COLOUR) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), colour, np.uint8)


def frame(message: Any) -> CameraFrame:
    return CameraFrame('front', 1, payload=message)


def raw(encoding: str, pixels: np.ndarray, padding: int = 0, **changes: Any) -> SimpleNamespace:
    """A duck-typed Image with ``padding`` bytes behind every row."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(HEIGHT, -1)
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    fields = {
        'height': HEIGHT,
        'width': WIDTH,
        'encoding': encoding,
        'is_bigendian': 0,
        'step': data.shape[1],
        'data': array('B', data.tobytes()),
    }
    return SimpleNamespace(**{**fields, **changes})


def compressed(image: np.ndarray, extension: str = '.jpg', text: str = 'jpeg') -> SimpleNamespace:
    data = cv2.imencode(extension, image)[1].tobytes()
    return SimpleNamespace(format=text, data=array('B', data))


def grey(value: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH), value, np.uint8)


ENCODED = {
    'rgb8': flat(),
    'bgr8': flat(COLOUR[::-1]),
    'rgba8': np.dstack([flat(), grey(255)]),
    'bgra8': np.dstack([flat(COLOUR[::-1]), grey(255)]),
    'rgb16': flat().astype(np.uint16) * 257,
    'bgr16': flat(COLOUR[::-1]).astype(np.uint16) * 257,
}


@pytest.mark.parametrize('encoding', ENCODED)
@pytest.mark.parametrize('padding', [0, 10])
def test_colours_survive(encoding, padding):
    assert np.array_equal(decode(frame(raw(encoding, ENCODED[encoding], padding))), flat())


@pytest.mark.parametrize(('encoding', 'scale'), [('mono8', 1), ('mono16', 257)])
def test_grey_becomes_rgb(encoding, scale):
    pixels = grey(90) if scale == 1 else grey(90).astype(np.uint16) * scale
    assert np.array_equal(decode(frame(raw(encoding, pixels))), flat((90, 90, 90)))


def test_bigendian_is_swapped():
    pixels = (flat().astype(np.uint16) * 256).astype('>u2')
    assert np.abs(decode(frame(raw('rgb16', pixels, is_bigendian=1))).astype(int) - flat()).max() <= 1


@pytest.mark.parametrize(
    ('encoding', 'pattern'),
    [('bayer_rggb8', 'RGGB'), ('bayer_bggr8', 'BGGR'), ('bayer_gbrg8', 'GBRG'), ('bayer_grbg8', 'GRBG')],
)
def test_bayer_patterns(encoding, pattern):
    channel = dict(zip('RGB', COLOUR))
    cell = np.array([channel[letter] for letter in pattern], np.uint8).reshape(2, 2)
    image = decode(frame(raw(encoding, np.tile(cell, (HEIGHT // 2, WIDTH // 2)))))
    assert image[2:-2, 2:-2].reshape(-1, 3).tolist() == [list(COLOUR)] * (HEIGHT - 4) * (WIDTH - 4)


@pytest.mark.parametrize(
    ('encoding', 'order'), [('yuv422', 'UYVY'), ('uyvy', 'UYVY'), ('yuyv', 'YUYV'), ('yuv422_yuy2', 'YUYV')]
)
def test_yuv(encoding, order):
    # OpenCV decodes limited range (ITU-R BT.601)
    red, green, blue = (value / 255 for value in COLOUR)
    luma = 16 + 65.481 * red + 128.553 * green + 24.966 * blue
    u = 128 - 37.797 * red - 74.203 * green + 112 * blue
    v = 128 + 112 * red - 93.786 * green - 18.214 * blue
    cell = {'UYVY': [u, luma, v, luma], 'YUYV': [luma, u, luma, v]}[order]
    pixels = np.tile(np.round(cell).astype(np.uint8), (HEIGHT, WIDTH // 2))
    assert np.abs(decode(frame(raw(encoding, pixels))).astype(int) - flat()).max() <= 3


def test_every_encoding_decodes():
    for encoding, kind in ENCODINGS.items():
        image = decode(frame(raw(encoding, np.full((HEIGHT, WIDTH * kind.bytes_per_pixel), 128, np.uint8))))
        assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8), encoding


@pytest.mark.parametrize(
    ('message', 'words'),
    [
        (raw('rgb8', flat(), height=0), ['empty', '8x0']),
        (raw('rgb8', flat(), width=0), ['empty', '0x6']),
        (raw('8UC3', flat()), ["'8UC3'", 'rgb8']),
        (raw('rgb8', flat(), step=WIDTH), ['8 bytes', '24']),
        (raw('rgb8', flat(), step=WIDTH * 4), ['144 bytes', '192']),
        (raw('rgb8', flat(), data=array('B')), ['0 bytes', '144']),
        (SimpleNamespace(format='jpeg', data=array('B')), ['no bytes']),
        (SimpleNamespace(format='h264', data=array('B', b'\0\0\1\x67 and so on')), ["'h264'"]),
    ],
    ids=['no rows', 'no columns', 'encoding', 'step', 'short', 'no data', 'no bytes', 'video'],
)
def test_broken_images_are_named(message, words):
    with pytest.raises(StpruneError) as caught:
        decode(frame(message))
    assert '\n' not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ('extension', 'text'), [('.jpg', 'jpeg'), ('.jpg', 'bgr8; jpeg compressed bgr8'), ('.png', 'png')]
)
def test_compressed_colours(extension, text):
    image = decode(frame(compressed(flat(COLOUR[::-1]), extension, text)))
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(image.astype(int) - flat()).max() <= 3


def test_grey_jpeg_becomes_rgb():
    assert decode(frame(compressed(grey(90)))).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
def test_truncation_is_seen_wherever_it_happens(extension):
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    data = compressed(noise, extension).data.tobytes()
    assert not is_truncated(data)
    for length in range(20, len(data) - 1, 97):
        with pytest.raises(StpruneError, match='truncated'):
            decode(frame(SimpleNamespace(format='jpeg', data=array('B', data[:length]))))


def test_preview_inside_a_truncated_jpeg_does_not_hide_it():
    preview = compressed(flat()).data.tobytes()
    data = compressed(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)).data.tobytes()
    segment = b'\xff\xe1' + (len(preview) + 2).to_bytes(2, 'big') + preview
    whole = data[:2] + segment + data[2:]
    assert decode(frame(SimpleNamespace(format='jpeg', data=array('B', whole)))).shape == (64, 96, 3)
    assert is_truncated(whole[:-500])


def test_padding_behind_a_jpeg_is_no_truncation():
    data = compressed(flat()).data.tobytes() + bytes(100)
    assert decode(frame(SimpleNamespace(format='jpeg', data=array('B', data)))).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize('padding', [0, 10])
def test_rgb8_is_not_copied(padding):
    message = raw('rgb8', flat(), padding)
    image = decode(frame(message))
    assert np.shares_memory(image, np.frombuffer(message.data, np.uint8))
    assert np.array_equal(image, flat())


def jpeg_of(height: int, width: int, *options: int) -> bytes:
    ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3).astype(np.uint8)
    return cv2.imencode('.jpg', ramp, options)[1].tobytes()


@pytest.mark.parametrize('options', [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)])
def test_size_of_a_jpeg(options):
    assert file_size(jpeg_of(90, 160, *options)) == (90, 160)
    preview = jpeg_of(8, 8)
    whole = jpeg_of(90, 160, *options)
    segment = b'\xff\xe1' + (len(preview) + 2).to_bytes(2, 'big') + preview
    assert file_size(whole[:2] + segment + whole[2:]) == (90, 160)


@pytest.mark.parametrize(
    'data',
    [
        *(b'', b'no image', b'\x89PNG\r\n\x1a\n\0\0\0\x0dIDAT' + bytes(17), b'BM', b'II*\0\xff\xff\xff\xff'),
        *(JPEG_HEAD := b'\xff\xd8', JPEG_HEAD + b'\xff' * 40, JPEG_HEAD + b'\xff\xe0\xff\xff1234567'),
    ],
)
def test_size_of_what_has_no_header(data):
    with pytest.raises(StpruneError, match='have no header that can be read'):
        file_size(data)


@pytest.mark.parametrize(
    ('height', 'width', 'model', 'factor'),
    [
        (192, 320, (96, 160), 1),  # the bundled model: half the size would be just what it gets
        (384, 640, (96, 160), 2),
        (900, 1600, (96, 160), 4),
        (1080, 1920, (60, 100), 8),
        (900, 1600, (30, 50), 4),  # 900 is no multiple of 8
        (899, 1600, (30, 50), 1),
        (900, 1602, (96, 160), 2),  # 1602 is no multiple of 4
        (900, 1600, (450, 800), 1),
        (900, 1600, (0, 0), 1),
    ],
)
def test_what_is_left_is_twice_what_the_model_gets(height, width, model, factor):
    data = jpeg_of(height, width)
    pixels = model[0] * model[1]
    assert reduction_factor((height, width), pixels) == factor
    message = SimpleNamespace(format='jpeg', data=array('B', data))
    image, reduced_by = decode_for_model(frame(message), DecodeLimits(pixels))
    assert reduced_by == factor
    assert image.shape == (height // factor, width // factor, 3)
    assert factor == 1 or (image.shape[0] >= 2 * model[0] and image.shape[1] >= 2 * model[1])


def test_a_reduced_picture_is_the_same_picture():
    blocks = np.random.default_rng(1).integers(0, 255, (6, 8, 3), np.uint8)
    big = cv2.resize(blocks, (640, 480), interpolation=cv2.INTER_CUBIC)
    message = compressed(big)
    whole = decode(frame(message))
    reduced, factor = decode_for_model(frame(message), DecodeLimits(60 * 80))
    assert factor == 4
    assert np.abs(reduced.astype(int) - cv2.resize(whole, (160, 120), interpolation=cv2.INTER_AREA)).mean() < 1


def test_only_jpeg_is_reduced():
    assert decode_for_model(frame(compressed(np.zeros((64, 64, 3), np.uint8), '.png', 'png')), DecodeLimits(16))[1] == 1
    assert decode_for_model(frame(raw('rgb8', flat())), DecodeLimits(1))[1] == 1


def test_a_cv_bridge_built_for_another_numpy_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / 'cv_bridge.py').write_text("raise AttributeError('_ARRAY_API not found')")
    monkeypatch.syspath_prepend(tmp_path)
    images._converter.cache_clear()
    try:
        assert np.array_equal(decode(frame(raw('bgr8', flat(COLOUR[::-1])))), flat())
    finally:
        images._converter.cache_clear()
