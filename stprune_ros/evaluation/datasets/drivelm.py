"""DriveLM-nuScenes: questions about key frames of six cameras, as the challenge's files hold them.

Scene -> key_frames -> {image_paths by camera, QA: {perception, prediction, planning, behavior: [{Q, A, tag}]}}; or the
list of conversations that its ``convert2llama.py`` makes of that. Format and tags:
https://github.com/OpenDriveLab/DriveLM, folder ``challenge``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from stprune_ros.core.types import EgoState
from stprune_ros.errors import StpruneError, plain
from stprune_ros.evaluation.datasets.dataset import Dataset, Moment, SetQuestion
from stprune_ros.evaluation.datasets.files import Faults, digest, find_file, kind_of_content, read_json, text_of
from stprune_ros.evaluation.datasets.measures import (
    ACCURACY,
    JUDGE,
    LANGUAGE,
    MATCH,
    coordinates,
    exact,
    match_f1,
    matched,
)
from stprune_ros.evaluation.datasets.nuscenes import (
    NO_PLACE,
    STRIDE_US,
    Picture,
    PictureFolder,
    Tables,
    crossed,
    earlier_shots,
    nominal_rig,
)
from stprune_ros.evaluation.datasets.text_metrics import bleu, cider, rouge_l
from stprune_ros.results import replaced_at_once

NAME = 'drivelm'
GROUPS = ('perception', 'prediction', 'planning', 'behavior')  # in the order in which questions are numbered
TAGS = {0: ACCURACY, 1: JUDGE, 2: LANGUAGE, 3: MATCH}
FRAMES = 4  # instants, as in the node, where nothing else is said
OPTIONS = re.compile(r'following options:(.*)', re.DOTALL)
LETTER = re.compile(r'(?<!\S)([A-Z])\.(?!\S)')
YES_NO = ('Yes.', 'No.')
YES_OR_NO = re.compile(r'(?:is|are|does|do|did|will|would|can|could|should|has|have)\b', re.IGNORECASE)
INSTRUCTIONS = (
    'An object is written as <c1,CAMERA,x,y>: a name, the camera that shows it, and its middle in pixels of an image of'
    ' 1600x900, from the top left. Asked to select from options, answer with the letter only.'
)
FRONT = 'CAM_FRONT'
GIVEN = None  # the key of a question's id and place where conversations gave them: no JSON has such a key
WEIGHTS = (0.4, 0.2, 0.2, 0.2)  # of judge, language, match and accuracy in the final score


@dataclass(frozen=True)
class KeyFrame:
    """A key frame as the file has it: ids of its scene and itself, its pictures, its questions.

    Without pictures where those of the file cannot be what it means.
    """

    scene: str
    frame: str
    pictures: Mapping[str, Picture]
    questions: tuple[SetQuestion, ...]


def read(data: Path, frames: int | None = None) -> Dataset:
    """The set at ``data`` (its folder, or its file), with up to ``frames`` instants, the current one included.

    With the tables of nuScenes instants are half a second apart; without, they are the key frames before in the scene.
    Raises StpruneError where there is no file of this format.
    """
    path = find_file(data, '.json')
    faults = Faults()
    tree = read_json(path, faults)
    if isinstance(tree, list):
        tree = _from_conversations(tree, faults)
    if not isinstance(tree, dict):
        raise StpruneError(f"'{path}' is no file of DriveLM: it is {kind_of_content(tree)}, not an object of scenes")
    key_frames = list(_key_frames(tree, faults))
    if tree and not key_frames:
        raise StpruneError(f"'{path}' is no file of DriveLM: it is {kind_of_content(tree)}, without a key frame in it")
    folder = PictureFolder(path.parent)
    back = (FRAMES if frames is None else frames) - 1
    tables, notes = Tables.read(path.parent, {found.frame for found in key_frames}, back)
    moments, left_out = _moments(key_frames, folder, tables, back, faults)
    return Dataset(NAME, path, digest(path), moments, faults, left_out, notes, instructions=INSTRUCTIONS)


def options_of(question: str) -> tuple[str, ...]:
    """The letters that a question offers, from A on, empty where it offers none.

    An option may have no text, or one such as 'C.'; where letters are left over nobody knows what is offered.
    """
    offered = OPTIONS.search(question)
    said = LETTER.findall(offered[1]) if offered else []
    letters: list[str] = []
    for letter in said:
        if letter == chr(ord('A') + len(letters)):
            letters.append(letter)
    return tuple(letters) if len(letters) > 1 and {*letters} == {*said} else ()


def write_answers(path: Path, dataset: Dataset, answers: Mapping[str, str]) -> None:
    """The file that the challenge's ``evaluation.py`` takes; it fails on a missing id, so what was not asked is ''."""
    rows = [{'id': q.id, 'question': q.text, 'answer': answers.get(q.id, '')} for q in dataset.in_file_order]
    with replaced_at_once(path) as part:
        part.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


def challenge(dataset: Dataset, answers: Mapping[str, str], judged: Mapping[str, float]) -> dict[str, Any]:
    """What the challenge's ``evaluation.py`` counts: JSON data, None for what is not there.

    The first question of a key frame decides which others count: those whose coordinates its answer has hit. Only with
    judged answers are there ``chatgpt``, ``match`` (half of it the judge's) and ``final``.
    """
    counted, skipped = [], 0
    for moment in dataset.moments:
        questions = [q for q in moment.questions if q.answers and q.id in answers]
        if not questions:
            continue
        graph = matched(answers[questions[0].id], questions[0].answers[0])
        allowed = [q for q in questions[1:] if all(tuple(place) in graph for place in coordinates(q.text))]
        counted += [questions[0], *allowed]
        skipped += len(questions) - 1 - len(allowed)
    by_measure = {m: [q for q in counted if m in q.measures] for m in (ACCURACY, JUDGE, LANGUAGE, MATCH)}
    texts = {m: [(answers[q.id], q.answers) for q in questions] for m, questions in by_measure.items()}
    right = _mean([exact(answer, truths) for answer, truths in texts[ACCURACY]])
    f1 = _mean([match_f1(answer, truths[0]) for answer, truths in texts[MATCH]])
    gpt, gpt_match = (
        _mean([judged[q.id] for q in by_measure[m]]) if all(q.id in judged for q in by_measure[m]) else None
        for m in (JUDGE, MATCH)
    )
    match = (f1 + gpt_match) / 2 if f1 is not None and gpt_match is not None else None
    language = _language(*zip(*texts[LANGUAGE])) if texts[LANGUAGE] else None
    parts = (gpt, language['score'] if language else None, match, right)
    final = None if None in parts else sum(w * p for w, p in zip(WEIGHTS, parts) if p is not None)
    figures = {'accuracy': right, 'chatgpt': gpt, 'match_f1': f1, 'match': match, 'final': final}
    rounded = {name: None if value is None else round(value, 4) for name, value in figures.items()}
    return {'questions': len(counted), 'skipped': skipped, **rounded, 'language': language}


def _language(answers: Sequence[str], truths: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU, ROUGE-L and CIDEr, and what the challenge makes of them: a third each, CIDEr divided by ten."""
    blue = bleu(answers, truths)
    found = {f'bleu_{n}': value for n, value in enumerate(blue, start=1)}
    found['rouge_l'] = float(np.mean([rouge_l(answer, row) for answer, row in zip(answers, truths)]))
    found['cider'] = float(cider(answers, truths).mean())
    found['score'] = (sum(blue) / len(blue) + found['rouge_l'] + found['cider'] / 10) / 3
    return {name: round(value, 4) for name, value in found.items()}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _key_frames(tree: Mapping[str, Any], faults: Faults) -> Iterator[KeyFrame]:
    places = count()
    for scene, content in tree.items():
        frames = content.get('key_frames') if isinstance(content, dict) else None
        if not isinstance(frames, dict):
            faults.add('scenes left out, without key frames', scene)
            continue
        for frame, entry in frames.items():
            name = f'{scene}_{frame}'
            paths = entry.get('image_paths') if isinstance(entry, dict) else None
            groups = entry.get('QA') if isinstance(entry, dict) else None
            if not isinstance(groups, dict):
                faults.add('key frames left out, without questions', name)
                continue
            pictures = {c: p for c, text in paths.items() if (p := Picture.of(text))} if isinstance(paths, dict) else {}
            if not pictures or len(pictures) != len(paths or ()):
                faults.add('key frames left out, with names of pictures that are none', name)
                pictures = {}
            elif wrong := crossed(pictures.items()):
                faults.add(
                    "key frames left out, with a picture of another camera under a camera's name", f'{name}: {wrong}'
                )
                pictures = {}
            yield KeyFrame(scene, frame, pictures, tuple(_questions(groups, name, places, faults)))


def _questions(groups: Mapping[str, Any], name: str, places: Iterator[int], faults: Faults) -> Iterator[SetQuestion]:
    entries = [(group, entry) for group in GROUPS for entry in _list(groups.get(group))]
    for index, (group, entry) in enumerate(entries):  # broken ones keep their number: others are named by it
        question = text_of(entry, 'Q')
        if question is None or not question.strip():
            faults.add('questions left out, without a text', f'{name}_{index}')
            continue
        given, place = entry.get(GIVEN) or (f'{name}_{index}', next(places))
        answers = _answers_of(entry.get('A'))
        if answers is None:
            faults.add('answers left out that are no texts, their questions asked and not scored', given)
        yield _question(given, place, question, answers or (), group, entry.get('tag'), faults)


def _answers_of(said: object) -> tuple[str, ...] | None:
    """The true answers of an entry, None for what is neither a text, a number nor a list of these.

    Each of a list is true by itself, as the evaluation of languages that the challenge calls has it.
    """
    parts = [] if said is None else said if isinstance(said, list) else [said]
    if not all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in parts):
        return None
    return tuple(dict.fromkeys(text for text in map(str, parts) if text.strip()))


def _question(
    name: str, place: int, text: str, answers: tuple[str, ...], group: str, tags: object, faults: Faults
) -> SetQuestion:
    letters = options_of(text)
    known = [TAGS[tag] for tag in _list(tags) if isinstance(tag, int) and tag in TAGS]
    if not known:
        faults.add('questions without a tag, judged by what they ask', name)
    closed = letters or (YES_NO if YES_OR_NO.match(text) else ())
    is_closed = bool(answers) and {*answers} <= {*closed}
    measures = tuple(dict.fromkeys(known)) or (ACCURACY if is_closed else LANGUAGE,)
    candidates = closed if letters or measures == (ACCURACY,) else ()
    if answers and not is_closed:
        candidates = ()  # it is none of what is offered: the model writes
    return SetQuestion(name, place, text, measures[0], measures, answers, candidates, group)


def _moments(
    key_frames: Sequence[KeyFrame], folder: PictureFolder, tables: Tables | None, back: int, faults: Faults
) -> tuple[tuple[Moment, ...], tuple[SetQuestion, ...]]:
    drives = {scene: number for number, scene in enumerate(dict.fromkeys(found.scene for found in key_frames))}
    of_scene: dict[str, list[KeyFrame]] = {scene: [] for scene in drives}
    for found in key_frames:
        of_scene[found.scene].append(found)
    moments: list[Moment] = []
    left_out: list[SetQuestion] = []
    for found in key_frames:
        if not found.questions:
            continue
        if not found.pictures:
            left_out += found.questions
            continue
        missing = [picture for picture in found.pictures.values() if folder.find(picture) is None]
        if missing:
            faults.add('questions left out, a picture is missing', missing[0].name, len(found.questions))
            left_out += found.questions
            continue
        shots = tables.around(found.frame, back) if tables else {}
        stamp_us = found.pictures.get(FRONT, next(iter(found.pictures.values()))).stamp_us
        calibrated = tables.rig(shots, found.pictures) if tables and shots else None
        if tables and not calibrated:
            faults.add('key frames that the tables do not know, with the nominal mounting', found.frame)
        try:
            rig = calibrated or nominal_rig(found.pictures)
        except StpruneError as error:
            faults.add(NO_PLACE, str(error), len(found.questions))
            left_out += found.questions
            continue
        before = _earlier_frames(found, of_scene[found.scene], back)
        earlier = earlier_shots(shots, stamp_us, back) if calibrated else before
        instants = [*[{}] * (back - len(earlier)), *earlier, found.pictures]
        pictures = folder.files(instants, found.pictures, faults)
        stamps = [*range(stamp_us - back * STRIDE_US, stamp_us, STRIDE_US), stamp_us] if back else [stamp_us]
        egos: tuple[EgoState | None, ...] = (None,) * len(instants)
        if tables and calibrated:
            egos = tuple(tables.ego(shots.get(FRONT, ()), stamp) for stamp in stamps)
        moments.append(Moment(len(moments), drives[found.scene], rig, pictures, egos, found.questions))
    return tuple(moments), tuple(left_out)


def _earlier_frames(found: KeyFrame, frames: Sequence[KeyFrame], count: int) -> list[Mapping[str, Picture]]:
    """The pictures of up to ``count`` key frames of the same scene before this one, oldest first."""

    def stamp(frame: KeyFrame) -> int:
        return min(picture.stamp_us for picture in frame.pictures.values())

    before = sorted((frame for frame in frames if frame.pictures and stamp(frame) < stamp(found)), key=stamp)
    return [frame.pictures for frame in before[len(before) - min(count, len(before)) :]]


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _from_conversations(rows: Sequence[Any], faults: Faults) -> dict[str, Any]:
    """The scenes that a list of conversations was made of; it has no tags."""
    tree: dict[str, Any] = {}
    for place, row in enumerate(rows):
        name, turns = text_of(row, 'id'), row.get('conversations') if isinstance(row, dict) else None
        parts = name.rsplit('_', 2) if name else []
        said = [text_of(turn, 'value') for turn in _list(turns)]
        if not name or len(parts) != 3 or len(said) < 1 or said[0] is None:
            faults.add('conversations left out, without an id or a question', plain(name or str(place)))
            continue
        frames = tree.setdefault(parts[0], {'key_frames': {}})['key_frames']
        paths = _image_paths(_list(row.get('image')))
        frame = frames.setdefault(parts[1], {'image_paths': paths, 'QA': {GROUPS[0]: []}})
        frame['image_paths'] = frame['image_paths'] or paths
        if paths not in ({}, frame['image_paths']):
            faults.add('conversations left out, with other pictures than the first about their key frame', plain(name))
            continue
        answer = said[1] if len(said) > 1 and said[1] else ''
        frame['QA'][GROUPS[0]].append({'Q': said[0].removeprefix('<image>\n'), 'A': answer, GIVEN: (name, place)})
    return tree


def _image_paths(names: Sequence[Any]) -> dict[str, Any]:
    """The pictures of a conversation by their cameras; what is none, or a second of a camera, stands for itself."""
    found: dict[str, Any] = {}
    for name in map(str, names):
        picture = Picture.of(name)
        if picture and found.get(picture.camera, picture.name) == picture.name:
            found[picture.camera] = picture.name
        else:
            found[name] = name
    return found
