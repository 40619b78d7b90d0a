"""Cameras, frame sets and history: numpy only, no ROS, no clock, no thread."""
