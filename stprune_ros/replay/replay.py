"""Runs the pipeline over a bag as fast as it goes: no clock, no drops, the same answers every time.

With a latency target the keep ratio follows the time that ticks take, and two runs differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stprune_ros.core.types import Answer, Window
from stprune_ros.errors import Interrupted
from stprune_ros.io.bag_identity import bag_identity
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.io.ground_truth import NO_TRUTH, GroundTruth
from stprune_ros.replay.album import Album
from stprune_ros.replay.moment import EVERYTHING, PARAMETER_FILE, Moments, Span, parameter_text, plain_values
from stprune_ros.replay.records import TickRecord
from stprune_ros.replay.report import report_page
from stprune_ros.replay.results import ResultsFile
from stprune_ros.replay.summary import ReplayStatistics
from stprune_ros.replay.ticks import Inference, Tick, views_of
from stprune_ros.replay.versions import versions
from stprune_ros.results import write_json
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.prompt import Prompt

Infer = Callable[[Window], Tick]  # what one window comes to; windows come in order


def replay(
    windows: BagWindows,
    backend: Backend,
    prompt: Prompt,
    output: Path,
    span: Span = EVERYTHING,
    *,
    home: Path | None = None,
    say: Callable[[str], object] = lambda sentence: None,
    on_message: Callable[[], object] = lambda: None,
    on_answer: Callable[[Answer], object] = lambda answer: None,
) -> dict[str, Any]:
    """Replay a bag, or a ``span`` of it, into the folder ``output``; loads and prints nothing.

    See `write_replay` for what it writes, and for the rest.
    """
    infer = Inference(windows, backend, prompt).tick
    return write_replay(windows, infer, output, span, home=home, say=say, on_message=on_message, on_answer=on_answer)


def write_replay(
    windows: BagWindows,
    infer: Infer,
    output: Path,
    span: Span = EVERYTHING,
    *,
    home: Path | None = None,
    say: Callable[[str], object] = lambda sentence: None,
    on_message: Callable[[], object] = lambda: None,
    on_answer: Callable[[Answer], object] = lambda answer: None,
) -> dict[str, Any]:
    """Write what ``infer`` makes of each window of a bag, or of a ``span`` of it, into the folder ``output``.

    Writes results.mcap, summary.json, report.html, and the parameters as replay.param.yaml. ``home`` is where whoever
    calls will move the folder to. ``say`` gets each new sentence about what went wrong, ``on_message`` is called after
    each message of the bag, ``on_answer`` with the answer of each tick.
    Returns the content of summary.json. Where it is interrupted the exception goes on to the caller after everything
    so far has been written: as Interrupted, with that content, where somebody asked it to stop.
    """
    started = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    (output / PARAMETER_FILE).write_text(parameter_text(windows.settings), encoding='utf-8')
    run = _Replay(windows, infer, span, say, on_answer)
    stopped_by: BaseException | None = None
    try:
        run.run(output / 'results.mcap', on_message)
    except BaseException as error:
        stopped_by = error
    summary = run.summary()
    summary['interrupted'] = stopped_by is not None
    wall_s = round(time.monotonic() - started, 3)
    summary['times'] = {'wall_s': wall_s, 'ticks_per_s': run.statistics.ticks_per_s}
    write_json(output / 'summary.json', summary)
    page = report_page(summary, run.records, run.album, windows.rig, Moments(windows.bag.path, home or output))
    (output / 'report.html').write_text(page, encoding='utf-8')
    if isinstance(stopped_by, KeyboardInterrupt):
        raise Interrupted(
            f"interrupted after {summary['ticks']} ticks: what was finished is in '{output / 'report.html'}'", summary
        ) from None
    if stopped_by is not None:
        raise stopped_by
    return summary


class _Replay:
    """One pass over a bag: inference, writers and counters."""

    def __init__(
        self,
        windows: BagWindows,
        infer: Infer,
        span: Span,
        say: Callable[[str], object],
        on_answer: Callable[[Answer], object],
    ) -> None:
        self.statistics = ReplayStatistics()
        self.records: list[TickRecord] = []
        self.album = Album()
        self._windows, self._infer, self._span = windows, infer, span
        self._settings = windows.settings
        self._truth = GroundTruth.beside(windows.bag.path)
        self._say = say
        self._on_answer = on_answer
        self._nearest_ns: int | None = None  # the tick next to the span, or in it

    def run(self, results: Path, on_message: Callable[[], object]) -> None:
        """Everything; the results are on disk after each tick."""
        self._windows.stream.count_sets(self._span.holds)
        with ResultsFile(results, self._settings) as file:
            last_ns = 0
            for window in self._windows.read(on_message):
                last_ns = window.current.stamp_ns
                self._nearest_ns = self._span.nearest(last_ns, self._nearest_ns)
                self._say_what_the_bag_said(last_ns)
                if last_ns > self._span.until_ns:
                    break
                if self._span.holds(last_ns):
                    self._tick(window, file)
            self._say_what_the_bag_said(last_ns)

    def summary(self) -> dict[str, Any]:
        """The content of summary.json so far."""
        windows = self._windows
        return {
            **self.statistics.summary(
                windows.bag.path,
                self._settings,
                windows.rig,
                windows.roles.anchor,
                windows.stream.counters,
                windows.topics.summary(),
            ),
            'bag_id': bag_identity(windows.bag, windows.topics.images),
            'span': self._span.summary(self._nearest_ns),
            'parameters': plain_values(self._settings),
            'versions': versions(),
        }

    def _tick(self, window: Window, file: ResultsFile) -> None:
        tick = self._infer(window)
        answer = tick.answer
        for sentence, stamp_ns in tick.errors:
            self._error(sentence, stamp_ns)
        for note in answer.notes:
            self._note(note, answer.stamp_ns)
        file.write(tick.hinted, tick.described, answer, views_of(answer, window), tick.picture)
        for each in tick.described:
            self.statistics.add_description(each.description)
        truth = self._truth.at(answer.stamp_ns) if self._truth else NO_TRUTH
        self.statistics.add(answer, truth.behavior)
        ego = window.current.ego
        record = TickRecord.from_answer(answer, ego.speed if ego else None, truth)
        self.records.append(record)
        self.album.add(record, tick.picture)
        self._on_answer(answer.without_images())

    def _say_what_the_bag_said(self, stamp_ns: int) -> None:
        errors, self._windows.errors = self._windows.errors, []
        notes, self._windows.notes = self._windows.notes, []
        for sentence in errors:
            self._error(sentence, stamp_ns)
        for sentence in notes:
            self._note(sentence, stamp_ns)

    def _note(self, sentence: str, stamp_ns: int) -> None:
        if sentence not in self.statistics.errors.counts and self.statistics.notes.add(sentence, stamp_ns):
            self._say(sentence)

    def _error(self, sentence: str, stamp_ns: int) -> None:
        if self.statistics.errors.add(sentence, stamp_ns):
            self._say(sentence)
