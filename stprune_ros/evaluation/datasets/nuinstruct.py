"""NuInstruct: questions about clips of six cameras of nuScenes, by task, as a JSON list.

Keys task, qa_id, img_path (or img_paths), Question, Answer, sample_list: https://github.com/xmed-lab/NuInstruct. It
publishes no evaluation; which measure a task has is that of the paper's table (arXiv 2401.00988).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stprune_ros.errors import StpruneError, plain, shown
from stprune_ros.evaluation.datasets.dataset import Dataset, Moment, SetQuestion
from stprune_ros.evaluation.datasets.files import (
    Faults,
    digest,
    find_file,
    kind_of_content,
    one_part,
    read_json,
    text_of,
)
from stprune_ros.evaluation.datasets.measures import AGREEMENT, ERROR, LANGUAGE, OBJECTS
from stprune_ros.evaluation.datasets.nuscenes import (
    NO_PLACE,
    Picture,
    PictureFolder,
    Tables,
    crossed,
    moments_of,
    nominal_rig,
)
from stprune_ros.results import replaced_at_once

NAME = 'nuinstruct'
ANCHOR = 'CAM_FRONT'
CLIP_SAMPLES = 5  # before the last one of a clip
PICTURES = ('img_path', 'img_paths')
MEASURES = {
    'perception-distance': ERROR,
    'perception-speed': ERROR,
    'perception-speeds': ERROR,
    'perception-instance_count': ERROR,
    'prediction-motion_ego': ERROR,
    'prediction-motion_other': ERROR,
    'prediction-motion_others': ERROR,
    'perception-closest': AGREEMENT,
    'perception-status': AGREEMENT,
    'perception-in_the_same_road': AGREEMENT,
    'prediction-status_ego': AGREEMENT,
    'prediction-status_other': AGREEMENT,
    'prediction-status_others': AGREEMENT,
}
GROUPS = {'risk': OBJECTS, 'reasoning': LANGUAGE}  # by the first word of other tasks
INSTRUCTIONS = (
    'An object is written as <class>[cN,x1,y1,x2,y2]: what it is, its camera, and its box in pixels of an image of'
    ' 1600x900. c0 is CAM_FRONT_LEFT, c1 CAM_FRONT, c2 CAM_FRONT_RIGHT, c3 CAM_BACK_LEFT, c4 CAM_BACK, c5'
    ' CAM_BACK_RIGHT. Answer with numbers or objects only where they are asked for.'
)


def read(data: Path, frames: int | None = None) -> Dataset:
    """The set at ``data`` (its folder, or its file), with the last ``frames`` instants of each clip, None for all.

    Raises StpruneError where there is no file of this format.
    """
    path = find_file(data, '.json', ('annotations',))
    faults = Faults()
    tree = read_json(path, faults)
    if not isinstance(tree, list):
        raise StpruneError(f"'{path}' is no file of NuInstruct: it is {kind_of_content(tree)}, not a list of questions")
    rows = list(_questions(tree, faults))
    samples = {sample for _, _, tokens in rows for sample in tokens[-1:]}
    tables, notes = Tables.read(path.parent, samples, CLIP_SAMPLES)
    moments, left_out = _moments(rows, PictureFolder(path.parent), tables, frames, faults)
    return Dataset(NAME, path, digest(path), moments, faults, left_out, notes, instructions=INSTRUCTIONS)


def write_answers(path: Path, dataset: Dataset, answers: Mapping[str, str]) -> None:
    """A list like that of the set, with the model's answers in place of the true ones."""
    rows = [
        {'task': q.kind, 'qa_id': q.fields['qa_id'], 'Question': q.text, 'Answer': answers.get(q.id, '')}
        for q in dataset.in_file_order
    ]
    with replaced_at_once(path) as part:
        part.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


def measure_of(task: str) -> str:
    """How answers to a task are judged; as a text where the task is not known."""
    return MEASURES.get(task) or GROUPS.get(task.partition('-')[0], LANGUAGE)


def _questions(tree: list[Any], faults: Faults) -> Iterator[tuple[SetQuestion, tuple[Picture, ...], tuple[str, ...]]]:
    """Questions with all pictures of their clips, and the tokens of their samples."""
    for number, entry in enumerate(tree):
        task, text = text_of(entry, 'task'), text_of(entry, 'Question')
        given = entry.get('qa_id') if isinstance(entry, dict) else None
        qa_id = str(number if given is None else given)
        name = f'{one_part(str(task))}/{one_part(qa_id)}'
        if task is None or text is None or not text.strip():
            faults.add('questions left out, without a task or a text', plain(name))
            continue
        named = list(_named([entry.get(key) for key in PICTURES]))
        found = [(camera, picture) for camera, value in named if (picture := Picture.of(value))]
        if not found:
            faults.add('questions left out, without names of pictures', plain(name))
            continue
        if wrong := crossed(found):
            faults.add("questions left out, with a picture of another camera under a camera's name", wrong)
            continue
        if len(found) < len(named):
            odd = next(value for _, value in named if not Picture.of(value))
            faults.add('names that are no pictures, left out', shown(odd), len(named) - len(found))
        said = entry.get('Answer')
        if isinstance(said, (int, float)) and not isinstance(said, bool):
            said = str(said)
        answers = (said,) if isinstance(said, str) and said.strip() else ()
        if task not in MEASURES and task.partition('-')[0] not in GROUPS:
            faults.add('questions of tasks that are not known, judged as texts', plain(task))
        question = SetQuestion(name, number, text, task, (measure_of(task),), answers, fields={'qa_id': qa_id})
        tokens = entry.get('sample_list')
        pictures = tuple(picture for _, picture in found)
        yield question, pictures, tuple(map(str, tokens)) if isinstance(tokens, list) else ()


def _named(value: object, camera: str = '') -> Iterator[tuple[str, object]]:
    """All that is named somewhere in a value, each with the camera that it stands under, or ''.

    Sets write pictures by instant, by camera, or in one row.
    """
    if isinstance(value, list):
        for part in value:
            yield from _named(part, camera)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _named(part, key if key.startswith('CAM_') else camera)
    elif value is not None:
        yield camera, value


def _moments(
    rows: list[tuple[SetQuestion, tuple[Picture, ...], tuple[str, ...]]],
    folder: PictureFolder,
    tables: Tables | None,
    frames: int | None,
    faults: Faults,
) -> tuple[tuple[Moment, ...], tuple[SetQuestion, ...]]:
    """Questions about the same clip share a moment; logs, from which scenes were cut, are the drives."""
    together: dict[tuple[tuple[Picture, ...], tuple[str, ...]], list[SetQuestion]] = {}
    for question, pictures, tokens in rows:
        together.setdefault((pictures, tokens[-1:]), []).append(question)
    drives: dict[str, int] = {}
    moments: list[Moment] = []
    left_out: list[SetQuestion] = []
    for (pictures, token), asked in together.items():
        instants = moments_of(pictures, ANCHOR)
        instants = instants if frames is None else instants[-frames:]
        current = instants[-1]
        missing = [picture for picture in current.values() if folder.find(picture) is None]
        if missing:
            faults.add('questions left out, a picture is missing', missing[0].name, len(asked))
            left_out += asked
            continue
        shots = tables.around(token[0], CLIP_SAMPLES) if tables and token else {}
        calibrated = tables.rig(shots, current) if tables and shots else None
        if tables and not calibrated:
            faults.add('clips that the tables do not know, with the nominal mounting', asked[0].id)
        try:
            rig = calibrated or nominal_rig(current)
        except StpruneError as error:
            faults.add(NO_PLACE, str(error), len(asked))
            left_out += asked
            continue
        absent = sorted({picture.camera for picture in pictures} - {*current})
        if absent:
            faults.add(
                'cameras left out, without a picture of the present', f'{absent[0]} of {asked[0].id}', len(absent)
            )
        files = folder.files(instants, current, faults)
        lead = [row.get(ANCHOR, next(iter(row.values()))).stamp_us for row in instants]
        egos = tuple(tables.ego(shots.get(ANCHOR, ()), at) if tables and calibrated else None for at in lead)
        drive = drives.setdefault(pictures[0].log, len(drives))
        moments.append(Moment(len(moments), drive, rig, files, egos, tuple(asked)))
    return tuple(moments), tuple(left_out)
