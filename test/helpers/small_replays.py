"""Replays of small real bags through a tiny real model, for the tests of what they leave."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from helpers.small_bags import PERIOD_NS, START_NS, Item, image, jpeg
from helpers.tiny_models import make_tiny_model

from stprune_ros.cli import main
from stprune_ros.io.bag_reader import Bag
from stprune_ros.replay.results import HINT_TOPIC

FILES = ['replay.param.yaml', 'report.html', 'results.mcap', 'summary.json']  # that are left


def trained_model(folder: Path) -> Path:
    """A tiny model that passes for a trained one."""
    path = make_tiny_model(folder / 'tiny', 'ringworld')
    (path / 'stprune.json').write_text(json.dumps({'trained': True}))
    return path


def tiny_parameters(folder: Path, model: Path) -> Path:
    """A parameter file for that model and bags of a few ticks."""
    path = folder / 'params.yaml'
    values = {
        'model.path': str(model),
        'history.stride_ms': 100.0,
        'inference.max_new_tokens': 3,
        'pruning.keep_ratio': 0.3,
    }
    path.write_text(json.dumps({'/**': {'ros__parameters': values}}))
    return path


def run(bag: Path, output: Path, params: Path, *more: str) -> dict[str, Any]:
    """Replay a bag; the content of summary.json."""
    assert main(['replay', str(bag), '--output', str(output), '--params', str(params), *more]) == 0
    return json.loads((output / 'summary.json').read_text())


def without_times(summary: dict[str, Any]) -> str:
    """A summary, but for what differs from run to run."""
    times = ('stage_ms', 'hint_ms', 'tick_ms', 'times')
    return json.dumps({key: value for key, value in summary.items() if key not in times})


def damaged(name: str) -> Any:
    """Replace the front images of the second tick by something broken."""

    def change(item: Item) -> Item | None:
        if '/front/image_raw' not in item.topic:
            return item
        raw = name in ('wrong encoding', 'wrong step', 'zero size')
        topic = item.topic.removesuffix('/compressed') if raw else item.topic
        good = image(item.stamp_ns) if raw else item.message
        broken = {
            'truncated': lambda: jpeg(item.stamp_ns, cut=200),
            'no bytes': lambda: jpeg(item.stamp_ns, cut=0),
            'wrong encoding': lambda: image(item.stamp_ns, encoding='klingon8'),
            'wrong step': lambda: image(item.stamp_ns, step=10),
            'zero size': lambda: image(item.stamp_ns, width=0),
        }[name]
        return replace(item, topic=topic, message=broken() if item.stamp_ns == START_NS + PERIOD_NS else good)

    return change


def as_video(item: Item) -> Item:
    """Images as frames of a video stream, which cannot be decoded alone."""
    if item.topic.endswith('compressed'):
        item.message.format, item.message.data = 'h264', np.frombuffer(b'\0\0\0\1\x67' + bytes(90), np.uint8)
    return item


def hints_of(output: Path) -> list[tuple[int, int, list[float], int]]:
    """Of each hint in the results: stamp, behavior, probabilities, tokens before pruning."""
    with Bag(output / 'results.mcap') as results:
        messages = [record.message() for record in results.messages([HINT_TOPIC])]
    return [
        (m.header.stamp.sec * 10**9 + m.header.stamp.nanosec, m.behavior, m.probabilities.tolist(), m.info.tokens_full)
        for m in messages
    ]


def page_data(output: Path) -> dict[str, Any]:
    """What the script of a report reads."""
    html = (output / 'report.html').read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])
