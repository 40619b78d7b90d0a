"""When hints come out: the mailbox of the node with a modelled latency, and hints that were written down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from stprune_ros.core.types import (
    Answer,
    Behavior,
    CameraState,
    Description,
    Hint,
    Provenance,
    Status,
    ViewReport,
    Window,
)
from stprune_ros.driving import guides
from stprune_ros.driving.drive import run_drive
from stprune_ros.driving.files import drive_as_json, hints_of
from stprune_ros.driving.guides import NoHints, OnAnswer, PipelineHints, RecordedHints, TrueHints
from stprune_ros.driving.latency import Latency, latency_of
from stprune_ros.driving.planner import Planner
from stprune_ros.driving.record import Drive, Said
from stprune_ros.ringworld.recording import START_NS
from stprune_ros.ringworld.truth import SceneTruth
from stprune_ros.ringworld.world import SteppedWorld
from stprune_ros.settings.settings import Settings

SEED, MS = 930_016, 10**6


class Counting:
    """Stands where the model would be, so that only times are looked at: each answer differs from the one before."""

    said = Status.OK

    def __init__(self, *_: Any) -> None:
        self.count = 0

    def run(self, window: Window, with_images: bool = False) -> Answer:
        behavior = (Behavior.STOP, Behavior.SLOW_DOWN)[self.count % 2]
        self.count += 1
        views = tuple(ViewReport(name, CameraState.OK, 0, 1, 10, 3) for name in window.current.cameras)
        hint, nobody = Hint(self.said, behavior, confidence=0.1234567), Provenance('m', '1', True, 'p', 'none', 1.0)
        return Answer(window.current.stamp_ns, 0, hint, Description(Status.NO_HINT), nobody, views)

    def explained(self, answer: Answer) -> Answer:
        return answer


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guides, 'Pipeline', Counting)


class Listening(NoHints):
    """Writes down what comes when, in ms since the start."""

    looks = True

    def __init__(self) -> None:
        self.heard: list[tuple[str, float]] = []

    def take_odometry(self, message: Any, now_ns: int) -> None:
        self.heard.append(('odometry', (now_ns - START_NS) / MS))

    def take_images(self, messages: Sequence[tuple[str, Any]], truth: SceneTruth, now_ns: int) -> None:
        assert {message.header.stamp.nanosec for _, message in messages} == {now_ns % 10**9}
        self.heard.append(('images', (now_ns - START_NS) / MS))


def driven(hint_ms: float, valid_for_ms: float = 2000.0, hz: float = 2.0, on_answer: OnAnswer | None = None) -> Drive:
    latency = Latency('slow', valid_for_ms, hint_ms=hint_ms)
    guide = PipelineHints(Settings(), None, None, latency, on_answer)  # type: ignore[arg-type]
    return run_drive(SteppedWorld(SEED, 4.0), Planner(), guide, hz)


def changes(drive: Drive) -> list[tuple[float, str]]:
    """When another hint holds, or none any more."""
    pairs = zip([None, *drive.steps], drive.steps, strict=False)
    return [
        (round(step.t, 2), step.behavior.name) for last, step in pairs if not last or last.behavior != step.behavior
    ]


def test_a_hint_at_once_counts_from_the_step_after_its_images() -> None:
    """The first waits until odometry is trusted."""
    drive = driven(0.0)
    assert [(said.stamp_s, said.out_s) for said in drive.said[:3]] == [(0.0, 0.1), (0.5, 0.5), (1.0, 1.0)]
    assert changes(drive)[:4] == [(0.0, 'UNKNOWN'), (0.15, 'STOP'), (0.55, 'SLOW_DOWN'), (1.05, 'STOP')]
    assert len(drive.said) == 8


def test_what_is_out_at_a_step_counts_from_the_next_one() -> None:
    drive = driven(150.0)
    assert [said.out_s for said in drive.said[:3]] == [0.25, 0.65, 1.15]
    assert changes(drive)[:4] == [(0.0, 'UNKNOWN'), (0.3, 'STOP'), (0.7, 'SLOW_DOWN'), (1.2, 'STOP')]


def test_sets_wait_for_the_one_before_and_the_newest_wins() -> None:
    drive = driven(900.0)  # that of 0.5 s begins at 1 s, when that of 1 s comes, which never begins
    assert [(said.stamp_s, said.out_s) for said in drive.said] == [(0.0, 1.0), (0.5, 1.9), (1.5, 2.8), (2.5, 3.7)]
    assert changes(drive) == [
        (0.0, 'UNKNOWN'), (1.05, 'STOP'), (1.95, 'SLOW_DOWN'), (2.5, 'UNKNOWN'), (2.85, 'STOP'), (3.5, 'UNKNOWN'),
        (3.75, 'SLOW_DOWN'),
    ]  # fmt: skip
    assert {said.status for said in drive.said} == {Status.OK}


def test_a_set_that_waits_begins_between_two_steps() -> None:
    """Free at 1.015 s, which is before the set of 1.03 s could take its place."""
    said = driven(915.0, hz=1 / 0.515).said
    assert [(one.stamp_s, one.out_s) for one in said[:2]] == [(0.0, 1.015), (0.515, 1.93)]


def test_a_hint_is_stale_from_its_very_end_on() -> None:
    assert [said.status for said in driven(500.0, valid_for_ms=600.0).said[:2]] == [Status.STALE, Status.STALE]
    assert [said.status for said in driven(500.0, valid_for_ms=601.0).said[:2]] == [Status.OK, Status.OK]
    assert {step.behavior for step in driven(500.0, valid_for_ms=600.0).steps} == {Behavior.UNKNOWN}


def test_what_is_no_hint_stays_so_however_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, 'said', Status.NO_HINT)
    assert {said.status for said in driven(900.0, valid_for_ms=100.0).said} == {Status.NO_HINT}


def test_a_hint_is_written_down_with_what_was_kept_and_its_modelled_time() -> None:
    answers: list[Answer] = []
    first, second = driven(900.0, on_answer=answers.append).said[:2]
    assert (first.confidence, first.tokens_kept, first.tokens_full) == (0.1235, 18, 60)
    assert (first.behavior, second.behavior) == (Behavior.STOP, Behavior.SLOW_DOWN)
    timing = answers[1].timing  # images of 0.5 s, begun at 1 s, out at 1.9 s
    assert (timing.wait_ms, timing.hint_ms, timing.stage_ms) == (500.0, 900.0, {'modelled': 900.0})


@pytest.mark.parametrize(('keep', 'out_s'), [(1.0, 1.2104), (0.1, 0.4669)])
def test_each_ratio_has_the_latency_of_its_tokens(keep: float, out_s: float) -> None:
    latency = latency_of('orin_nx', 1000.0)
    settings = Settings().changed({'pruning.keep_ratio': keep})
    guide = PipelineHints(settings, None, None, latency)  # type: ignore[arg-type]
    said = run_drive(SteppedWorld(SEED, 1.5), Planner(), guide, 2.0).said[0]
    assert said.stamp_s == 0.0
    assert said.out_s == pytest.approx(0.1 + latency.up_to_hint_ms(keep) / 1e3, abs=1e-6)
    assert said.out_s == pytest.approx(out_s, abs=1e-4)


def test_what_comes_out_at_the_very_end_is_no_part_of_a_drive() -> None:
    assert [said.out_s for said in driven(975.0, hz=1.0).said] == [1.075, 2.05, 3.025]  # and 4


def test_odometry_comes_before_the_images_of_its_time_and_everything_once() -> None:
    guide = Listening()
    run_drive(SteppedWorld(SEED, 1.0), Planner(), guide, 2.0)
    odometry = [('odometry', 20.0 * sample) for sample in range(50)]
    assert guide.heard == [odometry[0], ('images', 0.0), *odometry[1:26], ('images', 500.0), *odometry[26:]]


@pytest.mark.parametrize('hint_ms', [0.0, 333.3, 900.0])
@pytest.mark.parametrize('hz', [3.0, 1.152])
def test_a_drive_follows_from_the_hints_in_its_file(hint_ms: float, hz: float) -> None:
    drive = driven(hint_ms, hz=hz)
    read = hints_of(json.loads(json.dumps(drive_as_json(drive))))
    assert read == drive.said
    again = run_drive(SteppedWorld(SEED, 4.0), Planner(), RecordedHints(read, 2000.0), hz)
    assert again.steps == drive.steps
    assert again.said == drive.said


def test_recorded_hints_come_in_the_order_in_which_they_came_out() -> None:
    late = Said(0.0, 1.0, Status.OK, Behavior.STOP)
    early = Said(0.5, 0.6, Status.DEGRADED, Behavior.SLOW_DOWN)
    guide = RecordedHints([late, early], 700.0)
    assert guide.due(START_NS + 600 * MS) == []  # it is out now, and counts from the next step on
    ((hint, said),) = guide.due(START_NS + 600 * MS + 1)
    assert (said, hint.stamp_ns, hint.expires_ns) == (early, START_NS + 500 * MS, START_NS + 1200 * MS)
    assert (hint.status, hint.behavior) == (Status.DEGRADED, Behavior.SLOW_DOWN)
    assert [said for _, said in guide.due(START_NS + 2000 * MS)] == [late]
    assert guide.due(START_NS + 3000 * MS) == []


def test_true_hints_end_when_they_are_told_to() -> None:
    drive = run_drive(SteppedWorld(SEED, 2.0), Planner(), TrueHints(300.0), 1.0)
    assert drive.ticks[0].truth == drive.said[0].behavior != Behavior.UNKNOWN
    assert [(at, name == 'UNKNOWN') for at, name in changes(drive)] == [
        (0.0, True), (0.05, False), (0.3, True), (1.05, False), (1.3, True)
    ]  # fmt: skip
