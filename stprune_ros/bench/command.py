"""What `stprune bench` runs, by its options: a result as JSON, its tables shown and put into pages."""

from __future__ import annotations

import argparse
from types import ModuleType
from typing import Any

from stprune_ros.bench import bench, engine_report, engines, gpu, memory, page, report, selection_report
from stprune_ros.errors import Interrupted
from stprune_ros.results import Show, write_json


def run_bench(options: argparse.Namespace, show: Show) -> int:
    """Measure and write the result; returns 0. Raises StpruneError, before anything is measured, for what cannot be."""
    for path in options.page:
        page.require_page(path)
    shown_by, result = _measure(options)
    files = [options.output]
    if shown_by is report:
        files.append(options.output.with_suffix('.png'))
        report.write_plot(result, files[-1])
    write_json(options.output, result)
    found = {'files': files, 'bench': result}
    show(shown_by.to_markdown(result), found)
    if result.get('interrupted'):
        cells = len(result['selection']) + len(result['ticks'])
        raise Interrupted(f"interrupted after {cells} cells: what was measured is in '{options.output}'", found)
    for path in options.page:
        page.write_page(path, shown_by.blocks(result))
    return 0


def _measure(options: argparse.Namespace) -> tuple[ModuleType, dict[str, Any]]:
    """The result, and the module that shows it."""
    if options.gpu:
        gpu.require_gpu()
        return gpu, gpu.bench_gpu()
    if options.engines:
        return engine_report, engines.bench_engines()
    if options.selection:
        return selection_report, selection_report.bench_selection()
    if options.memory:
        return memory, memory.bench_memory()
    return report, bench.bench(options.quick, options.whole)
