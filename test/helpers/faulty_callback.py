"""stprune_node with a fault built in: a transform of the frame 'boom' makes its callback raise."""

from __future__ import annotations

import sys
from typing import Any

from stprune_ros.core.rig_builder import RigBuilder
from stprune_ros.ros import node, perception


class FaultyBuilder(RigBuilder):
    """Fails in the middle of a callback."""

    def add_transforms(self, message: Any) -> bool:
        if any(stamped.child_frame_id == 'boom' for stamped in message.transforms):
            raise ZeroDivisionError('boom\n[ERROR] [brake.node]: brakes failed')
        return super().add_transforms(message)


if __name__ == '__main__':
    perception.RigBuilder = FaultyBuilder  # type: ignore[misc]
    sys.exit(node.main())
