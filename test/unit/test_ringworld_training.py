"""Training of the bundled model: scenes on disk, prompts and probes, and a few steps from end to end."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from stprune_ros.ringworld.questions import DESCRIBE_QUESTION, HINT_QUESTION, HINT_TEXT
from stprune_ros.ringworld.renderer import VIEW_NAMES
from stprune_ros.ringworld.scenes import HELD_OUT, make_drive, make_scene
from stprune_ros.ringworld.training import train
from stprune_ros.ringworld.training.model import (
    PROMPT,
    make_model,
    make_processor,
    make_tokenizer,
    vocabulary_words,
    write_prompt,
)
from stprune_ros.ringworld.training.probes import actor_centres, displacements
from stprune_ros.ringworld.training.prompt_encoder import PromptEncoder, ViewSubset
from stprune_ros.ringworld.training.scene_cache import (
    HELD_OUT_FOLDER,
    TRAIN,
    read_shards,
    render_missing,
    shard_path,
    write_shard,
)
from stprune_ros.ringworld.training.vision_stage import to_patches, train_vision
from stprune_ros.vlm.hf.backend import TransformersBackend
from stprune_ros.vlm.prompt import Prompt

FOLDER = Path(__file__).resolve().parents[2] / 'models' / 'ringworld'


@pytest.fixture(scope='module')
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with five drives and four held-out scenes in it."""
    folder = tmp_path_factory.mktemp('work')
    write_shard(folder / TRAIN, range(3), make_drive)
    write_shard(folder / TRAIN, range(3, 5), make_drive)
    write_shard(folder / HELD_OUT_FOLDER, range(HELD_OUT, HELD_OUT + 4), make_scene)
    return folder


def test_shards_read_back_in_order(work: Path) -> None:
    shards = list(read_shards(work / TRAIN))
    assert [[scene.seed for scene in shard] for shard in shards] == [[0, 1, 2], [3, 4]]
    again = make_drive(3)
    assert (shards[1][0].images == again.images).all()
    assert shards[1][0].truths == again.truths
    assert shard_path(work, range(7, 9)).name == 'scenes_0000007.pkl'
    assert not list(work.rglob('*.part'))


def test_rendering_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Shards that exist are left alone; here all do."""
    for folder, first in ((TRAIN, 0), (TRAIN, 25), (HELD_OUT_FOLDER, HELD_OUT)):
        path = shard_path(tmp_path / folder, range(first, first + 25))
        path.parent.mkdir(exist_ok=True)
        path.write_text('mine')
    render_missing(tmp_path, drives=50, held_out=25, workers=1)
    assert [path.read_text() for path in sorted(tmp_path.rglob('*.pkl'))] == ['mine'] * 3


def test_drives_have_windows_of_rising_frames() -> None:
    drive = make_drive(2)
    assert drive.images.shape == (12, 6, 96, 160, 3)
    times = [truth.t for truth in drive.truths]
    assert len(drive.windows) == 9
    for window in drive.windows:
        moments = [times[frame] for frame in window]
        assert moments == sorted(set(moments))
        assert moments[1] - moments[0] == pytest.approx(0.5)
    gaps = [times[window[-1]] - times[window[-2]] for window in drive.windows]
    assert gaps[:7] == pytest.approx([0.5] * 7)
    assert all(0.09 < gap < 0.41 for gap in gaps[7:])


def test_scenes_end_with_the_current_frame() -> None:
    sooner = 0
    for seed in range(8):
        gaps = np.diff([truth.t for truth in make_scene(seed).truths])
        assert gaps[:2] == pytest.approx([0.5, 0.5])
        assert 0.09 < gaps[2] < 0.51
        sooner += gaps[2] < 0.45
    assert 0 < sooner < 8


def test_patches_are_those_of_the_image_processor() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 160, 3)).astype(np.uint8)
    processed = make_processor()(images=list(images), return_tensors='pt')['pixel_values']
    assert torch.allclose(to_patches(images), processed.float(), atol=1e-5)


def test_the_prompt_asks_what_the_questions_ask(tmp_path: Path) -> None:
    """The bundled model's prompt file is the one that the code writes, and asks what the model was trained on."""
    write_prompt(tmp_path / 'prompt.yaml')
    written = yaml.safe_load((tmp_path / 'prompt.yaml').read_text(encoding='utf-8'))
    assert written == PROMPT == yaml.safe_load((FOLDER / 'prompt.yaml').read_text(encoding='utf-8'))
    prompt = Prompt.load(FOLDER / 'prompt.yaml')
    assert prompt.hint_question == HINT_QUESTION
    assert dict(prompt.candidates) == HINT_TEXT
    assert prompt.describe_question == DESCRIBE_QUESTION
    assert {word for name in VIEW_NAMES for word in name.split()} <= set(vocabulary_words())


def test_prefixes_hold_an_image_token_per_visual_token(tmp_path: Path) -> None:
    write_prompt(tmp_path / 'prompt.yaml')
    encoder = PromptEncoder(make_tokenizer(), Prompt.load(tmp_path / 'prompt.yaml'))
    truth = make_scene(1).truths[-1]
    for subset, images in ((ViewSubset(), 24), (ViewSubset((0,), 2), 2), (ViewSubset((1, 3), 1, ego=False), 2)):
        ids = encoder.prefix(subset, truth)
        assert ids.count(encoder.image) == images * 60
        text = encoder.tokenizer.decode([token for token in ids if token != encoder.image])
        assert ('ego speed' in text) is subset.ego
        missing = [name for index, name in enumerate(VIEW_NAMES) if index not in subset.views]
        assert text.count('no data') == len(missing)
    lengths = {len(encoder.prefix(ViewSubset(), frame)) for seed in range(4) for frame in make_scene(seed).truths}
    assert len(lengths) == 1
    clip = encoder.encode_questions(truth, np.random.default_rng(0), 5, ViewSubset((3,), 1))
    assert {question.kind for question in clip} & {'hint', 'describe', 'motion'} == set()
    ring = encoder.encode_questions(truth, np.random.default_rng(0), 5, ViewSubset())
    assert 'describe' in {question.kind for question in ring}
    assert all(question.answer[-1] == encoder.end for question in ring)


def test_displacements_of_actors() -> None:
    """An actor moves from patch 12 (row 1, column 2) to patch 13; another one was not there before."""
    position = torch.zeros(2, 1, 60, 5, dtype=torch.float16)
    position[:, :, :, 4] = 1.0
    centres = actor_centres(position)
    assert centres[0, 0, 12].tolist() == [2.0, 1.0, 1.0]
    actors = torch.full((1, 1, 2, 60), -1)
    actors[0, 0, 0, 12] = actors[0, 0, 1, 13] = 4
    actors[0, 0, 1, 50] = 5
    moved, known = displacements(actors, centres.transpose(0, 1)[None], back=1)
    assert known.nonzero().tolist() == [[0, 0, 1, 13]]
    assert moved[0, 0, 1, 13].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.slow
def test_a_few_steps_of_training_export_a_model(work: Path) -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    before = model.model.visual.state_dict()['patch_embed.proj.weight'].clone()
    for _ in range(2):  # the second call finds the first one's checkpoint and does nothing
        train_vision(model, work / TRAIN, work / 'vision.pt', steps=2, batch=4, seed=0)
    tower = model.model.visual.state_dict()['patch_embed.proj.weight'].clone()
    assert not torch.equal(before, tower)
    options = argparse.Namespace(
        work=work, output=work / 'model', seed=0, rate=1e-3, begin_with=None, steps=2, clip_steps=0, export_every=1
    )
    train.train_language(model, tokenizer, options)
    assert torch.equal(model.model.visual.state_dict()['patch_embed.proj.weight'], tower)  # frozen in this stage
    facts = json.loads((work / 'model' / 'stprune.json').read_text())
    assert (facts['trained'], facts['steps']) == (True, 2)
    assert (work / 'language.pt').exists()
    backend = TransformersBackend.load(work / 'model', device='cpu')
    assert backend.info.trained
    assert len(backend.encode([np.zeros((96, 160, 3), np.uint8)])[0].tokens) == 60
