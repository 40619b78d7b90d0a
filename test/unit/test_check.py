"""`stprune check` says everything at once, and commands refuse before torch is imported."""

from __future__ import annotations

import json
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.small_bags import drive, write_bag

from stprune_ros.cli import main
from stprune_ros.errors import StpruneError
from stprune_ros.preflight import require_file, require_folder
from stprune_ros.resources import resource_path
from stprune_ros.vlm.hf import folder_faults
from stprune_ros.vlm.hf.model_folder import inspect_folder

RIG = """cameras:
  front: {width: 320, height: 192, hfov_deg: 90.0, azimuth_deg: 0.0}
  back: {width: 320, height: 192, hfov_deg: 90.0, azimuth_deg: 180.0}
"""
# CPU seconds, user and system: 0.7 is the aim, 0.2 to 0.4 are usual; three times the aim leaves slow machines alone.
MOST_CPU_S = 3 * 0.7


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding='utf-8')
    return path


def check(folder: Path, capsys: pytest.CaptureFixture[str], text: str, *options: str) -> list[str]:
    """The problems that check names for parameters, without the file's name."""
    path = write(folder / 'my.param.yaml', f'/**: {{ros__parameters: {{{text}}}}}\n')
    code = main(['check', str(path), *options])
    lines = capsys.readouterr().err.splitlines()
    assert code == (1 if lines else 0)
    assert all(line.startswith(f'{path}: ') for line in lines)
    return [line.removeprefix(f'{path}: ') for line in lines]


def test_everything_is_named_in_one_run(tmp_path, capsys):
    problems = check(
        tmp_path,
        capsys,
        'cameras: {names: [a, b, b], anchor: c, critical: [d], offsets_ms: [1.0], rig_file: /nowhere/rig.yaml},'
        ' prompt: {file: /nowhere/prompt.yaml}, model: {path: /nowhere/model}, pruning: {methud: mtp,'
        ' keep_ratio: "0.1", one_pays: true, keep_one_copy: true}, latency: {keep_min: 0.5, keep_max: 0.2,'
        ' target_ms: 2000.0}, sync: {min_views: 7, max_wait_ms: 20.0}, history: {frames: [3]}',
    )
    words = [
        "'cameras.names' names a camera twice: a, b, b",
        "camera 'c' in 'cameras.anchor'",
        "camera 'd' in 'cameras.anchor' or 'cameras.critical'",
        "'cameras.offsets_ms' has 1 entries for 3 cameras",
        "rig file '/nowhere/rig.yaml' cannot be read",
        "prompt file '/nowhere/prompt.yaml' cannot be read",
        "model folder '/nowhere/model' does not exist",
        "there is no parameter 'pruning.methud'; did you mean 'pruning.method'?",
        "'pruning.keep_ratio' is '0.1'; allowed is a number in [0.001, 1]: remove the quotes",
        "'pruning.one_pays' is now called 'pruning.keep_one_copy', and both are given",
        "'latency.keep_min' is 0.5, more than 'latency.keep_max', 0.2",
        "'latency.target_ms' is 2000, more than 'output.valid_for_ms', 1000",
        "'sync.min_views' is 7, but 'cameras.names' has only 3",
        "'sync.max_wait_ms' is 20, less than 'sync.tolerance_ms' plus the largest of 'cameras.offsets_ms', 50 + 1",
        "'history.frames' is [3]; allowed is an integer in [1, 16]: give one value, without brackets",
    ]
    for word in words:
        assert sum(word in problem for problem in problems) == 1, word
    assert len(problems) == len(words)


def test_a_wrong_value_makes_no_contradiction_with_its_default(tmp_path, capsys):
    [problem] = check(tmp_path, capsys, 'latency: {keep_min: 0.9, keep_max: none}')
    assert "'latency.keep_max' is 'none'" in problem
    [problem] = check(tmp_path, capsys, 'cameras: {names: [1, 2], offsets_ms: [0.0, 3.0]}')
    assert problem == "parameter 'cameras.names' is [1, 2]; allowed is a list of strings: put it in quotes"


def test_the_form_of_the_file_is_named_beside_its_values(tmp_path, capsys):
    problems = check(tmp_path, capsys, 'history: {frames: 2, frames: 3}, pruning: , sync: {min_views: 0}')
    assert len(problems) == 3
    assert "'history.frames' is given a second time" in problems[0]
    assert "'pruning' has no value" in problems[1]
    assert "'sync.min_views' is 0" in problems[2]


def test_names_are_compared_with_the_rig_file(tmp_path, capsys):
    rig = write(tmp_path / 'rig.yaml', RIG)
    assert check(tmp_path, capsys, f'cameras: {{rig_file: {rig}, anchor: front, critical: [back]}}') == []
    assert check(tmp_path, capsys, f'cameras: {{rig_file: {rig}, anchor: top, critical: [left, back]}}') == [
        "camera 'top' in 'cameras.anchor' or 'cameras.critical' is not in the ring: front, back",
        "camera 'left' in 'cameras.anchor' or 'cameras.critical' is not in the ring: front, back",
    ]
    assert check(tmp_path, capsys, f'cameras: {{rig_file: {rig}, names: [front, top, low]}}') == [
        "camera 'top' in 'cameras.names' is not in the rig file: front, back",
        "camera 'low' in 'cameras.names' is not in the rig file: front, back",
    ]


def test_a_wrong_role_is_named_once(tmp_path, capsys):
    rig = write(tmp_path / 'rig.yaml', RIG)
    [problem] = check(tmp_path, capsys, f'cameras: {{rig_file: {rig}, names: [front, back], anchor: top}}')
    assert "is not in 'cameras.names': front, back" in problem


def test_files_that_are_named_are_parsed(tmp_path, capsys):
    rig = write(tmp_path / 'rig.yaml', RIG.replace('width: 320', 'width: 0', 1))
    prompt = write(tmp_path / 'prompt.yaml', 'name: x\n')
    problems = check(tmp_path, capsys, f'cameras: {{rig_file: {rig}}}, prompt: {{file: {prompt}}}')
    assert len(problems) == 2
    assert f"rig file '{rig}', camera 'front'" in problems[0]
    assert problems[1] == f"prompt file '{prompt}': 'system' is missing"


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('cameras: {names: ["0", "1"]}', "the node does not start: camera '0' in 'cameras.names' makes the topic"),
        (
            'cameras: {names: [a], transport: raw}, topics: {image: "/{camera}/image/compressed"}',
            "the node hears no image: 'topics.image' is '/{camera}/image/compressed'",
        ),
        ('cameras: {names: [a], transport: compressed}, topics: {image: "/{camera}/image/compressed"}', ''),
        ('cameras: {names: [a], transport: raw}, topics: {image: "/{camera}/image"}', ''),
    ],
)
def test_what_only_replay_can_use_is_said(tmp_path, capsys, text, sentence):
    path = write(tmp_path / 'my.param.yaml', f'/**: {{ros__parameters: {{{text}}}}}\n')
    assert main(['check', str(path)]) == 0
    said = capsys.readouterr().out
    assert ('only for replay' in said) == bool(sentence)
    assert sentence in said


def test_old_names_are_said_and_no_problem(tmp_path, capsys):
    path = write(tmp_path / 'p.yaml', '/**: {ros__parameters: {pruning: {one_pays: true}}}')
    assert main(['check', str(path)]) == 0
    assert "is now called 'pruning.keep_one_copy'" in capsys.readouterr().err


# -- model folders: the bundled one, changed


def header_of(file: Path) -> tuple[dict[str, object], bytes]:
    data = file.read_bytes()
    length = struct.unpack('<Q', data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


@pytest.fixture
def model(tmp_path) -> Path:
    """A small folder with every kind of file that is looked at; its one tensor is 16 bytes long."""
    folder = tmp_path / 'vlm'
    folder.mkdir()
    bundled = resource_path('models/ringworld')
    for name in ('tokenizer.json', 'tokenizer_config.json', 'preprocessor_config.json'):
        (folder / name).write_bytes((bundled / name).read_bytes())
    (folder / 'chat_template.jinja').write_text('{{ messages }}')
    change(folder / 'config.json', model_type='qwen2_5_vl', vision_config={}, text_config={})
    weights(folder / 'model.safetensors', {'a.weight': 16})
    return folder


def change(file: Path, **values: object) -> None:
    tree = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({key: value for key, value in {**tree, **values}.items() if value is not None}))


def weights(file: Path, sizes: dict[str, int], dtype: str = 'F32') -> Path:
    header, at = {}, 0
    for name, size in sizes.items():
        header[name] = {'dtype': dtype, 'shape': [size // 4], 'data_offsets': [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack('<Q', len(text)) + text + bytes(at))
    return file


def faults(folder: Path) -> list[str]:
    return inspect_folder(folder)[0]


def test_a_whole_folder_has_no_fault(model):
    assert inspect_folder(model) == ([], [])


def test_all_faults_of_a_folder_at_once(model, tmp_path, capsys):
    change(
        model / 'config.json', quantization_config={'quant_method': 'awq', 'bits': 4}, architectures=['Qwen2_5_VLModel']
    )
    data = (model / 'model.safetensors').read_bytes()
    (model / 'model.safetensors').write_bytes(data[:-5])
    (model / 'tokenizer_config.json').unlink()
    (model / 'tokenizer.json').write_bytes(b'')
    change(model / 'preprocessor_config.json', size={'height': 448, 'width': 448})
    found = check(tmp_path, capsys, f'model: {{path: {model}}}, history: {{frames: 0}}', '--model')
    assert len(found) == 7
    for word, problem in zip(
        (
            "'history.frames' is 0",
            "says architecture Qwen2_5_VLModel, but family 'qwen2_5_vl' needs Qwen2_5_VLForConditionalGeneration",
            'quantised with awq, which is not supported: take the unquantised checkpoint',
            f'is cut short or damaged: it has {len(data) - 5} bytes, its header says {len(data)}',
            "tokenizer.json' is empty; fetch it again",
            'has no tokenizer_config.json',
            "has no shortest_edge and longest_edge in its size, which family 'qwen2_5_vl' reads",
        ),
        found,
        strict=True,
    ):
        assert word in problem


@pytest.mark.parametrize(
    ('config', 'kind'),
    [
        ({'quantization_config': {'quant_method': 'gptq'}}, 'gptq'),
        ({'quantization_config': {'quant_method': 'torchao'}}, 'torchao'),
        ({'text_config': {'quantization_config': {'quant_method': 'mxfp4'}}}, 'mxfp4'),
        ({'compression_config': {'quant_method': 'compressed-tensors'}}, 'compressed-tensors'),
        ({'quantization': {'group_size': 64, 'bits': 4}}, 'mlx'),
    ],
)
def test_quantised_checkpoints_name_their_kind(model, config, kind):
    change(model / 'config.json', **config)
    [fault] = faults(model)
    assert fault == (
        f"weights of '{model}' are quantised with {kind}, which is not supported: take the unquantised checkpoint and"
        " set model.quantization to '4bit' or '8bit'"
    )


def test_eight_bit_floats_and_other_tools_are_seen_without_a_word_in_the_config(model):
    weights(model / 'model.safetensors', {'a.weight': 16}, 'F8_E4M3')
    assert ['quantised with F8_E4M3' in fault for fault in faults(model)] == [True]
    weights(model / 'model.safetensors', {'a.weight': 16})
    change(model / 'hf_quant_config.json', quantization={})
    assert ['quantised with modelopt' in fault for fault in faults(model)] == [True]


def test_bitsandbytes_names_what_to_install(model, monkeypatch):
    change(model / 'config.json', quantization_config={'load_in_4bit': True, 'load_in_8bit': False})
    monkeypatch.setattr(folder_faults, 'find_spec', lambda name: None if name == 'accelerate' else object())
    [fault] = faults(model)
    assert 'packed with bitsandbytes, which needs accelerate; pip install bitsandbytes accelerate' in fault
    monkeypatch.setattr(folder_faults, 'find_spec', lambda name: None if name == 'peft' else object())
    assert faults(model) == []
    assert folder_faults.packed_bits(model) == '4bit'


def test_adapters(model, monkeypatch):
    change(model / 'adapter_config.json', base_model_name_or_path='maker/base')
    weights(model / 'adapter_model.safetensors', {'lora': 16})
    monkeypatch.setattr(folder_faults, 'find_spec', lambda name: None)
    assert inspect_folder(model) == (
        [],
        [f"the adapter in model folder '{model}' is not applied: merge it into the model to use it"],
    )
    monkeypatch.setattr(folder_faults, 'find_spec', lambda name: object())
    assert 'which transformers would apply through peft' in faults(model)[0]
    only = (
        f"model folder '{model}' holds an adapter only: merge it into its base model, 'maker/base', and set model.path"
        ' to the result'
    )
    (model / 'model.safetensors').unlink()
    assert faults(model) == [only]
    (model / 'config.json').unlink()
    assert faults(model) == [only]


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('q4.gguf', "holds GGUF ('q4.gguf'), and GGUF is not read"),
        ('model.onnx', "holds ONNX ('model.onnx'), and ONNX is not read"),
        ('weights.npz', "holds MLX ('weights.npz'), and MLX is not read"),
        ('consolidated.00.pth', 'has weights as .pth only; convert them to safetensors'),
        ('pytorch_model.bin', 'has weights as .bin only; convert them to safetensors'),
        ('model-00002-of-00003.safetensors', "has 1 of 3 shards, 'model-00002-of-00003.safetensors' among them, but"),
        ('consolidated.safetensors', "no weights file 'model.safetensors'; it has 'consolidated.safetensors', which"),
    ],
)
def test_weights_of_another_kind(model, name, words):
    (model / 'model.safetensors').rename(model / name)
    [fault] = faults(model)
    assert words in fault


def test_a_folder_above_the_model(model):
    [fault] = faults(model.parent)
    assert fault == f"'{model.parent}' is no model folder: it has no config.json; perhaps '{model}' is meant"


def shard(model: Path, places: dict[str, str]) -> None:
    (model / 'model.safetensors').unlink()
    (model / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': places}))


def test_shards(model):
    shard(model, {'a': 's1.safetensors', 'b': 's2.safetensors', 'c': 's3.safetensors'})
    weights(model / 's1.safetensors', {'a': 8})
    assert [
        "lacks 2 of the 3 weights files that its index names, such as 's2.safetensors'" in fault
        for fault in faults(model)
    ] == [True]
    weights(model / 's2.safetensors', {'x': 8})
    (model / 's3.safetensors').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n')
    assert faults(model) == [
        f"weights file '{model / 's2.safetensors'}' lacks 1 tensors that the index places there, such as 'b'; index and"
        ' shards do not belong together',
        f"weights file '{model / 's3.safetensors'}' is only a Git LFS pointer; fetch it with git lfs pull",
    ]
    weights(model / 's2.safetensors', {'b': 8})
    weights(model / 's3.safetensors', {'c': 8})
    assert faults(model) == []


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        (b'', 'is empty; fetch it again'),
        (struct.pack('<Q', 2**60) + b'{}', f'has no readable header: it would take {2**60} bytes, the file has 10'),
        (struct.pack('<Q', 2) + b'{}', 'holds no tensor'),
        (struct.pack('<Q', 2) + b'{]', 'has no readable header'),
        (struct.pack('<Q', 2) + b'{}more', 'it has 14 bytes, its header says 10'),
    ],
)
def test_damaged_weights(model, data, words):
    (model / 'model.safetensors').write_bytes(data)
    [fault] = faults(model)
    assert words in fault


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        ({'model_type': 'qwen3_vl_moe'}, "; the nearest is 'qwen3_vl'"),
        ({'model_type': 'llama', 'vision_config': None, 'architectures': ['LlamaForCausalLM']}, 'reads text only'),
        ({'model_type': None}, "model family 'None'"),
    ],
)
def test_families(model, config, words):
    change(model / 'config.json', **config)
    [fault] = faults(model)
    assert words in fault


@pytest.mark.parametrize(
    ('family', 'size', 'words'),
    [
        (
            'qwen2_5_vl',
            {'shortest_edge': 1, 'longest_edge': 2, 'min_pixels': 1, 'max_pixels': 2},
            'has min_pixels and max_pixels in its size beside shortest_edge and longest_edge, which are what family'
            " 'qwen2_5_vl' reads: delete min_pixels and max_pixels there",
        ),
        ('qwen2_vl', {'min_pixels': 1, 'max_pixels': 2}, ''),
        ('qwen2_vl', None, ''),
        ('qwen3_vl', {'shortest_edge': 1}, 'has no longest_edge in its size'),
        ('internvl', {'height': 448, 'width': 448}, ''),
        ('gemma3', {'shortest_edge': 448}, 'has no height and width in its size'),
        ('smolvlm', {'longest_edge': 512}, ''),
        ('qwen2_vl', {'shortest_edge': 1, 'longest_edge': 2**28}, ''),
        (
            'qwen2_vl',
            {'shortest_edge': 0, 'longest_edge': 2**28},
            'has shortest_edge 0 in its size; it must be a whole number between 1 and 268435456',
        ),
        ('qwen2_vl', {'min_pixels': 1, 'max_pixels': 2**28 + 1}, 'has max_pixels 268435457 in its size'),
        ('internvl', {'height': 448, 'width': 44.5}, 'has width 44.5 in its size'),
        ('internvl', {'height': True, 'width': 448}, 'has height True in its size'),
        ('gemma3', {'height': 2**14 + 1, 'width': 2**14}, 'has height 16385 in its size; it must be a whole number'),
        ('smolvlm', {'longest_edge': -512}, 'has longest_edge -512 in its size'),
    ],
)
def test_sizes_of_image_processors(model, family, size, words):
    change(model / 'config.json', model_type=family)
    change(model / 'preprocessor_config.json', size=size)
    found = faults(model)
    assert len(found) == (1 if words else 0)
    assert not words or (words in found[0] and str(model / 'preprocessor_config.json') in found[0])


@pytest.mark.parametrize('step', ['do_resize', 'do_rescale', 'do_normalize'])
def test_an_image_processor_that_leaves_out_what_the_model_was_trained_with(model, step):
    change(model / 'preprocessor_config.json', **{step: False})
    [fault] = faults(model)
    assert fault == (
        f"'{model / 'preprocessor_config.json'}' has {step} false, but the model was trained on images after that step:"
        ' set it to true there'
    )


def test_broken_json_is_named_with_its_file(model):
    for name in ('config.json', 'preprocessor_config.json', 'tokenizer.json'):
        (model / name).write_text('{"a": ')
    assert [
        f"'{model / name}' cannot be read as JSON" in fault
        for name, fault in zip(
            ('config.json', 'tokenizer.json', 'preprocessor_config.json'), faults(model), strict=True
        )
    ] == [True] * 3


# -- before torch


def test_outputs_that_cannot_be_written(tmp_path):
    taken = write(tmp_path / 'taken', '')
    for path, sentence in ((taken, 'is a file, where a folder'), (Path('/proc/out'), 'cannot be written to')):
        with pytest.raises(StpruneError, match=sentence):
            require_folder(path)
    with pytest.raises(StpruneError, match=r"taken/out' cannot be written to: Not a directory; name another"):
        require_folder(taken / 'out')
    for path, sentence in (
        (tmp_path, 'is a folder'),
        (tmp_path / 'a.png', 'plot'),
        (tmp_path / 'x' / 'a', 'no folder'),
    ):
        with pytest.raises(StpruneError, match=sentence):
            require_file(path)
    require_folder(tmp_path / 'new' / 'folder')
    require_file(tmp_path / 'new.json')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['taken']


def test_the_output_is_not_the_bag(tmp_path):
    bag = write_bag(tmp_path / 'bag', drive(1))
    for output, source in ((bag, bag), (tmp_path / 'bag' / '..' / 'bag', bag)):
        with pytest.raises(StpruneError, match='is where the bag itself lies'):
            require_folder(output, source)
    results = write(tmp_path / 'results.mcap', '')
    with pytest.raises(StpruneError, match='is where the bag itself lies'):
        require_folder(tmp_path, results)
    require_folder(tmp_path, bag)


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    return write_bag(tmp_path_factory.mktemp('bags') / 'bag', drive(1))


@pytest.mark.parametrize(
    ('arguments', 'code', 'words'),
    [
        ('replay /nowhere --output {out}', 1, "bag '/nowhere' does not exist"),
        ('replay {file} --output {out}', 1, 'is not a rosbag2 bag'),
        ('replay {bag} --output {file}', 1, 'is a file, where a folder'),
        ('replay {bag} --output {bag}', 1, 'is where the bag itself lies'),
        ('replay {bag} --output {out} --keep 7', 2, 'a number in [0.001, 1]'),
        ('replay {bag} --output {out} --params {file}', 1, "has no 'ros__parameters'"),
        ('replay {bag} --output {out} --params {model}', 1, 'is no model folder'),
        ('replay {bag} --output {out} --params {prompt}', 1, "prompt file '/nowhere.yaml' cannot be read"),
        ('calibrate {bag} --output {tmp}/c.yaml', 1, 'give another one to hold out'),
        ('calibrate {bag} /nowhere --output {tmp}/c.yaml', 1, 'has no truth.json beside it: give --truth FILE'),
        ('calibrate {bag} /nowhere --truth {file} --output {tmp}/c.yaml', 1, 'they must be stamp_ns, behavior'),
        ('calibrate {bag} --tolerance 0 --output {tmp}/c.yaml', 2, 'is not a number above 0'),
        ('replay {bag} --output {out} --params {calibration}', 1, "calibration file '/nowhere.yaml' cannot be read"),
        ('play /nowhere', 1, "bag '/nowhere' does not exist"),
        ('play {bag} --rate 0', 2, 'is not a number above 0'),
        ('world {file}', 1, 'exists already'),
        ('world {out} --seed -1', 2, 'is not an integer of at least 0'),
        ('eval --output {out}/x/e.json', 1, 'there is no folder'),
        ('eval --output {tmp}', 1, 'is a folder; name a file'),
        ('eval --output {tmp}/e.json --methods magic', 1, "there is no pruning method 'magic'"),
        ('eval --output {tmp}/e.json --methods mtp+magic', 1, "there is no switch 'magic'"),
        ('bench --output {tmp}/b.png', 1, 'would be overwritten by the plot'),
        ('bench --output /proc/b.json', 1, "'/proc' cannot be written to"),
        ('demo --output {file}', 1, 'is a file, where a folder'),
        ('demo --output {out} --params {prompt}', 1, "prompt file '/nowhere.yaml' cannot be read"),
        ('check {model} --model', 1, 'is no model folder'),
        ('check {tmp}/none.yaml', 1, 'cannot be read'),
    ],
)
def test_commands_refuse_before_torch_is_imported(tmp_path, bag, arguments, code, words):
    """Torch is blocked, so that a slow machine cannot make this fail; the time is that of the child alone."""
    if arguments.startswith(('play', 'demo')):
        pytest.importorskip('rclpy')
    head = '/**: {{ros__parameters: {{{}}}}}'
    places = {
        'tmp': tmp_path,
        'bag': bag,
        'out': tmp_path / 'out',
        'file': write(tmp_path / 'file', 'a: 1'),
        'model': write(tmp_path / 'm.yaml', head.format(f'model: {{path: {tmp_path}}}')),
        'prompt': write(tmp_path / 'p.yaml', head.format('prompt: {file: /nowhere.yaml}')),
        'calibration': write(tmp_path / 'q.yaml', head.format('prompt: {calibration: /nowhere.yaml}')),
    }
    words_given = [word.format(**places) for word in arguments.split()]
    program = "import sys; sys.modules['torch'] = None; from stprune_ros.cli import main; sys.exit(main(sys.argv[1:]))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, '-c', program, *words_given], capture_output=True, text=True, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'out').exists()
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert spent < MOST_CPU_S


def test_the_files_of_llama_cpp_are_looked_for(tmp_path, capsys):
    given = {
        'model.engine': 'llama.cpp',
        'model.gguf': f'{tmp_path}/no.gguf',
        'model.engine_library': f'{tmp_path}/no.so',
    }
    file = tmp_path / 'p.yaml'
    file.write_text(yaml.safe_dump({'/**': {'ros__parameters': given}}))
    assert main(['check', str(file)]) == 1
    gguf, library = capsys.readouterr().err.splitlines()
    assert f'{tmp_path}/no.gguf' in gguf and library.endswith("no.so', and there is no such file")
