"""Reads and checks ROS 2 parameter files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from stprune_ros.errors import SettingsError, one_line
from stprune_ros.settings.parameters import RENAMED, lookup
from stprune_ros.settings.settings import Settings, contradictions, groups_of
from stprune_ros.settings.topic_names import wrong_topics

# Parameters that every rclpy node has, and which may stand in a file beside ours.
RCLPY_NAMES = ('use_sim_time', 'start_type_description_service')
RCLPY_PREFIXES = ('qos_overrides.',)


def read_file(path: str | Path) -> dict[str, object]:
    """Parameters of a ROS 2 parameter file (``<node>: ros__parameters: ...``), dotted and unchecked; rclpy's left out.

    Raises SettingsError where the file is missing, is no YAML, or holds no ``ros__parameters``.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise SettingsError(f"parameter file '{path}' cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"parameter file '{path}' is not YAML: {one_line(error)}") from None
    nodes = tree.values() if isinstance(tree, dict) else ()
    found = [node['ros__parameters'] for node in nodes if isinstance(node, dict) and 'ros__parameters' in node]
    if not found:
        raise SettingsError(f"parameter file '{path}' has no 'ros__parameters' under a node name such as '/**'")
    flat = {name: value for tree in found for name, value in _flat(tree or {})}
    return {name: value for name, value in flat.items() if not belongs_to_rclpy(name)}


def belongs_to_rclpy(name: str) -> bool:
    """Whether a parameter is one that rclpy itself declares."""
    return name in RCLPY_NAMES or name.startswith(RCLPY_PREFIXES)


def current_names(values: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """The same values with names of the last release brought up to date, and one sentence for each that was.

    Raises SettingsError where a parameter is given under both of its names.
    """
    found, notes = dict(values), []
    for old, new in RENAMED.items():
        if old not in found:
            continue
        if new in found:
            raise SettingsError(f"parameter '{old}' is now called '{new}', and both are given: remove the first")
        found[new] = found.pop(old)
        notes.append(f"parameter '{old}' is now called '{new}'; the old name is read for one more release")
    return found, notes


def problems_in(values: Mapping[str, object]) -> list[str]:
    """Each wrong name, value or contradiction as one sentence; empty where all is well."""
    problems: list[str] = []
    good: dict[str, object] = {}
    for name, value in values.items():
        try:
            good[name] = lookup(name).parse(value)
        except SettingsError as error:
            problems.append(str(error))
    groups = groups_of(good)
    problems += contradictions(groups['cameras'], groups['sync'], groups['pruning'], groups['latency'])
    return problems + wrong_topics(groups['cameras'], groups['topics'])


def load_settings(path: str | Path) -> Settings:
    """Settings from a parameter file; every wrong name and value is named in one SettingsError, one a line."""
    values, _ = current_names(read_file(path))
    return checked(values, f'{path}: ')


def checked(values: Mapping[str, object], prefix: str = '') -> Settings:
    """Settings from dotted names; every problem is named in one SettingsError, one a line after ``prefix``."""
    problems = problems_in(values)
    if problems:
        raise SettingsError('\n'.join(f'{prefix}{problem}' for problem in problems))
    return Settings.from_values(values)


def _flat(tree: Mapping[str, object], prefix: str = '') -> Iterator[tuple[str, object]]:
    """Nested YAML mappings as dotted names."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value
