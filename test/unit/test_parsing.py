"""Whatever the model says, the answer is well formed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.core.types import Behavior, ConfidenceSource, Status
from stprune_ros.vlm.parsing import MAX_CHARACTERS, Hint, clean_text, read_hint

THREE = (Behavior.NONE, Behavior.STOP, Behavior.YIELD)

any_scores = st.lists(st.floats(width=64), max_size=8)
finite_scores = st.lists(st.floats(min_value=-1e6, max_value=1e6), min_size=1, max_size=8)


def test_most_probable_candidate_wins() -> None:
    hint = read_hint(THREE, [-3.0, -1.0, -2.0])
    weights = [math.exp(-3), math.exp(-1), math.exp(-2)]
    assert (hint.status, hint.behavior) == (Status.OK, Behavior.STOP)
    assert [behavior for behavior, _ in hint.distribution] == list(THREE)
    assert [share for _, share in hint.distribution] == pytest.approx([weight / sum(weights) for weight in weights])
    assert hint.confidence == max(share for _, share in hint.distribution)
    assert hint.confidence_source == ConfidenceSource.TOKEN_PROBABILITY


def test_first_of_equals_wins() -> None:
    hint = read_hint(THREE, [-2.0, -1.0, -1.0])
    assert hint.behavior == Behavior.STOP


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_invalid(bad: float) -> None:
    assert read_hint(THREE, [-1.0, bad, -2.0]) == Hint(Status.INVALID)


def test_wrong_number_of_scores_is_invalid() -> None:
    assert read_hint(THREE, [-1.0, -2.0]) == Hint(Status.INVALID)
    assert read_hint((), []) == Hint(Status.INVALID)


@given(any_scores)
def test_any_scores_give_a_hint(scores: list[float]) -> None:
    behaviors = list(Behavior)[: len(scores)]
    hint = read_hint(behaviors, scores)
    if hint.status == Status.INVALID:
        assert hint == Hint(Status.INVALID)
        assert not scores or not all(map(math.isfinite, scores))
    else:
        assert hint.behavior in behaviors


@given(finite_scores, st.floats(min_value=-1e3, max_value=1e3))
def test_distribution_is_one(scores: list[float], shift: float) -> None:
    behaviors = list(Behavior)[: len(scores)]
    hint = read_hint(behaviors, scores)
    shares = [share for _, share in hint.distribution]
    assert sum(shares) == pytest.approx(1.0)
    assert all(0.0 <= share <= 1.0 for share in shares)
    assert hint.confidence == max(shares) >= 1 / len(shares) - 1e-12
    assert hint.behavior == behaviors[scores.index(max(scores))]
    moved = read_hint(behaviors, [score + shift for score in scores])
    assert [share for _, share in moved.distribution] == pytest.approx(shares, abs=1e-6)


@pytest.mark.parametrize(
    ('said', 'published'),
    [
        ('  A red light\n\nahead. ', 'A red light ahead.'),
        ('stop\x00\x1b[31m now\u200b\u202e', 'stop[31m now'),
        ('caf\u00e9 \u4ea4\u901a \U0001f6a6', 'caf\u00e9 \u4ea4\u901a \U0001f6a6'),
        ('cut in half \ufffd', 'cut in half'),
        ('lone \ud800surrogate', 'lone surrogate'),
        ('a\u2028b\tc\x85d', 'a b c d'),
    ],
)
def test_text_is_cleaned(said: str, published: str) -> None:
    assert clean_text(said) == (published, Status.OK)


@pytest.mark.parametrize('said', ['', ' \n\t', '\x00\x07', '\ufffd\ufffd', '\u200b'])
def test_text_without_content_is_invalid(said: str) -> None:
    assert clean_text(said) == ('', Status.INVALID)


def test_long_text_is_cut() -> None:
    assert clean_text('a' * (MAX_CHARACTERS + 1)) == ('a' * MAX_CHARACTERS, Status.OK)
    assert clean_text('a' * (MAX_CHARACTERS - 1) + ' b') == ('a' * (MAX_CHARACTERS - 1), Status.OK)


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_is_clean_afterwards(said: str) -> None:
    text, status = clean_text(said)
    assert len(text) <= MAX_CHARACTERS
    assert status == (Status.OK if text else Status.INVALID)
    assert text == text.strip()
    assert text.isprintable()
    text.encode('utf-8')
    assert clean_text(text) == (text, status)
