"""What a vision tower can be taught: the renderer's truth about every single visual token."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from stprune_ros.ringworld.scenes import Scene
from stprune_ros.ringworld.shapes import CLASSES
from stprune_ros.ringworld.training.probes import masked_cross_entropy, masked_mean

KIND_WEIGHTS = (0.3, 1.0, 2.0, 2.0, 2.0)  # nothing, vehicle, pedestrian, red, green; most tokens show no actor
ANCHOR_WEIGHTS = (1.0, 4.0)


class TokenTruth(nn.Module):  # type: ignore[misc]
    """Linear probes on single visual tokens; used in training only and not exported."""

    names: ClassVar[tuple[str, ...]] = ('share', 'kind', 'colour', 'position', 'heading', 'anchor')

    def __init__(self, width: int) -> None:
        super().__init__()
        self.share = nn.Linear(width, len(CLASSES))
        self.kind = nn.Linear(width, len(KIND_WEIGHTS))
        self.colour = nn.Linear(width, 6)
        self.position = nn.Linear(width, 5)
        self.heading = nn.Linear(width, 2)
        self.anchor = nn.Linear(width, 2)

    @classmethod
    def targets(cls, scene: Scene) -> dict[str, torch.Tensor]:
        """The truth of all images of a scene, (F * V, 60, ...)."""
        return {name: torch.from_numpy(scene.tokens[name]).flatten(0, 1) for name in cls.names}

    def loss(
        self, tokens: torch.Tensor, truth: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of tokens (n, 60, D) against truth (n, 60, ...), and metrics.

        The metrics are the accuracies of kind, colour and anchor, and the mean error of the log depth.
        """
        share = truth['share'].float()
        share = share / share.sum(-1, keepdim=True).clamp(min=1.0)
        kind, colour, anchor = truth['kind'].long() + 1, truth['colour'].long(), truth['anchor'].long()
        is_actor, is_car = kind > 0, kind == 1
        everywhere = torch.ones_like(is_actor)
        kinds, colours, anchors = self.kind(tokens), self.colour(tokens), self.anchor(tokens)
        position, heading = self.position(tokens).float(), self.heading(tokens).float()
        loss = functional.cross_entropy(self.share(tokens).float().flatten(0, 1), share.flatten(0, 1))
        loss = loss + masked_cross_entropy(kinds, kind, everywhere, position.new_tensor(KIND_WEIGHTS))
        offset = functional.smooth_l1_loss(position, truth['position'].float(), beta=0.2, reduction='none')
        loss = loss + masked_mean(offset.mean(-1), is_actor)
        loss = loss + 0.7 * masked_cross_entropy(colours, colour, is_car)
        turn = functional.smooth_l1_loss(heading, truth['heading'].float(), reduction='none')
        loss = loss + 0.5 * masked_mean(turn.mean(-1), is_car)
        loss = loss + 0.5 * masked_cross_entropy(anchors, anchor, everywhere, position.new_tensor(ANCHOR_WEIGHTS))
        metrics = {
            'kind': masked_mean((kinds.argmax(-1) == kind).float(), is_actor),
            'colour': masked_mean((colours.argmax(-1) == colour).float(), is_car),
            'depth': masked_mean((position[..., 4] - truth['position'][..., 4].float()).abs(), is_actor),
            'anchor': masked_mean((anchors.argmax(-1) == anchor).float(), anchor == 1),
        }
        return loss, {name: value.detach() for name, value in metrics.items()}
