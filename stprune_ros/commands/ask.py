"""The command `stprune ask`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

from stprune_ros.arguments import add_pruning, changed_settings, names, positive, require_rclpy, say, stamp
from stprune_ros.errors import StpruneError
from stprune_ros.inference.question import CANDIDATES, DEADLINE_S, Question
from stprune_ros.resources import dds_profile
from stprune_ros.results import Show

HELP = 'ask a running node, or a moment of a bag, a question about what the cameras see'
NODE = '/stprune_node'


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument('question', metavar='QUESTION', help='as in "how many cars are in front?"')
    command.add_argument('--cameras', type=names, default=(), metavar='A,B', help='default: the whole ring')
    command.add_argument('--current-only', action='store_true', help='without the history of the window')
    command.add_argument(
        '--candidate',
        action='append',
        default=[],
        metavar='TEXT',
        help=f'an answer to be scored, {CANDIDATES[0]} to {CANDIDATES[-1]} times, in place of a text that is written',
    )
    command.add_argument(
        '--deadline', type=positive, default=DEADLINE_S, metavar='S', help='in seconds; default: %(default)g'
    )
    command.add_argument('--node', metavar='NAME', help=f'the node to be asked; default: {NODE}')
    command.add_argument('--bag', type=Path, metavar='BAG', help='ask a recording, not a running node')
    command.add_argument(
        '--at', type=stamp, dest='at_ns', metavar='T', help='newest stamp that is seen, in seconds; default: the last'
    )
    add_pruning(command)


def run(options: argparse.Namespace, show: Show) -> int:
    """Ask; returns 0. Raises StpruneError where there is no answer."""
    question = Question(
        options.question, options.cameras, options.current_only, tuple(options.candidate), options.deadline
    )
    found = _ask_bag(options, question) if options.bag is not None else _ask_node(options, question)
    show(answer_text(found), found)
    if not found['text']:
        raise StpruneError(found['reason'])
    if found['reason']:
        say(found['reason'])
    return 0


def _ask_node(options: argparse.Namespace, question: Question) -> dict[str, Any]:
    given = {'at': options.at_ns, 'params': options.params, 'keep': options.keep, 'method': options.method}
    for name, value in given.items():
        if value is not None:
            raise StpruneError(f'--{name} is for a recording, and a running node is asked: add --bag, or leave it out')
    require_rclpy('ask')
    os.environ.setdefault(*dds_profile())
    from stprune_ros.ros.ask_client import ask_node

    name = f'/{(NODE if options.node is None else options.node).strip("/")}'
    return ask_node(question, name, WordsInTurn() if sys.stdout.isatty() else None)


def _ask_bag(options: argparse.Namespace, question: Question) -> dict[str, Any]:
    if options.node is not None:
        raise StpruneError('--node is for a running node, and a recording is asked: leave --bag or --node out')
    settings = changed_settings(options)
    from stprune_ros.replay.ask import ask_bag

    return ask_bag(options.bag, settings, question, options.at_ns, say)


class WordsInTurn:
    """Writes on a terminal what is new of the words so far, each time in place of the last line."""

    def __call__(self, text: str) -> None:
        print(f'\r\x1b[K{end_of(text, shutil.get_terminal_size().columns - 1)}', end='', flush=True)

    def end(self) -> None:
        """The whole answer comes next."""
        print('\r\x1b[K', end='', flush=True)


def end_of(text: str, columns: int) -> str:
    """As much of the end of a text as fits into so many columns of a terminal; letters of East Asia take two."""
    widths = accumulate(1 + (east_asian_width(letter) in 'WF') for letter in reversed(text))
    fit = sum(width <= columns for width in widths)
    return text[len(text) - fit :]


def answer_text(found: dict[str, Any]) -> str:
    """An answer for a terminal: the text, or the candidates with their probabilities, the most probable first."""
    if not found['candidates'] or not found['text']:
        return str(found['text'])
    ranked = sorted(found['candidates'], key=lambda one: -one['probability'])
    return '\n'.join(f'{one["probability"]:6.1%}  {one["text"]}' for one in ranked)
