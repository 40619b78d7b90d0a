"""What every test gets: an environment of its own for ROS, and the folder with recorded data."""

from __future__ import annotations

import itertools
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# Before the first import of a message: wrong field values must fail here instead of going out as something else.
os.environ['ROS_PYTHON_CHECK_FIELDS'] = '1'
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ.setdefault('OMP_NUM_THREADS', '1')  # tiny models: threads only get into each other's way
for name in ('ROS_DOMAIN_ID', 'ROS_NAMESPACE', 'RMW_IMPLEMENTATION', 'FASTDDS_DEFAULT_PROFILES_FILE', 'HF_HOME'):
    os.environ.pop(name, None)
os.environ['HF_HUB_OFFLINE'] = '1'

# A busy machine is no fault, and what fails once fails again; HYPOTHESIS_PROFILE=search looks for new examples.
settings.register_profile('search', deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile('repeatable', settings.get_profile('search'), derandomize=True)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'repeatable'))

_worker = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))
_workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', '1'))
_run = os.environ.get('PYTEST_XDIST_TESTRUNUID', str(os.getpid()))  # the same in all workers
_numbers = itertools.count(_worker, _workers)


def new_domain_id() -> int:
    """A DDS domain that no other test of this run uses, in 1..100 (higher ones run into the ephemeral ports)."""
    return (zlib.crc32(_run.encode()) + next(_numbers)) % 100 + 1


@pytest.fixture
def domain_id() -> int:
    """A DDS domain for one test."""
    return new_domain_id()


@pytest.fixture(autouse=True)
def _ros_log_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs of nodes that a test starts, away from the home folder."""
    monkeypatch.setenv('ROS_LOG_DIR', str(tmp_path / 'ros_log'))


@pytest.fixture(scope='session')
def test_data() -> Path:
    """Folder with recorded data (STPRUNE_TEST_DATA); the test is skipped where there is none."""
    path = Path(os.environ.get('STPRUNE_TEST_DATA', ROOT.parent / 'shared' / 'data'))
    if not path.is_dir():
        pytest.skip(f'no recorded data at {path}; set STPRUNE_TEST_DATA')
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick tests first: whoever breaks something learns it early."""
    order = {'unit': 0, 'contract': 1, 'launch': 2, 'integration': 3}
    items.sort(key=lambda item: order.get(item.path.resolve().relative_to(ROOT / 'test').parts[0], 0))
