"""ROS messages and bags without rclpy: reading, decoding, drawing and writing."""
