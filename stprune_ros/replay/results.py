"""results.mcap: what a replay says, on the topics of the node, and its numbers one by one for plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from stprune_ros.core.types import Answer, ViewReport
from stprune_ros.errors import plain
from stprune_ros.io import messages
from stprune_ros.io.bag_reader import message_store
from stprune_ros.io.mcap_writer import McapWriter
from stprune_ros.io.message_definitions import message_definition
from stprune_ros.io.tick_diagnostics import TickStatus, tick_statuses
from stprune_ros.settings.settings import Settings

NODE = '/stprune_node'
HINT_TOPIC, SCENE_TOPIC = f'{NODE}/output/planning_hint', f'{NODE}/output/scene_description'
OVERLAY_TOPIC = f'{NODE}/debug/kept_tokens/image/compressed'
DIAGNOSTICS_TOPIC = '/diagnostics'
PROBABILITY, STAGE_MS = f'{NODE}/debug/probability', f'{NODE}/debug/stage_ms'  # and below: behaviors, stages
UP_TO_HINT_MS, TICK_MS = f'{NODE}/debug/up_to_hint_ms', f'{NODE}/debug/tick_ms'
HINT, SCENE = 'stprune_ros/msg/PlanningHint', 'stprune_ros/msg/SceneDescription'
IMAGE, DIAGNOSTICS, NUMBER = (
    'sensor_msgs/msg/CompressedImage',
    'diagnostic_msgs/msg/DiagnosticArray',
    'std_msgs/msg/Float64',
)


class ResultsFile:
    """Writes the ticks of a replay to one MCAP file, each on disk when it has been written; a context manager."""

    def __init__(self, path: Path, settings: Settings) -> None:
        """Create or replace ``path``; raises OSError if that is impossible."""
        self._settings = settings
        self._store = message_store()
        self._types = messages.store_types(self._store)
        self._writer = McapWriter(path)
        self._topics: set[str] = set()
        for topic, msgtype in ((HINT_TOPIC, HINT), (SCENE_TOPIC, SCENE)):
            self._add_topic(topic, msgtype)

    def write(
        self,
        hinted: Answer,
        described: Sequence[Answer],
        answer: Answer,
        views: tuple[ViewReport, ...],
        picture: bytes,
    ) -> None:
        """A tick: the hint as it went out, the texts that came, what it came to, its views even of none, its JPEG."""
        self._put(HINT_TOPIC, messages.planning_hint(hinted, self._settings, self._types), answer)
        for each in described:
            self._put(SCENE_TOPIC, messages.scene_description(each, self._settings, self._types), each)
        stamp = messages.header(answer, self._settings, self._types)
        pixels = np.frombuffer(picture, np.uint8)
        self._put(OVERLAY_TOPIC, self._store.types[IMAGE](header=stamp, format='jpeg', data=pixels), answer)
        self._put(DIAGNOSTICS_TOPIC, self._diagnostics(answer, tick_statuses(answer, views)), answer)
        for topic, value in numbers(answer).items():
            self._put(topic, self._store.types[NUMBER](data=value), answer)
        self._writer.flush()

    def _diagnostics(self, answer: Answer, statuses: list[TickStatus]) -> Any:
        status, pair = (self._store.types[f'diagnostic_msgs/msg/{name}'] for name in ('DiagnosticStatus', 'KeyValue'))
        told = [
            status(
                level=one.level,
                name=f'{NODE}: {one.name}',
                message=one.message,
                hardware_id=NODE,
                values=[pair(key=key, value=plain(value, messages.MAX_NOTE)) for key, value in one.values.items()],
            )
            for one in statuses
        ]
        return self._store.types[DIAGNOSTICS](header=messages.header(answer, self._settings, self._types), status=told)

    def _put(self, topic: str, message: Any, answer: Answer) -> None:
        if topic not in self._topics:
            self._add_topic(topic, message.__msgtype__)
        self._writer.write(topic, answer.stamp_ns, bytes(self._store.serialize_cdr(message, message.__msgtype__)))

    def _add_topic(self, topic: str, msgtype: str) -> None:
        definition = message_definition(self._store, msgtype)
        self._writer.add_topic(topic, msgtype, definition, self._store.hash_rihs01(msgtype))
        self._topics.add(topic)

    def __enter__(self) -> ResultsFile:
        """Return the file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the index, whatever happened inside."""
        self._writer.close()


def numbers(answer: Answer) -> dict[str, float]:
    """What messages hold in arrays only, by topics that say what it is; times in ms."""
    timing = answer.timing
    found = {f'{PROBABILITY}/{behavior.name.lower()}': share for behavior, share in answer.hint.distribution}
    found |= {f'{STAGE_MS}/{stage}': spent for stage, spent in timing.stage_ms.items()}
    found |= {UP_TO_HINT_MS: timing.hint_ms, TICK_MS: timing.tick_ms}
    return {topic: value for topic, value in found.items() if not math.isnan(value)}
