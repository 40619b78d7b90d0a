"""What int4 weights of torchao cost and weigh on a CPU beside float32 and bfloat16, one random model in one run.

    python benchmark/int4.py [--layers 2]

The shape is that of `stprune bench --engines` with fewer layers; milliseconds are CPU (wall), medians of two rounds.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from stprune_ros.bench.engines import ROUNDS, SHAPE, WRITTEN, Contender, measure, save_random_model
from stprune_ros.results import table
from stprune_ros.vlm.hf.backend import TransformersBackend
from stprune_ros.vlm.hf.memory import weight_bytes
from stprune_ros.vlm.hf.model_folder import locate_model

VARIANTS = (('float32', 'none'), ('bfloat16', 'none'), ('float32', 'int4'), ('bfloat16', 'int4'))


def main() -> None:
    """Measure each variant and print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument('--layers', type=int, default=2)
    shape = replace(SHAPE, layers=options.parse_args().layers)
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = save_random_model(Path(place) / 'model', shape)
        for dtype, quantization in VARIANTS:
            backend = TransformersBackend.load(folder, device='cpu', dtype=dtype, quantization=quantization)
            found = measure(Contender('transformers', dtype), backend, shape, ROUNDS, WRITTEN)
            times = [f'{cpu:.0f} ({found["wall_ms"][stage]:.0f})' for stage, cpu in found['cpu_ms'].items()]
            weights, _ = weight_bytes(locate_model(folder), dtype, quantization)
            rows.append((f'{dtype}, {quantization}', *times, f'{weights / 2**20:.0f}'))
    print(table(('weights', *found['cpu_ms'], 'MiB'), rows))


if __name__ == '__main__':
    main()
