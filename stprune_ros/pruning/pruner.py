"""SpatioTemporalPruner: from the visual tokens of a ring to the keep masks of any method. Never touches a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from stprune_ros.errors import SettingsError
from stprune_ros.pruning.baselines.diversity import (
    around_pivots,
    coreset,
    diverse_views,
    largest_volume,
    max_min,
)
from stprune_ros.pruning.baselines.flashvid import selection_and_trees
from stprune_ros.pruning.baselines.scope import (
    Baseline,
    newest_over_ring,
    newest_per_view,
    over_ring,
    per_image,
    per_view,
    scoped,
    views_over_ring,
)
from stprune_ros.pruning.baselines.uninformed import even_lattice, random_choice
from stprune_ros.pruning.baselines.video import dtd, evs, least_typical
from stprune_ros.pruning.commonness import commonness
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.joint import lattice, prune_joint, trust_in
from stprune_ros.pruning.selection import token_budget
from stprune_ros.pruning.similarity import SimilarityCache, view_similarities
from stprune_ros.pruning.spatial import OverlapMasks, prune_spatial
from stprune_ros.pruning.temporal import (
    UNKNOWN_VOLATILITY,
    motion_compensated_volatility,
    prune_temporal,
    repeated_frames,
    temporal_volatility,
)
from stprune_ros.pruning.tensors import equal_groups, kept_indices, stacked
from stprune_ros.pruning.view_tokens import ViewSimilarity, ViewTokens, check_views, view_budget

PUBLISHED: Mapping[str, Any] = MappingProxyType({})  # no option: a baseline as its authors run it
FIRST_STAGE_SHARE = 0.35  # exponent of the ratio that MTP leaves in st_prune_staged; in the paper it is 0.5


class SpatioTemporalPruner:
    """Selects the tokens that stay, with the method and the weights of a `PruningConfig`."""

    def __init__(
        self, config: PruningConfig, cache: SimilarityCache | None = None, options: Mapping[str, Any] = PUBLISHED
    ) -> None:
        """A ``cache`` makes views that bring their ``frames`` faster and leaves the masks as they are.

        ``options`` are of a baseline's formula: another value than that of its authors, or the question that it reads.
        Raises SettingsError for a method that does not exist.
        """
        if config.method not in METHODS:
            raise SettingsError(f"there is no pruning method '{config.method}'; choose one of {', '.join(METHODS)}")
        self.config = config
        self._options = options
        self._cache = cache if config.method in CACHED_METHODS else None

    def __call__(self, views: Sequence[ViewTokens], history: int) -> list[Tensor]:
        """Keep masks, per view bool (T, rows, columns), for views in ring order; ``history`` is the number of slots.

        'st_prune' keeps round(sqrt(ratio) * round(sqrt(ratio) * n)) of a view's n tokens, at least one; with a single
        frame or a single view, and in all other methods, round(ratio * n) of the view or as many of the whole ring.
        With the budget 'ring' the views of our methods compete for the sum of that.
        Selection is in float32 whatever the features are.
        Raises StpruneError for features that are not finite or slots that do not match.
        """
        check_views(views, history, self._cache.holds if self._cache is not None else None)
        if self.config.method == 'none' or self.config.keep_ratio == 1:
            masks = [torch.ones(view.count, dtype=torch.bool, device=view.tokens.device) for view in views]
        else:
            with torch.inference_mode():
                if self._cache is not None:
                    views = self._cache.attach(views, with_commonness=weighs_commonness(self.config))
                masks = METHODS[self.config.method](views, history, self.config, **self._options)
        return [mask.reshape(view.tokens.shape[:3]) for mask, view in zip(masks, views)]


def stage_budgets(view: ViewTokens, ratio: float, temporal: bool, spatial: bool) -> tuple[int, int]:
    """Tokens left after MTP and after RSP (paper: each keeps the square root of the ratio); a stage off keeps all."""
    if not view.count:
        return 0, 0
    if not (temporal and spatial):
        last = token_budget(ratio, view.count)
        return (last if temporal else view.count), last
    return token_budget(math.sqrt(ratio), view.count), final_budget(ratio, view.count)


def final_budget(ratio: float, count: int) -> int:
    """What both stages together leave of a view's ``count`` tokens."""
    return token_budget(math.sqrt(ratio), token_budget(math.sqrt(ratio), count))


def _st_prune(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    several = sum(view.count > 0 for view in views) > 1
    return _two_stages(views, history, config, [len(view.slots) > 1 for view in views], several)


def _mtp(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    return _two_stages(views, history, config, [True] * len(views), False)


def _rsp(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    return _two_stages(views, history, config, [False] * len(views), True)


def _two_stages(
    views: Sequence[ViewTokens], history: int, config: PruningConfig, temporal: list[bool], spatial: bool
) -> list[Tensor]:
    """MTP in the views where ``temporal`` is set, then RSP over the ring if ``spatial``."""
    # With neither stage of use (one view, one frame) MTP decides: its bonus is flat, what remains is diversity.
    temporal = [on or not spatial for on in temporal]
    budgets = [stage_budgets(view, config.keep_ratio, on, spatial) for view, on in zip(views, temporal)]
    similarities = view_similarities(views)
    masks = [torch.ones(view.count, dtype=torch.bool, device=view.tokens.device) for view in views]

    active = [i for i, view in enumerate(views) if view.count and temporal[i]]
    frozen = [repeated_frames(similarities[i].units) for i in active] if config.skip_frozen else None
    volatility = volatilities([views[i] for i in active], [similarities[i].units for i in active], config, frozen)
    kept = prune_temporal(
        [similarities[i] for i in active],
        volatility,
        [views[i].slots for i in active],
        history,
        [budgets[i][0] for i in active],
        config.lambda_temporal,
        frozen,
        config.multiplicative_bonus,
        config.ring_budget and not spatial,  # the last stage shares; what MTP leaves of a view must be known before
    )
    for i, mask in zip(active, kept):
        masks[i] = mask
    if not spatial:
        return masks

    indices = [kept_indices(mask, first) for mask, (first, _) in zip(masks, budgets)]  # per view (n,)
    rows = [x.units.flatten(0, 1) for x in similarities]  # [T * P, D]
    survivors = [row[at] if on else row for row, at, on in zip(rows, indices, temporal)]  # [n, D]
    within = [x.similarity[at][:, at] if on else x.similarity for x, at, on in zip(similarities, indices, temporal)]
    stays = prune_spatial(
        survivors,
        within,
        [last for _, last in budgets],
        config.lambda_spatial,
        [overlap_masks(view, at) for view, at in zip(views, indices)] if config.calibrated_overlap else None,
        config.keep_one_copy,
        config.multiplicative_bonus,
        config.ring_budget,
    )
    return [torch.zeros_like(mask).scatter_(0, at, chosen) for mask, at, chosen in zip(masks, indices, stays)]


def _joint(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    return _over_all_views(views, history, config, first_stage=False)


def _staged(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    return _over_all_views(views, history, config, first_stage=max((len(view.slots) for view in views), default=0) > 1)


def _over_all_views(
    views: Sequence[ViewTokens], history: int, config: PruningConfig, first_stage: bool
) -> list[Tensor]:
    """`prune_joint`, after MTP with ``first_stage``."""
    similarities = view_similarities(views)
    frozen = [repeated_frames(x.units) for x in similarities] if config.skip_frozen else None
    volatility = volatilities(views, [x.units for x in similarities], config, frozen)
    budgets = [view_budget(view, config) for view in views]
    slots = [view.slots for view in views]
    common, trust = trusted_commonness(similarities, slots, config)
    extra = survivors = None
    if trust is not None:
        extra = lattice_bonus(views, budgets, config.lattice_weight * (1 - trust))
    if config.even_share:
        even = [even_bonus(config) * mask for mask in even_masks(views, budgets, config.even_share, frozen)]
        extra = even if extra is None else [one + other for one, other in zip(extra, even)]
    if first_stage:
        ratio = config.keep_ratio**FIRST_STAGE_SHARE
        counts = [token_budget(ratio, view.count) if view.count else 0 for view in views]
        active = [i for i, view in enumerate(views) if view.count]
        masks = prune_temporal(
            [similarities[i] for i in active],
            [volatility[i] for i in active],
            [slots[i] for i in active],
            history,
            [counts[i] for i in active],
            config.lambda_temporal,
            [frozen[i] for i in active] if frozen is not None else None,
            config.multiplicative_bonus,
            extra=[extra[i] for i in active] if extra is not None else None,
        )
        found = iter(masks)
        survivors = [
            kept_indices(next(found), count) if view.count else torch.zeros(0, dtype=torch.int64)
            for view, count in zip(views, counts)
        ]
    return prune_joint(
        similarities,
        common,
        volatility,
        slots,
        history,
        budgets,
        config.joint_weights,
        frozen,
        trust,
        extra,
        survivors,
        config.multiplicative_bonus,
        config.ring_budget,
    )


def weighs_commonness(config: PruningConfig) -> bool:
    """Whether the method compares all views with one another; without a weight that has no say."""
    return config.method in COMMON_METHODS and config.joint_weights[2] > 0


def trusted_commonness(
    similarities: Sequence[ViewSimilarity], slots: Sequence[tuple[int, ...]], config: PruningConfig
) -> tuple[list[Tensor], Tensor | None]:
    """Per view the commonness of its tokens (T * P,), and the trust in it with ``gauge_commonness``.

    Where it has no weight it is not worked out: all 0.
    """
    if not weighs_commonness(config):
        return [x.units.new_zeros(x.units.shape[0] * x.units.shape[1]) for x in similarities], None
    cached = [x.commonness for x in similarities if x.commonness is not None]
    common = cached if len(cached) == len(similarities) else commonness([x.units for x in similarities], slots)
    if not config.gauge_commonness:
        return common, None
    return common, trust_in([c[-x.units.shape[1] :] for c, x in zip(common, similarities) if len(c)])


def lattice_bonus(views: Sequence[ViewTokens], budgets: Sequence[int], bonus: Tensor) -> list[Tensor]:
    """Per view (T * P,): ``bonus`` for an even lattice of its budget on the newest frame, 0 for all other tokens."""
    return [
        pad(bonus * _lattice(view, 1, budget), (view.count - view.tokens.shape[1] * view.tokens.shape[2], 0))
        if view.count
        else view.tokens.new_zeros(0)  # it may lie on another device
        for view, budget in zip(views, budgets)
    ]


def even_bonus(config: PruningConfig) -> float:
    """More than the scores of two tokens differ by for all other reasons: an even share is selected before the rest.

    A distance is at most 2, a cosine in [-1, 1], volatility and recency in [0, 1].
    """
    volatility, recency, common = config.joint_weights
    return 3.0 + max(volatility + recency, config.lambda_temporal) + 2 * common + config.lattice_weight


def even_masks(
    views: Sequence[ViewTokens], budgets: Sequence[int], share: float, frozen: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Per view bool (T * P,): an even lattice over all its frames of ``share`` of its budget.

    Nothing is said for frames that ``frozen``, per view bool (T,), calls repeated.
    """
    masks = [
        _lattice(view, len(view.tokens), math.floor(share * budget + 0.5))
        if view.count
        else view.tokens.new_zeros(0, dtype=torch.bool)
        for view, budget in zip(views, budgets)
    ]
    if frozen is None:
        return masks
    pairs = zip(masks, frozen)
    return [mask & ~repeated.repeat_interleave(len(mask) // max(len(repeated), 1)) for mask, repeated in pairs]


def _lattice(view: ViewTokens, frames: int, keep: int) -> Tensor:
    return lattice(frames, *view.tokens.shape[1:3], keep, view.tokens.device)


def volatilities(
    views: Sequence[ViewTokens], units: Sequence[Tensor], config: PruningConfig, frozen: Sequence[Tensor] | None
) -> list[Tensor]:
    """Volatility of each view, see `_volatility`; that of a view without frames is its ``units``."""
    found = list(units)
    active = [i for i, view in enumerate(views) if view.count]
    if frozen is not None or config.compensate_motion:
        for i in active:
            found[i] = _volatility(views[i], units[i], config, frozen[i] if frozen is not None else None)
        return found
    for group in equal_groups([units[i] for i in active]):
        these = [active[index] for index in group]
        for i, volatility in zip(these, temporal_volatility(stacked([units[i] for i in these]))):
            found[i] = volatility
    return found


def _volatility(view: ViewTokens, units: Tensor, config: PruningConfig, frozen: Tensor | None) -> Tensor:
    """Volatility (P,) or (T, P) of a view with unit rows (T, P, D); ``frozen`` frames, bool (T,), do not count."""
    fresh = None if frozen is None else ~frozen
    if config.compensate_motion and view.flow is not None:
        flow = view.flow if fresh is None else view.flow.masked_fill(~fresh[:, None, None], math.nan)
        volatility = motion_compensated_volatility(units, (view.tokens.shape[1], view.tokens.shape[2]), flow)
    else:
        volatility = temporal_volatility(units, fresh)
    if fresh is None or len(units) < 2:
        return volatility
    return torch.where(fresh.sum() > 1, volatility, UNKNOWN_VOLATILITY)


def overlap_masks(view: ViewTokens, indices: Tensor) -> OverlapMasks:
    """For the tokens at ``indices`` (n,): does the left, the right neighbour see their column, too?"""
    if view.shared is None or not view.count:
        everywhere = torch.ones_like(indices, dtype=torch.bool)
        return everywhere, everywhere
    columns = indices % view.tokens.shape[2]
    left, right = view.shared
    return left[columns], right[columns]


def _random(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    return per_view(views, config, random_choice(config.seed))


def _newest_random(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    return newest_per_view(views, config, random_choice(config.seed))


COMMON_METHODS = ('st_prune_staged', 'st_prune_joint')  # methods that compare all views
CACHED_METHODS = (
    'st_prune',
    'st_prune_staged',
    'st_prune_joint',
    'mtp',
    'rsp',
)  # methods that a `SimilarityCache` makes faster

METHODS: dict[str, Baseline] = {
    'st_prune': _st_prune,
    'st_prune_staged': _staged,
    'st_prune_joint': _joint,
    'mtp': _mtp,
    'rsp': _rsp,
    'random': _random,
    'uniform': scoped(per_view, even_lattice),
    'divprune': scoped(over_ring, max_min),
    'tfps': scoped(per_image, max_min),
    'tfps_view': scoped(per_view, max_min),
    'evs': evs,
    'dtd': dtd,
    'vidcom2_ring': scoped(over_ring, least_typical),
    'vidcom2_view': scoped(per_view, least_typical),
    'dart': scoped(over_ring, around_pivots),
    'dart_image': scoped(per_image, around_pivots),
    'cdpruner': scoped(per_image, largest_volume),
    'cdpruner_view': scoped(per_view, largest_volume),
    'mvpruner': scoped(over_ring, diverse_views),
    'mvpruner_view': scoped(views_over_ring, diverse_views),
    'flashvid': scoped(per_view, selection_and_trees),
    'coreset': scoped(over_ring, coreset),
    'newest_random': _newest_random,
    'newest_uniform': scoped(newest_per_view, even_lattice),
    'newest_divprune': scoped(newest_over_ring, max_min),
    'newest_vidcom2': scoped(newest_over_ring, least_typical),
    'none': scoped(per_view, even_lattice),  # never called: the pruner keeps everything
}
