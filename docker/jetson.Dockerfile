# docker build -f docker/jetson.Dockerfile -t stprune_ros:jetson .    on a Jetson with JetPack 6, run with --runtime nvidia
# JetPack 6 is Ubuntu 22.04, whose ROS 2 is Humble. TORCH_INDEX has builds of torch for its CUDA.
ARG L4T=r36.4.0
FROM nvcr.io/nvidia/l4t-jetpack:${L4T}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8 ROS_DISTRO=humble
ARG TORCH_INDEX=https://pypi.jetson-ai-lab.io/jp6/cu126
ARG ROS_KEY=https://raw.githubusercontent.com/ros/rosdistro/master/ros.key
ARG ROS_PACKAGES=http://packages.ros.org/ros2/ubuntu

RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl \
 && curl -fsSL "$ROS_KEY" -o /usr/share/keyrings/ros-archive-keyring.gpg \
 && echo "deb [signed-by=/usr/share/keyrings/ros-archive-keyring.gpg] $ROS_PACKAGES jammy main" > /etc/apt/sources.list.d/ros2.list \
 && rm -rf /var/lib/apt/lists/*

COPY . /root/ros2_ws/src/stprune_ros
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential python3-colcon-common-extensions python3-rosdep python3-venv ros-humble-ros-base \
 && rosdep init \
 && PIP_OPTIONS="--extra-index-url $TORCH_INDEX" /root/ros2_ws/src/stprune_ros/docker/install.sh \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /root/ros2_ws
ENTRYPOINT ["/root/ros2_ws/src/stprune_ros/docker/entrypoint.sh"]
CMD ["stprune", "demo", "--output", "/tmp/demo_output"]
