"""Recorded drives through the pipeline, for the scores of their hints and what would have been right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stprune_ros.core.types import Answer, CameraFrame, Window
from stprune_ros.errors import BagError, StpruneError, one_line
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.io import images
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.io.ground_truth import GroundTruth
from stprune_ros.progress import Say
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.prompt import Prompt

GREY = 128
LEAST = 1e-300  # probability below which a candidate's score is cut
MOST_WEIGHT_S = 1.0  # ticks so far apart are independent observations


@dataclass(frozen=True, eq=False)
class ScoredDrive:
    """The ticks of a bag that have a hint and a truth, and how many have not.

    ``stamps`` (n,) in ns, ``scores`` (n, K) are log-probabilities of the candidates in prompt order, ``truth`` (n,)
    their indices. ``content_free`` (K,) are those of grey pictures. ``unused`` counts stamps of the truth without a
    tick, ``matched`` holds the others.
    """

    bag: Path
    stamps: np.ndarray
    scores: np.ndarray
    truth: np.ndarray
    content_free: np.ndarray
    ticks: int
    without_hint: int
    without_truth: int
    unused: int
    matched: frozenset[int]

    @property
    def weight(self) -> float:
        """What a tick is worth in independent observations: the seconds to the next one, at most one."""
        if len(self.stamps) < 2:
            return MOST_WEIGHT_S
        return float(min(MOST_WEIGHT_S, np.median(np.diff(self.stamps)) / 1e9))


class DriveScorer:
    """Scores one bag after the other with one loaded model; ``say`` gets each new sentence about what is amiss."""

    def __init__(
        self, settings: Settings, backend: Backend, prompt: Prompt, tolerance_ns: int, content_free: bool, say: Say
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._prompt = prompt
        self._tolerance_ns = tolerance_ns
        self._content_free = content_free
        self._say = say
        self._said: set[str] = set()

    def score(self, path: Path, truth: GroundTruth, on_message: Callable[[], object]) -> ScoredDrive:
        """Run the bag at ``path``. Raises BagError where no tick has a hint, or none has a truth."""
        hinted: list[Answer] = []
        ticks, why, shown = 0, 'it gave no frame set', None
        with Bag(path) as bag:
            windows = BagWindows(bag, self._settings)
            pipeline = Pipeline(self._settings, self._backend, windows.rig, self._prompt, images.decode_for_model)
            for window in windows.read(on_message):
                ticks += 1
                answer, why = self._answer(pipeline, window)
                if answer is not None:
                    hinted.append(answer)
                    shown = window
                self._tell([*_taken(windows), *(answer.notes if answer is not None else ())])
            self._tell(_taken(windows))
            if shown is None:
                raise BagError(f"no tick of bag '{path}' has a hint that counts: {why}")
            free = self._nothing_to_see(windows, shown) if self._content_free else np.zeros(len(self._prompt.behaviors))
        nearest = {answer.stamp_ns: truth.nearest(answer.stamp_ns, self._tolerance_ns) for answer in hinted}
        known = [answer for answer in hinted if nearest[answer.stamp_ns] is not None]
        if not known:
            raise BagError(
                f"no tick of bag '{path}' is within {self._tolerance_ns / 1e6:g} ms of a stamp of its truth: ticks are"
                f' from {hinted[0].stamp_ns} to {hinted[-1].stamp_ns} ns, the truth from {truth.stamps[0]} to'
                f' {truth.stamps[-1]} ns; raise --tolerance, or give the truth of this bag'
            )
        names = [behavior.name for behavior in self._prompt.behaviors]
        right = [names.index(truth.at(answer.stamp_ns, self._tolerance_ns).behavior) for answer in known]
        matched = frozenset(stamp for stamp in nearest.values() if stamp is not None)
        return ScoredDrive(
            bag=path,
            stamps=np.array([answer.stamp_ns for answer in known], np.int64),
            scores=np.stack([log_probabilities(answer) for answer in known]),
            truth=np.array(right),
            content_free=free,
            ticks=ticks,
            without_hint=ticks - len(hinted),
            without_truth=len(hinted) - len(known),
            unused=len(truth.stamps) - len(matched),
            matched=matched,
        )

    def _answer(self, pipeline: Pipeline, window: Window) -> tuple[Answer | None, str]:
        """The answer of a tick, None where it has no hint that counts, and then why."""
        try:
            answer = pipeline.run(window)
        except (StpruneError, RuntimeError) as error:  # torch raises RuntimeError, out of memory included
            pipeline.free()
            why = f'inference failed: {one_line(error)}'
            self._tell([why])
            return None, why
        if answer.hint.status.is_valid:
            return answer, ''
        return None, ', '.join([answer.hint.status.name, *answer.notes[:1]])

    def _nothing_to_see(self, windows: BagWindows, window: Window) -> np.ndarray:
        """Log-probabilities (K,) for the same ring with grey pictures and no odometry; BagError where that fails."""

        def decode_grey(frame: CameraFrame, limits: images.DecodeLimits) -> tuple[np.ndarray, int]:
            image, reduced_by = images.decode_for_model(frame, limits)
            return np.full_like(image, GREY), reduced_by

        pipeline = Pipeline(self._settings, self._backend, windows.rig, self._prompt, decode_grey)
        sets = tuple(replace(frame_set, ego=None) for frame_set in window.sets)
        answer, why = self._answer(pipeline, replace(window, sets=sets))
        if answer is None:
            raise BagError(f"bag '{windows.bag.path}' with grey pictures has no hint that counts: {why}")
        return log_probabilities(answer)

    def _tell(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            if sentence not in self._said:
                self._said.add(sentence)
                self._say(sentence)


def _taken(windows: BagWindows) -> list[str]:
    """What is to be said about a bag so far, which is then taken out of ``windows``."""
    sentences = [*windows.errors, *windows.notes]
    windows.errors, windows.notes = [], []
    return sentences


def log_probabilities(answer: Answer) -> np.ndarray:
    """(K,) of the candidates of an answer's hint, in prompt order."""
    return np.log(np.maximum([probability for _, probability in answer.hint.distribution], LEAST))
