"""Writes the parameter file and its schema from the settings table: `python -m stprune_ros.settings.generate_files`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from stprune_ros.resources import share
from stprune_ros.settings.settings import PARAMETERS, Parameter, Value

# The node cannot guess its topics, so the file names the cameras of a common ring.
EXAMPLES: Mapping[str, Value] = {
    'cameras.names': ['CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_RIGHT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_FRONT_LEFT'],
}
HEAD = """\
# Every parameter of stprune_node and `stprune replay`, with its default and what is allowed.
# `stprune check FILE` checks a copy without ROS. Those marked (dynamic) may change while the node runs.
/**:
  ros__parameters:
"""
JSON_TYPES = {bool: 'boolean', int: 'integer', float: 'number', str: 'string', list: 'array'}


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
        group: _object({_leaf(parameter): _property(parameter) for parameter in parameters})
        for group, parameters in groupby(PARAMETERS, key=_group)
    }
    parameters = _object({**groups, 'use_sim_time': {'type': 'boolean'}, 'qos_overrides': {'type': 'object'}})
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


def write(folder: Path) -> None:
    """Write both files below ``folder``."""
    (folder / 'stprune.param.yaml').write_text(param_file(), encoding='utf-8')
    text = json.dumps(schema(), indent=2) + '\n'
    (folder / 'schema' / 'stprune.schema.json').write_text(text, encoding='utf-8')


def _group(parameter: Parameter) -> str:
    return parameter.name.partition('.')[0]


def _leaf(parameter: Parameter) -> str:
    return parameter.name.partition('.')[2]


def _entry(parameter: Parameter) -> list[str]:
    note = f'{parameter.description}; {parameter.allowed}' + (' (dynamic)' if parameter.dynamic else '')
    comment = textwrap.wrap(note, 110, initial_indent='      # ', subsequent_indent='      # ')
    value = EXAMPLES.get(parameter.name, parameter.default)
    return [*comment, f'      {_leaf(parameter)}: {json.dumps(value)}']


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {'type': 'object', 'additionalProperties': False, 'properties': dict(properties)}


def _property(parameter: Parameter) -> dict[str, Any]:
    found: dict[str, Any] = {
        'type': JSON_TYPES[type(parameter.default)],
        'description': parameter.description,
        'default': parameter.default,
    }
    limits = {} if parameter.low is None else {'minimum': parameter.low, 'maximum': parameter.high}
    if parameter.choices:
        found['enum'] = list(parameter.choices)
    if isinstance(parameter.default, list):
        found['items'] = {'type': 'number', **limits} if limits else {'type': 'string', 'minLength': 1}
        return found
    return {**found, **limits}


if __name__ == '__main__':
    write(share('config'))
