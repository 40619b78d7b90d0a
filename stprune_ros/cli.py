"""The command `stprune`. Exit codes: 0 done, 1 failed (one sentence on stderr), 2 wrong usage, 130 interrupted.

Everything heavy is imported inside the command that needs it, so that `stprune check` answers at once.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
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
            print(as_json({**report, 'result': result}), flush=True)
        except OSError as error:  # nobody reads it any more, or the disk is full
            say(error.strerror or str(error))
            return 1
    return exit_code


def _run(options: argparse.Namespace, result: dict[str, Any]) -> tuple[int, list[str]]:
    """Exit code, and the sentences that ended the command, which are on stderr; ``result`` is filled on the way."""

    def show(text: str, content: Mapping[str, Any]) -> None:
        if text:
            print(text, flush=True)
        result.update(content)

    try:
        for text in _texts(vars(options).values()):
            require_utf8(text)
        return int(COMMANDS[options.command].run(options, show)), []
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
