"""Scores of hint candidates brought to what was right on recorded drives: the file, what it holds for, its use.

    model: {id: ringworld, revision: 0123456789ab}
    prompt: driving-01234567            # id of the prompt
    parameters: {pruning.method: st_prune_joint, pruning.keep_ratio: 0.1, ...}      # all of `bound_parameters`
    temperature: 1.2
    candidates:                         # in the prompt's order
    - {behavior: NONE, bias: 0.1, content_free: -0.7}
    report: ...                         # what `stprune calibrate` found; not read

A candidate's probability is the softmax of (score - content_free) / temperature + bias. The file holds for that model,
prompt and those parameters only, and is refused elsewhere: another keep ratio gives other scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stprune_ros.bounded_yaml import load, read_text
from stprune_ros.core.types import Behavior
from stprune_ros.errors import ModelError, one_line, shown
from stprune_ros.parameter import Value
from stprune_ros.pruning.config import LEFT_TO_MODEL
from stprune_ros.settings.parameters import PARAMETERS
from stprune_ros.settings.settings import Settings

LARGEST = 1e9  # of a number in the file
LOWEST_TEMPERATURE = 1e-3  # below, a choice is all or nothing
KEYS = ('model', 'prompt', 'parameters', 'temperature', 'candidates', 'report')
# What the model sees follows from these, beside all of the group `pruning`.
OTHER_PARAMETERS = (
    'cameras.refresh_ms',
    'history.frames',
    'history.stride_ms',
    'model.max_image_pixels',
    'model.side_image_pixels',
    'model.quantization',
)


@dataclass(frozen=True, slots=True)
class HintCalibration:
    """A checked calibration file; ``behaviors``, ``biases`` and ``content_free`` are in the order of the candidates.

    ``content_free`` are the candidates' log-probabilities where there is nothing to see, zeros where that was not asked
    for. ``id`` is a digest of the file.
    """

    path: Path
    id: str
    model_id: str
    model_revision: str
    prompt_id: str
    parameters: Mapping[str, Value]
    behaviors: tuple[Behavior, ...]
    temperature: float
    biases: tuple[float, ...]
    content_free: tuple[float, ...]

    @classmethod
    def load(cls, path: str | Path) -> HintCalibration:
        """Read and check a calibration file. Raises ModelError naming the file and the key."""
        path = Path(path)
        try:
            text = read_text(path)
            tree = load(text)
        except OSError as error:
            raise ModelError(f"calibration file '{path}' cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, ValueError) as error:
            raise ModelError(f"calibration file '{path}' is not YAML: {one_line(error)}") from None
        reader = _Reader(path)
        reader.keys(tree, KEYS)
        model, candidates = tree['model'], tree['candidates']
        reader.keys(model, ('id', 'revision'), 'model.')
        if not isinstance(tree['parameters'], dict):
            raise reader.fail('parameters', 'must be a mapping of parameter names to values')
        if not isinstance(candidates, list) or len(candidates) < 2:
            raise reader.fail('candidates', 'must be a list of at least two {behavior, bias, content_free}')
        for number, entry in enumerate(candidates):
            reader.keys(entry, ('behavior', 'bias', 'content_free'), f'candidates[{number}].')
        temperature = reader.number(tree, 'temperature')
        if temperature < LOWEST_TEMPERATURE:
            raise reader.fail('temperature', f'is {temperature:g}; it must be at least {LOWEST_TEMPERATURE:g}')
        behaviors = tuple(reader.behavior(entry) for entry in candidates)
        again = next((one for number, one in enumerate(behaviors) if one in behaviors[:number]), None)
        if again is not None:
            raise reader.fail('candidates', f"have '{again.name}' a second time")
        return cls(
            path=path,
            id=hashlib.sha256(text.encode()).hexdigest()[:12],
            model_id=reader.text(model, 'id'),
            model_revision=reader.text(model, 'revision'),
            prompt_id=reader.text(tree, 'prompt'),
            parameters={str(name): value for name, value in tree['parameters'].items()},
            behaviors=behaviors,
            temperature=temperature,
            biases=tuple(reader.number(entry, 'bias') for entry in candidates),
            content_free=tuple(reader.number(entry, 'content_free') for entry in candidates),
        )

    def apply(self, scores: Sequence[float]) -> list[float]:
        """The calibrated scores, one per candidate in prompt order; their softmax is the distribution."""
        return calibrated(scores, self.content_free, self.temperature, self.biases)

    def require_settings(self, settings: Settings) -> None:
        """Raise ModelError naming the first parameter that had another value when this was fitted.

        What ``settings`` leave to a model is not compared, see `Settings.for_model`.
        """
        here = bound_parameters(settings)
        for name in dict.fromkeys((*here, *self.parameters)):
            fitted, value = self.parameters.get(name, 'not said'), here.get(name, 'not used')
            left = name == 'pruning.joint_common' and value == LEFT_TO_MODEL
            if fitted != value and not left:
                raise self._elsewhere(name, fitted, value)

    def require_prompt(self, prompt_id: str, behaviors: Sequence[Behavior]) -> None:
        """Raise ModelError where this was fitted with another prompt, or other candidates."""
        if self.prompt_id != prompt_id:
            raise self._elsewhere('prompt', self.prompt_id, prompt_id)
        if self.behaviors != tuple(behaviors):
            fitted, here = (', '.join(one.name for one in group) for group in (self.behaviors, behaviors))
            raise self._elsewhere('the candidates', fitted, here)

    def require_model(self, model_id: str, revision: str) -> None:
        """Raise ModelError where this was fitted with another model, or another revision of it."""
        if (self.model_id, self.model_revision) != (model_id, revision):
            fitted = f"'{self.model_id}' at revision '{self.model_revision}'"
            raise self._elsewhere('model', fitted, f"'{model_id}' at revision '{revision}'")

    def _elsewhere(self, what: str, fitted: object, here: object) -> ModelError:
        return ModelError(
            f"calibration file '{self.path}' was fitted with {what} {fitted}, here it is {here}: fit one for this with"
            ' `stprune calibrate`, or leave prompt.calibration empty'
        )


def calibrated(
    scores: Sequence[float], content_free: Sequence[float], temperature: float, biases: Sequence[float]
) -> list[float]:
    """The candidates' log-probabilities ``scores`` after the correction, up to a constant; see the module's formula."""
    parts = zip(scores, content_free, biases, strict=True)
    return [(score - free) / temperature + bias for score, free, bias in parts]


def bound_parameters(settings: Settings) -> dict[str, Value]:
    """The parameters that a calibration holds for. Without pruning only the method counts of its group."""
    values = settings.values()
    pruning = [found.name for found in PARAMETERS if found.group == 'pruning']
    names = pruning if settings.pruning.method != 'none' else ['pruning.method']
    return {name: values[name] for name in (*names, *OTHER_PARAMETERS)}


@dataclass(frozen=True, slots=True)
class _Reader:
    """Checked access to what a calibration file holds."""

    path: Path

    def fail(self, key: str, problem: str) -> ModelError:
        return ModelError(f"calibration file '{self.path}': '{key}' {problem}")

    def keys(self, tree: Any, keys: Sequence[str], prefix: str = '') -> None:
        """Refuse anything but a mapping with exactly ``keys``."""
        if not isinstance(tree, dict):
            where = f"'{prefix.rstrip('.')}'" if prefix else 'its content'
            raise ModelError(f"calibration file '{self.path}': {where} must be a mapping with {', '.join(keys)}")
        for key in tree:
            if key not in keys:
                raise self.fail(f'{prefix}{key}', f'is not known; known are {", ".join(keys)}')
        for key in keys:
            if key not in tree:
                raise self.fail(f'{prefix}{key}', 'is missing')

    def text(self, tree: Mapping[str, Any], key: str) -> str:
        value = tree[key]
        if not isinstance(value, str):
            raise self.fail(key, f'is {value!r}; it must be a text')
        return value

    def number(self, tree: Mapping[str, Any], key: str) -> float:
        value = tree[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < LARGEST:
            raise self.fail(key, f'is {shown(value)}; it must be a finite number')
        return float(value)

    def behavior(self, entry: Mapping[str, Any]) -> Behavior:
        name = self.text(entry, 'behavior')
        if name not in Behavior.__members__ or name == Behavior.UNKNOWN.name:
            raise self.fail('behavior', f"is '{name}', which is no behavior")
        return Behavior[name]
