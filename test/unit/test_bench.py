"""What the bench computes and selects; never how long anything takes."""

import json
import math
from dataclasses import replace

import jsonschema
import pytest
import torch
import transformers
from helpers import references
from torch.utils.flop_counter import FlopCounterMode

from stprune_ros import cli
from stprune_ros.bench import bounds, gpu, selection, ticks
from stprune_ros.bench.aims import growth_exponents, judge_aims, log_log_slope
from stprune_ros.bench.architectures import QWEN3_2B, QWEN3_4B, QWEN25_3B
from stprune_ros.bench.bounds import DEVICES, lower_bounds
from stprune_ros.bench.costs import LLAMA_8B, QWEN3_VL_2B, LanguageShape
from stprune_ros.bench.report import to_markdown
from stprune_ros.bench.selection import (
    FLOOR,
    GROWING,
    GROWING_LOOP,
    JOINT,
    JOINT_REUSE,
    LOOPS,
    MAIN_SIZE,
    REUSING,
    TIMED_METHODS,
    RingSize,
    TimeLimits,
)
from stprune_ros.inference.stages import STAGES
from stprune_ros.pruning.baselines.diversity import divprune_growing, farthest_points, grow
from stprune_ros.pruning.pruner import final_budget
from stprune_ros.pruning.selection import token_budget
from stprune_ros.vlm.hf.families import FAMILIES
from stprune_ros.vlm.hf.model_checks import supported_class

SMALL = RingSize(3, 3, 3, 4, 16, 0.25)
FULL_PROMPT = 6 * 4 * 196 + 96


def test_the_flops_of_the_published_example():
    assert LLAMA_8B.prefill_flops(FULL_PROMPT) / 1e12 == pytest.approx(79.2, abs=0.15)
    pruned = LLAMA_8B.prefill_flops(6 * final_budget(0.1, 784) + 96)
    assert pruned / LLAMA_8B.prefill_flops(FULL_PROMPT) == pytest.approx(0.103, abs=0.002)


def test_the_kv_cache_of_the_published_example():
    assert LLAMA_8B.kv_bytes(FULL_PROMPT) == 600 * 2**20
    assert LLAMA_8B.kv_bytes(6 * final_budget(0.1, 784) + 96) / 2**20 == pytest.approx(71, abs=0.6)


def test_weights_add_up_to_the_published_sizes():
    assert QWEN3_VL_2B.weight_bytes() / 2 == pytest.approx(1.72e9, rel=0.01)  # the language model, embeddings tied
    assert (LLAMA_8B.weight_bytes() / 2) + 128256 * 4096 == pytest.approx(8.03e9, rel=0.01)  # and untied ones


@pytest.mark.parametrize(('architecture', 'billions'), [(QWEN3_2B, 2.13), (QWEN3_4B, 4.44), (QWEN25_3B, 3.75)])
def test_whole_models_have_the_published_number_of_weights(architecture, billions):
    model_class = supported_class(FAMILIES[architecture.family], transformers)
    with torch.device('meta'):
        config = architecture.config(architecture.language.layers, architecture.vision_layers)
        model = model_class._from_config(model_class.config_class(**config))
    assert sum(weights.numel() for weights in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.006)


@pytest.mark.parametrize(('architecture', 'tokens'), [(QWEN3_2B, 16), (QWEN25_3B, 36), (QWEN25_3B, 4)])
def test_a_tower_takes_the_flops_that_torch_counts(architecture, tokens):
    """Two layers of it, of which Qwen2.5-VL's second one looks at all patches and the first into windows."""
    architecture = replace(architecture, language=replace(architecture.language, hidden_size=64))
    model_class = supported_class(FAMILIES[architecture.family], transformers)
    config = model_class.config_class(**architecture.config(1, 2)).vision_config
    config._attn_implementation = 'eager'
    with torch.device('meta'):
        shapes = model_class._from_config(model_class.config_class(**architecture.config(1, 2)))
    tower = type(shapes.base_model.visual)._from_config(config)
    matrices = sum(weights.numel() for name, weights in tower.named_parameters() if weights.dim() > 1)
    positions = (
        config.num_position_embeddings * config.hidden_size
        if architecture is not QWEN25_3B and hasattr(config, 'num_position_embeddings')
        else 0
    )
    assert architecture.vision_weights(2) == matrices - positions
    edge = 2 * math.isqrt(tokens)
    patches = torch.zeros(edge**2, architecture.patch_values)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tower(patches, torch.tensor([[1, edge, edge]]))
    assert architecture.vision_flops(tokens, 2) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_what_is_computed_says_so_and_what_it_assumes():
    rows = lower_bounds([QWEN3_2B], DEVICES[:1], 6, 4, 196)
    assert [row['measured'] for row in rows] == [False] * 4
    assert [(row['weights'], row['keep'], row['images']) for row in rows] == [
        ('F16', 1.0, 24),
        ('F16', 0.1, 6),
        ('Q4_K_M', 1.0, 24),
        ('Q4_K_M', 0.1, 6),
    ]
    full, _, packed, pruned = rows
    read = bounds.token_bytes(QWEN3_VL_2B, 'F16')
    assert full['prefill_flops'] == QWEN3_VL_2B.prefill_flops(6 * 784 + 96)
    assert full['encode_flops'] == 24 * QWEN3_2B.vision_flops(196, 24) == 4 * pruned['encode_flops']
    stages = full['stage_ms']
    assert stages['encode'] == pytest.approx(1e3 * full['encode_flops'] / 42.5e12, abs=1e-3)
    assert (
        stages['prefill']
        == packed['stage_ms']['prefill']
        == pytest.approx(1e3 * full['prefill_flops'] / 42.5e12, abs=1e-3)
    )
    assert stages['hint'] == pytest.approx(1e3 * (read + QWEN3_VL_2B.kv_bytes(6 * 784 + 96)) / 204.8e9, abs=1e-3)
    assert stages['write'] == pytest.approx(bounds.WRITTEN * full['token_ms'], abs=0.1)
    assert full['hint_ms'] == pytest.approx(sum(stages[name] for name in ('encode', 'prefill', 'hint')), abs=0.01)
    assert full['tick_ms'] == pytest.approx(sum(stages.values()), abs=0.01)
    assert packed['token_ms'] < 0.6 * full['token_ms']
    # Few tokens: reading the weights once is what bounds prefill and tower.
    short = lower_bounds([QWEN3_2B], DEVICES[:1], 1, 1, 1)[0]['stage_ms']
    assert short['prefill'] == pytest.approx(1e3 * read / 204.8e9, abs=1e-3)
    assert short['encode'] == pytest.approx(1e3 * 2 * QWEN3_2B.vision_weights(24) / 204.8e9, abs=1e-3)
    assert '| 100%, no feature cache |' in bounds.to_table(rows)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('method', [name for name in TIMED_METHODS if name not in (LOOPS, 'random')])
def test_every_timed_method_selects_what_its_reference_selects(method, seed):
    views = selection.random_ring(SMALL, seed)
    run = selection.prepare_method(method, views, SMALL)
    ours = {'ring_budget': True}  # the default settings
    if 'joint' in method:
        ours['gauge'] = True
    if method in REUSING:
        reference = getattr(references, f'reference_{REUSING[method]}')
        nexts = [views, selection.advance_ring(views)]
        expected = [reference(ring, SMALL.frames, SMALL.keep, **ours) for ring in nexts]
        # In random features nothing stands out: the joint form keeps an even lattice on any newest frame.
        assert expected[0] != expected[1] or 'joint' in method
        assert [[picked(mask) for mask in run()] for _ in range(4)] == expected * 2
        return
    masks = run()
    if method == GROWING_LOOP:
        masks = masks[0].split([view.count for view in views])
    if method in REUSING.values():
        expected = getattr(references, f'reference_{method}')(views, SMALL.frames, SMALL.keep, **ours)
    else:
        baseline = 'divprune' if method in (GROWING, GROWING_LOOP) else method
        expected = [sorted(kept) for kept in getattr(references, f'reference_{baseline}')(views, SMALL.keep)]
    assert [picked(mask) for mask in masks] == expected


def picked(mask):
    return mask.flatten().nonzero().flatten().tolist()


def test_the_floor_is_the_product_and_the_loops_keep_their_budgets():
    views = selection.random_ring(SMALL)
    for view, product in zip(views, selection.prepare_method(FLOOR, views, SMALL)()):
        x = torch.nn.functional.normalize(view.tokens.flatten(0, 2), dim=-1)
        assert torch.allclose(product, x @ x.T, atol=1e-6)
    kept = selection.prepare_method(LOOPS, views, SMALL)()
    assert [int(mask.sum()) for mask in kept] == [final_budget(SMALL.keep, 36)] * 3


def test_the_growing_loop_never_takes_a_copy_twice():
    x = torch.eye(2).repeat_interleave(4, dim=0)
    assert int(divprune_growing(x, 6).sum()) == 6
    assert torch.equal(grow(1 - x @ x.T, 6), farthest_points(x, 6))


def test_what_takes_too_long_or_too_much_memory_is_said(monkeypatch):
    sizes = [SMALL, RingSize(3, 3, 6, 8, 16, 0.25)]
    first, second = selection.measure_selections(sizes, TimeLimits(0.0, 0.0))
    assert all('ms_median' in row for row in first)
    assert {row['method'] for row in second if 'more than the 0 s allowed' in row['reason']} == {FLOOR, *TIMED_METHODS}
    monkeypatch.setattr(selection, 'available_memory', lambda: 10)
    [rows] = selection.measure_selections(sizes[:1], TimeLimits(0.0, 1.0))
    assert all('GiB are free' in row['reason'] for row in rows)


def test_times_are_extrapolated_from_the_largest_size(monkeypatch):
    monkeypatch.setattr(selection, '_run_times', lambda run, limits: [1000.0])
    sizes = [RingSize(1, 2, 2, 2, 8), RingSize(3, 2, 4, 4, 16), RingSize(3, 2, 8, 4, 16), RingSize(3, 2, 32, 32, 16)]
    found = [row for rows in selection.measure_selections(sizes, TimeLimits(0.0, 30.0)) for row in rows]
    rows = [row for row in found if row['method'] == 'evs']
    # 24 times the work took no longer than the smallest size, so twice as much again takes 2 s and not 48.
    assert ['reason' in row for row in rows] == [False, False, False, True]
    assert rows[3]['reason'].startswith('about 32 s')


def test_tables_say_what_is_missing():
    row = {'views': 3, 'frames': 3, 'tokens': 108, 'dim': 16, 'keep': 0.25}
    measured = {**row, 'method': 'tfps_view', 'ms_median': 1.0, 'ms_min': 0.5, 'ms_max': 2.0, 'over_floor': None}
    result = {
        'device': {'name': 'CPU', 'kind': 'cpu', 'threads': 1},
        'date': 'today',
        'versions': {'torch': '2'},
        'seconds': 1.0,
        'selection': [measured],
        'growth': [],
        'ticks': [],
        'not_measured': [{**row, 'method': FLOOR, 'reason': 'too slow'}],
        'computed': [],
        'aims': [{'aim': 'fast', 'found': None, 'computed': None, 'holds': None}],
    }
    text = to_markdown(result)
    assert '| 108 (3 x 3) | 16 | 25% | not measured |' in text
    assert '| 1 (0.5 to 2) |' in text
    assert f'- {FLOOR} on 108 tokens (3 x 3), D = 16, 25% kept: too slow' in text
    assert '| fast |  |  | not measured |' in text


def test_growth_is_the_slope_in_tokens():
    assert log_log_slope([(x, 3 * x**1.7) for x in (10, 20, 90)]) == pytest.approx(1.7)
    rows = [
        {'method': FLOOR, 'tokens': 1176 * n, 'views': 6, 'frames': n, 'dim': 2048, 'keep': 0.1, 'ms_median': n**2}
        for n in (1, 2, 4, 8)
    ]
    rows[0]['ms_median'] = 1e6  # a single frame, which has no temporal stage
    other = {**rows[1], 'dim': 64, 'ms_median': 1e6}
    assert growth_exponents([*rows, other]) == [{'method': FLOOR, 'along': 'frames', 'points': 3, 'exponent': 2.0}]


def tick(keep, cached, encode, prefill, total, flops):
    stages = {'encode': encode, 'prune': 1.0, 'prefill': prefill, 'hint': 20.0, 'describe': 50.0}
    return {
        'model': 'M',
        'keep': keep,
        'frames': 4,
        'feature_cache': cached,
        'stage_ms': {name: {'median': ms} for name, ms in stages.items()},
        'tick_ms': {'median': total},
        'prefill_flops': flops,
    }


def test_aims_are_judged_by_their_numbers_and_open_where_nothing_was_measured():
    same = {'views': 6, 'frames': 4, 'tokens': MAIN_SIZE.tokens, 'dim': 2048, 'keep': 0.1}
    measured = ((FLOOR, 10), (JOINT, 21), (GROWING, 210), ('divprune', 209))
    rows = [{**same, 'method': name, 'ms_median': ms} for name, ms in measured]
    tick_rows = [
        tick(1.0, True, 100, 1000, 1500, 100),
        tick(0.1, True, 100, 117, 290, 10),
        tick(1.0, False, 400, 1000, 2300, 100),
    ]
    found = {row['aim']: (row['found'], row['holds']) for row in judge_aims(rows, tick_rows)}
    assert found[f'{JOINT}: times the similarity product, at most 2'] == (2.1, False)
    assert found[f'{JOINT}: times faster than divprune_growing, at least 10'] == (10.0, True)
    assert found[f'{JOINT}: times faster than divprune, at least 10'] == (pytest.approx(9.952), False)
    assert found[f'{JOINT_REUSE}: times the similarity product, at most 0.7'] == (None, None)
    judged = [row for row in judge_aims(rows, tick_rows) if row['aim'].startswith('M: ')]
    assert [row['holds'] for row in judged] == [True, False, True, False]  # 0.1 %, 7.93 times, 9.4 times, 17 % off
    # Encoding a quarter, prefill a tenth; the rest as measured at 10 %.
    assert judged[1]['computed'] == pytest.approx(2300 / (100 + 1 + 100 + 20 + 50), abs=1e-3)
    assert judged[2]['computed'] == pytest.approx(2250 / (100 + 1 + 100 + 20), abs=1e-3)


def test_an_expected_tick_scales_its_prefill_and_its_images():
    model = ticks.TickModel(QWEN3_2B, 1, 1)
    stages = {'prepare': 0.0, 'encode': 100.0, 'prefill': 1000.0, 'hint': 50.0}
    done = {ticks.TickCell(1.0, True): [{'stage_ms': stages, 'tokens_text': 10}]}
    assert ticks._expected_s(model, ticks.TickCell(1.0, False), {}) == 0
    assert ticks._expected_s(model, ticks.TickCell(1.0, False), done) == pytest.approx(0.1 * 4 + 1.05)
    assert ticks._expected_s(model, ticks.TickCell(1.0, True), done) == pytest.approx(1.15)
    assert 0.15 < ticks._expected_s(model, ticks.TickCell(0.1, True), done) < 0.15 + 0.12


def test_ticks_that_find_no_time_or_no_memory_are_said(monkeypatch):
    turns = []
    run = {'stage_ms': dict.fromkeys(STAGES, 4e3), 'kv_bytes': 1, 'peak_bytes': None} | dict.fromkeys(
        ('tokens_full', 'tokens_visual', 'tokens_text'), 1
    )

    class Runner:
        def __init__(self, model, dtype):
            pass

        def run(self, cell, frames=None):
            turns.append(cell)
            clock[0] += tick_s
            return run

    clock, tick_s = [0.0], 4 * len(STAGES)
    monkeypatch.setattr(ticks, 'TickRunner', Runner)
    monkeypatch.setattr(ticks.time, 'monotonic', lambda: clock[0])
    monkeypatch.setattr(ticks, 'available_memory', lambda: None)
    model = ticks.QUICK_MODELS[0]
    rows = ticks.measure_ticks(model, tick_s * 4.5, (1.0, 0.1), 3, lambda: None)
    assert ticks.tick_cells((1.0, 0.5, 0.25, 0.1))[4:] == [(0.25, True), (0.5, True)]
    # The small one first; all tokens would take too long, so that there is time for another of the short ones.
    assert turns == [(0.1, True), (0.1, False), (0.1, True), (0.1, False)]
    assert [(row['keep'], row['feature_cache']) for row in rows if 'reason' in row] == [(1.0, True), (1.0, False)]
    assert rows[0]['tick_ms'] == dict.fromkeys(('median', 'min', 'max'), 1e3 * tick_s)
    assert 'would have exceeded' in rows[-1]['reason']
    monkeypatch.setattr(ticks, 'available_memory', lambda: 2**20)
    rows = ticks.measure_ticks(model, 1e9, (1.0, 0.1), 3, lambda: None)
    assert len(rows) == 4 and all('GiB are free' in row['reason'] for row in rows)


def test_a_folder_that_is_not_there_is_said_before_anything_runs(tmp_path, capsys):
    assert cli.main(['bench', '--output', str(tmp_path / 'none' / 'b.json')]) == 1
    assert f"there is no folder '{tmp_path / 'none'}'" in capsys.readouterr().err


SELECTION_KEYS = ['method', 'tokens', 'views', 'frames', 'dim', 'keep', 'runs', 'ms_median', 'ms_min', 'ms_max']
TICK_KEYS = ['model', 'dtype', 'layers', 'layers_of', 'keep', 'feature_cache', 'stage_ms', 'tick_ms', 'kv_bytes']
SCHEMA = {
    'type': 'object',
    'required': ['device', 'date', 'versions', 'selection', 'ticks', 'not_measured', 'computed', 'growth', 'aims'],
    'properties': {
        'selection': {'minItems': 1, 'items': {'required': [*SELECTION_KEYS, 'over_floor']}},
        'ticks': {
            'minItems': 1,
            'items': {'required': TICK_KEYS, 'properties': {'extrapolated': {'const': False}}},
        },
        'not_measured': {'items': {'required': ['reason']}},
        'computed': {'items': {'properties': {'measured': {'const': False}}}},
    },
}


def test_a_gpu_bench_needs_a_gpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    output = tmp_path / 'bench.json'
    assert cli.main(['bench', '--output', str(output), '--gpu']) == 1
    assert 'stprune bench --gpu needs a GPU that torch can use, and it finds none' in capsys.readouterr().err
    assert not output.exists()


def cell(keep, prefill, kernels, hint):
    return {
        'model': gpu.HINT_MODEL,
        'keep': keep,
        'stage_ms': {'prefill': {'p50': prefill, 'p95': 1e3}},
        'hint_ms': {'p50': 1.0, 'p95': hint},
        'prefill_kernel_ms': kernels,
    }


def test_aims_on_a_gpu_are_judged_by_their_numbers():
    methods = [{'method': name, 'ms': {'p50': ms}} for name, ms in ((JOINT, 1.2), (JOINT_REUSE, 0.8))]
    judged = gpu.judge_aims(methods, [cell(1.0, 64.0, 70.0, 300.0), cell(0.1, 10.0, 11.0, 149.0)])
    assert [(row['found'], row['holds']) for row in judged] == [
        (1.2, False),
        (0.8, True),
        (6.4, True),
        (pytest.approx(6.364), False),
        (149.0, True),
    ]
    judged = gpu.judge_aims(methods, [cell(1.0, 63.0, None, 300.0), cell(0.1, 10.0, None, 150.0)])
    assert [row['holds'] for row in judged] == [False, True, False, False]


def test_percentiles_are_those_of_the_values():
    assert gpu.percentiles([*range(1, 101)]) == {'p50': 50.5, 'p95': 95.05, 'max': 100.0}


@pytest.mark.slow
def test_a_gpu_bench_of_small_models_on_the_cpu():
    """All of it but the GPU: tokens, times, FLOPs, and tables that say what holds."""
    tiny = LanguageShape('tiny', 4, 64, 4, 2, 128, 128, 512)
    model = ticks.TickModel(replace(QWEN3_2B, language=tiny), 3, 2, views=3, frames=2, tokens_per_edge=2)
    result = gpu.bench_gpu([model], SMALL, 'float32', 2, 2)
    assert [row['method'] for row in result['selection']] == list(gpu.METHODS)
    assert [row['keep'] for row in result['ticks']] == [1.0, 0.25, 0.1]
    for row in result['ticks']:
        assert row['tokens_visual'] == 3 * token_budget(row['keep'], 8)
        assert row['prefill_flops'] == model.shape.prefill_flops(row['tokens_visual'] + row['tokens_text'])
        assert list(row['stage_ms']) == list(STAGES)
        upto = [row['stage_ms'][stage]['p50'] for stage in STAGES if stage != 'describe']
        assert sum(upto) == pytest.approx(row['hint_ms']['p50'], rel=0.3)
        assert row['tick_ms']['p50'] > row['hint_ms']['p50'] > 0
    text = gpu.to_markdown(result)
    assert '| tiny (3 of 4 layers, vision 2 of 24) | 10% | 3 + ' in text
    assert 'prefill at 10 %, times faster, at least 6.4 | ' in text and '**does not hold**' in text


@pytest.mark.slow
@pytest.mark.parametrize('size', ['--quick', '--whole'])
def test_a_small_bench_from_end_to_end(size, tmp_path, monkeypatch, capsys):
    """All of it on sizes that take seconds: the schema, the kept tokens, the KV cache by formula."""
    tiny = LanguageShape('tiny', 4, 64, 4, 2, 128, 128, 512)
    narrow = LanguageShape('narrow', 2, 512, 4, 2, 128, 64, 512)
    models = [
        ticks.TickModel(replace(QWEN3_2B, language=tiny), 3, 2, views=3, frames=2, tokens_per_edge=2),
        ticks.TickModel(replace(QWEN25_3B, language=narrow), 2, 2, views=3, frames=2, tokens_per_edge=2),
    ]
    monkeypatch.setattr(selection, 'QUICK_SIZES' if size == '--quick' else 'DEFAULT_SIZES', (SMALL,))
    monkeypatch.setattr(ticks, 'QUICK_MODELS', tuple(models))
    monkeypatch.setattr(ticks, 'DEFAULT_MODELS', models[:1])
    monkeypatch.setattr(ticks, 'FULL_DEPTH_MODELS', models[1:])
    output = tmp_path / 'bench.json'
    assert cli.main(['bench', '--output', str(output), size]) == 0
    result = json.loads(output.read_text())
    jsonschema.validate(result, SCHEMA)
    assert {row['method'] for row in result['selection']} == {FLOOR, *TIMED_METHODS}
    keeps = ticks.QUICK_KEEP_RATIOS if size == '--quick' else ticks.KEEP_RATIOS
    for row in result['ticks']:
        assert row['tokens_visual'] == 3 * token_budget(row['keep'], 8)
        assert row['kv_bytes'] == row['kv_bytes_by_formula']
        assert list(row['stage_ms']) == list(STAGES)
    assert len(result['ticks']) == 2 * len(ticks.tick_cells(keeps))
    assert output.with_suffix('.png').stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert to_markdown(result) in printed
    assert 'tiny (3 of 4 layers, vision 2 of 24)' in printed
    assert 'narrow (2 of 2 layers, vision 2 of 32)' in printed
