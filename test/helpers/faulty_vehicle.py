"""A vehicle whose sensors fail in more ways: images late, out of order, rare, of two publishers; other calibration."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from helpers.harness import AZIMUTH_DEG, Vehicle, compressed_image, jpeg, odometry, stamp_ns
from helpers.simulated_time import SimulatedTime
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage

SPEED = 5.0


def driving() -> Odometry:
    """Odometry of a vehicle that drives straight ahead, as of now."""
    message = odometry(SPEED)
    message.pose.pose.position.x = SPEED * time.monotonic()
    return message


class FaultyVehicle(Vehicle):
    """Takes hold of what it sends: images late, out of order or from two publishers, wrong calibration, a drive.

    ``on_image`` is called with the camera and the stamp in ns of whatever is sent.
    """

    def __init__(self, domain_id: int, namespace: str, on_image: Callable[[str, int], None]) -> None:
        super().__init__(domain_id, namespace)
        self.clock = SimulatedTime(self)
        self.delayed: dict[str, int] = {}  # by camera: how many of its images are held back
        self.swapped: set[str] = set()  # cameras of whose images each two come in the wrong order
        self.sheared: set[str] = set()  # cameras whose camera_info is for images of another size
        self.every: dict[str, int] = {}  # by camera: only each so many-th image is sent
        self.seconds: dict[str, Any] = {}  # second publishers, by camera or 'odometry'
        self.drive: Callable[[], Odometry | None] = driving
        self._held: dict[str, list[Any]] = {camera: [] for camera in AZIMUTH_DEG}
        self._on_image = on_image

    def act(self) -> None:
        """Publish the next frame set when it is due."""
        self.odometry = self.drive()
        super().act()

    def begin_second(self, source: str) -> None:
        """Another publisher on the topic of a camera, or of the 'odometry', takes turns with the first."""
        first = self._odometry if source == 'odometry' else self._image_publishers[source]
        kind = Odometry if source == 'odometry' else CompressedImage
        self.seconds[source] = self.node.create_publisher(kind, first.topic_name, first.qos_profile)

    def end_second(self, source: str) -> None:
        """And leaves."""
        self.node.destroy_publisher(self.seconds.pop(source))

    def send_odometry(self, message: Odometry) -> None:
        """Publish odometry, and that of a second publisher."""
        super().send_odometry(message)
        if 'odometry' in self.seconds:
            message.twist.twist.linear.x += 0.5
            self.seconds['odometry'].publish(message)
            message.twist.twist.linear.x -= 0.5

    def send(self, camera: str, image: Any) -> None:
        """Publish an image now or later."""
        if len(self.stamps) % self.every.get(camera, 1):
            return
        if camera in self.seconds:
            other = self._of_second(image)
            self._on_image(camera, stamp_ns(other))
            self.seconds[camera].publish(other)
        held = self._held[camera]
        held.append(image)
        if camera in self.swapped:
            due = [held.pop(), held.pop()] if len(held) > 1 else []
        else:
            due = [held.pop(0) for _ in range(len(held) - self.delayed.get(camera, 0))]
        for one in due:
            self._on_image(camera, stamp_ns(one))
            super().send(camera, one)

    def _of_second(self, image: CompressedImage) -> CompressedImage:
        """An image of another camera, a little later."""
        other = compressed_image(jpeg(99))
        other.header.frame_id = 'another'
        return self._stamped(other, stamp_ns(image) + 5_000_000)

    def camera_info(self, camera: str) -> CameraInfo:
        """The calibration of a camera, without a stamp."""
        message = super().camera_info(camera)
        if camera in self.sheared:
            message.width *= 2
        return message
