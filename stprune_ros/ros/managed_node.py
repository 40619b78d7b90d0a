"""The node as ROS sees it: a managed node with its states, its heartbeat and its diagnostics.

Unconfigured: nothing is loaded. Inactive: the model is there, or loads on the worker's thread. Active: the node listens
and infers, as soon as the model is there. It reports in every state.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Provenance, Status
from stprune_ros.errors import StpruneError, one_line
from stprune_ros.inference.provenance import provenance_of
from stprune_ros.pruning.config import LEFT_TO_MODEL
from stprune_ros.ros import diagnostics, parameters, topic_graph, transitions
from stprune_ros.ros.health import ACTIVE, Health
from stprune_ros.ros.inputs import camera_names
from stprune_ros.ros.journal import Journal
from stprune_ros.ros.loading import Loading, Model
from stprune_ros.ros.outputs import Outputs
from stprune_ros.ros.questions import Questions
from stprune_ros.ros.ros_time import RosTime
from stprune_ros.ros.supervisor import CANNOT_START, Ending, Supervisor
from stprune_ros.ros.ticks import Tick, Ticks
from stprune_ros.ros.worker import Worker
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.hint_calibration import HintCalibration
from stprune_ros.vlm.loading import as_its_model_asks, load_calibration, require_model

if TYPE_CHECKING:
    from stprune_ros.inference.pipeline import Pipeline
    from stprune_ros.ros.perception import Perception

NODE_NAME = 'stprune_node'
SUPERVISE_S = 0.1
INPUTS = 'inputs'  # a source of the journal
TWIN_AFTER_S = 30.0  # one that was killed stays in the graph for the 20 s of DDS's lease
LAST_WORDS_S = 0.2  # for readers of the outputs, at the end
STILL_LOADING = 'the model is still loading'
INACTIVE = 'the node is not active: activate it (ros2 lifecycle set, or lifecycle.autostart)'


class StpruneNode(LifecycleNode):
    """Checks its parameters when made; then transitions, or `start`, decide.

    ``ending`` says why the process should end, None as long as it should not.
    Raises StpruneError for a wrong parameter.
    """

    def __init__(self) -> None:
        super().__init__(NODE_NAME)
        self.settings = parameters.declare(self)
        parameters.on_change(self, lambda: self.settings, self._change_settings)
        self.ending: Ending | None = None
        self._autostarts = False  # until the model is there
        self._rig: CameraRig | None = None
        self._cameras: tuple[str, ...] = ()
        self._loading: Loading | None = None
        self._model: Model | None = None
        self._calibration: HintCalibration | None = None  # from configuring on
        self._perception: Perception | None = None
        self._transition_fault = self._transition_refused = self._loading_fault = ''
        self._alone = time.monotonic()  # when there was no other node of this name last
        self._counters: Counter[str] = Counter()  # of all streams
        self._health = self._new_health()
        self._journal = Journal(self.get_logger())
        self._time = RosTime(self.get_clock())
        self._outputs = Outputs(self, self._time, self._journal)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        shared = (self._time, self._outputs, self._journal)
        self.questions = Questions(self, lambda: self.settings, self._answering, *shared)
        self._ticks = Ticks(
            lambda: self.settings, *shared, lambda: self._worker.has_waiting, lambda: self.questions.current
        )
        self._worker: Worker[Tick] = Worker(self._ticks.run, self._ticks.failed)
        self._supervisor = Supervisor(self._worker, self._journal)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still, these must not
        self.create_timer(SUPERVISE_S, self._supervise, clock=steady)
        self.create_timer(self.settings.output.heartbeat_ms / 4e3, self._heartbeat, clock=steady)
        self.create_timer(1.0, self._diagnose, clock=steady)
        change_state, self._change_state = self._service_change_state, self._service_change_state.callback
        change_state.callback = self._asked_to_change

    def start(self) -> None:
        """Configure, and activate once the model is there, where ``lifecycle.autostart`` says so."""
        self._autostarts = self.settings.lifecycle.autostart
        if self._autostarts:
            self.trigger_configure()
        else:
            self._journal.warn(INACTIVE)

    def close(self, timeout_s: float) -> None:
        """Leave every state at once; the worker may still be at work after ``timeout_s``."""
        if self._perception is not None:
            self._perception.close()
        self._perception = None
        self._outputs.flush(LAST_WORDS_S)
        self._worker.stop(timeout_s)

    def destroy_node(self) -> None:
        """Leave the graph at once: rclpy's state machine would keep the node, and with it the DDS participant."""
        self.questions.close()
        self._state_machine.destroy_when_not_in_use()
        super().destroy_node()

    @property
    def hangs(self) -> bool:
        """Whether inference takes too long just now."""
        return bool(self._supervisor.hang_s)

    @property
    def longest_silence_s(self) -> float:
        """For how long the executor may stand still before the process is better ended; 0: for ever."""
        busy = self._worker.busy
        loads = self._loading is not None or (busy is not None and busy.slow)
        return (self.settings.model.load_timeout_ms if loads else self.settings.inference.abort_ms) / 1e3

    def callback_failed(self, error: Exception) -> None:
        """A callback raised ``error``: a fault in the code, which must not end the node."""
        self._journal.warn(f'a callback failed with {type(error).__name__}: {one_line(error)}')

    # Transitions: rclpy would swallow what they raise.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the files that parameters name and have the model loaded; the state is left at once."""
        return self._transition(transitions.CONFIGURE, state, self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listen and infer; while the model loads: as soon as it is there."""
        return self._transition(transitions.ACTIVATE, state, self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening and cancel what runs; the model stays."""
        return self._transition(transitions.DEACTIVATE, state, self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the model; what still loads is thrown away when it is there."""
        return self._transition(transitions.CLEANUP, state, self._cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The process ends."""
        self.ending = self.ending or Ending(0)
        return self._transition(transitions.SHUTDOWN, state, self._abandon)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition raised something unforeseen: back to the beginning."""
        try:
            self._abandon()
        except Exception as error:
            self._journal.error(f'cleaning up failed with {type(error).__name__}: {one_line(error)}')
            return TransitionCallbackReturn.FAILURE
        self._journal.info(f"after that the node is '{transitions.GOALS[transitions.CLEANUP]}'")
        return TransitionCallbackReturn.SUCCESS

    def _asked_to_change(self, request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
        """The service: what the state does not allow is refused in words, where rclpy would log numbers."""
        self._transition_refused = transitions.refusal(request.transition, self._state_machine)
        if not self._transition_refused:
            return self._change_state(request, response)
        self._journal.warn(self._transition_refused)
        response.success = False
        return response

    def _transition(self, name: str, state: LifecycleState, action: Callable[[], None]) -> TransitionCallbackReturn:
        result = self._guarded(name, action)
        if result == TransitionCallbackReturn.SUCCESS:
            self._journal.info(f"transition '{name}': the node was '{state.label}' and is '{transitions.GOALS[name]}'")
        return result

    def _guarded(self, name: str, action: Callable[[], None]) -> TransitionCallbackReturn:
        fault = ''
        try:
            action()
        except StpruneError as error:
            fault = str(error)
        except Exception as error:
            self._transition_failed(name, f'{type(error).__name__}: {one_line(error)}')
            return TransitionCallbackReturn.ERROR
        if fault:
            self._transition_failed(name, fault)
            return TransitionCallbackReturn.FAILURE
        self._transition_fault = ''
        return TransitionCallbackReturn.SUCCESS

    def _transition_failed(self, name: str, reason: str) -> None:
        line = '; '.join(reason.splitlines())
        self._transition_fault = f'{name}: {line}'
        self._journal.error(f"transition '{name}' failed: {line}")
        if self._autostarts:
            self.ending = Ending(CANNOT_START, reason)

    def _configure(self) -> None:
        cameras = self.settings.cameras
        named = {*cameras.names, *cameras.critical, cameras.anchor}
        self._rig = CameraRig.from_file(cameras.rig_file, named) if cameras.rig_file else None
        self._cameras = self._journal.cameras = camera_names(self.settings, self._rig)
        require_model(self.settings)
        self._calibration = load_calibration(self.settings)
        self._health = self._new_health(self._cameras)
        self._loading, self._loading_fault = Loading(self.settings, self._say), ''
        self._journal.info('loading the model')
        self._worker.do(self._loading.run, slow=True)

    def _activate(self) -> None:
        if self._model is not None:
            self._begin(self._model)

    def _begin(self, model: Model) -> None:
        from stprune_ros.ros.perception import Perception  # brings torch, which came with the model

        self._health = health = self._new_health(self._cameras)
        arguments = (self.settings, self._rig, model, self._worker, self._outputs, health, self._journal)
        self._perception = Perception(self, *arguments, self.questions)

    def _answering(self) -> Pipeline:
        """What answers questions. Raises StpruneError where nothing can be asked just now."""
        if self._perception is None:
            raise StpruneError(f'nothing can be asked: {"; ".join(self._state_notes()) or STILL_LOADING}')
        if self._perception.pipeline is None:
            waiting = self._health.waiting or ('the ring is not known yet',)
            raise StpruneError(f'nothing can be asked: {"; ".join(waiting)}')
        return self._perception.pipeline

    def _deactivate(self) -> None:
        self._autostarts = False  # whoever says so while the model loads means it
        perception, self._perception = self._perception, None
        self._journal.forget()  # what still holds at the next activation is said again
        pipeline = perception.close() if perception is not None else None
        if pipeline is not None:
            self._worker.do(lambda: self._ticks.free(pipeline))
        self._health = self._new_health(self._cameras)

    def _cleanup(self) -> None:
        self._autostarts = False
        if self._loading is not None:
            self._loading.abandoned = True
        model, self._model, self._loading, self._calibration = self._model, None, None, None
        if model is not None:
            held = [model]
            del model
            self._worker.do(lambda: self._forget(held))
        self._health = self._new_health()

    def _new_health(self, cameras: Sequence[str] = ()) -> Health:
        return Health(dict.fromkeys(cameras), counters=self._counters)

    def _forget(self, held: list[Model]) -> None:
        """On the worker's thread: free a model that nobody else holds any more."""
        from stprune_ros.vlm.device import release_memory

        self._ticks.free(held.pop().backend)
        release_memory()

    def _abandon(self) -> None:
        self._deactivate()
        self._cleanup()

    def _change_settings(self, settings: Settings) -> None:
        if self._calibration is not None:  # it holds for some parameters only
            self._calibration.require_settings(as_its_model_asks(settings))
        self.settings = settings

    def _say(self, sentence: str) -> None:
        self._journal.info(sentence)

    # On timers.

    def _supervise(self) -> None:
        self._time.now_ns()
        self.questions.look()
        loading = self._loading
        if loading is not None and loading.done.is_set():
            self._loading = None
            self._loaded(loading)
        if self.ending is None:
            self.ending = self._supervisor.look(self.settings)
        hung, self._health.hang_s = bool(self._health.hang_s), self._supervisor.hang_s
        if self.ending is not None and self._perception is not None:  # nothing may follow the last words
            self._perception.close()
            self._perception = None
        if self.ending is not None or (self.hangs and not hung):
            self._report(at_once=True)

    def _loaded(self, loading: Loading) -> None:
        if loading.model is None:
            self._loading_failed(loading.fault)
            return
        self._model = model = loading.model
        info = model.info
        host = f'{info.family}, {info.device}, {info.dtype}'
        calibration = model.prompt.calibration
        applied = f', hint calibration {calibration.id}' if calibration is not None else ''
        self._journal.info(f"model '{info.model_id}' ({host}), prompt {model.prompt.id}{applied}")
        if self.settings.pruning.joint_common == LEFT_TO_MODEL:
            weight = self.settings.pruning.for_model(info.joint_common).joint_common
            self._journal.info(f'pruning.joint_common is left to the model: {weight:g}')
        for note in info.notes:
            self._journal.warn(note)
        if self._state == ACTIVE:  # it was told so meanwhile
            if self._guarded(transitions.ACTIVATE, self._activate) != TransitionCallbackReturn.SUCCESS:
                self.trigger_deactivate()
        elif self._autostarts:
            self.trigger_activate()
        self._autostarts = False

    def _loading_failed(self, fault: str) -> None:
        self.get_logger().error(fault)
        if self._autostarts:
            self.ending = Ending(CANNOT_START, fault)
            return
        if self._state == ACTIVE:
            self.trigger_deactivate()
        self.trigger_cleanup()
        self._loading_fault = '; '.join(fault.splitlines())

    def _heartbeat(self) -> None:
        self._report(at_once=False)

    def _report(self, *, at_once: bool) -> None:
        """A heartbeat where one is due, or ``at_once``; ERROR where inference hangs or the process is about to end."""
        health = self._health
        notes = [*self._state_notes(), *self._input_faults()]
        silent_s = time.monotonic() - health.answered if health.answered is not None else 0.0
        if not notes and silent_s > self.settings.output.heartbeat_ms / 2e3:  # less: only no description is due
            notes = [f'no answer for {silent_s:.1f} s']
        broken = Status.ERROR if health.hang_s or (self.ending and self.ending.code) else Status.NO_HINT
        # The hint of a tick whose description hangs is out, and stays what it is.
        hint = Status.NO_HINT if health.hang_s and health.hint_is_out else broken
        self._outputs.heartbeat(self.settings, self._provenance(), notes, hint, broken, at_once=at_once)
        if at_once:
            self._diagnose()

    def _input_faults(self) -> list[str]:
        """What is wrong with the inputs, which the log gets to know as well."""
        if self._perception is None:
            return []
        faults = self._health.faults(self.settings, time.monotonic())
        self._journal.holds(INPUTS, faults)
        return faults

    def _state_notes(self) -> list[str]:
        found = [self.ending.sentence] if self.ending and self.ending.sentence else []
        if self._health.hang_s:
            found.append(diagnostics.HANGS)
        if self._loading is not None:
            return [*found, STILL_LOADING]
        return found if self._state == ACTIVE else [*found, INACTIVE]

    def _provenance(self) -> Provenance:
        if self._model is None:
            return Provenance('', '', False, '', self.settings.pruning.method, self.settings.pruning.keep_ratio)
        return provenance_of(self.settings, self._model.info, self._model.prompt)

    def _diagnose(self) -> None:
        health, worker = self._health, self._worker
        health.state, health.clock_fault = self._state, self._time.fault
        health.transition_fault, health.loading_fault = self._transition_fault, self._loading_fault
        health.transition_refused = self._transition_refused
        health.ticks, health.failures = dict(worker.counts), worker.failures
        health.model = self._provenance() if self._model is not None else None
        health.latency_s = self._outputs.latency_s if health.answer is not None else math.nan
        health.loading_s = time.monotonic() - self._loading.started if self._loading is not None else None
        if self._perception is not None:
            self._perception.look()
            self._input_faults()
        now = time.monotonic()
        self._look_for_twin(now)
        health.sample(now)
        self._journal.look()
        found = diagnostics.reports(health, self.settings, now)
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostics.to_array(self.get_fully_qualified_name(), found, stamp))

    def _look_for_twin(self, now: float) -> None:
        name = self.get_fully_qualified_name()
        if topic_graph.nodes_called(self, name) < 2:
            self._alone = now
        self._health.twin = now - self._alone > TWIN_AFTER_S
        found = f"another node is called '{name}', and outputs and diagnostics of both mix: stop one, or rename it"
        self._journal.holds(diagnostics.TWIN, [found] if self._health.twin else [])

    @property
    def _state(self) -> str:
        """The label of the state: unconfigured, inactive, active or finalized, or that of a transition."""
        return str(self._state_machine.current_state[1])
