"""The command `stprune completion`: a script that completes commands, options and file names in a shell."""

from __future__ import annotations

import argparse
from pathlib import Path

from stprune_ros.errors import StpruneError
from stprune_ros.results import Show

HELP = 'print a script that completes this command line in a shell'
SHELLS = ('bash', 'zsh', 'tcsh')


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument('shell', choices=SHELLS, help='the shell to complete in')


def run(options: argparse.Namespace, show: Show) -> int:
    """Print the script; returns 0. Raises StpruneError where shtab is not installed."""
    try:
        import shtab
    except ImportError:
        raise StpruneError('`stprune completion` needs shtab: pip install shtab') from None
    top = options.parser()
    complete_files(top, shtab.FILE)
    show(shtab.complete(top, options.shell), {})
    return 0


def complete_files(parser: argparse.ArgumentParser, how: dict[str, str]) -> None:
    """Mark every argument below ``parser`` that is a path to be completed with names of files."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                complete_files(command, how)
        elif action.type is Path:
            action.complete = how  # type: ignore[attr-defined]
