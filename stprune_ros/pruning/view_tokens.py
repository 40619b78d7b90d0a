"""The input of a selection: the token grid of each view, its checks, and its unit rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stprune_ros.errors import StpruneError
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.selection import token_budget


@dataclass(frozen=True)
class ViewSimilarity:
    """What selections compute of a view first, all float32.

    ``units`` (T, P, D): its tokens as unit vectors; ``similarity`` (T * P, T * P): the cosines between them;
    ``commonness`` (T * P,): see `commonness.commonness`, None where nobody asked for it.
    """

    units: Tensor
    similarity: Tensor
    commonness: Tensor | None = None


@dataclass(frozen=True)
class ViewTokens:
    """The token grid of one view.

    ``tokens`` (T, rows, columns, D): the frames received, oldest first, T = 0 for a view without any; ``slots``: the
    history slot of each frame, 0 is the oldest. Grids may differ between views.

    From calibration and odometry, None where they are missing: ``shared`` are the grid columns that the left and the
    right neighbour see, too, bool (columns,) each; ``flow`` (T, rows * columns, 2) is where a static patch of the
    newest frame was in each frame, as (row, column) in patches, NaN outside the image.

    Only for speed: ``frames`` are the T tensors (rows, columns, D) that ``tokens`` was stacked from, by whose identity
    a `SimilarityCache` recognizes frames of earlier ticks; ``cached`` is what that cache found.
    """

    name: str
    tokens: Tensor
    slots: tuple[int, ...]
    shared: tuple[Tensor, Tensor] | None = None
    flow: Tensor | None = None
    frames: tuple[Tensor, ...] | None = None
    cached: ViewSimilarity | None = None

    @property
    def count(self) -> int:
        """Number of tokens before pruning."""
        return math.prod(self.tokens.shape[:3])


def unit_rows(view: ViewTokens) -> Tensor:
    """All tokens of a view as unit vectors: float32 (T, P, D)."""
    return torch.nn.functional.normalize(view.tokens.flatten(1, 2).float(), dim=-1)  # [T, P, D]


def unit_frame(tokens: Tensor) -> Tensor:
    """The tokens (rows, columns, D) of one frame as unit vectors: float32 (P, D)."""
    return torch.nn.functional.normalize(tokens.flatten(0, 1).float(), dim=-1)


def empty_similarity(view: ViewTokens) -> ViewSimilarity:
    """`ViewSimilarity` of a view without frames."""
    return ViewSimilarity(unit_rows(view), view.tokens.new_zeros(0, 0))


def view_budget(view: ViewTokens, config: PruningConfig) -> int:
    """Tokens that a method without stages keeps of a view: the ratio of them, 0 of none."""
    return token_budget(config.keep_ratio, view.count) if view.count else 0


def previous_indices(frames: tuple[Tensor, ...], previous: tuple[Tensor, ...]) -> list[int | None]:
    """The index of each frame in ``previous``, by identity; None where it is new.

    All None where the order of the frames has changed: then nothing is reused.
    """
    indices = [next((i for i, tensor in enumerate(previous) if tensor is frame), None) for frame in frames]
    found = [index for index in indices if index is not None]
    return indices if found == sorted(set(found)) else [None] * len(frames)


def check_views(
    views: Sequence[ViewTokens], history: int, is_checked: Callable[[ViewTokens, int], bool] | None = None
) -> None:
    """Raise StpruneError for slots that do not match the frames, or features that are NaN or infinite.

    ``is_checked`` says of which frames of a view, by index, the features were looked at before.
    """
    for view in views:
        _check_slots(view, history)
    # A sum of squares is finite where every term is: the common case costs one pass, without a mask of that size, and
    # one look at the device for all views.
    found = [_unchecked(view, is_checked) for view in views if view.count]
    sums = [torch.linalg.vector_norm(x.flatten(1), dim=1, dtype=torch.float32) for x in found if len(x)]
    if not sums or torch.cat(sums).isfinite().all():
        return
    for view in views:
        finite = view.tokens.isfinite().flatten(1).all(dim=1)
        if not finite.all():
            bad, frames = int((~finite).nonzero()[0]) + 1, len(finite)
            raise StpruneError(f"view '{view.name}': features of frame {bad} of {frames} hold NaN or infinite values")


def _unchecked(view: ViewTokens, is_checked: Callable[[ViewTokens, int], bool] | None) -> Tensor:
    """The frames of a view, beginning with the first that was not looked at: as a rule the newest one alone."""
    if is_checked is None:
        return view.tokens
    first = next((i for i in range(len(view.tokens)) if not is_checked(view, i)), len(view.tokens))
    return view.tokens[first:]


def _check_slots(view: ViewTokens, history: int) -> None:
    frames = len(view.tokens)
    if view.tokens.dim() != 4 or frames != len(view.slots):
        raise StpruneError(
            f"view '{view.name}': features of shape {tuple(view.tokens.shape)} do not match {len(view.slots)} slots;"
            ' expected (frames, rows, columns, D)'
        )
    if list(view.slots) != sorted(set(view.slots)) or any(not 0 <= slot < history for slot in view.slots):
        raise StpruneError(f"view '{view.name}': frame slots {view.slots} must rise within 0 to {history - 1}")
