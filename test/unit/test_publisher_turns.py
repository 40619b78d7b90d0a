"""Which inputs have several publishers that take turns, and which only a driver that was started anew."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.core.publisher_turns import MOST, RECENT, REST, PublisherTurns, several_publishers


def mixed(publishers: str) -> list[bool]:
    """Whether the input is mixed at each message; one letter for the publisher of each."""
    turns = PublisherTurns()
    return [turns.saw('left', publisher.encode()) for publisher in publishers]


def test_a_publisher_that_comes_back_after_another_makes_the_input_mixed():
    assert mixed('aabb') == [False] * 4  # started anew
    assert mixed('aaba') == [False, False, False, True]
    assert mixed('abcd') == [False] * 4
    assert mixed('ababb') == [False, False, True, True, True]


def test_it_lasts_until_one_has_spoken_alone_for_a_while():
    found = mixed('ab' + 'a' * (REST + 5))
    assert found[:2] == [False, False]
    assert found[2:].index(False) == REST
    assert not any(found[2 + REST :])


def test_a_rare_second_publisher_is_noticed_each_time_it_speaks():
    found = mixed('b' + ('a' * (RECENT - 1) + 'b') * 3)
    assert [found[RECENT * turn] for turn in (1, 2, 3)] == [True] * 3
    assert not found[RECENT - 1]


def test_a_publisher_that_comes_back_after_a_long_time_takes_over():
    assert not any(mixed('a' + 'b' * RECENT + 'aaa'))


def test_inputs_are_told_apart_and_named():
    turns = PublisherTurns()
    for publisher in (b'a', b'b', b'a'):
        turns.saw('left', publisher)
        turns.saw('right', b'a')
    assert turns.mixed == {'left'}


@given(st.lists(st.binary(max_size=2)))
def test_whatever_comes_little_is_kept_and_one_publisher_is_never_mixed(publishers):
    turns = PublisherTurns()
    for publisher in publishers:
        turns.saw('left', publisher)
        assert len(turns._inputs['left'].seen) <= MOST
        assert not turns.saw('right', b'')


def test_what_is_said():
    assert several_publishers('odometry messages').startswith('odometry messages come from several publishers in turn')
