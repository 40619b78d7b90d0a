"""Linear probes on visual tokens inside the language model; used in training only and not exported."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from stprune_ros.ringworld.renderer import VIEW_NAMES
from stprune_ros.ringworld.scenes import GRID
from stprune_ros.ringworld.training.prompt_encoder import ViewSubset

TOKENS = GRID[0] * GRID[1]  # of an image on the grid of the renderer's truth
PROBE_CLASSES = {'kind': 5, 'moving': 2, 'side': 3, 'reason': 3, 'nearest': 2, 'copy': 2}  # a kind more: no actor
PROBE_WEIGHTS = {'moving': 1.0, 'side': 1.0}  # 0.5 for all others
LATE_PROBES = ('moving', 'side')  # on the third layer's output, all others on the second's
DISPLACEMENT_WEIGHT = 2.0
FRAMES_BACK = (1, 2)  # frames over which an actor's displacement is predicted
BACKGROUND_SHARE = 0.05  # of the tokens without an actor that count for the kind


class DenseHeads(nn.Module):  # type: ignore[misc]
    """The probes: which view, whether the frame is current, the dense truth, displacements between frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.view = nn.Linear(width, len(VIEW_NAMES))
        self.current = nn.Linear(width, 2)
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in PROBE_CLASSES.items()})
        self.displacement = nn.Linear(width, 3 * len(FRAMES_BACK))

    def loss(
        self, middle: torch.Tensor, late: torch.Tensor, dense: dict[str, torch.Tensor], subset: ViewSubset
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss, and metrics: accuracy of each probe, and the error of each displacement.

        ``middle`` and ``late`` are visual tokens after the second and third layer, (B, views * frames * 60, D) in
        prompt order; ``dense`` holds truth (B, V, T, 60, ...).
        """
        b, n, frames, device = len(middle), len(subset.views), subset.frames, middle.device
        middle, late = (hidden.view(b, n, frames, TOKENS, -1) for hidden in (middle, late))
        everywhere = torch.ones(b, n, frames, TOKENS, dtype=torch.bool, device=device)
        view = torch.tensor(subset.views, device=device).view(1, n, 1, 1).expand(everywhere.shape)
        current = (torch.arange(frames, device=device) == frames - 1).view(1, 1, frames, 1).expand(everywhere.shape)
        loss = 0.3 * masked_cross_entropy(self.view(middle), view, everywhere)
        loss = loss + 0.5 * masked_cross_entropy(self.current(middle), current, everywhere)
        has_past = everywhere.clone()
        has_past[:, :, 0] = False  # one frame does not tell what moves
        actor = dense['kind'] >= 0
        masks = {
            'kind': actor | (torch.rand(actor.shape, device=device) < BACKGROUND_SHARE),
            'moving': (dense['moving'] >= 0) & has_past,
            'side': (dense['side'] >= 0) & has_past,
            'nearest': dense['nearest'] >= 0,
        }
        if 0 in subset.views:
            masks['reason'] = actor
        if n > 1:
            masks['copy'] = dense['copy'] >= 0
        metrics = {}
        for name, mask in masks.items():
            target = dense[name].long() + (name == 'kind')
            logits = self.heads[name](late if name in LATE_PROBES else middle)
            loss = loss + PROBE_WEIGHTS.get(name, 0.5) * masked_cross_entropy(logits, target, mask)
            metrics[name] = masked_mean((logits.argmax(-1) == target).float(), mask).detach()
        predicted = self.displacement(middle).unflatten(-1, (len(FRAMES_BACK), 3)).float()
        for index, back in enumerate(FRAMES_BACK):
            moved, known = displacements(dense['actor'], dense['centre'], back)
            errors = functional.smooth_l1_loss(predicted[..., index, :], moved, beta=0.1, reduction='none').mean(-1)
            error = masked_mean(errors, known)
            loss = loss + DISPLACEMENT_WEIGHT * error
            metrics[f'displacement {back}'] = error.detach()
        return loss, metrics


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the values where ``mask``, 0 where it is nowhere; unlike indexing, this does not wait for a GPU."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def masked_cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross entropy of (..., classes) against (...) where ``mask``; with class weights their weighted mean."""
    target = target.long().where(mask, torch.zeros((), dtype=torch.long, device=target.device))
    losses = functional.cross_entropy(logits.float().flatten(0, -2), target.flatten(), weight, reduction='none')
    norm = mask.flatten() if weight is None else mask.flatten() * weight[target.flatten()]
    return (losses * mask.flatten()).sum() / norm.sum().clamp(min=1e-6)


def actor_centres(position: torch.Tensor) -> torch.Tensor:
    """Centre of the actor in each patch, (F, V, 60, 3): column and row in patches, and log of its depth."""
    cells = torch.arange(TOKENS)
    grid = torch.stack([cells % GRID[1], cells // GRID[1]], -1)
    return torch.cat([position[..., 2:4].float() + grid, position[..., 4:5].float()], -1).half()


def displacements(actors: torch.Tensor, centres: torch.Tensor, back: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How far actors have moved in the image since ``back`` frames ago, and where that is known.

    ``actors`` (B, V, T, 60) are ids, -1 for none; ``centres`` as `actor_centres` returns them, with a batch dimension.
    Returns (B, V, T, 60, 3), clamped to 3, and bool (B, V, T, 60).
    """
    match = (actors[:, :, back:, :, None] == actors[:, :, :-back, None, :]) & (actors[:, :, back:, :, None] >= 0)
    before = match.int().argmax(-1)  # any patch that showed the actor: all hold the same centre
    moved = centres[:, :, back:] - centres[:, :, :-back].gather(3, before[..., None].expand(*before.shape, 3))
    out = torch.zeros(centres.shape, device=centres.device)
    known = torch.zeros(actors.shape, dtype=torch.bool, device=centres.device)
    out[:, :, back:], known[:, :, back:] = moved.float().clamp(-3, 3), match.any(-1)
    return out, known
