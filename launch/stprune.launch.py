"""Starts stprune_node: `ros2 launch stprune_ros stprune.launch.py params_file:=my.param.yaml`."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from stprune_ros.resources import resource_path
from stprune_ros.settings.parameter_file import load_settings

ARGUMENTS = {
    'namespace': ('', 'namespace of the node'),
    'params_file': (str(resource_path('config/stprune.param.yaml')), 'parameter file; names the cameras'),
    'use_sim_time': ('false', 'take the time from /clock'),
    'log_level': ('info', 'debug, info, warn, error or fatal'),
    'use_respawn': ('false', 'start the node again when it ends'),
    'image_topic': ('', "image topics with {camera} for a camera's name; empty: ~/input/{camera}/image[/compressed]"),
    'camera_info_topic': ('', 'camera_info topics with {camera}; empty: ~/input/{camera}/camera_info'),
    'odometry_topic': ('', 'odometry topic; empty: ~/input/kinematic_state'),
}


def start_node(context: LaunchContext) -> list[Node]:
    """The node, its topics remapped as the arguments say."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    settings = load_settings(values['params_file'])
    transport = '' if settings.cameras.transport == 'raw' else '/compressed'
    remaps = []
    for camera in settings.cameras.names:
        if values['image_topic']:
            remaps.append((f'~/input/{camera}/image{transport}', values['image_topic'].format(camera=camera)))
        if values['camera_info_topic']:
            remaps.append((f'~/input/{camera}/camera_info', values['camera_info_topic'].format(camera=camera)))
    if values['odometry_topic']:
        remaps.append(('~/input/kinematic_state', values['odometry_topic']))
    node = Node(
        package='stprune_ros',
        executable='stprune_node',
        name='stprune_node',
        namespace=values['namespace'],
        parameters=[values['params_file'], {'use_sim_time': values['use_sim_time'].lower() == 'true'}],
        remappings=remaps,
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
