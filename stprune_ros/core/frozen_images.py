"""Cameras that send one image again and again: alike to the last byte, which the noise of no sensor allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

STRIDE = 1021  # bytes between those that are compared first; a prime, so that they fall on every colour


@dataclass
class _Run:
    """Images that are all alike: the newest, and the stamp of the first."""

    message: Any
    since_ns: int


class FrozenImages:
    """Feed it every image in order; it holds the last one of each camera by reference.

    ``after_ns`` is how long an image may stay the same under new stamps, 0: for ever.
    """

    def __init__(self, after_ns: int) -> None:
        self._after_ns = after_ns
        self._runs: dict[str, _Run] = {}

    def is_frozen(self, camera: str, message: Any, stamp_ns: int) -> bool:
        """Whether this duck-typed image is the same as all before it for longer than it may."""
        if not self._after_ns:
            return False
        run = self._runs.get(camera)
        if run is None or stamp_ns < run.since_ns or not same_image(run.message, message):
            self._runs[camera] = _Run(message, stamp_ns)
            return False
        run.message = message
        return stamp_ns - run.since_ns > self._after_ns

    def reset(self) -> None:
        """The clock jumped: forget every image."""
        self._runs.clear()


def same_image(one: Any, other: Any) -> bool:
    """Whether two Image or CompressedImage messages hold the same bytes; one without bytes is no image.

    A few bytes all over are compared first: images of a living camera differ there already.
    """
    a, b = np.frombuffer(one.data, np.uint8), np.frombuffer(other.data, np.uint8)
    alike = 0 < len(a) == len(b) and np.array_equal(a[::STRIDE], b[::STRIDE])
    return alike and _shape(one) == _shape(other) and np.array_equal(a, b)


def _shape(message: Any) -> tuple[Any, ...]:
    return tuple(getattr(message, name, None) for name in ('encoding', 'format', 'height', 'width', 'step'))
