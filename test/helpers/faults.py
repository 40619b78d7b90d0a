"""Faults of cameras, odometry, time, backend and node: each begins, lasts for a while, and is taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, inf, nan
from random import Random
from typing import Any

import cv2
import numpy as np
from helpers.faulty_vehicle import FaultyVehicle, driving
from helpers.harness import AZIMUTH_DEG, FaultyNode, compressed_image, jpeg
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage

HOUR_NS = 3600 * 10**9
LATE_S = 0.3
RARE_S = 8.0  # until a third of the images is less than half of them over the 10 s that rates look at
Undo = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """``begin`` starts it and returns what ends it.

    Of sets that were sent ``degrades_s`` after its begin, or later, none may be answered with OK, and the status
    ``diagnostic`` is not OK once it lasts for ``shows_s``. Two faults may fall together unless they are of one
    ``room``, or one of them is ``alone``.
    """

    name: str
    room: str
    begin: Callable[[Scene], Undo]
    degrades_s: float = inf
    diagnostic: str = ''
    shows_s: float = 4.0
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """What faults act on; ``random`` draws what varies.

    ``change`` makes a transition, ``describes`` hears whether descriptions are written.
    """

    vehicle: FaultyVehicle
    node: FaultyNode
    change: Callable[[str], None]
    describes: Callable[[bool], None]
    random: Random

    def set_parameters(self, values: Mapping[str, bool | int | float | str]) -> None:
        """Set dynamic parameters."""
        given = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        request = SetParameters.Request(parameters=given)
        answer = self.vehicle.call(SetParameters, 'set_parameters', request, self.node)
        assert all(result.successful for result in answer.results), answer


def faults() -> list[Fault]:
    """Every fault, in a fixed order."""
    return [*_camera_faults(), *_odometry_faults(), *_backend_faults(), *_node_faults(), *_time_faults()]


def _camera_faults() -> list[Fault]:
    found = []
    broken = {'truncated': jpeg()[:300], 'empty': b''}
    for camera in AZIMUTH_DEG:
        shown = f'camera {camera}'
        found += [
            Fault(f'{camera} dies', 'camera', lambda scene, camera=camera: _dies(scene, [camera]), 0.5, shown),
            Fault(f'{camera} freezes', 'camera', lambda scene, camera=camera: _freezes(scene, [camera]), 2.0, shown),
            Fault(f'{camera} has no stamps', 'camera', _stamped(camera, lambda ns: 0), 0.5, shown),
            Fault(f'{camera} has two publishers', 'camera', _doubled(camera), 1.5, shown),
            Fault(f'{camera} is no image', 'camera', _shows(camera, no_image), 0.5, shown),
        ]
        found += [
            Fault(f'{camera} is {what}', 'camera', _shows(camera, lambda data=data: compressed_image(data)), 0.5, shown)
            for what, data in broken.items()
        ]
    for camera in ('right', 'left'):
        shown = f'camera {camera}'
        found += [
            Fault(f'{camera} repeats a stamp', 'camera', _repeats(camera), 1.0, shown),
            Fault(f'{camera} is an hour ahead', 'camera', _stamped(camera, lambda ns: ns + HOUR_NS), 1.0, shown),
            Fault(f'{camera} is an hour behind', 'camera', _stamped(camera, lambda ns: ns - HOUR_NS), 1.0, shown),
            Fault(f'{camera} comes late', 'camera', lambda scene, camera=camera: _late(scene, camera), 1.0, shown),
            Fault(f'{camera} comes in wrong order', 'camera', lambda scene, camera=camera: _swaps(scene, camera)),
            Fault(f'{camera} sends every third image', 'camera', _rare(camera), inf, shown, RARE_S),
            Fault(f'{camera} has another size', 'camera', _shows(camera, lambda: compressed_image(jpeg(scale=2)))),
        ]

    def ahead(ns: int) -> int:
        return ns + HOUR_NS

    def everywhere(scene: Scene) -> Undo:
        return _changed(scene.vehicle, 'stamp_of', dict.fromkeys(AZIMUTH_DEG, ahead))

    return [
        *found,
        Fault('all cameras die', 'camera', lambda scene: _dies(scene, AZIMUTH_DEG), 0.5, 'camera left'),
        Fault('all cameras freeze', 'camera', lambda scene: _freezes(scene, AZIMUTH_DEG), 2.0, 'camera left'),
        Fault('both sides die', 'camera', lambda scene: _dies(scene, ('left', 'right')), 0.5, 'camera left'),
        Fault('left has another shape', 'camera', _shows('left', tall_image), 0.5, 'camera left'),
        Fault('front comes late', 'camera', lambda scene: _late(scene, 'front')),
        Fault('front is an hour behind', 'camera', _stamped('front', lambda ns: ns - HOUR_NS), 1.0, 'camera front'),
        Fault('front is an hour ahead', 'camera', _stamped('front', ahead), 1.0, alone=True),
        Fault('all cameras are an hour ahead', 'camera', everywhere, 1.0, 'clock', alone=True),
    ]


def _odometry_faults() -> list[Fault]:
    def says(change: Callable[[Odometry, Random], None]) -> Callable[[Scene], Undo]:
        def begin(scene: Scene) -> Undo:
            def drive() -> Odometry:
                message = driving()
                change(message, scene.random)
                return message

            return _changed(scene.vehicle, 'drive', drive)

        return begin

    def speed(speed: float) -> Callable[[Odometry, Random], None]:
        return lambda message, _: setattr(message.twist.twist.linear, 'x', speed)

    def leap(message: Odometry, random: Random) -> None:
        message.twist.twist.linear.x += 60.0 * (random.random() < 0.2)

    def jump(message: Odometry, _: Random) -> None:
        message.pose.pose.position.x += 100.0 * (message.pose.pose.position.x // 10.0)  # every two seconds

    def contradict(message: Odometry, _: Random) -> None:
        message.pose.pose.position.x *= 4.0

    def elsewhere(message: Odometry, _: Random) -> None:
        message.child_frame_id = 'elsewhere'

    def behind(ns: int) -> int:
        return ns - HOUR_NS

    shown = 'odometry'
    return [
        Fault('odometry stops', 'odometry', lambda scene: _changed(scene.vehicle, 'drive', lambda: None), 1.0, shown),
        Fault('odometry is NaN', 'odometry', says(speed(nan)), 1.0, shown),
        Fault('odometry is too fast', 'odometry', says(speed(500.0)), 1.0, shown),
        Fault('odometry is in another frame', 'odometry', says(elsewhere), 1.0, shown),
        Fault('odometry is an hour behind', 'odometry', _stamped('odometry', behind), 1.0, shown),
        Fault('odometry contradicts itself', 'odometry', says(contradict), 2.0, shown),
        Fault('odometry leaps', 'odometry', says(leap)),
        Fault('the position jumps', 'odometry', says(jump)),
        Fault('odometry has two publishers', 'odometry', _doubled('odometry'), 1.5, shown),
        Fault('odometry has no stamps', 'odometry', _stamped('odometry', lambda ns: 0), 1.0, shown),
    ]


def _backend_faults() -> list[Fault]:
    def fails(**how: str) -> Callable[[Scene], Undo]:
        def begin(scene: Scene) -> Undo:
            scene.node.fail(**how)
            return scene.node.fail

        return begin

    found = []
    for place in ('encode', 'prefill', 'score'):
        found += [
            Fault(f'{place}: {how}', 'backend', fails(**{place: how}), 1.0, 'inference')
            for how in ('raise', 'oom', 'memory', 'exit', 'hang')
        ]
        both = fails(**{place: 'raise', 'free': 'raise'})
        found += [
            Fault(f'{place}: slow', 'backend', fails(**{place: 'slow'})),
            Fault(f'{place} and free: raise', 'backend', both, 1.0, 'inference'),
        ]
    found += [
        Fault(f'score: raise, free: {how}', 'backend', fails(score='raise', free=how), 1.0, 'inference')
        for how in ('slow', 'hang')
    ]
    found += [
        Fault(f'generate: {how}', 'backend', fails(generate=how), inf, 'inference')
        for how in ('raise', 'oom', 'memory', 'exit', 'hang')
    ]

    def limited(parameter: str, limit: float, usual: float, **how: str) -> Callable[[Scene], Undo]:
        def begin(scene: Scene) -> Undo:
            scene.node.fail(**how)
            scene.set_parameters({parameter: limit})

            def end() -> None:
                scene.node.fail()
                scene.set_parameters({parameter: usual})

            return end

        return begin

    late = limited('output.valid_for_ms', 1000.0, 60000.0, score='slow')
    overdue, cut = (limited('inference.deadline_ms', 1000.0, 0.0, **{at: 'slow'}) for at in ('prefill', 'generate'))
    return [
        *found,
        Fault('generate: slow', 'backend', fails(generate='slow')),
        Fault('generate: mute', 'backend', fails(generate='mute')),
        Fault('score: nan', 'backend', fails(score='nan'), 1.0, 'inference'),
        Fault('answers come late', 'backend', late, 1.0, 'inference'),
        Fault('hints miss their deadline', 'backend', overdue, 1.0, 'inference'),
        Fault('descriptions miss their deadline', 'backend', cut),
        Fault('hints miss their target', 'backend', limited('latency.target_ms', 1.0, 0.0), inf, 'latency'),
    ]


def _node_faults() -> list[Fault]:
    def goes_through(down: tuple[str, ...], up: tuple[str, ...]) -> Callable[[Scene], Undo]:
        def begin(scene: Scene) -> Undo:
            for transition in down:
                scene.change(transition)
            return lambda: [scene.change(transition) for transition in up] and None

        return begin

    def turned(scene: Scene) -> Undo:
        scene.vehicle.turn('left', scene.random.uniform(3.0, 12.0))
        return lambda: scene.vehicle.turn('left', 0.0)

    def sheared(scene: Scene) -> Undo:
        scene.vehicle.sheared.add('left')
        return scene.vehicle.sheared.clear

    return [
        Fault('the node pauses', 'node', goes_through(('deactivate',), ('activate',)), 0.5, 'lifecycle', alone=True),
        Fault(
            'the node loads anew',
            'node',
            goes_through(('deactivate', 'cleanup'), ('configure', 'activate')),
            0.5,
            'lifecycle',
            alone=True,
        ),
        Fault('parameters change', 'node', _parameters),
        Fault('left is mounted anew', 'node', turned),
        Fault('left has another camera_info', 'node', sheared, 1.0, 'rig'),
    ]


def _time_faults() -> list[Fault]:
    def jumps_back(scene: Scene) -> Undo:
        return _changed(scene.vehicle, 'behind_ns', scene.random.randrange(2, 30) * 10**9)

    def sets_period(period_s: float) -> Callable[[Scene], Undo]:
        return lambda scene: _changed(scene.vehicle, 'period_s', period_s)

    return [
        Fault('time jumps back', 'time', jumps_back, alone=True),
        Fault('a set every three seconds', 'time', sets_period(3.0), alone=True),
        *(Fault(f'{rate} sets per second', 'time', sets_period(1 / rate), alone=True) for rate in (30, 10, 5)),
        Fault(
            'time stands still',
            'time',
            lambda scene: _changed(scene.vehicle.clock, 'runs', False),
            3.0,
            'clock',
            5.0,
            True,
        ),
    ]


def no_image() -> CompressedImage:
    """Bytes that are none, others each time: those that stay the same would be frozen."""
    return compressed_image(b'no image' + np.random.default_rng().bytes(7))


def tall_image() -> CompressedImage:
    """An image of another aspect than that of camera_info."""
    pixels = np.random.default_rng(5).integers(0, 255, (96, 64, 3), np.uint8)
    return compressed_image(cv2.imencode('.jpg', pixels)[1].tobytes())


def _changed(holder: Any, name: str, value: Any) -> Undo:
    before = getattr(holder, name)
    setattr(holder, name, value)
    return lambda: setattr(holder, name, before)


def _dies(scene: Scene, cameras: Any) -> Undo:
    return _changed(
        scene.vehicle, 'images', {name: make for name, make in scene.vehicle.images.items() if name not in cameras}
    )


def _freezes(scene: Scene, cameras: Any) -> Undo:
    return _changed(scene.vehicle, 'frozen', set(cameras))


def _late(scene: Scene, camera: str) -> Undo:
    scene.vehicle.delayed[camera] = ceil(LATE_S / scene.vehicle.period_s)
    return scene.vehicle.delayed.clear


def _swaps(scene: Scene, camera: str) -> Undo:
    scene.vehicle.swapped.add(camera)
    return scene.vehicle.swapped.clear


def _rare(camera: str) -> Callable[[Scene], Undo]:
    def begin(scene: Scene) -> Undo:
        scene.vehicle.every[camera] = 3
        return scene.vehicle.every.clear

    return begin


def _doubled(source: str) -> Callable[[Scene], Undo]:
    def begin(scene: Scene) -> Undo:
        scene.vehicle.begin_second(source)
        return lambda: scene.vehicle.end_second(source)

    return begin


def _shows(camera: str, make: Callable[[], Any]) -> Callable[[Scene], Undo]:
    def begin(scene: Scene) -> Undo:
        return _changed(scene.vehicle, 'images', {**scene.vehicle.images, camera: make})

    return begin


def _stamped(source: str, stamp_of: Callable[[int], int]) -> Callable[[Scene], Undo]:
    def begin(scene: Scene) -> Undo:
        return _changed(scene.vehicle, 'stamp_of', {**scene.vehicle.stamp_of, source: stamp_of})

    return begin


def _repeats(camera: str) -> Callable[[Scene], Undo]:
    def begin(scene: Scene) -> Undo:
        fixed = scene.vehicle.stamp_ns
        return _stamped(camera, lambda ns: fixed)(scene)

    return begin


def _parameters(scene: Scene) -> Undo:
    def set_to(keep_ratio: float, describe: bool, tokens: int, method: str) -> None:
        scene.describes(False)
        scene.set_parameters(
            {
                'pruning.keep_ratio': keep_ratio,
                'inference.describe': describe,
                'inference.max_new_tokens': tokens,
                'pruning.method': method,
            }
        )
        scene.describes(describe)

    draw = scene.random
    method = draw.choice(['st_prune_joint', 'st_prune', 'random', 'divprune', 'none'])
    set_to(draw.uniform(0.2, 1.0), draw.random() < 0.5, draw.randrange(1, 8), method)
    return lambda: set_to(0.5, True, 4, 'st_prune_joint')
