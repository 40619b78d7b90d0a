"""A model is loaded, and answers, without one look at the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from helpers.tiny_models import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
seen = []
def hook(event, arguments):
    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname', 'socket.sendto'):
        seen.append((event, arguments[1:]))
sys.addaudithook(hook)
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model
backend, prompt = load_model(Settings.from_values({'model.path': sys.argv[1], 'model.device': 'cpu'}), print)
import numpy as np
backend.encode([np.zeros((48, 64, 3), np.uint8)])
print('seen', seen)
"""


def test_nothing_looks_at_the_network(tmp_path: Path):
    model = make_tiny_model(tmp_path / 'tiny', 'qwen3_vl')
    env = {name: value for name, value in os.environ.items() if not name.startswith(('HF_', 'TRANSFORMERS_'))}
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM, str(model)],
        env={**env, 'PYTHONPATH': paths, 'HF_HOME': str(tmp_path / 'hub')},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == 'seen []'
    assert not (tmp_path / 'hub').exists() or not list((tmp_path / 'hub').rglob('*.safetensors'))
