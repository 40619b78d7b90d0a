"""Descriptions at their own pace in the real node: hints at the rate of the cameras, texts between them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy')

from helpers.faulty_node import CRAWL, DAWDLE
from helpers.harness import FaultyNode, Vehicle, base_values, stamp_ns
from helpers.tiny_models import make_tiny_model
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

from stprune_ros.msg import PlanningHint, SceneDescription
from stprune_ros.ros import diagnostics

PERIOD_NS = 1_500_000_000
ONCE = {'inference.describe_period_ms': 600000.0}
LONG = {**ONCE, 'inference.max_new_tokens': 200, 'output.heartbeat_ms': 500.0}


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that passes for a trained one."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return path


@pytest.fixture
def vehicle(domain_id: int) -> Iterator[Vehicle]:
    made = Vehicle(domain_id, '/paced')
    yield made
    made.close()


def start(folder: Path, vehicle: Vehicle, model: Path, values: dict[str, Any], **faults: str) -> FaultyNode:
    return FaultyNode(folder, vehicle, {**base_values(model), **values}, **faults)


def described(vehicle: Vehicle) -> list[SceneDescription]:
    # A set right after a start or a jump may lack its odometry.
    return [text for text in vehicle.texts if text.status in (SceneDescription.OK, SceneDescription.DEGRADED)]


def hinted(vehicle: Vehicle) -> list[PlanningHint]:
    return [hint for hint in vehicle.hints if hint.status in (PlanningHint.OK, PlanningHint.DEGRADED)]


def texts_of(vehicle: Vehicle) -> dict[str, int]:
    """What became of descriptions, as the diagnostics count it."""
    status = vehicle.diagnostic('inference')
    pairs = status.values if status is not None else []
    return {pair.key.removeprefix('texts_'): int(pair.value) for pair in pairs if pair.key.startswith('texts_')}


def wait_for_a_text_in_progress(vehicle: Vehicle, node: FaultyNode) -> None:
    """Its hint is out, and those of newer sets; it has begun, goes on with one token a tick and has not ended."""
    vehicle.wait_until(lambda: texts_of(vehicle).get('begun') == 1 and len(hinted(vehicle)) > 3, 'a text', node)
    assert described(vehicle) == []


def change(vehicle: Vehicle, node: FaultyNode, transition: int) -> None:
    request = ChangeState.Request(transition=Transition(id=transition))
    assert vehicle.call(ChangeState, 'change_state', request, node).success


def test_hints_come_with_every_set_and_descriptions_once_a_period(model, vehicle, tmp_path):
    node = start(tmp_path, vehicle, model, {'inference.describe_period_ms': PERIOD_NS / 1e6})
    try:
        vehicle.wait_until(lambda: len(described(vehicle)) >= 4, 'four descriptions', node)
        values = vehicle.wait_for_diagnostic('inference', diagnostics.ALL_WELL, node)
        assert values['description'] in ('OK', 'DEGRADED')
        counts = texts_of(vehicle)
        assert counts['written'] >= 3 and counts['begun'] - counts['written'] in (0, 1)
        assert counts['failed'] == counts['dropped'] == 0
        hints = {stamp_ns(hint): hint for hint in hinted(vehicle)}
        stamps = [stamp_ns(text) for text in described(vehicle)]
        for one, other in pairwise(stamps):
            assert other - one >= PERIOD_NS
            between = [stamp for stamp in hints if one < stamp < other]
            assert len(between) >= 3, 'at a pace of their own'
            assert [stamp for stamp in between if stamp - one >= PERIOD_NS] == [], 'nor later than that'
        for text in described(vehicle):
            hint = hints[stamp_ns(text)]
            assert stamp_ns(text) in vehicle.stamps
            assert text.info.sequence == hint.info.sequence
            assert 'describe' in text.info.stage_names and 'describe' not in hint.info.stage_names
        said = [stamp_ns(text) for text in vehicle.texts]
        assert said == sorted(said)
        silent = [text for text in vehicle.texts if text.status == SceneDescription.NO_HINT and stamp_ns(text)]
        assert not any(note.startswith('no answer') for text in silent for note in text.info.notes)
    finally:
        code = node.stop()
    assert code == 0


def test_a_long_text_goes_on_between_hints_and_has_the_stamp_of_its_set(model, vehicle, tmp_path):
    node = start(tmp_path, vehicle, model, {**ONCE, 'inference.max_new_tokens': 8}, generate=CRAWL)
    try:
        vehicle.wait_until(lambda: bool(described(vehicle)), 'the description', node)
        [text] = described(vehicle)
        hints = hinted(vehicle)
        assert stamp_ns(text) == stamp_ns(hints[0]), 'that of the first set'
        assert len(hints) >= 8, 'newer ones came meanwhile'
        assert text.info.output_latency > max(hint.info.output_latency for hint in hints[1:4])
        assert sum(text.info.stage_ms) / 1e3 <= text.info.output_latency, 'of its own work only'
    finally:
        code = node.stop()
    assert code == 0


def test_a_text_is_left_for_the_sets_that_wait(model, vehicle, tmp_path):
    """And written to its end, at the latest in half of the time for which it is valid."""
    values = {**ONCE, 'inference.max_new_tokens': 40, 'output.valid_for_ms': 20000.0}
    node = start(tmp_path, vehicle, model, values, generate=DAWDLE)
    try:
        vehicle.wait_until(lambda: bool(described(vehicle)), 'the description', node)
        [text] = described(vehicle)
        between = [stamp_ns(hint) for hint in hinted(vehicle)][1:]
        assert stamp_ns(text) < between[0]
        assert len(between) >= 5, 'hints come before it'
    finally:
        code = node.stop()
    assert code == 0


def test_deactivation_ends_a_text_in_progress(model, vehicle, tmp_path):
    node = start(tmp_path, vehicle, model, LONG, generate=CRAWL)
    try:
        wait_for_a_text_in_progress(vehicle, node)
        change(vehicle, node, Transition.TRANSITION_DEACTIVATE)
        first = {stamp_ns(hint) for hint in vehicle.hints}
        node.fail()
        change(vehicle, node, Transition.TRANSITION_ACTIVATE)
        vehicle.wait_until(lambda: bool(described(vehicle)), 'a description', node)
        assert not first & {stamp_ns(text) for text in described(vehicle)}, 'one of the new activation'
    finally:
        code = node.stop()
    assert code == 0


def test_a_jump_of_the_stamps_ends_a_text_in_progress(model, vehicle, tmp_path):
    node = start(tmp_path, vehicle, model, LONG, generate=CRAWL)
    try:
        wait_for_a_text_in_progress(vehicle, node)
        vehicle.behind_ns = 20_000_000_000
        vehicle.wait_until(lambda: texts_of(vehicle).get('dropped') == 1, 'its end', node)
        node.fail()
        vehicle.wait_until(lambda: bool(described(vehicle)), 'a description', node)
        [hint] = {stamp_ns(hint) for hint in hinted(vehicle)} & {stamp_ns(text) for text in described(vehicle)}
        assert hint < stamp_ns(hinted(vehicle)[0]), 'of the time after it'
    finally:
        code = node.stop()
    assert code == 0


def test_stopping_does_not_wait_for_a_text_in_progress(model, vehicle, tmp_path):
    node = start(tmp_path, vehicle, model, LONG, generate=CRAWL)
    try:
        wait_for_a_text_in_progress(vehicle, node)
    finally:
        code = node.stop()
    assert code == 0
    assert described(vehicle) == []
    assert 'Traceback' not in node.output()


def test_a_text_that_fails_between_ticks_leaves_all_hints_alone(model, vehicle, tmp_path):
    node = start(tmp_path, vehicle, model, LONG, generate=CRAWL)
    try:
        wait_for_a_text_in_progress(vehicle, node)
        node.fail(generate='raise')
        vehicle.wait_until(lambda: vehicle.texts[-1].status == SceneDescription.ERROR, 'ERROR', node)
        failed = vehicle.texts[-1]
        assert failed.info.notes[-1].startswith('the description failed with RuntimeError: CUDA error')
        assert stamp_ns(failed) == stamp_ns(hinted(vehicle)[0]), 'that of its own set'
        vehicle.wait_for_diagnostic('inference', diagnostics.DESCRIPTION_FAILED, node)
        heard = len(hinted(vehicle))
        vehicle.wait_until(lambda: len(hinted(vehicle)) > heard + 3, 'hints', node)
        assert PlanningHint.ERROR not in {hint.status for hint in vehicle.hints}
        assert {key: texts_of(vehicle)[key] for key in ('begun', 'written', 'failed')} == {
            'begun': 1,
            'written': 0,
            'failed': 1,
        }
    finally:
        code = node.stop()
    assert code == 0
