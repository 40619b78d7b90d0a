"""Where the planner's hints come from: nowhere, the truth, or the node's pipeline with a modelled latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, Protocol

from stprune_ros.core.rig_builder import RigBuilder
from stprune_ros.core.stream import SensorStream
from stprune_ros.core.types import Answer, Status, Timing, Window
from stprune_ros.driving.latency import Latency
from stprune_ros.driving.planner import TimedHint
from stprune_ros.driving.record import Said
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.io import images
from stprune_ros.ringworld.recording import START_NS, camera_info, header, stamp_ns, static_transforms
from stprune_ros.ringworld.renderer import RING
from stprune_ros.ringworld.truth import SceneTruth
from stprune_ros.settings.settings import Settings, nanoseconds
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.prompt import Prompt

OnAnswer = Callable[[Answer], object]


class Guide(Protocol):
    """Takes what the sensors say, in time order, and gives hints as they come out.

    What ``looks`` at nothing needs no pictures.
    """

    looks: bool

    def take_odometry(self, message: Any, now_ns: int) -> None:
        """An Odometry message."""

    def take_images(self, messages: Sequence[tuple[str, Any]], truth: SceneTruth, now_ns: int) -> None:
        """One CompressedImage of each camera, by its name, and the truth about them."""

    def due(self, now_ns: int) -> list[tuple[TimedHint, Said]]:
        """Hints that came out since the last call, before ``now_ns``."""


class NoHints:
    """Says nothing."""

    looks = False

    def take_odometry(self, message: Any, now_ns: int) -> None:
        """Pass it over."""

    def take_images(self, messages: Sequence[tuple[str, Any]], truth: SceneTruth, now_ns: int) -> None:
        """Pass them over."""

    def due(self, now_ns: int) -> list[tuple[TimedHint, Said]]:
        """None."""
        return []


class TrueHints(NoHints):
    """Says what is true, as soon as the images are there."""

    looks = True

    def __init__(self, valid_for_ms: float) -> None:
        self._valid_for_ns = nanoseconds(valid_for_ms)
        self._waiting: list[tuple[TimedHint, Said]] = []

    def take_images(self, messages: Sequence[tuple[str, Any]], truth: SceneTruth, now_ns: int) -> None:
        """The truth becomes a hint."""
        hint = TimedHint(now_ns, now_ns + self._valid_for_ns, Status.OK, truth.behavior)
        self._waiting.append((hint, Said(seconds(now_ns), seconds(now_ns), Status.OK, truth.behavior)))

    def due(self, now_ns: int) -> list[tuple[TimedHint, Said]]:
        """Those since the last call."""
        waiting, self._waiting = self._waiting, []
        return waiting


class RecordedHints(NoHints):
    """Says what was said in an earlier drive, when it was said: the vehicle does the same again, without pictures."""

    def __init__(self, said: Sequence[Said], valid_for_ms: float) -> None:
        self._said = sorted(said, key=attrgetter('out_s'))
        self._valid_for_ns = nanoseconds(valid_for_ms)

    def due(self, now_ns: int) -> list[tuple[TimedHint, Said]]:
        """Those that came out since the last call."""
        count = sum(stamp_ns(said.out_s) < now_ns for said in self._said)
        out, self._said = self._said[:count], self._said[count:]
        stamps = [stamp_ns(said.stamp_s) for said in out]
        return [
            (TimedHint(stamp, stamp + self._valid_for_ns, said.status, said.behavior), said)
            for stamp, said in zip(stamps, out, strict=True)
        ]


class PipelineHints:
    """The node's stream and pipeline, and its mailbox in which the newest set of images wins.

    What the pipeline takes is not measured but follows from ``latency``: until a hint is out no other set is begun.
    ``on_answer`` gets every answer with its pictures and those times, where somebody wants them.
    """

    looks = True

    def __init__(
        self, settings: Settings, backend: Backend, prompt: Prompt, latency: Latency, on_answer: OnAnswer | None = None
    ) -> None:
        calibration = calibration_of(settings)
        self.rig = calibration.usable([camera.name for camera in RING])
        self._stream = SensorStream(settings, self.rig, calibration.to_base)
        self._pipeline = Pipeline(settings, backend, self.rig, prompt, images.decode_for_model)
        self._valid_for_ns = nanoseconds(latency.valid_for_ms)
        self._takes_ns = nanoseconds(latency.up_to_hint_ms(settings.pruning.keep_ratio))
        self._on_answer = on_answer
        self._free_ns = 0  # when the pipeline can begin the next set
        self._waiting: list[tuple[Window, int]] = []  # and when each came
        self._coming: list[tuple[TimedHint, Said]] = []

    def take_odometry(self, message: Any, now_ns: int) -> None:
        """Into the stream."""
        self._put(self._stream.add_odometry(message), now_ns)

    def take_images(self, messages: Sequence[tuple[str, Any]], truth: SceneTruth, now_ns: int) -> None:
        """Into the stream; the truth is not for the model."""
        for camera, message in messages:
            self._put(self._stream.add_image(camera, message, now_ns), now_ns)

    def due(self, now_ns: int) -> list[tuple[TimedHint, Said]]:
        """Run what could begin by now, and give the hints that are out."""
        self._begin(now_ns)
        out = [(hint, said) for hint, said in self._coming if stamp_ns(said.out_s) < now_ns]
        self._coming = self._coming[len(out) :]
        return out

    def _put(self, windows: Sequence[Window], now_ns: int) -> None:
        """As the node's worker: what comes due together replaces whatever still waits."""
        if windows:
            self._begin(now_ns)
            self._waiting = [(window, now_ns) for window in windows]

    def _begin(self, now_ns: int) -> None:
        """Run the sets that wait as far as the pipeline was free by now."""
        while self._waiting and self._free_ns <= now_ns:
            self._run(*self._waiting.pop(0))

    def _run(self, window: Window, came_ns: int) -> None:
        answer = self._pipeline.run(window, with_images=self._on_answer is not None)
        begun_ns = max(came_ns, self._free_ns)
        self._free_ns = begun_ns + self._takes_ns
        expires_ns, hint = answer.stamp_ns + self._valid_for_ns, answer.hint
        status = Status.STALE if hint.status.is_valid and self._free_ns >= expires_ns else hint.status
        said = Said(
            seconds(answer.stamp_ns),
            seconds(self._free_ns),
            status,
            hint.behavior,
            round(hint.confidence, 4),
            answer.tokens_kept,
            answer.tokens_full,
        )
        self._coming.append((TimedHint(answer.stamp_ns, expires_ns, status, hint.behavior), said))
        if self._on_answer is not None:
            takes_ms, wait_ms = self._takes_ns / 1e6, (begun_ns - answer.stamp_ns) / 1e6
            timing = Timing({'modelled': takes_ms}, wait_ms, takes_ms)
            self._on_answer(replace(self._pipeline.explained(answer), timing=timing))


def seconds(stamp_ns: int) -> float:
    """Seconds since the start of the world."""
    return (stamp_ns - START_NS) / 1e9


def calibration_of(settings: Settings) -> RigBuilder:
    """The ring as a bag of the world describes it, by the messages that such a bag has."""
    builder = RigBuilder(settings.cameras)
    builder.add_transforms(static_transforms())
    for camera in RING:
        builder.add_camera_info(camera.name, camera_info(camera, header(START_NS, f'{camera.name}_optical')))
    return builder
