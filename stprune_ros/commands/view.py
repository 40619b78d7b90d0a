"""The command `stprune view`."""

from __future__ import annotations

import argparse
import importlib.util
import os

from stprune_ros.arguments import address, port, require_rclpy, say
from stprune_ros.errors import StpruneError
from stprune_ros.resources import dds_profile
from stprune_ros.results import Show

HELP = 'a live page of the running node for a browser: picture, hint, cameras, diagnostics, log'
LOCAL, PORT = '127.0.0.1', 8642


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument(
        '--node',
        default='/stprune_node',
        metavar='NAME',
        help='its full name, namespace included; default: %(default)s',
    )
    command.add_argument('--port', type=port, default=PORT, help='0: any that is free; default: %(default)s')
    command.add_argument(
        '--address',
        type=address,
        default=LOCAL,
        metavar='A',
        help='another than %(default)s lets others look, without a password',
    )


def run(options: argparse.Namespace, show: Show) -> int:
    """Serve until it is interrupted. Raises StpruneError where something is missing, or the port is in use."""
    require_rclpy('view')
    if importlib.util.find_spec('aiohttp') is None:
        raise StpruneError("`stprune view` needs aiohttp: pip install 'aiohttp>=3.9,<4', or the extra [view]")
    os.environ.setdefault(*dds_profile())
    from stprune_ros.view.command import view
    from stprune_ros.view.server import is_loopback

    name = f'/{options.node.strip("/")}'

    def ready(url: str) -> None:
        show(f'{name} is shown on {url} until Ctrl-C', {'address': url, 'node': name})
        if not is_loopback(options.address):
            say(
                f'whoever reaches {url} sees the pictures of the cameras and all that the node says: there is neither a'
                ' password nor encryption'
            )

    view(name, options.address, options.port, ready)
    raise KeyboardInterrupt  # it ends in no other way
