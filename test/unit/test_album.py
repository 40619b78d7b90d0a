"""Which ticks of a report have a picture: those where something happened, the unsure, and some between."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.answers import make_answer
from helpers.replayed import JPEG

from stprune_ros.core.types import Behavior, CameraState, Status, ViewReport
from stprune_ros.io.ground_truth import TickTruth
from stprune_ros.replay.album import Album, Event, events_of
from stprune_ros.replay.records import TickRecord


def record(said: Behavior = Behavior.NONE, confidence: float = 0.9, truth: str = '', **changes) -> TickRecord:
    seen = (ViewReport('front', CameraState.OK, 5, 1, 4, 2),)
    given = make_answer(**{'behavior': said, 'confidence': confidence, 'views': seen, **changes})
    return TickRecord.from_answer(given, None, TickTruth(truth))


def test_what_happened_in_a_tick():
    plain = record()
    assert events_of(plain, None) == events_of(plain, plain) == []
    assert events_of(record(Behavior.STOP), plain) == [Event.FLIP]
    assert events_of(record(truth='STOP'), plain) == [Event.WRONG]
    assert events_of(record(truth='NONE'), plain) == []
    assert events_of(record(status=Status.ERROR), plain) == [Event.FLIP, Event.ERROR]
    seen, frozen = ViewReport('left', CameraState.OK), ViewReport('front', CameraState.FROZEN)
    assert events_of(record(views=(seen, frozen)), plain) == [Event.PARTIAL], 'one is enough'


def test_an_album_keeps_what_happened_the_unsure_and_some_between():
    album = Album()
    for number in range(200):
        said = Behavior.STOP if 50 <= number < 60 else Behavior.NONE
        album.add(record(said, confidence=0.5 if number in (7, 70, 90, 130) else 0.9), JPEG)
    found = album.pictures
    assert {50, 60} <= set(found) and {7, 70, 90, 130} <= set(found)
    assert album.events == {50: [Event.FLIP], 60: [Event.FLIP]}
    even = sorted(set(found) - {50, 60, 7, 70, 90, 130})
    assert 5 <= len(even) <= 12 and even[0] < 10
    assert max(np.diff([*even, 200])) < 80


@pytest.mark.parametrize(
    ('confidences', 'unsure'),
    [
        ((0.5, 0.6, 0.7, 0.8, 0.75, 0.9), {0.5, 0.6, 0.7, 0.75}),  # the surest of them goes
        ((0.5, 0.6, 0.7, 0.8, 0.8, 0.9), {0.5, 0.6, 0.7, 0.8}),
        ((math.nan,) * 6, {0.95}),  # what nobody knows is not unsure
    ],
)
def test_the_unsure_are_those_of_lowest_confidence(confidences: tuple[float, ...], unsure: set[float]):
    album = Album()
    for confidence in (*confidences, *[0.95] * 50):
        album.add(record(confidence=confidence), JPEG)
    pages = album._pages.values()
    assert {page.confidence for page in pages if page.event == Event.UNSURE} == unsure
    assert sum(page.event == Event.UNSURE for page in pages) == 4
    assert sum(page.event == Event.EVEN for page in pages) == 8


def test_an_album_without_room_drops_the_even_first_then_thins_what_is_left():
    album = Album(max_bytes=10 * 100)
    for number in range(100):
        album.add(record(Behavior.STOP if number % 10 < 2 else Behavior.NONE), bytes(100))
    found = sorted(album.pictures)
    flips = [number for number, events in album.events.items() if events == [Event.FLIP]]
    assert len(flips) == 19 and len(found) == 10 and set(found) <= set(flips)
    assert found[0] == flips[0] and max(np.diff(found)) <= 20
    ranked = Album(max_bytes=2 * len(JPEG))  # room for the two changes, of which one is wrong as others are
    for said in (Behavior.NONE, Behavior.STOP, Behavior.STOP, *[Behavior.NONE] * 3):
        ranked.add(record(said, truth='STOP'), JPEG)
    assert [*ranked.pictures] == [1, 3]
    small = Album(max_bytes=1)
    for _ in range(3):
        small.add(record(), JPEG)
    assert len(small.pictures) == 1, 'one there is in any case'
