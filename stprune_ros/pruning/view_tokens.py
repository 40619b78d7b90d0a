"""What goes into a selection: the token grid of each view, and how much of it may stay."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stprune_ros.errors import StpruneError
from stprune_ros.pruning.selection import budget


@dataclass(frozen=True)
class Known:
    """What selection makes of a view first: ``units`` (T, P, D) unit rows, ``similarity`` (T * P, T * P), float32.

    ``common`` is its commonness (T * P,), None where nobody asked for it.
    """

    units: Tensor
    similarity: Tensor
    common: Tensor | None = None


@dataclass(frozen=True)
class ViewTokens:
    """The token grid of one view.

    ``tokens`` (T, rows, columns, D), the frames that are there, oldest first, T = 0 for a view without any; ``slots``
    gives each frame's place in the history, 0 oldest. Grids may differ between views.

    What calibration and odometry know, None where they are missing: ``shared`` holds for the left and the right
    neighbour which grid columns it sees too, bool (columns,); ``flow`` (T, rows * columns, 2) says where a static patch
    of the newest frame was in each frame, as row and column, NaN outside.

    ``frames`` are the tensors that ``tokens`` was stacked from, which tell frames apart from tick to tick; ``known`` is
    what a `SimilarityCache` knows already. Both change only how fast a selection is.
    """

    name: str
    tokens: Tensor
    slots: tuple[int, ...]
    shared: tuple[Tensor, Tensor] | None = None
    flow: Tensor | None = None
    frames: tuple[Tensor, ...] | None = None
    known: Known | None = None

    @property
    def count(self) -> int:
        """Tokens before pruning."""
        return math.prod(self.tokens.shape[:3])


@dataclass(frozen=True)
class PruningConfig:
    """The method and its hyper-parameters; the lambdas are the paper's, which belongs to which stage is our reading.

    The switches are ours, off in the plain method: volatility along the motion that odometry explains, penalties only
    within the overlap that calibration allows, only one view of a pair paying for a copy, frames that a frozen camera
    repeats not taken for a static scene, and soft terms that scale the distance instead of being added to it.
    """

    method: str = 'st_prune'
    keep_ratio: float = 0.1
    lambda_temporal: float = 0.6
    lambda_spatial: float = 0.8
    seed: int = 0
    compensate_motion: bool = False
    calibrated_overlap: bool = False
    one_pays: bool = False
    skip_frozen: bool = False
    scaled_terms: bool = False
    joint_weights: tuple[float, float, float] = (0.3, 0.7, 2.4)  # volatility, recency, commonness

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise StpruneError(f'keep ratio is {self.keep_ratio}; allowed is more than 0 and at most 1')


def unit_rows(view: ViewTokens) -> Tensor:
    """(T, P, D) in float32 with unit rows."""
    return torch.nn.functional.normalize(view.tokens.flatten(1, 2).float(), dim=-1)


def unit_frame(tokens: Tensor) -> Tensor:
    """One frame's part of `unit_rows`: (P, D) for (rows, columns, D)."""
    return torch.nn.functional.normalize(tokens.flatten(0, 1).float(), dim=-1)


def nothing_known(view: ViewTokens) -> Known:
    """`Known` of a view without frames."""
    return Known(unit_rows(view), view.tokens.new_zeros(0, 0))


def view_budget(view: ViewTokens, config: PruningConfig) -> int:
    """Tokens that a method without stages keeps of a view: the ratio of them, 0 of none."""
    return budget(config.keep_ratio, view.count) if view.count else 0


def places_before(frames: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> list[int | None]:
    """Where each frame was in ``old``, None where it is new; nothing is reused where the order has changed."""
    places = [next((i for i, tensor in enumerate(old) if tensor is frame), None) for frame in frames]
    found = [place for place in places if place is not None]
    return places if found == sorted(set(found)) else [None] * len(frames)


def check(view: ViewTokens, history: int) -> None:
    """Raise StpruneError for slots that do not match the frames, or features that are NaN or infinite."""
    frames = len(view.tokens)
    if view.tokens.dim() != 4 or frames != len(view.slots):
        raise StpruneError(
            f"view '{view.name}': features of shape {tuple(view.tokens.shape)} do not match {len(view.slots)} slots;"
            ' expected (frames, rows, columns, D)'
        )
    if list(view.slots) != sorted(set(view.slots)) or any(not 0 <= slot < history for slot in view.slots):
        raise StpruneError(f"view '{view.name}': frame slots {view.slots} must rise within 0 to {history - 1}")
    # A sum of squares is finite where every term is: the common case costs one pass, without a mask of that size.
    if torch.linalg.vector_norm(view.tokens.flatten(1), dim=1, dtype=torch.float32).isfinite().all():
        return
    finite = view.tokens.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        raise StpruneError(f"view '{view.name}': features of frame {bad + 1} of {frames} hold NaN or infinite values")
