"""The synthetic world: it repeats by seed, moves physically, and its truth is what the pictures show."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from stprune_ros.core.rig_builder import RigBuilder
from stprune_ros.core.types import Behavior
from stprune_ros.errors import StpruneError
from stprune_ros.io.bag_reader import Bag
from stprune_ros.ringworld.recording import ROLLING_S, odometry, quaternion_from_matrix, record_world, render_tick
from stprune_ros.ringworld.renderer import HEIGHT, RING, ROAD, VIEW_NAMES, WIDTH, Camera, RenderedView, render_view
from stprune_ros.ringworld.route import BLOCK, LANE
from stprune_ros.ringworld.shapes import GROUND, MARKING, PAVED, PEDESTRIAN, RED_LIGHT, VEHICLE
from stprune_ros.ringworld.traffic import Actor
from stprune_ros.ringworld.truth import SLOW_WITHIN, STOP_WITHIN, hazard, scene_truth
from stprune_ros.ringworld.world import STEP, STOP_LINE, Ego, Snapshot, World

EGO = Ego(20.0, -LANE, 0.0, 5.0, 0.0)


def actor(kind: str, x: float, y: float, **more: object) -> Actor:
    sizes = {'vehicle': (4.4, 1.9, 1.6), 'pedestrian': (0.5, 0.55, 1.75), 'light': (0.4, 1.2, 5.6)}
    return Actor(0, kind, 'red', x, y, 0.0, *sizes[kind], **more)  # type: ignore[arg-type]


@pytest.fixture(scope='module')
def worlds() -> list[World]:
    return [World(seed, 8.0) for seed in range(9)]


def test_a_world_follows_from_its_seed(worlds: list[World]) -> None:
    again = World(3, 8.0)
    assert again.snapshot(5.31) == worlds[3].snapshot(5.31)
    assert again.snapshot(5.31) != worlds[4].snapshot(5.31)
    one, two = (render_view(again.snapshot(2.0), RING[0]) for _ in range(2))
    assert (one.rgb == two.rgb).all()
    assert (one.actor_ids == two.actor_ids).all()


def test_ego_motion_is_what_its_pose_does(worlds: list[World]) -> None:
    """Speed and yaw rate are the derivatives of the pose, also in a bend."""
    turned = 0
    for world in worlds:
        for t in np.arange(0.5, 7.5, 0.25):
            before, now, after = (world.snapshot(float(t + dt)).ego for dt in (-STEP, 0.0, STEP))
            speed = math.hypot(after.x - before.x, after.y - before.y) / (2 * STEP)
            assert speed == pytest.approx(now.speed, abs=0.25)
            if before.yaw_rate and now.yaw_rate and after.yaw_rate:
                turned += 1
                assert (after.yaw - before.yaw) / (2 * STEP) == pytest.approx(now.yaw_rate, abs=0.06)
    assert turned > 2


def test_nobody_drives_through_anybody(worlds: list[World]) -> None:
    for world in worlds:
        for t in np.arange(0.0, 8.0, 0.5):
            snapshot = world.snapshot(float(t))
            middle = np.array(
                [snapshot.ego.x + 1.3 * math.cos(snapshot.ego.yaw), snapshot.ego.y + 1.3 * math.sin(snapshot.ego.yaw)]
            )
            for other in snapshot.actors:
                if other.kind == 'pedestrian':
                    assert np.hypot(*(middle - (other.x, other.y))) > 1.0


def test_traffic_obeys_the_light_of_its_axis() -> None:
    """No driver crosses a stop line at red, but for those who start too near to it to stop."""
    crossings = 0
    for seed in range(12):
        world = World(seed, 20.0)
        for index, driver in enumerate(world._drivers):
            front = [float(states[index][0]) + 2.2 for states in world._driver_track]
            for step in range(round(3.0 / STEP), len(front) - 1):
                line = math.ceil((front[step] + STOP_LINE) / BLOCK) * BLOCK - STOP_LINE
                if front[step] < line <= front[step + 1]:
                    crossings += 1
                    assert world.light(driver.axis, step * STEP) == 'green'
    assert crossings > 10


def test_plans_and_lights_vary() -> None:
    plans = {World(seed, 0.1).maneuver for seed in range(30)}
    assert plans == {'drive', 'left', 'right', 'stand'}
    world = World(0, 30.0)
    assert {world.light(axis, t) for axis in (0, 1) for t in np.arange(0, 30, 0.5)} == {'red', 'green'}
    assert all('red' in (world.light(0, t), world.light(1, t)) for t in np.arange(0, 30, 0.1))


@pytest.mark.parametrize('index', range(6))
def test_a_thing_appears_where_the_pinhole_says(index: int) -> None:
    camera = RING[index]
    for aside in (-0.25, 0.0, 0.3):
        heading = camera.azimuth + aside
        x, y = EGO.x + 1.3 + 6.0 * math.cos(heading), EGO.y + 6.0 * math.sin(heading)
        picture = render_view(Snapshot(0.0, EGO, (actor('pedestrian', x, y),), seed=1), camera)
        u, v, depth = camera.project(np.array([[x - EGO.x, y - EGO.y, 0.875]]))[0]
        rows, columns = np.nonzero(picture.actor_ids == 0)
        if not 20 < u < 300:
            continue
        assert columns.mean() == pytest.approx(u, abs=1.0)
        assert (rows.min() + rows.max()) / 2 == pytest.approx(v, abs=1.5)
        assert np.median(picture.depth[picture.actor_ids == 0]) == pytest.approx(depth, abs=0.1)
        assert (picture.classes[rows, columns] == PEDESTRIAN).all()


def test_ground_depth_and_occlusion() -> None:
    camera = RING[0]
    near, far = actor('vehicle', EGO.x + 12, EGO.y), actor('vehicle', EGO.x + 24, EGO.y)
    far = Actor(1, *[getattr(far, name) for name in Actor.__slots__[1:]])
    empty = render_view(Snapshot(0.0, EGO, (), seed=1), camera)
    assert empty.depth[-1, 160] == pytest.approx(1.6 / ((191 - 95.5) / camera.focal), rel=1e-3)
    assert np.isinf(empty.depth[0, 160]) or empty.depth[0, 160] > 5
    both = render_view(Snapshot(0.0, EGO, (near, far), seed=1), camera)
    assert (both.classes == VEHICLE).any()
    alone = render_view(Snapshot(0.0, EGO, (far,), seed=1), camera)
    assert (both.actor_ids == 1).sum() < 0.5 * (alone.actor_ids == 1).sum()
    assert (both.actor_ids == 0).sum() > 1000


@pytest.mark.parametrize(
    ('gap', 'expected'),
    [(STOP_WITHIN - 1, Behavior.STOP), (STOP_WITHIN + 1, Behavior.SLOW_DOWN), (SLOW_WITHIN + 1, Behavior.NONE)],
)
def test_hint_follows_the_gap(gap: float, expected: Behavior, worlds: list[World]) -> None:
    blocked = actor('vehicle', EGO.x + 3.6 + gap + 2.2, EGO.y)
    behavior, reason, found = hazard(worlds[0], Snapshot(0.0, EGO, (blocked,), 1), {0})
    assert behavior == expected
    if reason is not None:
        assert found == pytest.approx(gap)
    assert hazard(worlds[0], Snapshot(0.0, EGO, (blocked,), 1), set())[0] == Behavior.NONE  # nobody sees it
    beside = actor('vehicle', blocked.x, EGO.y + 3.5)
    assert hazard(worlds[0], Snapshot(0.0, EGO, (beside,), 1), {0})[0] == Behavior.NONE


def test_every_reason_is_visible_and_real(worlds: list[World]) -> None:
    behaviors = set()
    for world in worlds:
        for t in (3.0, 7.0):
            snapshot = world.snapshot(t)
            pictures = [render_view(snapshot, camera) for camera in RING]
            truth = scene_truth(world, snapshot, RING, pictures)
            behaviors.add(truth.behavior)
            assert (truth.behavior == Behavior.NONE) == (truth.reason_id < 0) == (truth.reason == 'nothing')
            if truth.reason_id < 0:
                continue
            reason = snapshot.actors[truth.reason_id]
            view = truth.reason_views()[0]
            mine = pictures[view].actor_ids == truth.reason_id
            kinds = {'light': RED_LIGHT, 'vehicle': VEHICLE, 'pedestrian': PEDESTRIAN}
            assert (pictures[view].classes[mine] == kinds[reason.kind]).any()
            assert truth.reason == {'light': 'red light', 'vehicle': 'car', 'pedestrian': 'pedestrian'}[reason.kind]
            assert reason.state in ('', 'red')
    assert behaviors == {Behavior.NONE, Behavior.SLOW_DOWN, Behavior.STOP}


def test_recording_reads_back_and_repeats(tmp_path: Path) -> None:
    for name in ('one', 'two'):
        record_world(tmp_path / name / 'bag', 3, 1.0, 2.0)
    files = sorted(path.name for path in (tmp_path / 'one' / 'bag').iterdir())
    assert files == ['bag.mcap', 'metadata.yaml', 'truth.json']
    for file in files:
        assert (tmp_path / 'one' / 'bag' / file).read_bytes() == (tmp_path / 'two' / 'bag' / file).read_bytes()
    truth = json.loads((tmp_path / 'one' / 'bag' / 'truth.json').read_text())
    assert len(truth['ticks']) == 2
    builder, stamps, last = RigBuilder(), [], 0
    with Bag(tmp_path / 'one' / 'bag') as bag:
        assert bag.topics['/tf_static'].latched
        assert bag.topics['/odom'].count == 51
        for entry in bag.messages():
            message = entry.message()
            assert entry.receive_ns >= last
            last = entry.receive_ns
            if entry.topic == '/tf_static':
                builder.add_transforms(message)
            elif entry.topic.endswith('camera_info'):
                builder.add_camera_info(entry.topic.split('/')[2], message)
            elif entry.topic.endswith('compressed'):
                assert cv2.imdecode(np.asarray(message.data), cv2.IMREAD_COLOR).shape == (192, 320, 3)
                stamps.append(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)
    assert sorted({tick['stamp_ns'] for tick in truth['ticks']}) == sorted(set(stamps))
    rig = builder.build([camera.name for camera in RING][::-1])
    assert rig.ring == tuple(camera.name for camera in RING)
    assert tuple(rig.direction(name) for name in rig.ring) == VIEW_NAMES
    for camera in RING:
        assert np.allclose(rig.cameras[camera.name].rotation, camera.rotation)
        assert np.allclose(rig.cameras[camera.name].translation, camera.position)


def test_rolling_cameras_see_their_own_time() -> None:
    world = World(5, 3.0)
    together, _ = render_tick(world, 1.0, rolling=False)
    rolling, _ = render_tick(world, 1.0, rolling=True)
    assert {t for _, t, _ in together} == {1.0}
    times = [t for _, t, _ in rolling]
    assert times == sorted(set(times))
    assert times[0] == 1.0
    assert (rolling[0][2] == together[0][2]).all()
    assert (rolling[-1][2] == render_view(world.snapshot(times[-1]), RING[-1]).rgb).all()


def test_recorded_images_carry_their_own_stamps_and_colours(tmp_path: Path) -> None:
    record_world(tmp_path / 'bag', 5, 0.5, 2.0, rolling=True)
    world = World(5, 0.5 + 6 * ROLLING_S)
    stamps = []
    with Bag(tmp_path / 'bag') as bag:
        for index, camera in enumerate(RING):
            [entry] = bag.messages([f'/camera/{camera.name}/image_raw/compressed'])
            message = entry.message()
            stamps.append(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)
            assert message.header.frame_id == f'{camera.name}_optical'
            rgb = cv2.imdecode(np.asarray(message.data), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
            drawn = render_view(world.snapshot(index * ROLLING_S), camera).rgb
            assert np.abs(rgb - drawn).mean() < 4
    assert np.diff(stamps).tolist() == [13_000_000] * 5


def test_odometry_message_is_the_ego_state() -> None:
    message = odometry(Ego(3.0, -2.0, 1.2, 5.0, 0.3), 1_700_000_000_250_000_000)
    assert (message.header.frame_id, message.child_frame_id) == ('odom', 'base_link')
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1_700_000_000, 250_000_000)
    pose, twist = message.pose.pose, message.twist.twist
    assert (pose.position.x, pose.position.y, pose.position.z) == (3.0, -2.0, 0.0)
    q = pose.orientation
    assert 2 * math.atan2(q.z, q.w) == pytest.approx(1.2)
    assert (q.x, q.y) == (0.0, 0.0)
    assert (twist.linear.x, twist.linear.y, twist.angular.z) == (5.0, 0.0, 0.3)


def test_odometry_comes_before_the_images_of_its_time(tmp_path: Path) -> None:
    record_world(tmp_path / 'bag', 3, 0.5, 10.0)
    latest = -1
    with Bag(tmp_path / 'bag') as bag:
        for entry in bag.messages():
            if entry.topic == '/odom':
                latest = entry.receive_ns
            elif entry.topic.endswith('compressed'):
                assert latest == entry.receive_ns  # 50 Hz and 10 Hz meet at every image


def test_quaternions_turn_like_their_matrices() -> None:
    rotations = [camera.rotation for camera in RING]
    for yaw in np.linspace(-3.0, 3.0, 7):
        c, s = math.cos(yaw), math.sin(yaw)
        rotations.append(np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]))
    for rotation in rotations:
        q = quaternion_from_matrix(rotation)
        assert q[3] >= 0
        xyz, w = q[:3], q[3]
        for axis in np.eye(3):
            assert np.allclose(axis + 2 * np.cross(xyz, np.cross(xyz, axis) + w * axis), rotation @ axis)


def test_errors_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(StpruneError, match='exists already'):
        record_world(tmp_path, 1, 1.0, 5.0)
    with pytest.raises(StpruneError, match='at 100 Hz'):
        record_world(tmp_path / 'bag', 1, 1.0, 100.0)
    with pytest.raises(StpruneError, match='of 0 s'):
        World(1, 0.0)
    with pytest.raises(StpruneError, match='outside this ringworld of 2 s'):
        World(1, 2.0).snapshot(3.0)
    (tmp_path / 'file').write_text('')
    with pytest.raises(StpruneError, match='cannot be written'):
        record_world(tmp_path / 'file' / 'bag', 1, 1.0, 5.0)
    assert not (tmp_path / 'bag').exists()


def ground_points(camera: Camera, picture: RenderedView) -> np.ndarray:
    """World x, y (H, W, 2) of every pixel, from its depth."""
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH]
    ray = np.stack([(u - (WIDTH - 1) / 2) / camera.focal, (v - (HEIGHT - 1) / 2) / camera.focal, np.ones(u.shape)], -1)
    depth = np.where(np.isfinite(picture.depth), picture.depth, 0.0)
    return (ray * depth[..., None]) @ camera.rotation.T[:, :2] + np.array(camera.position)[:2] + (EGO.x, EGO.y)


@pytest.mark.parametrize('index', range(6))
def test_road_is_where_the_lanes_are(index: int) -> None:
    """A ground pixel belongs to a road exactly where its point in the world lies within half a road of an axis."""
    picture = render_view(Snapshot(0.0, EGO, (), seed=1), RING[index])
    points = ground_points(RING[index], picture)
    to_axis = np.abs((points + BLOCK / 2) % BLOCK - BLOCK / 2).min(-1)
    on_ground = np.isin(picture.classes, (GROUND, PAVED, MARKING)) & (np.abs(to_axis - ROAD) > 0.05)
    road = np.isin(picture.classes, (PAVED, MARKING))
    assert (road == (to_axis < ROAD))[on_ground].all()
    assert {True, False} == set(road[on_ground].tolist())


def test_markings_lie_where_a_road_has_them() -> None:
    """Stop lines before the crossing, zebras behind them, nothing in the middle of the crossing or of a lane."""

    def class_at(x: float, y: float) -> int:
        camera = RING[0]
        ego = Ego(x - 8.0, y, 0.0, 0.0, 0.0)
        u, v, _ = camera.project(np.array([[8.0, 0.0, 0.0]]))[0]
        return int(render_view(Snapshot(0.0, ego, (), seed=1), camera).classes[round(v), round(u)])

    assert class_at(-STOP_LINE, -LANE) == MARKING
    assert class_at(-STOP_LINE + 0.6, -LANE) == PAVED
    assert class_at(0.0, -LANE) == PAVED
    assert class_at(-20.0, -LANE) == PAVED
    assert class_at(-20.0, 7.0) == GROUND
