"""A node whose side cameras take turns: what its messages say of each view follows from the stamps alone."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip('rclpy')

from helpers.harness import NodeProcess, Vehicle, base_values, stamp_ns
from helpers.tiny_models import make_tiny_model

from stprune_ros.msg import CameraStatus, PlanningHint

PERIOD_NS = 1_000_000_000
SHIFTS_NS = {'right': 0, 'left': PERIOD_NS // 2}  # of the side cameras in ring order


def test_views_show_the_frame_of_their_turn_and_say_how_old_it_is(domain_id: int, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / 'tiny', 'ringworld')
    (model / 'stprune.json').unlink(missing_ok=True)
    vehicle = Vehicle(domain_id, '/turns')
    node = NodeProcess(tmp_path, vehicle, {**base_values(model), 'cameras.refresh_ms': PERIOD_NS / 1e6})

    def complete() -> list[PlanningHint]:
        return [hint for hint in vehicle.hints if hint.status == PlanningHint.OK]

    def periods() -> set[int]:
        return {stamp_ns(hint) // PERIOD_NS for hint in complete()}

    try:
        vehicle.wait_until(lambda: len(periods()) > 4 and len(complete()) > 12, 'hints of several periods', node)
        hints = complete()
    finally:
        node.stop()
        vehicle.close()
    shown: dict[tuple[str, int], set[int]] = {}
    for hint in hints:
        now = stamp_ns(hint)
        views = {view.name: view.stamp.sec * 10**9 + view.stamp.nanosec for view in hint.info.cameras}
        assert {view.state for view in hint.info.cameras} == {CameraStatus.OK}
        assert views['front'] == now
        for camera, shift in SHIFTS_NS.items():
            assert views[camera] in vehicle.stamps
            assert 0 <= now - views[camera] < PERIOD_NS
            assert (views[camera] + shift) // PERIOD_NS == (now + shift) // PERIOD_NS
            shown.setdefault((camera, (now + shift) // PERIOD_NS), set()).add(views[camera])
    assert all(len(stamps) == 1 for stamps in shown.values())
    assert any(view.stamp != hint.header.stamp for hint in hints for view in hint.info.cameras)
