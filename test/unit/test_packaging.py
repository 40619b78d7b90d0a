"""What the two build systems must agree on, and what an install must bring along."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import stprune_ros
from stprune_ros.resources import resource_path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE_XML = ElementTree.parse(ROOT / 'package.xml').getroot()
# REP-2011 hash of tf2_msgs/msg/TFMessage: only with the same hash do middlewares take the types for equal.
TF_MESSAGE = 'RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087'
# Set where the tests run against an install of CMake's, as `colcon test` does.
INSTALL_PREFIX = os.environ.get('STPRUNE_INSTALL_PREFIX', '')
# rosdep's keys of the Python modules that it knows.
ROSDEP_KEYS = {
    'PIL': 'python3-pil',
    'cv2': 'python3-opencv',
    'hypothesis': 'python3-hypothesis',
    'jinja2': 'python3-jinja2',
    'jsonschema': 'python3-jsonschema',
    'matplotlib': 'python3-matplotlib',
    'numpy': 'python3-numpy',
    'pytest': 'python3-pytest',
    'tqdm': 'python3-tqdm',
    'yaml': 'python3-yaml',
}
FROM_PYPI = {'mcap', 'numba', 'rosbags', 'torch', 'transformers'}
# Brought along by transformers, torch and mcap.
WITH_THOSE = {'lz4', 'zstandard', 'huggingface_hub', 'safetensors', 'tokenizers', 'triton'}
OPTIONAL = {
    *('aiohttp', 'bitsandbytes', 'cv_bridge', 'gguf', 'ray', 'shtab', 'torchao'),
    *('nltk', 'pyarrow', 'rouge_score', 'sacrebleu'),
}


def pyproject(key: str) -> str:
    text = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    found = re.search(rf'^{key} = "(.*)"$', text, re.MULTILINE)
    assert found is not None
    return found.group(1)


def test_package_xml_and_pyproject_agree():
    for key in ('name', 'version', 'description', 'license'):
        assert PACKAGE_XML.findtext(key) == pyproject(key)


def test_package_xml_is_valid():
    package = pytest.importorskip('catkin_pkg.package')
    warnings: list[str] = []
    package.parse_package(str(ROOT / 'package.xml')).validate(warnings=warnings)
    assert warnings == []


def test_package_xml_says_whose_it_is_and_where_it_lives():
    urls = {url.get('type'): url.text for url in PACKAGE_XML.findall('url')}
    assert set(urls) == {'website', 'repository', 'bugtracker'}
    assert all(url is not None and url.startswith('https://') for url in urls.values())
    assert PACKAGE_XML.findtext('author')
    addresses = [PACKAGE_XML.find(tag).get('email') for tag in ('maintainer', 'author')]  # type: ignore[union-attr]
    for address in addresses:
        assert re.fullmatch(r'[\w.-]+@[\w-]+\.[a-z]{2,}', address or ''), address
        assert not re.search(r'noreply|example|invalid|localhost', address or ''), address


def imported_modules(*folders: str) -> set[str]:
    """Top-level modules that the files below ``folders`` import, without the standard library's and their own."""
    own = {'stprune_ros', 'helpers', 'conftest', 'real', 'soak'}
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob('*.py')):
        if any(path.is_relative_to(ROOT / 'stprune_ros' / kind) for kind in ('action', 'msg', 'srv')):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition('.')[0])
    return found - own - set(sys.stdlib_module_names)


def declared(*tags: str) -> set[str]:
    return {element.text or '' for tag in tags for element in PACKAGE_XML.findall(tag)}


def test_package_xml_declares_what_the_package_imports():
    imported = imported_modules('stprune_ros', 'launch') - FROM_PYPI - WITH_THOSE - OPTIONAL
    needed = {ROSDEP_KEYS.get(module, module) for module in imported}
    generated = {'action_msgs', 'builtin_interfaces', 'std_msgs', 'rosidl_default_runtime'}  # by the generated modules
    assert declared('depend', 'exec_depend') == needed | generated


def test_package_xml_declares_what_the_tests_import():
    imported = imported_modules('test') - FROM_PYPI - WITH_THOSE - OPTIONAL
    needed = {ROSDEP_KEYS.get(module, module) for module in imported} - declared('depend', 'exec_depend')
    assert declared('test_depend') == needed | {'ament_cmake_pytest'}


def test_pip_installs_what_rosdep_does_not_know():
    text = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    listed = text.partition('\ndependencies = [')[2].partition('\n]')[0]
    assert set(re.findall(r'^  "([\w-]+)', listed, re.MULTILINE)) >= FROM_PYPI


def test_what_is_no_python_is_installed_with_the_package():
    text = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    listed = re.findall(
        r'"([^"]+)"', text.partition('[tool.setuptools.package-data]\nstprune_ros = [')[2].partition(']')[0]
    )
    package = ROOT / 'stprune_ros'
    found = {path for path in package.rglob('*') if path.is_file() and path.suffix not in ('.py', '.so')}
    files = {path for path in found if '__pycache__' not in path.parts}
    assert files == {path for pattern in listed for path in package.glob(pattern)} != set()
    manifest = (ROOT / 'MANIFEST.in').read_text(encoding='utf-8')
    folders = {path.parent.relative_to(ROOT).as_posix() for path in files}
    assert all(f'graft {folder}\n' in manifest for folder in folders)


def cmake_list(start: str) -> list[str]:
    """Words that follow ``start`` in CMakeLists.txt up to the end of the command."""
    text = (ROOT / 'CMakeLists.txt').read_text(encoding='utf-8')
    assert text.count(start) == 1, start
    return text.partition(start)[2].partition(')')[0].split()


def test_colcon_runs_every_folder_of_tests():
    folders = {path.relative_to(ROOT / 'test').parts[0] for path in (ROOT / 'test').rglob('test_*.py')}
    assert set(cmake_list('set(test_folders')) == folders - {'real'}, 'that one is for make test-real'


def test_what_cmake_installs_is_there():
    folders = cmake_list('install(DIRECTORY config')
    programs = cmake_list('install(PROGRAMS')
    for folder in ('config', *folders[: folders.index('DESTINATION')]):
        assert (ROOT / folder).is_dir(), folder
    for program in programs[: programs.index('DESTINATION')]:
        assert os.access(ROOT / program, os.X_OK), program


def missing_modules(*modules: str, path: str = '') -> str:
    command = [sys.executable, str(ROOT / 'cmake' / 'missing_modules.py'), *modules]
    environment = {**os.environ, 'PYTHONPATH': path}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


def test_tests_are_skipped_where_their_modules_are_missing(tmp_path: Path):
    assert missing_modules('json', 'pytest') == ''
    assert missing_modules('no_such_module', 'json', 'nor_this_one') == 'no_such_module, nor_this_one'
    (tmp_path / 'pytest.py').touch()
    (tmp_path / 'pytest-6.2.5.dist-info').mkdir()
    (tmp_path / 'pytest-6.2.5.dist-info' / 'METADATA').write_text('Name: pytest\nVersion: 6.2.5\n')
    assert missing_modules('json', 'pytest', path=str(tmp_path)) == 'pytest'


@pytest.mark.skipif(not INSTALL_PREFIX, reason='the tests run on the sources')
def test_the_installed_package_is_the_one_under_test():
    assert stprune_ros.__file__ is not None
    assert Path(stprune_ros.__file__).is_relative_to(INSTALL_PREFIX)


def test_source_distribution_has_everything_that_a_build_reads(monkeypatch: pytest.MonkeyPatch):
    egg_info = pytest.importorskip('setuptools.command.egg_info')
    monkeypatch.chdir(ROOT)
    files = egg_info.FileList()
    for line in (ROOT / 'MANIFEST.in').read_text(encoding='utf-8').splitlines():
        files.process_template_line(line)
    packed = set(files.files)
    for pattern in ('docs/*', 'config/**/*.yaml', 'launch/*.py', 'msg/*.msg', 'cmake/*', 'models/**/*', 'test/**/*.py'):
        wanted = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern) if path.is_file()}
        wanted = {path for path in wanted if '__pycache__' not in path}
        assert wanted and wanted <= packed, pattern
    assert {'README.md', 'CHANGELOG.rst', 'LICENSE', 'CMakeLists.txt', 'package.xml', 'constraints.txt'} <= packed
    assert not any(path.endswith(('.so', '.pyc')) for path in packed)


def test_makefile_knows_every_file_that_is_compiled():
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    for pattern in ('msg/*.msg', 'cmake/*.cmake', 'compat/*/msg/*'):
        assert list(ROOT.glob(pattern)), pattern
        assert pattern in makefile


SHIPPED = (
    'config/prompts/driving.yaml',
    'config/dds/fastdds_shm.xml',
    'config/profiles/orin_nx.param.yaml',
    'models/ringworld/config.json',
    'msg/PlanningHint.msg',
)


@pytest.mark.parametrize('relative', SHIPPED)
def test_share_finds_what_ships(relative):
    assert resource_path(relative).is_file()


def test_commands_are_installed():
    pytest.importorskip('rclpy')
    if INSTALL_PREFIX:  # `ros2 run` finds programs there
        for name in ('stprune', 'stprune_node'):
            assert os.access(Path(INSTALL_PREFIX) / 'lib' / 'stprune_ros' / name, os.X_OK)
        command = [sys.executable, str(Path(INSTALL_PREFIX) / 'lib' / 'stprune_ros' / 'stprune'), '--help']
        assert 'replay' in subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return
    found = {point.name: point for point in entry_points(group='console_scripts')}
    assert callable(found['stprune'].load())
    assert callable(found['stprune_node'].load())


def test_own_tf2_msgs_has_the_type_hash_of_the_real_one(domain_id):
    rclpy = pytest.importorskip('rclpy')
    from rclpy.context import Context
    from rclpy.node import Node
    from tf2_msgs.msg import TFMessage

    context = Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = Node('hash', context=context)
    try:
        publisher = node.create_publisher(TFMessage, 'tf', 1)
        [info] = node.get_publishers_info_by_topic(publisher.topic_name)
        assert str(info.topic_type_hash) == TF_MESSAGE
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
