"""Trigger offsets of a ring, measured from stamps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median

MIN_SAMPLES = 3


def measure_offsets(stamps: Mapping[str, Sequence[int]], anchor: str) -> dict[str, float]:
    """How long after the anchor each camera fires, in ms, by camera: the median over the anchor's frames.

    ``stamps`` holds acquisition times in ns, the same one perhaps twice. Each anchor frame takes the nearest frame of
    the other camera, so that an offset lies within half a period. Cameras with too few frames are left out.
    """
    reference = sorted(set(stamps[anchor]))
    offsets = {}
    for camera, found in stamps.items():
        others = sorted(set(found))
        if min(len(reference), len(others)) >= MIN_SAMPLES:
            # Where one of the two has a gap, the distance is that of the gap.
            limit = _period(reference) / 2
            distances = [distance for at in reference if abs(distance := _nearest(others, at) - at) <= limit]
            if len(distances) >= MIN_SAMPLES:
                offsets[camera] = median(distances) / 1e6
    return offsets


def _period(stamps: Sequence[int]) -> float:
    return median(later - earlier for earlier, later in pairwise(stamps))


def _nearest(stamps: Sequence[int], at: int) -> int:
    index = bisect_left(stamps, at)
    return min(stamps[max(0, index - 1) : index + 1], key=lambda stamp: abs(stamp - at))
