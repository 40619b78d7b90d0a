"""Training of ringworld's hosts: scenes on disk, prompts and probes, and a few steps from end to end."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from stprune_ros.ringworld.questions import DESCRIBE_QUESTION, HINT_QUESTION, HINT_TEXT
from stprune_ros.ringworld.renderer import VIEW_NAMES
from stprune_ros.ringworld.scenes import HELD_OUT, make_drive, make_scene
from stprune_ros.ringworld.training import plans, scene_cache, train
from stprune_ros.ringworld.training.batches import ScenePool
from stprune_ros.ringworld.training.export import write_prompt
from stprune_ros.ringworld.training.hosts import HOSTS
from stprune_ros.ringworld.training.image_questions import ImageQuestions
from stprune_ros.ringworld.training.probes import actor_centres, displacements
from stprune_ros.ringworld.training.prompt_encoder import PromptEncoder, ViewSubset
from stprune_ros.ringworld.training.scene_cache import (
    HARD,
    HELD_OUT_FOLDER,
    TRAIN,
    is_hard,
    make_hard_drive,
    read_shard,
    render_missing,
    shard_path,
    shard_paths,
    training_seeds,
    wait_for_shards,
    write_shard,
)
from stprune_ros.ringworld.training.tokenizer import PROMPT, make_tokenizer, vocabulary_words
from stprune_ros.ringworld.training.vision_stage import ImagePool
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
    shards = [read_shard(path) for path in shard_paths(work / TRAIN, training_seeds(5, 0))]
    assert [[scene.seed for scene in shard] for shard in shards] == [[0, 1, 2], [3, 4]]
    again = make_drive(3)
    assert (shards[1][0].images == again.images).all()
    assert shards[1][0].truths == again.truths
    assert shard_path(work, range(7, 9)).name == 'scenes_0000007.pkl'
    assert not list(work.rglob('*.part'))


def test_rendering_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Shards that exist are left alone; here all do."""
    for folder, first in ((TRAIN, 0), (TRAIN, 25), (TRAIN, HARD), (HELD_OUT_FOLDER, HELD_OUT)):
        path = shard_path(tmp_path / folder, range(first, first + 25))
        path.parent.mkdir(exist_ok=True)
        path.write_text('mine')
    render_missing(tmp_path, drives=50, hard_drives=25, held_out=25, workers=1)
    assert [path.read_text() for path in sorted(tmp_path.rglob('*.pkl'))] == ['mine'] * 4


def test_drives_of_both_worlds_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[tuple[int, bool]] = []

    class Pool:
        def __init__(self, workers: int) -> None:
            assert workers == 3

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def imap_unordered(self, _: object, tasks: list[scene_cache.ShardTask]) -> list[None]:
            rendered.extend((seeds.start, make is make_hard_drive) for _, seeds, make in tasks)
            return [None] * len(tasks)

    monkeypatch.setattr(scene_cache, 'get_context', lambda _: SimpleNamespace(Pool=Pool))
    render_missing(tmp_path, drives=75, hard_drives=50, held_out=25, workers=3)
    assert rendered == [(HELD_OUT, False), (0, False), (HARD, True), (25, False), (HARD + 25, True), (50, False)]
    for first, hard in rendered:
        assert is_hard(shard_path(tmp_path, range(first, first + 25))) == hard


def test_scenes_that_come_while_others_are_learnt_are_taken_in(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the tower's stage and by the language's, which looks for more until all that were asked for are there."""
    folder = tmp_path / TRAIN
    folder.mkdir()
    first, second = shard_paths(work / TRAIN, training_seeds(5, 0))
    shards = partial(shard_paths, folder, training_seeds(5, 0))

    def arrive(shard: Path) -> None:
        shutil.copy(shard, folder / shard.name)

    arrive(first)
    images = ImagePool(ImageQuestions(8), torch.device('cpu'))
    scenes = ScenePool(lambda images: torch.zeros(*images.shape[:2], 60, 8), 'none', False, torch.device('cpu'))
    images.read_new(shards())
    assert len(images.images) == 3 * 12 * 6
    monkeypatch.setattr(plans, 'REFRESH', 2)
    write_prompt(tmp_path / 'prompt.yaml')
    encoder = PromptEncoder(make_tokenizer(), Prompt.load(tmp_path / 'prompt.yaml'), HOSTS['qwen3_vl'])
    arguments = ['--steps', '7', '--growing', '1', '--scenes', '3', '--hard-scenes', '2', '--loaders', '0']
    args = train.parse_arguments([*arguments, '--clip-batch', '2', '--questions', '1'])
    known = []
    for step, _ in plans.load_plans(scenes, shards, encoder, plans.Recipe.from_arguments(args), 0, args):
        known.append(len(scenes.truths))
        if step == 2:
            arrive(second)
    assert known == [3, 3, 3, 3, 5, 5, 5]
    images.read_new(shards())
    images.read_new(shards())
    assert len(images.images) == 5 * 12 * 6
    assert {name: len(value) for name, value in images.truth.items()} == dict.fromkeys(images.truth, 5 * 12 * 6)
    last = read_shard(second)[-1].images[-1, -1]
    assert (images.images[-1].numpy() == last).all()


def test_hard_drives_are_those_of_the_hard_world() -> None:
    easy, hard = make_drive(HARD), make_hard_drive(HARD)
    assert hard.seed == easy.seed == HARD
    assert hard.images.shape == easy.images.shape
    assert (make_drive(HARD, hard=True).images == hard.images).all()
    assert hard.images.std() != easy.images.std()


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
    encoder = PromptEncoder(make_tokenizer(), Prompt.load(tmp_path / 'prompt.yaml'), HOSTS['qwen3_vl'])
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
@pytest.mark.parametrize('name', sorted(HOSTS))
def test_a_few_steps_of_training_export_a_model(tmp_path: Path, name: str) -> None:
    """Stopped after its first step and called again, training goes on and ends with the weights of a run in one go."""
    scenes = tmp_path / 'scenes'
    write_shard(scenes / TRAIN, range(2), make_scene)
    write_shard(scenes / HELD_OUT_FOLDER, range(HELD_OUT, HELD_OUT + 1), make_scene)
    arguments = ['--host', name, '--scenes-folder', str(scenes), '--device', 'cpu', '--questions', '4']
    arguments += ['--vision-batch', '4', '--clip-batch', '2', '--ring-batch', '1', '--clip-steps', '1']
    arguments += ['--threads', '1', '--loaders', '0', '--vision-steps', '2', '--steps', '2', '--report-every', '1']
    weights = []
    for folder, runs in ((tmp_path / 'once', (2,)), (tmp_path / 'twice', (1, 2))):
        for steps in runs:
            _train_until(steps, [*arguments, '--work', str(folder), '--output', str(folder / 'model')])
        weights.append(train.read_model(folder / 'model').state_dict())
    assert all(torch.equal(one, two) for one, two in zip(weights[0].values(), weights[1].values(), strict=True))
    shutil.rmtree(folder / 'model')  # as if it had been interrupted before its last export
    _train_until(2, [*arguments, '--work', str(folder), '--output', str(folder / 'model')])
    again = train.read_model(folder / 'model').state_dict()
    assert all(torch.equal(one, two) for one, two in zip(weights[0].values(), again.values(), strict=True))
    for _ in range(2):  # a stage that has had its time gets no further step
        _train_until(1, [*arguments, '--work', str(tmp_path / 'brief'), '--output', str(folder), '--seconds', '0.001'])
    still = [*arguments, '--rate', '0', '--vision-rate', '0', '--steps', '1']  # what a run begins with comes out again
    for option, whole in (('--begin-with', True), ('--tower', False)):
        taken = tmp_path / option
        _train_until(1, [*still, option, str(folder / 'model'), '--work', str(taken), '--output', str(taken / 'model')])
        one, other = train.read_model(folder / 'model'), train.read_model(taken / 'model')
        tower = HOSTS[name].tower
        for part, equal in ((tower, True), (lambda model: model.model.language_model, whole)):
            pairs = zip(part(one).state_dict().values(), part(other).state_dict().values(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs) == equal
    facts = json.loads((tmp_path / 'once' / 'model' / 'stprune.json').read_text())
    assert (facts['trained'], facts['host'], facts['steps'], facts['drives']) == (True, name, 2, 2)
    assert facts['recipe']['drop_share'] == 0.5
    backend = TransformersBackend.load(tmp_path / 'once' / 'model', device='cpu')
    assert backend.info.trained
    assert backend.info.family == name
    assert len(backend.encode([np.zeros((96, 160, 3), np.uint8)])[0].tokens) == HOSTS[name].tokens


class _StoppedError(Exception):
    pass


def _train_until(step: int, arguments: list[str]) -> None:
    """Run the command line, interrupted after the export of ``step`` of the language stage."""
    args = train.parse_arguments(arguments)
    export = train.export_model

    def export_and_stop(folder: Path, *others: object) -> None:
        export(folder, *others)
        if others[-1]['steps'] == step:
            raise _StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, 'export_model', export_and_stop)
        patch.setattr(train, 'parse_arguments', lambda: args)
        # The scenes of the tests lie in smaller shards than render_missing looks for.
        patch.setattr(train, 'render_missing', lambda *_: None)
        with pytest.raises(_StoppedError):
            train.main()


def test_the_penalty_is_refused_where_it_cannot_be_had(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (['--host', 'internvl', '--drop-share', '0'], ['--drop-share', '0.5']):
        with pytest.raises(SystemExit):
            train.parse_arguments([*arguments, '--background-weight', '1.5'])
        assert '--background-weight needs a host with truth per token' in capsys.readouterr().err
    args = train.parse_arguments(['--background-weight', '1.5', '--drop-share', '0', '--work', 'here'])
    assert args.scenes_folder == Path('here')


@pytest.mark.parametrize(
    ('arguments', 'steps'),
    [
        ([], 2500),
        (['--tower', 'there'], 0),
        (['--begin-with', 'there'], 0),
        (['--begin-with', 'there', '--vision-steps', '7'], 7),
        (['--vision-steps', '0'], 0),
    ],
)
def test_a_tower_that_is_taken_is_left_as_it_is_unless_steps_are_named(arguments: list[str], steps: int) -> None:
    assert train.parse_arguments(arguments).vision_steps == steps


def test_waiting_for_another_process_that_renders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks again until the shards for so many drives and the held-out scenes are there."""
    missing = [shard_path(tmp_path / folder, range(first, first + 25)) for folder, first in ((TRAIN, 0), (TRAIN, 25))]
    missing.append(shard_path(tmp_path / HELD_OUT_FOLDER, range(HELD_OUT, HELD_OUT + 25)))
    with pytest.raises(TimeoutError, match='holds 0 of 2 shards'):
        wait_for_shards(tmp_path, 26, training_seeds(50, 0), 1, seconds=0.0)

    def render_one(seconds: float) -> None:
        missing[0].parent.mkdir(exist_ok=True)
        missing.pop(0).write_text('rendered')

    monkeypatch.setattr(scene_cache.time, 'sleep', render_one)
    wait_for_shards(tmp_path, 26, training_seeds(50, 0), 1)
    assert missing == []
