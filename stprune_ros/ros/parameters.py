"""The settings table as ROS parameters, with ranges and descriptions, checked with the table's own sentences."""

from __future__ import annotations

from collections.abc import Callable

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from stprune_ros.errors import StpruneError
from stprune_ros.settings.settings import BY_NAME, PARAMETERS, Parameter, Settings, Value, problems_in

# Overrides that belong to rclpy and not to the table.
FOREIGN = ('use_sim_time', 'start_type_description_service')
FOREIGN_PREFIXES = ('qos_overrides.',)


def declare(node: Node) -> Settings:
    """Declare every parameter of the table on ``node`` and return the settings it starts with.

    Raises StpruneError naming every unknown parameter and every value that is not allowed, one a line.
    """
    values = overrides(node)
    problems = problems_in(values)
    if problems:
        raise StpruneError('\n'.join(problems))
    settings = Settings(values)
    for parameter in PARAMETERS:
        # The override has been checked and brought to the table's type: 1 is as good as 1.0.
        node.declare_parameter(parameter.name, settings[parameter.name], descriptor(parameter), ignore_override=True)
    return settings


def overrides(node: Node) -> dict[str, Value]:
    """What command line, launch and parameter files give this node, rclpy's own parameters left out."""
    # rclpy shows overrides only of declared parameters; those with a mistyped name would be ignored in silence.
    given: dict[str, RosParameter] = node._parameter_overrides
    return {
        name: [] if parameter.value is None else parameter.value  # [] in YAML has no type and arrives as None
        for name, parameter in given.items()
        if name not in FOREIGN and not name.startswith(FOREIGN_PREFIXES)
    }


def descriptor(parameter: Parameter) -> ParameterDescriptor:
    """What `ros2 param describe` and rqt show; read-only unless dynamic."""
    result = ParameterDescriptor(
        name=parameter.name,
        description=parameter.description,
        additional_constraints=parameter.allowed,
        read_only=not parameter.dynamic,
        dynamic_typing=isinstance(parameter.default, list),  # an empty list has no type of its own
    )
    if parameter.low is None or parameter.high is None:
        return result
    if isinstance(parameter.default, int):
        result.integer_range = [IntegerRange(from_value=int(parameter.low), to_value=int(parameter.high), step=0)]
    elif isinstance(parameter.default, float):
        result.floating_point_range = [FloatingPointRange(from_value=parameter.low, to_value=parameter.high, step=0.0)]
    return result


def on_change(node: Node, current: Callable[[], Settings], apply: Callable[[Settings], None]) -> None:
    """Call ``apply`` with the new settings when dynamic parameters change; refuse bad ones with the table's words."""

    def check_and_apply(parameters: list[RosParameter]) -> SetParametersResult:
        known = {parameter.name: parameter.value for parameter in parameters if parameter.name in BY_NAME}
        try:
            changed = Settings({**current(), **known})
        except StpruneError as error:
            return SetParametersResult(successful=False, reason=str(error))
        apply(changed)  # no later callback can refuse, and Humble has no callback for after the change
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check_and_apply)
