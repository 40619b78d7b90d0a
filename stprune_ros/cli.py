"""The command `stprune`. Exit codes: 0 done, 1 failed (one sentence on stderr), 2 wrong usage, 130 interrupted,
141 nobody reads the output any more (as behind `| head`, and nothing is said of it).

Everything heavy is imported inside the command that needs it, so that `stprune check` answers at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from stprune_ros.arguments import say
from stprune_ros.commands import (
    ask,
    bench,
    calibrate,
    check,
    compare,
    completion,
    demo,
    drive,
    evaluate,
    export_gguf,
    fleet,
    init,
    play,
    replay,
    view,
    world,
)
from stprune_ros.errors import Interrupted, StpruneError, require_utf8, sentence_of
from stprune_ros.resources import version
from stprune_ros.results import as_json

# In the order of the help.
COMMANDS: Mapping[str, ModuleType] = {
    'demo': demo,
    'replay': replay,
    'ask': ask,
    'compare': compare,
    'fleet': fleet,
    'calibrate': calibrate,
    'play': play,
    'view': view,
    'world': world,
    'eval': evaluate,
    'drive': drive,
    'bench': bench,
    'export-gguf': export_gguf,
    'init': init,
    'check': check,
    'completion': completion,
}

UNREAD = 128 + signal.SIGPIPE  # what a shell shows of a command that the system ends for it


class _UnreadError(Exception):
    """Nobody reads what is printed any more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; with --json stdout is one object, and everything else is on stderr."""
    options = parser().parse_args(arguments)
    # A container that stops sends SIGTERM: what was done so far is kept, as with Ctrl-C. A shell script starts its
    # background jobs with SIGINT ignored: that one must be asked for, too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    result: dict[str, Any] = {}
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        exit_code, errors = _run(options, result)
    if options.json:
        report = {'command': options.command, 'version': version(), 'exit_code': exit_code, 'errors': errors}
        try:
            _print(as_json({**report, 'result': result}))
        except _UnreadError:
            return UNREAD
        except OSError as error:  # the disk is full
            say(error.strerror or str(error))
            return 1
    return exit_code


def _run(options: argparse.Namespace, result: dict[str, Any]) -> tuple[int, list[str]]:
    """Exit code, and the sentences that ended the command, which are on stderr; ``result`` is filled on the way."""

    def show(text: str, content: Mapping[str, Any]) -> None:
        result.update(content)
        if text:
            with suppress(_UnreadError) if options.json else nullcontext():  # the object is what counts
                _print(text)

    try:
        for text in _texts(vars(options).values()):
            require_utf8(text)
        return int(COMMANDS[options.command].run(options, show)), []
    except _UnreadError:
        return UNREAD, []
    except StpruneError as error:
        exit_code, errors = 1, str(error).splitlines()
    except OSError as error:
        exit_code, errors = 1, [sentence_of(error)]
    except Interrupted as stop:
        result.update(stop.result)
        exit_code, errors = 130, [str(stop)]
    except KeyboardInterrupt:
        exit_code, errors = 130, ['interrupted']
    for sentence in errors:
        say(sentence)
    return exit_code, errors


def _print(text: str) -> None:
    """Raises _UnreadError, and OSError where what is printed cannot be written."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What is still in the buffer would fail once more when the interpreter ends, and not quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise _UnreadError from None


def _texts(values: Iterable[object]) -> Iterator[str]:
    """What was given as text: options, paths, and lists of them."""
    for value in values:
        if isinstance(value, str | Path):
            yield str(value)
        elif isinstance(value, list | tuple):
            yield from _texts(value)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog='stprune', description='Six cameras in, scene descriptions and planning hints out.'
    )
    top.add_argument('--version', action=_Version, nargs=0, help='print the version and exit')
    commands = top.add_subparsers(title='commands', metavar='COMMAND', dest='command', required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP)
        module.add_arguments(command)
        if module is not completion:
            command.add_argument(
                '--json', action='store_true', help='print one JSON object on stdout, everything else on stderr'
            )
    top.set_defaults(parser=parser, json=False)
    return top


class _Version(argparse.Action):
    """As argparse's own, but the version is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        print(f'stprune {version()}')
        parser.exit()


if __name__ == '__main__':
    sys.exit(main())
