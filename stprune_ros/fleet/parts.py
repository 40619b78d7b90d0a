"""The inferred ticks of a part of a bag in a file, one JSON object a line: what putting the parts together reads.

Every number comes back as it was, bit by bit. Keep masks and pictures of single views are left out: the picture of the
tick, in which they are drawn, is there.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stprune_ros.core.types import (
    Answer,
    Behavior,
    CameraState,
    Choice,
    ConfidenceSource,
    Description,
    Hint,
    Provenance,
    Status,
    Timing,
    ViewReport,
    Window,
)
from stprune_ros.errors import BagError, one_line
from stprune_ros.replay.ticks import Tick
from stprune_ros.results import replaced_at_once


def write_part(path: Path, ticks: Iterable[Tick]) -> None:
    """Write ticks as they come; the file is there when all are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_at_once(path) as part, part.open('w', encoding='utf-8') as file:
        for tick in ticks:
            file.write(json.dumps(_plain_tick(tick), ensure_ascii=False) + '\n')


class RecordedTicks:
    """Gives the ticks of the parts of a bag in order, as inference would; ``parts`` in that order, too."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._ticks = _read(parts)

    def tick(self, window: Window) -> Tick:
        """The tick of ``window``. Raises BagError where the parts have another one, or none, at that stamp."""
        found, stamp_ns = next(self._ticks, None), window.current.stamp_ns
        if found is None or found.answer.stamp_ns != stamp_ns:
            there = 'none' if found is None else f'that of {found.answer.stamp_ns}'
            raise BagError(f'the parts hold {there} where the bag has the tick of {stamp_ns}: it changed meanwhile')
        return found


def _read(parts: Sequence[Path]) -> Iterator[Tick]:
    for path in parts:
        with path.open(encoding='utf-8') as file:
            for line in file:
                try:
                    yield _tick(json.loads(line))
                except (ValueError, KeyError, TypeError, binascii.Error) as error:
                    raise BagError(f"'{path}' is not readable: {one_line(error)}; remove it") from None


def _plain_tick(tick: Tick) -> dict[str, Any]:
    return {
        'hinted': _plain_answer(tick.hinted),
        'described': [_plain_answer(answer) for answer in tick.described],
        'answer': _plain_answer(tick.answer),
        'picture': base64.b64encode(tick.picture).decode(),
        'errors': tick.errors,
    }


def _plain_answer(answer: Answer) -> dict[str, Any]:
    views = tuple(replace(view, keep=None, image=None, reasons=None) for view in answer.views)
    return asdict(replace(answer, views=views))


def _tick(data: Mapping[str, Any]) -> Tick:
    return Tick(
        _answer(data['hinted']),
        tuple(map(_answer, data['described'])),
        _answer(data['answer']),
        base64.b64decode(data['picture'], validate=True),
        tuple((sentence, stamp_ns) for sentence, stamp_ns in data['errors']),
    )


def _answer(data: Mapping[str, Any]) -> Answer:
    return Answer(
        stamp_ns=data['stamp_ns'],
        sequence=data['sequence'],
        hint=_hint(data['hint']),
        description=Description(**{**data['description'], 'status': Status(data['description']['status'])}),
        provenance=Provenance(**data['provenance']),
        views=tuple(ViewReport(**{**view, 'state': CameraState(view['state'])}) for view in data['views']),
        timing=_timing(data['timing']),
        notes=tuple(data['notes']),
    )


def _hint(data: Mapping[str, Any]) -> Hint:
    return Hint(
        Status(data['status']),
        Behavior(data['behavior']),
        tuple((Behavior(behavior), share) for behavior, share in data['distribution']),
        data['confidence'],
        ConfidenceSource(data['confidence_source']),
    )


def _timing(data: Mapping[str, Any]) -> Timing:
    choice = data['choice']
    return Timing(**{**data, 'choice': None if choice is None else Choice(**choice)})
