"""Guided choice: which of a closed set of answers a model would give, decided on the tree of their tokens.

Where answers part, the model's logits are renormalised over the tokens that some answer takes there. Where only one
token can follow, the end of the answer included, nothing is decided and nothing counts. The probability of an answer is
the product over its branches, so the set sums to one, and no answer loses for having more tokens than another. A word
that several answers begin with is decided first and its probability shared out among them, as the chain rule has it.

A candidate may be written in several surface forms, whose probabilities add up. A kind of form counts for all
candidates or for none: else one that has more forms, a word with a capital beside one in a script without, would win
by their number. Forms with the same tokens count once.

No engine in here: whoever can run the path of each branch gets log-probabilities for its logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from stprune_ros.errors import ModelError


@dataclass(frozen=True, slots=True)
class Branch:
    """Where answers part: behind the tokens ``path`` each of ``tokens``, ascending, is the way to some of them."""

    path: tuple[int, ...]
    tokens: tuple[int, ...]


class GuidedChoice:
    """A choice among candidates, each a list of answers: token sequences of which none is the beginning of another.

    ``branches`` are where a model has to decide: one candidate in one form needs none.
    """

    def __init__(self, candidates: Sequence[Sequence[Sequence[int]]]) -> None:
        answers = [[tuple(answer) for answer in forms] for forms in candidates]
        every = [answer for forms in answers for answer in forms]
        alike = next((place for place, tokens in enumerate(zip(*every)) if len({*tokens}) > 1), 0)
        followers: dict[tuple[int, ...], set[int]] = {}
        for answer in every:
            for place in range(alike, len(answer)):
                followers.setdefault(answer[:place], set()).add(answer[place])
        self.branches = tuple(
            Branch(path, tuple(sorted(tokens))) for path, tokens in followers.items() if len(tokens) > 1
        )
        # By candidate and form: which token of which branch leads there.
        self._steps = [
            [
                [
                    (number, branch.tokens.index(answer[len(branch.path)]))
                    for number, branch in enumerate(self.branches)
                    if answer[: len(branch.path)] == branch.path
                ]
                for answer in forms
            ]
            for forms in answers
        ]

    def log_probabilities(self, logits: Sequence[Sequence[float]]) -> list[float]:
        """Log-probability of each candidate; their probabilities sum to one.

        ``logits`` holds for each branch those of its tokens, up to a constant. NaN where they are no numbers.
        """
        with np.errstate(invalid='ignore'):
            rows = [np.asarray(row, np.float64) for row in logits]
            steps = [row - np.logaddexp.reduce(row) for row in rows]
            return [
                float(np.logaddexp.reduce([sum(float(steps[b][t]) for b, t in answer) for answer in forms]))
                for forms in self._steps
            ]


def log_probabilities(choices: Sequence[GuidedChoice], logits: Iterable[Sequence[float]]) -> list[list[float]]:
    """Those of every choice, from the logits of the branches of all of them in order."""
    rows = iter(logits)
    return [choice.log_probabilities(list(islice(rows, len(choice.branches)))) for choice in choices]


def guided_choice(
    candidates: Sequence[str], asked: str, answer_prefix: str, encode: Callable[[str], Sequence[int]], end_id: int
) -> GuidedChoice:
    """The choice among ``candidates`` as answers of a chat template, in every kind of surface form that counts.

    ``asked`` is a question with what the template writes after it, ``answer_prefix`` what it writes before an answer.
    ``encode`` makes tokens of a text, ``end_id`` ends an answer.
    Raises ModelError naming two candidates that are the same tokens.
    """
    counted: list[list[tuple[int, ...]]] = []
    taken: set[tuple[int, ...]] = set()
    for answers in _kinds_of_form(candidates, asked, answer_prefix, encode):
        ended = [(*answer, end_id) for answer in answers]
        if not counted:
            _require_different(candidates, ended)
        elif len({*ended} - taken) < len(ended):
            continue
        counted.append(ended)
        taken.update(ended)
    return GuidedChoice(list(zip(*counted, strict=True)))


def _kinds_of_form(
    candidates: Sequence[str], asked: str, answer_prefix: str, encode: Callable[[str], Sequence[int]]
) -> Iterator[list[tuple[int, ...]]]:
    """Tokens of every candidate in one kind of form after another.

    As written and with the first letter in the other case, which in a script without case is the same. Both as the
    template has them, in one piece with the question: tokens may reach over the border. Where it puts a blank before
    answers also as a model may go on without, behind the tokens of the question: no token can reach over that border.
    """
    cases = [list(candidates), [text[:1].swapcase() + text[1:] for text in candidates]]
    for texts in cases:
        yield [tuple(encode(asked + answer_prefix + text)) for text in texts]
    if answer_prefix and not answer_prefix.strip():
        for texts in cases:
            yield [(*encode(asked), *encode(text)) for text in texts]


def _require_different(candidates: Sequence[str], answers: Sequence[tuple[int, ...]]) -> None:
    first: dict[tuple[int, ...], str] = {}
    for text, answer in zip(candidates, answers, strict=True):
        if answer in first:
            raise ModelError(
                f"candidates '{first[answer]}' and '{text}' are the same tokens to this model; rename one of them"
            )
        first[answer] = text
