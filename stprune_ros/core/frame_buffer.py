"""Rolling history of frame sets.

Keyframes are the first set in each stride of absolute time, whoever looks and however late: so live and replay see the
same history, and a tick has to encode only its own images while those of the keyframes are still cached.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from stprune_ros.core.ego import in_words
from stprune_ros.core.types import FrameSet, Window
from stprune_ros.core.view_turns import ViewTurns

Shape = tuple[str, int, int]  # encoding, width, height


class FrameBuffer:
    """The last ``frames - 1`` keyframes and the current set; in ns. Holds images by reference, bounded.

    ``turns`` says what each set shows of cameras that take turns; None: every set shows its own frames.
    """

    def __init__(self, frames: int, stride_ns: int, max_gap_ns: int, turns: ViewTurns | None = None) -> None:
        self.frames = frames
        self.stride_ns = stride_ns
        self.max_gap_ns = max_gap_ns
        self._turns = turns
        self._keyframes: deque[FrameSet] = deque(maxlen=frames)  # the newest one may be the current set
        self._current: FrameSet | None = None
        self._shapes: dict[str, Shape] = {}

    def add(self, frame_set: FrameSet, is_tick: bool = True) -> str | None:
        """Take the next set; returns why the history before it was flushed, or None.

        ``is_tick`` says whether a window will be asked for: turns are for sets that somebody sees.
        """
        reason = self._break_before(frame_set)
        if reason is not None:
            self.flush()
        cell = frame_set.stamp_ns // self.stride_ns
        is_keyframe = not self._keyframes or cell != self._keyframes[-1].stamp_ns // self.stride_ns
        if self._turns is not None and (is_keyframe or is_tick):
            frame_set = self._turns.take(frame_set)
        if is_keyframe:
            self._keyframes.append(frame_set)
        self._current = frame_set
        self._shapes.update(_shapes_of(frame_set))
        return reason

    def window(self) -> Window:
        """The current set behind its history, oldest first; only after `add`."""
        if self._current is None:
            raise ValueError('window() before the first frame set')
        history = [frame_set for frame_set in self._keyframes if frame_set.stamp_ns < self._current.stamp_ns]
        return Window((*history[max(len(history) - (self.frames - 1), 0) :], self._current), self.frames)

    def forget(self, camera: str) -> None:
        """Take the frames of one camera out of the history."""
        for place, frame_set in enumerate(self._keyframes):
            frames = {name: frame for name, frame in frame_set.frames.items() if name != camera}
            held = {name: one for name, one in frame_set.held.items() if name != camera}
            self._keyframes[place] = replace(frame_set, frames=frames, held=held)
        if self._turns is not None:
            self._turns.forget(camera)

    def flush(self) -> None:
        """Forget everything."""
        self._keyframes.clear()
        if self._turns is not None:
            self._turns.clear()
        self._current = None
        self._shapes.clear()

    def _break_before(self, frame_set: FrameSet) -> str | None:
        if self._current is None:
            return None
        step_ns = frame_set.stamp_ns - self._current.stamp_ns
        if step_ns <= 0:
            return f'time jumped back by {in_words(-step_ns / 1e9)}'
        if step_ns > self.max_gap_ns:
            return f'gap of {in_words(step_ns / 1e9)} between frame sets, more than {self.max_gap_ns / 1e9:g} s'
        for camera, shape in _shapes_of(frame_set).items():
            known = self._shapes.get(camera, shape)
            if known[0] != shape[0]:
                return f"camera '{camera}' changed its encoding from '{known[0]}' to '{shape[0]}'"
            if known != shape:
                return f"camera '{camera}' changed its size from {known[1]}x{known[2]} to {shape[1]}x{shape[2]}"
        return None


def _shapes_of(frame_set: FrameSet) -> dict[str, Shape]:
    """Shape of every frame; an Image without pixels is broken and tells nothing about its camera."""
    shapes = {}
    for camera, frame in frame_set.frames.items():
        compressed = hasattr(frame.payload, 'format')  # says its size only once it is decoded
        if compressed or (frame.width and frame.height):
            shapes[camera] = (frame.encoding, frame.width, frame.height)
    return shapes
