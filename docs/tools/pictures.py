"""Makes the pictures of the documentation: `make pictures`, or `python docs/tools/pictures.py BAG` for another bag.

docs/demo.webp moves through the ticks around the first STOP; docs/tuning_*.webp show one tick at several keep ratios
and with several methods. The bag is a drive of ringworld, the model the bundled one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stprune_ros.core.types import Answer, Behavior, ViewReport
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.io import images
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model

DOCS = Path(__file__).resolve().parents[1]
TILE = (272, 153)  # width and height of a view
CAPTION_HEIGHT = 46
DIMMING = 0.22  # brightness of dropped tokens
GROUND, INK, SOFT = (16, 20, 28), (240, 240, 240), (150, 160, 175)
COLOURS = {Behavior.STOP: (230, 120, 40), Behavior.SLOW_DOWN: (240, 200, 70), Behavior.NONE: (110, 180, 220)}
BEFORE, AFTER = 22, 14  # ticks around the first STOP
TICK_MS = 240  # how long a frame of the moving picture stands; the bag has one each 200 ms
QUALITY = 52  # of WebP, so that the picture stays below 1 MB
RATIOS = (0.5, 0.25, 0.1, 0.05, 0.02)
METHODS = ('st_prune_joint', 'st_prune', 'divprune', 'uniform')


def main(bag: Path) -> None:
    """Write every picture into docs/."""
    answers = list(ticks(bag, {}))
    first = next(index for index, answer in enumerate(answers) if answer.hint.behavior == Behavior.STOP)
    frames = [tick_picture(answer) for answer in answers[max(0, first - BEFORE) : first + AFTER]]
    path = DOCS / 'demo.webp'
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=TICK_MS, loop=0, quality=QUALITY, method=6)
    said(path, f'{len(frames)} ticks')
    ratios = {f'keep_ratio {ratio:g}': {'pruning.keep_ratio': ratio} for ratio in RATIOS}
    methods = {f'{method} at 0.1': {'pruning.method': method} for method in METHODS}
    for name, variants in (('ratio', ratios), ('method', methods)):
        rows = [strip(label, tick_at(bag, values, first)) for label, values in variants.items()]
        picture = Image.fromarray(np.vstack([np.asarray(row) for row in rows]))
        path = DOCS / f'tuning_{name}.webp'
        picture.save(path, quality=70, method=6)
        said(path, ', '.join(variants))


def ticks(bag: Path, values: Mapping[str, Any]) -> Iterator[Answer]:
    """The answer of every tick of a bag, with the images that the model saw."""
    settings = Settings.from_values({'inference.describe': False, **values})
    backend, prompt = load_model(settings)
    with Bag(bag) as opened:
        windows = BagWindows(opened, settings)
        pipeline = Pipeline(settings, backend, windows.rig, prompt, images.decode_for_model)
        for window in windows.read():
            yield pipeline.run(window, with_images=True)


def tick_at(bag: Path, values: Mapping[str, Any], index: int) -> Answer:
    """The answer of the tick number ``index``."""
    return next(answer for number, answer in enumerate(ticks(bag, values)) if number == index)


def tick_picture(answer: Answer) -> Image.Image:
    """The ring as two rows of views, seen from above, below a line with the hint and what it took."""
    views = [tile(view) for view in answer.views]
    front_left, front, front_right, back_right, back, back_left = (*views[-1:], *views[:-1])
    ring = np.vstack([np.hstack([front_left, front, front_right]), np.hstack([back_left, back, back_right])])
    picture = Image.new('RGB', (ring.shape[1], ring.shape[0] + CAPTION_HEIGHT), GROUND)
    picture.paste(Image.fromarray(ring), (0, CAPTION_HEIGHT))
    draw, hint = ImageDraw.Draw(picture), answer.hint
    colour = COLOURS.get(hint.behavior, SOFT)
    draw.rectangle((0, 0, 8, CAPTION_HEIGHT), fill=colour)
    draw.text((20, 7), hint.behavior.name, fill=colour, font=ImageFont.load_default(25))
    draw.rectangle((200, 15, 200 + round(150 * hint.confidence), 29), fill=colour)
    draw.rectangle((200, 15, 350, 29), outline=SOFT)
    draw.text((360, 12), f'{hint.confidence:.0%}', fill=INK, font=ImageFont.load_default(17))
    kept = f'{answer.tokens_kept} of {answer.tokens_full} visual tokens reach the model'
    draw.text((450, 13), kept, fill=INK, font=ImageFont.load_default(16))
    return picture


def strip(label: str, answer: Answer) -> Image.Image:
    """The front half of the ring in one row, with what was kept and said."""
    front_left, front, front_right = (tile(answer.views[index]) for index in (-1, 0, 1))
    row = np.hstack([front_left, front, front_right])
    picture = Image.new('RGB', (row.shape[1], row.shape[0] + 26), GROUND)
    picture.paste(Image.fromarray(row), (0, 26))
    text = f'{label}: {answer.tokens_kept} of {answer.tokens_full} tokens, {answer.hint.behavior.name}'
    ImageDraw.Draw(picture).text((6, 3), f'{text} {answer.hint.confidence:.0%}', fill=INK,
                                 font=ImageFont.load_default(16))  # fmt: skip
    return picture


def tile(view: ViewReport) -> np.ndarray:
    """A view with its dropped tokens in the dark, RGB uint8 (height, width, 3)."""
    assert view.image is not None and view.keep is not None, f'{view.camera} has no frame'
    picture = cv2.resize(view.image, TILE, interpolation=cv2.INTER_AREA)
    kept = cv2.resize(view.keep[-1].astype(np.uint8), TILE, interpolation=cv2.INTER_NEAREST)
    picture = np.where(kept[..., None] > 0, picture, (picture * DIMMING).astype(np.uint8))
    cv2.rectangle(picture, (0, 0), (TILE[0] - 1, TILE[1] - 1), GROUND, 1)
    place, font = (7, TILE[1] - 9), cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(picture, view.camera.removeprefix('CAM_'), place, font, 0.38, SOFT, 1, cv2.LINE_AA)
    return picture


def said(path: Path, what: str) -> None:
    """One line about a picture."""
    print(f"wrote '{path}', {path.stat().st_size / 1e3:.0f} kB: {what}", flush=True)


def arguments(words: Sequence[str]) -> Path:
    """The bag of the command line."""
    if len(words) != 1 or not Path(words[0]).exists():
        raise SystemExit('give one bag, as in: python docs/tools/pictures.py demo_output/world')
    return Path(words[0])


if __name__ == '__main__':
    main(arguments(sys.argv[1:]))
