"""Files that somebody downloaded, read within bounds: JSON in any Unicode, pictures, and which file is meant."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from stprune_ros.errors import StpruneError, listed, one_line, plain, shown
from stprune_ros.io.foreign_files import UNPACK
from stprune_ros.io.image_file import MAX_SCANS, file_format, file_size, is_truncated, too_many_scans
from stprune_ros.io.images import DecodeLimits, decode_compressed

MAX_JSON_BYTES = 2**30  # the largest of the known files has 287 MB
MAX_PICTURE_BYTES = 2**26
MAX_PICTURE_PIXELS = 2**26
PNG_DEPTH, GREY_16_BIT = slice(24, 26), b'\x10\0'  # bits and kind of colour
MAX_PATH = 300  # characters of one in a sentence
MAX_ROW_CHARACTERS = 2**20  # of one row of a table that is read row by row
CHUNK = 2**20  # characters
OUTPUT, PREDICTIONS = '.output.json', '.predictions.json'  # how names of answers for the sets' own tools end
RESULT = re.compile(rb'\{\s*"default":\s')
HALF_CHARACTER = re.compile('[\ud800-\udfff]')
BOMS = {
    codecs.BOM_UTF8: 'utf-8-sig',
    codecs.BOM_UTF32_LE: 'utf-32',
    codecs.BOM_UTF32_BE: 'utf-32',
    codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
}


MAX_EXAMPLE = 400  # characters of what a fault is shown by


class Faults:
    """What is wrong with a set, counted by reason, with the first example of each."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """Count something; ``reason`` stands before the number, as in 'questions left out, a picture is missing: 3'."""
        before, first = self._found.get(reason, (0, example))
        self._found[reason] = (before + count, first)

    def take(self, rows: Iterable[tuple[str, str, int]]) -> None:
        """Count what others have counted, as their `rows`."""
        for reason, example, count in rows:
            self.add(reason, example, count)

    @property
    def rows(self) -> list[tuple[str, str, int]]:
        """Reason, first example and count, in the order in which they came up."""
        return [(reason, first, count) for reason, (count, first) in self._found.items()]

    @property
    def sentences(self) -> list[str]:
        """One for each reason, with its count."""
        return [
            f'{reason}: {count}; the first is {plain(first, MAX_EXAMPLE)}'
            for reason, (count, first) in self._found.items()
        ]


def find_file(data: Path, ending: str, folders: Sequence[str] = ()) -> Path:
    """The one file of questions at ``data``: itself, or the only one with ``ending`` in it or its ``folders``.

    Hidden files are none, nor is what an earlier run has written there.
    Raises StpruneError where there is none, or several to choose from.
    """
    if data.suffix in UNPACK:
        command = UNPACK[data.suffix].format(packed=data, plain=data.with_suffix(''))
        raise StpruneError(f"'{data}' is packed; unpack it first: {command}")
    if is_file(data):
        return data
    if not data.is_dir():
        raise StpruneError(f"there is no folder '{data}'; give the folder of the data set as --data")
    there = [file for folder in ('.', *folders) for file in sorted((data / folder).glob(f'*{ending}'))]
    found = [file for file in there if not file.name.startswith('.') and is_file(file) and not _is_result(file)]
    if not found:
        where = ' or '.join(('it', *(f"its folder '{folder}'" for folder in folders)))
        raise StpruneError(f"'{data}' has no {ending} file with questions in {where}; give the file as --data")
    if len(found) > 1:
        names = listed(str(file) for file in found)
        raise StpruneError(f"'{data}' has {len(found)} {ending} files, {names}; give one of them as --data")
    return found[0]


def is_file(path: Path) -> bool:
    """Whether a file is there; a name that no file can have is of none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _is_result(path: Path) -> bool:
    """Whether `stprune eval` wrote a file: its result begins with the default method, answers have a name of theirs."""
    with path.open('rb') as file:
        return path.name.endswith((OUTPUT, PREDICTIONS)) or RESULT.match(file.read(64)) is not None


def digest(path: Path) -> str:
    """What tells two versions of a file apart."""
    whole = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(CHUNK):
            whole.update(chunk)
    return whole.hexdigest()[:12]


def encoding_of(path: Path) -> str:
    """The Unicode encoding that the first bytes of a JSON file tell: by a byte order mark, or by its zeros."""
    with path.open('rb') as file:
        start = file.read(4)
    for mark, encoding in BOMS.items():
        if start.startswith(mark) and not (encoding == 'utf-16' and start == codecs.BOM_UTF32_LE):
            return encoding
    if len(start) > 1 and 0 in start[:2]:
        return 'utf-16-be' if start[0] == 0 else 'utf-16-le'
    return 'utf-8'


def not_unicode(path: Path, error: UnicodeDecodeError) -> StpruneError:
    """The error for a text in an encoding of old, which no file says the name of."""
    name = error.encoding.upper()
    return StpruneError(
        f"'{path}' is no {name}, which JSON has to be: byte {error.object[error.start]:#04x} at {error.start} is none;"
        f" if it is Latin-1, iconv -f LATIN1 -t UTF-8 '{path}' > FILE.json converts it"
    )


def read_json(path: Path, faults: Faults) -> Any:
    """The content of a JSON file. What it has twice, and half characters, are counted among ``faults``.

    Raises StpruneError where it is no JSON, in no Unicode, or too large.
    """
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise StpruneError(f"'{path}' has {size} bytes; a file of questions may have {MAX_JSON_BYTES}: split it")

    def whole(text: str) -> str:
        if text.isascii() or not HALF_CHARACTER.search(text):
            return text
        faults.add('texts with half a character, which is replaced', text)
        return HALF_CHARACTER.sub('\ufffd', text)

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                faults.add('keys that an object has again, of which the first counts', key)
            else:
                found[whole(key)] = whole(value) if isinstance(value, str) else value
        return found

    try:
        return json.loads(path.read_bytes().decode(encoding_of(path)), object_pairs_hook=checked)
    except UnicodeDecodeError as error:
        raise not_unicode(path, error) from None
    except RecursionError:
        raise StpruneError(f"'{path}' is nested deeper than any file of questions: it is damaged") from None
    except ValueError as error:
        raise StpruneError(f"'{path}' is no JSON that can be read: {one_line(error)}; download it again") from None


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON file that is one list, one after another: it may be larger than memory.

    Raises StpruneError where it is something else, or cut off.
    """
    decoder, buffer, at, begun = json.JSONDecoder(), '', 0, False
    try:
        with path.open(encoding=encoding_of(path)) as file:
            while True:
                at = _skip(buffer, at, ' \t\r\n,' if begun else ' \t\r\n')
                if not begun and buffer[at : at + 1] == '[':
                    begun, at = True, at + 1
                    continue
                if begun and buffer[at : at + 1] == ']':
                    return
                try:
                    row, at = decoder.raw_decode(buffer, at) if begun else (None, at)
                except ValueError:
                    row = None
                if isinstance(row, dict):
                    yield row
                    continue
                chunk = file.read(CHUNK)
                if not chunk or row is not None or len(buffer) - at > MAX_ROW_CHARACTERS:
                    raise StpruneError(f"'{path}' is no list of JSON objects that is whole: download it again")
                buffer, at = buffer[at:] + chunk, 0
    except UnicodeDecodeError as error:
        raise not_unicode(path, error) from None
    except RecursionError:
        raise StpruneError(f"'{path}' is nested deeper than any file of questions: it is damaged") from None


def _skip(text: str, at: int, letters: str) -> int:
    while at < len(text) and text[at] in letters:
        at += 1
    return at


def read_picture(path: Path) -> np.ndarray:
    """The RGB pixels, uint8 (height, width, 3), of a JPEG or PNG file. Raises StpruneError where it is none."""
    try:
        with path.open('rb') as file:
            data = file.read(MAX_PICTURE_BYTES + 1)
    except OSError as error:
        raise StpruneError(f"picture '{plain(str(path), MAX_PATH)}' cannot be read: {error.strerror}") from None
    try:
        _require_picture(data)
        return decode_compressed(SimpleNamespace(data=data, format=file_format(data)), DecodeLimits())[0]
    except StpruneError as error:
        raise StpruneError(f"picture '{plain(str(path), MAX_PATH)}' cannot be used: {error}") from None


def _require_picture(data: bytes) -> None:
    """Raise StpruneError in words for a folder of pictures: those of decoding are for who looks after a camera."""
    if not data:
        raise StpruneError('the file is empty; download it again')
    if len(data) > MAX_PICTURE_BYTES:
        raise StpruneError(f'the file has more than {MAX_PICTURE_BYTES} bytes; save it smaller')
    if file_format(data) not in DecodeLimits().formats:
        raise StpruneError('the file is no JPEG or PNG; download it again, or convert it')
    height, width = file_size(data)
    if height * width > MAX_PICTURE_PIXELS:
        raise StpruneError(f'it has {width}x{height} pixels, more than {MAX_PICTURE_PIXELS} in all; save it smaller')
    if is_truncated(data):
        raise StpruneError(f'the file is cut off after {len(data)} bytes; download it again')
    if too_many_scans(data):
        raise StpruneError(f'the file is a JPEG of more than {MAX_SCANS} scans; save it as a plain one')
    if file_format(data) == 'png' and data[PNG_DEPTH] == GREY_16_BIT:
        raise StpruneError(
            'the file is a PNG of 16-bit grey, which may be depth; convert it to 8 bits, if it is a picture'
        )


def text_of(entry: Any, *keys: str) -> str | None:
    """The text under the first of ``keys`` that an object has, None where it is none."""
    value = next((entry[key] for key in keys if key in entry), None) if isinstance(entry, dict) else None
    return value if isinstance(value, str) else None


def one_part(name: str) -> str:
    """A name as a part of an id of several, between slashes: its own are written %2F."""
    return name.replace('%', '%25').replace('/', '%2F')


def kind_of_content(tree: Any) -> str:
    """What the content of a file is, for a sentence: its type, and its first keys where it has some."""
    if isinstance(tree, dict):
        return f'an object with the keys {shown(list(tree)[:5])}'
    return f'a list of {len(tree)}' if isinstance(tree, list) else f'a {type(tree).__name__}'
