"""What the model is asked, from a YAML file: texts around the images, the closed set of hints, the description.

A prompt file holds exactly these keys:

    name: driving                       # the prompt's id is the name and a digest of the file
    system: text                        # who the model is; may be empty
    view: text with {direction} {camera} {frames}
    missing_view: text with {direction} {camera}
    ego: text with {speed} {yaw_rate} {motion}
    missing_ego: text                   # may be empty
    hint: {question: text, candidates: [{behavior: STOP, text: stop}, ...]}
    describe: {question: text}
    words: {front: text, ...}           # may be left out: each of DIRECTIONS and MOTIONS in the prompt's language

{direction} is one of DIRECTIONS, {speed} in m/s and never negative, {yaw_rate} in rad/s counter-clockwise, {motion} one
of MOTIONS; in reverse the side is that to which the rear goes. A format may follow, as in {speed:.1f}.

A model takes the time of a tick for what changes from tick to tick, and for the questions. The system text comes first
and does not change: what can be said once and for all belongs there.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stprune_ros.bounded_yaml import load, read_text
from stprune_ros.core.types import DIRECTIONS, Behavior, EgoState
from stprune_ros.errors import ModelError, one_line, plain, shown
from stprune_ros.vlm.backend import VisualFrame
from stprune_ros.vlm.hint_calibration import HintCalibration

VIEW_FIELDS = ('direction', 'camera', 'frames')
MISSING_FIELDS = ('direction', 'camera')
EGO_FIELDS = ('speed', 'yaw_rate', 'motion')
MOTIONS = (
    'standing',
    'driving straight',
    'turning left',
    'turning right',
    'reversing',
    'reversing to the left',
    'reversing to the right',
)
WIDE_FORMAT = re.compile(r'\d{3}|\{')  # of a field: a width of three digits, or another field in it
STANDING = 0.2  # m/s
TURNING = 0.05  # rad/s
SAMPLES: Mapping[str, str | float] = {
    'direction': 'front',
    'camera': 'CAM',
    'frames': 1,
    'speed': 1.0,
    'yaw_rate': 0.1,
    'motion': 'standing',
}


@dataclass(frozen=True, slots=True)
class View:
    """One view for the prompt: where it looks ('front left'), its camera, its frames oldest first (none: missing)."""

    direction: str
    camera: str
    frames: Sequence[VisualFrame]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A checked prompt file; ``candidates`` is the closed set of hints, (behavior, text) in file order.

    ``words`` translates DIRECTIONS and MOTIONS; it is empty where they are said in English. ``calibration`` is what the
    scores of the candidates go through, where the settings name one.
    """

    id: str
    system: str
    view: str
    missing_view: str
    ego: str
    missing_ego: str
    hint_question: str
    candidates: tuple[tuple[Behavior, str], ...]
    describe_question: str
    words: Mapping[str, str] = field(default_factory=dict)
    calibration: HintCalibration | None = None

    @property
    def behaviors(self) -> tuple[Behavior, ...]:
        """The behaviors of the candidates, in file order."""
        return tuple(behavior for behavior, _ in self.candidates)

    @classmethod
    def load(cls, path: str | Path) -> Prompt:
        """Read and check a prompt file. Raises ModelError naming the file and the key."""
        path = Path(path)
        try:
            text = read_text(path)
            tree = load(text)
        except OSError as error:
            raise ModelError(f"prompt file '{path}' cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, ValueError) as error:
            raise ModelError(f"prompt file '{path}' is not YAML: {one_line(error)}") from None
        reader = _Reader(path, tree, '')
        keys = ('name', 'system', 'view', 'missing_view', 'ego', 'missing_ego', 'hint', 'describe')
        reader.only(keys, optional=('words',))
        hint = reader.inner('hint', ('question', 'candidates'))
        describe = reader.inner('describe', ('question',))
        return cls(
            id=f'{reader.text("name")}-{hashlib.sha256(text.encode()).hexdigest()[:8]}',
            system=reader.text('system', empty=True),
            view=reader.template('view', VIEW_FIELDS),
            missing_view=reader.template('missing_view', MISSING_FIELDS),
            ego=reader.template('ego', EGO_FIELDS),
            missing_ego=reader.text('missing_ego', empty=True),
            hint_question=hint.text('question'),
            candidates=hint.candidates(),
            describe_question=describe.text('question'),
            words=reader.translation('words', (*DIRECTIONS, *MOTIONS)),
        )

    def content(self, views: Sequence[View], ego: EgoState | None) -> list[str | VisualFrame]:
        """The prompt's content in order: the ego text, then each view's text and frames.

        The ego text comes first because attention is causal: whoever looks at the pictures then knows how the vehicle
        moves. A view without frames gets its missing text and no image. Every text ends with a line break, so that the
        question after it is tokenised alike with and without it.
        """
        text = self.missing_ego
        if ego is not None:
            text = self.ego.format(speed=ego.speed, yaw_rate=ego.angular[2], motion=self._word(motion(ego)))
        content: list[str | VisualFrame] = [f'{text}\n'] if text else []
        for view in views:
            template = self.view if view.frames else self.missing_view
            direction = self._word(view.direction)
            content.append(template.format(direction=direction, camera=view.camera, frames=len(view.frames)) + '\n')
            content += view.frames
        return [*content, '\n']

    def _word(self, word: str) -> str:
        return self.words.get(word, word)


def motion(ego: EgoState) -> str:
    """The motion of the car in words, one of MOTIONS."""
    if ego.speed < STANDING:
        return 'standing'
    straight, yaw_rate = abs(ego.angular[2]) < TURNING, ego.angular[2]
    if ego.is_reversing:  # with the wheels to the left, the car then turns clockwise
        side = 'left' if yaw_rate < 0 else 'right'
        return 'reversing' if straight else f'reversing to the {side}'
    if straight:
        return 'driving straight'
    return 'turning left' if yaw_rate > 0 else 'turning right'


@dataclass(frozen=True, slots=True)
class _Reader:
    """Checked access to one mapping of a prompt file; ``prefix`` leads to it ('hint.')."""

    path: Path
    tree: Any
    prefix: str

    def fail(self, key: str, problem: str) -> ModelError:
        return ModelError(f"prompt file '{self.path}': '{self.prefix}{key}' {problem}")

    def only(self, keys: Sequence[str], optional: Sequence[str] = ()) -> None:
        """Refuse anything but a mapping with exactly ``keys``, and perhaps the ``optional`` ones."""
        if not isinstance(self.tree, Mapping):
            where = f"'{self.prefix.rstrip('.')}'" if self.prefix else 'its content'
            raise ModelError(f"prompt file '{self.path}': {where} must be a mapping with {', '.join(keys)}")
        for key in self.tree:
            if key not in (*keys, *optional):
                raise self.fail(plain(str(key)), f'is not known; known are {", ".join((*keys, *optional))}')
        for key in keys:
            if key not in self.tree:
                raise self.fail(key, 'is missing')

    def inner(self, key: str, keys: Sequence[str]) -> _Reader:
        """The mapping under ``key``, with exactly ``keys``."""
        reader = _Reader(self.path, self.tree[key], f'{self.prefix}{key}.')
        reader.only(keys)
        return reader

    def text(self, key: str, empty: bool = False) -> str:
        """A text without blanks around it."""
        value = self.tree[key]
        if not isinstance(value, str):
            raise self.fail(key, f'is {shown(value)}; it must be a text')
        if not value.strip() and not empty:
            raise self.fail(key, 'is empty')
        return value.strip()

    def translation(self, key: str, words: Sequence[str]) -> dict[str, str]:
        """A text for each of ``words``; empty where the key is left out."""
        if key not in self.tree:
            return {}
        reader = self.inner(key, words)
        return {word: reader.text(word) for word in words}

    def template(self, key: str, fields: Sequence[str]) -> str:
        """A text whose {placeholders} are all among ``fields`` and take the format they are given."""
        value = self.text(key)
        try:
            used = [(name, form or '') for _, name, form, _ in string.Formatter().parse(value) if name is not None]
            unknown = sorted({name for name, _ in used} - {*fields})  # {speed.__class__} is one, too
            wide = [form for _, form in used if WIDE_FORMAT.search(form)]
            if not unknown and not wide:
                value.format(**{field: SAMPLES[field] for field in fields})
        except (ValueError, IndexError, KeyError, AttributeError) as error:
            raise self.fail(key, f'is no valid template: {one_line(error)}') from None
        if unknown:
            allowed = ', '.join(f'{{{field}}}' for field in fields)
            raise self.fail(key, f'uses {{{plain(unknown[0])}}}; it may use {allowed}')
        if wide:
            raise self.fail(key, f"has the format '{plain(wide[0])}'; width and precision have at most two digits")
        return value

    def candidates(self) -> tuple[tuple[Behavior, str], ...]:
        """The closed set: each behavior and each text once, NONE among them."""
        found = self.tree['candidates']
        if not isinstance(found, list) or len(found) < 2:
            raise self.fail('candidates', 'must be a list of at least two {behavior: ..., text: ...}')
        candidates: list[tuple[Behavior, str]] = []
        for index, entry in enumerate(found):
            reader = _Reader(self.path, entry, f'{self.prefix}candidates[{index}].')
            reader.only(('behavior', 'text'))
            name, text = reader.text('behavior'), reader.text('text')
            names = [behavior.name for behavior in Behavior if behavior != Behavior.UNKNOWN]
            if name not in names:
                raise reader.fail('behavior', f"is '{plain(name)}'; known are {', '.join(names)}")
            if text in [known for _, known in candidates]:
                raise reader.fail('text', f"is '{plain(text)}' a second time")
            if Behavior[name] in [known for known, _ in candidates]:
                raise reader.fail('behavior', f"is '{name}' a second time")
            candidates.append((Behavior[name], text))
        if Behavior.NONE not in [behavior for behavior, _ in candidates]:
            raise self.fail('candidates', 'has no entry for NONE: every scene would be restricted')
        return tuple(candidates)
