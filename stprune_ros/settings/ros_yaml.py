"""Reads a parameter file as rcl does, and names what rcl refuses or what would be lost in silence, with its line.

rcl is not PyYAML: 1e-3 is a number, 12:30 and 1_000 are texts, y is true, null is the text 'null', an alias, a list of
mixed kinds or a key without a value make the node end at start.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from stprune_ros import bounded_yaml
from stprune_ros.errors import SettingsError, one_line, plain

PARAMETERS_KEY = 'ros__parameters'
TRUE = {'Y', 'y', 'yes', 'Yes', 'YES', 'true', 'True', 'TRUE', 'on', 'On', 'ON'}
FALSE = {'N', 'n', 'no', 'No', 'NO', 'false', 'False', 'FALSE', 'off', 'Off', 'OFF'}
NULL = {'~', 'null', 'Null', 'NULL'}
HEX, OCTAL = re.compile(r'[+-]?0[xX][0-9a-fA-F]+'), re.compile(r'[+-]?0[0-7]+')
INTEGER, DECIMAL = re.compile(r'[+-]?(0|[1-9][0-9]*)'), re.compile(r'[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?')
NOT_FINITE = re.compile(r'[+-]?(\.?inf|\.?nan|infinity)', re.IGNORECASE)
MAX_KEY = 255  # characters of a name, as of a topic
KINDS = {bool: 'true or false', int: 'whole numbers', float: 'numbers with a point', str: 'texts'}


@dataclass
class Section:
    """The parameters of one node name of a file, by dotted name, and the line of each."""

    node: str
    values: dict[str, object] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


@dataclass
class RosYaml:
    """The sections of a file in its order, and what is wrong with its form, one sentence each.

    ``nameless`` says that parameters stand under no node name.
    """

    sections: list[Section] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    nameless: bool = False

    @classmethod
    def parse(cls, text: str, path: object) -> RosYaml:
        """Read ``text``; ``path`` names the file in sentences. Raises SettingsError where it is no YAML."""
        found = cls()
        try:
            root, aliases = bounded_yaml.compose(text)
        except yaml.YAMLError as error:
            mark = getattr(error, 'problem_mark', None)
            if mark is not None and mark.buffer is not None and _has_tab(text, mark.line):
                raise SettingsError(
                    f"parameter file '{path}' has a tab in line {mark.line + 1}: indent with spaces"
                ) from None
            raise SettingsError(f"parameter file '{path}' is not YAML: {one_line(error)}") from None
        for event in aliases:
            found._say(event.start_mark, f"'*{plain(event.anchor)}' is an alias, which ROS refuses: write it out")
        if isinstance(root, yaml.MappingNode):
            found._find_sections(root, '')
        return found

    def _say(self, mark: Any, sentence: str) -> None:
        self.problems.append(f'line {mark.line + 1}: {sentence}')

    def _find_sections(self, tree: yaml.MappingNode, name: str) -> None:
        """Node names lead to ``ros__parameters``, over any number of namespaces."""
        entries = list(self._entries(tree))
        inside = any(key.value == PARAMETERS_KEY for key, _ in entries)
        for key, node in entries:
            if key.value == PARAMETERS_KEY:
                self._read_section(key, node, name)
            elif inside:
                self._say(
                    key.start_mark,
                    f"'{key.value}' stands beside 'ros__parameters', which ROS refuses: indent it to stand below",
                )
            elif isinstance(node, yaml.MappingNode) and _leads_to_parameters(node):
                self._find_sections(node, f'{name}/{key.value}' if name else key.value)
            elif not isinstance(node, yaml.MappingNode) or node.value:  # ROS lets an empty one pass
                self._say(key.start_mark, f"'{key.value}' is no node name with 'ros__parameters' below it")

    def _read_section(self, key: yaml.ScalarNode, tree: yaml.Node, name: str) -> None:
        if not name:
            self.nameless = True
            self._say(key.start_mark, "'ros__parameters' has no node name above it; write '/**:' above and indent")
            return
        section = next((one for one in self.sections if full_name(one.node) == full_name(name)), None)
        if section is not None:
            self._say(key.start_mark, f"node '{name}' is given a second time; put its parameters together")
        else:
            section = Section(name)
            self.sections.append(section)
        if isinstance(tree, yaml.MappingNode):
            self._read_group(tree, '', section)
        else:
            self._say(key.start_mark, "'ros__parameters' has no parameters below it; indent them")

    def _read_group(self, tree: yaml.MappingNode, prefix: str, section: Section) -> None:
        for key, node in self._entries(tree):
            name = f'{prefix}{key.value}'
            again = name in section.lines
            first = section.lines.setdefault(name, key.start_mark.line + 1)
            if isinstance(node, yaml.MappingNode) and node.value:
                if again:
                    self._say(
                        key.start_mark,
                        f"'{name}' is given a second time, first in line {first}: put what is below both together",
                    )
                self._read_group(node, f'{name}.', section)
            elif again:
                self._say(key.start_mark, f"'{name}' is given a second time, first in line {first}: remove one")
            else:
                self._read_value(key, node, name, section)

    def _read_value(self, key: yaml.ScalarNode, node: yaml.Node, name: str, section: Section) -> None:
        if isinstance(node, yaml.ScalarNode) and node.style is None:
            if not node.value:
                self._say(key.start_mark, f"'{name}' has no value; give one, or indent what belongs below it")
                return
            if node.value in NULL:
                self._say(
                    key.start_mark,
                    f"'{name}' is {node.value}, which ROS reads as a text; remove the line, or write '' or []",
                )
                return
        value = _value(node)
        if isinstance(value, list):
            kinds = [kind for kind in KINDS if any(type(item) is kind for item in value)]
            if len(kinds) > 1:
                remedy = 'write each with a point' if kinds == [int, float] else 'put texts in quotes'
                mixed = ' and '.join(KINDS[kind] for kind in kinds)
                self._say(key.start_mark, f"'{name}' mixes {mixed} in one list, which ROS refuses: {remedy}")
                return
        section.values[name] = value

    def _entries(self, tree: yaml.MappingNode) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        for key, node in tree.value:
            if isinstance(key, yaml.ScalarNode):
                key.value = plain(key.value, MAX_KEY)
                yield key, node
            else:
                self._say(key.start_mark, 'a key must be a text')


def full_name(node: str) -> str:
    """A node name of a file with its leading '/'."""
    return f'/{node.lstrip("/")}'


def _leads_to_parameters(tree: yaml.MappingNode) -> bool:
    return any(
        key.value == PARAMETERS_KEY or (isinstance(node, yaml.MappingNode) and _leads_to_parameters(node))
        for key, node in tree.value
    )


def _has_tab(text: str, line: int) -> bool:
    lines = text.splitlines()
    return line < len(lines) and '\t' in lines[line][: len(lines[line]) - len(lines[line].lstrip())]


def _value(node: Any) -> object:
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _value(item) for key, item in node.value} if node.value else []
    return str(node.value) if node.style is not None else scalar(node.value)


def scalar(text: str) -> bool | int | float | str:
    """An unquoted value in the type that rcl gives it."""
    if text in TRUE or text in FALSE:
        return text in TRUE
    for pattern, base in ((HEX, 16), (OCTAL, 8), (INTEGER, 10)):
        if pattern.fullmatch(text):
            try:
                number = int(text, base)
                return number if -(2**63) <= number < 2**63 else float(number)
            except (ValueError, OverflowError):  # beyond 4,300 digits, and beyond every float
                return text
    if NOT_FINITE.fullmatch(text):
        return float(text.replace('.', ''))
    if DECIMAL.fullmatch(text):
        value = float(text)
        return value if math.isfinite(value) else text
    return text
