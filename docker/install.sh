#!/usr/bin/env bash
# What README says under Install, in a container: a virtual environment that sees the ROS packages, what rosdep does not
# know from PyPI, then colcon. The sources lie in ~/ros2_ws/src/stprune_ros, ROS_DISTRO is set, apt-get update has run.
# Words in PIP_OPTIONS go to pip, such as the index of a torch for this machine.
set -eo pipefail  # not -u: the setup files of ROS read variables that are not set

source "/opt/ros/$ROS_DISTRO/setup.bash"
python3 -m venv --system-site-packages ~/stprune_venv && source ~/stprune_venv/bin/activate
cd ~/ros2_ws/src
pip install --no-cache-dir ${PIP_OPTIONS:--c stprune_ros/constraints.txt} torch 'transformers>=5.18,<6' rosbags mcap numba 'numpy<2'
cd .. && rosdep update && rosdep install --from-paths src -i -y && colcon build --packages-select stprune_ros

# Both commands by their names, beside `ros2 run stprune_ros ...`.
for name in stprune stprune_node; do
  ln -s ~/ros2_ws/install/stprune_ros/lib/stprune_ros/"$name" "/usr/local/bin/$name"
done
