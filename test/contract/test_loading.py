"""Whatever is wrong with a model folder or hub id ends in one sentence, and nothing touches the network unasked."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers.tiny_models import make_tiny_model
from safetensors.torch import load_file, save_file

from stprune_ros.errors import ModelError, SettingsError, StpruneError
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm import loading
from stprune_ros.vlm.hf.backend import TransformersBackend
from stprune_ros.vlm.hf.families import FAMILIES
from stprune_ros.vlm.hf.model_checks import supported_class


@pytest.fixture(scope='module')
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp('models') / 'tiny', 'ringworld')


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / 'tiny'))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Any connection fails the test; the hub cache is empty."""

    def refuse(*args: Any, **_: Any) -> None:
        raise AssertionError(f'network touched: {args[1:]}')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))


def refusal(model: Path | str, **options: Any) -> str:
    """The sentence that refuses ``model``."""
    with pytest.raises(ModelError) as caught:
        TransformersBackend.load(model, device=options.pop('device', 'cpu'), **options)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def change_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / 'model.safetensors')
    change(tensors)
    save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})


def test_a_whole_folder_loads(folder: Path) -> None:
    info = TransformersBackend.load(folder, device='cpu').info
    assert (info.model_id, info.family, info.trained) == ('tiny', 'qwen3_vl', False)


def test_revision_follows_the_weights(folder: Path) -> None:
    before = TransformersBackend.load(folder, device='cpu').info.revision
    assert TransformersBackend.load(folder, device='cpu').info.revision == before
    change_weights(folder, lambda tensors: tensors['lm_head.weight'].add_(1))
    assert TransformersBackend.load(folder, device='cpu').info.revision != before


def test_trained_is_what_the_note_says(folder: Path) -> None:
    note = folder / 'stprune.json'
    note.write_text('{"trained": true}')
    assert TransformersBackend.load(folder, device='cpu').info.trained
    note.unlink()
    assert TransformersBackend.load(folder, device='cpu').info.trained
    note.write_text('{"trained": "yes"}')
    assert "'trained' in" in refusal(folder)
    note.write_text('trained')
    assert 'cannot be read as JSON' in refusal(folder)


def test_domain_is_what_the_note_says(folder: Path) -> None:
    note = folder / 'stprune.json'
    for facts, domain in (
        ({}, ''),
        ({'domain': 'a toy town'}, 'a toy town'),
        ({'knows': 'a toy town'}, 'a toy town'),
        ({'domain': '', 'knows': 'a toy town'}, ''),
    ):
        note.write_text(json.dumps({'trained': True, **facts}))
        assert TransformersBackend.load(folder, device='cpu').info.domain == domain
    for key in ('domain', 'knows'):
        note.write_text(json.dumps({'trained': True, key: 7}))
        assert refusal(folder).startswith(f"'{key}' in '{note}' is 7; it must be a text")


def test_sharded_weights_load(folder: Path) -> None:
    tensors = load_file(folder / 'model.safetensors')
    names = sorted(tensors)
    shards = {'a.safetensors': names[::2], 'b.safetensors': names[1::2]}
    for shard, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / shard, metadata={'format': 'pt'})
    index = {'metadata': {}, 'weight_map': {name: shard for shard, part in shards.items() for name in part}}
    (folder / 'model.safetensors').unlink()
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
    TransformersBackend.load(folder, device='cpu')
    (folder / 'b.safetensors').unlink()
    assert "has no weights file 'b.safetensors'" in refusal(folder)


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('config.json', 'is no model folder: it has no config.json'),
        ('model.safetensors', "has no weights file 'model.safetensors'"),
        ('tokenizer.json', 'has no tokenizer: tokenizer.json, or vocab.json with merges.txt'),
        ('tokenizer_config.json', 'has no tokenizer_config.json'),
        ('preprocessor_config.json', 'has no image processor: preprocessor_config.json'),
        ('chat_template.jinja', 'has no chat template'),
    ],
)
def test_missing_file_is_named(folder: Path, name: str, words: str) -> None:
    (folder / name).unlink()
    sentence = refusal(folder)
    assert words in sentence
    assert str(folder) in sentence


@pytest.mark.parametrize(
    'name', ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'preprocessor_config.json', 'model.safetensors']
)
def test_broken_file_is_refused(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    assert str(folder) in refusal(folder)


def test_bin_weights_are_refused(folder: Path) -> None:
    torch.save(load_file(folder / 'model.safetensors'), folder / 'pytorch_model.bin')
    (folder / 'model.safetensors').unlink()
    assert 'weights as .bin only; convert them to safetensors' in refusal(folder)


def test_git_lfs_pointer_is_named(folder: Path) -> None:
    (folder / 'model.safetensors').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n')
    assert 'only a Git LFS pointer; fetch it with git lfs pull' in refusal(folder)


def test_unsupported_family_names_the_supported(folder: Path) -> None:
    change_json(folder / 'config.json', lambda tree: tree.update(model_type='llava'))
    assert "family 'llava' of" in refusal(folder)
    assert (
        'supported are gemma3, idefics3, internvl, llava_onevision, qwen2_5_vl, qwen2_vl, qwen3_vl, smolvlm'
        in refusal(folder)
    )


def test_missing_tensors_are_refused(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.pop('model.language_model.norm.weight'))
    assert "lack 1 of the model's tensors, such as 'model.language_model.norm.weight'" in refusal(folder)


def test_layers_without_a_place_are_refused(folder: Path) -> None:
    def less(tree: dict[str, Any]) -> None:
        text = tree['text_config']
        text['num_hidden_layers'] -= 1

    change_json(folder / 'config.json', less)
    assert 'tensors of layers that config.json has no place for, such as' in refusal(folder)


def test_tensors_of_another_size_are_refused(folder: Path) -> None:
    change_json(folder / 'config.json', lambda tree: tree['text_config'].update(intermediate_size=72))
    sentence = refusal(folder)
    assert '(64, 32)' in sentence or '(32, 64)' in sentence
    assert '(72, 32)' in sentence or '(32, 72)' in sentence


def test_sliding_window_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / 'sliding', 'qwen2_5_vl')
    window = {'use_sliding_window': True, 'sliding_window': 8, 'max_window_layers': 0, 'layer_types': None}
    change_json(folder / 'config.json', lambda tree: tree['text_config'].update(window))
    assert 'sliding-window attention' in refusal(folder)


def shorten(folder: Path, last: str) -> int:
    """Let the model's vocabulary end before the token ``last``; returns its new size."""
    tokens = {
        token['content']: token['id'] for token in json.loads((folder / 'tokenizer.json').read_text())['added_tokens']
    }
    size: int = tokens[last]
    change_json(folder / 'config.json', lambda tree: tree['text_config'].update(vocab_size=size))

    def cut(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            if name.endswith(('lm_head.weight', 'embed_tokens.weight')):
                tensors[name] = tensors[name][:size]

    change_weights(folder, cut)
    return size


def test_a_tokenizer_may_be_longer_than_its_model_s_vocabulary(folder: Path) -> None:
    shorten(folder, '<|video_pad|>')
    TransformersBackend.load(folder, device='cpu')


@pytest.mark.parametrize(
    ('family', 'token'), [('ringworld', '<|image_pad|>'), ('ringworld', '<|im_end|>'), ('internvl', '</img>')]
)
def test_what_every_prompt_needs_must_be_within(tmp_path: Path, family: str, token: str) -> None:
    folder = make_tiny_model(tmp_path / 'model', family)
    size = shorten(folder, token)
    if token != '<|image_pad|>':
        change_json(folder / 'config.json', lambda tree: tree.update(image_token_id=3))
    if token == '</img>':
        change_json(folder / 'tokenizer_config.json', lambda tree: tree.update(eos_token='stop'))
    assert refusal(folder) == (
        f"tokenizer of '{folder}' has '{token}' as token {size}, its model {size} tokens: tokenizer and config.json do"
        ' not belong together'
    )


def test_an_image_processor_by_its_first_name_is_the_family_s(tmp_path: Path) -> None:
    """Checkpoints of Qwen2.5-VL that are older than the family's support name a class that never came."""
    folder = make_tiny_model(tmp_path / 'tiny', 'qwen2_5_vl')
    image = np.random.default_rng(3).integers(0, 256, (90, 160, 3), np.uint8)
    (known,) = TransformersBackend.load(folder, device='cpu').encode([image])

    def rename(name: str) -> None:
        change_json(folder / 'preprocessor_config.json', lambda tree: tree.update(image_processor_type=name))

    rename('Qwen2_5_VLImageProcessor')
    (found,) = TransformersBackend.load(folder, device='cpu').encode([image])
    assert torch.equal(found.tokens, known.tokens)
    settings = json.loads((folder / 'preprocessor_config.json').read_text())
    (folder / 'preprocessor_config.json').unlink()
    (folder / 'processor_config.json').write_text(json.dumps({'image_processor': settings}))
    (found,) = TransformersBackend.load(folder, device='cpu').encode([image])
    assert torch.equal(found.tokens, known.tokens)
    (folder / 'preprocessor_config.json').write_text(json.dumps(settings))
    rename('Qwen9ImageProcessor')
    assert refusal(folder).startswith(f"image processor of '{folder}' cannot be loaded: ")


def test_a_chat_template_may_stand_where_only_processors_read_it(folder: Path) -> None:
    """The one that counts is the one that the library's own processor takes."""
    own = (folder / 'chat_template.jinja').read_text()
    texts = {name: f'{name}: {own}' for name in ('jinja', 'old', 'processor')}

    def begin() -> str:
        chat = TransformersBackend.load(folder, device='cpu')._chat
        return chat._tokenizer.decode(chat.prompt('', ['Left.\n']).ids)

    (folder / 'chat_template.jinja').unlink()
    assert refusal(folder) == f"tokenizer of '{folder}' has no chat template"
    (folder / 'chat_template.json').write_text(json.dumps({'chat_template': texts['old']}))
    assert begin() == 'old: <|im_start|>user\nLeft.\n'
    (folder / 'chat_template.jinja').write_text(texts['jinja'])
    assert begin() == 'jinja: <|im_start|>user\nLeft.\n'
    (folder / 'processor_config.json').write_text(json.dumps({'chat_template': texts['processor']}))
    assert begin() == 'processor: <|im_start|>user\nLeft.\n'
    (folder / 'chat_template.jinja').unlink()
    (folder / 'chat_template.json').unlink()
    assert begin() == 'processor: <|im_start|>user\nLeft.\n'
    (folder / 'processor_config.json').write_text('{"processor_class": "Qwen3VLProcessor"}')
    assert refusal(folder) == f"tokenizer of '{folder}' has no chat template"


def test_the_end_that_the_template_writes_ends_answers_also_without_generation_config(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / 'tiny', 'idefics3')
    change_json(folder / 'tokenizer_config.json', lambda tree: tree.update(eos_token='<|im_end|>'))
    change_json(folder / 'config.json', lambda tree: tree['text_config'].update(eos_token_id=None))
    (folder / 'generation_config.json').unlink()
    backend = TransformersBackend.load(folder, device='cpu')
    end = backend._chat._tokenizer.convert_tokens_to_ids('<end_of_utterance>')
    assert backend._chat.end_id == end != backend._chat._tokenizer.eos_token_id
    context = backend.prefill('', ['Left.\n'])
    ended = []
    for sign in (1, -1):  # with one of them, the end is what the model wants most
        with torch.no_grad():
            backend._model.lm_head.weight.zero_()[end] = sign
        written = backend.generate(context, 'What now?', 1)
        ended.append((written.tokens, written.finished))
    assert sorted(ended) == [(0, True), (1, False)]


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'patch_size': 7}, 'has patch_size 7, its model patch_size 16'),
        ({'merge_size': 2}, 'has merge_size 2, its model spatial_merge_size 1'),
        ({'temporal_patch_size': 1}, 'has temporal_patch_size 1, its model temporal_patch_size 2'),
        ({'size': {'height': 64, 'width': 64}}, 'has no shortest_edge and longest_edge'),
    ],
)
def test_image_processor_of_another_model_is_refused(folder: Path, change: dict[str, Any], words: str) -> None:
    change_json(folder / 'preprocessor_config.json', lambda tree: tree.update(change))
    assert words in refusal(folder)


def test_image_token_must_be_known(folder: Path) -> None:
    change_json(folder / 'config.json', lambda tree: tree.update(image_token_id=99999))
    assert "lacks the model's image token 99999" in refusal(folder)


def test_wrong_config_is_one_sentence(folder: Path) -> None:
    change_json(folder / 'config.json', lambda tree: tree['text_config'].update(hidden_size='many'))
    assert refusal(folder).startswith("config.json of '")


def test_code_in_a_model_folder_is_never_run(folder: Path) -> None:
    (folder / 'own.py').write_text("raise SystemExit('code from the model folder was run')\n")
    change_json(
        folder / 'tokenizer_config.json',
        lambda tree: tree.update(tokenizer_class='Own', auto_map={'AutoTokenizer': ['own.Own', 'own.Own']}),
    )
    change_json(
        folder / 'config.json',
        lambda tree: tree.update(auto_map={'AutoConfig': 'own.Own', 'AutoModelForImageTextToText': 'own.Own'}),
    )
    TransformersBackend.load(folder, device='cpu')


def test_paths_that_are_no_folder(tmp_path: Path, folder: Path) -> None:
    assert 'does not exist; set model.path to a model folder or a hub id' in refusal(tmp_path / 'nowhere')
    assert 'does not exist' in refusal('')
    assert 'is a file' in refusal(folder / 'config.json')
    assert 'is no model folder' in refusal(tmp_path)


def test_hub_id_without_download() -> None:
    sentence = refusal('maker/some-model')
    assert sentence == (
        "model 'maker/some-model' is not on this machine; download it or set model.allow_download: true"
    )
    assert "at revision 'v2'" in refusal('maker/some-model', revision='v2')


def test_hub_snapshot_on_this_machine(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / 'hub' / 'models--maker--some-model'
    commit = '0123456789abcdef0123456789abcdef01234567'
    shutil.copytree(folder, repository / 'snapshots' / commit)
    (repository / 'refs').mkdir()
    (repository / 'refs' / 'main').write_text(commit)
    info = TransformersBackend.load('maker/some-model', device='cpu').info
    assert (info.model_id, info.revision) == ('maker/some-model', commit)
    assert TransformersBackend.load('maker/some-model', device='cpu', revision=commit).info.revision == commit


def test_download_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError('Network is unreachable')

    monkeypatch.setattr(socket, 'getaddrinfo', unreachable)
    monkeypatch.setattr(socket.socket, 'connect', unreachable)
    sentence = refusal('maker/some-model', allow_download=True)
    assert sentence.startswith("model 'maker/some-model' cannot be downloaded: ")


@pytest.mark.parametrize('device', ['warp', 'cuda:99', 'meta:1:2'])
def test_wrong_device_is_named(folder: Path, device: str) -> None:
    assert f"parameter 'model.device' is '{device}'" in refusal(folder, device=device)


def test_old_transformers_is_named() -> None:
    class OldModel:
        def forward(self, input_ids: Any, pixel_values: Any) -> None: ...

    family = FAMILIES['qwen3_vl']
    old = SimpleNamespace(__version__='5.4.0', Qwen3VLForConditionalGeneration=OldModel)
    with pytest.raises(StpruneError, match=r'transformers 5.4.0 is too old .* install transformers>=5.18'):
        supported_class(family, old)
    with pytest.raises(StpruneError, match=r'transformers 4.40.0 is too old'):
        supported_class(family, SimpleNamespace(__version__='4.40.0'))


@pytest.mark.parametrize('version', ['5.20.0', '5.20.1', '5.20.2', '5.21.0'])
def test_releases_that_cannot_run_a_pruned_prompt_are_named(version: str) -> None:
    library = SimpleNamespace(
        __version__=version,
        SmolVLMForConditionalGeneration=transformers.SmolVLMForConditionalGeneration,
        Idefics3ForConditionalGeneration=transformers.Idefics3ForConditionalGeneration,
    )
    assert supported_class(FAMILIES['idefics3'], library) is transformers.Idefics3ForConditionalGeneration
    if version in ('5.20.0', '5.21.0'):
        assert supported_class(FAMILIES['smolvlm'], library) is transformers.SmolVLMForConditionalGeneration
        return
    with pytest.raises(ModelError) as caught:
        supported_class(FAMILIES['smolvlm'], library)
    assert str(caught.value) == (
        f'transformers {version} takes the image tokens of smolvlm in blocks of a fixed number, which pruning does not'
        ' leave; install transformers 5.20.0, or 5.21 or later'
    )


def settings_of(folder: Path, **values: Any) -> Settings:
    return Settings.from_values({'model.path': str(folder), 'model.device': 'cpu', **values})


def test_unknown_engine_names_the_known(folder: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        loading.load_engine('onnx', settings_of(folder))
    assert str(caught.value) == f"parameter 'model.engine' is 'onnx'; known are {', '.join(sorted(loading.ENGINES))}"


def test_every_model_parameter_reaches_the_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of transformers; the other engine needs a GGUF, see test_llama_cpp_loading.py."""

    def load(**values: Any) -> Any:
        return loading.load_engine('transformers', settings_of(folder, **values))

    assert load().info.dtype == 'float32'
    assert load(**{'model.dtype': 'bfloat16'}).info.dtype == 'bfloat16'
    assert load(**{'model.max_image_pixels': 2048}).model_pixels == 2048
    assert load(**{'model.side_image_pixels': 1024}).side_pixels == 1024
    for values, words in (
        ({'model.path': 'maker/some-model', 'model.revision': 'v2'}, "at revision 'v2' is not on this machine"),
        ({'model.path': 'maker/some-model', 'model.allow_download': True}, "'maker/some-model' cannot be downloaded"),
        ({'model.device': 'warp'}, "parameter 'model.device' is 'warp'"),
    ):
        with pytest.raises(ModelError, match=words):
            load(**values)
    monkeypatch.setattr('stprune_ros.vlm.hf.quantization.find_spec', lambda name: None)
    with pytest.raises(ModelError, match="'model.quantization' is '4bit'"):
        load(**{'model.quantization': '4bit'})


def test_the_prompt_is_the_given_one_else_the_model_s_else_the_package_s(folder: Path) -> None:
    assert loading.load_model(settings_of(folder))[1].id.startswith('driving-')
    given = loading.resource_path(loading.DEFAULT_PROMPT).read_text()
    (folder / 'prompt.yaml').write_text(given.replace('name: driving', 'name: own'))
    assert loading.load_model(settings_of(folder))[1].id.startswith('own-')
    other = folder / 'other.yaml'
    other.write_text(given.replace('name: driving', 'name: other'))
    assert loading.load_model(settings_of(folder, **{'prompt.file': str(other)}))[1].id.startswith('other-')


def test_the_prompt_of_a_hub_model_is_that_of_its_revision(folder: Path, tmp_path: Path) -> None:
    given = loading.resource_path(loading.DEFAULT_PROMPT).read_text()
    repository = tmp_path / 'hub' / 'models--maker--some-model'
    (repository / 'refs').mkdir(parents=True)
    for revision, commit in (('main', '0' * 40), ('v2', '1' * 40)):
        snapshot = Path(shutil.copytree(folder, repository / 'snapshots' / commit))
        (snapshot / 'prompt.yaml').write_text(given.replace('name: driving', f'name: {revision}'))
        (repository / 'refs' / revision).write_text(commit)
    for values, name in (({}, 'main'), ({'model.revision': 'v2'}, 'v2')):
        prompt = loading.load_model(settings_of(Path('maker/some-model'), **values))[1]
        assert prompt.id.startswith(f'{name}-')


def test_a_model_that_cannot_be_loaded_so_fails_the_memory_check_too(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / 'llava', 'llava_onevision')
    with pytest.raises(ModelError, match="'model.max_image_pixels' is 2048, but family"):
        loading.check_memory(settings_of(folder, **{'model.max_image_pixels': 2048}), (90, 160))
    with pytest.raises(ModelError, match="'model.side_image_pixels' is 2048, but family"):
        loading.check_memory(settings_of(folder, **{'model.side_image_pixels': 2048}), (90, 160))


@pytest.mark.parametrize(
    ('values', 'front'),
    [
        ({}, 1),
        ({'cameras.anchor': 'a'}, 1),
        ({'cameras.critical': ['a', 'b']}, 3),  # the anchor may be a third
        ({'cameras.anchor': 'b', 'cameras.critical': ['a', 'b']}, 2),
    ],
)
def test_the_memory_check_counts_cameras_that_are_no_side_cameras(values: dict[str, Any], front: int) -> None:
    assert loading.front_views(Settings.from_values(values)) == front


def test_the_memory_check_counts_tokens_of_side_cameras(folder: Path) -> None:
    values = {'cameras.names': ['a', 'b', 'c'], 'model.side_image_pixels': 2048}
    text = loading.check_memory(settings_of(folder, **values), (90, 160)).text
    whole = loading.check_memory(settings_of(folder, **{'cameras.names': ['a', 'b', 'c']}), (90, 160)).text
    assert '12 images of 18 tokens, side cameras 6' in text and 'side cameras' not in whole
    assert f'{768 + 64 + 4 * (18 + 2 * 6)} tokens' in text


def test_a_wrong_prompt_file_is_named_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='prompt file'):
        loading.load_model(settings_of(tmp_path / 'nowhere', **{'prompt.file': str(tmp_path / 'none.yaml')}))
