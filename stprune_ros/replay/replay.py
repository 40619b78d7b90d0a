"""Runs the pipeline over a bag as fast as it goes: no clock, no drops, the same answers every time.

With a latency target the keep ratio follows the time that ticks take, and two runs differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stprune_ros.core.types import Answer, CameraFrame, Status, ViewReport, Window
from stprune_ros.errors import StpruneError, one_line
from stprune_ros.inference.features import left_out
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.inference.provenance import provenance_of
from stprune_ros.io import images, messages
from stprune_ros.io.bag_reader import message_store
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.io.drawing import VIEW_QUALITY, encode_jpeg, encode_png, history_masks, kept_tokens
from stprune_ros.io.ground_truth import NO_TRUTH, GroundTruth, TickTruth
from stprune_ros.io.mcap_writer import McapWriter
from stprune_ros.replay.report import ReportTick, TimelinePoint, ViewPicture, render
from stprune_ros.replay.summary import ReplayStatistics
from stprune_ros.results import write_json
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.prompt import Prompt

HINT_TOPIC, SCENE_TOPIC = '/stprune_node/output/planning_hint', '/stprune_node/output/scene_description'
SHOWN_TICKS = 12


def replay(
    windows: BagWindows,
    backend: Backend,
    prompt: Prompt,
    output: Path,
    *,
    say: Callable[[str], object] = lambda sentence: None,
    on_message: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Replay a bag into the folder ``output``: results.mcap, summary.json, report.html. Loads and prints nothing.

    ``say`` gets each new sentence about what went wrong, ``on_message`` is called after each message of the bag.
    Returns the content of summary.json. Where it is interrupted the exception goes on to the caller after everything
    so far has been written.
    """
    started = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    run = _Replay(windows, backend, prompt, say)
    interrupted = True
    try:
        run.run(output / 'results.mcap', on_message)
        interrupted = False
    finally:
        summary = run.summary()
        summary['interrupted'] = interrupted
        wall_s = round(time.monotonic() - started, 3)
        summary['times'] = {'wall_s': wall_s, 'ticks_per_s': run.statistics.ticks_per_s}
        write_json(output / 'summary.json', summary)
        page = render(summary, run.timeline, run.shown.kept, windows.rig)
        (output / 'report.html').write_text(page, encoding='utf-8')
    return summary


@dataclass
class EvenSampler:
    """Keeps at most ``limit`` ticks, evenly spread over a run of unknown length."""

    limit: int
    kept: list[ReportTick] = field(default_factory=list)
    step: int = 1
    seen: int = 0

    def wants_next(self) -> bool:
        """Whether the next tick falls on the current spacing."""
        return self.seen % self.step == 0

    def add(self, tick: ReportTick | None) -> None:
        """Count a tick; one that was wanted comes along."""
        if tick is not None:
            self.kept.append(tick)
        self.seen += 1
        if len(self.kept) > self.limit:
            self.kept, self.step = self.kept[::2], self.step * 2


class _Replay:
    """One pass over a bag: pipeline, writers and counters."""

    def __init__(self, windows: BagWindows, backend: Backend, prompt: Prompt, say: Callable[[str], object]) -> None:
        self.statistics = ReplayStatistics()
        self.timeline: list[TimelinePoint] = []
        self.shown = EvenSampler(SHOWN_TICKS)
        self._windows = windows
        self._settings = windows.settings
        self._pipeline = Pipeline(windows.settings, backend, windows.rig, prompt, self._decode)
        self._provenance = provenance_of(windows.settings, backend.info, prompt)
        self._truth = GroundTruth.beside(windows.bag.path)
        self._say = say
        self._first_ns: int | None = None
        self._store = message_store()
        self._types = messages.store_types(self._store)

    def run(self, results: Path, on_message: Callable[[], object]) -> None:
        """Everything; the results are on disk after each tick."""
        with McapWriter(results) as writer:
            for topic, kind in ((HINT_TOPIC, 'PlanningHint'), (SCENE_TOPIC, 'SceneDescription')):
                msgtype = f'stprune_ros/msg/{kind}'
                definition, _ = self._store.generate_msgdef(msgtype, ros_version=2)
                writer.add_topic(topic, msgtype, definition, self._store.hash_rihs01(msgtype))
            for window in self._windows.read(on_message):
                self._say_what_the_bag_said()
                self._tick(window, writer)
            self._say_what_the_bag_said()

    def summary(self) -> dict[str, Any]:
        """The content of summary.json so far."""
        return self.statistics.summary(
            self._windows.bag.path,
            self._settings,
            self._windows.rig,
            self._windows.roles.anchor,
            self._windows.stream.counters,
            self._windows.topics.summary(),
        )

    def _tick(self, window: Window, writer: McapWriter) -> None:
        hinted: list[Answer] = []
        described: list[Answer] = []
        wanted = self.shown.wants_next()
        try:
            answer = self._pipeline.run(window, on_hint=hinted.append, on_text=described.append, with_images=wanted)
        except (StpruneError, RuntimeError) as error:  # torch raises RuntimeError, out of memory included
            self._pipeline.free()
            note = f'inference failed: {one_line(error)}'
            answer = Answer.without_result(Status.ERROR, window, self._provenance, notes=[note])
            described = [answer] if self._settings.inference.describe else []
            self._error(note)
        for note in answer.notes:
            self._note(note)
        self._write(writer, HINT_TOPIC, messages.planning_hint, hinted[0] if hinted else answer)
        for each in described:
            self._write(writer, SCENE_TOPIC, messages.scene_description, each)
            self.statistics.add_description(each.description)
        writer.flush()
        truth = self._truth.at(window.current.stamp_ns) if self._truth else NO_TRUTH
        self.statistics.add(answer, truth.behavior)
        if self._first_ns is None:
            self._first_ns = window.current.stamp_ns
        seconds = (window.current.stamp_ns - self._first_ns) / 1e9
        self.timeline.append(TimelinePoint.from_answer(answer, seconds, truth.behavior))
        self.shown.add(self._report_tick(window, answer, seconds, truth) if wanted else None)

    def _decode(self, frame: CameraFrame, limits: images.DecodeLimits) -> tuple[np.ndarray, int]:
        try:
            return images.decode_for_model(frame, limits)
        except StpruneError as error:
            self._error(left_out(frame, error))  # as the answer's note will say
            raise

    def _write(self, writer: McapWriter, topic: str, convert: Callable[..., Any], answer: Answer) -> None:
        message = convert(answer, self._settings, self._types)
        writer.write(topic, answer.stamp_ns, bytes(self._store.serialize_cdr(message, message.__msgtype__)))

    def _report_tick(self, window: Window, answer: Answer, seconds: float, truth: TickTruth) -> ReportTick:
        ego = window.current.ego
        pictures = tuple(map(self._picture, answer.views))
        return ReportTick(answer.without_images(), seconds, pictures, ego.speed if ego else None, truth)

    def _picture(self, view: ViewReport) -> ViewPicture:
        rig = self._windows.rig
        direction = rig.direction(view.camera) if view.camera in rig.cameras else view.camera
        if view.image is None or view.keep is None or not len(view.keep):
            return ViewPicture(view.camera, direction)
        picture = encode_jpeg(kept_tokens(view.image, view.keep[-1]), VIEW_QUALITY)
        return ViewPicture(view.camera, direction, picture, encode_png(history_masks(view.keep)))

    def _say_what_the_bag_said(self) -> None:
        errors, self._windows.errors = self._windows.errors, []
        notes, self._windows.notes = self._windows.notes, []
        for sentence in errors:
            self._error(sentence)
        for sentence in notes:
            self._note(sentence)

    def _note(self, sentence: str) -> None:
        if sentence not in self.statistics.errors.counts and self.statistics.notes.add(sentence):
            self._say(sentence)

    def _error(self, sentence: str) -> None:
        if self.statistics.errors.add(sentence):
            self._say(sentence)
