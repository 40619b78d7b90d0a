"""Replays of one bag side by side: where their hints differ, what each kept there, and what each took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean, median
from typing import Any

from stprune_ros.errors import BagError, SettingsError, StpruneError
from stprune_ros.io.ground_truth import GroundTruth
from stprune_ros.replay.folders import Run, read_run
from stprune_ros.replay.page import picture_data, render, runs
from stprune_ros.replay.records import stamp_text, words
from stprune_ros.replay.summary import quantiles
from stprune_ros.results import write_json

MAX_BYTES = 2_000_000  # of JPEG in the page
MAX_SHOWN = 300  # ticks that differ and are shown in full; the JSON has all
LETTERS = 'ABCDEFGHIJ'
WIDTH = 1000.0


def compare(folders: Sequence[Path], output: Path) -> dict[str, Any]:
    """Compare replays into ``output``: compare.json, whose content is returned, and compare.html.

    Raises StpruneError for folders that are none of replays, of different bags, or without a common tick.
    """
    if len(folders) > len(LETTERS):
        raise SettingsError(f'{len(folders)} replays are too many to compare: name at most {len(LETTERS)}')
    read = [read_run(folder, letter) for folder, letter in zip(folders, LETTERS)]
    refuse_different_bags(read)
    common = sorted(set.intersection(*(set(run.ticks) for run in read)))
    if not common:
        raise BagError(
            f'no tick is in each of {", ".join(str(run.folder) for run in read)}: replay the same part of the bag'
        )
    truth, fault = _truth(read[0])
    found = comparison(read, common, truth)
    if fault:
        found['notes'].append(fault)
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / 'compare.json', found)
    (output / 'compare.html').write_text(compare_page(read, common, found), encoding='utf-8')
    return found


def refuse_different_bags(read: Sequence[Run]) -> None:
    """Raise BagError where two runs are not of one bag, wherever it lay."""
    first = read[0]
    for other in read[1:]:
        if other.summary['bag_id'] != first.summary['bag_id']:
            raise BagError(
                f"'{first.folder}' is of bag '{first.summary['bag']}' and '{other.folder}' of another one,"
                f" '{other.summary['bag']}': compare replays of one bag"
            )


def comparison(read: Sequence[Run], common: Sequence[int], truth: GroundTruth | None) -> dict[str, Any]:
    """The content of compare.json; ``common`` are the stamps of ticks that every run has, in order."""
    right = {stamp: truth.at(stamp).behavior if truth else '' for stamp in common}
    differ = [stamp for stamp in common if len({run.ticks[stamp].said for run in read}) > 1]
    return {
        'bag': read[0].summary['bag'],
        'bag_id': read[0].summary['bag_id'],
        'runs': [_run(run, common, right) for run in read],
        'ticks_common': len(common),
        'ticks_differing': len(differ),
        'agree': {
            f'{one.letter}{other.letter}': sum(one.ticks[stamp].said == other.ticks[stamp].said for stamp in common)
            for one, other in combinations(read, 2)
        },
        'notes': [_left_out(run, common) for run in read if len(run.ticks) > len(common)],
        'differing': [
            {
                'stamp_ns': stamp,
                'seconds': round((stamp - common[0]) / 1e9, 3),
                'truth': right[stamp],
                'runs': {run.letter: _tick(run, stamp) for run in read},
            }
            for stamp in differ
        ],
    }


def compare_page(read: Sequence[Run], common: Sequence[int], found: Mapping[str, Any]) -> str:
    """The page: the ticks of all runs over time, and those that differ one by one."""
    shown = _spread(found['differing'], MAX_SHOWN)
    pictures = _pictures(read, [tick['stamp_ns'] for tick in shown])
    stages = list(dict.fromkeys(stage for run in found['runs'] for stage in run['stage_ms']))
    return render(
        'compare.html.jinja',
        '',
        found=found,
        shown=shown,
        labels={run.letter: run.label for run in read},
        pictures=pictures,
        bands=_bands(read, common),
        marks=_marks(common, [tick['stamp_ns'] for tick in found['differing']]),
        ends=(0.0, (common[-1] - common[0]) / 1e9),
        stages=stages,
    )


def _run(run: Run, common: Sequence[int], right: Mapping[int, str]) -> dict[str, Any]:
    """What one replay did in the ticks that all have."""
    known = [stamp for stamp in common if right[stamp]]
    keys = ('method', 'keep_ratio', 'joint_common', 'model_id', 'model_revision', 'prompt_id')
    ticks = [run.ticks[stamp] for stamp in common]
    stages = dict.fromkeys(stage for tick in ticks for stage in tick.stage_ms)
    hinted = [tick for tick in ticks if not math.isnan(tick.hint_ms)]
    ratios = [round(tick.keep_ratio, 4) for tick in hinted]  # of what was inferred: others have that of the settings
    return {
        'letter': run.letter,
        'folder': str(run.folder),
        'label': run.label,
        **{key: run.summary.get(key) for key in keys},
        'engine': run.engine,
        'target_ms': run.target_ms,
        'keep_ratios': {'min': min(ratios), 'median': median(ratios), 'max': max(ratios)} if ratios else None,
        'tokens_full': round(mean(tick.full for tick in ticks), 3),
        'tokens_kept': round(mean(tick.kept for tick in ticks), 3),
        'stage_ms': {name: quantiles([t.stage_ms[name] for t in ticks if name in t.stage_ms]) for name in stages},
        'hint_ms': quantiles([tick.hint_ms for tick in hinted]) if hinted else None,
        'tick_ms': quantiles([sum(tick.stage_ms.values()) for tick in ticks]),
        'ticks': len(run.ticks),
        'ticks_not_in_all': len(run.ticks) - len(common),
        'known': len(known),
        'hits': sum(run.ticks[stamp].said == right[stamp] for stamp in known),
    }


def _left_out(run: Run, common: Sequence[int]) -> str:
    return (
        f"{len(run.ticks) - len(common)} of {len(run.ticks)} ticks of '{run.folder}' are not in every replay and count"
        ' nowhere here'
    )


def _tick(run: Run, stamp: int) -> dict[str, Any]:
    tick = run.ticks[stamp]
    return {
        'said': tick.said,
        'probabilities': {name: round(share, 4) for name, share in tick.shares.items()},
        'keep_ratio': round(tick.keep_ratio, 4),
        'tokens_kept': {camera: kept for camera, (kept, _) in tick.tokens.items()},
        'tokens_full': {camera: full for camera, (_, full) in tick.tokens.items()},
        'states': dict(tick.states),
        'stage_ms': {stage: round(ms, 3) for stage, ms in tick.stage_ms.items()},
        'description': tick.text,
    }


def _truth(run: Run) -> tuple[GroundTruth | None, str]:
    """The truth beside the bag, where that still is; a sentence where it cannot be read."""
    bag = Path(run.summary['bag'])
    try:
        return (GroundTruth.beside(bag) if bag.exists() else None), ''
    except StpruneError as error:
        return None, str(error)


def _spread(ticks: Sequence[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """At most ``limit`` of them, evenly."""
    step = max(1, -(-len(ticks) // limit))
    return list(ticks[::step])


def _pictures(read: Sequence[Run], stamps: Sequence[int]) -> dict[str, dict[int, str]]:
    """Per letter the pictures of these ticks, by stamp: of evenly spread ones where there is no room for all."""
    found = {run.letter: run.pictures(set(stamps)) for run in read}
    size = sum(len(jpeg) for pictures in found.values() for jpeg in pictures.values())
    step = max(1, -(-size // MAX_BYTES))
    chosen = set(stamps[::step])
    return {
        letter: {stamp: picture_data(jpeg) for stamp, jpeg in pictures.items() if stamp in chosen}
        for letter, pictures in found.items()
    }


def _bands(read: Sequence[Run], common: Sequence[int]) -> list[dict[str, Any]]:
    """Per hint the stretches of time in which each run said it, in units of which the whole is `WIDTH`."""
    names = sorted({run.ticks[stamp].said for run in read for stamp in common})
    place = _places(common)
    bands = []
    for name in names:
        for number, run in enumerate(read):
            said = [run.ticks[stamp].said for stamp in common]
            bars = [(place[a], place[b] - place[a]) for one, a, b in runs(said) if one == name]
            ticks = said.count(name)
            bands.append({'name': words(name), 'letter': run.letter, 'number': number, 'ticks': ticks, 'bars': bars})
    return bands


def _marks(common: Sequence[int], stamps: Sequence[int]) -> list[float]:
    """Where these ticks begin, in the same units."""
    place = dict(zip(common, _places(common)))
    return [place[stamp] for stamp in stamps]


def _places(common: Sequence[int]) -> list[float]:
    """Where each tick begins, and at last where all end: the last one is as long as the mean of the others."""
    step = (common[-1] - common[0]) / max(1, len(common) - 1) or 1.0
    whole = common[-1] - common[0] + step
    return [*(WIDTH * (stamp - common[0]) / whole for stamp in common), WIDTH]


def to_text(found: Mapping[str, Any], output: Path) -> str:
    """The comparison in a few lines for a terminal."""
    lines = []
    for run in found['runs']:
        truth = f', {run["hits"]} of {run["known"]} right' if run['known'] else ''
        lines.append(f'{run["label"]}: {run["tokens_kept"]:.1f} tokens per tick{truth}')
    lines.append(f'differ  in {found["ticks_differing"]} of {found["ticks_common"]} ticks')
    lines += [
        f'        {stamp_text(tick["stamp_ns"])}  '
        + '  '.join(f'{letter} {one["said"]}' for letter, one in tick['runs'].items())
        for tick in found['differing'][:20]
    ]
    return '\n'.join([*lines, *found['notes'], f'page    {output / "compare.html"}'])
