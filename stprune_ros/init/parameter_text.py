"""The text of a parameter file that `stprune init` writes: what it found, each with its reason."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby

from stprune_ros.settings.parameters import PARAMETERS

HEAD = """\
# Written by `stprune init` from {source}.
# docs/parameters.md lists all parameters; what does not stand here has its default.
/**:
  ros__parameters:
"""


def parameter_text(source: str, values: Mapping[str, object], comments: Mapping[str, Sequence[str]]) -> str:
    """YAML with ``values`` by dotted name, in the order of the table; ``comments`` go above their parameter."""
    lines = []
    given = [parameter for parameter in PARAMETERS if parameter.name in values]
    for group, parameters in groupby(given, key=lambda parameter: parameter.group):
        lines.append(f'    {group}:')
        for parameter in parameters:
            for comment in comments.get(parameter.name, ()):
                lines += textwrap.wrap(comment, 110, initial_indent='      # ', subsequent_indent='      #   ')
            value = values[parameter.name]
            text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
            lines.append(f'      {parameter.leaf}: {text}')
    return HEAD.format(source=source) + '\n'.join(lines) + '\n'
