"""The settings table as ROS parameters, with ranges and descriptions, checked with the table's own sentences."""

from __future__ import annotations

from collections.abc import Callable

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from stprune_ros.errors import StpruneError
from stprune_ros.parameter import Parameter, Value
from stprune_ros.settings.parameter_file import belongs_to_rclpy, checked, current_names
from stprune_ros.settings.parameters import BY_NAME
from stprune_ros.settings.settings import Settings

USE_SIM_TIME = 'use_sim_time'
NO_OTHER_TIME = "parameter 'use_sim_time' cannot change while the node runs: start the node anew with it"


def declare(node: Node) -> Settings:
    """Declare every parameter of the table on ``node`` and return the settings it starts with.

    Names of the last release are read, and a warning names the new one.
    Raises SettingsError naming every unknown parameter and every value that is not allowed, one a line.
    """
    values, notes = current_names(overrides(node))
    for note in notes:
        node.get_logger().warning(note)
    settings = checked(values)
    for name, value in settings.values().items():
        # The override has been checked and brought to the table's type: 1 is as good as 1.0.
        node.declare_parameter(name, _as_ros(value), descriptor(BY_NAME[name]), ignore_override=True)
    return settings


def overrides(node: Node) -> dict[str, object]:
    """What command line, launch and parameter files give this node, rclpy's own parameters left out."""
    # rclpy shows overrides only of declared parameters; those with a mistyped name would be ignored in silence.
    given: dict[str, RosParameter] = node._parameter_overrides
    return {
        name: [] if parameter.value is None else parameter.value  # [] in YAML has no type and arrives as None
        for name, parameter in given.items()
        if not belongs_to_rclpy(name)
    }


def descriptor(parameter: Parameter) -> ParameterDescriptor:
    """What `ros2 param describe` and rqt show; read-only unless dynamic."""
    result = ParameterDescriptor(
        name=parameter.name,
        description=parameter.description,
        additional_constraints=parameter.allowed,
        read_only=not parameter.dynamic,
        dynamic_typing=parameter.many,  # an empty list has no type of its own
    )
    if parameter.low is None or parameter.high is None:
        return result
    if parameter.kind is int:
        result.integer_range = [IntegerRange(from_value=int(parameter.low), to_value=int(parameter.high), step=0)]
    elif parameter.kind is float and not parameter.many:
        result.floating_point_range = [FloatingPointRange(from_value=parameter.low, to_value=parameter.high, step=0.0)]
    return result


def on_change(node: Node, current: Callable[[], Settings], apply: Callable[[Settings], None]) -> None:
    """Call ``apply`` with the new settings when dynamic parameters change; refuse bad ones with the table's words.

    ``apply`` raises StpruneError for settings that cannot be taken on. Also a change of use_sim_time is refused: to
    another clock every stamp so far would be of another time.
    """
    sim_time = node.get_parameter(USE_SIM_TIME).value

    def check_and_apply(parameters: list[RosParameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == USE_SIM_TIME and parameter.value != sim_time:
                return SetParametersResult(successful=False, reason=NO_OTHER_TIME)
        known = {parameter.name: parameter.value for parameter in parameters if parameter.name in BY_NAME}
        try:
            # No later callback can refuse, and Humble has no callback for after the change.
            apply(current().changed(known))
        except StpruneError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check_and_apply)


def _as_ros(value: Value) -> Value | list[str] | list[float]:
    """rclpy takes lists, no tuples."""
    return [*value] if isinstance(value, tuple) else value
