"""ROS messages, images and recordings without rclpy: decode, convert, draw, read and write bags."""
