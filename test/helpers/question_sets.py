"""Invented data sets in the formats of DriveLM, LingoQA and NuInstruct: pictures of ringworld, questions about them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stprune_ros.core.transforms import quaternion_from_matrix
from stprune_ros.ringworld.questions import DESCRIBE_QUESTION, describe, questions_about
from stprune_ros.ringworld.renderer import HEIGHT, RING, WIDTH
from stprune_ros.ringworld.scenes import make_scene

PACKAGES = ('pyarrow', 'sacrebleu', 'rouge_score', 'nltk')
needs_packages = pytest.mark.skipif(
    not all(map(find_spec, PACKAGES)), reason="data sets: pip install 'stprune_ros[datasets]'"
)
CAMERAS = tuple(camera.name for camera in RING)
FIRST_US = 1_600_000_000_000_000
SCENE_US = 100_000_000
STRIDE_US = 500_000
LATE_US = 3_000  # between two cameras of one instant, in ring order
GREY = np.full((32, 64, 3), 90, np.uint8)
SEEDS = (1_021_000, 1_021_003)
OPTIONS = 'Please select the correct answer from the following options: A. red. B. blue. C. green. D. none.'


def picture_name(scene: int, instant: int, camera: str) -> str:
    stamp = FIRST_US + scene * SCENE_US + instant * STRIDE_US + CAMERAS.index(camera) * LATE_US
    return f'drive{scene}-made-up__{camera}__{stamp}.jpg'


def draw(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return path


def write_pictures(folder: Path, seeds: Sequence[int] = SEEDS) -> list[Any]:
    """Four instants of the ring for each seed, below ``folder``/samples; returns the scenes."""
    scenes = [make_scene(seed) for seed in seeds]
    for number, scene in enumerate(scenes):
        for instant, views in enumerate(scene.images):
            for camera, image in zip(CAMERAS, views, strict=True):
                draw(folder / 'samples' / camera / picture_name(number, instant, camera), image)
    return scenes


def asked_about(scene: Any, count: int) -> list[Any]:
    return questions_about(scene.truths[-1], np.random.default_rng([scene.seed, 5]), count)


def key_frame(scene: int, instant: int, groups: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    paths = {c: f'../nuscenes/samples/{c}/{picture_name(scene, instant, c)}' for c in CAMERAS}
    return {'key_object_infos': {}, 'image_paths': paths, 'QA': {name: list(rows) for name, rows in groups.items()}}


def qa(question: str, answer: Any, *tags: int) -> dict[str, Any]:
    return {'Q': question, 'A': answer, 'C': None, **({'tag': list(tags)} if tags else {})}


def grey_set(folder: Path, frames: dict[str, dict[str, list[dict[str, Any]]]], name: str = 'set.json') -> Path:
    """A set of DriveLM with one scene, whose key frames, by their names, all show the same grey pictures."""
    for camera in CAMERAS:
        draw(folder / 'nuscenes' / 'samples' / camera / picture_name(0, 0, camera), GREY)
    content = {frame: key_frame(0, 0, groups) for frame, groups in frames.items()}
    path = folder / name
    path.write_text(json.dumps({'s': {'key_frames': content}}))
    return path


def make_drivelm(folder: Path, answers: bool = True) -> Path:
    """One key frame of each scene has questions, the ones before are there for the history."""
    scenes = write_pictures(folder / 'nuscenes')
    tree: dict[str, Any] = {}
    for number, scene in enumerate(scenes):
        frames = {f'f{number}{n}': key_frame(number, n, {'perception': []}) for n in range(3)}
        asked = asked_about(scene, 3)
        groups = {
            'perception': [
                qa(DESCRIBE_QUESTION, describe(scene.truths[-1]), 2),
                *(qa(question.text, question.answer, 0) for question in asked),
            ],
            'prediction': [
                qa('which objects come first?', 'first <c1,CAM_FRONT,100.0,50.0>, then <c2,CAM_BACK,30.5,20.0>.', 3),
                qa('is <c1,CAM_FRONT,100.0,50.0> a car?', 'Yes.', 0),
            ],
            'planning': [qa('what may the car do?', 'slow down.', 1)],
            'behavior': [qa(f'what does it do? {OPTIONS}', 'B', 0)],
        }
        if not answers:
            groups = {name: [{**row, 'A': ''} for row in rows] for name, rows in groups.items()}
        tree[f's{number}'] = {
            'scene_description': '',
            'key_frames': {**frames, f'f{number}3': key_frame(number, 3, groups)},
        }
    path = folder / 'made_up.json'
    path.write_text(json.dumps(tree))
    return path


def make_lingoqa(folder: Path) -> Path:
    """Five pictures of one camera for each scene, two true answers for some questions."""
    import pyarrow
    from pyarrow import parquet

    rows: list[dict[str, Any]] = []
    for number, seed in enumerate(SEEDS):
        scene = make_scene(seed)
        names = [f'images/val/seg{number}/{n}.jpg' for n in range(5)]
        for name, image in zip(names, [scene.images[0, 0], *scene.images[:, 0]], strict=True):
            draw(folder / name, image)
        for n, question in enumerate(asked_about(scene, 4)):
            for answer in (question.answer, f'it is {question.answer}'):
                rows.append(
                    {
                        'question_id': f'q{n}',
                        'segment_id': f'seg{number}',
                        'images': names,
                        'question': question.text,
                        'answer': answer,
                    }
                )
    path = folder / 'val.parquet'
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def make_nuinstruct(folder: Path) -> Path:
    """Clips of three instants; a question of every sort of task, and true ones about the scene."""
    scenes = write_pictures(folder)
    rows = []
    for number, scene in enumerate(scenes):
        clip = [{c: f'samples/{c}/{picture_name(number, n, c)}' for c in CAMERAS} for n in (1, 2, 3)]
        asked = [
            *(('perception-status', question.text, question.answer) for question in asked_about(scene, 3)),
            ('perception-distance', 'how far is the car?', '(3.5, -1.0)'),
            ('perception-closest', 'what is nearest?', '<car>[c1,100,50,140,90]'),
            ('risk-crossing', 'who crosses?', '<pedestrian>[c1,10,20,30,60]; <car>[c2,0,0,50,50]'),
            ('reasoning-reasoning', DESCRIBE_QUESTION, describe(scene.truths[-1])),
        ]
        rows += [
            {
                'task': task,
                'qa_id': f'{number}-{n}',
                'img_path': clip,
                'Question': text,
                'Answer': answer,
                'sample_list': [f'sample{number}{i}' for i in (1, 2, 3)],
            }
            for n, (task, text, answer) in enumerate(asked)
        ]
    path = folder / 'test.json'
    path.write_text(json.dumps(rows))
    return path


def write_tables(
    folder: Path,
    samples: Mapping[tuple[int, int], str],
    swapped: Mapping[str, str] | None = None,
    speed: float = 6.0,
    yaw_rate: float = 0.2,
) -> Path:
    """The tables of nuScenes for samples, named by scene and instant: a car on an arc, cameras as in ringworld.

    ``swapped`` gives cameras the calibration of others.
    """
    tables = folder / 'v1.0-made-up'
    tables.mkdir(parents=True)
    mounted = {camera.name: camera for camera in RING}
    mounted |= {name: mounted[other] for name, other in (swapped or {}).items()}
    calibrated = [
        {
            'token': f'cal-{name}',
            'sensor_token': f'sensor-{name}',
            'translation': list(camera.position),
            'rotation': _wxyz(camera.rotation),
            'camera_intrinsic': camera.k.tolist(),
        }
        for name, camera in mounted.items()
    ]
    data, poses = [], []
    for (scene, instant), token in samples.items():
        for camera in CAMERAS:
            name = picture_name(scene, instant, camera)
            stamp = int(name.rpartition('__')[2].removesuffix('.jpg'))
            data.append(
                {
                    'token': f'sd-{name}',
                    'sample_token': token,
                    'ego_pose_token': f'ego-{name}',
                    'calibrated_sensor_token': f'cal-{camera}',
                    'timestamp': stamp,
                    'is_key_frame': True,
                    'filename': f'samples/{camera}/{name}',
                    'width': WIDTH,
                    'height': HEIGHT,
                }
            )
            seconds = (stamp - FIRST_US - scene * SCENE_US) / 1e6
            yaw, radius = yaw_rate * seconds, speed / yaw_rate
            c, s = np.cos(yaw), np.sin(yaw)
            poses.append(
                {
                    'token': f'ego-{name}',
                    'timestamp': stamp,
                    'translation': [500.0 + radius * s, 900.0 + radius * (1 - c), 0.0],
                    'rotation': _wxyz(np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])),
                }
            )
    rows = [
        {'token': token, 'prev': samples.get((scene, instant - 1), ''), 'timestamp': 0}
        for (scene, instant), token in samples.items()
    ]
    data.insert(0, {'token': 'sd-lidar', 'sample_token': 'x', 'filename': 'samples/LIDAR_TOP/a__LIDAR_TOP__1.pcd.bin'})
    for name, content in (('sample', rows), ('sample_data', data), ('ego_pose', poses)):
        (tables / f'{name}.json').write_text(json.dumps(content, indent=0))
    (tables / 'calibrated_sensor.json').write_text(json.dumps(calibrated, indent=0))
    return tables


def _wxyz(rotation: np.ndarray) -> list[float]:
    x, y, z, w = quaternion_from_matrix(rotation)
    return [w, x, y, z]
