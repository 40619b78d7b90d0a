"""Reports and results of replays that never ran, from answers: for tests of what is made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Answer
from stprune_ros.io.ground_truth import TickTruth
from stprune_ros.replay.album import Album
from stprune_ros.replay.moment import EVERYTHING, Moments, plain_values
from stprune_ros.replay.records import TickRecord
from stprune_ros.replay.report import report_page
from stprune_ros.replay.results import ResultsFile
from stprune_ros.replay.summary import ReplayStatistics
from stprune_ros.settings.settings import Settings

JPEG = cv2.imencode('.jpg', np.full((48, 96, 3), 90, np.uint8))[1].tobytes()


def summary_of(answers: Sequence[Answer], rig: CameraRig, bag: str = 'bag', truths: Sequence[str] = (), **more: Any):
    """summary.json of these answers."""
    statistics = ReplayStatistics()
    for index, answer in enumerate(answers):
        statistics.add(answer, truths[index] if truths else '')
        for note in answer.notes:
            statistics.notes.add(note, answer.stamp_ns)
    for error in more.pop('errors', ()):
        statistics.errors.add(error, answers[-1].stamp_ns)
    counters, topics = {'sets_full': len(answers)}, {'images': {}, 'odometry': ''}
    found = statistics.summary(Path(bag), Settings(), rig, rig.ring[0], counters, topics)
    given = {'bag_id': 'same', 'span': EVERYTHING.summary(None), 'parameters': plain_values(Settings()), 'versions': {}}
    return {**found, **given, **more}


def page_of(
    answers: Sequence[Answer],
    rig: CameraRig,
    truths: Sequence[str] = (),
    jpeg: bytes = JPEG,
    bag: str = 'bag',
    **more: Any,
) -> str:
    """The report of these answers."""
    records = [
        TickRecord.from_answer(answer, 3.0, TickTruth(truths[i] if truths else '', 'really <so>' if truths else ''))
        for i, answer in enumerate(answers)
    ]
    album = Album()
    for record in records:
        album.add(record, jpeg)
    summary = summary_of(answers, rig, bag, truths, **more)
    return report_page(summary, records, album, rig, Moments(Path(bag), Path('out')))


def write_run(
    folder: Path, answers: Sequence[Answer], rig: CameraRig, jpeg: bytes = JPEG, describe_ms: float = 0.0, **more: Any
) -> Path:
    """An output folder of a replay, without its report; a description takes ``describe_ms`` beside its hint."""
    folder.mkdir(parents=True)
    with ResultsFile(folder / 'results.mcap', Settings()) as file:
        for answer in answers:
            stage_ms = {**answer.timing.stage_ms, **({'describe': describe_ms} if describe_ms else {})}
            described = replace(answer, timing=replace(answer.timing, stage_ms=stage_ms))
            file.write(answer, [described], described, answer.views, jpeg)
    (folder / 'summary.json').write_text(json.dumps(summary_of(answers, rig, **more)), encoding='utf-8')
    return folder
