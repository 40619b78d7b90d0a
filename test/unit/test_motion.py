"""Static patches are where odometry and calibration say they were; what moves by itself stands out."""

import math

import numpy as np
import pytest
import torch

from stprune_ros.core.motion import planar_motion, static_flow
from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import EgoState
from stprune_ros.pruning.temporal import motion_compensated_volatility, temporal_volatility

ROWS, COLUMNS = 6, 10


def ego(ms, speed=0.0, yaw_rate=0.0):
    return EgoState(ms * 1_000_000, None, None, (speed, 0.0, 0.0), (0.0, 0.0, yaw_rate))


@pytest.fixture
def front(tmp_path):
    path = tmp_path / 'rig.yaml'
    path.write_text('cameras: {F: {azimuth_deg: 0, hfov_deg: 90, width: 320, height: 192, position: [0, 0, 1.5]}}')
    return CameraRig.from_file(path).cameras['F']


def here():
    row, column = np.mgrid[:ROWS, :COLUMNS]
    return np.stack([row.ravel(), column.ravel()], axis=1)


def test_standing_still_moves_nothing(front):
    flow = static_flow(front, ROWS, COLUMNS, [ego(0), ego(500), ego(1000)])
    np.testing.assert_allclose(flow, np.broadcast_to(here(), flow.shape), atol=1e-9)


def test_a_left_turn_moves_the_past_to_the_left(front):
    flow = static_flow(front, ROWS, COLUMNS, [ego(0, yaw_rate=0.2), ego(500, yaw_rate=0.2)])
    shift = flow[0, :, 1] - here()[:, 1]
    seen = np.isfinite(shift)
    assert seen.sum() > ROWS * COLUMNS / 2
    assert (shift[seen] < 0).all()
    # In the middle of a 90 degree lens of 10 columns, 0.1 rad is tan(0.1) * 5 columns.
    middle = shift.reshape(ROWS, COLUMNS)[ROWS // 2, COLUMNS // 2]
    assert middle == pytest.approx(-math.tan(0.1) * 5, abs=0.1)


def test_driving_ahead_brings_the_ground_nearer(front):
    flow = static_flow(front, ROWS, COLUMNS, [ego(0, speed=6.0), ego(500, speed=6.0)])
    rows = flow[0, :, 0].reshape(ROWS, COLUMNS)
    assert (rows[ROWS // 2 + 1 :] < here().reshape(ROWS, COLUMNS, 2)[ROWS // 2 + 1 :, :, 0]).all()


def test_a_frame_without_odometry_has_no_flow(front):
    flow = static_flow(front, ROWS, COLUMNS, [None, ego(500)])
    assert np.isnan(flow[0]).all()
    assert np.isfinite(flow[1]).all()


def test_planar_motion_along_an_arc():
    rotation, translation = planar_motion(ego(0, 2.0, math.pi / 2), ego(1000, 2.0, math.pi / 2))
    np.testing.assert_allclose(rotation @ [1, 0, 0], [0, 1, 0], atol=1e-9)
    assert translation[0] == pytest.approx(translation[1])


def test_compensation_leaves_only_motion_of_its_own():
    """A world that slides by one column each frame, and one patch that does something else."""
    generator = torch.Generator().manual_seed(1)
    world = torch.nn.functional.normalize(torch.randn(ROWS, COLUMNS + 3, 16, generator=generator), dim=-1)
    frames = torch.stack([world[:, t : t + COLUMNS] for t in range(4)])
    frames[:, 2, 4] = torch.nn.functional.normalize(torch.randn(4, 16, generator=generator), dim=-1)
    x = frames.flatten(1, 2)
    row, column = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing='ij')
    flow = torch.stack([torch.stack([row, column + 3 - t], -1).float() for t in range(4)]).flatten(1, 2)
    flow[(flow[..., 1] > COLUMNS - 1)] = torch.nan
    odd = 2 * COLUMNS + 4
    followed = motion_compensated_volatility(x, (ROWS, COLUMNS), flow)
    assert followed.shape == (4, ROWS * COLUMNS)
    # Every place changes; along the motion only the odd patch does, and whatever was hidden behind it.
    assert (temporal_volatility(x) > 0.3).float().mean() > 0.9
    assert followed[-1, odd] > 0.5
    assert followed[-1].median() < 0.01
    assert (followed[-1] > 0.3).float().mean() < 0.1
    assert followed.min() >= 0
    assert followed.max() <= 1


def test_without_any_flow_nothing_is_volatile():
    x = torch.nn.functional.normalize(torch.randn(3, 6, 4), dim=-1)
    assert not motion_compensated_volatility(x, (2, 3), torch.full((3, 6, 2), torch.nan)).any()
