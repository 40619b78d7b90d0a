"""What commands share: the types of their arguments, and the settings that a parameter file and options give.

A type turns a text into a value, or says in one sentence what is allowed.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import re
import sys
from pathlib import Path

from stprune_ros.errors import SettingsError, StpruneError, plain
from stprune_ros.pruning.config import METHOD_NAMES
from stprune_ros.resources import resource_path
from stprune_ros.settings import parameter_file
from stprune_ros.settings.parameters import lookup
from stprune_ros.settings.settings import Settings

STAMP = re.compile(r'([0-9]{1,10})(?:\.([0-9]{1,9}))?')
UNITS = {'MiB': 2**20, 'GiB': 2**30}


def positive(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f'{text} is not a number above 0')
    return value


def count(text: str) -> int:
    """An integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not an integer of at least 1')
    return value


def at_least_0(text: str) -> float:
    """A finite number of at least 0."""
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f'{text} is not a number of at least 0')
    return value


def port(text: str) -> int:
    """A port of TCP, 0 for any that is free."""
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f'{text} is not a port in 0 to 65535')
    return value


def address(text: str) -> str:
    """An address of this machine, not empty: for a socket that is all of them."""
    if not text:
        raise argparse.ArgumentTypeError('it is empty; name an address of this machine, or 0.0.0.0 for all of them')
    return text


def ratio(text: str) -> float:
    """A keep ratio as the parameter table allows it."""
    try:
        lookup('pruning.keep_ratio').parse(float(text))
        return float(text)
    except StpruneError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def size(text: str) -> tuple[int, int]:
    """Width and height of an image, as in 1920x1080."""
    width, separator, height = text.partition('x')
    if not separator:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form 1920x1080")
    return count(width), count(height)


def memory(text: str) -> int:
    """Bytes of a size as in 15GiB."""
    number = next((text.removesuffix(unit) for unit in UNITS if text.endswith(unit)), '')
    try:
        return round(positive(number) * UNITS[text.removeprefix(number)])
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"'{text}' is not a size of the form 15GiB or 512MiB") from None


def seed(text: str) -> int:
    """An integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f'{text} is not an integer of at least 0')
    return value


def stamp(text: str) -> int:
    """Nanoseconds of a stamp in seconds, exactly: 1700000000.1."""
    found = STAMP.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"'{plain(text)}' is not a stamp in seconds such as 1700000000.100000000, with at most nine decimals"
        )
    return int(found[1]) * 10**9 + int((found[2] or '').ljust(9, '0'))


def ratios(text: str) -> tuple[float, ...]:
    """Keep ratios, separated by commas."""
    return tuple(ratio(part) for part in text.split(','))


def names(text: str) -> tuple[str, ...]:
    """Names, separated by commas."""
    return tuple(text.split(','))


def remap(text: str) -> tuple[str, str]:
    """A pair 'from:=to' of topic names."""
    source, separator, target = text.partition(':=')
    if not (separator and source and target):
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form /from:=/to")
    return source, target


def add_pruning(command: argparse.ArgumentParser) -> None:
    """Declare what `changed_settings` reads."""
    command.add_argument('--params', type=Path, metavar='FILE', help='parameter file, as for the node')
    command.add_argument('--keep', type=ratio, metavar='R', help='share of visual tokens that the model sees')
    command.add_argument('--method', choices=METHOD_NAMES, help='how tokens are selected')


def load_settings(path: Path | None) -> Settings:
    """The settings of a parameter file, the defaults where there is none; says which names are of the last release.

    Raises SettingsError naming all that is wrong.
    """
    if path is None:
        return Settings()
    found = parameter_file.ParameterFile.read(path)
    for note in found.notes:
        print(f'{path}: {note}', file=sys.stderr)
    return parameter_file.settings_of(found, f'{path}: ')


def changed_settings(options: argparse.Namespace) -> Settings:
    """The settings of --params with --keep and --method in their places."""
    given = {'pruning.keep_ratio': options.keep, 'pruning.method': options.method}
    return load_settings(options.params).changed({name: value for name, value in given.items() if value is not None})


def with_host(settings: Settings, host: str | None) -> Settings:
    """The settings with the model that --host names: a folder, else a bundled model, else one of the hub.

    Raises SettingsError for a name that could be none of these; whether the hub's is here, loading says.
    """
    if host is None:
        return settings
    from stprune_ros.vlm.hf.model_folder import HUB_ID

    if (host and Path(host).exists()) or HUB_ID.fullmatch(host):
        return settings.changed({'model.path': host})
    bundled = {folder.name: str(folder) for folder in sorted(resource_path('models').iterdir()) if folder.is_dir()}
    if host not in bundled:
        raise SettingsError(
            f"--host '{plain(host)}' is neither a folder nor a bundled model; choose one of {', '.join(bundled)}"
        )
    return settings.changed({'model.path': bundled[host]})


def say(sentence: str) -> None:
    """A line on stderr."""
    print(f'stprune: {sentence}', file=sys.stderr, flush=True)


def require_rclpy(command: str) -> None:
    """Raise StpruneError where ROS 2 is not installed."""
    if importlib.util.find_spec('rclpy') is None:
        raise StpruneError(f"`stprune {command}` needs rclpy: pip install '.[ros]', or source a ROS 2 workspace")


def demo_values(path: Path | None) -> dict[str, object]:
    """The values of a parameter file that is right; SettingsError naming all that is wrong. Others stay the demo's."""
    if path is None:
        return {}
    load_settings(path)
    return parameter_file.read_file(path)
