"""Reads and checks ROS 2 parameter files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stprune_ros.bounded_yaml import read_text
from stprune_ros.errors import SettingsError, one_line
from stprune_ros.settings.parameters import RENAMED, lookup
from stprune_ros.settings.ros_yaml import RosYaml, Section
from stprune_ros.settings.settings import Settings, contradictions, groups_of

NODE_NAME = 'stprune_node'

# Parameters that every rclpy node has, and which may stand in a file beside ours.
RCLPY_NAMES = ('use_sim_time', 'start_type_description_service')
RCLPY_PREFIXES = ('qos_overrides.',)


@dataclass(frozen=True, slots=True)
class ParameterFile:
    """What a file gives this node, by today's names and unchecked; rclpy's own parameters are left out.

    ``problems`` are wrong in the file's form, ``notes`` are worth saying; one sentence each.
    """

    values: dict[str, object]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def read(cls, path: str | Path) -> ParameterFile:
        """Read a ROS 2 parameter file (``<node>: ros__parameters: ...``) as rcl does.

        Raises SettingsError where it is missing, is no YAML, or holds no ``ros__parameters``.
        """
        try:
            text = read_text(path)
        except UnicodeDecodeError as error:
            raise SettingsError(f"parameter file '{path}' is not YAML: {one_line(error)}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, 'strerror', None) or one_line(error)
            raise SettingsError(f"parameter file '{path}' cannot be read: {reason}") from None
        tree = RosYaml.parse(text, path)
        if not tree.sections and not tree.nameless:
            raise SettingsError(f"parameter file '{path}' has no 'ros__parameters' under a node name such as '/**'")
        values, problems = _values_of_node(tree.sections)
        values = {name: value for name, value in values.items() if not belongs_to_rclpy(name)}
        current, notes, twice = _renamed(values)
        return cls(current, (*tree.problems, *problems, *twice), tuple(notes))


def read_file(path: str | Path) -> dict[str, object]:
    """The values of `ParameterFile`; SettingsError where anything is wrong in the file's form, one problem a line."""
    found = ParameterFile.read(path)
    if found.problems:
        raise SettingsError('\n'.join(f'{path}: {problem}' for problem in found.problems))
    return found.values


def _values_of_node(sections: Sequence[Section]) -> tuple[dict[str, object], list[str]]:
    """What rclpy gives a node called stprune_node, in any namespace: exact names win over wildcards."""
    reaching = [section for section in sections if section.node.rpartition('/')[2] in (NODE_NAME, '*', '**')]
    if sections and not reaching:
        others = ', '.join(f"'{section.node}'" for section in sections)
        return {}, [f"no section is for the node 'stprune_node', only for {others}: name it '/**' or 'stprune_node'"]
    exact = [section for section in reaching if '*' not in section.node]
    problems = []
    if len(exact) > 1:
        named = ', '.join(f"'{section.node}'" for section in exact)
        problems.append(f'it holds parameters for several nodes, {named}: give each a file of its own')
    ordered = [*(section for section in reaching if section not in exact), *exact]
    return {name: value for section in ordered for name, value in section.values.items()}, problems


def belongs_to_rclpy(name: str) -> bool:
    """Whether a parameter is one that rclpy itself declares."""
    return name in RCLPY_NAMES or name.startswith(RCLPY_PREFIXES)


def current_names(values: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """The same values with names of the last release brought up to date, and one sentence for each that was.

    Raises SettingsError where a parameter is given under both of its names.
    """
    found, notes, problems = _renamed(values)
    if problems:
        raise SettingsError('\n'.join(problems))
    return found, notes


def _renamed(values: Mapping[str, object]) -> tuple[dict[str, object], list[str], list[str]]:
    """`current_names` with the problems beside; where both names are given the new one counts."""
    found, notes, problems = dict(values), [], []
    for old, new in RENAMED.items():
        if old not in found:
            continue
        value = found.pop(old)
        if new in found:
            problems.append(f"parameter '{old}' is now called '{new}', and both are given: remove the first")
            continue
        found[new] = value
        notes.append(f"parameter '{old}' is now called '{new}'; the old name is read for one more release")
    return found, notes, problems


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
    # A contradiction to the default of a parameter whose value is wrong would not be one.
    wrong = [f"'{name}'" for name in values if name not in good]
    return problems + [sentence for sentence in contradictions(groups) if not any(name in sentence for name in wrong)]


def load_settings(path: str | Path) -> Settings:
    """Settings from a parameter file; all that is wrong is named in one SettingsError, one a line."""
    return settings_of(ParameterFile.read(path), f'{path}: ')


def settings_of(found: ParameterFile, prefix: str = '') -> Settings:
    """The settings of a file that was read; SettingsError with every problem, one a line after ``prefix``."""
    return checked(found.values, prefix, found.problems)


def checked(values: Mapping[str, object], prefix: str = '', problems: Sequence[str] = ()) -> Settings:
    """Settings from dotted names; every problem is named in one SettingsError, one a line after ``prefix``.

    ``problems`` are known already.
    """
    found = [*problems, *problems_in(values)]
    if found:
        raise SettingsError('\n'.join(f'{prefix}{problem}' for problem in found))
    return Settings.from_values(values)
