"""LingoQA: questions about five pictures of one camera, in a parquet file with an answer per row.

Columns question_id, segment_id, images, question, answer; rows of one question are its true answers. Format and judge:
https://github.com/wayveai/LingoQA.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stprune_ros.core.camera_model import OPTICAL_FROM_LINK, CameraModel
from stprune_ros.core.rig import CameraRig
from stprune_ros.errors import StpruneError, listed, one_line, plain
from stprune_ros.evaluation.datasets.dataset import Dataset, Moment, SetQuestion
from stprune_ros.evaluation.datasets.files import Faults, digest, find_file, is_file, one_part
from stprune_ros.evaluation.datasets.measures import JUDGE, LANGUAGE
from stprune_ros.evaluation.datasets.text_metrics import require_packages
from stprune_ros.results import replaced_at_once

NAME = 'lingoqa'
COLUMNS = ('question_id', 'segment_id', 'images', 'question', 'answer')
KIND = 'question'
FOLDERS = ('evaluation',)
CAMERA = 'CAM_FRONT'
SIZE, FOCAL_PX = (1920, 1080), 1000.0  # of a camera that nobody calibrated; nothing but its direction is used
MAX_ROWS = 2**20
MAX_BYTES = 2**30  # of all rows unpacked
BATCH_ROWS = 256
NOTES = ('the set has one camera without calibration, and does not say how the car moves: there is no ring to prune',)


def read(data: Path, frames: int | None = None) -> Dataset:
    """The set at ``data`` (its folder, or its file), with the last ``frames`` pictures of each clip, None for all.

    Raises StpruneError where there is no file of this format.
    """
    path = find_file(data, '.parquet', FOLDERS)
    faults = Faults()
    questions: dict[tuple[str, str], SetQuestion] = {}
    pictures: dict[tuple[str, str], tuple[str, ...]] = {}
    for number, row in enumerate(_rows(path)):
        texts = [_text(row[name]) for name in ('question_id', 'segment_id', 'question')]
        names = tuple(map(_text, row['images'])) if isinstance(row['images'], list) else ()
        if not all(text.strip() for text in (*texts, *names)) or not names:
            faults.add('rows left out, without an id, a question or names of pictures', f'row {number}')
            continue
        question_id, segment_id, text = texts
        key, answer = (question_id, segment_id), row['answer']
        answers = (answer,) if isinstance(answer, str) and answer.strip() else ()
        before = questions.get(key)
        if before is not None and before.text != text:
            faults.add('rows left out, with another question under an id that is there', question_id)
            continue
        if pictures.setdefault(key, names) != names:
            faults.add('rows left out, with other pictures under an id that is there', question_id)
            continue
        answers = tuple(dict.fromkeys((*(before.answers if before else ()), *answers)))
        fields = {'question_id': question_id, 'segment_id': segment_id}
        measures = (JUDGE, LANGUAGE)
        place = before.place if before else number
        name = f'{one_part(question_id)}/{one_part(segment_id)}'
        questions[key] = SetQuestion(name, place, text, KIND, measures, answers, fields=fields)
    moments, left_out = _moments(path.parent, questions, pictures, frames, faults)
    return Dataset(NAME, path, digest(path), moments, faults, left_out, NOTES, single_camera=True)


def write_answers(path: Path, dataset: Dataset, answers: Mapping[str, str]) -> None:
    """The CSV that the set's ``evaluate.py`` takes: question_id, segment_id, answer."""
    with replaced_at_once(path) as part, part.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(('question_id', 'segment_id', 'answer'))
        for question in dataset.in_file_order:
            row = (question.fields['question_id'], question.fields['segment_id'], answers.get(question.id, ''))
            writer.writerow(row)


def _text(value: object) -> str:
    """A text, or a whole number as one: some write ids as numbers. '' for anything else."""
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ''


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of the file, a few at a time: what is small when packed may be larger than memory."""
    require_packages({'pyarrow': 'pyarrow'})
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
        if missing:
            raise StpruneError(f"'{path}' is no file of LingoQA: it lacks the columns {listed(missing)}")
        twice = [name for name in COLUMNS if file.schema_arrow.names.count(name) > 1]
        if twice:
            raise StpruneError(f"'{path}' has the column '{twice[0]}' twice, and nobody knows which is meant: drop one")
        rows, taken = file.metadata.num_rows, 0
        if rows > MAX_ROWS:
            raise StpruneError(f"'{path}' has {rows} rows; a file of questions may have {MAX_ROWS}: split it")
        for batch in file.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
            taken += batch.nbytes
            if taken > MAX_BYTES:
                raise StpruneError(f"'{path}' has more than {MAX_BYTES} bytes when unpacked: split it")
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise StpruneError(f"'{path}' is no parquet file that can be read: {one_line(error)}") from None


def _moments(
    folder: Path,
    questions: Mapping[tuple[str, str], SetQuestion],
    pictures: Mapping[tuple[str, str], tuple[str, ...]],
    frames: int | None,
    faults: Faults,
) -> tuple[tuple[Moment, ...], tuple[SetQuestion, ...]]:
    """Questions about the same pictures share a moment; segments are the drives."""
    together: dict[tuple[str, ...], list[SetQuestion]] = {}
    for key, question in questions.items():
        together.setdefault(pictures[key], []).append(question)
    drives: dict[str, int] = {}
    moments: list[Moment] = []
    left_out: list[SetQuestion] = []
    rig = CameraRig([_camera()])
    for names, asked in together.items():
        *earlier, current = [_picture(folder, name) for name in (names if frames is None else names[-frames:])]
        if current is None:
            faults.add('questions left out, a picture is missing', names[-1], len(asked))
            left_out += asked
            continue
        if None in earlier:
            faults.add('earlier pictures that are missing', names[earlier.index(None)], earlier.count(None))
        drive = drives.setdefault(asked[0].fields['segment_id'], len(drives))
        row = {CAMERA: (*earlier, current)}
        moments.append(Moment(len(moments), drive, rig, row, (None,) * (len(earlier) + 1), tuple(asked)))
    return tuple(moments), tuple(left_out)


def _picture(folder: Path, name: str) -> Path | None:
    """The file of a picture: its name, or the end of it, seen from the folder; None where there is none there."""
    parts = [part for part in name.replace('\\', '/').split('/') if part not in ('', '.')]
    if '..' in parts or plain(name, len(name)) != name:
        return None
    paths = (folder.joinpath(*parts[start:]) for start in range(len(parts)))
    return next((path for path in paths if is_file(path)), None)


def _camera() -> CameraModel:
    (width, height), k = SIZE, np.eye(3)
    k[0, 0] = k[1, 1] = FOCAL_PX
    k[:2, 2] = (width - 1) / 2, (height - 1) / 2
    return CameraModel(CAMERA, width, height, k, OPTICAL_FROM_LINK, np.array([1.0, 0.0, 1.5]))
