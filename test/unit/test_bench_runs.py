"""What the bench compares in one run: engines, selections in turn, counted memory, and the pages it writes."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers.engines import needs_llama

from stprune_ros import cli
from stprune_ros.bench import bounds, engine_report, engines, memory, page, selection, selection_report, ticks
from stprune_ros.bench.architectures import QWEN3_2B, QWEN25_3B
from stprune_ros.bench.costs import LanguageShape
from stprune_ros.bench.selection import FLOOR, GROWING, JOINT, JOINT_REUSE, RingSize
from stprune_ros.errors import StpruneError

SMALL = RingSize(3, 3, 3, 4, 16, 0.25)


def test_selections_in_turn_are_compared_round_by_round():
    ms = {FLOOR: [10.0, 20.0, 10.0], JOINT: [19.0, 41.0, 20.0], JOINT_REUSE: [7.0, 14.0, 7.1]}
    ms |= {GROWING: [190.0, 410.0, 220.0], 'divprune': [100.0, 200.0, 100.0]}
    rows = [{'method': name, 'views': 6, 'frames': 4, 'ms': each} for name, each in ms.items()]
    assert selection_report.paired_ratio(rows, JOINT, FLOOR) == 2.0
    judged = selection_report.judge_aims(rows)
    assert [(row['found'], row['holds']) for row in judged] == [
        (2.0, True),
        (0.7, True),
        (10.0, True),
        (pytest.approx(5.0), False),
        (pytest.approx(29.286), True),
        (pytest.approx(14.286), False),
    ]
    # 60 blocks within views, of which 24 are five eighths of one, and 60 across; of 96 in the bare products.
    assert judged[0]['computed'] == pytest.approx((36 + 24 * 5 / 8 + 60) / 96, abs=1e-3)
    assert judged[1]['computed'] == pytest.approx((18 + 6 * 5 / 8 + 15) / 96, abs=1e-3)
    assert judged[3]['computed'] == pytest.approx(10 / judged[0]['computed'], rel=1e-3)


def test_products_of_the_joint_form_are_those_that_are_counted(monkeypatch):
    size = RingSize(3, 4, 4, 4, 8, 0.25)
    views = selection.random_ring(size)
    multiplied = []
    with monkeypatch.context() as patch:
        mm, matmul = torch.mm, torch.Tensor.__matmul__
        patch.setattr(torch, 'mm', lambda a, b, out: multiplied.append(out.numel()) or mm(a, b, out=out))
        patch.setattr(torch.Tensor, '__matmul__', lambda a, b: multiplied.append(len(a) * b.shape[1]) or matmul(a, b))
        for name, new in ((JOINT, 4), (JOINT_REUSE, 1)):
            run = selection.prepare_method(name, views, size)
            multiplied.clear()
            run()
            share = selection_report.product_share(3, 4, new)
            assert sum(multiplied) == share * 3 * 64**2, name


def test_a_selection_bench_says_what_it_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(selection_report, 'bench_selection', partial(selection_report.bench_selection, SMALL, 3, ()))
    output, shown = tmp_path / 'selection.json', tmp_path / 'page.md'
    shown.write_text(
        '# A page\n\n<!-- bench: selection -->\nold\n<!-- /bench -->\n\n<!-- bench: other -->\nkept\n<!-- /bench -->\n'
    )
    assert cli.main(['bench', '--output', str(output), '--selection', '--page', str(shown)]) == 0
    result = json.loads(output.read_text())
    assert [row['method'] for row in result['selection']] == list(selection.PAIRED)
    assert all(len(row['ms']) == 3 and min(row['ms']) > 0 for row in result['selection'])
    parts = selection_report.blocks(result)
    assert shown.read_text() == page.filled(shown.read_text(), parts)
    assert parts['selection'] in shown.read_text() and 'old' not in shown.read_text() and 'kept' in shown.read_text()
    assert parts['selection aims'] in capsys.readouterr().out


@pytest.mark.parametrize(
    ('text', 'words'), [(None, 'there is no page'), ('# nothing\n', 'has no mark for a table of stprune bench')]
)
def test_a_page_without_marks_is_said_before_anything_runs(text, words, tmp_path, capsys):
    shown = tmp_path / 'page.md'
    if text is not None:
        shown.write_text(text)
    assert cli.main(['bench', '--output', str(tmp_path / 'b.json'), '--selection', '--page', str(shown)]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / 'b.json').exists()


def test_bytes_that_a_token_reads_by_the_type_of_the_weights():
    shape = LanguageShape('small', 4, 64, 2, 1, 32, 128, 1000)
    layers, vocabulary = 4 * (2 * 64 * 3 * 32 + 3 * 64 * 128), 64_000
    assert bounds.token_bytes(shape, 'F16') == 2 * (layers + vocabulary) == shape.weight_bytes()
    assert bounds.token_bytes(shape, 'Q8_0') == (layers + vocabulary) // 32 * 34
    assert bounds.token_bytes(shape, 'Q4_0') == layers // 32 * 18 + vocabulary // 32 * 34
    finer = 4 * 64 * (128 + 32) // 2
    assert bounds.token_bytes(shape, 'Q4_K_M') == ((layers - finer) * 144 + (finer + vocabulary) * 210) / 256


@needs_llama
def test_engines_side_by_side_on_llama_cpp_and_transformers(tmp_path, monkeypatch, capsys):
    small = LanguageShape('small', 4, 64, 1, 1, 128, 64, 300)
    model = ticks.TickModel(replace(QWEN3_2B, language=small), 4, 1, views=3, frames=2, tokens_per_edge=2)
    monkeypatch.setattr(engines, 'bench_engines', partial(engines.bench_engines, model, 1))
    output = tmp_path / 'engines.json'
    assert cli.main(['bench', '--output', str(output), '--engines']) == 0
    result = json.loads(output.read_text())
    rows = result['engines']
    assert [(row['engine'], row['weights'], row['keep'], row['images']) for row in rows] == [
        ('transformers', 'float32', 1.0, 6),
        ('transformers', 'float32', 0.1, 3),
        ('transformers', 'bfloat16', 1.0, 6),
        ('transformers', 'bfloat16', 0.1, 3),
        ('llama.cpp', 'F16', 0.1, 3),
        ('llama.cpp', 'Q8_0', 0.1, 3),
        ('llama.cpp', 'Q4_0', 1.0, 6),
        ('llama.cpp', 'Q4_0', 0.1, 3),
    ]
    for row in rows:
        tokens = row['tokens_visual'] + row['tokens_text']
        assert row['tokens_visual'] == (24 if row['keep'] == 1 else 3) and row['tokens_full'] == 24
        assert row['flops'] == {
            'encode': row['images'] * model.architecture.vision_flops(4, 1),
            'prefill': small.causal_flops(tokens),
        }
        roof = result['roofs']['float32' if row['weights'] == 'float32' else 'bfloat16']
        assert row['computed_ms']['prefill'] == pytest.approx(1e3 * row['flops']['prefill'] / roof, abs=0.01)
        stages = [row['cpu_ms'][stage] for stage in ('encode', 'prune', 'prefill', 'hint', 'write')]
        assert min(stages) > 0 and sum(stages) == pytest.approx(row['cpu_ms']['tick'], abs=0.1)
        assert 0 < row['written'] <= ticks.NEW_TOKENS
        assert row['token_bytes'] == bounds.token_bytes(small, row['weights'])
    assert '| llama.cpp, Q4_0 | 10% |' in capsys.readouterr().out
    assert not list(tmp_path.glob('*.png'))


def engine_row(engine, kind, keep, tick, write, token, **stages):
    return {
        'engine': engine,
        'weights': kind,
        'keep': keep,
        'cpu_ms': {'tick': tick, 'write': write, 'token': token, **stages},
        'flops': {'encode': 400 if keep == 1 else 100, 'prefill': 1000 if keep == 1 else 50},
        'token_bytes': 400 if kind == 'float32' else 80,
    }


def test_aims_of_engines_are_judged_by_their_numbers_beside_their_formulas():
    rows = [
        engine_row('transformers', 'float32', 1.0, 1700.0, 100.0, 8.0, encode=400.0, prefill=1000.0, hint=200.0),
        engine_row('transformers', 'float32', 0.1, 300.0, 100.0, 8.0, encode=110.0, prefill=60.0, hint=30.0),
        engine_row('llama.cpp', 'Q4_0', 0.1, 200.0, 20.0, 2.1, encode=100.0, prefill=50.0, hint=20.0),
    ]
    judged = engine_report.judge_aims(rows)
    assert [(row['found'], row['holds']) for row in judged] == [
        (8.0, True),
        (pytest.approx(1700 / 210, abs=0.01), True),
        (3.81, False),
    ]
    assert [row['computed'] for row in judged] == [
        pytest.approx(1600 / (100 + 50 + 30), abs=0.01),
        pytest.approx(1700 / (100 + 50 + 30 + 10), abs=0.01),
        5.0,
    ]


@needs_llama
def test_what_is_counted_for_a_model_is_held_against_what_a_process_takes():
    small = LanguageShape('small', 4, 256, 2, 1, 128, 256, 300)
    model = ticks.TickModel(replace(QWEN25_3B, language=small), 4, 2, views=3, frames=2, tokens_per_edge=2)
    result = memory.bench_memory(model, 2**20)
    counted, taken = result['counted'], result['taken']
    tower = 2 * sum_of_tower(model)
    assert tower <= counted['weights'] <= tower + bounds.token_bytes(small, 'Q4_0') + 2**24  # and its vocabulary's text
    assert counted['context'] == 8192 and counted['kept_kv'] == small.kv_bytes(8192)
    assert taken['loaded'] - taken['before'] > tower
    assert taken['first_tick'] >= taken['loaded'] * 0.9
    [aim] = memory.judge_aims(result)
    most = max(taken['first_tick'], taken['next_tick']) - taken['before']
    assert aim['found'] == pytest.approx(100 * (counted['kept'] / most - 1), abs=0.01)
    assert '| together | ' in memory.to_markdown(result)


def sum_of_tower(model):
    return model.architecture.vision_weights(model.vision_layers)


def test_a_memory_bench_says_what_it_needs(monkeypatch):
    with pytest.raises(StpruneError, match=r'needs 1048576.00 GiB of memory, and [\d.]+ GiB are free; end'):
        memory.bench_memory(need=2**50)
