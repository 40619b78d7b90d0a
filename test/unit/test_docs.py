"""README and docs say what is true: links, names, commands and parameters are compared with the sources."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers.pages import PAGES, README, ROOT, text_of, words_of
from PIL import Image

from stprune_ros.resources import version
from stprune_ros.settings import parameter_file
from stprune_ros.settings.parameters import BY_NAME

OLD_PARAMETERS = {'pruning.one_pays', 'pruning.scaled_terms', 'pruning.joint_volatility'}


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
    masks = names['masks']
    assert [mask.shape for mask in masks] == [(4, 14, 14)] * 3
    assert sum(int(mask.sum()) for mask in masks) == 3 * 78, 'one budget for the ring'
