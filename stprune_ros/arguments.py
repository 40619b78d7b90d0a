"""The types of command-line arguments: each turns a text into a value, or says in one sentence what is allowed."""

from __future__ import annotations

import argparse
import math

from stprune_ros.errors import StpruneError
from stprune_ros.settings.parameters import lookup


def positive(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f'{text} is not a number above 0')
    return value


def count(text: str) -> int:
    """An integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not an integer of at least 1')
    return value


def ratio(text: str) -> float:
    """A keep ratio as the parameter table allows it."""
    try:
        lookup('pruning.keep_ratio').parse(float(text))
        return float(text)
    except StpruneError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def size(text: str) -> tuple[int, int]:
    """Width and height of an image, as in 1920x1080."""
    width, separator, height = text.partition('x')
    if not separator:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form 1920x1080")
    return count(width), count(height)


def seed(text: str) -> int:
    """An integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f'{text} is not an integer of at least 0')
    return value


def ratios(text: str) -> tuple[float, ...]:
    """Keep ratios, separated by commas."""
    return tuple(ratio(part) for part in text.split(','))


def names(text: str) -> tuple[str, ...]:
    """Names, separated by commas."""
    return tuple(text.split(','))


def remap(text: str) -> tuple[str, str]:
    """A pair 'from:=to' of topic names."""
    source, separator, target = text.partition(':=')
    if not (separator and source and target):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form /from:=/to")
    return source, target
