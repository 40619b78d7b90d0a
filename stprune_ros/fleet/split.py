"""Long bags in parts: where to cut, and from where on a part has to warm up so that its ticks are those of the whole.

Every part reads its bag from the beginning, so that the stream of frame sets, odometry checks included, is in the state
that it has in the whole. What inference carries from tick to tick are the features of the frames in its window, and
those depend, in their last bits, on which frames were encoded together. So a part infers earlier ticks, too, and throws
them away: those that saw any frame that its first window holds, and those before them on which the batches of these
depended (`warm_up_from`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from stprune_ros.core.types import Window
from stprune_ros.errors import BagError
from stprune_ros.settings.settings import Settings

GENERATIONS = 3  # of windows; see `warm_up_from`


@dataclass(frozen=True, slots=True)
class SeenTick:
    """One tick of a bag: its stamp in ns, and the number of the first tick that saw a frame which its window holds."""

    stamp_ns: int
    oldest: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of a bag by stamps: ticks ``from_ns`` to ``until_ns``, both included, warmed up from ``warm_up_ns`` on."""

    warm_up_ns: int
    from_ns: int
    until_ns: int
    ticks: int


def why_whole(settings: Settings) -> str:
    """Why a bag cannot be replayed in parts with these settings, '' where it can."""
    if settings.latency.target_ms:
        return (
            f"with 'latency.target_ms' {settings.latency.target_ms:g} the keep ratio follows every tick before: bags"
            ' are not split; set it to 0, or omit --window'
        )
    if settings.inference.describe and settings.inference.describe_period_ms:
        return (
            f"with 'inference.describe_period_ms' {settings.inference.describe_period_ms:g} it depends on every tick"
            ' before which one is described: bags are not split; set it to 0, or omit --window'
        )
    return ''


def seen_ticks(windows: Iterable[Window]) -> list[SeenTick]:
    """The ticks of a bag, none of which is inferred. Raises BagError where their stamps go back."""
    ticks: list[SeenTick] = []
    first: dict[tuple[str, int], int] = {}  # the first tick whose window held a frame, by camera and stamp
    for window in windows:
        number, stamp_ns = len(ticks), window.current.stamp_ns
        if ticks and stamp_ns <= ticks[-1].stamp_ns:
            raise BagError(
                f'the stamps of its ticks go back, from {ticks[-1].stamp_ns} to {stamp_ns} ns: it is not split'
            )
        frames = {
            (frame.camera, frame.stamp_ns)
            for frame_set in window.sets
            for frame in (*frame_set.frames.values(), *(held.frame for held in frame_set.held.values()))
        }
        first = {frame: first.get(frame, number) for frame in frames}
        ticks.append(SeenTick(stamp_ns, min(first.values(), default=number)))
    return ticks


def warm_up_from(ticks: Sequence[SeenTick], number: int) -> int:
    """The tick from which a part has to infer that begins with tick ``number``.

    The first inferred tick finds no features: it encodes its whole window at once, as the whole never did. Ticks that
    hold none of those frames encode what the whole encodes, unless a frame was left for later (see `FeatureCache`);
    those that hold none of these either do in any case. And of frames that came then the first window consists.
    """
    for _ in range(GENERATIONS):
        number = ticks[number].oldest
    return number


def cuts(ticks: Sequence[SeenTick], window_s: float) -> list[Cut]:
    """Parts of about ``window_s`` seconds, with as many ticks each; one where the bag is not longer than that."""
    if not ticks:
        return []
    span_s = (ticks[-1].stamp_ns - ticks[0].stamp_ns) / 1e9
    count = min(len(ticks), max(1, round(span_s / window_s)))
    edges = [len(ticks) * part // count for part in range(count + 1)]
    return [
        Cut(ticks[warm_up_from(ticks, begin)].stamp_ns, ticks[begin].stamp_ns, ticks[end - 1].stamp_ns, end - begin)
        for begin, end in pairwise(edges)
    ]
