"""The live door: the only folder that imports rclpy."""
