"""Starts stprune_node: `ros2 launch stprune_ros stprune.launch.py params_file:=my.param.yaml`."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from stprune_ros.resources import resource_path

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
}


def start_node(context: LaunchContext) -> list[Node]:
    """The node; what the arguments say about topics stands above the parameter file."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
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
    return [node]


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start_node)])
