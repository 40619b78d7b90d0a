"""Hears what a running node says, for `stprune view`: it publishes nothing, and changes nothing on the node.

The node draws its picture only while somebody subscribes, and so that is done only while somebody looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from threading import Event, Thread
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Log, ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage

from stprune_ros.errors import one_line
from stprune_ros.io import messages
from stprune_ros.ros import qos, topic_graph
from stprune_ros.ros.ros_time import RosTime

CLOCK_UNKNOWN = 'the node does not answer which clock it goes by'
SPIN_S = 0.05
LOOK_S = 0.5  # how often the graph is looked at
ANSWER_S = 3.0  # after so long a request is taken for lost
HINT, TEXT, PICTURE, DIAGNOSTICS, LOG, NODE = 'hint', 'text', 'picture', 'diagnostics', 'log', 'node'


class Spectator:
    """Subscriptions to one node's outputs, in a thread of their own; use as a context manager.

    ``hear`` is called with a kind and each message of it, and with NODE and what is wrong with the node ('' where
    nothing is); ``wanted`` says whether anybody looks.
    """

    def __init__(self, name: str, hear: Callable[[str, Any], None], wanted: Callable[[], bool]) -> None:
        """``name`` is the node's full name. Raises SettingsError where no node can have it."""
        self._name, self._hear, self._wanted = name, hear, wanted
        topic_graph.require_node_name(name)
        self._stop = Event()
        self._failure = ''
        self._problem: str | None = None
        self._present = False
        self._picture: Any = None
        self._knows_clock = False
        self._request: Any = None
        self._asked = self._looked = 0.0
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._node: Node = rclpy.create_node('stprune_view', enable_rosout=False, start_parameter_services=False)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._time = RosTime(self._node.get_clock())
        self._subscribe()
        self._thread = Thread(target=self._run, name='spectator', daemon=True)

    def __enter__(self) -> Spectator:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._close()

    def time(self) -> tuple[int, str]:
        """The time in ns by the node's clock, and why no age can be told by it, '' where one can."""
        fault = self._time.fault if self._knows_clock else CLOCK_UNKNOWN
        return self._time.now_ns(), self._failure or fault

    def _subscribe(self) -> None:
        node, types = self._node, messages.ros_types()
        topics: Mapping[str, tuple[Any, str, QoSProfile]] = {
            HINT: (types.planning_hint, f'{self._name}/output/planning_hint', QoSProfile(depth=10)),
            TEXT: (types.scene_description, f'{self._name}/output/scene_description', QoSProfile(depth=10)),
            DIAGNOSTICS: (DiagnosticArray, '/diagnostics', QoSProfile(depth=50)),
            LOG: (Log, '/rosout', qos.copy_of(qos.ROSOUT)),
        }
        for kind, (message, topic, profile) in topics.items():
            node.create_subscription(message, topic, partial(self._hear, kind), profile)
        self._parameters = node.create_client(GetParameters, f'{self._name}/get_parameters')

    def _run(self) -> None:
        try:
            self._listen()
        except Exception as error:  # nothing is heard any more, and the page must not look as if it were
            self._failure = f'`stprune view` failed with {type(error).__name__}: {one_line(error)}; start it again'

    def _listen(self) -> None:
        while not self._stop.is_set():
            self._executor.spin_once(timeout_sec=SPIN_S)
            self._time.now_ns()
            if time.monotonic() - self._looked > LOOK_S:
                self._looked = time.monotonic()
                self._follow_wish()
                self._look_for_node()
                self._ask_for_clock()

    def _follow_wish(self) -> None:
        """Subscribe to the picture while somebody looks."""
        if self._wanted() and self._picture is None:
            topic = f'{self._name}/debug/kept_tokens/image/compressed'
            # Best effort: whoever looks shall not slow the node down.
            hear = partial(self._hear, PICTURE)
            self._picture = self._node.create_subscription(CompressedImage, topic, hear, qos.copy_of(qos.SENSOR))
        elif self._picture is not None and not self._wanted():
            self._node.destroy_subscription(self._picture)
            self._picture = None

    def _look_for_node(self) -> None:
        topic, kind = f'{self._name}/output/planning_hint', 'stprune_ros/msg/PlanningHint'
        graph = topic_graph.published(self._node)
        present = kind in graph.get(topic, ())
        if present != self._present:
            self._present, self._knows_clock = present, False  # another process may go by another clock
        others = [name.removesuffix('/output/planning_hint') for name, types in sorted(graph.items()) if kind in types]
        problem = ''
        if not present and others:
            problem = f"there is no node '{self._name}', but {', '.join(others)}: give --node one of these"
        elif not present:
            problem = f"there is no node '{self._name}': look at ROS_DOMAIN_ID, or start it"
        if problem != self._problem:
            self._problem = problem
            self._hear(NODE, problem)

    def _ask_for_clock(self) -> None:
        """Ask the node whether it goes by simulated time, until it has answered."""
        if self._knows_clock or not self._present:
            return
        if self._request is not None and self._request.done():
            values = self._request.result().values
            if values and values[0].type == ParameterType.PARAMETER_BOOL:
                simulated = Parameter('use_sim_time', value=values[0].bool_value)
                self._node.set_parameters([simulated])
                self._knows_clock = True
            self._request = None
        elif self._request is None or time.monotonic() - self._asked > ANSWER_S:
            if self._request is not None:
                self._parameters.remove_pending_request(self._request)
                self._request = None
            if self._parameters.service_is_ready():
                self._request = self._parameters.call_async(GetParameters.Request(names=['use_sim_time']))
                self._asked = time.monotonic()

    def _close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown()
