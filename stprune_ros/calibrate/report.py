"""What a calibration found: a few lines, a reliability plot, and the file that prompt.calibration names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stprune_ros.calibrate.drives import ScoredDrive
from stprune_ros.calibrate.quality import Quality
from stprune_ros.calibrate.result import Calibrated, DriveSet
from stprune_ros.core.types import Behavior
from stprune_ros.errors import Interrupted
from stprune_ros.results import replaced_at_once, write_json
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import ModelInfo
from stprune_ros.vlm.hint_calibration import bound_parameters

HEAD = """\
# Written by `stprune calibrate`, for the parameter prompt.calibration. It holds for this model, this prompt, these
# parameters and drives like those it was fitted on. What is below `report` is for people.
"""
DIGITS = 6
LISTED = 200  # bags that are named; the file must not outgrow what its readers allow
COUNTS = ('ticks', 'without_hint', 'without_truth', 'unused')


def summary_text(result: Calibrated) -> str:
    """The calibration in a few lines for a terminal."""
    parts = zip(result.behaviors, result.correction.biases, strict=True)
    biases = ', '.join(f'{behavior.name} {bias:+.3f}' for behavior, bias in parts)
    unseen = [behavior.name for behavior, ticks in result.fitted.true_behaviors.items() if not ticks]
    lines = [
        _drives('fit', result.fitted),
        _drives('held out', result.judged),
        f'biases    {biases}; temperature {result.correction.temperature:.3f}',
    ]
    if unseen:
        lines.append(f'unknown   {", ".join(unseen)}: never right in the bags to fit on, left as the model has it')
    lines += [
        f'{"held out":<10}{"accuracy":>10}{"log loss":>10}{"ECE":>10}{"missed":>8}{"needless":>10}',
        _figures('before', result.judged.before),
        _figures('after', result.judged.after),
    ]
    for name, (low, high) in result.intervals.items():
        lines.append(f'change    {name.replace("_", " ")} {low:+.4f} to {high:+.4f} (95 %, over whole bags)')
    lines.append(
        f'hints     {result.changed} became another, {result.freed} of them NONE, {result.freed_wrongly} wrongly so'
    )
    return '\n'.join(lines)


def write(output: Path, result: Calibrated, tree: Mapping[str, Any]) -> None:
    """Write the calibration file with the ``tree`` of `content` and, beside it as PNG, the reliability plot.

    Files of these names are replaced.
    """
    with replaced_at_once(output.with_suffix('.png')) as part:
        _plot(result.judged, part)
    with replaced_at_once(output) as part:
        part.write_text(HEAD + yaml.safe_dump(dict(tree), sort_keys=False, width=120), encoding='utf-8')


def interruption(output: Path, drives: Sequence[ScoredDrive], bags: int, behaviors: Sequence[Behavior]) -> Interrupted:
    """Write the scores of the ``drives`` that were finished of ``bags`` beside ``output``: they are no calibration."""
    if not drives:
        return Interrupted(f'interrupted before the first of {bags} bags was finished: nothing is written', {})
    partial = output.with_suffix('.partial.json')
    names = [behavior.name for behavior in behaviors]
    write_json(partial, {'candidates': names, 'drives': [_scores(drive, names) for drive in drives]})
    return Interrupted(
        f"interrupted after {len(drives)} of {bags} bags: their scores are in '{partial}', and no calibration is"
        ' written',
        {'files': [partial]},
    )


def _scores(drive: ScoredDrive, names: Sequence[str]) -> dict[str, Any]:
    """A drive as JSON data: for each tick its stamp, the log-probabilities of the candidates, and what was right."""
    return {
        'bag': str(drive.bag),
        'stamp_ns': drive.stamps.tolist(),
        'log_probabilities': drive.scores.round(DIGITS).tolist(),
        'truth': [names[index] for index in drive.truth],
    }


def content(result: Calibrated, settings: Settings, model: ModelInfo, prompt_id: str) -> dict[str, Any]:
    """The calibration file as `HintCalibration` reads it."""
    correction = result.correction
    parts = zip(result.behaviors, correction.biases, correction.content_free, strict=True)
    return {
        'model': {'id': model.model_id, 'revision': model.revision},
        'prompt': prompt_id,
        'parameters': dict(bound_parameters(settings.for_model(model.joint_common))),
        'temperature': round(correction.temperature, DIGITS),
        'candidates': [
            {
                'behavior': behavior.name,
                'bias': round(float(bias), DIGITS),
                'content_free': round(float(free), DIGITS),
            }
            for behavior, bias, free in parts
        ],
        'report': {
            'fitted': _as_tree(result.fitted),
            'held_out': {
                **_as_tree(result.judged),
                'hints_changed': result.changed,
                'hints_freed': result.freed,
                'hints_freed_wrongly': result.freed_wrongly,
                'change_95': {name: [round(one, DIGITS) for one in ends] for name, ends in result.intervals.items()},
            },
        },
    }


def _as_tree(found: DriveSet) -> dict[str, Any]:
    return {
        'bag_count': len(found.drives),
        'bags': [str(drive.bag) for drive in found.drives[:LISTED]],
        **_counts(found),
        'truth': {behavior.name: ticks for behavior, ticks in found.true_behaviors.items()},
        'before': _quality_tree(found.before),
        'after': _quality_tree(found.after),
    }


def _counts(found: DriveSet) -> dict[str, int]:
    return {name: sum(getattr(drive, name) for drive in found.drives) for name in COUNTS}


def _quality_tree(found: Quality) -> dict[str, Any]:
    figures = {
        name: round(getattr(found, name), DIGITS) for name in ('accuracy', 'log_loss', 'expected_calibration_error')
    }
    return {'ticks': found.ticks, **figures, 'missed': found.missed, 'needless': found.needless}


def _drives(head: str, found: DriveSet) -> str:
    counts = _counts(found)
    truth = ', '.join(f'{behavior.name} {count}' for behavior, count in found.true_behaviors.items() if count)
    return (
        f'{head:<10}{len(found.drives)} bags, {found.before.ticks} of {counts["ticks"]} ticks: {truth}'
        f' ({counts["without_hint"]} ticks without a hint, {counts["without_truth"]} without a truth,'
        f' {counts["unused"]} stamps of the truth without a tick)'
    )


def _figures(head: str, found: Quality) -> str:
    return (
        f'{head:<10}{found.accuracy:>10.4f}{found.log_loss:>10.4f}{found.expected_calibration_error:>10.4f}'
        f'{found.missed:>8}{found.needless:>10}'
    )


def _plot(found: DriveSet, path: Path) -> None:
    """Share of right hints over confidence, before and after; the size of a dot goes with its number of ticks."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 5.4))
    axes.plot([0, 1], [0, 1], color='grey', lw=1, ls=':', label='as it should be')
    for label, one in (('before', found.before), ('after', found.after)):
        bins = one.bins[one.bins[:, 0] > 0]
        sizes = 20 + 400 * bins[:, 0] / one.ticks
        name = f'{label}: calibration error {one.expected_calibration_error:.3f}, log loss {one.log_loss:.3f}'
        [line] = axes.plot(bins[:, 1], bins[:, 2], lw=1.2, label=name)
        axes.scatter(bins[:, 1], bins[:, 2], s=sizes, color=line.get_color(), alpha=0.6)
    title = f'{len(found.drives)} held-out bags, {found.before.ticks} ticks'
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel='confidence', ylabel='share of right hints', title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, loc='upper left')
    figure.tight_layout()
    figure.savefig(path, dpi=120, format='png')
    pyplot.close(figure)
