"""A pipeline with a tiny model and three cameras, and windows for it."""

from dataclasses import replace

import numpy as np
from helpers.tiny_models import make_tiny_model

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import (
    CameraFrame,
    EgoState,
    FrameSet,
    Window,
)
from stprune_ros.errors import StpruneError
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model

MS = 1_000_000
NAMES = ('FRONT', 'RIGHT', 'LEFT')
EGO = EgoState(0, None, None, (5.0, 0.0, 0.0), (0.0, 0.0, 0.1))


def load_tiny(folder):
    model = make_tiny_model(folder / 'tiny', 'ringworld')
    return load_model(Settings.from_values({'model.path': str(model), 'model.device': 'cpu'}))


class Counting:
    """The real backend, counting the images it encodes; ``trained`` as one says, so that answers count."""

    def __init__(self, backend, trained=True):
        self._backend = backend
        self.info = replace(backend.info, trained=trained)
        self.encoded = 0

    def encode(self, images):
        self.encoded += len(images)
        return self._backend.encode(images)

    def __getattr__(self, name):
        return getattr(self._backend, name)


def make_rig(path):
    entries = [f'{n}: {{azimuth_deg: {a}, hfov_deg: 90, width: 96, height: 64}}' for n, a in zip(NAMES, (0, -120, 120))]
    path.write_text('cameras:\n  ' + '\n  '.join(entries))
    return CameraRig.from_file(path)


def decode(frame, _limits):
    """Pixels that depend on camera and stamp; the payload 'broken' stands for a file that cannot be decoded."""
    if frame.payload == 'broken':
        raise StpruneError('3 bytes are no image')
    seed = abs(hash((NAMES.index(frame.camera), frame.stamp_ns))) % 2**32
    return np.random.default_rng(seed).integers(0, 255, (64, 96, 3), np.uint8), 1


def frame_set(ms, without=(), broken=(), ego=EGO):
    frames = {n: CameraFrame(n, ms * MS, payload='broken' if n in broken else '') for n in NAMES if n not in without}
    return FrameSet(ms, ms * MS, NAMES, frames, ego=ego)


def window(*sets):
    return Window(tuple(sets), 4)


def build_pipeline(loaded, values=None, trained=True, *, rig):
    backend, prompt = loaded
    values = {'inference.max_new_tokens': 6, 'pruning.keep_ratio': 0.25, **(values or {})}
    return Pipeline(Settings.from_values(values), Counting(backend, trained), rig, prompt, decode)
