"""What a vision tower can be taught without truth per token: questions about whole images.

How many cars and pedestrians there are, which light, which colours; where in the image and how far away the nearest
car, the nearest pedestrian, the outermost cars and the nearest car of each colour are. Nothing says which token shows
what.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from stprune_ros.ringworld.renderer import HEIGHT, WIDTH
from stprune_ros.ringworld.scenes import Scene
from stprune_ros.ringworld.traffic import COLOURS
from stprune_ros.ringworld.training.probes import masked_cross_entropy, masked_mean
from stprune_ros.ringworld.truth import VisibleActor

MOST = 3  # stands for three and more
COUNTED = ('vehicle', 'pedestrian')
LIGHTS = ('none', 'red', 'green')
PLACES = ('nearest car', 'nearest pedestrian', 'leftmost car', 'rightmost car', *COLOURS)
COLOURED = ('nearest car', 'leftmost car', 'rightmost car')
PLACE_WEIGHT = 3.0
HEADS = 4


def image_truth(actors: Sequence[VisibleActor]) -> dict[str, np.ndarray]:
    """Answers about one image from what it shows, nearest first.

    - ``counts`` (2,) of cars and pedestrians up to `MOST`, ``light`` index into `LIGHTS`, ``present`` (6,) by colour
    - ``place`` (10, 3) column, row (shares of the image) and log distance of `PLACES`, not a number where there is none
    - ``colour`` (3,) of `COLOURED`, -1 where there is none or it cannot be told
    """
    cars = [actor for actor in actors if actor.kind == 'vehicle']
    walkers = [actor for actor in actors if actor.kind == 'pedestrian']
    lights = [actor for actor in actors if actor.kind == 'light']
    left = min(cars, key=lambda car: car.left, default=None)
    right = max(cars, key=lambda car: car.right, default=None)
    first = {colour: next((car for car in cars if car.colour == colour), None) for colour in COLOURS}
    chosen = [cars[0] if cars else None, walkers[0] if walkers else None, left, right, *first.values()]
    places = [_place(actor) for actor in chosen]
    if left and right:  # of the outermost cars the outer edge counts
        places[2:4] = [(left.left / WIDTH, *places[2][1:]), (right.right / WIDTH, *places[3][1:])]
    colours = [COLOURS.index(car.colour) if car and car.colour in COLOURS else -1 for car in (chosen[0], left, right)]
    return {
        'counts': np.array([min(MOST, len(cars)), min(MOST, len(walkers))], np.int8),
        'light': np.array(LIGHTS.index(lights[0].state) if lights else 0, np.int8),
        'present': np.array([car is not None for car in first.values()], np.int8),
        'place': np.array(places, np.float32),
        'colour': np.array(colours, np.int8),
    }


def _place(actor: VisibleActor | None) -> tuple[float, float, float]:
    if actor is None:
        return math.nan, math.nan, math.nan
    return actor.u / WIDTH, actor.v / HEIGHT, math.log(max(actor.distance, 1.0))


class ImageQuestions(nn.Module):  # type: ignore[misc]
    """Attention pooling over the tokens of an image, one learned query per question; not exported."""

    names: ClassVar[tuple[str, ...]] = ('counts', 'light', 'present', 'place', 'colour')

    def __init__(self, width: int) -> None:
        super().__init__()
        asked = len(COUNTED) + 1 + len(PLACES)
        self.queries = nn.Parameter(torch.randn(asked, width) * 0.5)
        self.keys, self.values = nn.Linear(width, width), nn.Linear(width, width)
        self.mix = nn.Sequential(nn.Linear(width, width), nn.GELU())
        self.counts = nn.ModuleList([nn.Linear(width, MOST + 1) for _ in COUNTED])
        self.light = nn.Linear(width, len(LIGHTS))
        self.present = nn.Linear(width, 1)
        self.place = nn.Linear(width, 3)
        self.colour = nn.Linear(width, len(COLOURS))

    @classmethod
    def targets(cls, scene: Scene) -> dict[str, torch.Tensor]:
        """The truth of all images of a scene, (F * V, ...)."""
        rows = [image_truth(view) for truth in scene.truths for view in truth.views]
        return {name: torch.from_numpy(np.array([row[name] for row in rows])) for name in cls.names}

    def loss(
        self, tokens: torch.Tensor, truth: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of tokens (n, N, D) against the truth of their images, and metrics."""
        split = (HEADS, tokens.shape[-1] // HEADS)
        queries = self.queries.unflatten(-1, split).transpose(0, 1).expand(len(tokens), -1, -1, -1)
        keys, values = (f(tokens).unflatten(-1, split).transpose(1, 2) for f in (self.keys, self.values))
        pooled = functional.scaled_dot_product_attention(queries.to(keys.dtype), keys, values)
        answers = self.mix(pooled.transpose(1, 2).flatten(2))  # [n, questions, D]
        counts, light, where = truth['counts'].long(), truth['light'].long(), answers[:, len(COUNTED) + 1 :]
        guesses = [head(answers[:, index]).float() for index, head in enumerate(self.counts)]
        lamp, colours = self.light(answers[:, len(COUNTED)]).float(), self.colour(where[:, [0, 2, 3]])
        loss = functional.cross_entropy(lamp, light)
        for index, guess in enumerate(guesses):
            loss = loss + functional.cross_entropy(guess, counts[:, index])
        present = self.present(where[:, len(PLACES) - len(COLOURS) :])[..., 0].float()
        loss = loss + 2.0 * functional.binary_cross_entropy_with_logits(present, truth['present'].float())
        known = ~truth['place'][..., 0].isnan()
        place, true_place = self.place(where).float(), truth['place'].nan_to_num()
        errors = functional.smooth_l1_loss(place, true_place, beta=0.1, reduction='none').mean(-1)
        loss = loss + PLACE_WEIGHT * masked_mean(errors, known)
        loss = loss + 0.7 * masked_cross_entropy(colours, truth['colour'], truth['colour'] >= 0)
        right = (colours.argmax(-1) == truth['colour']).float()
        metrics = {
            'cars': (guesses[0].argmax(-1) == counts[:, 0]).float().mean(),
            'pedestrians': (guesses[1].argmax(-1) == counts[:, 1]).float().mean(),
            'light': (lamp.argmax(-1) == light).float().mean(),
            'colour': masked_mean(right, truth['colour'] >= 0),
            'column': masked_mean((place - true_place)[..., 0].abs(), known),
        }
        return loss, {name: value.detach() for name, value in metrics.items()}
