"""`stprune eval --dataset` as tests run it, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_models import make_tiny_model

from stprune_ros import cli


def tiny_params(folder: Path) -> Path:
    """Parameters with a tiny model that has a token for every letter and says two tokens."""
    model = make_tiny_model(folder / 'tiny', 'ringworld')
    path = folder / 'params.yaml'
    values = {'model.path': str(model), 'model.device': 'cpu', 'inference.max_new_tokens': 2}
    path.write_text(json.dumps({'/**': {'ros__parameters': values}}))
    return path


def evaluate(folder: Path, name: str, data: Path, *options: str) -> int:
    return cli.main(['eval', '--dataset', name, '--data', str(data), '--output', str(folder / 'r.json'), *options])


def table_of(folder: Path) -> dict[str, Any]:
    [table] = json.loads((folder / 'r.json').read_text())['tables']
    return table


def rows_of(table: dict[str, Any]) -> dict[tuple[str, float, str], dict[str, Any]]:
    return {(row['method'], row['keep'], row['kind']): row for row in table['rows']}


def measure(table: dict[str, Any], name: str, method: str = 'none', keep: float = 1.0) -> dict[str, Any]:
    [row] = [r for r in table['measures'] if (r['measure'], r['method'], r['keep']) == (name, method, keep)]
    return row


def sentence_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The last sentence on stderr."""
    return capsys.readouterr().err.splitlines()[-1].removeprefix('stprune: ')
