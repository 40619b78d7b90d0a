"""What `stprune check` says of parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from stprune_ros.cli import main


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding='utf-8')
    return path


def check(folder: Path, capsys: pytest.CaptureFixture[str], text: str, *options: str) -> list[str]:
    """The problems that check names for parameters, without the file's name."""
    path = write(folder / 'my.param.yaml', f'/**: {{ros__parameters: {{{text}}}}}\n')
    code = main(['check', str(path), *options])
    lines = capsys.readouterr().err.splitlines()
    assert code == (1 if lines else 0)
    assert all(line.startswith(f'{path}: ') for line in lines)
    return [line.removeprefix(f'{path}: ') for line in lines]
