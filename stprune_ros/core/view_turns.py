"""Views in turn: a side camera shows an earlier frame until its turn comes, so that a tick encodes few new images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stprune_ros.core.types import FrameSet, HeldFrame


@dataclass(frozen=True, slots=True)
class _Turn:
    """What a camera shows during one period."""

    period: int
    held: HeldFrame


class ViewTurns:
    """Of each of ``cameras`` one frame per ``period_ns`` of event time is shown; 0: every frame, as of all others.

    Periods are those of absolute time, shifted evenly from camera to camera: live and replay give the same frames their
    turn, and skipped ticks cost no turn. No shown frame is as old as ``period_ns``, counted between stamps of sets.
    """

    def __init__(self, cameras: Sequence[str], period_ns: int) -> None:
        self._period_ns = period_ns
        self._shifts = {camera: place * period_ns // len(cameras) for place, camera in enumerate(cameras)}
        self._turns: dict[str, _Turn] = {}

    def take(self, frame_set: FrameSet) -> FrameSet:
        """The next set, with what it holds of cameras whose turn it is not.

        A camera that had no frame when its turn came takes it with its next frame. One that freezes, or wakes up, is
        never held back: both are to be seen at once.
        """
        if not self._period_ns:
            return frame_set
        held = {}
        for camera, shift in self._shifts.items():
            frame = frame_set.frames.get(camera)
            if frame is None:
                continue
            period, turn = (frame_set.stamp_ns + shift) // self._period_ns, self._turns.get(camera)
            if turn is None or turn.period != period or frame.frozen or turn.held.frame.frozen:
                self._turns[camera] = _Turn(period, HeldFrame(frame, frame_set.ego))
            else:
                held[camera] = turn.held
        return replace(frame_set, held=held)

    def forget(self, camera: str) -> None:
        """Drop what one camera shows: its next frame has its turn."""
        self._turns.pop(camera, None)

    def clear(self) -> None:
        """Drop what every camera shows."""
        self._turns.clear()
