"""The memory budget: counted from files alone, equal to what the bundled model really takes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from stprune_ros import cli
from stprune_ros.core.types import StpruneError
from stprune_ros.settings import Settings
from stprune_ros.share import share
from stprune_ros.vlm.loading import BUNDLED_MODEL, memory
from stprune_ros.vlm.memory import GIB, Budget, available, fits, header, too_much

SIDE = 160 * 96  # pixels of a ringworld picture


def counted(**changes):
    values = {'model.device': 'cpu', **{name.replace('__', '.'): value for name, value in changes.items()}}
    return memory(Settings(values), SIDE)[0]


def test_equals_what_the_bundled_model_holds():
    from stprune_ros.vlm.transformers_loading import load_parts

    model = load_parts(share(BUNDLED_MODEL), device='cpu').model
    budget = counted(pruning__keep_ratio=1.0)
    assert budget.weights == sum(weight.numel() * 4 for weight in model.state_dict().values())
    assert budget.tokens == budget.kept == 6 * 4 * 60
    text = model.config.text_config
    assert budget.features == budget.tokens * text.hidden_size * 4
    per_token = budget.kv_full / (budget.tokens + 300)
    assert per_token == 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 4


def test_half_precision_takes_half():
    full, half = counted(model__dtype='float32'), counted(model__dtype='bfloat16')
    assert (2 * half.weights, 2 * half.features, 2 * half.kv) == (full.weights, full.features, full.kv)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 0.99))
def test_fewer_tokens_never_take_more(keep):
    some, everything = counted(pruning__keep_ratio=keep), counted(pruning__keep_ratio=1.0)
    assert some.total <= everything.total
    assert some.kv <= some.kv_full == everything.kv_full


def test_header_counts_numbers_by_type(tmp_path):
    path = tmp_path / 'model.safetensors'
    save_file({'a': torch.zeros(3, 4), 'b': torch.zeros(5, dtype=torch.bfloat16), 'c': torch.zeros(2)}, path)
    assert header(path) == {'F32': 14, 'BF16': 5}
    path.write_bytes(b'no such thing as a header')
    with pytest.raises(StpruneError, match='is broken'):
        header(path)


def test_memory_of_the_machine(tmp_path):
    assert 0 < available() < 1 << 50
    path = tmp_path / 'meminfo'
    path.write_text('MemTotal: 8 kB\nMemAvailable: 5 kB\n')
    assert available(path) == 5 * 1024
    path.write_text('MemTotal: 8 kB\n')
    with pytest.raises(StpruneError, match='--memory'):
        available(path)


def test_too_much_is_said_with_both_numbers():
    budget = Budget(6 * GIB, GIB, GIB, 2 * GIB, 0, 100, 10)
    assert fits(budget, 9 * GIB)
    assert not fits(budget, 8 * GIB)
    assert 'needs 8.00 GiB, but 7.20 GiB can be used of 8.00 GiB' in too_much(budget, 8 * GIB)


def test_check_prints_the_budget(tmp_path, capsys):
    file = tmp_path / 'my.param.yaml'
    file.write_text('/**:\n  ros__parameters:\n    pruning:\n      keep_ratio: 0.1\n')
    assert cli.main(['check', str(file), '--model', '--image', '160x96', '--memory', '4']) == 0
    said = capsys.readouterr().out
    assert '1440 visual tokens, 144 kept' in said
    assert 'of 4.00 GiB' in said
    assert cli.main(['check', str(file), '--model', '--memory', '0.001']) == 1
    assert 'choose a smaller model' in capsys.readouterr().out
