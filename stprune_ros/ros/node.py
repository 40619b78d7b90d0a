"""Starts the node: six cameras in, planning hints and scene descriptions out."""

from __future__ import annotations

import os
import signal
import sys

from stprune_ros.ros.watchdog import stop_signals


def main(arguments: list[str] | None = None) -> int:
    """Run the node until it is told to end; returns the exit code, see docs/ros_interface.md."""
    for number in stop_signals():
        signal.signal(number, lambda *_: os._exit(0))  # there is nothing yet to clean up
    from stprune_ros.ros.process import run  # takes a second to import, in which a signal may come

    return run(arguments)


if __name__ == '__main__':
    sys.exit(main())
