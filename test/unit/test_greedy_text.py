"""Greedy text without an engine, and which leaves of a token tree a row leads to."""

from __future__ import annotations

import time
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.errors import ModelError
from stprune_ros.vlm.greedy_text import GreedyText
from stprune_ros.vlm.token_tree import TokenTree


def told(tokens):
    """A next-token function that says ``tokens`` in turn, and the steps that it was given."""
    steps, left = [], iter(tokens)

    def next_token(step):
        steps.append(list(step))
        return next(left)

    return next_token, steps


def text_of(next_token, asked, ends, limit, **more):
    """A text of which tokens are read as they are."""
    return GreedyText(next_token, asked, ends, limit, lambda written: written, **more)


def test_each_token_is_the_next_step():
    next_token, steps = told([7, 8, 9])
    written = text_of(next_token, [1, 2], {0}, 3).write()
    assert (written.tokens, written.finished, written.timed_out) == ([7, 8, 9], False, False)
    assert steps == [[1, 2], [7], [8]]


def test_an_end_is_no_part_of_the_text():
    next_token, steps = told([7, 0, 9])
    assert text_of(next_token, [1], {0, 5}, 3).write().tokens == [7]
    assert len(steps) == 2
    assert text_of(told([5])[0], [1], {0, 5}, 3).write().finished


@pytest.mark.parametrize(('late', 'timed_out'), [(True, True), (False, False)])
def test_a_step_that_was_cut_short_ends_the_text(late, timed_out, monkeypatch):
    """Whether by the deadline or by the event, the clock tells."""
    clock = [0.0]
    monkeypatch.setattr(time, 'monotonic', lambda: clock[0])

    def cut(step):
        clock[0] = 10.0 if late else 1.0
        return

    written = text_of(cut, [1], {0}, 3).write(5.0, Event())
    assert (written.tokens, written.finished, written.timed_out) == ([], False, timed_out)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12), st.lists(st.integers(0, 12), max_size=6), st.integers(1, 12)
)
def test_pauses_change_no_word(tokens, pauses, limit):
    """What is asked goes in once, each token once, and after a pause it goes on where it was."""
    says = [*tokens, 0]
    next_token, steps = told(says)
    whole = text_of(next_token, [1, 2], {0}, limit).write()
    again, paused_steps = told(says)
    text = text_of(again, [1, 2], {0}, limit)
    for enough in pauses:
        left = text.write(pause=lambda written, enough=enough: written >= enough)
        if left is not None:
            break
        assert len(paused_steps) == min(len(whole.tokens), max(enough, len(paused_steps)))
    else:
        left = text.write()
    assert (left, paused_steps) == (whole, steps)


@pytest.mark.parametrize(('late', 'timed_out'), [(True, True), (False, False)])
def test_what_ends_a_text_comes_before_a_pause(late, timed_out):
    cancel = Event()
    if not late:
        cancel.set()
    written = text_of(told([7])[0], [1], {0}, 3).write(0.0 if late else None, cancel, lambda tokens: True)
    assert (written.tokens, written.finished, written.timed_out) == ([], False, timed_out)


def test_a_text_lets_go_of_what_it_holds_when_it_ends_or_fails():
    closed = []
    text = text_of(told([7, 0])[0], [1], {0}, 3, closing=lambda: closed.append(1))
    assert text.write(pause=lambda written: written >= 1) is None and not closed
    assert text.write().tokens == [7]
    assert closed == [1]
    with pytest.raises(ModelError, match='a text was to go on that had ended'):
        text.write()
    failing = text_of(lambda step: 1 / 0, [1], {0}, 3, closing=lambda: closed.append(2))
    with pytest.raises(ZeroDivisionError):
        failing.write()
    assert closed == [1, 2]
    failing.close()
    assert closed == [1, 2], 'once each'


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=8))
def test_rows_lead_to_the_leaves_behind_them(paths):
    token_tree = TokenTree()
    ends = [token_tree.grow(path) for path in paths]
    leaves = token_tree.leaves()
    assert len(leaves) == len(token_tree.ids)
    whole = {tuple(path) for path in paths}
    longest = [path for path in whole if not any(other[: len(path)] == path != other for other in whole)]
    assert {leaf for row in leaves for leaf in row} == set(range(len(longest)))
    for path, end in zip(paths, ends):
        assert len(leaves[end]) == sum(other[: len(path)] == tuple(path) for other in longest)
    visible = token_tree.visible(0)
    for row, seen in enumerate(visible):  # who shares a leaf with a later row is seen by it
        for other in range(row):
            assert bool(seen[other]) == (set(leaves[row]) <= set(leaves[other]))
