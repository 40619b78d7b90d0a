#!/usr/bin/env bash
# The environment of the workspace around whatever is run.
set -eo pipefail  # not -u: the setup files of ROS read variables that are not set

source ~/stprune_venv/bin/activate
source "/opt/ros/$ROS_DISTRO/setup.bash"
source ~/ros2_ws/install/setup.bash
exec "$@"
