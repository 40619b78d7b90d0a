"""README and docs say what is true: links, names, sentences and figures are compared with the sources."""

from __future__ import annotations

import ast
import json
import re
import runpy
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image

from stprune_ros.bench import engine_report, gpu, memory, page, report, selection_report
from stprune_ros.commands import drive
from stprune_ros.commands.evaluate import UNTOUCHED
from stprune_ros.driving import summary
from stprune_ros.driving.latency import latency_of
from stprune_ros.driving.plan import DrivePlan, Source
from stprune_ros.evaluation.fidelity import summarize
from stprune_ros.evaluation.hits import Hits
from stprune_ros.evaluation.tables import difference_cell, to_markdown
from stprune_ros.evaluation.variants import name_of
from stprune_ros.resources import version
from stprune_ros.ringworld.questions import FORMS
from stprune_ros.ringworld.renderer import VIEW_NAMES
from stprune_ros.ringworld.scenes import make_scene
from stprune_ros.ringworld.traffic import COLOURS
from stprune_ros.settings import parameter_file
from stprune_ros.settings.settings import Settings

try:
    from stprune_ros.settings.parameters import BY_NAME
except ImportError:
    from stprune_ros.settings.settings import BY_NAME

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / 'stprune_ros'
README = ROOT / 'README.md'
PAGES = [README, ROOT / 'SECURITY.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').rglob('*.md'))]
RESULTS = ROOT / 'benchmark' / 'results'
OLD_PARAMETERS = {'pruning.one_pays', 'pruning.scaled_terms'}
# Rooms whose sentences a user can meet; the others raise for wrong calls.
ROOMS = ('calibrate', 'core', 'driving', 'fleet', 'inference', 'io', 'replay', 'ros', 'settings', 'view', 'vlm')
DATASETS = ('evaluation', 'datasets')  # of the evaluation the part that reads what users bring
ERRORS = {'StpruneError', 'SettingsError', 'BagError', 'ModelError', 'Interrupted'}
LOGGING = {'warn', '_warn', '_note', 'warning', 'error', 'fatal', 'again'}
VARIABLE = '<>'


def text_of(page: Path) -> str:
    return page.read_text(encoding='utf-8')


def words_of(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r'^```.*?^```', '', text_of(page), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The link targets that a forge makes of the headings of a page."""
    found = set()
    for heading in re.findall(r'^#+ (.*)$', words_of(page), re.MULTILINE):
        plain = re.sub(r'[^\w\- ]', '', heading.lower())
        found.add(plain.replace(' ', '-'))
    return found


def test_readme_is_short_and_names_both_commands():
    lines = text_of(README).splitlines()
    assert len(lines) <= 180
    assert any(line.startswith('make demo') for line in lines)
    assert any(line.startswith('make test') for line in lines)
    assert any(line.startswith('ros2 launch stprune_ros ') for line in lines)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_lead_somewhere(page):
    links = re.findall(r'\]\(([^)\s]+)\)', words_of(page))
    assert links or page.name == 'parameters.md'
    for link in links:
        if link.startswith(('http://', 'https://')):
            continue
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f'{page.name}: {link}'
        assert not anchor or anchor in anchors(target), f'{page.name}: {link}'


def test_every_page_and_picture_is_used():
    assert README in PAGES and len(PAGES) > 5
    index = text_of(ROOT / 'docs' / 'README.md')
    assert [page.name for page in PAGES[1:] if page.name != 'README.md' and f'{page.name})' not in index] == []
    pages = ''.join(map(text_of, PAGES))
    pictures = [path for ending in ('png', 'jpg', 'webp') for path in (ROOT / 'docs').glob(f'*.{ending}')]
    assert len(pictures) > 5 and [path.name for path in pictures if path.name not in pages] == []


def test_the_first_screen_of_readme_moves():
    head = '\n'.join(text_of(README).splitlines()[:15])
    [path] = re.findall(r'!\[[^\]]+\]\(([^)]+\.webp)\)', head)
    with Image.open(ROOT / path) as picture:
        assert picture.n_frames > 10
        assert picture.width <= 900
    assert (ROOT / path).stat().st_size < 1e6


def test_the_site_shows_every_page():
    text = text_of(ROOT / 'mkdocs.yml')
    listed = re.findall(r'^ +- ([\w/]+\.md)$', text.partition('\nnav:\n')[2], re.MULTILINE)
    pages = (page.relative_to(ROOT / 'docs').as_posix() for page in (ROOT / 'docs').rglob('*.md'))
    assert sorted(listed) == sorted(pages)
    assert '\nstrict: true\n' in text


def test_what_pages_link_to_is_in_the_site():
    hook = runpy.run_path(str(ROOT / 'docs' / 'tools' / 'links.py'))

    def moved(place: str, markdown: str) -> str:
        return hook['on_page_markdown'](markdown, page=SimpleNamespace(file=SimpleNamespace(src_uri=place)))

    assert moved(
        'looking.md', '[a](../README.md#install), [b](models.md), ![c](demo.webp), [d](#e), [f](https://g/h)'
    ) == ('[a](repository/README.md#install), [b](models.md), ![c](demo.webp), [d](#e), [f](https://g/h)')
    assert (
        moved('sets/one.md', '[a](../../README.md), [b](../models.md)')
        == '[a](../repository/README.md), [b](../models.md)'
    )
    assert moved('repository/README.md', '![a](docs/demo.webp), [b](docs/looking.md#c), [d](SECURITY.md)') == (
        '![a](../demo.webp), [b](../looking.md#c), [d](SECURITY.md)'
    )
    assert moved('repository/models/ringworld/README.md', '[a](../../docs/models.md)') == '[a](../../../models.md)'
    assert moved('models.md', '[templates](../test/real/templates)') == '[templates] (`test/real/templates`)'
    found = hook['linked'](f'docs/{page.name}' for page in (ROOT / 'docs').glob('*.md'))
    assert found >= {'README.md', 'SECURITY.md', 'LICENSE', 'examples/hint_consumer.py', 'models/ringworld/README.md'}
    assert all((ROOT / path).is_file() and not path.startswith('docs/') for path in found)


RECIPES = re.findall(r'^## (\w+)\n(.*?)(?=^## |\Z)', text_of(ROOT / 'docs' / 'recipes.md'), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(('stack', 'recipe'), RECIPES, ids=[stack for stack, _ in RECIPES])
def test_recipes_are_parameter_files_and_say_what_was_not_run(stack, recipe, tmp_path):
    assert [name for name, _ in RECIPES] == ['Autoware', 'nuScenes', 'CARLA', 'AWSIM', 'Gazebo']
    [block] = re.findall(r'^```yaml\n(.*?)^```', recipe, re.MULTILINE | re.DOTALL)
    file = tmp_path / 'my.param.yaml'
    file.write_text(block)
    settings = parameter_file.settings_of(parameter_file.ParameterFile.read(file), '')
    assert len(settings.cameras.names) == 6 and '{camera}' in settings.topics.image
    rows = dict(re.findall(r'^\| ([\w ]+) \| (.*) \|$', recipe, re.MULTILINE))
    assert set(rows) == {'images', 'calibration', 'odometry', 'vehicle frame', 'not run'}
    assert f'`{settings.cameras.base_frame}`' in rows['vehicle frame']
    assert f'`{settings.topics.odometry}`' in rows['odometry']


def test_citation_is_of_this_version():
    citation = yaml.safe_load(text_of(ROOT / 'CITATION.cff'))
    assert citation['version'] == version()
    assert citation['license'] == 'Apache-2.0'
    assert citation['references'][0]['identifiers'][0]['value'] == 'arXiv:2604.19145'


def test_code_on_the_page_of_consumers_is_that_of_the_examples():
    blocks = re.findall(r'^```(python|cpp)\n(.*?)^```', text_of(ROOT / 'docs' / 'consuming_hints.md'),
                        re.MULTILINE | re.DOTALL)  # fmt: skip
    files = {'python': 'hint_consumer.py', 'cpp': 'hint_rule.hpp'}
    assert [kind for kind, _ in blocks] == ['python', 'cpp']
    for kind, code in blocks:
        assert code in text_of(ROOT / 'examples' / files[kind])


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_exist(page):
    text = text_of(page)
    for path in re.findall(r'\bstprune_ros/[a-z_0-9/]+(?:\.py|/(?![\w{<]))', text):
        assert (ROOT / path).exists(), path
    for module in re.findall(r'\bstprune_ros(?:\.[a-z_0-9]+)+', text):
        file = ROOT / module.replace('.', '/')
        assert file.is_dir() or file.with_suffix('.py').is_file(), module
    for module in re.findall(r'python -m (stprune_ros[\w.]+)', text):
        assert "if __name__ == '__main__':" in text_of((ROOT / module.replace('.', '/')).with_suffix('.py')), module


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_parameters_exist(page):
    groups = {name.partition('.')[0] for name in BY_NAME}
    named = {name for name in re.findall(r'`([a-z]+\.[a-z_]+)`', text_of(page)) if name.partition('.')[0] in groups}
    files = {name for name in named if name.endswith(('.py', '.json', '.yaml', '.mcap'))}
    allowed = {*BY_NAME} if page == README else {*BY_NAME, *OLD_PARAMETERS}
    assert named - files - allowed == set()
    assert page != README or len(named) > 10


def test_example_parameter_file_of_readme_is_right():
    [block] = re.findall(r'^```yaml\n(.*?)^```', text_of(README), re.MULTILINE | re.DOTALL)
    groups = yaml.safe_load(block)['/**']['ros__parameters']
    values = {f'{group}.{leaf}': value for group, entries in groups.items() for leaf, value in entries.items()}
    assert len(values) == 3
    for name, value in values.items():
        BY_NAME[name].parse(value)


def test_example_of_the_method_page_runs():
    [block] = re.findall(r'^```python\n(.*?)^```', text_of(ROOT / 'docs' / 'method.md'), re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    assert [(mask.shape, int(mask.sum())) for mask in names['masks']] == [((4, 14, 14), 78)] * 3


def sentence(node: ast.AST) -> str | None:
    """A string or f-string as it stands in the source, every variable part as VARIABLE; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return normal(node.value.replace('%s', VARIABLE))
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else VARIABLE for part in node.values]
        return normal(''.join(map(str, parts)))
    return None


def normal(text: str) -> str:
    """Variable parts that touch count as one."""
    return re.sub(f'(?:{VARIABLE})+', VARIABLE, text)


@cache
def trees() -> tuple[tuple[Path, ast.AST], ...]:
    generated = [PACKAGE / kind for kind in ('action', 'msg', 'srv')]
    files = sorted(path for path in PACKAGE.rglob('*.py') if not {*generated} & {*path.parents})
    return tuple((path, ast.parse(text_of(path))) for path in files)


def in_source() -> set[str]:
    """Every string of the package, those of scripts in pages included."""
    code = [text_of(file) for file in PACKAGE.glob('*/pages/*.js')]
    scripts = {text for one in code for text in re.findall(r"'([^'\n]+)'", one)}
    scripts |= {
        normal(re.sub(r'\$\{[^}]*\}', VARIABLE, text)) for one in code for text in re.findall(r'`([^`\n]+)`', one)
    }
    return scripts | {found for _, tree in trees() for node in ast.walk(tree) if (found := sentence(node)) is not None}


def shown_to_users() -> Iterator[tuple[str, str]]:
    """File and sentence of every error, note and warning of the rooms that users meet."""
    for path, tree in trees():
        inside = path.relative_to(PACKAGE)
        if len(inside.parts) > 1 and inside.parts[0] not in ROOMS and inside.parts[:2] != DATASETS:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and is_said(node.func):
                found = sentence(node.args[0])
                if found is not None and found.replace(VARIABLE, '').strip():
                    yield str(inside), found


def is_said(function: ast.expr) -> bool:
    """Whether what a call is given first is raised, noted or logged."""
    if isinstance(function, ast.Name):
        return function.id in ERRORS
    if not isinstance(function, ast.Attribute):
        return False
    kept = {'append': 'notes', 'add': 'faults'}.get(function.attr)
    return function.attr in LOGGING or (kept is not None and ast.unparse(function.value).endswith(kept))


def headings() -> list[str]:
    """The sentences that the troubleshooting page is keyed by."""
    lines = re.findall(r'^### (`+) ?(.*?) ?\1$', text_of(ROOT / 'docs' / 'troubleshooting.md'), re.MULTILINE)
    return [text for _, text in lines]


def test_sentences_of_the_troubleshooting_page_are_those_of_the_source():
    known = in_source()
    keys = headings()
    assert len(keys) > 100 and len(set(keys)) == len(keys)
    assert [key for key in keys if normal(re.sub(r'<[^<>]*>', VARIABLE, key)) not in known] == []


def test_every_sentence_for_users_is_on_the_troubleshooting_page():
    keys = {normal(re.sub(r'<[^<>]*>', VARIABLE, key)) for key in headings()}
    said = set(shown_to_users())
    assert len(said) > 80
    assert sorted((file, text) for file, text in said if text not in keys) == []


def branches(node: ast.expr) -> Iterator[ast.expr]:
    """The parts of which an expression is one, or which it joins."""
    if isinstance(node, ast.IfExp):
        parts = [node.body, node.orelse]
    elif isinstance(node, ast.BinOp):
        parts = [node.left, node.right]
    elif isinstance(node, ast.List | ast.Tuple):
        parts = node.elts
    else:
        yield node
        return
    for part in parts:
        yield from branches(part)


def sentences_in(node: ast.expr) -> set[str]:
    return {found for part in branches(node) if (found := sentence(part)) is not None and ' ' in found}


@cache
def brought_by_name() -> dict[str, set[str]]:
    """The sentences that a function returns or yields, or that a constant is, by its name where only one has that."""
    found: dict[str, set[str]] = defaultdict(set)
    holders: Counter[str] = Counter()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                holders[node.name] += 1
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Return | ast.Yield) and inner.value is not None:
                        found[node.name] |= sentences_in(inner.value)
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name) and target.id.isupper():
                        holders[target.id] += 1
                        found[target.id] |= sentences_in(node.value)
    return {name: sentences for name, sentences in found.items() if holders[name] == 1}


def test_sentences_that_functions_and_constants_bring_are_on_the_troubleshooting_page():
    """What is raised, noted or logged need not stand where that is done."""
    keys = {normal(re.sub(r'<[^<>]*>', VARIABLE, key)) for key in headings()}
    said = set()
    for path, tree in trees():
        inside = path.relative_to(PACKAGE)
        if len(inside.parts) > 1 and inside.parts[0] not in ROOMS and inside.parts[:2] != DATASETS:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and is_said(node.func):
                for part in branches(node.args[0]):
                    function = part.func if isinstance(part, ast.Call) else part
                    name = getattr(function, 'id', getattr(function, 'attr', ''))
                    said |= {(str(inside), text) for text in brought_by_name().get(name, ())}
    assert len(said) > 10
    assert sorted((file, text) for file, text in said if text not in keys) == []


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
