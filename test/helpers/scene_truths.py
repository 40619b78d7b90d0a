"""Truths of ringworld written by hand: what each view shows, and what the right hint is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stprune_ros.core.types import Behavior
from stprune_ros.ringworld.renderer import VIEW_NAMES
from stprune_ros.ringworld.truth import SceneTruth, VisibleActor


def car(id: int, colour: str = 'red', distance: float = 10.0, **more: Any) -> VisibleActor:  # noqa: A002
    """A vehicle that stands, in columns 100 to 150."""
    return _actor(id, 'vehicle', colour=colour, distance=distance, **more)


def pedestrian(id: int, distance: float = 8.0, **more: Any) -> VisibleActor:  # noqa: A002
    """A pedestrian who stands; ``sideways`` other than 0 makes them walk."""
    sideways = more.pop('sideways', 0.0)
    motion = {'moving': sideways != 0.0, 'speed': abs(sideways), 'sideways': sideways}
    return _actor(id, 'pedestrian', distance=distance, **{**motion, **more})


def light(id: int, state: str, distance: float = 20.0, **more: Any) -> VisibleActor:  # noqa: A002
    """A traffic light."""
    return _actor(id, 'light', state=state, distance=distance, pixels=40, **more)


def truth(
    views: Mapping[str, Sequence[VisibleActor]],
    behavior: Behavior = Behavior.NONE,
    reason: str = 'nothing',
    reason_id: int = -1,
    second_opinions: tuple[SceneTruth, ...] = (),
) -> SceneTruth:
    """A truth from the actors in each view, by name of the view; views left out are empty."""
    assert set(views) <= set(VIEW_NAMES)
    shown = tuple(tuple(views.get(name, ())) for name in VIEW_NAMES)
    return SceneTruth(0.0, 5.0, 0.0, shown, behavior, reason, reason_id, 1.0, second_opinions)


def _actor(id: int, kind: str, **more: Any) -> VisibleActor:  # noqa: A002
    fields: dict[str, Any] = {
        'colour': '',
        'state': '',
        'pixels': 500,
        'u': 125.0,
        'v': 100.0,
        'left': 100,
        'right': 150,
        'moving': False,
        'speed': 0.0,
        'sideways': 0.0,
    }
    return VisibleActor(id=id, kind=kind, **{**fields, **more})
