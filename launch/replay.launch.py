"""Plays a bag into the node: `ros2 launch stprune_ros replay.launch.py bag:=BAG params_file:=my.param.yaml`."""

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackagePrefix

from stprune_ros.resources import resource_path

ARGUMENTS = {
    'bag': (None, 'rosbag2 folder, or one .mcap or .db3 file'),
    'rate': ('1.0', 'times real time'),
    'wait': ('600', 'seconds to wait for the node to load its model'),
    'params_file': (str(resource_path('config/stprune.param.yaml')), 'parameter file; names the cameras'),
    'image_topic': (
        '',
        "the bag's image topics, {camera} for a camera's name; empty: topics.image, or found in the bag",
    ),
    'camera_info_topic': ('', "the bag's camera_info topics; empty: topics.camera_info, or found in the bag"),
    'odometry_topic': ('', "the bag's odometry topic; empty: topics.odometry, or found in the bag"),
    'rviz': ('false', 'show the kept tokens and the cameras in RViz'),
}


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` asks for."""
    passed_on = ('params_file', 'image_topic', 'camera_info_topic', 'odometry_topic')  # to node and player alike
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(resource_path('launch/stprune.launch.py'))),
        # The player waits for a node that listens.
        launch_arguments={
            'use_sim_time': 'true',
            'autostart': 'true',
            'rviz': LaunchConfiguration('rviz'),
            **{name: LaunchConfiguration(name) for name in passed_on},
        }.items(),
    )
    stprune = PathJoinSubstitution([FindPackagePrefix('stprune_ros'), 'lib', 'stprune_ros', 'stprune'])
    options = ['--clock', '--rate', LaunchConfiguration('rate'), '--wait', LaunchConfiguration('wait')]
    for name in passed_on:
        options += ['--params' if name == 'params_file' else f'--{name.replace("_", "-")}', LaunchConfiguration(name)]
    player = ExecuteProcess(
        cmd=[stprune, 'play', LaunchConfiguration('bag'), *options],
        output='screen',
    )
    over = RegisterEventHandler(OnProcessExit(on_exit=[EmitEvent(event=Shutdown())]))  # whichever ends, RViz too
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, node, player, over])
