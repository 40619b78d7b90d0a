"""Turn what a model says into something safe to publish: total, whatever the model says."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from stprune_ros.core.types import Behavior, ConfidenceSource, Hint, Status
from stprune_ros.vlm.hint_calibration import HintCalibration

MAX_CHARACTERS = 2000


def read_hint(
    behaviors: Sequence[Behavior], scores: Sequence[float], calibration: HintCalibration | None = None
) -> Hint:
    """The most probable of ``behaviors``, from the log-probabilities ``scores`` of their texts, one each.

    The distribution is the softmax over the closed set, of the calibrated scores with a ``calibration`` for these
    behaviors; ties go to the first. A score that is NaN or infinite, a missing score, or no candidate at all makes the
    hint INVALID. Never raises.
    """
    if not behaviors or len(scores) != len(behaviors):
        return Hint(Status.INVALID)
    source = ConfidenceSource.TOKEN_PROBABILITY
    if calibration is not None:
        if calibration.behaviors != tuple(behaviors):
            return Hint(Status.INVALID)
        scores, source = calibration.apply(scores), ConfidenceSource.CALIBRATED
    if not all(math.isfinite(score) for score in scores):
        return Hint(Status.INVALID)
    best = max(scores)
    weights = [math.exp(score - best) for score in scores]
    total = math.fsum(weights)
    distribution = tuple((behavior, weight / total) for behavior, weight in zip(behaviors, weights, strict=True))
    behavior, confidence = distribution[list(scores).index(best)]
    return Hint(Status.OK, behavior, distribution, confidence, source)


def clean_text(text: str) -> tuple[str, Status]:
    """One line of at most MAX_CHARACTERS printable characters, and OK; or '' and INVALID where nothing is left.

    White space runs become one blank; control, format, surrogate, private-use and unassigned characters and the
    replacement character (half a character at a cut) go. Never raises; cleaning twice changes nothing.
    """
    words = ''.join(character if _printable(character) else ' ' * character.isspace() for character in text).split()
    line = ' '.join(words)[:MAX_CHARACTERS].rstrip()
    return line, Status.OK if line else Status.INVALID


def _printable(character: str) -> bool:
    return unicodedata.category(character)[0] != 'C' and character != '\ufffd'
