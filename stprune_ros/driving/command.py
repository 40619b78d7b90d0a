"""What `stprune drive` does: all drives, their table, and the page to look at them."""

from __future__ import annotations

from pathlib import Path

from stprune_ros.driving.fleet import drive_all
from stprune_ros.driving.latency import latency_of
from stprune_ros.driving.plan import DrivePlan
from stprune_ros.driving.summary import summarize, to_markdown
from stprune_ros.progress import Say
from stprune_ros.results import Show, write_json
from stprune_ros.settings.settings import Settings


def run(
    plan: DrivePlan,
    profile: str,
    settings: Settings,
    output: Path,
    workers: int,
    resume: bool,
    say: Say,
    show: Show,
) -> int:
    """Drive the plan into the folder ``output`` and show the table; returns 0."""
    latency = latency_of(profile, settings.output.valid_for_ms)
    ran, found = drive_all(plan, latency, settings, workers, output, resume, say)
    result = summarize(plan, ran, found)
    write_json(output / 'drive.json', result)
    files = [output / 'drive.json']
    show(to_markdown(result), {'files': files, 'drive': {key: value for key, value in result.items() if key != 'rows'}})
    return 0
