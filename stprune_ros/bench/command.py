"""What `stprune bench` runs, by its options: a result as JSON, its tables printed and put into pages."""

from __future__ import annotations

import argparse
from types import ModuleType

from stprune_ros.bench import bench, engine_report, engines, gpu, memory, page, report, selection_report
from stprune_ros.results import write_json


def run_bench(options: argparse.Namespace) -> int:
    """Run it; returns the exit code. Raises StpruneError, before anything is measured, for what it cannot do."""
    for path in options.page:
        page.require_page(path)
    shown_by: ModuleType = report
    if options.gpu:
        gpu.require_gpu()
        result, shown_by = gpu.bench_gpu(), gpu
    elif options.engines:
        result, shown_by = engines.bench_engines(), engine_report
    elif options.selection:
        result, shown_by = selection_report.bench_selection(), selection_report
    elif options.memory:
        result, shown_by = memory.bench_memory(), memory
    else:
        result = bench.bench(options.quick, options.whole)
        report.write_plot(result, options.output.with_suffix('.png'))
    write_json(options.output, result)
    print(shown_by.to_markdown(result))
    for path in options.page:
        page.write_page(path, shown_by.blocks(result))
    return 0
