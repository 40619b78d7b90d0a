"""YAML from files that anybody may have written, read within bounds: no file makes its reader slow or large.

Parameter files, rig files and prompts are a few kilobytes; what is far beyond is damage or an attack.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from stprune_ros.errors import one_line, plain

MAX_BYTES = 2**18
MAX_NODES = 20_000
MAX_DEPTH = 32
MAX_TEXT = 10_000  # characters of one key or value


def read_text(path: str | Path, limit: int = MAX_BYTES) -> str:
    """The text of a file in UTF-8. Raises ValueError beyond ``limit`` bytes, UnicodeDecodeError and OSError."""
    with Path(path).open('rb') as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f'it has more than {limit} bytes, which no such file needs')
    return data.decode('utf-8')


def fault(text: str, max_nodes: int) -> str:
    """Why a document that another library is to read should not be given to it, '' where nothing speaks against it.

    It is looked through only: aliases, depth and size are what makes readers of YAML slow or large.
    """
    depth = nodes = 0
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            nodes += isinstance(event, yaml.NodeEvent)
            if isinstance(event, yaml.AliasEvent):
                return f"it has an alias, '*{plain(str(event.anchor))}', which no such file needs"
            if depth > MAX_DEPTH or nodes > max_nodes:
                what = f'{MAX_DEPTH} levels' if depth > MAX_DEPTH else f'{max_nodes} keys and values'
                return f'it has more than {what}, which no such file needs'
    except (yaml.YAMLError, ValueError) as error:
        return one_line(error)
    return ''


def compose(text: str) -> tuple[yaml.Node | None, list[Any]]:
    """The nodes of a document and the alias events in it, in whose places stand their names: nothing is expanded.

    Raises yaml.YAMLError where it is no YAML, or beyond the bounds above.
    """
    loader = _Loader(text)
    return _composed(loader), loader.aliases


def load(text: str) -> Any:
    """The content of a document, as `yaml.safe_load` gives it.

    Raises yaml.YAMLError, also for an alias, and for a key that its mapping has already.
    """
    loader = _Loader(text)
    node = _composed(loader)
    if loader.aliases:
        first = loader.aliases[0]
        raise yaml.MarkedYAMLError(
            problem=f"'*{first.anchor}' is an alias, which is not followed: write it out", problem_mark=first.start_mark
        )
    again = _repeated_key(node)
    if again is not None:  # the later one would replace the earlier
        line, name = again.start_mark.line + 1, plain(again.value)
        raise yaml.YAMLError(f"line {line}: '{name}' is given a second time; remove one")
    try:
        return loader.construct_document(node) if node is not None else None
    except (ValueError, OverflowError) as error:  # such as a number of 5,000 digits, or the 30th of February
        raise yaml.YAMLError(str(error)) from None


def _repeated_key(node: yaml.Node | None) -> yaml.ScalarNode | None:
    """The first key that its mapping has already."""
    below = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else []
    below = node.value if isinstance(node, yaml.SequenceNode) else below
    keys = below[::2] if isinstance(node, yaml.MappingNode) else []
    known: set[tuple[str, str]] = set()
    for key in keys:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in known:
                return key
            known.add((key.tag, key.value))
    return next((found for part in below if (found := _repeated_key(part)) is not None), None)


def _composed(loader: _Loader) -> yaml.Node | None:
    try:
        return loader.get_single_node()  # type: ignore[no-any-return]
    except ValueError as error:  # a directive with a number of 5,000 digits
        raise yaml.YAMLError(str(error)) from None


class _Loader(yaml.SafeLoader):
    """Stops composing at the bounds; nested as deep as MAX_DEPTH, nothing below runs into Python's own limit."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.aliases: list[Any] = []
        self._depth = self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        self._nodes += 1
        self._depth += 1
        if self._nodes > MAX_NODES:
            raise self._beyond(event, f'more than {MAX_NODES} keys and values')
        if self._depth > MAX_DEPTH:
            raise self._beyond(event, f'more than {MAX_DEPTH} levels')
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_TEXT:
            raise self._beyond(event, f'a text of {len(event.value)} characters, more than {MAX_TEXT}')
        if isinstance(event, yaml.AliasEvent):
            alias: Any = self.get_event()  # type: ignore[no-untyped-call]
            self.aliases.append(alias)
            place = alias.start_mark, alias.end_mark
            node: yaml.Node | None = yaml.ScalarNode('tag:yaml.org,2002:str', f'*{alias.anchor}', *place, style="'")
        else:
            node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    @staticmethod
    def _beyond(event: Any, what: str) -> yaml.YAMLError:
        return yaml.MarkedYAMLError(problem=f'it has {what}, which no such file needs', problem_mark=event.start_mark)
