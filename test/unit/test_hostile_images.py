"""Bytes that anybody may send: an image or one sentence, never a bomb, never another exception."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import zlib
from array import array
from types import SimpleNamespace as Box

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stprune_ros.core.types import CameraFrame
from stprune_ros.errors import StpruneError
from stprune_ros.io.image_file import MAX_SCANS, file_size
from stprune_ros.io.image_format import ENCODINGS
from stprune_ros.io.images import DecodeLimits, decode_for_model

LIMITS = DecodeLimits(max_pixels=16 * 64 * 48)
ALL_FORMATS = DecodeLimits(max_pixels=16 * 64 * 48, formats=('jpeg', 'png', 'bmp', 'tiff'))
NOISE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
FILES = {
    'jpeg': cv2.imencode('.jpg', NOISE)[1].tobytes(),
    'progressive': cv2.imencode('.jpg', NOISE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
    'png': cv2.imencode('.png', NOISE)[1].tobytes(),
    'bmp': cv2.imencode('.bmp', NOISE)[1].tobytes(),
    'tiff': cv2.imencode('.tiff', NOISE)[1].tobytes(),
}


def compressed(data: bytes, text: str = 'jpeg') -> Box:
    return Box(format=text, data=array('B', data))


def outcome(message: Box, limits: DecodeLimits = LIMITS) -> str:
    """The sentence of a refusal, '' for an image; anything else fails."""
    try:
        image, reduced_by = decode_for_model(CameraFrame('front', 1, payload=message), limits)
    except StpruneError as error:
        sentence = str(error)
        assert sentence.isprintable() and len(sentence) < 1000
        return sentence
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert 0 < image.shape[0] * image.shape[1] * reduced_by**2 <= limits.max_pixels
    return ''


def with_jpeg_size(data: bytes, width: int, height: int) -> bytes:
    """The same JPEG with another size in its frame header."""
    at = re.search(b'\xff[\xc0\xc2]', data)
    assert at is not None
    return data[: at.start() + 5] + struct.pack('>HH', height, width) + data[at.start() + 9 :]


def png(width: int, height: int, rows: bytes = b'') -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(rows, 9)) + chunk(b'IEND', b'')


BOMB_SIZE = 30001
# What such a file costs is measured in a process of its own, whose peak is its own.
MEASURE = """
import resource, sys, time
from types import SimpleNamespace as Box
import numpy as np
from stprune_ros.core.types import CameraFrame
from stprune_ros.errors import StpruneError
from stprune_ros.io.images import DecodeLimits, decode_for_model
data = np.frombuffer(sys.stdin.buffer.read(), np.uint8)
limits = DecodeLimits(max_pixels=16 * 1600 * 900)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.process_time()
for _ in range(20):
    try:
        decode_for_model(CameraFrame('front', 1, payload=Box(format='jpeg', data=data)), limits)
        sentence = 'decoded'
    except StpruneError as error:
        sentence = str(error)
spent = (time.process_time() - started) / 20
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, spent, sentence, sep='\\n')
"""


@pytest.mark.parametrize(
    'data',
    [
        with_jpeg_size(FILES['jpeg'], BOMB_SIZE, BOMB_SIZE),
        with_jpeg_size(FILES['progressive'], BOMB_SIZE, BOMB_SIZE),
        png(BOMB_SIZE, BOMB_SIZE, bytes(10**7)),
    ],
    ids=['jpeg', 'progressive', 'png'],
)
def test_a_decode_bomb_takes_neither_memory_nor_time(data):
    done = subprocess.run([sys.executable, '-c', MEASURE], input=data, capture_output=True, check=True)
    kilobytes, seconds, sentence = done.stdout.decode().splitlines()
    assert sentence.startswith(f'the image has {BOMB_SIZE}x{BOMB_SIZE} pixels, more than {16 * 1600 * 900} in all')
    assert int(kilobytes) < 20_000
    assert float(seconds) < 0.05


def test_a_jpeg_of_many_scans_is_refused():
    data = cv2.imencode('.jpg', np.zeros((480, 640, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = data.rfind(b'\xff\xda')
    limits = DecodeLimits(max_pixels=640 * 480)
    many = data[:-2] + data[last:-2] * 1000 + data[-2:]
    assert outcome(compressed(many), limits) == (
        f'the JPEG of {len(many)} bytes has more than {MAX_SCANS} scans; a camera sends one'
    )
    assert outcome(compressed(data), limits) == ''


@pytest.mark.parametrize('kind', FILES)
def test_every_format_is_decoded_where_it_is_named(kind):
    assert outcome(compressed(FILES[kind]), ALL_FORMATS) == ''
    refused = kind in ('bmp', 'tiff')
    sentence = outcome(compressed(FILES[kind], f'rgb8; {kind} compressed bgr8'))
    assert ('are no jpeg or png' in sentence and 'cameras.formats' in sentence) is refused


def test_pixels_are_refused_one_beyond_the_limit_raw_and_compressed():
    for width, refused in ((64, False), (65, True)):
        limits = DecodeLimits(max_pixels=48 * 64)
        pixels = np.zeros((48, width, 3), np.uint8)
        raw = Box(height=48, width=width, encoding='rgb8', step=3 * width, is_bigendian=0, data=pixels.ravel())
        for message in (raw, compressed(cv2.imencode('.png', pixels)[1].tobytes(), 'png')):
            assert (f'{width}x48 pixels, more than {48 * 64}' in outcome(message, limits)) is refused


@settings(max_examples=150)
@given(
    st.binary(max_size=200),
    st.sampled_from([b'', *(data[:2] for data in FILES.values()), FILES['png'][:16]]),
    st.text(),
)
@example(b'', b'\xff\xd8', 'jpeg')
@example(b'\xff\xd9', b'\xff\xd8', 'jpeg')
@example(b'IEND', FILES['png'][:24], 'png')
def test_any_bytes_are_an_image_or_a_sentence(tail, head, text):
    outcome(compressed(head + tail, text), ALL_FORMATS)


@settings(max_examples=200)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_files_with_flipped_bits_are_an_image_or_a_sentence(kind, data):
    """Most flips hit the headers, where a size may change."""
    content = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.one_of(st.integers(0, min(700, len(content) - 1)), st.integers(0, len(content) - 1)))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    outcome(compressed(bytes(content[:cut])), ALL_FORMATS)


@settings(max_examples=100)
@given(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1), st.sampled_from(['jpeg', 'progressive']))
def test_the_size_of_a_header_is_the_one_that_opencv_would_take(width, height, kind):
    data = with_jpeg_size(FILES[kind], width, height)
    if width and height:
        assert file_size(data) == (height, width)
    sentence = outcome(compressed(data))
    assert ('pixels, more than' in sentence) is (width * height > LIMITS.max_pixels)


@settings(max_examples=300)
@given(
    encoding=st.one_of(st.sampled_from(sorted(ENCODINGS)), st.text(max_size=300)),
    height=st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    width=st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    step=st.one_of(st.integers(0, 80), st.integers(0, 2**32 - 1)),
    size=st.integers(0, 700),
    is_bigendian=st.integers(0, 255),
)
def test_raw_images_of_any_fields_are_an_image_or_a_sentence(encoding, height, width, step, size, is_bigendian):
    fields = {'encoding': encoding, 'height': height, 'width': width, 'step': step, 'is_bigendian': is_bigendian}
    outcome(Box(**fields, data=array('B', bytes(size))))


@pytest.mark.parametrize('letter', ['\n', '\r', '\x1b[31m', '\x00', '\x85', '\u2028', '\u202e', '\x9b'])
def test_words_from_the_wire_cannot_forge_a_line(letter):
    forged = f'rgb8{letter}[ERROR] [brake.node]: brakes failed'
    raw = Box(height=1, width=1, encoding=forged, step=3, is_bigendian=0, data=array('B', bytes(3)))
    for message in (raw, compressed(b'no image', forged), compressed(FILES['jpeg'][:100], forged)):
        assert "'rgb8?" in outcome(message)


def test_long_words_are_cut():
    assert len(outcome(compressed(b'no image', 'x' * 10**6))) < 400
