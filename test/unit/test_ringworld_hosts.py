"""The hosts as training sees them are the hosts as the runtime runs them: pixels, tokens, prompts, positions, loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from stprune_ros.evaluation.exam import EncodedScene
from stprune_ros.evaluation.ringworld_cases import case_scene
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.ringworld.scenes import Scene, make_scene
from stprune_ros.ringworld.training.attention import background_share
from stprune_ros.ringworld.training.batches import Batch, ScenePool, gather_batch, plan_batch
from stprune_ros.ringworld.training.export import export_model, write_prompt
from stprune_ros.ringworld.training.hosts import HOSTS, Host, InternVLHost, Qwen3VLHost
from stprune_ros.ringworld.training.language_stage import LanguageStage, questions_right
from stprune_ros.ringworld.training.prompt_encoder import PromptEncoder, ViewSubset
from stprune_ros.ringworld.training.tokenizer import make_tokenizer
from stprune_ros.ringworld.training.vision_stage import encode_images
from stprune_ros.vlm.hf.backend import TransformersBackend
from stprune_ros.vlm.prompt import Prompt

CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def scene() -> Scene:
    return make_scene(4)


@pytest.fixture(scope='module', params=sorted(HOSTS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Host, Any, Path]:
    """A host with random weights, large enough that no two answers are alike, and its exported folder."""
    host = HOSTS[request.param]
    torch.manual_seed(0)
    tokenizer = make_tokenizer(host.image_markup)
    model = host.make_model(tokenizer).eval()
    with torch.no_grad():
        for weight in model.model.language_model.parameters():
            weight.copy_(2.0 * weight).copy_(weight.half())
    for part in (host.tower(model), model.lm_head):
        part.half().float()  # as exported
    folder = tmp_path_factory.mktemp(host.name)
    export_model(folder, host, model, tokenizer, {})
    return host, model, folder


@pytest.fixture
def batch(trained: tuple[Host, Any, Path], scene: Scene, request: pytest.FixtureRequest) -> Batch:
    """Two questions and more about a scene in two views, with a share of the visual tokens."""
    host, model, folder = trained
    return _batch(host, model, folder, scene, request.param)


def _batch(host: Host, model: Any, folder: Path, scene: Scene, keep: float) -> Batch:
    pool = ScenePool(lambda images: encode_images(host, model, images, CPU), 'tower', host.token_truth, CPU)
    pool.tokens = encode_images(host, model, scene.images, CPU)[None]
    pool.dense = {'kind': torch.from_numpy(scene.tokens['kind'])[None]}
    pool.truths, pool.windows = [scene.truths], [scene.windows]
    encoder = PromptEncoder(make_tokenizer(host.image_markup), Prompt.load(folder / 'prompt.yaml'), host)
    rng = np.random.default_rng(0)
    return gather_batch(
        pool, plan_batch(pool.truths, pool.windows, encoder, rng, 1, 2, ViewSubset((0, 2), 2), keep), 0.0
    )


def test_pixels_and_tokens_are_those_of_the_runtime(trained: tuple[Host, Any, Path], scene: Scene) -> None:
    host, model, folder = trained
    images = scene.images[:1, :3]
    mine = encode_images(host, model, images, CPU)[0].float()
    backend = TransformersBackend.load(folder, device='cpu')
    for tokens, found in zip(mine, backend.encode(list(images[0])), strict=True):
        assert found.grid == host.grid
        # Images of InternVL are stretched; of a few pixels the rounded level differs.
        tolerance = 1e-3 if isinstance(host, Qwen3VLHost) else 0.03
        assert (tokens - found.tokens).abs().mean() < tolerance * found.tokens.std()
        assert found.tokens.std() > 0.01


def test_stretched_pixels_are_those_of_the_image_processor(scene: Scene) -> None:
    host = HOSTS['internvl']
    assert isinstance(host, InternVLHost)
    images = scene.images[0, :2]
    mine = host.pixels(torch.from_numpy(images))
    theirs = host.make_processor()(images=list(images), return_tensors='pt')['pixel_values']
    assert mine.shape == theirs.shape == (2, 3, 128, 128)
    assert (mine - theirs).abs().max() < 1.01 / 127.5  # a level, where a half is rounded the other way
    assert ((mine - theirs).abs() < 1e-4).float().mean() > 0.999


def test_prefixes_are_the_prompts_of_the_runtime(trained: tuple[Host, Any, Path], scene: Scene) -> None:
    host, _, folder = trained
    backend, prompt = TransformersBackend.load(folder, device='cpu'), Prompt.load(folder / 'prompt.yaml')
    context = EncodedScene.encode(case_scene(scene), backend).prefill(PruningConfig('none', 1.0), backend, prompt)
    encoder = PromptEncoder(make_tokenizer(host.image_markup), prompt, host)
    ids = encoder.prefix(ViewSubset(), scene.truths[-1])
    assert list(context.state.ids) == ids
    positions = host.positions(backend._model, torch.tensor(ids), images=24)
    assert torch.equal(context.state.positions, positions[0])
    assert context.state.next_position == int(positions.max()) + 1


@pytest.mark.parametrize('batch', [1.0, 0.4], indirect=True)
def test_the_loss_is_that_of_the_model_itself(trained: tuple[Host, Any, Path], batch: Batch) -> None:
    """Each question alone behind its prefix, run by the model's own language half, dropped tokens left out."""
    host, model, _ = trained
    core = model.model.language_model
    answered = LanguageStage(host, model).answer(batch)
    ids, kept = batch.ids[0], torch.arange(batch.ids.shape[1]) if batch.kept is None else batch.kept[0]
    positions = host.positions(model, ids, images=4)
    visual = (ids == model.config.image_token_id).nonzero()[:, 0]
    prefix = core.embed_tokens(ids).index_copy(0, visual, batch.tokens[0])[kept]
    losses, weights, right = [], [], []
    for number in range(int(batch.owner.max()) + 1):
        where = (batch.owner[0] == number).nonzero()[:, 0]
        embedded = torch.cat([prefix, core.embed_tokens(batch.asked[0, where])])[None]
        after = int(positions.max()) + 1 + torch.arange(len(where))
        rows = torch.cat([positions[:, kept], after.expand(len(positions), -1)], 1)
        counted = torch.arange(embedded.shape[1])[None]
        rows = torch.cat([counted, rows])[:, None] if len(rows) > 1 else rows
        mask = torch.full((embedded.shape[1],) * 2, -torch.inf).triu(1)[None, None]
        hidden = core(inputs_embeds=embedded, position_ids=rows, attention_mask=mask, use_cache=False)
        logits, labels = model.lm_head(hidden.last_hidden_state)[0, len(kept) :], batch.labels[0, where]
        asked = labels >= 0
        losses.append(functional.cross_entropy(logits[asked], labels[asked], reduction='none'))
        weights.append(batch.weights[0, where][asked])
        right.append(bool((logits.argmax(-1) == labels)[asked].all()))
    expected = (torch.cat(losses) * torch.cat(weights)).sum() / torch.cat(weights).sum()
    assert answered.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    by_kind = questions_right(batch.plan.spans, answered.right)
    assert [found for kind in dict.fromkeys(span[0] for span in batch.plan.spans) for found in by_kind[kind]] == right


@pytest.mark.parametrize('batch', [1.0, 0.4], indirect=True)
def test_probed_tokens_are_there_where_none_was_dropped(trained: tuple[Host, Any, Path], batch: Batch) -> None:
    host, model, _ = trained
    answered = LanguageStage(host, model).answer(batch)
    expected = 4 * host.tokens if batch.kept is None else 0
    assert answered.middle.shape[:2] == answered.late.shape[:2] == (1, expected)
    assert answered.background_attention == 0.0


def test_attention_to_background_is_a_share() -> None:
    """Two of four keys are background; one of the four cannot be seen, so equal scores give half to it."""
    query, keys = torch.zeros(1, 1, 1, 8), torch.randn(1, 1, 4, 8)
    visible = torch.tensor([[[True, True, True, False]]])
    share = background_share(query, keys, visible, torch.tensor([[[True, False, False, True]]]))
    assert share.item() == pytest.approx(1 / 3)
    query[0, 0, 0], keys[0, 0] = 1.0, torch.tensor([0.0, 0.0, 1.0, 9.0])[:, None]
    share = background_share(query, keys, visible, torch.tensor([[[False, False, True, True]]]))
    assert share.item() == pytest.approx(np.exp(8**0.5) / (2 + np.exp(8**0.5)), rel=1e-5)


def test_the_penalty_measures_attention_to_tokens_without_an_actor(tmp_path: Path, scene: Scene) -> None:
    host = HOSTS['qwen3_vl']
    torch.manual_seed(1)
    model = host.make_model(make_tokenizer(host.image_markup))
    write_prompt(tmp_path / 'prompt.yaml')
    batch = _batch(host, model, tmp_path, scene, 1.0)
    stage = LanguageStage(host, model)
    everything, nothing = batch.dense['kind'].clone().fill_(-1), batch.dense['kind'].clone().fill_(0)
    shares = []
    for kind in (everything, batch.dense['kind'], nothing):
        batch.dense['kind'] = kind
        shares.append(float(stage.answer(batch, background=True).background_attention))
    assert 1.0 < shares[0] < 2.0  # of visual tokens and of questions; the rest goes to text
    assert shares[2] == 0.0
    assert shares[2] < shares[1] < shares[0]
