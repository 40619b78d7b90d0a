"""The offline door: rosbags in, rosbags and reports out; no rclpy."""
