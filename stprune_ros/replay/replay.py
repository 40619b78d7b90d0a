"""Runs the pipeline over a bag as fast as it goes: no clock, no drops, the same answers every time.

With a latency target the keep ratio follows the time that ticks take, and two runs differ.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stprune_ros.core.rig import CameraRig, RigBuilder
from stprune_ros.core.stream import Roles, SensorStream
from stprune_ros.core.types import Answer, CameraFrame, Status, Window
from stprune_ros.errors import StpruneError
from stprune_ros.inference.blank import blank_answer
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.io import images, messages
from stprune_ros.io.bag_reader import Bag, Record, message_store
from stprune_ros.io.bag_topics import ODOMETRY, CameraTopics, find_cameras, find_odometry, find_static_transforms
from stprune_ros.io.drawing import VIEW_QUALITY, encode_jpeg, encode_png, history_masks, kept_tokens
from stprune_ros.io.mcap_writer import McapWriter
from stprune_ros.replay.ground_truth import UNKNOWN, TrueTick, Truth
from stprune_ros.replay.report import Mark, Picture, Shown, render
from stprune_ros.replay.summary import Tally
from stprune_ros.results import write_json
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.loading import load
from stprune_ros.vlm.prompt import Prompt

HINT_TOPIC, SCENE_TOPIC = '/stprune_node/output/planning_hint', '/stprune_node/output/scene_description'
SHOWN_TICKS = 12


@dataclass(frozen=True)
class Sources:
    """The topics of a bag that are used: per camera image and camera_info, odometry ('' without), static transforms."""

    cameras: dict[str, CameraTopics]
    odometry: str
    transforms: list[str]

    @classmethod
    def of(cls, bag: Bag, names: list[str], transport: str) -> Sources:
        """Look the topics up; raises StpruneError where a camera is missing or doubtful."""
        cameras = find_cameras(bag.topics, names, transport)
        return cls(cameras, find_odometry(bag.topics), find_static_transforms(bag.topics))

    def named(self) -> dict[str, Any]:
        """For the summary."""
        return {'images': {camera: topics.image for camera, topics in self.cameras.items()}, 'odometry': self.odometry}


def find_rig(bag: Bag, sources: Sources, settings: Settings) -> CameraRig:
    """The ring of the bag's cameras from the rig file or from the bag; StpruneError with what is missing."""
    if settings['cameras.rig_file']:
        known = CameraRig.from_file(settings['cameras.rig_file']).cameras
        unknown = [camera for camera in sources.cameras if camera not in known]
        if unknown:
            raise StpruneError(
                f"rig file '{settings['cameras.rig_file']}' has no camera '{unknown[0]}'; it has {', '.join(known)}"
            )
        return CameraRig(known[camera] for camera in sources.cameras)
    builder = RigBuilder(settings['cameras.base_frame'])
    infos = {topics.info: camera for camera, topics in sources.cameras.items() if topics.info}
    for record in bag.messages([*infos, *sources.transforms]):
        if record.topic in infos:
            builder.add_camera_info(infos[record.topic], record.message())
        else:
            builder.add_transforms(record.message())
        if not builder.missing(list(sources.cameras)):
            break
    return builder.build(list(sources.cameras))


def windows(bag: Bag, sources: Sources, settings: Settings, rig: CameraRig) -> Iterator[Window]:
    """What the model would see at each tick of a bag, in order."""
    stream = SensorStream(settings, rig)
    cameras = {topics.image: camera for camera, topics in sources.cameras.items()}
    for record in bag.messages([*cameras, *filter(None, [sources.odometry])]):
        if record.topic in cameras:
            yield from stream.add_image(cameras[record.topic], record.message())
        else:
            yield from stream.add_odometry(record.message())
    yield from stream.finish()


def replay(path: Path, output: Path, settings: Settings) -> int:
    """Replay the bag at ``path`` into the folder ``output``: results.mcap, summary.json, report.html; returns 0.

    Raises StpruneError where nothing can be run or no frame set came about. KeyboardInterrupt goes on to the caller
    after everything so far has been written.
    """
    started = time.monotonic()
    with Bag(path) as bag:
        names = settings['cameras.names']
        if settings['cameras.rig_file'] and not names:
            names = list(CameraRig.from_file(settings['cameras.rig_file']).ring)
        sources = Sources.of(bag, names, settings['cameras.transport'])
        rig = find_rig(bag, sources, settings)
        Roles.of(settings, rig)  # a wrong anchor is named before the model is loaded
        backend, prompt = load(settings)
        output.mkdir(parents=True, exist_ok=True)
        run = Replay(bag, sources, rig, settings, backend, prompt)
        interrupted = True
        try:
            run.run(output / 'results.mcap')
            interrupted = False
        finally:
            summary = run.summary()
            summary['interrupted'] = interrupted
            summary['times'] = {'wall_s': round(time.monotonic() - started, 3)}
            write_json(output / 'summary.json', summary)
            (output / 'report.html').write_text(render(summary, run.marks, run.shown.kept, rig), encoding='utf-8')
    print(told(summary, output))
    if not run.tally.ticks:
        raise StpruneError(f"bag '{path}' gave no frame set to run on: {_why_no_tick(summary)}")
    return 0


@dataclass
class Thinned:
    """Keeps at most ``limit`` ticks, evenly spread over a run of unknown length."""

    limit: int
    kept: list[Shown] = field(default_factory=list)
    step: int = 1
    seen: int = 0

    def wants_next(self) -> bool:
        """Whether the next tick falls on the current spacing."""
        return self.seen % self.step == 0

    def add(self, tick: Shown | None) -> None:
        """Count a tick; one that was wanted comes along."""
        if tick is not None:
            self.kept.append(tick)
        self.seen += 1
        if len(self.kept) > self.limit:
            self.kept, self.step = self.kept[::2], self.step * 2


class Replay:
    """One pass over a bag: sensor stream, pipeline, writers and counters."""

    def __init__(
        self, bag: Bag, sources: Sources, rig: CameraRig, settings: Settings, backend: Backend, prompt: Prompt
    ) -> None:
        self.bag = bag
        self.rig = rig
        self.settings = settings
        self.tally = Tally()
        self.marks: list[Mark] = []
        self.shown = Thinned(SHOWN_TICKS)
        self._sources = sources
        self._cameras = {topics.image: camera for camera, topics in sources.cameras.items()}
        self._stream = SensorStream(settings, rig)
        self._pipeline = Pipeline(settings, backend, rig, prompt, self._decode)
        self._truth = Truth.beside(bag.path)
        self._images: dict[str, np.ndarray] = {}  # of the tick in work
        self._first_ns: int | None = None
        self._store = message_store()
        self._types = messages.store_types(self._store)
        self._backend, self._prompt = backend, prompt

    def run(self, results: Path) -> None:
        """Everything; the results are on disk after each tick."""
        self._note_topics()
        with McapWriter(results) as writer:
            for topic, kind in ((HINT_TOPIC, 'PlanningHint'), (SCENE_TOPIC, 'SceneDescription')):
                msgtype = f'stprune_ros/msg/{kind}'
                definition, _ = self._store.generate_msgdef(msgtype, ros_version=2)
                writer.add_topic(topic, msgtype, definition, self._store.hash_rihs01(msgtype))
            for window in self._windows():
                self._tick(window, writer)
        for note in self.bag.notes:
            self._note(note)

    def summary(self) -> dict[str, Any]:
        """What was done so far."""
        return self.tally.summary(
            self.bag.path,
            self.settings,
            self.rig,
            self._stream.roles.anchor,
            self._stream.counters,
            self._sources.named(),
        )

    def _windows(self) -> Iterator[Window]:
        topics = [*self._cameras, *filter(None, [self._sources.odometry])]
        total = sum(self.bag.topics[topic].count for topic in topics)
        for record in tqdm(self.bag.messages(topics), total=total, unit='msg', disable=not sys.stderr.isatty()):
            yield from self._take(record)
            for note in self._stream.take_notes():
                self._note(note)
        yield from self._stream.finish()
        for note in self._stream.take_notes():
            self._note(note)

    def _take(self, record: Record) -> list[Window]:
        try:
            message = record.message()
        except StpruneError as error:
            self._error(str(error))
            return []
        if record.topic == self._sources.odometry:
            return self._stream.add_odometry(message)
        return self._stream.add_image(self._cameras[record.topic], message)

    def _tick(self, window: Window, writer: McapWriter) -> None:
        current = window.current
        self._images.clear()
        hinted: list[Answer] = []
        try:
            answer = self._pipeline.run(window, on_hint=hinted.append)
        except (StpruneError, RuntimeError) as error:  # torch raises RuntimeError, out of memory included
            self._pipeline.free()
            note = f'inference failed: {" ".join(str(error).split())}'
            answer = blank_answer(Status.ERROR, window, self.settings, self._backend.info, self._prompt.id, [note])
            self._error(answer.notes[0])
        for note in answer.notes:
            self._note(note)
        self._write(writer, HINT_TOPIC, messages.planning_hint, hinted[0] if hinted else answer)
        if self.settings['inference.describe']:
            self._write(writer, SCENE_TOPIC, messages.scene_description, answer)
        writer.flush()
        truth = self._truth.at(current.stamp_ns) if self._truth else UNKNOWN
        self.tally.add(answer, truth.behavior)
        self._first_ns = current.stamp_ns if self._first_ns is None else self._first_ns
        seconds = (current.stamp_ns - self._first_ns) / 1e9
        self.marks.append(
            Mark(
                seconds,
                answer.status.name,
                answer.behavior.name,
                truth.behavior,
                answer.keep_ratio,
                answer.source_to_hint_ms,
            )
        )
        self.shown.add(self._show(window, answer, seconds, truth) if self.shown.wants_next() else None)

    def _write(self, writer: McapWriter, topic: str, convert: Any, answer: Answer) -> None:
        message = convert(answer, self.settings, self._types)
        writer.write(topic, answer.stamp_ns, bytes(self._store.serialize_cdr(message, message.__msgtype__)))

    def _show(self, window: Window, answer: Answer, seconds: float, truth: TrueTick) -> Shown:
        ego = window.current.ego
        pictures = tuple(self._picture(view.camera, view.keep) for view in answer.views)
        return Shown(answer, seconds, pictures, ego.speed if ego else None, truth)

    def _picture(self, camera: str, keep: np.ndarray | None) -> Picture:
        direction, image = self.rig.direction(camera), self._images.get(camera)
        if image is None or keep is None or not len(keep):
            return Picture(camera, direction)
        view = encode_jpeg(kept_tokens(image, keep[-1]), VIEW_QUALITY)
        return Picture(camera, direction, view, encode_png(history_masks(keep)))

    def _decode(self, frame: CameraFrame, model_pixels: int) -> tuple[np.ndarray, int]:
        try:
            image, reduced_by = images.decode_for_model(frame, model_pixels)
        except StpruneError as error:
            self._error(f"image of camera '{frame.camera}' is left out: {error}")  # as the pipeline's note will say
            raise
        self._images[frame.camera] = image
        return image, reduced_by

    def _note_topics(self) -> None:
        odometry = self._sources.odometry
        found = [topic.name for topic in self.bag.topics.values() if topic.msgtype == ODOMETRY]
        others = [name for name in found if name != odometry]
        if others:
            self._note(f"odometry is read from '{odometry}', not from {', '.join(others)}")

    def _note(self, sentence: str) -> None:
        if sentence not in self.tally.errors.counts and self.tally.notes.add(sentence):
            tqdm.write(f'stprune: {sentence}', file=sys.stderr)

    def _error(self, sentence: str) -> None:
        if self.tally.errors.add(sentence):
            tqdm.write(f'stprune: {sentence}', file=sys.stderr)


def told(summary: Mapping[str, Any], output: Path) -> str:
    """A replay in a few lines for a terminal."""
    sets = (
        f'{summary["sets_full"]} full, {summary["sets_partial"]} partial, {summary["sets_skipped"]} skipped frame sets'
    )
    kept = f'{summary["tokens_kept"]:.1f} of {summary["tokens_full"]:.1f}'
    ratio = 'a ratio that follows the latency' if summary['latency'] else f'{summary["keep_ratio"]:g}'
    lines = [
        f'ring    {", ".join(summary["cameras"])}',
        f'ticks   {summary["ticks"]} ({sets})',
        f'tokens  {kept} kept per tick, {summary["method"]} at {ratio}',
        f'hints   {", ".join(f"{name} {count}" for name, count in summary["hints"].items()) or "none"}',
    ]
    latency = summary['latency']
    if latency:
        ratios = latency['keep_ratio']
        lines.append(
            f'latency {latency["met"]} of {latency["ticks"]} hints within {latency["target_ms"]:g} ms,'
            f' keep ratio {ratios["min"]:g} to {ratios["max"]:g}; not repeatable, it follows the machine'
        )
    if summary['truth']:
        lines.append(f'truth   {summary["truth"]["hits"]} of {summary["truth"]["known"]} hints are right')
    if summary['errors']:
        lines.append(f'errors  {summary["errors"]}, listed in summary.json')
    if not summary['model_trained'] and summary['ticks']:
        lines.append('model   NOT TRAINED: its weights are random, nothing it says means anything')
    return '\n'.join([*lines, f'report  {output / "report.html"}'])


def _why_no_tick(summary: dict[str, Any]) -> str:
    counters = {'sets_skipped': summary['sets_skipped'], **summary['counters']}
    seen = ', '.join(f'{key} {value}' for key, value in counters.items() if value)
    return f"the anchor camera '{summary['anchor']}' brought no usable frame" + (f' ({seen})' if seen else '')
