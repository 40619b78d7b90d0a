"""Starts stprune_node: `ros2 launch stprune_ros stprune.launch.py params_file:=my.param.yaml`."""

from difflib import get_close_matches

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from stprune_ros.resources import resource_path

SWITCH = ['true', 'false', 'True', 'False']
LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'fatal']
CHOICES = {
    **dict.fromkeys(('use_sim_time', 'use_respawn', 'rviz'), SWITCH),
    'autostart': ['', *SWITCH],
    'log_level': LOG_LEVELS,
}
ARGUMENTS = {
    'namespace': ('', 'namespace of the node'),
    'params_file': (str(resource_path('config/stprune.param.yaml')), 'parameter file; names the cameras'),
    'use_sim_time': ('false', 'take the time from /clock'),
    'log_level': ('info', 'debug, info, warn, error or fatal'),
    'use_respawn': ('false', 'start the node again when it ends'),
    'autostart': ('', 'true or false, in place of the parameter lifecycle.autostart'),
    'image_topic': ('', "in place of the parameter topics.image: image topics with {camera} for a camera's name"),
    'camera_info_topic': ('', 'in place of the parameter topics.camera_info'),
    'odometry_topic': ('', 'in place of the parameter topics.odometry'),
    'rviz': ('false', 'show the kept tokens and the cameras in RViz'),
}


def refuse_misspelt(words: list[str], values: dict[str, str]) -> None:
    """Raise RuntimeError for a word `name:=value` that nearly names an argument which has kept its default.

    `ros2 launch` passes over names that it does not know, as those of a launch file that includes this one must be.
    """
    for name in (word.partition(':=')[0] for word in words):
        near = [] if name in ARGUMENTS else get_close_matches(name, ARGUMENTS, 1, 0.8)
        if near and values[near[0]] == ARGUMENTS[near[0]][0]:
            raise RuntimeError(f"there is no launch argument '{name}': write {near[0]}:=...")


def start_node(context: LaunchContext) -> list[Node]:
    """The node; what the arguments say about topics stands above the parameter file."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    refuse_misspelt(context.argv, values)
    given = {f'topics.{what}': values[f'{what}_topic'] for what in ('image', 'camera_info', 'odometry')}
    above = {name: ParameterValue(topic, value_type=str) for name, topic in given.items() if topic}
    if values['autostart']:
        above['lifecycle.autostart'] = ParameterValue(LaunchConfiguration('autostart'), value_type=bool)
    node = Node(
        package='stprune_ros',
        executable='stprune_node',
        name='stprune_node',
        namespace=values['namespace'],
        parameters=[values['params_file'], {'use_sim_time': values['use_sim_time'].lower() == 'true', **above}],
        ros_arguments=['--log-level', values['log_level']],
        respawn=values['use_respawn'].lower() == 'true',
        respawn_delay=2.0,
        output='screen',
        emulate_tty=True,
    )
    return [node, *start_rviz(values)]


def start_rviz(values: dict[str, str]) -> list[Node]:
    """RViz beside the node and in its namespace, where the argument ``rviz`` asks for it."""
    if values['rviz'].lower() != 'true':
        return []
    try:
        get_package_prefix('rviz2')
    except PackageNotFoundError:
        raise RuntimeError(
            'rviz:=true needs RViz, which is not installed: sudo apt install ros-$ROS_DISTRO-rviz2'
            ' ros-$ROS_DISTRO-compressed-image-transport'
        ) from None
    rviz = Node(
        package='rviz2',
        executable='rviz2',
        name='stprune_rviz',
        namespace=values['namespace'],
        arguments=['-d', str(resource_path('config/rviz/stprune.rviz'))],
        parameters=[{'use_sim_time': values['use_sim_time'].lower() == 'true'}],
    )
    return [rviz]


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=CHOICES.get(name))
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start_node)])
