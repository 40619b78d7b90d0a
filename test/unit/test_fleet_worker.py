"""Which bags a worker splits, and what tells the parts of one run from those of another."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.small_bags import drive, write_bag

pytest.importorskip('pyarrow', reason="pyarrow is not installed: pip install '.[fleet]'")

from stprune_ros.fleet.plan import Drive, Run, settings_of
from stprune_ros.fleet.worker import _is_long, _key
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import ModelInfo


def test_a_bag_of_up_to_two_windows_is_not_split() -> None:
    def is_long(seconds: float, window_s: float, **values: Any) -> bool:
        bag = SimpleNamespace(duration_ns=round(seconds * 1e9))
        return _is_long(SimpleNamespace(bag=bag, settings=Settings.from_values(values)), window_s)  # type: ignore[arg-type]

    assert [is_long(seconds, 10.0) for seconds in (19.0, 20.0, 20.1)] == [False, False, True]
    assert not is_long(1e6, 0.0)
    assert not is_long(1e6, 10.0, **{'latency.target_ms': 100.0})


def test_parts_follow_from_bag_parameters_model_and_prompt(tmp_path: Path) -> None:
    bag_folder = write_bag(tmp_path / 'one', drive(2))

    def key(revision: str = 'r', prompt: str = 'p', common: float | None = None, **values: Any) -> str:
        [setting] = settings_of(Settings.from_values(values), [])
        run = Run(Drive(bag_folder, 'one', 1), setting)
        info = ModelInfo('m', revision, '', True, 'cpu', 'float32', joint_common=common)
        backend = SimpleNamespace(info=info)
        with Bag(bag_folder) as bag:
            windows = BagWindows(bag, setting.settings)
            return _key(run, windows, backend, SimpleNamespace(id=prompt, calibration=None))  # type: ignore[arg-type]

    first = key()
    assert first == key()
    others = [key(revision='s'), key(prompt='q'), key(common=2.4), key(**{'pruning.keep_ratio': 0.3})]
    assert len({first, *others}) == 5
    [storage] = [file for file in bag_folder.iterdir() if file.suffix in ('.mcap', '.db3')]
    stat = storage.stat()
    os.utime(storage, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    assert key() != first
