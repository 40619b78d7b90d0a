"""Copies the sources and pins the wheels of another distribution: `python distributions/copy_tree.py jazzy FOLDER`.

A copy, because what is compiled for a distribution lies beside the sources: two of them in one tree would take turns.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r'^  "ros-.*\n', re.MULTILINE)


def read_pins(distribution: str) -> dict[str, list[str]]:
    """Requirements of the sections build and run. Raises SystemExit where nothing is known of the distribution."""
    file = ROOT / 'distributions' / f'{distribution}.txt'
    if not file.is_file():
        known = ', '.join(['kilted', *sorted(path.stem for path in file.parent.glob('*.txt'))])
        raise SystemExit(f'no wheels are known for DISTRO={distribution}: write one of {known}, or make {file}')
    pins: dict[str, list[str]] = {}
    for line in map(str.strip, file.read_text(encoding='utf-8').splitlines()):
        if line.startswith('['):
            section = pins.setdefault(line.strip('[]'), [])
        elif line and not line.startswith('#'):
            section.append(line)
    return pins


def pinned(pyproject: str, pins: dict[str, list[str]]) -> str:
    """The text of pyproject.toml with these wheels in the build requirements and in the extra `ros`."""
    for section, start in (('build', '[build-system]'), ('run', '\nros = [\n')):
        before, found, after = pyproject.partition(start)
        assert found, start
        block, end, rest = after.partition(']\n') if section == 'run' else after.partition('\n]\n')
        block = PIN.sub('', f'{block}\n' if section == 'build' else block)
        block += ''.join(f'  "{pin}",\n' for pin in pins[section])
        pyproject = before + found + block + end.lstrip('\n') + rest
    return pyproject


def main(distribution: str, folder: Path) -> None:
    """Make ``folder`` hold today's sources; what was built there stays."""
    pins = read_pins(distribution)
    command = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    wanted = {Path(name) for name in listed.stdout.decode().split('\0') if name and (ROOT / name).is_file()}
    known = folder / '.copied'
    if known.is_file():
        for name in set(map(Path, known.read_text(encoding='utf-8').splitlines())) - wanted:
            (folder / name).unlink(missing_ok=True)
    for name in sorted(wanted):
        source, target = ROOT / name, folder / name
        text = pinned(source.read_text(encoding='utf-8'), pins) if name == Path('pyproject.toml') else None
        if target.is_file() and target.read_bytes() == (source.read_bytes() if text is None else text.encode()):
            continue  # so that make builds nothing anew for it
        target.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            shutil.copy2(source, target)
        else:
            target.write_text(text, encoding='utf-8')
    known.write_text('\n'.join(map(str, sorted(wanted))), encoding='utf-8')


if __name__ == '__main__':
    main(sys.argv[1], Path(sys.argv[2]))
