"""How a fleet scales on this machine: the same bags with one worker and with two, start of Ray and models included.

    python benchmark/fleet.py out/scaling --bags 8 --seconds 30

Needs two idle cores; says how busy the machine was. Writes scaling.json into the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from stprune_ros.results import table, write_json

FIRST_SEED = 1_000_300  # of worlds that no training saw


def main() -> None:
    """Make the bags that are not there yet, run both fleets, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('output', type=Path)
    parser.add_argument('--bags', type=int, default=8)
    parser.add_argument('--seconds', type=float, default=30.0)
    options = parser.parse_args()
    bags = [options.output / 'bags' / f'drive_{number:02}' for number in range(options.bags)]
    for number, bag in enumerate(bags):
        if not bag.exists():
            stprune('world', bag, '--seed', FIRST_SEED + number, '--seconds', options.seconds, '--hz', 5)
    rows = [measure(options.output / f'workers_{workers}', bags, workers) for workers in (1, 2)]
    found = {'rows': rows, 'two_of_one': round(rows[1]['wall_s'] / rows[0]['wall_s'], 3), 'cores': os.cpu_count()}
    write_json(options.output / 'scaling.json', found)
    head = ('workers', 'wall s', 'ticks', 'ticks/s', 'ticks/s per worker', 'load before')
    print(table(head, [list(row.values()) for row in rows]))
    print(f'two workers take {found["two_of_one"]:g} of the time of one')


def measure(output: Path, bags: list[Path], workers: int) -> dict[str, Any]:
    """One fleet from nothing."""
    shutil.rmtree(output, ignore_errors=True)
    load, started = os.getloadavg()[0], time.monotonic()
    stprune('fleet', *bags, '--output', output, '--workers', workers)
    wall_s = time.monotonic() - started
    ticks = json.loads((output / 'fleet.json').read_text(encoding='utf-8'))['ticks']
    return {
        'workers': workers,
        'wall_s': round(wall_s, 1),
        'ticks': ticks,
        'ticks_per_s': round(ticks / wall_s, 2),
        'ticks_per_s_per_worker': round(ticks / wall_s / workers, 2),
        'load_before': round(load, 2),
    }


def stprune(*arguments: object) -> None:
    """Run a command; its failure is ours."""
    subprocess.run([sys.executable, '-m', 'stprune_ros.cli', *map(str, arguments)], check=True, stdout=sys.stderr)


if __name__ == '__main__':
    main()
