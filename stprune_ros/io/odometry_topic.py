"""Which topic of a bag is the vehicle's odometry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from stprune_ros.core.odometry import ToBase, Triple, is_world_frame
from stprune_ros.core.transforms import StaticTransforms, frame_name
from stprune_ros.errors import BagError
from stprune_ros.io.bag_reader import Bag, Topic, readable
from stprune_ros.io.bag_topics import LISTED, ODOMETRY, find_static_transforms, shared_depth
from stprune_ros.settings.settings import Settings

PEEKED = 50  # messages of each topic that are looked at where there are several
# Types that tell motion, but each only half of what odometry does.
HALVES = {f'geometry_msgs/msg/{name}Stamped' for name in ('Twist', 'TwistWithCovariance', 'Pose', 'PoseWithCovariance')}
WISH = re.compile(r'goal|initial_?pose|cmd|command|control|target|desired|reference|teleop|joy')  # no measurement
GROUND_TRUTH = re.compile(r'truth|(^|[^a-z])gt([^a-z]|$)')


@dataclass(frozen=True)
class OdometryTopic:
    """The topic that is read ('' where the bag has none), and what to say about the choice.

    ``absent`` is what to say where there is none, '' where that is the usual sentence.
    """

    name: str
    notes: tuple[str, ...] = ()
    absent: str = ''


class StaticFrames:
    """The static transforms of a bag, read when they are first asked for."""

    def __init__(self, bag: Bag, base_frame: str, images: Sequence[str] = ()) -> None:
        self._bag = bag
        self._images = images
        self._base_frame = base_frame
        self._transforms: StaticTransforms | None = None

    def to_base(self, frame: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Rotation (3, 3) and translation (3,) from ``frame`` into the base frame; None where no way leads there."""
        if self._transforms is None:
            self._transforms = StaticTransforms()
            for topic in find_static_transforms(self._bag.topics, self._images):
                for message in readable(self._bag.messages([topic])):
                    self._transforms.add(message)
        return self._transforms.way(self._base_frame, frame)


@dataclass(frozen=True)
class OdometryPeek:
    """What the first messages of a topic are like."""

    parent: str
    child: str
    moves: bool  # a twist other than zero was among them


def find_odometry(bag: Bag, settings: Settings, frames: StaticFrames, images: Sequence[str] = ()) -> OdometryTopic:
    """The topic that ``topics.odometry`` names, else the one that tells most about the vehicle frame.

    Nothing that is named a ground truth comes before others; then counts whether the twist stands in the vehicle frame
    or can be turned into it, whether it is filled, and whether it is named beside ``images``. Raises BagError where
    the bag lacks the named topic.
    """
    names = sorted(topic.name for topic in bag.topics.values() if topic.msgtype == ODOMETRY)
    wanted = settings.topics.odometry
    if wanted:
        return OdometryTopic(_named(wanted, names, bag))
    if not names:
        return OdometryTopic('', absent=_instead(bag.topics.values()))
    if len(names) == 1:
        return OdometryTopic(names[0])
    peeks = {name: _peek(bag, name) for name in names}
    return choose_odometry(peeks, settings.cameras.base_frame, frames.to_base, images)


def choose_odometry(
    peeks: Mapping[str, OdometryPeek | None], base_frame: str, to_base: ToBase, images: Sequence[str] = ()
) -> OdometryTopic:
    """The one of several topics that tells most about the vehicle frame, from their first messages."""

    @cache
    def rank(name: str) -> tuple[bool, int, bool, int]:
        peek = peeks[name]
        truth = GROUND_TRUTH.search(name.lower()) is not None
        still = peek is None or not peek.moves
        return truth, _frame_rank(peek, base_frame, to_base), still, -shared_depth(name, images)

    best, *rest = sorted(peeks, key=lambda name: (rank(name), name))
    if not rest:
        return OdometryTopic(best)
    others = ', '.join(name for name in sorted(peeks) if name != best)
    peek = peeks[best]
    if rank(best) == rank(rest[0]):
        why = 'the first by name'
    elif rank(best)[:-1] == rank(rest[0])[:-1]:
        why = 'in the namespace of the cameras'
    else:
        why = f"with the child frame '{peek.child}'" if peek is not None else 'the best of them'
    return OdometryTopic(
        best, (f"odometry is read from '{best}', {why}, not from {others}: set 'topics.odometry' to choose",)
    )


def _instead(topics: Iterable[Topic]) -> str:
    """What to say where there is no odometry, but topics of other types that tell motion; '' without any."""
    halves = sorted(
        f'{topic.name} ({topic.msgtype.rpartition("/")[2]})'
        for topic in topics
        if topic.msgtype in HALVES and topic.count and not WISH.search(topic.name.lower())
    )
    if not halves:
        return ''
    listed = ', '.join(halves[:LISTED]) + (', ...' if len(halves) > LISTED else '')
    return (
        f'no odometry: hints come without ego motion, for {listed} cannot be read; publish it as nav_msgs/Odometry,'
        ' as robot_localization does'
    )


def _named(wanted: str, names: list[str], bag: Bag) -> str:
    name = wanted if wanted.startswith('/') else f'/{wanted}'
    if name in names:
        return name
    if name in bag.topics:
        kind = bag.topics[name].msgtype
        raise BagError(f"topic '{name}' in 'topics.odometry' carries {kind}, not {ODOMETRY}")
    known = f'its odometry topics are {", ".join(names)}' if names else 'it has no odometry topic'
    raise BagError(f"topic '{name}' in 'topics.odometry' is not in the bag; {known}")


def _frame_rank(peek: OdometryPeek | None, base_frame: str, to_base: ToBase) -> int:
    """0 for a twist in the vehicle frame, then one that can be turned into it, one without a frame, the rest."""
    if peek is None:
        return 4
    if peek.child == base_frame.lstrip('/'):
        return 0
    if not peek.child:
        return 2
    if is_world_frame(peek.child, peek.parent) or to_base(peek.child) is None:
        return 3
    return 1


def peek_of(messages: Iterable[Any]) -> OdometryPeek | None:
    """What the first messages of a topic are like; None where there is none."""
    first: Any = None
    for message in messages:
        first = first or message
        twist = message.twist.twist
        if any(_values(twist.linear) + _values(twist.angular)):
            return OdometryPeek(frame_name(first.header.frame_id), frame_name(first.child_frame_id), True)
    if first is None:
        return None
    return OdometryPeek(frame_name(first.header.frame_id), frame_name(first.child_frame_id), False)


def _peek(bag: Bag, name: str) -> OdometryPeek | None:
    return peek_of(readable(islice(bag.messages([name]), PEEKED)))


def _values(vector: Any) -> Triple:
    return float(vector.x), float(vector.y), float(vector.z)
