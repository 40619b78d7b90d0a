"""What comes of a fleet in tables: a row for each tick, and an entry for each bag and setting."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stprune_ros.core.types import Behavior, CameraState, Status
from stprune_ros.errors import plain
from stprune_ros.fleet.plan import Run
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.ground_truth import GroundTruth
from stprune_ros.replay.results import HINT_TOPIC, SCENE_TOPIC, TICK_MS, UP_TO_HINT_MS
from stprune_ros.results import replaced_at_once

MAX_TEXT = 2000  # characters of a description
DONE, FAILED, MISSING = 'done', 'failed', 'missing'
SaidAt = tuple[int, int]  # a stamp in ns, and how often it came before: a recording in a loop has it again


@dataclass(slots=True)
class Entry:
    """What came of one run, for the report of the fleet.

    ``sentence`` says why it failed; ``deaths`` counts the workers that died of it; ``parts`` those it was split into.
    """

    run: Run
    state: str = MISSING
    sentence: str = ''
    deaths: int = 0
    parts: int = 1
    summary: Mapping[str, Any] | None = None
    said: Mapping[SaidAt, str] = field(default_factory=dict)


def write_rows(folder: Path, run: Run, target: Path) -> None:
    """Write a row for each tick of a replay's folder to a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    target.parent.mkdir(parents=True, exist_ok=True)
    with replaced_at_once(target) as part:
        parquet.write_table(pyarrow.Table.from_pylist(list(_rows(folder, run)), _schema()), part)


def join_rows(sources: Iterable[Path], target: Path) -> None:
    """Put the rows of all runs into one Parquet file, run by run."""
    from pyarrow import parquet

    with replaced_at_once(target) as part, parquet.ParquetWriter(part, _schema()) as writer:
        for source in sources:
            writer.write_table(parquet.read_table(source))


def hints_in(rows: Path) -> dict[SaidAt, str]:
    """The hint of each tick, from the rows of a run."""
    from pyarrow import parquet

    found = parquet.read_table(rows, columns=['stamp_ns', 'hint']).to_pydict()
    before: Counter[int] = Counter()
    hints = {}
    for stamp_ns, hint in zip(found['stamp_ns'], found['hint']):
        hints[stamp_ns, before[stamp_ns]] = hint
        before[stamp_ns] += 1
    return hints


def content(entries: Sequence[Entry], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of fleet.json: ``facts`` about the whole, then the settings, then the bags, the worst first."""
    firsts = {entry.run.drive.name: entry for entry in reversed(entries)}  # of the first setting
    runs = [_entry(entry, firsts[entry.run.drive.name]) for entry in entries]
    bags: dict[str, list[dict[str, Any]]] = {}
    for found in runs:
        bags.setdefault(found['bag'], []).append(found)
    by_setting: dict[str, list[dict[str, Any]]] = {}
    for found in runs:
        by_setting.setdefault(found['setting'], []).append(found)
    worst = sorted(bags.values(), key=lambda found: max(map(badness, found)), reverse=True)
    return {
        **facts,
        'runs': len(runs),
        **{state: sum(found['state'] == state for found in runs) for state in (DONE, FAILED, MISSING)},
        'ticks': sum(found['ticks'] for found in runs),
        'deaths': sum(found['deaths'] for found in runs),
        'settings': [_setting(name, found) for name, found in by_setting.items()],
        'bags': [{'bag': found[0]['bag'], 'path': found[0]['path'], 'runs': found} for found in worst],
    }


def badness(found: Mapping[str, Any]) -> tuple[float, ...]:
    """What to look at first: what failed, then errors, hints that are not valid, wrong ones, flips, what is slow."""
    ticks = max(1, found['ticks'])
    truth, flips = found['truth'], found['flips']
    return (
        {FAILED: 1, DONE: 0, MISSING: -1}[found['state']],
        found['errors'] / ticks,
        found['not_valid'] / ticks,
        truth['misses'] / truth['known'] if truth else 0.0,
        flips['ticks'] / max(1, flips['common']) if flips else 0.0,
        (found['hint_ms'] or {}).get('p95', 0.0),
    )


def _entry(entry: Entry, first: Entry) -> dict[str, Any]:
    """One run in fleet.json; ``first`` is the run of the same bag under the first setting."""
    run, summary = entry.run, entry.summary or {}
    statuses = {Status[name]: number for name, number in summary.get('status', {}).items()}
    truth = summary.get('truth')
    return {
        'bag': run.drive.name,
        'path': str(run.drive.path),
        'setting': run.setting.name,
        'values': dict(run.setting.given),
        'folder': run.folder.as_posix() if summary else '',
        'state': entry.state,
        'sentence': entry.sentence,
        'ticks': summary.get('ticks', 0),
        'sets': {key: summary.get(f'sets_{key}', 0) for key in ('full', 'partial', 'skipped')},
        'hints': summary.get('hints', {}),
        'not_valid': sum(number for status, number in statuses.items() if not status.is_valid),
        'truth': {key: truth[key] for key in ('known', 'hits', 'misses')} if truth else None,
        'flips': _flips(entry, first),
        'tokens_full': summary.get('tokens_full', 0.0),
        'tokens_kept': summary.get('tokens_kept', 0.0),
        'hint_ms': summary.get('hint_ms'),
        'tick_ms': summary.get('tick_ms'),
        'wall_s': (summary.get('times') or {}).get('wall_s'),
        'errors': summary.get('errors', 0),
        'error_sentences': summary.get('error_sentences', {}),
        'deaths': entry.deaths,
        'parts': entry.parts,
    }


def _flips(entry: Entry, first: Entry) -> dict[str, int] | None:
    """In how many of the ticks that both have the hint is another one than under the first setting; both are done."""
    common = entry.said.keys() & first.said.keys()
    if entry is first or not common or FAILED in (entry.state, first.state):
        return None
    return {'ticks': sum(entry.said[at] != first.said[at] for at in common), 'common': len(common)}


def _setting(name: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All bags under one setting: sums, means per tick, and medians of medians.

    Of replays that failed nothing counts but their errors.
    """
    done = [found for found in runs if found['state'] == DONE]
    ticks = sum(found['ticks'] for found in done)
    truths = [found['truth'] for found in done if found['truth']]
    flips = [found['flips'] for found in done if found['flips']]
    hints: dict[str, int] = {}
    for found in done:
        for hint, number in found['hints'].items():
            hints[hint] = hints.get(hint, 0) + number
    return {
        'setting': name,
        'values': runs[0]['values'],
        'done': len(done),
        'runs': len(runs),
        'ticks': ticks,
        'hints': dict(sorted(hints.items())),
        'not_valid': sum(found['not_valid'] for found in done),
        'truth': {key: sum(truth[key] for truth in truths) for key in ('known', 'hits', 'misses')} if truths else None,
        'flips': {key: sum(one[key] for one in flips) for key in ('ticks', 'common')} if flips else None,
        **{key: _mean([(found[key], found['ticks']) for found in done]) for key in ('tokens_full', 'tokens_kept')},
        'hint_ms': _times([found['hint_ms'] for found in done if found['hint_ms']]),
        'errors': sum(found['errors'] for found in runs),
    }


def _mean(weighted: Sequence[tuple[float, int]]) -> float:
    weight = sum(number for _, number in weighted)
    return round(sum(value * number for value, number in weighted) / weight, 3) if weight else 0.0


def _times(found: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    """The median of the bags' medians, and the worst of their 95th percentiles."""
    if not found:
        return None
    return {'p50': round(float(np.median([one['p50'] for one in found])), 3), 'p95': max(one['p95'] for one in found)}


def _rows(folder: Path, run: Run) -> Iterable[dict[str, Any]]:
    """One mapping for each tick, in the order of the replay."""
    truth = GroundTruth.beside(run.drive.path)
    with Bag(folder / 'results.mcap') as bag:
        wanted = [topic for topic in (HINT_TOPIC, SCENE_TOPIC, UP_TO_HINT_MS, TICK_MS) if topic in bag.topics]
        hints: list[tuple[int, Any]] = []
        beside: dict[tuple[str, int], deque[Any]] = defaultdict(deque)  # a recording in a loop has a stamp again
        for record in bag.messages(wanted):
            if record.topic == HINT_TOPIC:
                hints.append((record.receive_ns, record.message()))
            else:
                beside[record.topic, record.receive_ns].append(record.message())

    def of_tick(topic: str) -> Any:
        found = beside[topic, stamp_ns]
        return found.popleft() if found else None

    for stamp_ns, hint in hints:
        status, info = Status(hint.status), hint.info
        text, known = of_tick(SCENE_TOPIC), truth.at(stamp_ns).behavior if truth else ''
        yield {
            'bag': run.drive.name,
            'setting': run.setting.name,
            'stamp_ns': stamp_ns,
            'hint': Behavior(hint.behavior).name if status.is_valid else status.name,
            'status': status.name,
            'confidence': float(hint.confidence) if status.is_valid else None,
            **{_probability(Behavior(one)): float(p) for one, p in zip(hint.candidates, hint.probabilities)},
            'truth': known or None,
            'method': info.method,
            'keep_ratio': float(info.keep_ratio),
            'tokens_full': int(info.tokens_full),
            'tokens_kept': int(info.tokens_kept),
            'tokens_text': int(info.tokens_text),
            'stage_ms': [(name, float(ms)) for name, ms in zip(info.stage_names, info.stage_ms)],
            'up_to_hint_ms': _number(of_tick(UP_TO_HINT_MS)),
            'tick_ms': _number(of_tick(TICK_MS)),
            'cameras': [(camera.name, CameraState(camera.state).name) for camera in info.cameras],
            'notes': [str(note) for note in info.notes],
            'description': plain(text.description, MAX_TEXT) if text is not None else None,
            'model_id': info.model_id,
            'model_revision': info.model_revision,
        }


def _schema() -> Any:
    """Names and types of the columns."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.float32()
    columns = {
        **dict.fromkeys(('bag', 'setting'), text),
        'stamp_ns': pyarrow.int64(),
        **dict.fromkeys(('hint', 'status'), text),
        'confidence': number,
        **dict.fromkeys(map(_probability, _candidates()), number),
        **dict.fromkeys(('truth', 'method'), text),
        'keep_ratio': number,
        **dict.fromkeys(('tokens_full', 'tokens_kept', 'tokens_text'), pyarrow.uint32()),
        'stage_ms': pyarrow.map_(text, number),
        **dict.fromkeys(('up_to_hint_ms', 'tick_ms'), pyarrow.float64()),
        'cameras': pyarrow.map_(text, text),
        'notes': pyarrow.list_(text),
        **dict.fromkeys(('description', 'model_id', 'model_revision'), text),
    }
    return pyarrow.schema(list(columns.items()))


def _number(message: Any) -> float | None:
    return None if message is None or math.isnan(message.data) else float(message.data)


def _candidates() -> list[Behavior]:
    return [behavior for behavior in Behavior if behavior != Behavior.UNKNOWN]


def _probability(behavior: Behavior) -> str:
    return f'p_{behavior.name.lower()}'
