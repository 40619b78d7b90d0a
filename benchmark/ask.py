"""How long a hint may wait for a question: `OMP_NUM_THREADS=1 python benchmark/ask.py BAG [--model FOLDER]`.

Every tick finds a newer set waiting, once it has done what it must; what it takes between its hint and its end is what
that set waits. Medians over the ticks of a bag in ms of processor time, which is this process's own whatever else
runs: with OMP_NUM_THREADS=1 what it would take on a core of its own.
"""

from __future__ import annotations

import argparse
import time
from itertools import count
from pathlib import Path
from statistics import median

from stprune_ros.core.types import Answer, Window
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.inference.question import Ask, Question
from stprune_ros.io import images
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model

TEXT = 'what is left of me, and does anything move there?'
WARM_UP = 2  # ticks


def until_hint(pipeline: Pipeline, windows: list[Window]) -> float:
    """Median processor time in ms of ticks without a question."""
    found = []
    for window in windows:
        begun = time.process_time()
        pipeline.run(window)
        found.append((time.process_time() - begun) * 1e3)
    return median(found[WARM_UP:])


def waits(pipeline: Pipeline, windows: list[Window], question: Question, first: bool) -> float:
    """Median processor time in ms from hint to end, of ticks in which a text begins (``first``) or goes on."""
    found: list[float] = []
    for number, window in enumerate(windows):
        ask, begun, looks = Ask(question), 0.0, count()

        def mark(_: Answer) -> None:
            nonlocal begun
            begun = time.process_time()

        # A prompt of its own is begun only where nothing waits, so the first look finds nothing.
        pipeline.run(window, ask=ask, on_hint=mark, leave=lambda looks=looks: next(looks) > 0)
        if not first and not ask.is_over:
            pipeline.run(window, ask=ask, on_hint=mark, leave=lambda: True)
        if number >= WARM_UP:
            found.append((time.process_time() - begun) * 1e3)
    return median(found)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser()
    options.add_argument('bag', type=Path)
    options.add_argument('--model', default='')
    options.add_argument('--device', default='auto')
    given = options.parse_args()
    values = {'inference.describe': False, 'model.device': given.device}
    settings = Settings.from_values({**values, **({'model.path': given.model} if given.model else {})})
    with Bag(given.bag) as bag:
        reader = BagWindows(bag, settings)
        windows = list(reader.read())
        backend, prompt = load_model(settings)
        pipeline = Pipeline(settings, backend, reader.rig, prompt, images.decode_for_model)
        print(f'a tick up to its hint: {until_hint(pipeline, windows):.1f} ms')
        one = reader.rig.ring[0]
        kinds = {
            'the question and its first token': (Question(TEXT, deadline_s=60.0), True),
            'a further token': (Question(TEXT, deadline_s=60.0), False),
            'two candidates': (Question(TEXT, candidates=('yes', 'no'), deadline_s=60.0), True),
            'one camera: its prompt and first token': (Question(TEXT, (one,), deadline_s=60.0), True),
            'no history: its prompt and first token': (Question(TEXT, current_only=True, deadline_s=60.0), True),
        }
        for name, (question, first) in kinds.items():
            print(f'{name}: {waits(pipeline, windows, question, first):.1f} ms')


if __name__ == '__main__':
    main()
