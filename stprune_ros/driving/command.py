"""What `stprune drive` does: all drives, their table, the page to look at them, and one drive as a film and a bag."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stprune_ros.core.types import Answer
from stprune_ros.driving.film import write_film
from stprune_ros.driving.guides import calibration_of
from stprune_ros.driving.latency import latency_of
from stprune_ros.driving.page import drive_page
from stprune_ros.driving.plan import DrivePlan, Source, settings_for
from stprune_ros.driving.runs import DRIVES, PLAN, Driver, drive_all
from stprune_ros.driving.summary import summarize, to_markdown
from stprune_ros.errors import StpruneError
from stprune_ros.folder_lock import locked
from stprune_ros.progress import Say
from stprune_ros.replay.moment import PARAMETER_FILE, parameter_text
from stprune_ros.results import Show, write_json
from stprune_ros.ringworld.recording import write_world
from stprune_ros.ringworld.renderer import RING
from stprune_ros.ringworld.world import SteppedWorld
from stprune_ros.settings.settings import Settings

FILM, WORLD = 'film.webp', 'world'
ASIDE, LOCK = '.world', '.lock'  # folder in which the bag is written, and the file of who writes
FILMED_KEEP = 0.1  # the ratio whose drive is filmed


@dataclass(frozen=True, slots=True)
class DriveRun:
    """How to run a plan: see the arguments of `stprune drive`. ``show`` is the world of the film and the bag."""

    plan: DrivePlan
    profile: str
    output: Path
    workers: int
    resume: bool
    show: int


def run(ordered: DriveRun, settings: Settings, say: Say, show: Show) -> int:
    """Drive the plan into the output folder and show the table; returns 0."""
    with locked(ordered.output, ordered.output / LOCK, 'drive'):
        return _run(ordered, settings, say, show)


def _run(ordered: DriveRun, settings: Settings, say: Say, show: Show) -> int:
    plan, output = ordered.plan, ordered.output
    _require_own(output)
    latency = latency_of(ordered.profile, settings.output.valid_for_ms)
    ran, found = drive_all(plan, latency, settings, ordered.workers, output, ordered.resume, say)
    result = summarize(plan, ran, found)
    write_json(output / 'drive.json', result)
    files = [output / 'drive.json', output / 'drive.html']
    filmed = filmed_source(plan.sources)
    if filmed is not None:
        files += film(Driver(plan, latency, settings, output), ordered.show, filmed)
    page = drive_page(plan, result, found, [ordered.show], FILM if filmed is not None else '')
    (output / 'drive.html').write_text(page, encoding='utf-8')
    text = f'{to_markdown(result)}\n\npage     {output / "drive.html"}'
    show(text, {'files': files, 'drive': {key: value for key, value in result.items() if key != 'rows'}})
    return 0


def filmed_source(sources: Sequence[Source]) -> Source | None:
    """The first method at `FILMED_KEEP`, or nearest to it and rather above; None where only baselines are driven."""
    pruned = [source for source in sources if source.has_model and source.keep < 1]
    first = [source for source in pruned if source.method == pruned[0].method]
    return min(first, key=lambda source: (source.keep < FILMED_KEEP, abs(source.keep - FILMED_KEEP)), default=None)


def film(driver: Driver, seed: int, source: Source) -> list[Path]:
    """Drive once more, and write the film, and the bag with the parameters that `stprune replay` needs for its hints.

    The bag takes the place of one that an earlier run wrote.
    """
    answers: list[Answer] = []
    drive, world = driver.drive(seed, source, answers.append)
    settings, output = settings_for(source, seed, driver.settings), driver.output
    if answers:
        rig = calibration_of(settings).usable([camera.name for camera in RING])
        write_film(output / FILM, answers, drive, world, rig)
    _write_bag(output, world, driver.plan.hz)
    (output / PARAMETER_FILE).write_text(parameter_text(settings), encoding='utf-8')
    return [output / FILM, output / WORLD, output / PARAMETER_FILE]


def _write_bag(output: Path, world: SteppedWorld, hz: float) -> None:
    """Write the bag aside and move it in: whatever ends the command, what is called `WORLD` is whole."""
    aside = output / ASIDE
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was ended
    try:
        write_world(aside / WORLD, world, world.seconds, hz)
        if (output / WORLD).exists():
            (output / WORLD).rename(aside / 'earlier')
        (aside / WORLD).rename(output / WORLD)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _require_own(output: Path) -> None:
    """Raise StpruneError where the folder of the bag is there, and no earlier run wrote it."""
    own = (output / WORLD / 'truth.json').is_file() and any((output / name).exists() for name in (PLAN, DRIVES))
    if (output / WORLD).exists() and not own:
        raise StpruneError(f"'{output / WORLD}' is in the way of the bag of a drive: name another --output")
