"""Who may import whom: read from every source file, and tried with the forbidden packages blocked."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / 'stprune_ros'
GENERATED = ('action', 'msg', 'srv')
SOURCES = sorted(path for path in PACKAGE.rglob('*.py') if path.relative_to(PACKAGE).parts[0] not in GENERATED)
MAX_LINES = 400

# From the bottom up: a room may import those on lower floors, and nothing beside or above itself.
FLOORS: tuple[tuple[str, ...], ...] = (
    (
        'errors',
        'parameter',
        'progress',
        'resources',
        'results',
        'cuda_graph',
        'bounded_yaml',
        'private_folder',
        'folder_lock',
    ),
    ('pruning',),
    ('settings',),
    ('core',),
    ('io', 'vlm'),
    ('inference', 'ringworld'),
    ('ros', 'replay', 'calibrate', 'evaluation', 'bench'),
    ('init', 'view', 'fleet', 'driving'),
    ('arguments', 'preflight'),
    ('demo', 'check'),
    ('commands',),
    ('cli',),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Beside the rule of the floors.
EXCEPTIONS = {
    ('parameter', 'errors'),
    ('resources', 'errors'),
    ('bounded_yaml', 'errors'),
    ('folder_lock', 'errors'),
}
PRUNING_KNOWS = {'errors', 'parameter', 'cuda_graph', 'private_folder'}
ROS = {
    'action_msgs',
    'rclpy',
    'sensor_msgs',
    'nav_msgs',
    'std_msgs',
    'geometry_msgs',
    'diagnostic_msgs',
    'rcl_interfaces',
    'rosgraph_msgs',
    'builtin_interfaces',
    'tf2_msgs',
}
# Who alone may import a package: rooms or files, as prefixes of their paths.
ALONE = {
    'rclpy': ('ros/',),
    'ray': ('fleet/cluster.py',),
    'cv_bridge': ('io/images.py',),
    'rosbags': ('io/', 'ringworld/recording.py'),
    'mcap': ('io/',),
    'transformers': ('vlm/hf/', 'ringworld/training/'),
    'huggingface_hub': ('vlm/hf/',),
    'gguf': ('vlm/llama_cpp/',),
    'aiohttp': ('view/server.py',),
    'jinja2': ('replay/page.py', 'vlm/hf/'),
    'numba': ('pruning/greedy_numba.py',),
    'pyarrow': ('evaluation/datasets/lingoqa.py', 'fleet/index.py'),
    'sacrebleu': ('evaluation/datasets/text_metrics.py',),
    'rouge_score': ('evaluation/datasets/text_metrics.py',),
    'nltk': ('evaluation/datasets/text_metrics.py',),
    'triton': ('pruning/greedy_triton.py',),
    'torch': (
        *('cuda_graph.py', 'pruning/', 'vlm/', 'inference/', 'ringworld/training/'),
        *('evaluation/', 'bench/', 'calibrate/fit.py', 'fleet/worker.py', 'driving/runs.py'),
    ),
}
TORCH_FREE = (
    'check.py',
    'vlm/loading.py',
    'vlm/prompt.py',
    'vlm/hf/files.py',
    'vlm/hf/folder_faults.py',
    'vlm/hf/weight_faults.py',
    'vlm/hf/model_folder.py',
    'vlm/hf/weight_digest.py',
    'vlm/llama_cpp/gguf_file.py',
    'vlm/llama_cpp/language_model.py',
    'vlm/llama_cpp/layouts.py',
    'vlm/llama_cpp/library.py',
    'vlm/llama_cpp/pairing.py',
    'evaluation/variants.py',
    'pruning/__init__.py',
    'pruning/config.py',
    'pruning/reason.py',
    'vlm/__init__.py',
    'vlm/parsing.py',
    'inference/stages.py',
)


def imports(path: Path) -> Iterator[str]:
    """Full name of every module that a file imports, inside functions and type-checking blocks too."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f'{path}: relative import'
            yield node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(name: str) -> str:
    """The room of a file path or of a dotted module below the package."""
    return name.removesuffix('.py').replace('/', '.').partition('.')[0]


def importers(package: str) -> set[str]:
    """Files that import a package, or a module below it."""
    return {
        name_of(path) for path in SOURCES for name in imports(path) if name == package or name.startswith(f'{package}.')
    }


def own_imports(path: Path) -> set[str]:
    """Dotted names below the package that a file imports."""
    prefix = 'stprune_ros.'
    return {name.removeprefix(prefix) for name in imports(path) if name.startswith(prefix)}


def misplaced() -> list[str]:
    """Every import that the floors forbid, as 'file imports room'."""
    found = []
    for path in SOURCES:
        here = room_of(name_of(path))
        for there in sorted({room_of(name) for name in own_imports(path)} - {here, *GENERATED}):
            if FLOOR[there] >= FLOOR[here] and (here, there) not in EXCEPTIONS:
                found.append(f'{name_of(path)} imports {there}')
    return found


def test_every_file_has_a_room_on_a_floor():
    assert len(SOURCES) > 60
    assert {room_of(name_of(path)) for path in SOURCES} - {'__init__'} == set(FLOOR)


def test_nothing_imports_upwards_or_beside():
    assert misplaced() == []


def test_pruning_knows_little():
    known = {room_of(name) for path in SOURCES if name_of(path).startswith('pruning/') for name in own_imports(path)}
    assert known - {'pruning'} <= PRUNING_KNOWS


@pytest.mark.parametrize('package', sorted(ALONE))
def test_who_alone_may_import(package):
    found = importers(package)
    assert found
    assert {name for name in found if not name.startswith(ALONE[package])} == set()


@pytest.mark.parametrize('package', sorted(ROS))
def test_ros_messages_stay_in_ros(package):
    # io.messages fills the compiled messages and so names them, inside one function.
    assert {name for name in importers(package) if not name.startswith('ros/')} <= {'io/messages.py'}


def test_only_io_messages_imports_our_compiled_messages():
    assert importers('stprune_ros.msg') == {'io/messages.py'}


def test_core_and_settings_need_no_torch_and_no_opencv_but_for_lenses():
    assert {name for name in importers('torch') if name.startswith(('core/', 'settings/'))} == set()
    found = {name for name in importers('cv2') if name.startswith(('core/', 'settings/'))}
    assert found == {'core/distortion.py'}
    assert not importers('torch') & set(TORCH_FREE)


def test_nothing_that_runs_in_a_vehicle_imports_training():
    assert {name for name in importers('stprune_ros.ringworld.training') if not name.startswith('ringworld/')} == set()


def test_no_import_cycle():
    """Also none that is deferred into a function."""
    modules = {name_of(path).removesuffix('.py').removesuffix('/__init__').replace('/', '.') for path in SOURCES}
    graph = {}
    for path in SOURCES:
        module = name_of(path).removesuffix('.py').removesuffix('/__init__').replace('/', '.')
        graph[module] = (own_imports(path) & modules) - {module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(' -> '.join(error.args[1]))


def test_no_file_is_too_long():
    long = {name_of(path): len(path.read_text(encoding='utf-8').splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in long.items() if lines > MAX_LINES} == {}


@pytest.mark.parametrize(
    ('module', 'blocked'),
    [
        ('stprune_ros.core.stream', 'rclpy,transformers,torch,stprune_ros.msg'),
        ('stprune_ros.pruning.pruner', 'rclpy,transformers,cv2,stprune_ros.msg'),
        ('stprune_ros.inference.pipeline', 'rclpy,transformers,rosbags,stprune_ros.msg'),
        ('stprune_ros.settings.parameter_file', 'rclpy,transformers,torch,cv2,stprune_ros.msg'),
        ('stprune_ros.io.images', 'rclpy,transformers,torch,sensor_msgs,stprune_ros.msg'),
        ('stprune_ros.io.messages', 'rclpy,transformers,torch,std_msgs,stprune_ros.msg'),
        ('stprune_ros.io.bag_windows', 'rclpy,transformers,torch,sensor_msgs,stprune_ros.msg'),
        ('stprune_ros.replay.replay', 'rclpy,transformers,sensor_msgs,stprune_ros.msg'),
        ('stprune_ros.check', 'rclpy,transformers,torch,cv2,stprune_ros.msg'),
        ('stprune_ros.fleet.command', 'rclpy,transformers,torch,ray,pyarrow,sensor_msgs,stprune_ros.msg'),
        ('stprune_ros.vlm.loading', 'rclpy,transformers,torch,cv2,stprune_ros.msg'),
        ('stprune_ros.replay.command', 'rclpy,transformers,torch,sensor_msgs,stprune_ros.msg'),
        ('stprune_ros.calibrate.command', 'rclpy,transformers,torch,sensor_msgs,stprune_ros.msg'),
        ('stprune_ros.cli', 'rclpy,transformers,torch,cv2,stprune_ros.msg'),
    ],
)
def test_modules_import_without(module, blocked):
    program = f"""
import sys
for name in '{blocked}'.split(','):
    sys.modules[name] = None
import {module}
"""
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
