"""Colours of the hard world: dull, no two cars quite alike, and the same on cars, clothes and street furniture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Paint = tuple[float, float, float]  # RGB, 0 to 255

CARS: dict[str, Paint] = {
    'red': (150, 62, 58),
    'blue': (66, 84, 140),
    'white': (196, 196, 192),
    'black': (46, 46, 50),
    'yellow': (176, 156, 84),
    'green': (70, 118, 84),
}
CLOTHES: tuple[Paint, ...] = (*CARS.values(), (182, 112, 62), (96, 94, 98), (122, 84, 62))
SPREAD = 12.0  # how far a channel lies from the colour that the paint is called by


def draw_paint(rng: np.random.Generator, paint: Paint) -> Paint:
    """A paint that is called the same."""
    r, g, b = (float(value) for value in np.array(paint) + rng.uniform(-SPREAD, SPREAD, 3))
    return r, g, b


def draw_clothes(rng: np.random.Generator) -> Paint:
    """The colour of a pedestrian's clothes or of street furniture."""
    return draw_paint(rng, CLOTHES[int(rng.integers(len(CLOTHES)))])


def draw_paints(seed: int, colours: Sequence[tuple[str, str]]) -> dict[int, Paint]:
    """The paint of every actor, by its place in ``colours``: (kind, colour) of vehicles and pedestrians."""
    rng = np.random.default_rng([seed, 4])
    return {
        number: draw_paint(rng, CARS[colour]) if kind == 'vehicle' else draw_clothes(rng)
        for number, (kind, colour) in enumerate(colours)
    }
