"""A part of a bag, and the command that replays it with the parameters of a run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stprune_ros.errors import SettingsError
from stprune_ros.replay.records import stamp_text
from stprune_ros.settings.settings import Settings

LATEST_NS = 2**63 - 1
PARAMETER_FILE = 'replay.param.yaml'
STAMP = 'STAMP'  # stands for a stamp in a command


@dataclass(frozen=True, slots=True)
class Span:
    """The ticks whose anchor frame has a stamp from ``from_ns`` to ``until_ns``, both included; all by default.

    Ticks before it are not inferred, but their frames are the history of those within.
    """

    from_ns: int = 0
    until_ns: int = LATEST_NS

    def __post_init__(self) -> None:
        if self.from_ns > self.until_ns:
            raise SettingsError(
                f'--from {stamp_text(self.from_ns)} is after --until {stamp_text(self.until_ns)}: exchange them'
            )

    def __str__(self) -> str:
        until = '' if self.until_ns == LATEST_NS else f'until {stamp_text(self.until_ns)}'
        return ' '.join(filter(None, [f'from {stamp_text(self.from_ns)}' if self.from_ns else '', until]))

    def holds(self, stamp_ns: int) -> bool:
        """Whether an anchor stamp lies in it."""
        return self.from_ns <= stamp_ns <= self.until_ns

    def nearest(self, stamp_ns: int, other_ns: int | None) -> int:
        """Which of two stamps is nearer to the span, the second one where both are as near."""
        return stamp_ns if other_ns is None or self._distance(stamp_ns) < self._distance(other_ns) else other_ns

    def summary(self, nearest_ns: int | None) -> dict[str, Any] | None:
        """The span as summary.json has it, None for everything; ``nearest_ns`` is the nearest tick that was seen."""
        if self == EVERYTHING:
            return None
        return {'from_ns': self.from_ns, 'until_ns': self.until_ns, 'nearest_ns': nearest_ns}

    def _distance(self, stamp_ns: int) -> int:
        return max(0, self.from_ns - stamp_ns, stamp_ns - self.until_ns)


EVERYTHING = Span()


@dataclass(frozen=True, slots=True)
class Moments:
    """The commands that replay single ticks of the run of ``bag`` into ``output``."""

    bag: Path
    output: Path

    def command(self) -> str:
        """The command, with `STAMP` in place of the stamp of a tick; for the shell, from any folder."""
        output = self.output.resolve()
        files = [str(path) for path in (self.bag.resolve(), output / PARAMETER_FILE, output / f'at_{STAMP}')]
        bag, parameters, target = map(shlex.quote, files)
        return (
            f'cd {shlex.quote(str(Path.cwd()))} &&'  # relative paths among the parameters begin there
            f' stprune replay {bag} --params {parameters} --from {STAMP} --until {STAMP} --output {target}'
        )


def plain_values(settings: Settings) -> dict[str, Any]:
    """Every parameter by its dotted name, as JSON and YAML have it: lists in place of tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.values().items()}


def parameter_text(settings: Settings) -> str:
    """A parameter file with what differs from the defaults, and the method of pruning in any case."""
    defaults = plain_values(Settings())
    groups: dict[str, dict[str, Any]] = {}
    for name, value in plain_values(settings).items():
        if value != defaults[name] or name in ('pruning.method', 'pruning.keep_ratio'):
            group, _, leaf = name.partition('.')
            groups.setdefault(group, {})[leaf] = value
    return yaml.safe_dump({'/**': {'ros__parameters': groups}}, sort_keys=False, allow_unicode=True)
