"""Frame sets from a ring of cameras that fire when they like (docs/design.md says how).

An anchor camera opens a set with each of its frames; every other camera brings its nearest frame within the tolerance.
A set closes when it cannot get better, or when a stamp of anchor + max_wait has been seen anywhere. There is no clock
and no thread here: the same stamps give the same sets in whatever order they arrive, as long as every frame of a set
arrives before that closing stamp does, and the anchor camera's own frames in their order (one publisher's always do).
While the anchor is silent or late another camera may open the sets (`anchor.AnchorWatch`). Whatever comes in, at most
a number of frames and sets that follows from the times above is held.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from stprune_ros.core.anchor import HORIZON_NS, AnchorWatch
from stprune_ros.core.types import CameraFrame, FrameSet
from stprune_ros.errors import StpruneError

JUMP_NS = 1_000_000_000  # a camera whose stamps step back farther than this has started anew (a bag that loops)
MIN_INTERVAL_NS = 5_000_000  # no camera fires twice within this: a frame nearer than half of it cannot be beaten
USUAL_INTERVAL_NS, SPARE_FRAMES = 10_000_000, 32  # as many frames are held of a camera, and some for a late anchor

_stamp = attrgetter('stamp_ns')


class RingSynchronizer:
    """Turns frames into frame sets; times are integer nanoseconds.

    ``offsets_ns`` says how long after the anchor a camera is known to fire. ``tolerance_ns`` is the largest distance
    from the anchor, ``max_spread_ns`` the largest span of a set, both after the offsets are taken off.
    The anchor is replaced only where it is ``replaceable``; ``silent_ns`` is how long it may send nothing.
    ``counters`` counts sets_full, sets_partial, sets_skipped, frames_late, frames_duplicate, frames_crowded and
    clock_jumps, or goes on with those given.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        anchor: str,
        *,
        tolerance_ns: int,
        max_wait_ns: int,
        max_spread_ns: int,
        offsets_ns: Mapping[str, int] | None = None,
        min_views: int = 1,
        replaceable: bool = False,
        silent_ns: int = HORIZON_NS,
        counters: Counter[str] | None = None,
    ) -> None:
        if anchor not in cameras:
            raise StpruneError(f"anchor camera '{anchor}' is not in the ring: {', '.join(cameras)}")
        self.cameras = tuple(cameras)
        self.anchor = anchor
        self.tolerance_ns = tolerance_ns
        self.max_wait_ns = max_wait_ns
        self.max_spread_ns = max_spread_ns
        self.offsets_ns = {camera: (offsets_ns or {}).get(camera, 0) for camera in cameras}
        self.min_views = min_views
        self.counters = Counter() if counters is None else counters
        self._sequence = 0
        self._frames: dict[str, list[CameraFrame]] = {camera: [] for camera in cameras}  # sorted by stamp
        self._newest: dict[str, int] = {}  # corrected stamp by camera
        self._pending: list[CameraFrame] = []  # anchor frames of open sets, sorted by stamp
        self._closed_ns: int | None = None  # anchor stamp of the last closed set
        self._watch = AnchorWatch(
            self.cameras, anchor, replaceable=replaceable, silent_ns=silent_ns, late_ns=max_wait_ns
        )
        self._most = (max_wait_ns + 2 * tolerance_ns) // USUAL_INTERVAL_NS + SPARE_FRAMES
        self._counts: Callable[[int], bool] = lambda stamp_ns: True

    @property
    def watermark_ns(self) -> int | None:
        """Newest corrected stamp seen anywhere, wrong clocks left out; None before the first anchor frame."""
        anchor = self._newest.get(self._watch.acting)
        if anchor is None:
            return None
        return max(stamp for stamp in self._newest.values() if stamp <= anchor + HORIZON_NS)

    @property
    def anchor_fault(self) -> str:
        """What is wrong with the anchor, as long as it lasts."""
        return self._watch.fault

    def take_notes(self) -> list[str]:
        """What is new to say about the anchor."""
        return self._watch.take_notes()

    def newest_ns(self, camera: str) -> int | None:
        """Newest corrected stamp of one camera; None before its first frame."""
        return self._newest.get(camera)

    def count_sets(self, counts: Callable[[int], bool]) -> None:
        """From now on count only sets whose anchor stamp ``counts``; they close all the same."""
        self._counts = counts

    def add(self, frame: CameraFrame) -> list[FrameSet]:
        """Take one frame; returns the sets that it closes, oldest first."""
        if frame.camera not in self._frames:
            raise StpruneError(f"frame of camera '{frame.camera}', which is not in the ring: {', '.join(self.cameras)}")
        stamp = self._corrected(frame)
        newest = self._newest.get(frame.camera)
        if newest is not None and stamp < newest - JUMP_NS:
            self._start_anew(frame.camera, stamp)
            newest = None
        if not self._store(frame):
            return []
        self._newest[frame.camera] = stamp if newest is None else max(newest, stamp)
        acting = self._watch.acting
        self._watch.saw(frame.camera, stamp)
        if self._watch.acting != acting:
            self._hand_over()
        elif frame.camera == acting:
            self._open(frame)
        closed = self._close_ready()
        self._forget_old(frame.camera)
        return closed

    def flush(self) -> list[FrameSet]:
        """Close every open set with what is there: the end of a bag."""
        closed = [self._close(anchor) for anchor in self._pending]
        self._pending.clear()
        return [frame_set for frame_set in closed if frame_set is not None]

    def reset(self) -> None:
        """Forget all frames and open sets: the clock jumped. Counters and the sequence go on."""
        self.counters['clock_jumps'] += 1
        self._pending.clear()
        self._newest.clear()
        self._watch.reset()
        self._closed_ns = None
        for frames in self._frames.values():
            frames.clear()

    def forget(self, camera: str) -> None:
        """Forget the frames of one camera that no set holds yet, and the open sets that it has begun."""
        self._frames[camera].clear()
        self._pending = [anchor for anchor in self._pending if anchor.camera != camera]

    def _corrected(self, frame: CameraFrame) -> int:
        return frame.stamp_ns - self.offsets_ns[frame.camera]

    def _store(self, frame: CameraFrame) -> bool:
        frames = self._frames[frame.camera]
        at = bisect_left(frames, frame.stamp_ns, key=_stamp)
        if at < len(frames) and frames[at].stamp_ns == frame.stamp_ns:
            self.counters['frames_duplicate'] += 1
            return False
        frames.insert(at, frame)
        if len(frames) > self._most:
            self.counters['frames_crowded'] += 1
            del frames[0]
        return True

    def _open(self, frame: CameraFrame) -> None:
        """Open a set with a frame of the acting anchor."""
        late = self._closed_ns is not None and frame.stamp_ns <= self._closed_ns
        if late or self._watch.is_out_of_step(frame.camera, self._corrected(frame)):
            self.counters['frames_late'] += 1
        else:
            insort(self._pending, frame, key=_stamp)

    def _hand_over(self) -> None:
        """Another camera opens the sets now, the first with its frame that no set of the one before can hold."""
        last = [self._pending[-1].stamp_ns] if self._pending else [] if self._closed_ns is None else [self._closed_ns]
        for frame in self._frames[self._watch.acting]:
            if not last or frame.stamp_ns > last[0] + self.tolerance_ns:
                self._open(frame)

    def _start_anew(self, camera: str, stamp: int) -> None:
        """One camera stepped back in time. Where it is the anchor, the others keep only frames of the new time."""
        self._frames[camera].clear()
        if camera != self._watch.acting:
            self._watch.forget(camera)
            return
        self.counters['clock_jumps'] += 1
        self._pending.clear()
        self._watch.reset()
        self._closed_ns = None
        for other, frames in self._frames.items():
            frames[:] = [frame for frame in frames if abs(self._corrected(frame) - stamp) <= HORIZON_NS]
            if other != camera and not frames:
                self._newest.pop(other, None)

    def _close_ready(self) -> list[FrameSet]:
        watermark = self.watermark_ns
        closed = []
        # Oldest first and never out of order: a newer set that is complete waits for its elder.
        while self._pending and watermark is not None:
            anchor = self._pending[0]
            waits = watermark < self._corrected(anchor) + self.max_wait_ns and not self._unbeatable(anchor)
            if waits and len(self._pending) <= self._most:
                break
            frame_set = self._close(self._pending.pop(0))
            if frame_set is not None:
                closed.append(frame_set)
        return closed

    def _distance(self, frame: CameraFrame, anchor: CameraFrame) -> int:
        return abs(self._corrected(frame) - self._corrected(anchor))

    def _nearest(self, camera: str, anchor: CameraFrame) -> CameraFrame | None:
        if camera == anchor.camera:
            return anchor
        near = [frame for frame in self._frames[camera] if self._distance(frame, anchor) <= self.tolerance_ns]
        return min(near, key=lambda frame: (self._distance(frame, anchor), frame.stamp_ns), default=None)

    def _unbeatable(self, anchor: CameraFrame) -> bool:
        nearest = (self._nearest(camera, anchor) for camera in self.cameras)
        return all(frame is not None and 2 * self._distance(frame, anchor) < MIN_INTERVAL_NS for frame in nearest)

    def _close(self, anchor: CameraFrame) -> FrameSet | None:
        found = {camera: self._nearest(camera, anchor) for camera in self.cameras}
        chosen = {camera: frame for camera, frame in found.items() if frame is not None}
        while self._spread(chosen) > self.max_spread_ns:
            del chosen[max(chosen, key=lambda camera: self._distance(chosen[camera], anchor))]
        self._closed_ns = anchor.stamp_ns
        if self._watch.is_out_of_step(anchor.camera, self._corrected(anchor), self.max_wait_ns):
            self.counters['frames_late'] += 1
            return None
        if len(chosen) < self.min_views:
            self.counters['sets_skipped'] += self._counts(anchor.stamp_ns)
            return None
        frame_set = FrameSet(self._sequence, anchor.stamp_ns, self.cameras, chosen, self._spread(chosen))
        self.counters['sets_full' if frame_set.full else 'sets_partial'] += self._counts(anchor.stamp_ns)
        self._sequence += 1
        return frame_set

    def _spread(self, chosen: Mapping[str, CameraFrame]) -> int:
        stamps = [self._corrected(frame) for frame in chosen.values()]
        return max(stamps) - min(stamps)

    def _forget_old(self, camera: str) -> None:
        """Drop what no open or coming set can use: a set that old has been closed by this camera's own stamps.

        Sets of an anchor that is late, but not out of step, are still to come.
        """
        frames, newest = self._frames[camera], self._newest[camera]
        late_ns = newest - self._newest.get(self._watch.acting, newest - HORIZON_NS)
        if late_ns > HORIZON_NS or self._watch.is_silent:
            late_ns = 0
        oldest = newest - max(self.max_wait_ns, late_ns) - 2 * self.tolerance_ns
        while frames and self._corrected(frames[0]) < oldest:
            frames.pop(0)
