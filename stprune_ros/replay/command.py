"""What `stprune replay` does around a replay: open, load, show progress, and say what came of it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stprune_ros.core.types import Answer, Status
from stprune_ros.errors import BagError, Interrupted
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.replay.moment import EVERYTHING, PARAMETER_FILE, Span
from stprune_ros.replay.records import stamp_text
from stprune_ros.results import Show
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model, loading_text, require_model

# A model with random weights, or one that is too slow, has inferred all the same.
NOTHING_INFERRED = {Status.ERROR.name, Status.NO_HINT.name}


def run(path: Path, output: Path, settings: Settings, show: Show, span: Span = EVERYTHING) -> int:
    """Replay the bag at ``path``, or a ``span`` of it, into the folder ``output`` and show a summary; returns 0.

    Raises StpruneError where nothing can be run, no frame set came about, or nothing could be inferred in most of them.
    """
    with Bag(path) as bag:
        windows = BagWindows(bag, settings)  # a wrong camera is named before the model is loaded
        require_model(settings)
        _say(loading_text(settings))
        from stprune_ros.replay.replay import replay  # brings torch, for which a refusal need not wait

        backend, prompt = load_model(settings, _say)
        for note in backend.info.notes:
            _say(note)
        with _progress(windows.message_count) as bar:

            def on_answer(answer: Answer) -> None:
                bar.set_postfix_str(answer_text(answer), refresh=False)

            try:
                summary = replay(
                    windows, backend, prompt, output, span, say=_say, on_message=bar.update, on_answer=on_answer
                )
            except Interrupted as stop:
                bar.close()
                show(summary_text(stop.result, output), found(stop.result, output))
                raise
    show(summary_text(summary, output), found(summary, output))
    sentence = fault(summary, path, span)
    if sentence:
        raise BagError(sentence)
    return 0


def fault(summary: Mapping[str, Any], path: Path, span: Span = EVERYTHING) -> str:
    """Why a replay of the bag at ``path`` is none to go by, '' where it is one."""
    ticks, failed = summary['ticks'], summary['status'].get(Status.ERROR.name, 0)
    if not ticks and summary['span'] and summary['span']['nearest_ns'] is not None:
        nearest = stamp_text(summary['span']['nearest_ns'])
        return f"bag '{path}' has no tick {span}; the nearest one is at {nearest}: change --from or --until"
    if not ticks:
        return f"bag '{path}' gave no frame set to run on: {_why_no_tick(summary)}"
    if set(summary['status']) <= NOTHING_INFERRED:
        return f"nothing could be inferred in any of the {ticks} ticks of bag '{path}': {_why_nothing(summary)}"
    if 2 * failed > ticks:
        return f"inference failed in {failed} of the {ticks} ticks of bag '{path}': {_why_nothing(summary)}"
    return ''


def found(summary: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """A replay as `Show` takes it."""
    files = [output / name for name in ('report.html', 'summary.json', 'results.mcap', PARAMETER_FILE)]
    return {'files': files, 'summary': summary}


def answer_text(answer: Answer) -> str:
    """The last hint, the share of visual tokens that was kept and the time up to the hint, for the line of progress."""
    hint, timing = answer.hint, answer.timing
    said = f'{hint.behavior.name} {hint.confidence:.2f}' if hint.status.is_valid else hint.status.name
    kept = f'{answer.tokens_kept / answer.tokens_full:.1%}' if answer.tokens_full else 'n/a'
    took = 'n/a' if math.isnan(timing.hint_ms) else f'{timing.hint_ms:.0f} ms'
    return f'{said}, {kept} kept, hint in {took}'


def summary_text(summary: Mapping[str, Any], output: Path) -> str:
    """A replay in a few lines for a terminal."""
    sets = (
        f'{summary["sets_full"]} full, {summary["sets_partial"]} partial, {summary["sets_skipped"]} skipped frame sets'
    )
    kept = f'{summary["tokens_kept"]:.1f} of {summary["tokens_full"]:.1f}'
    ratio = 'a ratio that follows the latency' if summary['latency'] else f'{summary["keep_ratio"]:g}'
    lines = [
        f'ring    {", ".join(summary["cameras"])}',
        f'ticks   {summary["ticks"]} ({sets})',
        f'tokens  {kept} kept per tick, {summary["method"]} at {ratio}',
        f'hints   {", ".join(f"{name} {count}" for name, count in summary["hints"].items()) or "none"}',
    ]
    latency = summary['latency']
    if latency:
        ratios = latency['keep_ratio']
        lines.append(
            f'latency {latency["met"]} of {latency["ticks"]} hints within {latency["target_ms"]:g} ms,'
            f' keep ratio {ratios["min"]:g} to {ratios["max"]:g}; not repeatable, it follows the machine'
        )
    if summary['truth']:
        lines.append(f'truth   {summary["truth"]["hits"]} of {summary["truth"]["known"]} hints are right')
    if summary['errors']:
        lines.append(f'errors  {summary["errors"]}, listed in summary.json')
    if not summary['model_trained'] and summary['ticks']:
        lines.append('model   NOT TRAINED: its weights are random, nothing it says means anything')
    return '\n'.join([*lines, f'report  {output / "report.html"}'])


def _progress(total: int) -> tqdm[Any]:
    """A bar with rate and time left on a terminal, nothing in a log."""
    return tqdm(total=total, unit='msg', dynamic_ncols=True, disable=not sys.stderr.isatty())


def _say(sentence: str) -> None:
    tqdm.write(f'stprune: {sentence}', file=sys.stderr)


def _why_nothing(summary: Mapping[str, Any]) -> str:
    """The first error, which names the remedy, or else what the last ticks said."""
    told = [*summary['error_sentences'], *reversed(summary['notes'])]
    return told[0] if told else 'see the notes in summary.json'


def _why_no_tick(summary: Mapping[str, Any]) -> str:
    counters = {'sets_skipped': summary['sets_skipped'], **summary['counters']}
    seen = ', '.join(f'{key} {value}' for key, value in counters.items() if value)
    return f"the anchor camera '{summary['anchor']}' brought no usable frame" + (f' ({seen})' if seen else '')
