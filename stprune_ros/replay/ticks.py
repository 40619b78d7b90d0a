"""What inference makes of the windows of a bag, tick by tick: from that and the bag follows all that is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from stprune_ros.core.types import Answer, CameraFrame, CameraState, Status, ViewReport, Window
from stprune_ros.errors import StpruneError, one_line
from stprune_ros.inference.features import left_out
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.inference.provenance import provenance_of
from stprune_ros.io import drawing, images
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.replay.moment import Span
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick: the hint as it went out, the texts that came, what it all came to, and the picture of it as JPEG.

    ``errors`` are sentences with the stamps in ns of what they are about.
    """

    hinted: Answer
    described: tuple[Answer, ...]
    answer: Answer
    picture: bytes
    errors: tuple[tuple[str, int], ...] = ()


class Inference:
    """The pipeline over the windows of one bag, in order; a tick that fails is an error, and the next one goes on."""

    def __init__(self, windows: BagWindows, backend: Backend, prompt: Prompt) -> None:
        self._rig, self._settings = windows.rig, windows.settings
        self._pipeline = Pipeline(windows.settings, backend, windows.rig, prompt, self._decode)
        self._provenance = provenance_of(windows.settings, backend.info, prompt)
        self._errors: list[tuple[str, int]] = []

    def tick(self, window: Window) -> Tick:
        """Infer one window."""
        hinted: list[Answer] = []
        described: list[Answer] = []
        self._errors.clear()
        try:
            answer = self._pipeline.run(window, on_hint=hinted.append, on_text=described.append, with_images=True)
            answer = self._pipeline.explained(answer)
        except (StpruneError, RuntimeError) as error:  # torch raises RuntimeError, out of memory included
            self._pipeline.free()
            note = f'inference failed: {one_line(error)}'
            answer = Answer.without_result(Status.ERROR, window, self._provenance, notes=[note])
            described = [answer] if self._settings.inference.describe else []
            self._errors.append((note, answer.stamp_ns))
        views = views_of(answer, window)
        overlaps = drawing.overlap_columns(self._rig, views)
        picture = drawing.encode_jpeg(drawing.ring_picture(replace(answer, views=views), overlaps))
        return Tick(hinted[0] if hinted else answer, tuple(described), answer, picture, tuple(self._errors))

    def warm_up(self, window: Window) -> None:
        """Infer one window for what the next ones find in the caches; nobody sees its answer, and none is described."""
        self._pipeline.settings = self._settings.changed({'inference.describe': False})
        try:
            self.tick(window)
        finally:
            self._pipeline.settings = self._settings

    def _decode(self, frame: CameraFrame, limits: images.DecodeLimits) -> tuple[np.ndarray, int]:
        try:
            return images.decode_for_model(frame, limits)
        except StpruneError as error:
            self._errors.append((left_out(frame, error), frame.stamp_ns))  # as the answer's note will say
            raise


def ticks_within(windows: BagWindows, inference: Inference, span: Span, warm_up_ns: int) -> Iterator[Tick]:
    """The ticks of a ``span``; those before it whose stamp is ``warm_up_ns`` or later are inferred and thrown away."""
    for window in windows.read():
        stamp_ns = window.current.stamp_ns
        windows.errors.clear()  # they are said by whoever replays the whole
        windows.notes.clear()
        if stamp_ns > span.until_ns:
            return
        if stamp_ns >= span.from_ns:
            yield inference.tick(window)
        elif stamp_ns >= warm_up_ns:
            inference.warm_up(window)


def views_of(answer: Answer, window: Window) -> tuple[ViewReport, ...]:
    """The views of an answer; where it has none, one of each camera of which nothing is known."""
    return answer.views or tuple(ViewReport(camera, CameraState.UNKNOWN) for camera in window.current.cameras)
