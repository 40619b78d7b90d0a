"""Files of public sets as they come: names that lie, pictures that are not there, tables with a part missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.question_sets import (
    make_drivelm,
    make_lingoqa,
    make_nuinstruct,
    needs_packages,
)

from stprune_ros import cli
from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.datasets import files

pytestmark = needs_packages


@pytest.mark.parametrize(
    ('name', 'make'), [('drivelm', make_drivelm), ('lingoqa', make_lingoqa), ('nuinstruct', make_nuinstruct)]
)
def test_results_and_hidden_files_in_the_folder_of_a_set_are_no_questions(
    tmp_path: Path, name: str, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make(tmp_path)
    data.with_name(f'._{data.name}').write_bytes(b'\0\5\x16\7')
    command = ['eval', '--dataset', name, '--data', str(tmp_path), '--model', 'ringworld', '--method', 'uniform']
    for output in ('r.json', 's.json', 'r.json'):
        again = ['--resume'] if (tmp_path / output).exists() else []
        assert cli.main([*command, '--limit', '1', '--output', str(tmp_path / output), *again]) == 0, (
            capsys.readouterr()
        )
    assert files.find_file(tmp_path, data.suffix) == data


def test_only_what_a_run_wrote_is_passed_over(tmp_path: Path) -> None:
    for name, content in (('a.json', '{"default": "x", "tables": []}'), ('b.output.json', '[]'), ('.c.json', '{}')):
        (tmp_path / name).write_text(content)
        with pytest.raises(StpruneError, match=r'has no .json file with questions in it; give the file as --data'):
            files.find_file(tmp_path, '.json')
    (tmp_path / 'd.json').mkdir()
    (tmp_path / 'e.json').write_text('{"defaults": 1}')
    assert files.find_file(tmp_path, '.json').name == 'e.json'
    assert files.find_file(tmp_path / 'a.json', '.json').name == 'a.json', 'who names a file means it'
    (tmp_path / 'outputs.json').write_text('[]')
    with pytest.raises(StpruneError, match='has 2 .json files'):
        files.find_file(tmp_path, '.json')
