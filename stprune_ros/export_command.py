"""The command `stprune export-gguf`: its arguments, and what it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from stprune_ros.preflight import require_file
from stprune_ros.resources import resource_path

TYPES = ('F32', 'F16', 'Q8_0', 'Q4_0')  # of vlm/llama_cpp/export, which brings torch


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments, and `run` for them."""
    command.add_argument('model', nargs='?', default='', metavar='MODEL', help='folder or hub id; default: the bundled')
    command.add_argument('--output', type=Path, required=True, metavar='FILE', help='for model.gguf')
    command.add_argument('--type', choices=TYPES, default='F16', dest='kind', help='of matrices; default: %(default)s')
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the file and say so; returns 0. Raises StpruneError where the model or the output will not do."""
    require_file(options.output, '.gguf')
    from stprune_ros.vlm.llama_cpp.export import export_gguf
    from stprune_ros.vlm.loading import BUNDLED_MODEL

    print(export_gguf(options.model or str(resource_path(BUNDLED_MODEL)), options.output, options.kind))
    return 0
