"""The node: six cameras in, planning hints and scene descriptions out.

The executor's one thread only stores references; decoding and inference run on the worker's thread, which publishes.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from threading import Event
from typing import TYPE_CHECKING, Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType, JumpHandle, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.timer import Timer
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.rig_builder import RigBuilder, rectified_cameras
from stprune_ros.core.stream import SensorStream
from stprune_ros.core.types import Answer, Status, Window
from stprune_ros.errors import StpruneError
from stprune_ros.inference.provenance import provenance_of
from stprune_ros.io.images import decode_for_model
from stprune_ros.ros import diagnostics, parameters
from stprune_ros.ros.inputs import Inputs, camera_names
from stprune_ros.ros.outputs import Outputs, failure_sentence
from stprune_ros.ros.worker import Worker
from stprune_ros.settings.settings import Settings
from stprune_ros.settings.topic_names import expand, image_template

if TYPE_CHECKING:
    from stprune_ros.inference.pipeline import Pipeline
    from stprune_ros.vlm.backend import Backend
    from stprune_ros.vlm.prompt import Prompt

NODE_NAME = 'stprune_node'
NUMBER = re.compile(r"'[^']*'|\d+")  # or something quoted, which is a name
SOURCE_PLACE = re.compile(r', at [^ ,]+:\d+')  # rcl names its own source lines
STOP_TIMEOUT_S = 10.0


class StpruneNode(Node):
    """Checks its parameters when made; `configure` gives it a model, `activate` lets it work.

    Between `deactivate` and the next `activate` it keeps the model and says nothing.
    Raises StpruneError for a wrong parameter, rig file or camera name.
    """

    def __init__(self) -> None:
        super().__init__(NODE_NAME)
        self.settings = parameters.declare(self)
        parameters.on_change(self, lambda: self.settings, self._change_settings)
        cameras = self.settings.cameras
        named = {*cameras.names, *cameras.critical, cameras.anchor}
        self._rig = CameraRig.from_file(cameras.rig_file, named) if cameras.rig_file else None
        self._cameras = camera_names(self.settings, self._rig)
        self._warned: set[str] = set()
        self._stream: SensorStream | None = None
        self._pipeline: Pipeline | None = None
        self._window: Window | None = None  # the newest one
        self._jumps = 0
        self._inputs = Inputs(self, self.settings, self._cameras, self._warn_once)
        self._jump_handle: JumpHandle | None = None
        self._active_timers: list[Timer] = []
        self._worker: Worker[Window] = Worker(self._infer, self._inference_failed)

    def configure(self, backend: Backend, prompt: Prompt) -> None:
        """Take a loaded model and create the publishers."""
        self._backend, self._prompt = backend, prompt
        self._outputs = Outputs(self, self._warn_once)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        info = backend.info
        host = f'{info.family}, {info.device}, {info.dtype}'
        self.get_logger().info(f"model '{info.model_id}' ({host}), prompt {prompt.id}")
        for note in info.notes:
            self._warn_once(note)

    def activate(self) -> None:
        """Subscribe and begin to work; after `configure`.

        Raises StpruneError where the ring cannot be, RuntimeError where the last worker has not ended; nothing is then
        left behind.
        """
        self._worker.start()
        try:
            self._listen()
        except StpruneError:
            self.deactivate()
            raise

        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still, these must not
        period_s = self.settings.output.heartbeat_ms / 4e3
        self._active_timers = [
            self.create_timer(period_s, self._heartbeat, clock=steady),
            self.create_timer(1.0, self._diagnose, clock=steady),
        ]
        back = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jump_handle = self.get_clock().create_jump_callback(back, post_callback=self._clock_jumped)

    def _listen(self) -> None:
        """Subscribe, and take the ring from the rig file where there is one."""
        self._warned.clear()  # what still holds is said again
        self._health = diagnostics.Health(dict.fromkeys(self._cameras))
        template = image_template(self.settings.topics, self.settings.cameras.transport)
        images = {camera: self.resolve_topic_name(expand(template, camera)) for camera in self._cameras}
        self._builder = RigBuilder(self.settings.cameras, rectified_cameras(self.settings.cameras, images))
        if self._rig is not None:
            self._use_rig(CameraRig((self._rig.cameras[camera] for camera in self._cameras), self._rig.notes))
        else:
            self._inputs.calibration(self._on_camera_info, self._on_moving_transforms)
            self._complete_rig()
        self._inputs.transforms(self._on_transforms)
        self._inputs.sensors(self._on_image, self._on_odometry)

    def deactivate(self) -> bool:
        """Unsubscribe, cancel what runs and forget what was buffered; False where the worker does not end.

        May be called again, and before any `activate`.
        """
        for timer in self._active_timers:
            self.destroy_timer(timer)
        self._inputs.close()
        if self._jump_handle is not None:
            self._jump_handle.unregister()
        self._active_timers, self._jump_handle = [], None
        ended = self._worker.stop(STOP_TIMEOUT_S)
        if ended and self._pipeline is not None:
            self._pipeline.free()
        self._stream = self._pipeline = self._window = None
        self._jumps = 0
        return ended

    def _change_settings(self, settings: Settings) -> None:
        self.settings = settings

    def _use_rig(self, rig: CameraRig) -> None:
        from stprune_ros.inference.pipeline import Pipeline  # brings torch, which a wrong parameter need not wait for

        self._worker.drop()  # what was asked of another ring
        self._window, self._jumps = None, 0
        self._pipeline = Pipeline(self.settings, self._backend, rig, self._prompt, decode_for_model)
        self._stream = SensorStream(self.settings, rig, self._builder.to_base)
        self._health.counters = self._stream.counters
        ring = ', '.join(f'{camera} ({rig.direction(camera)})' for camera in rig.ring)
        self.get_logger().info(f'ring, clockwise: {ring}; anchor {self._stream.roles.anchor}')
        for note in rig.notes:
            self._warn_once(note)

    def _on_camera_info(self, camera: str, message: CameraInfo) -> None:
        if not self._builder.add_camera_info(camera, message):
            return
        if self._pipeline is not None:
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
        self._health.waiting = tuple(self._builder.missing(self._cameras))
        if self._health.waiting:
            return
        self._inputs.forget_moving()
        self._use_rig(self._builder.build(self._cameras))

    def _compare_rig(self, keep: str, pipeline: Pipeline) -> None:
        """Calibration came after the ring was known: build it anew, or keep it and say ``keep`` where that is given."""
        try:
            rig = self._builder.build(self._cameras)
        except StpruneError as error:
            self._health.outdated = f'the ring stays as it was, for its new calibration cannot be used: {error}'
        else:
            same = rig.same_as(pipeline.rig)
            self._health.outdated = '' if same else keep
            if not same and not keep:
                self._use_rig(rig)
        pipeline.calibration_fault = self._health.outdated
        if self._health.outdated:
            self._warn_once(self._health.outdated)

    def _on_image(self, camera: str, message: Image | CompressedImage) -> None:
        self._health.cameras[camera] = time.monotonic()
        if self._stream is not None:
            self._enqueue(self._stream, self._stream.add_image(camera, message, self.get_clock().now().nanoseconds))

    def _on_odometry(self, message: Odometry) -> None:
        self._health.odometry = time.monotonic()
        if self._stream is not None:
            self._enqueue(self._stream, self._stream.add_odometry(message))

    def _enqueue(self, stream: SensorStream, windows: Sequence[Window]) -> None:
        if stream.counters['clock_jumps'] != self._jumps:
            self._jumps = stream.counters['clock_jumps']
            self._worker.drop()  # an answer in flight is of the old time
        self._health.odometry_fault = stream.odometry_fault
        for note in stream.take_notes():
            self._warn_once(note)
        for window in windows:
            self._window = window
            self._health.spread_ms = window.current.spread_ns / 1e6
        if windows:
            self._worker.put(*windows)

    def _clock_jumped(self, jump: TimeJump) -> None:
        if self._stream is not None:
            self._stream.reset(f'the clock jumped by {jump.delta.nanoseconds / 1e9:.3f} s')
            self._enqueue(self._stream, ())

    def _infer(self, window: Window, cancel: Event) -> None:
        """On the worker's thread: one tick, published piece by piece unless it is cancelled."""
        pipeline, settings = self._pipeline, self.settings
        assert pipeline is not None  # a window comes from a stream, and a stream comes with a pipeline
        pipeline.settings = settings
        hinted: list[Answer] = []

        def publish_hint(answer: Answer) -> None:
            hinted.append(answer)
            if not cancel.is_set():
                self._outputs.hint(answer, settings)

        now_ns = self.get_clock().now().nanoseconds  # 0: simulated time does not run yet
        wait_ms = max(0.0, (now_ns - window.current.stamp_ns) / 1e6) if now_ns else 0.0
        with_images = self._outputs.mosaic_wanted
        answer = pipeline.run(window, wait_ms=wait_ms, cancel=cancel, on_hint=publish_hint, with_images=with_images)
        if cancel.is_set():
            return
        if not hinted:
            publish_hint(answer)
        self._outputs.description(answer, settings)
        if with_images:
            self._outputs.mosaic(answer, settings)
        self._health.answer, self._health.failures = answer.without_images(), 0
        for note in answer.notes:
            self._warn_once(note)

    def _inference_failed(self, window: Window, error: Exception) -> None:
        """On the worker's thread: say so and go on with empty caches."""
        note = failure_sentence(error)
        if self._first_time(note):
            self.get_logger().error(note)
        self._health.failures += 1
        self._publish_status(Status.ERROR, window, (note,))
        if self._pipeline is not None:
            self._pipeline.free()

    def _heartbeat(self) -> None:
        if self._outputs.seconds_since_publish < self.settings.output.heartbeat_ms / 1e3:
            return
        silent = self._health.silent_cameras(self.settings, time.monotonic())
        notes = (*self._health.waiting, *silent, *self._health.unheard.values(), *self._health.timing.values())
        for note in notes:
            self._warn_once(note)
        self._publish_status(Status.NO_HINT, self._window, notes)

    def _publish_status(self, status: Status, window: Window | None, notes: Sequence[str]) -> None:
        provenance = provenance_of(self.settings, self._backend.info, self._prompt.id)
        answer = Answer.without_result(status, window, provenance, notes=notes)
        self._outputs.hint(answer, self.settings)
        self._outputs.description(answer, self.settings)

    def _diagnose(self) -> None:
        self._health.skipped, self._health.latency_s = self._worker.skipped, self._outputs.latency_s
        self._inputs.fetch_kept()
        self._health.unheard = self._inputs.unheard(time.monotonic())
        faults = {camera: self._stream.fault(camera) for camera in self._cameras} if self._stream is not None else {}
        self._health.timing = {camera: fault for camera, fault in faults.items() if fault is not None}
        for note in (*self._health.unheard.values(), *self._health.timing.values()):
            self._warn_once(note)
        found = diagnostics.reports(self._health, self.settings, time.monotonic())
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostics.to_array(self.get_fully_qualified_name(), found, stamp))

    def _first_time(self, text: str) -> bool:
        # The same trouble with other numbers is the same trouble; that of another camera is not.
        kind = NUMBER.sub(lambda found: found[0] if found[0].startswith("'") else '#', text)
        known = kind in self._warned
        self._warned.add(kind)
        return not known

    def _warn_once(self, text: str) -> None:
        if self._first_time(text):
            self.get_logger().warning(text)


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code: 1, after a word on stderr, where it cannot start."""
    on_signals(lambda *_: sys.exit(0))  # while it loads there is nothing to clean up
    try:
        # rclpy's own handlers would pull the context away from under the worker.
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        node = StpruneNode()
        load_and_activate(node)
    except (StpruneError, rclpy_implementation.RCLError) as error:
        print(f'{NODE_NAME}: {SOURCE_PLACE.sub("", str(error))}', file=sys.stderr)
        return 1
    stopped: list[int] = []
    on_signals(lambda number, _: stopped.append(number))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not stopped:
        executor.spin_once(timeout_sec=0.2)
    ended = node.deactivate()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    if not ended:  # a thread inside a native call would crash the interpreter's own end
        os._exit(0)
    return 0


def on_signals(handler: Callable[[int, Any], Any]) -> None:
    """Handle SIGINT and SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def load_and_activate(node: StpruneNode) -> None:
    """Load what the node's parameters ask for and activate it. Raises StpruneError."""
    from stprune_ros.vlm.loading import load_model

    node.get_logger().info('loading the model')
    model = load_model(node.settings)
    # Importing and compiling take a second, for which the executor has no time once images come.
    from stprune_ros.inference.pipeline import warm_up

    warm_up(model[0].info.device)
    node.configure(*model)
    node.activate()


if __name__ == '__main__':
    sys.exit(main())
