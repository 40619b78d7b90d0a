"""The report of a replay: one HTML file without outside assets, bounded in size however long the bag is."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Answer, CameraState, ViewReport
from stprune_ros.io.ground_truth import NO_TRUTH, TickTruth
from stprune_ros.replay.style import BEHAVIOR_COLOURS, STYLE

PACE_POINTS = 150
STAGE_COLOURS = ('#5b8def', '#8a6fd1', '#e0a526', '#3f9c78', '#d6655a', '#6fa8b8')


@dataclass(frozen=True)
class TimelinePoint:
    """One tick on the time line; ``truth`` is a behavior name where the bag knows it.

    ``hint_ms`` is the time up to the hint, NaN without one.
    """

    seconds: float
    status: str
    behavior: str
    truth: str = ''
    keep_ratio: float = 1.0
    hint_ms: float = math.nan

    @classmethod
    def from_answer(cls, answer: Answer, seconds: float, truth: str) -> TimelinePoint:
        """The point of an answer that came ``seconds`` after the first one."""
        hint = answer.hint
        ratio, hint_ms = answer.provenance.keep_ratio, answer.timing.source_to_hint_ms
        return cls(seconds, hint.status.name, hint.behavior.name, truth, ratio, hint_ms)


@dataclass(frozen=True)
class ViewPicture:
    """One view of a shown tick: JPEG of the current frame with its kept tokens, PNG of the masks of its history."""

    camera: str
    direction: str
    jpeg: bytes = b''
    masks: bytes = b''


@dataclass(frozen=True)
class ReportTick:
    """A tick that the report shows in full; ``pictures`` in ring order; ``speed`` in m/s, None without odometry."""

    answer: Answer
    seconds: float
    pictures: tuple[ViewPicture, ...]
    speed: float | None = None
    truth: TickTruth = NO_TRUTH


def render(
    summary: Mapping[str, Any], timeline: Sequence[TimelinePoint], shown: Sequence[ReportTick], rig: CameraRig | None
) -> str:
    """The whole page."""
    body = [
        _head(summary),
        _warnings(summary),
        _figures(summary),
        _overview(summary, timeline, rig),
        _pace(summary, timeline),
        '<h2>Ticks</h2>',
        '<p class="soft small">Kept tokens of the current frame are bright, dropped ones grey. The small masks show'
        ' the kept tokens of every frame in the history, oldest first.</p>',
        *[_tick(tick) for tick in shown],
        _views(summary),
        _times(summary),
        _provenance(summary),
    ]
    title = f'stprune: {escape(str(summary["bag"]))}'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}</title><style>{STYLE}</style></head>\n<body><main>{"".join(body)}</main></body></html>\n'
    )


def name(behavior: str) -> str:
    """A behavior as people read it."""
    return {'NONE': 'no restriction'}.get(behavior, behavior.lower().replace('_', ' '))


def colour(behavior: str) -> str:
    """The colour of a behavior."""
    return BEHAVIOR_COLOURS.get(behavior, BEHAVIOR_COLOURS['UNKNOWN'])


def _head(summary: Mapping[str, Any]) -> str:
    model = f'{escape(summary["model_id"])} <span class="mono small">{escape(summary["model_revision"])}</span>'
    latency = summary['latency']
    kept = f'{summary["keep_ratio"]:.4g} of the visual tokens'
    if latency:
        kept = f'what hints within {latency["target_ms"]:g} ms leave time for'
    method = f'{escape(summary["method"])}, keeping {kept}'
    source = escape(summary['bag'])
    return f"""<h1>What the cameras saw, and what was made of it</h1>
<div class="soft">{source}<br>{model} &middot; {method}</div>"""


def _warnings(summary: Mapping[str, Any]) -> str:
    texts = []
    if not summary['model_trained']:
        texts.append('<b>This model is not trained.</b> Its weights are random: no answer on this page means anything.')
    if summary['interrupted']:
        texts.append('<b>Interrupted.</b> The page covers the part of the bag that was run.')
    if summary['errors']:
        counts = ''.join(
            f'<li>{count} &times; {escape(text)}</li>' for text, count in summary['error_sentences'].items()
        )
        texts.append(f'<b>{summary["errors"]} errors.</b><ul>{counts}</ul>')
    return ''.join(f'<div class="warning">{text}</div>' for text in texts)


def _figures(summary: Mapping[str, Any]) -> str:
    sets = f'{summary["sets_full"]} full, {summary["sets_partial"]} partial, {summary["sets_skipped"]} skipped'
    full, kept = summary['tokens_full'], summary['tokens_kept']
    share = f'{100 * kept / full:.1f} %' if full else 'none'
    figures = [
        (summary['ticks'], 'ticks'),
        (summary['sets_full'] + summary['sets_partial'], f'frame sets<br>{sets}'),
        (share, f'visual tokens kept<br>{kept:.0f} of {full:.0f} per tick'),
    ]
    truth = summary.get('truth')
    if truth:
        figures.append(
            (f'{truth["hits"]} of {truth["known"]}', 'hints equal the truth<br>' + f'{truth["misses"]} do not')
        )
    for key, text in (('hint_ms', 'up to the hint'), ('tick_ms', 'whole tick, description included')):
        times = summary[key]
        if times:
            note = f'{text}, median<br>95 % stay below {times["p95"]:.0f} ms'
            figures.append((f'{times["p50"]:.0f} ms', note))
    latency = summary['latency']
    if latency:
        figures.append(
            (f'{100 * latency["met_share"]:.0f} %', f'hints within {latency["target_ms"]:g} ms<br>{_reach(latency)}')
        )
    cells = [f'<div class="card"><b>{value}</b><span class="soft small">{text}</span></div>' for value, text in figures]
    return f'<div class="figures">{"".join(cells)}</div>'


def _reach(latency: Mapping[str, Any]) -> str:
    ratios = latency['keep_ratio']
    missed = latency['out_of_reach']
    return f'keep ratio {ratios["min"]:.3g} to {ratios["max"]:.3g}' + (f', {missed} out of reach' if missed else '')


def _overview(summary: Mapping[str, Any], timeline: Sequence[TimelinePoint], rig: CameraRig | None) -> str:
    hints, truths = (
        Counter(point.behavior for point in timeline),
        Counter(point.truth for point in timeline if point.truth),
    )
    rows = []
    for behavior in sorted({*hints, *truths}):
        counts = f'{hints[behavior]} ticks' + (f', truth {truths[behavior]}' if truths else '')
        rows.append(
            f'<span>{name(behavior)}</span>{_bar(hints[behavior] / len(timeline), behavior)}<span>{counts}</span>'
        )
    left = f'<div class="card"><b>Hints over time</b>{_timeline(timeline)}<div class="bars">{"".join(rows)}</div>'
    notes = ''.join(f'<li>{escape(note)}</li>' for note in summary['notes'])
    left += f'<p><b>Notes</b></p><ul class="small">{notes or "<li>none</li>"}</ul></div>'
    right = f'<div class="card"><b>Ring</b>{_ring(rig, summary)}</div>' if rig is not None else ''
    return f'<div class="split">{left}{right}</div>'


def _timeline(timeline: Sequence[TimelinePoint]) -> str:
    if not timeline:
        return '<p class="soft">no tick</p>'
    times = [point.seconds for point in timeline]
    step = (times[-1] - times[0]) / max(1, len(times) - 1) or 1.0
    start, span = times[0], times[-1] - times[0] + step
    rows = [('hint', [point.behavior for point in timeline])]
    if any(point.truth for point in timeline):
        rows.append(('truth', [point.truth for point in timeline]))
    parts = []
    for row, (label, values) in enumerate(rows):
        top = 8 + 34 * row
        parts.append(f'<text class="soft" x="0" y="{top + 17}">{label}</text>')
        for value, run in groupby(range(len(values)), key=values.__getitem__):
            indices = list(run)
            first, last = times[indices[0]], times[indices[-1]] + step
            x, width = 48 + 740 * (first - start) / span, max(1.0, 740 * (last - first) / span)
            place = f'x="{x:.1f}" y="{top}" width="{width:.1f}" height="26" rx="2"'
            if value:
                tip = f'<title>{name(value)}, {first:.1f} s to {last:.1f} s</title>'
                parts.append(f'<rect {place} fill="{colour(value)}">{tip}</rect>')
    bottom = 8 + 34 * len(rows)
    for tenth in range(0, 11, 2):
        anchor = 'end' if tenth == 10 else 'middle' if tenth else 'start'
        place = f'x="{48 + 74 * tenth}" y="{bottom + 12}" text-anchor="{anchor}"'
        parts.append(f'<text class="soft" {place}>{start + span * tenth / 10:.1f} s</text>')
    return f'<svg viewBox="0 0 790 {bottom + 18}" role="img" aria-label="hints over time">{"".join(parts)}</svg>'


def _pace(summary: Mapping[str, Any], timeline: Sequence[TimelinePoint]) -> str:
    """Time up to the hint above, keep ratio below, where a latency target tied them; the worst of every few ticks."""
    latency = summary['latency']
    if not latency or not timeline:
        return ''
    size = math.ceil(len(timeline) / PACE_POINTS)
    groups = [timeline[start : start + size] for start in range(0, len(timeline), size)]
    slowest = [max((point.hint_ms for point in group if point.hint_ms >= 0), default=math.nan) for group in groups]
    lowest = [min(point.keep_ratio for point in group) for group in groups]
    target = latency['target_ms']
    top_ms = 1.1 * max([target, *[ms for ms in slowest if ms >= 0]])
    top_ratio = 1.1 * max(lowest)
    line = f'x1="48" x2="790" y1="{_y(target / top_ms, 100):.1f}" y2="{_y(target / top_ms, 100):.1f}"'
    parts = [
        f'<line {line} stroke="{STAGE_COLOURS[4]}" stroke-dasharray="5 4"/>',
        f'<text class="soft" x="0" y="{_y(target / top_ms, 100) + 4:.1f}">{target:g} ms</text>',
        f'<text class="soft" x="0" y="{_y(max(lowest) / top_ratio, 200) + 4:.1f}">{max(lowest):.2g}</text>',
        f'<text class="soft" x="0" y="{_y(min(lowest) / top_ratio, 200) + 4:.1f}">{min(lowest):.2g}</text>',
    ]
    for values, top, bottom, tone in ((slowest, top_ms, 100, 0), (lowest, top_ratio, 200, 2)):
        width = 742 / max(1, len(values) - 1)
        points = ' '.join(
            f'{48 + width * index:.1f},{_y(value / top, bottom):.1f}'
            for index, value in enumerate(values)
            if not math.isnan(value)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{STAGE_COLOURS[tone]}" stroke-width="1.5"/>')
    drawing = f'<svg viewBox="0 0 790 208" role="img" aria-label="latency over time">{"".join(parts)}</svg>'
    return f'<h2>Time up to the hint, and the keep ratio that it led to</h2><div class="card">{drawing}</div>'


def _y(share: float, bottom: float) -> float:
    return bottom - 90 * share


def _ring(rig: CameraRig, summary: Mapping[str, Any]) -> str:
    """The rig from above, front up: one sector for each camera's field of view."""
    parts = []
    for index, camera in enumerate(rig.ring):
        left, right = rig.cameras[camera].azimuth_span()
        wide = int((left - right) % math.tau > math.pi)
        (x0, y0), (x1, y1) = _polar(left, 100), _polar(right, 100)
        path = f'M0 0 L{x0:.1f} {y0:.1f} A100 100 0 {wide} 1 {x1:.1f} {y1:.1f} Z'
        tone = f'hsl({round(360 * index / len(rig.ring))} 45% 55%)'
        tip = f'<title>{escape(camera)}: {math.degrees((left - right) % math.tau):.0f} degrees</title>'
        parts.append(f'<path d="{path}" fill="{tone}" fill-opacity="0.3" stroke="{tone}">{tip}</path>')
        x, y = _polar(rig.azimuth(camera), 74)
        parts.append(f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{index + 1}</text>')
    parts.append('<rect class="car" x="-9" y="-18" width="18" height="36" rx="5"/>')
    parts.append('<path class="car" d="M-5 -8 L0 -14 L5 -8"/>')
    names = '<br>'.join(f'{index + 1} {escape(camera)}' for index, camera in enumerate(rig.ring))
    missing = summary['cameras_missing']
    absent = f'<br><span class="bad">never seen: {escape(", ".join(missing))}</span>' if missing else ''
    drawing = f'<svg viewBox="-104 -104 208 208" role="img" aria-label="cameras from above">{"".join(parts)}</svg>'
    return f'{drawing}<p class="small soft">{names}{absent}</p>'


def _polar(azimuth: float, radius: float) -> tuple[float, float]:
    return -radius * math.sin(azimuth), -radius * math.cos(azimuth)


def _tick(tick: ReportTick) -> str:
    answer = tick.answer
    by_camera = {view.camera: view for view in answer.views}
    pictures = ''.join(_picture(picture, by_camera) for picture in _arranged(tick.pictures))
    columns = max(1, math.ceil(len(tick.pictures) / 2))
    ring = f'<div class="ring" style="grid-template-columns:repeat({columns},minmax(0,1fr))">{pictures}</div>'
    return f'<div class="card tick">{ring}<div>{_answer(tick)}</div></div>'


def _arranged(pictures: Sequence[ViewPicture]) -> list[ViewPicture]:
    """Two rows as seen from above, each from left to right: the cameras around the front, then the rest."""
    count = len(pictures)
    columns = math.ceil(count / 2)
    left = (columns - 1) // 2
    top = [pictures[index % count] for index in range(-left, columns - left)] if count else []
    return top + [pictures[index % count] for index in range(count - left - 1, columns - left - 1, -1)]


def _picture(picture: ViewPicture, views: Mapping[str, ViewReport]) -> str:
    view = views.get(picture.camera)
    state = view.state.name.lower() if view else CameraState.UNKNOWN.name.lower()
    image = (
        f'<img alt="{escape(picture.camera)}" src="{_data("jpeg", picture.jpeg)}">'
        if picture.jpeg
        else f'<div class="none">no usable frame: {state}</div>'
    )
    masks = f'<img alt="kept tokens, oldest frame first" src="{_data("png", picture.masks)}">' if picture.masks else ''
    tokens = f'{view.tokens_kept}/{view.tokens_full}' if view else ''
    label = f'<b>{escape(picture.direction)}</b><span style="opacity:.75">{tokens}</span>'
    return f'<div class="view" title="{escape(picture.camera)}">{image}<footer>{label}{masks}</footer></div>'


def _answer(tick: ReportTick) -> str:
    answer, behavior = tick.answer, tick.answer.hint.behavior.name
    speed = f'{tick.speed:.1f} m/s' if tick.speed is not None else 'speed unknown'
    badges = ' '.join(
        f'<span class="badge">{text}</span>' for text in (answer.hint.status.name, f'{tick.seconds:.2f} s', speed)
    )
    valid = answer.hint.status.is_valid
    sure = f'<span class="small soft">{100 * answer.hint.confidence:.0f} %</span>' if valid else ''
    bars = ''.join(
        f'<span>{name(item.name)}</span>{_bar(share, item.name)}<span>{100 * share:.0f} %</span>'
        for item, share in answer.hint.distribution
    )
    more = ' &hellip;' if answer.description.truncated else ''
    text = f'<div class="text">{escape(answer.description.text)}{more}</div>' if answer.description.text else ''
    truth = tick.truth.description
    true_text = f'<div class="text small soft">truth: {escape(truth)}</div>' if truth else ''
    notes = ''.join(f'<li>{escape(note)}</li>' for note in answer.notes)
    dot = f'<i class="dot" style="background:{colour(behavior)}"></i>'
    stage_ms = answer.timing.stage_ms
    return f"""{badges}<div class="hint">{dot}{name(behavior)} {sure}</div>
{_verdict(tick.truth.behavior, behavior)}<div class="bars">{bars}</div>{text}{true_text}{_stages(stage_ms)}
<ul class="small soft">{notes}</ul>"""


def _verdict(truth: str, behavior: str) -> str:
    if not truth:
        return ''
    if truth == behavior:
        return '<div class="small good">&#10003; so is the truth</div>'
    return f'<div class="small bad">&#10007; truth: {name(truth)}</div>'


def _stages(stage_ms: Mapping[str, float]) -> str:
    total = sum(stage_ms.values())
    if not total:
        return ''
    cells, texts = [], []
    for index, (stage, ms) in enumerate(stage_ms.items()):
        tone = STAGE_COLOURS[index % len(STAGE_COLOURS)]
        cells.append(f'<i style="width:{100 * ms / total:.2f}%;background:{tone}"></i>')
        texts.append(f'<span class="stage"><i style="color:{tone}">&#9632;</i> {escape(stage)} {ms:.0f}</span>')
    return f'<div class="stages">{"".join(cells)}</div><div class="small soft">{total:.0f} ms: {" ".join(texts)}</div>'


def _views(summary: Mapping[str, Any]) -> str:
    head = (
        'camera',
        'looks',
        'frames',
        'tokens full',
        'kept',
        'budget',
        'ticks without',
        'overlap with the right neighbour',
    )
    rows = []
    for camera, view in summary['views'].items():
        tokens = [f'{view[key]:.1f}' for key in ('tokens_full', 'tokens_kept', 'tokens_budget')]
        overlap = f'{view["overlap_right_deg"]:.1f}&deg;'
        rows.append(
            (escape(camera), view['direction'], f'{view["frames"]:.2f}', *tokens, view['ticks_without'], overlap)
        )
    intro = '<p class="soft small">Means per tick, in ring order (clockwise from above).</p>'
    return f'<h2>Views</h2>{intro}{_table(head, rows)}'


def _times(summary: Mapping[str, Any]) -> str:
    keys = ('p50', 'p95', 'max')
    stages = {**summary['stage_ms'], 'up to the hint': summary['hint_ms'], 'whole tick': summary['tick_ms']}
    rows = [(stage, *(f'{times[key]:.1f}' for key in keys)) for stage, times in stages.items() if times]
    return '<h2>Times in ms</h2>' + _table(('stage', 'median', '95 % stay below', 'slowest'), rows)


def _provenance(summary: Mapping[str, Any]) -> str:
    odometry = summary['topics']['odometry'] or 'none'
    counters = ''.join(f'; {key} {value}' for key, value in summary['counters'].items())
    calibration = summary['hint_calibration_id']
    applied = f'; hint calibration {calibration}' if calibration else ''
    sources = f'Prompt {summary["prompt_id"]}{applied}; odometry {odometry}; anchor {summary["anchor"]}{counters}.'
    return f'<p class="small soft">{escape(sources)}</p>'


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    header = ''.join(f'<th>{cell}</th>' for cell in head)
    body = ''.join('<tr>' + ''.join(f'<td>{cell}</td>' for cell in row) + '</tr>' for row in rows)
    return f'<div class="card scroll"><table><tr>{header}</tr>{body}</table></div>'


def _bar(share: float, behavior: str) -> str:
    return f'<div class="track"><i style="width:{100 * share:.1f}%;background:{colour(behavior)}"></i></div>'


def _data(kind: str, data: bytes) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
