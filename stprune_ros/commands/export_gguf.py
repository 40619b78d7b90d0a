"""The command `stprune export-gguf`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stprune_ros.preflight import require_file
from stprune_ros.resources import resource_path
from stprune_ros.results import Show

HELP = 'write the language model of a folder as a GGUF file'
TYPES = ('F32', 'F16', 'Q8_0', 'Q4_0')  # of vlm/llama_cpp/export, which brings torch


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument('model', nargs='?', default='', metavar='MODEL', help='folder or hub id; default: the bundled')
    command.add_argument('--output', type=Path, required=True, metavar='FILE', help='for model.gguf')
    command.add_argument('--type', choices=TYPES, default='F16', dest='kind', help='of matrices; default: %(default)s')


def run(options: argparse.Namespace, show: Show) -> int:
    """Write the file and say so; returns 0. Raises StpruneError where the model or the output will not do."""
    require_file(options.output, '.gguf')
    from stprune_ros.vlm.llama_cpp.export import export_gguf
    from stprune_ros.vlm.loading import BUNDLED_MODEL

    model = options.model or str(resource_path(BUNDLED_MODEL))
    text = export_gguf(model, options.output, options.kind)
    show(text, {'files': [options.output], 'model': model, 'type': options.kind})
    return 0
