"""Tables and figures on the pages are those of the committed results."""

from __future__ import annotations

import json
import re
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import yaml
from helpers.pages import README, RESULTS, ROOT, text_of

from stprune_ros.bench import engine_report, gpu, memory, page, report, selection_report
from stprune_ros.commands import drive
from stprune_ros.commands.evaluate import UNTOUCHED
from stprune_ros.driving import summary
from stprune_ros.driving.latency import latency_of
from stprune_ros.driving.plan import DrivePlan, Source
from stprune_ros.evaluation.hits import Hits
from stprune_ros.evaluation.summary import summarize
from stprune_ros.evaluation.tables import difference_cell, to_markdown
from stprune_ros.evaluation.variants import FLAGS, name_of
from stprune_ros.ringworld.questions import FORMS
from stprune_ros.ringworld.renderer import VIEW_NAMES
from stprune_ros.ringworld.scenes import make_scene
from stprune_ros.ringworld.traffic import COLOURS
from stprune_ros.settings.settings import Settings


def tables(name: str, page: str = 'evaluation.md') -> list[dict[str, str]]:
    """The rows of the table behind a comment ``<!-- name -->`` of a page, by column."""
    text = text_of(ROOT / 'docs' / page)
    lines = text.partition(f'<!-- {name} -->\n')[2].splitlines()
    rows = []
    for line in lines:
        if not line.startswith('|'):
            break
        rows.append([cell.strip() for cell in line.strip('|').split('|')])
    head, _, *body = rows
    assert body
    return [dict(zip(head, row, strict=True)) for row in body]


@cache
def fidelity(world: str = 'ringworld', host: str = 'ringworld') -> dict[str, Any]:
    """The committed result: its default method and the table of a host in a world."""
    content = json.loads((RESULTS / 'fidelity.json').read_text(encoding='utf-8'))
    [found] = [table for table in content['tables'] if (table['world'], table['host']) == (world, host)]
    return {'default': content['default'], **found}


@pytest.mark.parametrize(
    ('page', 'host', 'world', 'shown'),
    [
        ('evaluation.md', 'ringworld', 'ringworld', 5),
        ('evaluation.md', 'ringworld', 'hard', 3),
        ('hosts.md', 'ringworld_neutral', 'ringworld', 2),
        ('hosts.md', 'ringworld_neutral', 'hard', 2),
        ('hosts.md', 'ringworld_internvl', 'ringworld', 2),
        ('hosts.md', 'ringworld_internvl', 'hard', 2),
    ],
)
def test_fidelity_tables_are_the_committed_result(page: str, host: str, world: str, shown: int):
    """All of the bundled host in ringworld; else accuracies and differences, and areas under curves at times."""
    text, found = text_of(ROOT / 'docs' / page), fidelity(world, host)
    printed = to_markdown(found, found['default']).split('\n\n')
    assert len(printed) == 5
    assert text.count(f'<!-- fidelity {host}, {world}: ') == shown == sum(part in text for part in printed)


def test_what_an_even_share_does_is_the_committed_result():
    content = json.loads((RESULTS / 'even_share.json').read_text(encoding='utf-8'))
    by_host = {table['host']: table['rows'] for table in content['tables']}
    shown = tables('even share', 'hosts.md')
    assert [row['host, ringworld'].strip('`') for row in shown] == [
        'ringworld',
        'ringworld_neutral',
        'ringworld_internvl',
    ]
    for line in shown:
        rows = by_host[line['host, ringworld'].strip('`')]
        for keep in (0.1, 0.05, 0.02):
            without, even = (row for row in rows if (row['kind'], row['keep']) == ('all', keep))
            assert (without['method'], even['method']) == (content['default'], f'{content["default"]}+even')
            accuracies = f'{100 * without["accuracy"]:.1f} to {100 * even["accuracy"]:.1f}'
            assert line[f'{keep:.0%}'] == f'{accuracies}: {difference_cell(even)}'


def test_hosts_on_untouched_scenes_are_the_committed_result():
    content = json.loads((RESULTS / 'hosts_fresh.json').read_text(encoding='utf-8'))
    found = {f'`{table["host"]}`, {table["world"]}': table for table in content['tables']}
    assert {(table['scenes'], table['first_scene']) for table in found.values()} == {(150, 1_040_000)}
    shown = tables('untouched', 'hosts.md')
    assert len(shown) == 2 * 2 * 5
    for line in shown:
        rows = found[line['host, world']]['rows']
        for keep in (0.1, 0.05, 0.02):
            [row] = [r for r in rows if (r['method'], r['keep'], r['kind']) == (line['method'], keep, 'all')]
            difference = '' if line['method'] == content['default'] else f': {difference_cell(row)}'
            assert line[f'{keep:.0%}'] == f'{100 * row["accuracy"]:.1f}{difference}'


def test_what_switches_do_is_the_committed_result():
    rows = {(row['method'], row['kind']): row for row in fidelity()['rows'] if row['keep'] == 0.1}
    shown = tables('switches')
    assert {line['switch, at 10 %'].partition('+')[2] for line in shown} >= {*FLAGS, 'all', ''}
    for line in shown:
        method, *cells = line.values()
        expected = [f'{100 * rows[method, kind]["accuracy"]:.1f}' for kind in ('all', *list(line)[2:])]
        assert cells == expected


def test_what_the_weight_of_commonness_does_is_the_committed_result():
    content = json.loads((RESULTS / 'joint_common.json').read_text(encoding='utf-8'))
    found = {f'`{table["host"]}`, {table["world"]}': table for table in content['tables']}
    shown = tables('joint common', 'method.md')
    assert sorted(row['host, world'] for row in shown) == sorted(found)
    for line in shown:
        table = found[line['host, world']]
        assert (table['scenes'], table['first_scene']) == (60, 900_200)
        assert line['all tokens'] == f'{100 * table["full"]:.1f}'
        right = {(row['method'], row['keep']): row['accuracy'] for row in table['rows'] if row['kind'] == 'all'}
        for column, cell in list(line.items())[2:]:
            method = f'{content["default"]}+joint_common={column}' if column[0].isdigit() else column
            assert cell == ' / '.join(f'{100 * right[method, keep]:.1f}' for keep in (0.1, 0.05, 0.02))


@pytest.mark.parametrize('profile', ['none', 'orin_nx'])
def test_tables_of_the_closed_loop_are_the_committed_drives(profile: str):
    text = text_of(ROOT / 'docs' / 'closed_loop.md')
    drives = json.loads((RESULTS / f'drive.{profile}.json').read_text(encoding='utf-8'))
    assert drives['first_seed'] >= drive.UNTOUCHED
    assert drives['profile'] == profile
    assert summary.to_markdown(drives) in text
    plan = DrivePlan(
        tuple(Source(row['method'], row['keep']) for row in drives['sources']),
        tuple(range(drives['first_seed'], drives['first_seed'] + drives['drives'])),
        drives['world'],
        drives['seconds'],
        drives['hz'],
    )
    found = {(row['seed'], row['source']): {'measures': row} for row in drives['rows']}
    assert summary.summarize(plan, {}, found)['sources'] == drives['sources']


def test_latencies_of_the_closed_loop_are_computed():
    rows = tables('latency', 'closed_loop.md')
    assert [row['up to the hint, ms'] for row in rows] == ['orin_agx', 'orin_nx']
    for row in rows:
        found = latency_of(row['up to the hint, ms'], 0.0)
        keeps = {'100%': 1.0, '25%': 0.25, '10%': 0.1, '5%': 0.05, '2%': 0.02}
        assert [row[head] for head in keeps] == [f'{found.up_to_hint_ms(keep):.0f}' for keep in keeps.values()]
        assert row['valid for'] == f'{found.valid_for_ms:g}'


@pytest.mark.parametrize('world', ['ringworld', 'hard'])
def test_the_committed_result_is_that_of_its_answers(world: str):
    hits, found = Hits.load(RESULTS / f'fidelity.ringworld.{world}.hits.npz'), fidelity(world)
    assert {**summarize(hits), 'default': hits.plan['default'], 'things': found['things']} == found


@pytest.mark.parametrize('world', ['ringworld', 'hard'])
def test_the_committed_result_is_of_scenes_that_nobody_looked_at(world: str):
    assert fidelity(world)['first_scene'] >= UNTOUCHED
    assert fidelity(world)['default'] == name_of(Settings().pruning)
    assert f'{fidelity(world)["scenes"]} scenes' in text_of(ROOT / 'docs' / 'evaluation.md')


@pytest.mark.parametrize('name', ['real pixels', 'real pixels, natural features'])
def test_real_pixels_are_the_committed_result(name):
    file = 'real_pixels_natural.json' if 'natural' in name else 'real_pixels.json'
    rows = json.loads((RESULTS / file).read_text(encoding='utf-8'))['rows']
    columns = {'moving objects': 'moving', 'parked objects': 'parked', 'tokens of things': 'things'}
    columns |= {'background tokens': 'background', 'kept twice': 'twice'}
    shown = tables(name)
    assert {row['method, at 10 %'] for row in shown} == {row['method'] for row in rows if row['keep'] == 0.1}
    for row in shown:
        method = row['method, at 10 %']
        [found] = [one for one in rows if one['method'] == method and one['keep'] == 0.1]
        assert row['lift'] == f'{found["lift"]:.2f}', method
        for column, key in columns.items():
            assert row[column] == f'{100 * found[key]:.0f}', (method, column)


def test_hint_calibration_table_is_the_committed_result():
    plain = yaml.safe_load(text_of(RESULTS / 'hint_calibration.yaml'))['report']['held_out']
    rows = tables('hint calibration', 'calibration.md')
    for row, found in zip(rows, (plain['before'], plain['after']), strict=True):
        figures = [found[name] for name in ('accuracy', 'log_loss', 'expected_calibration_error')]
        shown = [*(f'{figure:.3f}' for figure in figures), str(found['missed']), str(found['needless'])]
        assert [*row.values()][1:] == shown
    assert (plain['hints_changed'], plain['hints_freed']) == (53, 0)
    ends = plain['change_95']['expected_calibration_error'], plain['change_95']['log_loss']
    assert [[f'{-one:.3f}' for one in sorted(pair, reverse=True)] for pair in ends] == [
        ['0.020', '0.044'],
        ['0.008', '0.043'],
    ]


def test_figures_of_readme_are_the_committed_result():
    text, found = text_of(README), fidelity()
    [default] = [
        row for row in found['rows'] if (row['method'], row['keep'], row['kind']) == (found['default'], 0.1, 'all')
    ]
    assert f'| {100 * found["full"]:.1f} % |' in text
    assert f'| {100 * found["blind"]:.0f} % |' in text
    assert f'| {100 * default["accuracy"]:.1f} % |' in text


def bench_blocks() -> dict[str, str]:
    """The tables that `stprune bench` writes, from the committed results."""
    shown_by: dict[str, ModuleType] = {
        'bench.json': report,
        'bench_selection.json': selection_report,
        'bench_engines.json': engine_report,
        'bench_memory.json': memory,
        'bench_gpu.json': gpu,
    }
    found: dict[str, str] = {}
    for name, module in shown_by.items():
        found |= module.blocks(json.loads((RESULTS / name).read_text(encoding='utf-8')))
    return found


BENCH_PAGES = ('performance.md', 'engines.md')


@pytest.mark.parametrize('name', BENCH_PAGES)
def test_tables_of_bench_are_what_the_committed_results_render_to(name):
    text, blocks = text_of(ROOT / 'docs' / name), bench_blocks()
    shown = page.names(text)
    assert shown and not set(shown) - blocks.keys()
    assert text == page.filled(text, blocks), f'`stprune bench --page docs/{name}` would write another page'


def test_every_table_of_bench_is_on_a_page():
    shown = {shown for name in BENCH_PAGES for shown in page.names(text_of(ROOT / 'docs' / name))}
    assert shown == bench_blocks().keys()


def test_what_pages_say_of_bench_is_in_the_committed_results():
    rows = json.loads((RESULTS / 'bench_engines.json').read_text())['engines']
    token = {row['weights']: row['cpu_ms']['token'] for row in rows if row['keep'] == 0.1}
    assert f'{token["float32"] / token["Q4_0"]:.1f} times cheaper' in text_of(ROOT / 'docs' / 'engines.md')
    selections = json.loads((RESULTS / 'bench_selection.json').read_text())['selection']
    ms = {row['method']: row['ms_median'] for row in selections}
    said = f'takes {ms["st_prune_joint"]:.0f} ms, {ms["st_prune_joint, next tick"]:.0f} ms from the second tick on'
    assert said in ' '.join(text_of(README).split())


def test_the_questions_that_the_bundled_model_knows_are_those_that_the_docs_list():
    """Each form of ringworld by its words, with views and colours left out."""
    said = re.findall(r'`([^`]+\?)`', text_of(ROOT / 'docs' / 'terminal.md'))
    names = '|'.join(sorted((*VIEW_NAMES, *COLOURS), key=len, reverse=True))
    views = tuple(range(len(VIEW_NAMES)))
    asked = {
        re.sub(rf'\b({names})\b', '*', question.text)
        for truth in (make_scene(seed).truths[-1] for seed in range(910_000, 910_012))
        for form in FORMS
        for question in form(truth, views)
    }
    assert len(asked) == len(FORMS)
    assert {re.sub(rf'\b({names})\b', '*', question) for question in said} == asked
