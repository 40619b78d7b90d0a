"""Output folders of replays, read back: what each tick said, kept and took."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stprune_ros.bounded_yaml import read_text
from stprune_ros.core.types import Behavior, CameraState, Status
from stprune_ros.errors import BagError, one_line, plain, shown
from stprune_ros.io.bag_reader import Bag
from stprune_ros.replay.results import HINT_TOPIC, OVERLAY_TOPIC, SCENE_TOPIC

MAX_BYTES = 2**26  # of summary.json


@dataclass(frozen=True, slots=True)
class RunTick:
    """One tick of a run; ``said`` is the behavior of a valid hint, else its status; tokens are (kept, full).

    ``keep_ratio`` is the one asked for; ``hint_ms`` is the time up to the hint, NaN without a valid one; ``stage_ms``
    has the description, too.
    """

    said: str
    confidence: float
    shares: Mapping[str, float]
    tokens: Mapping[str, tuple[int, int]]
    states: Mapping[str, str]
    keep_ratio: float
    stage_ms: Mapping[str, float]
    hint_ms: float
    text: str = ''

    @property
    def kept(self) -> int:
        """Visual tokens that the model saw."""
        return sum(kept for kept, _ in self.tokens.values())

    @property
    def full(self) -> int:
        """Visual tokens before pruning."""
        return sum(full for _, full in self.tokens.values())


@dataclass(frozen=True, slots=True)
class Run:
    """One replay: its folder, a letter to call it by, the content of summary.json, and its ticks by stamp in ns."""

    letter: str
    folder: Path
    summary: Mapping[str, Any]
    ticks: Mapping[int, RunTick]

    @property
    def label(self) -> str:
        """What sets it apart from others of the same bag, in a few words."""
        ratio = 'a ratio that follows the latency' if self.target_ms else f'{self.summary["keep_ratio"]:g}'
        method, model = plain(self.summary['method']), plain(self.summary['model_id'])
        return f'{self.letter}: {self.folder.name}, {method} at {ratio}, {model} ({self.engine})'

    @property
    def engine(self) -> str:
        """What ran the model, and in which quantization: with llama.cpp the GGUF file is that."""
        parameters = self.summary['parameters']
        engine, quantization = (plain(parameters[f'model.{name}']) for name in ('engine', 'quantization'))
        gguf = plain(Path(parameters['model.gguf']).name)
        return ', '.join([engine, *([gguf] if gguf else []), *([quantization] if quantization != 'none' else [])])

    @property
    def target_ms(self) -> float | None:
        """The latency that the keep ratio followed, None where it was given."""
        latency = self.summary['latency']
        return None if latency is None else float(latency['target_ms'])

    def pictures(self, stamps: set[int]) -> dict[int, bytes]:
        """JPEG of the ticks of these stamps, where the results hold one."""
        found: dict[int, bytes] = {}
        with Bag(self.folder / 'results.mcap') as bag:
            for record in bag.messages([OVERLAY_TOPIC] if OVERLAY_TOPIC in bag.topics else []):
                if record.topic == OVERLAY_TOPIC and record.receive_ns in stamps:
                    found[record.receive_ns] = bytes(record.message().data)
        return found


def read_run(folder: Path, letter: str) -> Run:
    """What a replay left in ``folder``. Raises BagError naming it where that is no such folder, or an older one."""
    file = folder / 'summary.json'
    if not file.is_file() or not (folder / 'results.mcap').is_file():
        raise BagError(
            f"'{folder}' is no output folder of `stprune replay`: it lacks summary.json or results.mcap; name the"
            ' --output of a replay'
        )
    try:
        summary = json.loads(read_text(file, MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise BagError(f"'{file}' is not readable: {shown(error)}") from None
    for key, is_fit in NEEDED.items():
        if not isinstance(summary, dict) or not is_fit(summary.get(key)):
            raise BagError(f"'{file}' does not say '{key}': an older release wrote it; replay the bag again")
    with Bag(folder / 'results.mcap') as bag:
        hints = {_stamp(message): message for message in _messages(bag, HINT_TOPIC)}
        texts = {_stamp(message): message for message in _messages(bag, SCENE_TOPIC)}
    try:
        ticks = {stamp: _tick(hint, texts.get(stamp)) for stamp, hint in hints.items()}
    except ValueError as error:  # a number that has no name
        raise BagError(
            f"'{folder / 'results.mcap'}' is of another release, whose hints are not understood ({one_line(error)}):"
            ' replay the bag again'
        ) from None
    return Run(letter, folder, summary, ticks)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# What is needed of summary.json, and what it has to be.
ENGINE = ('model.engine', 'model.gguf', 'model.quantization')
NEEDED: Mapping[str, Callable[[Any], bool]] = {
    'bag': _is_text,
    'bag_id': _is_text,
    'method': _is_text,
    'keep_ratio': _is_number,
    'model_id': _is_text,
    'stage_ms': lambda value: isinstance(value, dict),
    'parameters': lambda value: isinstance(value, dict) and all(_is_text(value.get(name)) for name in ENGINE),
    'latency': lambda value: value is None or (isinstance(value, dict) and _is_number(value.get('target_ms'))),
}


def _messages(bag: Bag, topic: str) -> list[Any]:
    return [record.message() for record in bag.messages([topic])] if topic in bag.topics else []


def _stamp(message: Any) -> int:
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


def _tick(hint: Any, text: Any) -> RunTick:
    status = Status(hint.status)
    said = Behavior(hint.behavior).name if status.is_valid else status.name
    cameras = {camera.name: camera for camera in hint.info.cameras}
    up_to_hint = _stages(hint)
    return RunTick(
        said,
        float(hint.confidence) if status.is_valid else math.nan,
        {Behavior(one).name: float(share) for one, share in zip(hint.candidates, hint.probabilities)},
        {name: (int(camera.tokens_kept), int(camera.tokens_full)) for name, camera in cameras.items()},
        {name: CameraState(camera.state).name for name, camera in cameras.items()},
        float(hint.info.keep_ratio),
        up_to_hint if text is None else {**up_to_hint, **_stages(text)},
        sum(up_to_hint.values()) if status.is_valid else math.nan,
        '' if text is None else plain(text.description, 2000),
    )


def _stages(message: Any) -> dict[str, float]:
    return {name: float(ms) for name, ms in zip(message.info.stage_names, message.info.stage_ms)}
