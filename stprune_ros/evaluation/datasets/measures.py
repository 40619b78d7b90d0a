"""How an answer is judged against the true ones: a number per question, pure functions.

`match_f1` is DriveLM's (https://github.com/OpenDriveLab/DriveLM, challenge/evaluation.py): written anew from what it
does, and checked against examples counted by hand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

# Names of measures. All but the error lie between 0 and 1, and more is better.
ACCURACY = 'accuracy'  # the answer is the true one, letter by letter
AGREEMENT = 'agreement'  # the answer names what the true one does
MATCH = 'match'  # F1 of coordinates
LANGUAGE = 'language'  # BLEU, ROUGE-L and CIDEr; that of one question is ROUGE-L
JUDGE = 'judge'  # what a plug-in says
OBJECTS = 'map'  # average precision of boxes
ERROR = 'mae'  # absolute error of numbers; less is better

NUMBER = re.compile(
    r"""(?<![\w.])[-+]?(?:
        (?<![(\[,])(?<![(\[,][-+])\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d|,\d)  # 1,234, unless in a list such as (10,200)
        | \d+(?:\.\d+)? | \.\d+
    )(?:e[-+]?\d+)?""",
    re.VERBOSE | re.IGNORECASE,
)
DASHES = str.maketrans('\u2212\u2013', '--')  # what is written for a minus as well
MAX_NUMBER = 1e9  # no distance, speed or count is larger
OBJECT = re.compile(r'<\s*([^<>]+?)\s*>\s*\[\s*(\w+)\s*,' + ','.join([r'\s*([-+]?\d+(?:\.\d+)?)\s*'] * 4) + r'\]')
MIN_OVERLAP = 0.5  # of a box with the true one, as intersection over union
DECIMAL = re.compile(r'\d+\.\d+')
MATCH_DISTANCE = 16.0  # pixels, the sum of both axes: nearer ones match
EPSILON = 1e-8


def exact(answer: str, truths: Sequence[str]) -> float:
    """1 where the answer is one of the true ones, else 0."""
    return float(answer in truths)


def coordinates(text: str) -> np.ndarray:
    """The decimal numbers of a text in pairs: float (n, 2). A last one without a partner does not count."""
    numbers = [float(number) for number in DECIMAL.findall(text)]
    return np.array(numbers[: len(numbers) // 2 * 2]).reshape(-1, 2)


def matched(answer: str, truth: str) -> list[tuple[float, float]]:
    """The true coordinates that an answer hits: each of its own, in order, takes the nearest that is left and near."""
    left, found = [tuple(place) for place in coordinates(truth)], []
    for place in coordinates(answer):
        distances = [abs(place[0] - x) + abs(place[1] - y) for x, y in left]
        if distances and min(distances) < MATCH_DISTANCE:
            found.append(left.pop(int(np.argmin(distances))))
    return found


def match_f1(answer: str, truth: str) -> float:
    """F1 of the coordinates of an answer against the true ones; 0 where either has none."""
    hits = len(matched(answer, truth))
    precision = hits / (len(coordinates(answer)) + EPSILON)
    recall = hits / (len(coordinates(truth)) + EPSILON)
    return float(2 * precision * recall / (precision + recall + EPSILON))


def best_match(answer: str, truths: Sequence[str]) -> float:
    """`match_f1` against the true answer that fits best."""
    return max((match_f1(answer, truth) for truth in truths), default=0.0)


class Thing(NamedTuple):
    """An object as NuInstruct writes it: class, camera, and its box x1, y1, x2, y2 in pixels."""

    name: str
    camera: str
    box: tuple[float, float, float, float]


def things_in(text: str) -> list[Thing]:
    """The objects <class>[camera,x1,y1,x2,y2] of a text, in order."""
    rows = ((name.lower(), camera, [float(part) for part in box]) for name, camera, *box in OBJECT.findall(text))
    return [Thing(name, camera, (a, b, c, d)) for name, camera, (a, b, c, d) in rows]


def agreement(answer: str, truths: Sequence[str]) -> float:
    """1 where an answer names what a true one does, else 0.

    Where the true one lists objects: class and camera of the first. Else: the words, whatever their case, without a
    full stop.
    """

    def said(text: str) -> object:
        things = things_in(text)
        return things[0][:2] if things else ' '.join(text.lower().split()).rstrip('.')

    return float(said(answer) in [said(truth) for truth in truths])


def average_precision(answer: str, truths: Sequence[str]) -> float:
    """Average precision of the objects that an answer lists, the first as the surest one, at `MIN_OVERLAP`.

    One that overlaps a true object of its class and camera is right, each true one once. Without true objects an answer
    without any is worth 1.
    """
    truth, said = things_in(truths[0]), things_in(answer)
    if not truth:
        return float(not said)
    left, right, total = list(truth), 0, 0.0
    for rank, thing in enumerate(said, start=1):
        overlaps = [overlap(true.box, thing.box) if true[:2] == thing[:2] else 0.0 for true in left]
        if max(overlaps, default=0.0) >= MIN_OVERLAP:
            left.pop(int(np.argmax(overlaps)))
            right += 1
            total += right / rank
    return total / len(truth)


def overlap(box: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    shared = math.prod(max(0.0, min(box[n + 2], other[n + 2]) - max(box[n], other[n])) for n in (0, 1))
    whole = sum(math.prod(max(0.0, one[n + 2] - one[n]) for n in (0, 1)) for one in (box, other)) - shared
    return shared / whole if whole > 0 else 0.0


def numbers_in(text: str) -> list[float]:
    """The numbers of a text, in order: 1,234 is one, (1,234) two; infinite where one is too large for a float."""
    return [float(number.replace(',', '')) for number in NUMBER.findall(text.translate(DASHES))]


def mean_error(answer: str, truths: Sequence[str]) -> float:
    """Mean absolute difference of the numbers of an answer and the true ones.

    NaN where the answer has too few, or one beyond `MAX_NUMBER`.
    """
    said, true = numbers_in(answer), numbers_in(truths[0])
    if not true or len(said) < len(true) or max(map(abs, (*said[: len(true)], *true))) > MAX_NUMBER:
        return math.nan
    return sum(abs(a - b) for a, b in zip(said, true)) / len(true)


# By the name of the measure; those of texts and judges need more than one question, or somebody else.
PER_QUESTION: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    ACCURACY: exact,
    AGREEMENT: agreement,
    MATCH: best_match,
    OBJECTS: average_precision,
    ERROR: mean_error,
}
