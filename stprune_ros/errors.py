"""What goes wrong in a way that a user can mend, and how it is put into one sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from reprlib import Repr
from typing import Any

MAX_REASON = 200  # characters of a foreign error's text
MAX_PATH = 4096  # characters of a path, the most that there may be
MAX_NAME = 100  # characters of a name or a word that somebody else chose

# Numbers with their unit of time, but not those in something quoted, which is a name, nor in a word.
NUMBER = re.compile(r"(?<!\w)'[^']*'(?!\w)|(?<!\w)\d+(?:[.x]\d+)*(?:e[-+]?\d+)?(?: (?:ms|s|days)\b)?")

_REPR = Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = MAX_NAME
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 20


class StpruneError(Exception):
    """Bad input or a wrong setting: the text is one sentence naming the thing and the remedy."""


class SettingsError(StpruneError):
    """A parameter, or a file that holds parameters, is wrong."""


class BagError(StpruneError):
    """A recording is missing, damaged, or lacks what is asked of it."""


class ModelError(StpruneError):
    """A model folder, a prompt file or a calibration file is missing, broken, unsupported or for another model."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after what was finished has been written: the text says where, ``result`` is what it was."""

    def __init__(self, sentence: str, result: Mapping[str, Any]) -> None:
        super().__init__(sentence)
        self.result = result


def plain(text: str, limit: int = MAX_NAME) -> str:
    """Somebody else's text as it may stand in a sentence: at most ``limit`` characters, none that controls a terminal.

    Whatever does not print, line breaks included, becomes a question mark: no line of a log can be forged, and names
    that differ stay different.
    """
    head = text if len(text) <= limit else f'{text[: limit - 3]}...'
    return head if head.isprintable() else ''.join(letter if letter.isprintable() else '?' for letter in head)


def shown(value: object) -> str:
    """A value from somebody else's file as it may stand in a sentence: its repr, cut where it is long or deep."""
    try:
        return plain(_REPR.repr(value), 2 * MAX_NAME)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return f'an {type(value).__name__} that is too long to be written'


def word(value: object) -> str:
    """As `shown`, but a text stands without its quotes: for what is a name where all is well."""
    return plain(value) if isinstance(value, str) else shown(value)


def one_line(error: BaseException) -> str:
    """An error's text in one line of at most 200 characters without a full stop; its type where it has no text."""
    text = ' '.join(str(error)[: 10 * MAX_REASON].split()).rstrip('.') or type(error).__name__
    return plain(text, MAX_REASON)


def require_utf8(name: str) -> None:
    """Raise StpruneError for a name of a file, or another argument, whose bytes are no UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise StpruneError(
            f"'{plain(name, MAX_PATH)}' is not UTF-8, in which results would name it: rename it"
        ) from None


def sentence_of(error: StpruneError | OSError) -> str:
    """What a user is told of an error: of the system's, the file and what is wrong with it."""
    if isinstance(error, StpruneError):
        return ' '.join(str(error).splitlines())
    where = f"'{plain(os.fsdecode(error.filename), MAX_PATH)}': " if isinstance(error.filename, str | bytes) else ''
    return f'{where}{error.strerror or one_line(error)}'


def listed(names: Iterable[str]) -> str:
    """Names as they may stand in a sentence: in quotes, so that digits in them are told from numbers."""
    return ', '.join(f"'{name}'" for name in names)


def kind_of(sentence: str) -> str:
    """A sentence without its numbers: they do not make another trouble of it, as another name in quotes does."""
    return NUMBER.sub(lambda found: found[0] if found[0].startswith("'") else '#', sentence)


def pattern_of(sentence: str) -> str:
    """A sentence without its numbers and names: what all sentences about one sort of trouble have in common."""
    return NUMBER.sub('#', sentence)
