"""The command `stprune play`."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from stprune_ros.arguments import count, load_settings, positive, remap, require_rclpy
from stprune_ros.resources import dds_profile
from stprune_ros.results import Show

HELP = 'publish a bag over DDS in real time'


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument('bag', type=Path, metavar='BAG', help='a rosbag2 folder, or one .mcap or .db3 file')
    command.add_argument(
        '--rate', type=positive, default=1.0, metavar='X', help='times real time; default: %(default)s'
    )
    command.add_argument('--clock', action='store_true', help='publish the recording times on /clock')
    command.add_argument('--loop', type=count, default=1, metavar='N', help='how often; default: %(default)s')
    command.add_argument(
        '--wait', type=positive, default=0.0, metavar='S', help='wait up to S seconds for subscribers first'
    )
    command.add_argument(
        '--remap',
        type=remap,
        nargs='+',
        action='extend',
        default=[],
        metavar='/from:=/to',
        help='publish a topic under another name',
    )
    command.add_argument(
        '--params',
        type=Path,
        metavar='FILE',
        help="the node's parameter file: cameras and odometry go where it listens",
    )
    for what in ('image', 'camera_info', 'odometry'):
        command.add_argument(
            f'--{what.replace("_", "-")}-topic', default='', metavar='T', help=f'in place of topics.{what} in FILE'
        )


def run(options: argparse.Namespace, show: Show) -> int:
    """Play the bag; returns 0. Raises StpruneError where nothing in it can be played."""
    given = {f'topics.{what}': getattr(options, f'{what}_topic') for what in ('image', 'camera_info', 'odometry')}
    given = {name: topic for name, topic in given.items() if topic}
    chosen = load_settings(options.params).changed(given) if options.params is not None or given else None
    require_rclpy('play')
    os.environ.setdefault(*dds_profile())
    from stprune_ros.ros.player import play

    done = play(
        options.bag,
        rate=options.rate,
        clock=options.clock,
        remaps=dict(options.remap),
        loops=options.loop,
        wait_s=options.wait,
        settings=chosen,
    )
    show(f"played {done.messages} messages of '{options.bag}' in {done.seconds:.1f} s", asdict(done))
    return 0
