"""What `stprune calibrate` does: pair bags with their truth, score, fit on some, judge on others, write."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from stprune_ros.errors import BagError, SettingsError, StpruneError
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.io.ground_truth import EVERY_BAG, GroundTruth, read_truth
from stprune_ros.results import Show
from stprune_ros.settings.settings import Settings, nanoseconds
from stprune_ros.vlm.loading import load_model, loading_text, require_model

HELD_OUT_SHARE = 3  # of so many bags one is held out, where none are named


@dataclass(frozen=True, slots=True)
class CalibrationPlan:
    """What to calibrate on: bags to fit on and bags to judge on, their truth, and where the result goes.

    Without ``held_out`` the last third of ``bags`` is. Without ``truth`` each bag has its truth.json beside it.
    """

    bags: tuple[Path, ...]
    held_out: tuple[Path, ...]
    truth: Path | None
    tolerance_ms: float
    content_free: bool
    output: Path

    def split(self) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Bags to fit on, and bags to judge on. Raises BagError where one is in both, or there are too few."""
        known: dict[Path, Path] = {}
        for bag in (*self.bags, *self.held_out):
            place = _place(bag)
            if place in known:
                raise BagError(
                    f"bag '{bag}' is given twice, also as '{known[place]}': what is fitted on a drive cannot be judged"
                    ' on it'
                )
            known[place] = bag
        if self.held_out:
            return self.bags, self.held_out
        if len(self.bags) < 2:
            raise BagError(
                f"there is only bag '{self.bags[0]}': give another one to hold out, what is fitted on a drive cannot be"
                ' judged on it'
            )
        count = max(1, len(self.bags) // HELD_OUT_SHARE)
        return self.bags[:-count], self.bags[-count:]


def run(plan: CalibrationPlan, settings: Settings, show: Show) -> int:
    """Calibrate, show what came of it and write the file with its plot; returns 0.

    Raises StpruneError where nothing can be fitted, or where the calibration makes the log loss on the bags to judge on
    worse; nothing is written then.
    """
    if settings.latency.target_ms:
        raise SettingsError(
            f"parameter 'latency.target_ms' is {settings.latency.target_ms:g}, but a calibration holds for one keep"
            ' ratio: set it to 0'
        )
    # A deadline or a text changes no score; an earlier calibration would.
    settings = settings.changed({'prompt.calibration': '', 'inference.deadline_ms': 0.0, 'inference.describe': False})
    fitted, judged = plan.split()
    truths = truth_by_bag(plan.truth, (*fitted, *judged))
    messages = _require_bags((*fitted, *judged), settings)
    require_model(settings)
    _say(loading_text(settings))
    from stprune_ros.calibrate.drives import DriveScorer  # brings torch, for which a refusal need not wait
    from stprune_ros.calibrate.report import content, interruption, summary_text, write
    from stprune_ros.calibrate.result import calibrate

    backend, prompt = load_model(settings, _say)
    for note in backend.info.notes:
        _say(note)
    for bag, truth in truths.items():
        _require_candidates(bag, truth, [behavior.name for behavior in prompt.behaviors])
    scorer = DriveScorer(settings, backend, prompt, nanoseconds(plan.tolerance_ms), plan.content_free, _say)
    drives = {}
    try:
        with tqdm(total=messages, unit='msg', dynamic_ncols=True, disable=not sys.stderr.isatty()) as progress:
            for bag, truth in truths.items():
                drives[bag] = scorer.score(bag, truth, progress.update)
    except KeyboardInterrupt:
        raise interruption(plan.output, list(drives.values()), len(truths), prompt.behaviors) from None
    _require_own_truth(truths, {bag: drive.matched for bag, drive in drives.items()}, plan.truth)
    result = calibrate([drives[bag] for bag in fitted], [drives[bag] for bag in judged], prompt.behaviors)
    report = content(result, settings, backend.info, prompt.id)
    show(summary_text(result), {'calibration': report, 'files': []})
    before, after = result.judged.before.log_loss, result.judged.after.log_loss
    if after > before:
        raise StpruneError(
            f'on the {len(judged)} held-out bags the calibration makes the log loss worse, {before:.4f} to {after:.4f}:'
            f" '{plan.output}' is not written; fit on more and more varied drives"
        )
    before, after = (one.expected_calibration_error for one in (result.judged.before, result.judged.after))
    if after > before:
        _say(
            f'on the {len(judged)} held-out bags the expected calibration error rises, {before:.4f} to {after:.4f}:'
            ' they are too few, or unlike those that were fitted on'
        )
    write(plan.output, result, report)
    plot = plan.output.with_suffix('.png')
    show(f"wrote   '{plan.output}' and '{plot}'", {'files': [plan.output, plot]})
    return 0


def truth_by_bag(file: Path | None, bags: Sequence[Path]) -> dict[Path, GroundTruth]:
    """The truth of each bag, from one file or from beside it. Raises StpruneError naming a bag without one."""
    if file is None:
        return {bag: _beside(bag) for bag in bags}
    found = read_truth(file)
    if EVERY_BAG in found:
        return dict.fromkeys(bags, found[EVERY_BAG])
    by_name: dict[str, Path] = {}
    for bag in bags:
        name = bag.resolve().name
        if name not in found:
            raise StpruneError(f"truth file '{file}' has no line for bag '{name}'; its bags are {', '.join(found)}")
        if name in by_name:
            raise StpruneError(
                f"bags '{by_name[name]}' and '{bag}' have the same name in truth file '{file}': rename one"
            )
        by_name[name] = bag
    return {bag: found[name] for name, bag in by_name.items()}


def _beside(bag: Path) -> GroundTruth:
    found = GroundTruth.beside(bag)
    if found is None:
        raise StpruneError(f"bag '{bag}' has no truth.json beside it: give --truth FILE")
    return found


def _place(bag: Path) -> Path:
    """The folder of a bag, or its file where other bags may lie beside it."""
    place = bag.resolve()
    alone = place.is_file() and (place.parent / 'metadata.yaml').is_file()
    return place.parent if alone else place


def _require_bags(bags: Iterable[Path], settings: Settings) -> int:
    """Open each bag, so that a wrong one is named before hours of work; returns the messages that will be read."""
    messages = 0
    for path in bags:
        with Bag(path) as bag:
            messages += BagWindows(bag, settings).message_count
    return messages


def _require_candidates(bag: Path, truth: GroundTruth, candidates: Sequence[str]) -> None:
    for stamp_ns in truth.stamps:
        behavior = truth.at(stamp_ns).behavior
        if behavior not in candidates:
            raise StpruneError(
                f"the truth of bag '{bag}' says {behavior} at {stamp_ns} ns, which is no candidate of the prompt:"
                f' {", ".join(candidates)}'
            )


def _require_own_truth(
    truths: Mapping[Path, GroundTruth], matched: Mapping[Path, frozenset[int]], file: Path | None
) -> None:
    """Refuse lines of one file that ticks of two bags could be meant by."""
    taken: dict[tuple[int, int], Path] = {}
    for bag, truth in truths.items():
        for stamp_ns in matched[bag]:
            other = taken.setdefault((id(truth), stamp_ns), bag)
            if other != bag:
                raise StpruneError(
                    f"bags '{other}' and '{bag}' both have a tick at {stamp_ns} ns, and truth file '{file}' does not"
                    ' say whose line that is: add a column bag'
                )


def _say(sentence: str) -> None:
    tqdm.write(f'stprune: {sentence}', file=sys.stderr)
