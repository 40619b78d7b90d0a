"""What viewers make of message definitions, and the topics that our layouts for them name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SEPARATOR = re.compile(r'^=+\nMSG: (\S+)\n', re.MULTILINE)
LINE = re.compile(r'^(?P<type>[\w/]+)(?P<array>\[[^\]]*\])?\s+(?P<name>\w+)(?:\s*=\s*(?P<value>.+))?$')
PATH = re.compile(r'^(?P<topic>/[\w/]+)(?P<fields>(?:\.\w+(?:\[[^\]]*\])?(?:\{[^}]*\})*)*)$')
FIELD = re.compile(r'\.(\w+)(\[[^\]]*\])?((?:\{[^}]*\})*)')


@dataclass
class Definition:
    """Fields of a message with their types, and the constants that a viewer shows as names of a field's values."""

    fields: dict[str, tuple[str, bool]] = field(default_factory=dict)  # type, and whether an array
    names: dict[str, dict[int, str]] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)


def definition(text: str) -> Definition:
    """What one .msg text defines; constants name a field where they stand directly before it and have its type."""
    found, waiting, waiting_type = Definition(), {}, ''
    for line in (line.partition('#')[0].strip() for line in text.splitlines()):
        if not line:
            continue
        match = LINE.match(line)
        assert match is not None, line
        kind, name, value = match['type'], match['name'], match['value']
        if kind != waiting_type:
            waiting, waiting_type = {}, kind
        if value is not None:
            assert int(value) not in waiting, f'{name}: two constants of one field are {value}'
            waiting[int(value)] = name
            found.constants[name] = int(value)
        else:
            found.fields[name] = (kind, match['array'] is not None)
            if waiting:
                found.names[name] = waiting
            waiting = {}
    return found


def definitions(msgtype: str, text: str) -> dict[str, Definition]:
    """Every message of a text as MCAP has it, by 'pkg/Name'."""
    first, *others = SEPARATOR.split(text)
    found = {short(msgtype): definition(first)}
    return found | {name: definition(body) for name, body in zip(others[::2], others[1::2])}


def short(msgtype: str) -> str:
    """'pkg/Name' of 'pkg/msg/Name'."""
    return msgtype.replace('/msg/', '/')


@dataclass(frozen=True)
class Shown:
    """A path that a panel shows: a topic, the fields behind it, and the panel's type."""

    panel: str
    topic: str
    fields: str = ''


def foxglove_paths(layout: Path) -> Iterator[Shown]:
    """Every topic or path in a layout; fails for a panel that this does not know, or one that is not shown."""
    tree = json.loads(layout.read_text(encoding='utf-8'))
    assert sorted(_leaves(tree['layout'])) == sorted(tree['configById'])
    for name, config in tree['configById'].items():
        panel = name.partition('!')[0]
        for path in _paths(panel, config):
            match = PATH.match(path)
            assert match is not None, path
            yield Shown(panel, match['topic'], match['fields'])


def _leaves(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
        return
    assert node['direction'] in ('row', 'column') and 0 < node['splitPercentage'] < 100
    yield from _leaves(node['first'])
    yield from _leaves(node['second'])


def panel_heights(node: Any, height: float = 1.0) -> Iterator[tuple[str, float]]:
    """Each panel of a layout with its share of the window's height."""
    if isinstance(node, str):
        yield node, height
        return
    share = node['splitPercentage'] / 100
    for child, part in ((node['first'], share), (node['second'], 1 - share)):
        yield from panel_heights(child, height * part if node['direction'] == 'column' else height)


def contrast(one: str, other: str) -> float:
    """Contrast of two colours '#rrggbb' as WCAG 2 defines it, 1 to 21."""
    darker, lighter = sorted(map(_luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear))


def _paths(panel: str, config: dict[str, Any]) -> list[str]:
    if panel in ('Plot', 'StateTransitions'):
        return [path['value'] for path in config['paths']]
    if panel == 'Image':
        return [config['imageMode']['imageTopic']]
    return [config['topicPath' if panel == 'RawMessages' else 'topicToRender']]


def field_of(shown: Shown, msgtype: str, known: dict[str, Definition]) -> tuple[str, dict[int, str]]:
    """Type of the value that a path leads to, and the names of its values; fails where it leads nowhere or to many."""
    kind, names = short(msgtype), {}
    for name, index, filters in FIELD.findall(shown.fields):
        one = known[_full(kind, known)]
        assert name in one.fields, f'{shown.fields}: {kind} has no {name}'
        (kind, is_array), names = one.fields[name], one.names.get(name, {})
        assert is_array == bool(index), f'{shown.fields}: {name}'
        for key, _ in re.findall(r'\{(\w+)==("[^"]*")\}', filters):
            assert known[_full(kind, known)].fields[key][0] == 'string', filters
        assert index != '[:]' or filters, f'{shown.fields}: several values at once'
    return kind, names


def _full(kind: str, known: dict[str, Definition]) -> str:
    """A type inside a package may be named without it."""
    if kind in known:
        return kind
    [found] = [name for name in known if name.endswith(f'/{kind}')]
    return found


def rviz_topics(file: Path) -> Iterator[tuple[str, str, str]]:
    """Class, topic and reliability of every display with a topic."""
    for display in yaml.safe_load(file.read_text(encoding='utf-8'))['Visualization Manager']['Displays']:
        topic = display.get('Topic')
        if topic is not None:
            yield display['Class'], topic['Value'], topic['Reliability Policy']
