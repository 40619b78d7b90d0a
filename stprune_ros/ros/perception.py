"""What the node does from one activation to the next deactivation: listen, find the ring, feed the worker.

On the executor's thread, which only stores references; decoding and inference run on the worker's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from nav_msgs.msg import Odometry
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.rig_builder import RigBuilder, rectified_cameras
from stprune_ros.core.stream import SensorStream
from stprune_ros.core.types import Window
from stprune_ros.errors import StpruneError
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.io.images import decode_for_model
from stprune_ros.ros.health import Health
from stprune_ros.ros.inputs import Inputs, Publisher
from stprune_ros.ros.journal import Journal
from stprune_ros.ros.loading import Model
from stprune_ros.ros.outputs import Outputs
from stprune_ros.ros.questions import Questions
from stprune_ros.ros.ticks import Tick
from stprune_ros.ros.worker import Worker
from stprune_ros.settings.settings import Settings
from stprune_ros.settings.topic_names import expand, image_template


class Perception:
    """Subscriptions, calibration and frame sets of one activation; its windows go to ``worker``, facts to ``health``.

    ``rig`` is that of the rig file, None where calibration comes over topics. ``questions`` are told what ends one.
    """

    def __init__(
        self,
        node: Node,
        settings: Settings,
        rig: CameraRig | None,
        model: Model,
        worker: Worker[Tick],
        outputs: Outputs,
        health: Health,
        journal: Journal,
        questions: Questions,
    ) -> None:
        """Subscribe; raises StpruneError where the ring cannot be, and nothing is then left behind."""
        self._node, self._settings, self._model, self._worker = node, settings, model, worker
        self._outputs, self._health, self._journal, self._warn = outputs, health, journal, journal.warn
        self._questions = questions
        self._cameras = tuple(health.cameras)
        self._stream: SensorStream | None = None
        self._pipeline: Pipeline | None = None
        self._jumps = 0
        self._listening_since = health.listening_since = time.monotonic()
        template = image_template(settings.topics, settings.cameras.transport)
        images = {camera: node.resolve_topic_name(expand(template, camera)) for camera in self._cameras}
        self._builder = RigBuilder(settings.cameras, rectified_cameras(settings.cameras, images))
        self._inputs = Inputs(node, settings, self._cameras, journal.warn)
        back = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jump_handle = node.get_clock().create_jump_callback(back, post_callback=self._clock_jumped)
        try:
            self._listen(rig)
        except StpruneError:
            self.close()
            raise

    def close(self) -> Pipeline | None:
        """Unsubscribe, drop what waits and cancel what runs; returns the pipeline whose caches are to be freed."""
        self._inputs.close()
        self._jump_handle.unregister()
        if self._stream is not None:
            self._stream.close()
        self._drop('the node stopped listening')
        self._stream = None
        return self._pipeline

    @property
    def pipeline(self) -> Pipeline | None:
        """What answers, None until the ring is known."""
        return self._pipeline

    def look(self) -> None:
        """Once a second: find out why nothing comes, or comes out of step, or gets lost; ``health`` then holds it."""
        self._inputs.fetch_kept()
        if self._pipeline is None:
            self._complete_rig()  # it may have been waited for long enough
        self._health.unheard = self._inputs.unheard(time.monotonic())
        self._health.untold = self._inputs.untold()
        faults = {camera: self._stream.fault(camera) for camera in self._cameras} if self._stream is not None else {}
        self._health.timing = {camera: fault for camera, fault in faults.items() if fault is not None}
        self._health.mixed = self._stream.mixed if self._stream is not None else frozenset()
        self._health.lost = self._inputs.lost

    def _listen(self, rig: CameraRig | None) -> None:
        if rig is not None:
            self._use_rig(CameraRig((rig.cameras[camera] for camera in self._cameras), rig.notes))
        else:
            self._inputs.calibration(self._on_camera_info, self._on_moving_transforms)
            self._complete_rig()
        self._inputs.transforms(self._on_transforms)
        self._inputs.sensors(self._on_image, self._on_odometry)

    def _use_rig(self, rig: CameraRig) -> None:
        if self._stream is not None:
            self._stream.close()
        stream = SensorStream(self._settings, rig, self._builder.to_base, counters=self._health.counters)
        self._drop('the ring of cameras changed')
        self._outputs.new_stream()
        self._jumps = stream.counters['clock_jumps']
        self._pipeline = Pipeline(self._settings, self._model.backend, rig, self._model.prompt, decode_for_model)
        self._stream = stream
        self._health.used = stream.used
        ring = ', '.join(f'{camera} ({rig.direction(camera)})' for camera in rig.ring)
        self._journal.info(f'ring, clockwise: {ring}; anchor {stream.roles.anchor}')
        self._health.unusable = tuple(camera.reason for camera in rig.unusable)
        for note in rig.notes:
            self._warn(note)

    def _on_camera_info(self, camera: str, message: CameraInfo) -> None:
        if not self._builder.add_camera_info(camera, message):
            return
        if self._pipeline is not None and camera in self._pipeline.rig.ring:
            self._compare_rig(f"camera_info of camera '{camera}' changed; restart the node to use it", self._pipeline)
        else:
            self._complete_rig()

    def _on_transforms(self, message: TFMessage) -> None:
        changed = self._builder.add_transforms(message)
        if self._pipeline is None:
            self._complete_rig()
        elif changed:
            self._compare_rig('', self._pipeline)

    def _on_moving_transforms(self, message: TFMessage) -> None:
        if self._pipeline is None and self._builder.transforms.add_moving(message):
            self._complete_rig()

    def _complete_rig(self) -> None:
        wait_ms = self._settings.cameras.calibration_wait_ms
        waited = bool(wait_ms) and (time.monotonic() - self._listening_since) * 1e3 > wait_ms
        try:
            rig = self._builder.usable(self._cameras, waited)
        except StpruneError:
            self._health.waiting = tuple(self._builder.missing(self._cameras))
            return
        self._health.waiting = ()
        if not rig.unusable:
            self._inputs.forget_moving()
        if self._pipeline is None or not rig.same_as(self._pipeline.rig):
            self._use_rig(rig)

    def _compare_rig(self, keep: str, pipeline: Pipeline) -> None:
        """Calibration came after the ring was known: build it anew, or keep it and say ``keep`` where that is given."""
        try:
            builder, cameras = self._builder, self._cameras
            rig = builder.usable(cameras, waited=True) if pipeline.rig.unusable else builder.build(cameras)
        except StpruneError as error:
            self._health.outdated = f'the ring stays as it was, for its new calibration cannot be used: {error}'
        else:
            same = rig.same_as(pipeline.rig)
            self._health.outdated = '' if same else keep
            if not same and not keep:
                self._use_rig(rig)
        pipeline.calibration_fault = self._health.outdated

    def _on_image(self, camera: str, message: Image | CompressedImage, publisher: Publisher) -> None:
        self._health.cameras[camera] = time.monotonic()
        self._health.received[camera] += 1
        if self._stream is not None:
            now_ns = self._node.get_clock().now().nanoseconds
            self._enqueue(self._stream, self._stream.add_image(camera, message, now_ns, publisher))

    def _on_odometry(self, message: Odometry, publisher: Publisher) -> None:
        self._health.odometry = time.monotonic()
        self._health.odometry_received += 1
        if self._stream is not None:
            self._enqueue(self._stream, self._stream.add_odometry(message, publisher))

    def _enqueue(self, stream: SensorStream, windows: Sequence[Window]) -> None:
        if stream.counters['clock_jumps'] != self._jumps:
            self._jumps = stream.counters['clock_jumps']
            self._drop('the time of the images jumped')  # an answer in flight is of the old time
        self._health.odometry_fault, self._health.odometry_refused = stream.odometry_fault, stream.odometry_refused
        for note in stream.take_notes():
            self._warn(note)
        if windows:
            self._health.spread_ms = windows[-1].current.spread_ns / 1e6
            pipeline = self._pipeline
            assert pipeline is not None  # it comes with the stream
            self._worker.put(*(Tick(window, pipeline, self._health) for window in windows))

    def _drop(self, reason: str) -> None:
        """Throw away what waits and what is in work, and what is left of it: a text in progress."""
        self._questions.give_up(reason)
        self._worker.drop()
        if self._pipeline is not None:
            self._worker.do(self._pipeline.describer.drop)

    def _clock_jumped(self, jump: TimeJump) -> None:
        if self._stream is not None:
            self._stream.reset(f'the clock jumped by {jump.delta.nanoseconds / 1e9:.3f} s')
            self._enqueue(self._stream, ())
