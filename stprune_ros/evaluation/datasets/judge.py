"""Judges of free texts: plug-ins that a user names, and that are called for nobody else.

Lingo-Judge is a text classifier in a folder; whatever needs a service is a Python function of the user's.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stprune_ros.errors import StpruneError, one_line, plain, shown

JudgeFunction = Callable[[str, Sequence[str], str], float]


@dataclass(frozen=True)
class Judge:
    """``function`` takes the question, the true answers and the one to judge, and gives 0 (wrong) to 1 (right)."""

    name: str
    function: JudgeFunction

    def score(self, question: str, truths: Sequence[str], answer: str) -> float:
        """What the function says. Raises StpruneError where that is no number from 0 to 1, or it fails."""
        try:
            value = self.function(question, truths, answer)
            score = float(value)
        except StpruneError:
            raise
        except Exception as error:  # whatever somebody else's function raises
            raise StpruneError(f"judge '{self.name}' failed: {type(error).__name__}: {one_line(error)}") from None
        if not (math.isfinite(score) and 0 <= score <= 1):
            raise StpruneError(f"judge '{self.name}' said {shown(value)}, which is no number from 0 to 1")
        return score


def load_judge(text: str) -> Judge:
    """The judge that --judge names: a folder with a text classifier, or MODULE:FUNCTION. Raises StpruneError."""
    if Path(text).is_dir():
        from stprune_ros.vlm.hf.text_classifier import TextClassifier

        classifier = TextClassifier.load(Path(text))
        return Judge(f'{classifier.name}@{classifier.revision}', classifier.judge)
    module, separator, name = text.partition(':')
    if not separator:
        raise StpruneError(f"--judge '{plain(text)}' is neither a folder with a text classifier nor MODULE:FUNCTION")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise StpruneError(f"judge '{plain(text)}' cannot be imported: {one_line(error)}") from None
    return Judge(text, function)
