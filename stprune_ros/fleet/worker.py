"""What one worker does: load a model once, and replay bag after bag with the function that `stprune replay` calls."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from stprune_ros.errors import BagError, StpruneError, one_line, sentence_of
from stprune_ros.evaluation.asked_model import AskedModel
from stprune_ros.evaluation.datasets.asking import Asking, instructed
from stprune_ros.evaluation.fidelity import SceneEvaluator
from stprune_ros.fleet.index import write_rows
from stprune_ros.fleet.ledger import inputs_of, rows_beside
from stprune_ros.fleet.parts import RecordedTicks, write_part
from stprune_ros.fleet.plan import Run
from stprune_ros.fleet.split import cuts, seen_ticks, why_whole
from stprune_ros.fleet.tasks import (
    Answered,
    Asked,
    AskMoment,
    AskScene,
    Broken,
    Done,
    JoinParts,
    Outcome,
    Pace,
    ReplayPart,
    ReplayRun,
    Split,
    Task,
)
from stprune_ros.io.bag_identity import bag_identity
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.replay.moment import Span, plain_values
from stprune_ros.replay.replay import replay, write_replay
from stprune_ros.replay.ticks import Inference, Tick, ticks_within
from stprune_ros.resources import version
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.loading import load_model
from stprune_ros.vlm.prompt import Prompt

TELL_S = 0.5  # between two reports of the pace
DIGITS = 16  # of the key of parts
LONG = 2.0  # windows: bags up to this length are not worth splitting

Tell = Callable[[Pace], object]


class Worker:
    """Does one task after another. One thread at a time."""

    def __init__(self, folder: str, threads: int) -> None:
        """``folder`` is where relative paths begin; the model has ``threads`` threads of the CPU."""
        os.chdir(folder)
        import torch

        torch.set_num_threads(threads)
        self._loaded: tuple[object, Backend, Prompt] | None = None
        self._evaluator: tuple[object, SceneEvaluator] | None = None

    def do(self, task: Task, tell: Tell) -> Outcome:
        """Do a task; ``tell`` is called with its pace now and then. What fails for good comes back as a sentence."""
        try:
            if isinstance(task, ReplayRun):
                return self._replay(task, tell)
            if isinstance(task, ReplayPart):
                return self._part(task, tell)
            if isinstance(task, JoinParts):
                return self._join(task, tell)
            if isinstance(task, AskMoment):
                return self._answer(task)
            return self._ask(task)
        except (StpruneError, OSError) as error:
            return Broken(sentence_of(error))
        except Exception as error:
            return Broken(f'{type(error).__name__}: {one_line(error)}')

    def _replay(self, task: ReplayRun, tell: Tell) -> Outcome:
        with _opened(task.run) as windows:
            backend, prompt = self._model(windows.settings)
            if _is_long(windows, task.window_s):
                parts = _split(task, backend, prompt)
                if parts is not None:
                    return parts
            pace = _Pacer(tell, windows.message_count)
            replay(
                windows,
                backend,
                prompt,
                task.into,
                home=task.home,
                on_message=pace.step,
                on_answer=pace.tick,
            )
        write_rows(task.into, task.run, rows_beside(task.into))
        return Done()

    def _part(self, task: ReplayPart, tell: Tell) -> Outcome:
        cut, pace = task.cut, _Pacer(tell, task.cut.ticks)
        with _opened(task.run) as windows:
            inference = Inference(windows, *self._model(windows.settings))
            ticks = ticks_within(windows, inference, Span(cut.from_ns, cut.until_ns), cut.warm_up_ns)
            write_part(task.into, pace.over(ticks))
        return Done()

    def _join(self, task: JoinParts, tell: Tell) -> Outcome:
        with _opened(task.run) as windows:
            pace = _Pacer(tell, windows.message_count)
            ticks = RecordedTicks(task.parts)
            write_replay(windows, ticks.tick, task.into, home=task.home, on_message=pace.step)
        write_rows(task.into, task.run, rows_beside(task.into))
        return Done()

    def _ask(self, task: AskScene) -> Asked:
        wanted = (task.source, task.plan, task.settings)
        if self._evaluator is None or self._evaluator[0] != wanted:
            self._evaluator = (wanted, SceneEvaluator(*wanted))
        return Asked(self._evaluator[1].evaluate(task.scene))

    def _answer(self, task: AskMoment) -> Answered:
        backend, prompt = self._model(task.settings)
        task.model.require(AskedModel.of(backend.info, prompt))
        asking = Asking(task.dataset, task.settings, backend, instructed(prompt, task.dataset, backend.info))
        told = asking.about(task.asked)
        return Answered(told.pictures, list(told.said), told.faults)

    def _model(self, settings: Settings) -> tuple[Backend, Prompt]:
        """The model of these settings; it stays as long as the next settings ask for the same."""
        wanted = (settings.model, settings.prompt)
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # before the next one takes as much memory again
            self._loaded = (wanted, *load_model(settings))
        return self._loaded[1:]


class _Pacer:
    """Counts, and tells the pace twice a second at most."""

    def __init__(self, tell: Tell, of: int) -> None:
        self._tell, self._of = tell, of
        self._done = self._ticks = 0
        self._told_at = 0.0

    def step(self, *_: object) -> None:
        """One more message, or tick of a part."""
        self._done += 1
        self._say()

    def tick(self, *_: object) -> None:
        """One more tick was inferred."""
        self._ticks += 1
        self._say()

    def over(self, ticks: Iterable[Tick]) -> Iterator[Tick]:
        """The ticks of a part, each counted."""
        for tick in ticks:
            self._ticks += 1
            self.step()
            yield tick

    def _say(self) -> None:
        now = time.monotonic()
        if now - self._told_at >= TELL_S:
            self._told_at = now
            self._tell(Pace(self._done, self._of, self._ticks))


@contextmanager
def _opened(run: Run) -> Iterator[BagWindows]:
    with Bag(run.drive.path) as bag:
        yield BagWindows(bag, run.setting.settings)


def _is_long(windows: BagWindows, window_s: float) -> bool:
    return window_s > 0 and windows.bag.duration_ns > LONG * 1e9 * window_s and not why_whole(windows.settings)


def _split(task: ReplayRun, backend: Backend, prompt: Prompt) -> Split | None:
    """The parts of a long bag, None where it cannot be split; reads it once."""
    with _opened(task.run) as windows:
        try:
            found = cuts(seen_ticks(windows.read()), task.window_s)
        except BagError:  # its stamps go back
            return None
        key = _key(task.run, windows, backend, prompt)
    return Split(key, tuple(found)) if len(found) > 1 else None


def _key(run: Run, windows: BagWindows, backend: Backend, prompt: Prompt) -> str:
    """What the ticks of a part follow from."""
    calibration = prompt.calibration.id if prompt.calibration is not None else ''
    parts = [
        version(),
        bag_identity(windows.bag, windows.topics.images),
        inputs_of(run),
        plain_values(windows.settings),
        *AskedModel.of(backend.info, prompt),
        calibration,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:DIGITS]
