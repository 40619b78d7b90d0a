"""The report of a replay: one HTML file in which every tick can be looked at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stprune_ros.core.rig import CameraRig
from stprune_ros.pruning.config import LEFT_TO_MODEL
from stprune_ros.replay.album import Album, Event
from stprune_ros.replay.moment import STAMP, Moments, plain_values
from stprune_ros.replay.page import picture_data, render
from stprune_ros.replay.records import TickRecord, columns, words
from stprune_ros.settings.settings import Settings

MAX_EVENTS = 500  # listed one by one
EVENT_WORDS = {
    Event.FLIP: 'the hint changes',
    Event.WRONG: 'not the truth',
    Event.ERROR: 'no valid hint',
    Event.PARTIAL: 'a camera is missing',
}


def report_page(
    summary: Mapping[str, Any],
    records: Sequence[TickRecord],
    album: Album,
    rig: CameraRig | None,
    moments: Moments,
) -> str:
    """The whole page; ``summary`` is the content of summary.json, ``rig`` None where it is not known."""
    pictures = album.pictures
    data = {
        **columns(records),
        'pictures': {number: picture_data(jpeg) for number, jpeg in pictures.items()},
        'command': moments.command(),
        'stamp_word': STAMP,
    }
    defaults = plain_values(Settings())
    parameters = [
        (name, _shown(name, value, summary), value != defaults[name])
        for name, value in sorted(summary.get('parameters', {}).items())
    ]
    times = {**summary['stage_ms'], 'up to the hint': summary['hint_ms'], 'whole tick': summary['tick_ms']}
    return render(
        'report.html.jinja',
        'report.js',
        summary=summary,
        figures=_figures(summary),
        data=data,
        count=len(records),
        events=_events(records, album, pictures),
        unlisted=max(0, len(album.events) - MAX_EVENTS),
        pictured=len(pictures),
        flips=sum(Event.FLIP in events for events in album.events.values()),
        pictured_flips=sum(Event.FLIP in album.events.get(number, ()) for number in pictures),
        behaviors=_behaviors(records),
        ring=_ring(rig) if rig is not None else [],
        parameters=parameters,
        times=[(stage, found) for stage, found in times.items() if found],
    )


def _shown(name: str, value: Any, summary: Mapping[str, Any]) -> Any:
    """A parameter as the page has it; of one that is left to the model also what held."""
    held = summary.get('joint_common')
    if name != 'pruning.joint_common' or value != LEFT_TO_MODEL or held is None:
        return value
    return f'{value:g}: left to the model, {held:g}'


def _figures(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The large numbers at the top, and what each one is."""
    sets = f'{summary["sets_full"]} full, {summary["sets_partial"]} partial, {summary["sets_skipped"]} skipped'
    full, kept, truth, latency = (summary[key] for key in ('tokens_full', 'tokens_kept', 'truth', 'latency'))
    share = f'{100 * kept / full:.1f} %' if full else 'none'
    figures = [
        (str(summary['ticks']), f'ticks; frame sets: {sets}'),
        (share, f'visual tokens kept: {kept:.0f} of {full:.0f} per tick'),
    ]
    if truth:
        figures.append((f'{truth["hits"]} of {truth["known"]}', f'hints equal the truth; {truth["misses"]} do not'))
    for key, text in (('hint_ms', 'up to the hint'), ('tick_ms', 'whole tick, description included')):
        if times := summary[key]:
            figures.append((f'{times["p50"]:.0f} ms', f'{text}, median; 95 % stay below {times["p95"]:.0f} ms'))
    if latency:
        ratios, missed = latency['keep_ratio'], latency['out_of_reach']
        text = f'hints within {latency["target_ms"]:g} ms; keep ratio {ratios["min"]:.3g} to {ratios["max"]:.3g}'
        figures.append((f'{100 * latency["met_share"]:.0f} %', text + (f', {missed} out of reach' if missed else '')))
    return figures


def _events(
    records: Sequence[TickRecord], album: Album, pictures: Mapping[int, bytes]
) -> list[tuple[int, str, str, bool]]:
    """Per tick where something happened: its number, what was said, what happened, whether it has a picture."""
    found = []
    for number, events in list(album.events.items())[:MAX_EVENTS]:
        said = words(records[number].said)
        if Event.FLIP in events:
            said = f'{words(records[number - 1].said)} → {said}'
        texts = [EVENT_WORDS[event] for event in events]
        if Event.WRONG in events:
            texts[events.index(Event.WRONG)] = f'truth: {words(records[number].truth.behavior)}'
        found.append((number, said, ', '.join(texts), number in pictures))
    return found


def _behaviors(records: Sequence[TickRecord]) -> list[tuple[str, int, int]]:
    """What was said or true: name, ticks in which it was said, ticks in which it was true."""
    said = Counter(record.said for record in records)
    true = Counter(record.truth.behavior for record in records if record.truth.behavior)
    return [(name, said[name], true[name]) for name in sorted({*said, *true})]


def _ring(rig: CameraRig) -> list[dict[str, Any]]:
    """The rig from above, front up: one sector of radius 100 for each camera's field of view."""
    sectors = []
    for camera in rig.ring:
        left, right = rig.cameras[camera].azimuth_span()
        width = (left - right) % math.tau
        sectors.append(
            {
                'camera': camera,
                'degrees': math.degrees(width),
                'left': _polar(left, 100),
                'right': _polar(right, 100),
                'wide': int(width > math.pi),
                'middle': _polar(rig.azimuth(camera), 74),
            }
        )
    return sectors


def _polar(azimuth: float, radius: float) -> tuple[float, float]:
    return round(-radius * math.sin(azimuth), 1), round(-radius * math.cos(azimuth), 1)
