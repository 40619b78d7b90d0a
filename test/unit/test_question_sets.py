"""The public data sets through `stprune eval --dataset`: invented fixtures of all three, faults, and what is written."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.question_sets import (
    CAMERAS,
    OPTIONS,
    STRIDE_US,
    draw,
    key_frame,
    make_drivelm,
    make_lingoqa,
    make_nuinstruct,
    picture_name,
    qa,
    write_pictures,
    write_tables,
)
from helpers.reports import report_in
from helpers.tiny_models import make_tiny_model

from stprune_ros import cli

for module in ('pyarrow', 'sacrebleu', 'rouge_score', 'nltk'):
    pytest.importorskip(module, reason="data sets: pip install 'stprune_ros[datasets]'")

from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.datasets import drivelm, lingoqa, nuinstruct
from stprune_ros.evaluation.datasets.answers import AnswerFile, AnswerKey, SetAnswer
from stprune_ros.evaluation.hits import Trial

DEFAULT = 'st_prune_joint+ring+gauge'


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


@pytest.mark.parametrize(
    ('name', 'make', 'ending', 'questions', 'scored'),
    [
        ('drivelm', make_drivelm, '.output.json', 20, 18),
        ('lingoqa', make_lingoqa, '.predictions.csv', 8, 8),
        ('nuinstruct', make_nuinstruct, '.predictions.json', 14, 12),
    ],
)
def test_the_bundled_model_takes_every_set_with_all_tokens_and_a_tenth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, make: Any, ending: str, questions: int, scored: int
) -> None:
    data = make(tmp_path / 'set').parent
    assert evaluate(tmp_path, name, data, '--model', 'ringworld', '--method', f'{DEFAULT},uniform') == 0
    told = capsys.readouterr()
    table = table_of(tmp_path)
    assert (table['world'], table['host'], table['scenes']) == (name, 'ringworld', 2)
    rows = rows_of(table)
    for method, keep in (('none', 1.0), ('blind', 1.0), (DEFAULT, 0.1), ('uniform', 0.1)):
        assert rows[method, keep, 'all']['questions'] == scored
        assert 0 <= rows[method, keep, 'all']['lo'] <= rows[method, keep, 'all']['accuracy'] <= 1
    assert rows['none', 1.0, 'all']['accuracy'] > 0, 'the questions are of its own world'
    assert rows['uniform', 0.1, 'all']['minus_lo'] <= rows['uniform', 0.1, 'all']['minus_default']
    assert "model 'ringworld' knows only ringworld" in told.err
    assert f'<!-- fidelity {name}: all -->' in told.out and f'| {DEFAULT} | 10% |' in told.out
    assert (tmp_path / f'r.ringworld.{name}.png').stat().st_size > 10_000
    lines = (tmp_path / f'r.ringworld.{name}.answers.jsonl').read_text().splitlines()
    assert len(lines) == 1 + 4 * questions
    for method in ('none.1', f'{DEFAULT}.0.1', 'uniform.0.1', 'blind.1'):
        file = tmp_path / f'r.ringworld.{name}.{method}{ending}'
        count = len(json.loads(file.read_text())) if ending.endswith('json') else len(file.read_text().splitlines()) - 1
        assert count == questions
    assert evaluate(tmp_path, name, data, '--model', 'ringworld', '--method', f'{DEFAULT},uniform', '--resume') == 0
    assert f'0 answers were asked for, {4 * questions} were in the file already' in capsys.readouterr().err
    assert table_of(tmp_path) == table
