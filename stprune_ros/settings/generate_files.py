"""Writes what follows from the table of parameters: `python -m stprune_ros.settings.generate_files`.

That is config/stprune.param.yaml, its JSON schema, and docs/parameters.md.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from stprune_ros.parameter import Parameter, Value
from stprune_ros.resources import resource_path
from stprune_ros.results import table
from stprune_ros.settings.parameter_file import RCLPY_NAMES
from stprune_ros.settings.parameters import PARAMETERS, RENAMED

# The node cannot guess its topics, so the file names the cameras of a common ring.
EXAMPLES: Mapping[str, Value] = {
    'cameras.names': ('CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_RIGHT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_FRONT_LEFT'),
}
HEAD = """\
# Every parameter of stprune_node and `stprune replay`, with its default and what is allowed.
# `stprune check FILE` checks a copy without ROS. Those marked (dynamic) may change while the node runs.
/**:
  ros__parameters:
"""
JSON_TYPES = {bool: 'boolean', int: 'integer', float: 'number', str: 'string'}
PAGE = """\
# Parameters

Written by `python -m stprune_ros.settings.generate_files` from the table in `stprune_ros/settings/parameters.py`.
`config/stprune.param.yaml` holds all of them with their defaults, `config/schema/stprune.schema.json` is its schema,
and `stprune check FILE` checks a file. Dynamic parameters may change while the node runs; the others are read once at
start.
"""
_group = attrgetter('group')


def param_file() -> str:
    """The parameter file, with a comment on every parameter."""
    lines = []
    for group, parameters in groupby(PARAMETERS, key=_group):
        lines.append(f'    {group}:')
        lines += [line for parameter in parameters for line in _entry(parameter)]
    return HEAD + '\n'.join(lines) + '\n'


def schema() -> dict[str, Any]:
    """JSON schema (draft 7) of the parameter file; unknown names are refused."""
    groups = {
        group: _object({parameter.leaf: _property(parameter) for parameter in parameters})
        for group, parameters in groupby(PARAMETERS, key=_group)
    }
    rclpy = {name: {'type': 'boolean'} for name in RCLPY_NAMES}
    parameters = _object({**groups, **rclpy, 'qos_overrides': {'type': 'object'}})
    return {
        '$schema': 'http://json-schema.org/draft-07/schema#',
        'title': 'Parameters of stprune_node',
        'type': 'object',
        'additionalProperties': {
            'type': 'object',
            'required': ['ros__parameters'],
            'properties': {'ros__parameters': parameters},
        },
    }


def page() -> str:
    """docs/parameters.md."""
    parts = [PAGE]
    for group, parameters in groupby(PARAMETERS, key=_group):
        rows = [
            (
                f'`{one.name}`',
                f'`{json.dumps(one.default)}`',
                one.allowed,
                'yes' if one.dynamic else '',
                one.description,
            )
            for one in parameters
        ]
        parts.append(f'## {group}\n\n{table(("parameter", "default", "allowed", "dynamic", "meaning"), rows)}\n')
    renamed = table(('until 0.1', 'now'), [(f'`{old}`', f'`{new}`') for old, new in RENAMED.items()])
    parts.append(f'## Renamed\n\nThe old names are read from files for one more release.\n\n{renamed}\n')
    return '\n'.join(parts)


def write(root: Path) -> None:
    """Write all three files below ``root``, the source tree."""
    (root / 'config' / 'stprune.param.yaml').write_text(param_file(), encoding='utf-8')
    text = json.dumps(schema(), indent=2) + '\n'
    (root / 'config' / 'schema' / 'stprune.schema.json').write_text(text, encoding='utf-8')
    (root / 'docs' / 'parameters.md').write_text(page(), encoding='utf-8')


def _entry(parameter: Parameter) -> list[str]:
    note = f'{parameter.description}; {parameter.allowed}' + (' (dynamic)' if parameter.dynamic else '')
    comment = textwrap.wrap(note, 110, initial_indent='      # ', subsequent_indent='      # ')
    value = EXAMPLES.get(parameter.name, parameter.default)
    return [*comment, f'      {parameter.leaf}: {json.dumps(value)}']


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {'type': 'object', 'additionalProperties': False, 'properties': dict(properties)}


def _property(parameter: Parameter) -> dict[str, Any]:
    limits = {} if parameter.low is None else {'minimum': parameter.low, 'maximum': parameter.high}
    kind = JSON_TYPES[parameter.kind]
    found: dict[str, Any] = {'description': parameter.description, 'default': parameter.default}
    if parameter.many:
        items: dict[str, Any] = (
            {'type': kind, **limits} if parameter.kind is not str else {'type': kind, 'minLength': 1}
        )
        items |= {'enum': list(parameter.choices)} if parameter.choices else {}
        return {'type': 'array', **found, 'default': list(parameter.default), 'items': items}  # type: ignore[arg-type]
    if parameter.choices:
        found['enum'] = list(parameter.choices)
    return {'type': kind, **found, **limits}


if __name__ == '__main__':
    write(resource_path('package.xml').parent)
