"""Which frame of a tf tree is the vehicle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from stprune_ros.core.transforms import frame_name

VEHICLE_FRAMES = ('base_link', 'base_footprint', 'ego_vehicle', 'vehicle', 'base', 'chassis', 'body', 'ego', 'car')
WORLD_FRAMES = ('map', 'odom', 'world', 'earth')


def choose_base_frame(transforms: Sequence[Any], cameras: Sequence[str]) -> tuple[str, str]:
    """The vehicle frame that the static transforms of ``cameras`` lead to, and why; base_link where none does.

    Where cameras hang in several trees, or in none, those of the tree with most of them decide.

    A frame with a vehicle's name comes first, wherever it hangs in the tree of the cameras; else the highest one above
    all of them that is not the world's.
    """
    parents = {
        frame_name(stamped.child_frame_id): frame_name(stamped.header.frame_id)
        for message in transforms
        for stamped in message.transforms
    }
    every = [_ancestors(frame, parents) for frame in cameras if frame]
    if not every:
        return VEHICLE_FRAMES[0], 'nothing is known of the frames'
    known = [chain for chain in every if chain[0] in parents or chain[0] in parents.values()]
    sizes = Counter(chain[-1] for chain in known or every)
    largest = max(sizes, key=lambda root: sizes[root])
    chains = [chain for chain in known or every if chain[-1] == largest]
    common = [frame for frame in chains[0] if all(frame in chain for chain in chains)]
    tree = [frame for frame in {*parents, *parents.values()} if _ancestors(frame, parents)[-1] == largest]
    for frame in VEHICLE_FRAMES:
        if frame in tree:
            return frame, 'the vehicle frame in the tree of the cameras'
    above = [frame for frame in common if frame not in cameras and (len(every) == 1 or frame not in WORLD_FRAMES)]
    if above:
        return above[-1], 'the highest frame above all cameras'
    return VEHICLE_FRAMES[0], 'the tree of the cameras names no vehicle'


def _ancestors(frame: str, parents: dict[str, str]) -> list[str]:
    """A frame and all above it, nearest first."""
    found = [frame]
    while (parent := parents.get(found[-1])) is not None and parent not in found:
        found.append(parent)
    return found
