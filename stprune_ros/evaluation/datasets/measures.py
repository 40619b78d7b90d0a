"""How an answer is judged against the true ones: a number per question, pure functions.

`match_f1` is DriveLM's (https://github.com/OpenDriveLab/DriveLM, challenge/evaluation.py): written anew from what it
does, and checked against examples counted by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

# Names of measures. All but the error lie between 0 and 1, and more is better.
ACCURACY = 'accuracy'  # the answer is the true one, letter by letter
MATCH = 'match'  # F1 of coordinates
LANGUAGE = 'language'  # BLEU, ROUGE-L and CIDEr; that of one question is ROUGE-L
JUDGE = 'judge'  # what a plug-in says
OBJECTS = 'map'  # average precision of boxes
ERROR = 'mae'  # absolute error of numbers; less is better

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


# By the name of the measure; those of texts and judges need more than one question, or somebody else.
PER_QUESTION: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    ACCURACY: exact,
    MATCH: best_match,
}
