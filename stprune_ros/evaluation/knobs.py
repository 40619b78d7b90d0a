"""The one main parameter of every method that has one, and what it was tuned to; needs no torch.

``benchmark/tune.py`` tries the values on training drives and writes what it found to ``benchmark/results/knobs.json``;
`TUNED` is that, frozen. Methods that are not here have nothing to tune at a given budget.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Knob:
    """A parameter of a method and the values to try, that of its authors first.

    ``parameter`` is one of `PruningConfig` for methods of ours, else an option of the baseline's formula.
    """

    parameter: str
    values: tuple[float, ...]

    @property
    def authors(self) -> float:
        """The value that a method was published with; of our own joint ones, that of the bundled model."""
        return self.values[0]


_COMMON = Knob('joint_common', (2.4, 0.0, 0.3, 0.6, 1.2, 3.6))
_TEMPORAL = Knob('lambda_temporal', (0.6, 0.3, 1.2))
_SPATIAL = Knob('lambda_spatial', (0.8, 0.4, 1.6, 3.2))
_FRAMES = Knob('temperature', (0.01, 0.003, 0.03))
_PIVOTS = Knob('pivots', (4, 1, 2, 8, 16))
_RIDGE = Knob('ridge', (0.001, 0.01, 0.1, 1.0))
_VIEWS = Knob('temperature', (1.0, 0.1, 0.3, 3.0))
KNOBS: dict[str, Knob] = {
    'st_prune_joint+ring+gauge': _COMMON,
    'st_prune_staged+ring+gauge': _COMMON,
    'st_prune': _SPATIAL,
    'mtp': _TEMPORAL,
    'rsp': _SPATIAL,
    'vidcom2_ring': _FRAMES,
    'vidcom2_view': _FRAMES,
    'newest_vidcom2': _FRAMES,
    'dart': _PIVOTS,
    'dart_image': _PIVOTS,
    'cdpruner': _RIDGE,
    'cdpruner_view': _RIDGE,
    'mvpruner': _VIEWS,
    'mvpruner_view': _VIEWS,
    'flashvid': Knob('alpha', (0.7, 0.4, 1.0)),
}
TUNED: dict[str, float] = {  # where another value than that of the authors was better
    'st_prune_staged+ring+gauge': 3.6,
    'st_prune': 3.2,
    'rsp': 3.2,
    'vidcom2_ring': 0.003,
    'dart': 8,
    'dart_image': 1,
    'cdpruner': 1.0,
    'cdpruner_view': 1.0,
    'mvpruner': 0.3,
    'mvpruner_view': 0.3,
    'flashvid': 0.4,
}


def with_value(method: str, value: float) -> str:
    """The name of a method with its knob at a value, such as 'dart+pivots=8'; the authors' value is not said."""
    knob = KNOBS[method]
    return method if value == knob.authors else f'{method}+{knob.parameter}={value:g}'
