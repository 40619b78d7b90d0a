"""How one field of a settings group is declared: its default, what is allowed, and what it means.

A group is a frozen dataclass whose fields are made with `parameter`; `Parameter` is such a field seen from outside, by
whoever declares it to ROS, checks a file or writes the documentation.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_args, get_type_hints

from stprune_ros.errors import SettingsError, shown

T = TypeVar('T')
Value = bool | int | float | str | tuple[str, ...] | tuple[float, ...]
WORDS = {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a string'}
MAX_ITEMS, MAX_TEXT = 64, 4096  # of a list, and characters of a text: the longest path
NO_ITEMS = ['']  # how an empty list is written where ROS wants to know of what
READS_AS_VALUE = re.compile(r'[+-]?[0-9.]+([eE][+-]?[0-9]+)?|true|false', re.IGNORECASE)
PLURALS = {str: 'strings', float: 'numbers'}


def parameter(
    default: T,
    description: str,
    low: float | None = None,
    high: float | None = None,
    *,
    choices: tuple[str, ...] = (),
    dynamic: bool = False,
) -> T:
    """A dataclass field that is a parameter: numbers lie in [low, high], strings may be a closed choice.

    ``dynamic`` parameters may change while the node runs; the others are read once at start. The type is that of the
    field's annotation: bool, int, float, str, or a tuple of str or float.
    """
    limits = {'description': description, 'low': low, 'high': high, 'choices': choices, 'dynamic': dynamic}
    return field(default=default, metadata=limits)


@dataclass(frozen=True)
class Parameter:
    """One parameter by its dotted name; ``kind`` is bool, int, float or str, of each item where ``many``."""

    name: str
    kind: type
    many: bool
    default: Value
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    dynamic: bool = False

    @property
    def group(self) -> str:
        """The group that the parameter is a field of."""
        return self.name.partition('.')[0]

    @property
    def leaf(self) -> str:
        """The name of its field."""
        return self.name.partition('.')[2]

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        if self.choices:
            return f'{"a list of" if self.many else "one of"} {", ".join(self.choices)}'
        words = f'a list of {PLURALS[self.kind]}' if self.many else WORDS[self.kind]
        return words if self.low is None else f'{words} in [{self.low:.12g}, {self.high:.12g}]'

    def parse(self, value: object) -> Value:
        """Check ``value`` and return it in the parameter's type; a list of items becomes a tuple.

        Raises SettingsError naming the parameter, the value and what is allowed.
        """
        if self.many and value in (NO_ITEMS, tuple(NO_ITEMS)):
            return ()
        items = list(value) if self.many and isinstance(value, (list, tuple)) else [value]
        if len(items) > MAX_ITEMS:
            raise SettingsError(f"parameter '{self.name}' has {len(items)} entries; at most {MAX_ITEMS} are allowed")
        if any(isinstance(item, str) and len(item) > MAX_TEXT for item in items):
            raise SettingsError(f"parameter '{self.name}' is a text of more than {MAX_TEXT} characters: shorten it")
        good = self.many == isinstance(value, (list, tuple)) and all(map(self._allows, items))
        if not good:
            allowed = f'{self.allowed}{self._hint(value)}'
            raise SettingsError(f"parameter '{self.name}' is {shown(value)}; allowed is {allowed}")
        parsed: list[Any] = [self.kind(item) for item in items]
        return tuple(parsed) if self.many else parsed[0]

    def _hint(self, value: Any) -> str:
        """What to change, where the kind of ``value`` is wrong and not its content; '' elsewhere."""
        many = isinstance(value, (list, tuple))
        if many and not self.many:
            return ': give one value, without brackets' if len(value) == 1 else ''
        if self.many and not many and value is not None:
            return ': put it in brackets'
        items = value if many else [value]
        if self.kind is str and any(isinstance(item, (bool, int, float)) for item in items):
            return ': put it in quotes'
        if self.kind is not str and any(isinstance(item, str) and READS_AS_VALUE.fullmatch(item) for item in items):
            return ': remove the quotes'
        return ''

    def _allows(self, item: Any) -> bool:
        if self.kind is str:
            wanted = item in self.choices if self.choices else bool(item) or not self.many
            return isinstance(item, str) and wanted
        if self.kind is bool or isinstance(item, bool):
            return self.kind is bool and isinstance(item, bool)
        number = isinstance(item, int) or (self.kind is float and isinstance(item, float) and math.isfinite(item))
        return number and (self.low is None or self.high is None or self.low <= item <= self.high)


def parameters_of(group: str, settings_class: type) -> tuple[Parameter, ...]:
    """The parameters that the fields of a settings group declare, named ``<group>.<field>``."""
    hints = get_type_hints(settings_class)
    found = []
    for entry in fields(settings_class):
        items = get_args(hints[entry.name])
        kind = items[0] if items else hints[entry.name]
        default: Any = entry.default
        found.append(Parameter(f'{group}.{entry.name}', kind, bool(items), default, **entry.metadata))
    return tuple(found)
