"""The action `~/ask` and the service `~/describe_now`: one question at a time, answered on the worker's thread.

Everything of ROS happens on the executor's thread. rclpy polls a coroutine that waits for a result without a pause, and
a function that waits would stop the node: so a goal is executed once its last reply is there.
"""

from __future__ import annotations

import array
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.node import Node

from stprune_ros.action import Ask as AskAction
from stprune_ros.core.types import Status
from stprune_ros.errors import StpruneError
from stprune_ros.inference.question import DEADLINE_S, Ask, Question, Reply
from stprune_ros.io import messages
from stprune_ros.ros.journal import Journal
from stprune_ros.ros.outputs import Outputs
from stprune_ros.ros.ros_time import RosTime
from stprune_ros.settings.settings import Settings
from stprune_ros.srv import DescribeNow

if TYPE_CHECKING:
    from stprune_ros.inference.pipeline import Pipeline

GRACE_S = 0.2  # for the worker to end a text by itself
LOOK_S = 0.5  # how often the graph is looked at while somebody waits
FOUND_S = 2.0  # whoever has asked is found in the graph in this time
BUSY = 'another question is being answered: ask again when it is over, or cancel it'
CANCELLED = 'the question was cancelled'
GONE = 'the question was given up: whoever asked is gone'
EXPIRED = 'the answer had expired when it went out: it is true of its stamp, not of now'


class Questions:
    """Takes questions and answers them from ``pipeline``, which raises StpruneError where nothing can be asked.

    ``settings`` gives those of the moment.
    """

    def __init__(
        self,
        node: Node,
        settings: Callable[[], Settings],
        pipeline: Callable[[], Pipeline],
        ros_time: RosTime,
        outputs: Outputs,
        journal: Journal,
    ) -> None:
        self._settings, self._pipeline = settings, pipeline
        self._time, self._outputs, self._journal = ros_time, outputs, journal
        self._types = messages.ros_types()
        self._ask: Ask | None = None
        self._goal: Any = None  # of the question
        self._told = 0  # tokens
        self._node, self._feedback = node, node.resolve_topic_name('~/ask/_action/feedback')
        self._listeners: set[bytes] = set()  # those that may have asked: nothing tells who of them it was
        self._asked = self._looked = 0.0
        self._guard = node.create_guard_condition(self.look)
        self._server: Any = ActionServer(
            node,
            AskAction,
            '~/ask',
            self._end,
            handle_accepted_callback=self._accept,
            cancel_callback=self._cancel,
        )
        node.create_service(DescribeNow, '~/describe_now', self._describe_now)

    @property
    def current(self) -> Ask | None:
        """The question that is to be answered, for the worker's thread."""
        return self._ask

    def look(self) -> None:
        """Pass on what there is to say: after each word, and now and then, for the deadline."""
        ask, goal = self._ask, self._goal
        if ask is None:
            return
        if not ask.is_over and time.monotonic() > ask.deadline + GRACE_S:
            ask.expire()
        if not ask.is_over and self._is_gone():
            self._journal.info(GONE)  # and nobody else would hear of it
            ask.finish(Reply(Status.NO_HINT, GONE))
        is_over = ask.is_over  # before the reply: what is read behind the end is the last one
        reply = ask.reply
        if reply is not None and reply.tokens > self._told:
            self._told = reply.tokens
            goal.publish_feedback(AskAction.Feedback(text=reply.text, tokens=reply.tokens))
        if is_over and reply is not None:
            self._ask = self._goal = None
            goal.execute(partial(self._end, reply=reply))

    def give_up(self, reason: str) -> bool:
        """End a question that is open; whether there was one."""
        ask = self._ask
        if ask is not None:
            ask.finish(Reply(Status.NO_HINT, f'the question was given up: {reason}'))
            self.look()
        return ask is not None

    def close(self) -> None:
        """Leave the graph."""
        self._server.destroy()

    def _accept(self, goal: Any) -> None:
        """Every goal is accepted, for a rejection has no words; what is refused ends at once."""
        try:
            question = self._read(goal.request)
        except StpruneError as error:
            goal.execute(partial(self._end, reply=Reply(Status.NO_HINT, str(error))))
            return
        self._told, self._goal = 0, goal
        self._asked, self._looked, self._listeners = time.monotonic(), 0.0, set()
        self._ask = Ask(question, self._guard.trigger)

    def _is_gone(self) -> bool:
        """Whether nobody is left of those who listened to the action when the question came.

        A client that leaves is missed at once, one that was killed when DDS misses it, as after 20 s. Where another one
        listens all the time the question goes on to its deadline.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return False
        self._looked = now
        found = {bytes(one.endpoint_gid) for one in self._node.get_subscriptions_info_by_topic(self._feedback)}
        if now - self._asked < FOUND_S:
            self._listeners |= found
        return bool(self._listeners) and not self._listeners & found

    def _read(self, request: Any) -> Question:
        """Raises StpruneError where a question is out of bounds, or cannot be answered now."""
        deadline_s = request.deadline.sec + request.deadline.nanosec / 1e9
        question = Question(
            request.question,
            tuple(request.cameras),
            request.current_only,
            tuple(request.candidates),
            deadline_s or DEADLINE_S,
        )
        question.require_cameras(tuple(self._pipeline().rig.ring))
        if self._ask is not None:
            raise StpruneError(BUSY)
        return question

    def _cancel(self, goal: Any) -> CancelResponse:
        if self._ask is None or goal != self._goal:
            return CancelResponse.REJECT  # it is over
        self._ask.finish(Reply(Status.NO_HINT, CANCELLED))
        return CancelResponse.ACCEPT  # the goal ends behind this, when the guard condition calls

    def _end(self, goal: Any, reply: Reply) -> Any:
        """The result of a goal, whose state follows from its last reply."""
        settings, answer = self._settings(), reply.answer
        status, reason = reply.status, reply.reason
        if status.is_valid and answer is not None:
            fresh = messages.is_fresh(answer.stamp_ns, self._time.now_ns(), settings) and not self._time.fault
            status, reason = (status, reason) if fresh else (Status.STALE, EXPIRED)
        if status == Status.ERROR:
            self._journal.warn(reason)
        if goal.is_cancel_requested:
            goal.canceled()
        elif reply.has_answer:
            goal.succeed()
        else:
            goal.abort()
        result = AskAction.Result(
            valid_for=messages.valid_for(reply.has_answer, settings, self._types),
            status=int(status),
            reason=reason,
            text=reply.text if reply.has_answer else '',
            truncated=reply.truncated and reply.has_answer,
            probabilities=array.array('f', reply.probabilities if reply.has_answer else ()),
            tokens=reply.tokens,
            stage_names=list(reply.stage_ms),
            stage_ms=array.array('f', reply.stage_ms.values()),
        )
        if answer is not None:
            now_ns = self._time.now_ns()
            latency_s = (now_ns - answer.stamp_ns) / 1e9 if now_ns else messages.NAN
            result.header = messages.header(answer, settings, self._types)
            result.info = messages.inference_info(self._outputs.numbered(answer), self._types, latency_s)
        return result

    def _describe_now(self, _: DescribeNow.Request, response: DescribeNow.Response) -> DescribeNow.Response:
        try:
            self._want_description()
        except StpruneError as error:
            response.message = str(error)
        else:
            response.accepted, response.message = True, 'the next frame set is described'
        return response

    def _want_description(self) -> None:
        pipeline = self._pipeline()
        if not self._settings().inference.describe:
            raise StpruneError("descriptions are switched off: set 'inference.describe' to true")
        if self._ask is not None:
            raise StpruneError('a question is being answered, and texts come one at a time: ask again when it is over')
        pipeline.describer.wanted = True
