"""Calibration, transforms and odometry with any numbers and names: a ring, a state or a sentence, nothing else."""

from __future__ import annotations

import math
from types import SimpleNamespace as Box
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stprune_ros.core.ego import EgoTrack
from stprune_ros.core.rig import CameraRig
from stprune_ros.core.rig_builder import RigBuilder
from stprune_ros.errors import StpruneError
from stprune_ros.settings.parameters import CameraSettings

MS = 1_000_000
RING = ('a', 'b', 'c')
numbers = st.one_of(st.floats(), st.sampled_from([0.0, 1.0, -1.0, 1e308, -1e308, 1e-308, 5e5, 3.0]))


def towards(azimuth_deg: float) -> tuple[float, float, float, float]:
    """Quaternion x, y, z, w of a camera that looks that way, level."""
    sine, cosine = math.sin(math.radians(azimuth_deg) / 2), math.cos(math.radians(azimuth_deg) / 2)
    return -0.5 * (cosine + sine), 0.5 * (cosine - sine), -0.5 * (cosine - sine), 0.5 * (cosine + sine)


LOOKING = {'a': towards(0), 'b': towards(120), 'c': towards(-120)}


def transform(child: str, rotation: Any, place: Any) -> Box:
    x, y, z, w = rotation
    moved = Box(translation=Box(x=place[0], y=place[1], z=place[2]), rotation=Box(x=x, y=y, z=z, w=w))
    return Box(transforms=[Box(header=Box(frame_id='base_link'), child_frame_id=child, transform=moved)])


def info(frame: str, **changes: Any) -> Box:
    k = [50.0, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0]
    roi = Box(x_offset=0, y_offset=0, width=0, height=0)
    fields = {'width': 64, 'height': 48, 'k': k, 'd': [0.0] * 5, 'r': [0.0] * 9, 'p': [0.0] * 12}
    fields |= {'distortion_model': 'plumb_bob', 'binning_x': 0, 'binning_y': 0, 'roi': roi, **changes}
    return Box(header=Box(frame_id=frame), **fields)


def look_around(rig: CameraRig) -> None:
    """Everything that the pipeline asks of a ring."""
    for camera in rig.ring:
        rig.shared(camera, rig.left(camera), 8)
        rig.overlap_deg(camera, rig.right(camera))
        rig.direction(camera)


@settings(max_examples=300)
@given(st.data())
def test_one_hostile_calibration_leaves_the_others_their_ring(data):
    """Camera a is well; whatever b and c say, the ring is there, and holds a."""
    builder = RigBuilder(CameraSettings(names=RING))
    builder.add_camera_info('a', info('a'))
    builder.add_transforms(transform('a', LOOKING['a'], (1.0, 0.0, 1.0)))
    frames: list[str] = []
    sizes, words = st.integers(0, 2**32 - 1), st.sampled_from(['plumb_bob', '', 'equidistant', 'rational_polynomial'])
    for number, camera in enumerate('bc', 2):
        changes = {
            'k': data.draw(st.one_of(st.just(info('a').k), st.lists(numbers, min_size=9, max_size=9))),
            'd': data.draw(st.lists(numbers, max_size=14)),
            'r': data.draw(st.lists(numbers, min_size=9, max_size=9)),
            'p': data.draw(st.lists(numbers, min_size=12, max_size=12)),
            'width': data.draw(st.one_of(st.just(64), sizes)),
            'height': data.draw(st.one_of(st.just(48), sizes)),
            'distortion_model': data.draw(st.one_of(words, st.text())),
            'binning_x': data.draw(st.integers(0, 3)),
        }
        frames.append(data.draw(st.sampled_from([camera, camera, 'a', ''])))
        builder.add_camera_info(camera, info(frames[-1], **changes))
        rotation = data.draw(st.one_of(st.just(LOOKING[camera]), st.tuples(*[numbers] * 4)))
        place = data.draw(st.one_of(st.just((float(number), 0.0, 1.0)), st.tuples(*[numbers] * 3)))
        builder.add_transforms(transform(camera, rotation, place))
    assert all(sentence.isprintable() and len(sentence) < 1500 for sentence in builder.missing(RING))
    try:
        rig = builder.usable(RING, waited=True)
    except StpruneError:
        assert 'a' in frames  # somebody claims the place of a, so that nobody knows which of them is right
        return
    look_around(rig)
    found = {*rig.ring, *(camera.name for camera in rig.unusable)}
    assert found == {*RING}
    assert 'a' in rig.ring or any('same position' in camera.reason for camera in rig.unusable)
    assert all(camera.reason.isprintable() and len(camera.reason) < 1500 for camera in rig.unusable)


def test_what_has_not_come_is_waited_for_and_what_came_wrong_is_not():
    builder = RigBuilder(CameraSettings(names=RING))
    for camera in 'ab':
        builder.add_camera_info(camera, info(camera))
        builder.add_transforms(transform(camera, LOOKING[camera], (1.0, 0.0, 1.0)))
    with pytest.raises(StpruneError, match="no camera_info for camera 'c' yet"):
        builder.usable(RING)
    rig = builder.usable(RING, waited=True)
    assert rig.ring == ('a', 'b') and [(one.name, one.azimuth) for one in rig.unusable] == [('c', None)]
    builder.add_camera_info('c', info('c', k=[0.0] * 9))
    [unusable] = builder.usable(RING).unusable
    assert unusable.reason.startswith("camera_info of camera 'c' is not calibrated: fx is 0")
    builder.add_camera_info('c', info('c'))
    with pytest.raises(StpruneError, match="camera 'c': no static transform leads from 'c'"):
        builder.usable(RING)
    builder.add_transforms(transform('c', LOOKING['b'], (1.0, 0.0, 1.0)))  # where b is
    rig = builder.usable(RING)
    assert rig.ring == ('a',) and [one.name for one in rig.unusable] == ['b', 'c']
    builder.add_transforms(transform('c', LOOKING['c'], (1.0, 0.0, 1.0)))
    assert builder.usable(RING).unusable == ()
    assert builder.usable(RING).same_as(builder.build(RING))


def test_where_a_camera_without_optics_looks_decides_who_is_foremost():
    builder = RigBuilder(CameraSettings(names=RING))
    for camera in RING:
        builder.add_camera_info(camera, info(camera, k=[0.0] * 9 if camera == 'a' else info(camera).k))
        builder.add_transforms(transform(camera, LOOKING[camera], (1.0, 0.0, 1.0)))
    rig = builder.usable(RING)
    assert [one.name for one in rig.unusable] == ['a'] and rig.unusable[0].azimuth == pytest.approx(0.0, abs=1e-6)
    assert rig.foremost == 'a'


@settings(max_examples=300)
@given(st.data())
def test_odometry_of_any_numbers_is_a_state_or_a_sentence(data):
    track, stamp_ns = EgoTrack(200 * MS), 10**18

    def vector() -> Box:
        return Box(x=data.draw(numbers), y=data.draw(numbers), z=data.draw(numbers))

    for _ in range(data.draw(st.integers(1, 6))):
        stamp_ns += data.draw(st.sampled_from([0, 1, MS, 50 * MS, 100 * MS, 10_000 * MS]))
        orientation = Box(x=data.draw(numbers), y=0.0, z=0.0, w=data.draw(numbers))
        message = Box(
            header=Box(
                stamp=Box(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id=data.draw(st.text(max_size=9))
            ),
            child_frame_id=data.draw(st.sampled_from(['base_link', '', 'imu\n'])),
            pose=Box(pose=Box(position=vector(), orientation=orientation)),
            twist=Box(
                twist=Box(linear=vector(), angular=vector()), covariance=data.draw(st.lists(numbers, max_size=36))
            ),
        )
        said = [*track.add(message), track.reason(stamp_ns)]
        assert all(sentence.isprintable() and len(sentence) < 1000 for sentence in said)
        found = track.at(stamp_ns)
        assert found is None or abs(found.forward) <= 100.0
