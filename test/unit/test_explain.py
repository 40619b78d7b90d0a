"""Why tokens stayed or went: the same masks with and without, and the right reason for each token."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers.token_rings import AskedCache, prune, ring, rings, uneven_ring, unit
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stprune_ros.pruning.baselines.uninformed import uniform_mask
from stprune_ros.pruning.commonness import commonness
from stprune_ros.pruning.config import METHOD_NAMES, PruningConfig
from stprune_ros.pruning.explain import COPY_COSINE, _terms, explain
from stprune_ros.pruning.joint import lattice, trust_in
from stprune_ros.pruning.pruner import CACHED_METHODS, SpatioTemporalPruner
from stprune_ros.pruning.reason import DROPPED_REASONS, KEPT_REASONS, WORDS, Reason
from stprune_ros.pruning.similarity import SimilarityCache, view_similarities
from stprune_ros.pruning.temporal import temporal_volatility
from stprune_ros.pruning.view_tokens import ViewTokens, unit_rows

SWITCHES = ('calibrated_overlap', 'keep_one_copy', 'skip_frozen', 'multiplicative_bonus', 'gauge_commonness')


@st.composite
def configs(draw) -> PruningConfig:
    switches = {name: draw(st.booleans()) for name in SWITCHES}
    ratio, budget = draw(st.sampled_from((0.1, 0.3, 0.7))), draw(st.sampled_from(('ring', 'view')))
    weight = draw(st.sampled_from((0.0, 2.4)))
    return PruningConfig(draw(st.sampled_from(CACHED_METHODS)), ratio, joint_common=weight, budget=budget, **switches)


def with_frames(views):
    """Views that a cache recognizes again."""
    return [replace(view, frames=tuple(view.tokens.unbind())) for view in views]


@settings(max_examples=40)
@given(configs(), st.integers(1, 5), st.integers(0, 9))
def test_explaining_changes_no_mask_of_this_tick_nor_of_the_next(config, views, seed):
    ticks = [with_frames(uneven_ring(views, seed + tick)) for tick in (0, 0, 1)]
    plain, explained = (SpatioTemporalPruner(config, SimilarityCache()) for _ in range(2))
    for tokens in ticks:
        expected, masks = plain(tokens, 4), explained(tokens, 4)
        before = [mask.clone() for mask in masks]
        explain(tokens, masks, config, 4, explained._cache)
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(expected, masks, before))


@settings(max_examples=40)
@given(rings(), configs())
def test_every_token_has_a_reason_of_its_kind(views, config):
    masks = SpatioTemporalPruner(config)(views, 4)
    for mask, reasons in zip(masks, explain(views, masks, config, 4)):
        assert reasons.shape == mask.shape and reasons.dtype == torch.uint8
        assert set(reasons[mask].tolist()) <= set(KEPT_REASONS)
        assert set(reasons[~mask].tolist()) <= set(DROPPED_REASONS)


@pytest.mark.parametrize('method', METHOD_NAMES)
def test_only_our_methods_give_reasons(method):
    views = ring()
    for ratio in (0.3, 1.0):
        config = PruningConfig(method, ratio)
        masks = SpatioTemporalPruner(config)(views, 3)
        known = {Reason(value) for one in explain(views, masks, config, 3) for value in one.flatten().tolist()}
        assert (known == {Reason.NONE}) is (method not in CACHED_METHODS or ratio == 1)


def cosine(a, b) -> float:
    return float(a @ b)


def reference(views, masks, config, history):
    """Token by token, as the docstring says it; for rings of equal views."""
    units = [unit_rows(view) for view in views]  # per view [T, P, D]
    common = commonness(units, [view.slots for view in views])
    trust = trust_in([c[-x.shape[1] :] for c, x in zip(common, units)]) if config.gauge_commonness else 1.0
    fresh = [
        [t for t in range(len(x)) if not config.skip_frozen or not torch.equal(x[t], x[t + 1 : t + 2].squeeze(0))]
        for x in units
    ]

    def alike(v, token, side):
        """The best similarity of a token in its left (0) or right (1) neighbour; none of what only one of them sees."""
        u, columns = (v + (-1, 1)[side]) % len(units), views[v].tokens.shape[2]
        found = units[u].flatten(0, 1) @ units[v].flatten(0, 1)[token]
        if config.calibrated_overlap:
            sees = [views[u].shared[1 - side][other % columns] for other in range(len(found))]
            found = found * torch.tensor(sees) * views[v].shared[side][token % columns]
        return float(found.max())

    terms: list[dict] = []
    for v, x in enumerate(units):
        volatility, kept, found = temporal_volatility(x[fresh[v]]), masks[v].reshape(x.shape[:2]), {}
        for t in range(x.shape[0]):
            for p in range(x.shape[1]):
                newness = (views[v].slots[t] + 1) / history
                apart = [
                    1 - cosine(x[t, p], x[s, q])
                    for s in range(x.shape[0])
                    for q in range(x.shape[1])
                    if kept[s, q] and (s, q) != (t, p)
                ]
                near = min(apart) if apart else math.nan
                if config.multiplicative_bonus:
                    near = math.log(max(near, 1e-6))
                if config.method == 'st_prune_joint':
                    w = config.joint_weights
                    new = w[1] * newness
                    if config.gauge_commonness and t == x.shape[0] - 1:
                        rows, columns = views[v].tokens.shape[1:3]
                        budget = math.floor(config.keep_ratio * kept.numel() + 0.5)
                        on = float(lattice(1, rows, columns, budget, x.device)[p])
                        new += config.joint_lattice * min(w[2], 1.0) * float(1 - trust) * on
                    other = -w[2] * float(trust) * float(common[v][t * x.shape[1] + p])
                    found[t, p] = (w[0] * float(volatility[p]), new, near, other)
                else:
                    like = sum(alike(v, t * x.shape[1] + p, side) for side in (0, 1)) / 2
                    half = config.lambda_temporal / 2 * (config.method != 'rsp')
                    other = -config.lambda_spatial * like * (config.method != 'mtp')
                    found[t, p] = (half * float(volatility[p]), half * newness, near, other)
        terms.append(found)
    sizes = [math.floor(config.even_share * math.floor(config.keep_ratio * mask.numel() + 0.5) + 0.5) for mask in masks]
    even = [uniform_mask(view.tokens.shape[:3], size).view(len(x), -1) for view, x, size in zip(views, units, sizes)]
    result = []
    for v, x in enumerate(units):
        pool = [term for one in terms for term in one.values()] if config.ring_budget else list(terms[v].values())
        means = [torch.tensor([term[k] for term in pool]).nanmean().item() for k in range(4)]
        speaks = [k == 2 or len({term[k] for term in pool}) > 1 for k in range(4)]  # distance (2) in any case
        reasons = torch.zeros(x.shape[:2], dtype=torch.uint8)
        for (t, p), term in terms[v].items():
            if masks[v].reshape(x.shape[:2])[t, p]:
                above = [0.0 if math.isnan(one) else one - mean for one, mean in zip(term, means)]
                above = [one if on else -math.inf for one, on in zip(above, speaks)]
                reasons[t, p] = KEPT_REASONS[above.index(max(above))]
                if config.method == 'st_prune_joint' and even[v][t, p] and t in fresh[v]:
                    reasons[t, p] = Reason.EVEN
                continue
            best = dict.fromkeys(DROPPED_REASONS, -math.inf)
            others = (
                range(len(views)) if config.method == 'st_prune_joint' else ((v - 1) % len(views), (v + 1) % len(views))
            )
            for u in {v, *others}:
                stays = masks[u].reshape(units[u].shape[:2])
                for s, q in stays.nonzero().tolist():
                    similar = cosine(x[t, p], units[u][s, q])
                    if u == v:
                        reason = Reason.LIKE_KEPT if s == t else Reason.COPY_IN_TIME
                    elif views[u].slots[s] == views[v].slots[t]:
                        reason = Reason.COPY_IN_VIEW
                    else:
                        continue
                    best[reason] = max(best[reason], similar)
            here = best.pop(Reason.LIKE_KEPT)
            found = max(best, key=lambda reason: best[reason])
            reasons[t, p] = found if best[found] >= max(COPY_COSINE, here) else Reason.LIKE_KEPT
        result.append(reasons.reshape(masks[v].shape))
    return result


@pytest.mark.parametrize('method', ['st_prune_joint', 'st_prune', 'mtp', 'rsp'])
@pytest.mark.parametrize(
    'more',
    [
        {},
        {'budget': 'view'},
        {'multiplicative_bonus': True, 'gauge_commonness': False},
        {'even_share': 0.4, 'skip_frozen': True},
        {'calibrated_overlap': True},
        {'joint_common': 8.0},
        {'joint_common': 0.0},
        {'gauge_commonness': False},
    ],
)
@pytest.mark.parametrize('ratio', [0.3, 0.8])
@pytest.mark.parametrize('seed', range(2))
def test_reasons_are_those_of_a_token_by_token_reference(method, more, seed, ratio):
    views = ring(views=4, frames=3, rows=2, columns=3, dim=6, seed=seed)
    slots, sees = ((1, 2, 3), (0, 2, 3), (1, 2, 3), (0, 1, 3)), torch.tensor([True, False, True])
    shared = [(sees.roll(v), sees.roll(v // 2)) for v in range(4)]
    views = [replace(view, slots=at, shared=columns) for view, at, columns in zip(views, slots, shared)]
    tokens = [view.tokens for view in views]
    tokens[0][1] = tokens[0][0] + 0.1 * torch.randn(tokens[0][0].shape, generator=torch.Generator().manual_seed(seed))
    tokens[1][2, :, :2] = tokens[0][2, :, 1:] + 0.05
    tokens[2][1] = tokens[2][0]  # the camera was frozen
    config = PruningConfig(method, ratio, **{'joint_common': 2.4, **more})
    masks = SpatioTemporalPruner(config)(views, 4)
    expected = reference(views, masks, config, 4)
    for one, other in zip(explain(views, masks, config, 4), expected):
        assert one.tolist() == other.tolist()


def test_what_a_frozen_camera_repeats_lies_on_no_even_lattice():
    [view] = ring(views=1, frames=2, rows=2, columns=3, dim=6)
    frozen = replace(view, tokens=torch.stack([view.tokens[0], view.tokens[0]]))
    config = PruningConfig('st_prune_joint', 0.99, even_share=1.0, skip_frozen=True)
    [reasons] = explain([frozen], [torch.ones(2, 2, 3, dtype=torch.bool)], config, 2)
    assert (reasons[1] == Reason.EVEN).all()
    assert not (reasons[0] == Reason.EVEN).any()
    [reasons] = explain([frozen], [torch.ones(2, 2, 3, dtype=torch.bool)], replace(config, skip_frozen=False), 2)
    assert (reasons == Reason.EVEN).all(), 'where nobody asks for it they count like any other'


@pytest.mark.parametrize(('skip_frozen', 'reason'), [(True, Reason.MOTION), (False, Reason.RECENCY)])
def test_what_a_frozen_camera_repeats_says_nothing_of_motion(skip_frozen, reason):
    """Of the three frames that are left the first token changes in one, as the second does: it moves no less."""
    frames = torch.stack([basis(0, 2, 4, 5), basis(0, 2, 4, 5), basis(1, 3, 4, 5), basis(0, 3, 4, 5)])
    view = ViewTokens('view', frames.reshape(4, 2, 2, 16), (0, 1, 2, 3))
    config = PruningConfig('mtp', 0.9, lambda_temporal=10.0, budget='view', skip_frozen=skip_frozen)
    [reasons] = explain([view], [torch.ones(4, 2, 2, dtype=torch.bool)], config, 4)
    assert reasons[3, 0, 0] == reason


def basis(*indices: int, dim: int = 16):
    return torch.stack([torch.nn.functional.one_hot(torch.tensor(index), dim).float() for index in indices])


def test_what_stands_in_for_a_dropped_token():
    """Tokens are axes of the space: equal ones are copies, all others have nothing in common."""
    old, new = basis(0, 1, 2, 3), basis(0, 4, 5, 6)
    near = unit(0.8 * basis(4) + 0.6 * basis(7))  # like a kept token of its frame, and no copy
    new[3] = near
    here = ViewTokens('here', torch.stack([old, new]).reshape(2, 1, 4, 16), (0, 1))
    there = ViewTokens('there', basis(8, 9, 10, 5).reshape(1, 1, 4, 16), (1,))
    masks = [torch.tensor([[[0, 1, 1, 1]], [[1, 1, 0, 0]]]).bool(), torch.tensor([[[1, 1, 1, 1]]]).bool()]
    config = PruningConfig('st_prune_joint', 0.5)
    [reasons, _] = explain([here, there], masks, config, 2)
    assert reasons[0, 0, 0] == Reason.COPY_IN_TIME
    assert reasons[1, 0, 2:].tolist() == [Reason.COPY_IN_VIEW, Reason.LIKE_KEPT]
    apart = replace(there, slots=(0,))  # at another time it is no copy
    [reasons, _] = explain([here, apart], masks, config, 2)
    assert reasons[1, 0, 2] == Reason.LIKE_KEPT


@pytest.mark.parametrize(('cosine', 'reason'), [(0.89, Reason.LIKE_KEPT), (0.91, Reason.COPY_IN_TIME)])
def test_from_which_cosine_on_a_token_is_a_copy(cosine, reason):
    old, new = basis(0, 1), basis(2, 3)
    new[1] = cosine * old[0] + math.sqrt(1 - cosine**2) * basis(4)[0]
    view = ViewTokens('view', torch.stack([old, new]).reshape(2, 1, 2, 16), (0, 1))
    mask = torch.tensor([[[1, 1]], [[1, 0]]]).bool()
    [reasons] = explain([view], [mask], PruningConfig('st_prune_joint', 0.75), 2)
    assert reasons[1, 0, 1] == reason


@settings(max_examples=20)
@given(configs(), rings(history=3), st.integers(0, 5))
@example(
    PruningConfig('st_prune_joint', 0.3, joint_common=2.4), ring(views=1), 1
)  # one view alone has nothing to be gauged against
def test_a_view_without_frames_changes_no_reason(config, views, at):
    """Where no neighbours are counted, which it would part."""
    config = replace(config, method='st_prune_joint')
    masks = SpatioTemporalPruner(config)(views, 3)
    alone = explain(views, masks, config, 3)
    missing = replace(views[0], tokens=views[0].tokens[:0], slots=())
    with_it = [*views[:at], missing, *views[at:]]
    found = explain(
        with_it, [*masks[:at], torch.zeros(missing.tokens.shape[:3], dtype=torch.bool), *masks[at:]], config, 3
    )
    place = min(at, len(views))
    assert all(torch.equal(one, other) for one, other in zip(alone, [*found[:place], *found[place + 1 :]], strict=True))


@pytest.mark.parametrize(
    ('method', 'more', 'never'),
    [
        ('st_prune_joint', {'joint_common': 0.0}, {Reason.MOTION, Reason.OTHER_VIEWS}),
        ('st_prune_staged', {'joint_common': 0.0, 'budget': 'view'}, {Reason.MOTION, Reason.OTHER_VIEWS}),
        ('st_prune_joint', {'joint_common': 2.4, 'joint_volatility_share': 0.0}, {Reason.MOTION}),
        ('rsp', {}, {Reason.MOTION, Reason.RECENCY}),
        ('mtp', {}, {Reason.OTHER_VIEWS}),
    ],
)
def test_what_has_no_weight_carries_no_token(method, more, never):
    """With most tokens kept some are old and have near neighbours: all that is weighed speaks against them."""
    views = ring(views=4, frames=4, rows=3, columns=4, dim=8)
    tokens = [torch.cat([view.tokens[:2] * 0.9, view.tokens[:2] + 0.05]) for view in views]
    views = [replace(view, tokens=one) for view, one in zip(views, tokens)]
    config = PruningConfig(method, 0.7, **more)
    masks = SpatioTemporalPruner(config)(views, 4)
    given = {Reason(n) for mask, one in zip(masks, explain(views, masks, config, 4)) for n in one[mask].tolist()}
    assert not given & never and len(given) > 1


@pytest.mark.parametrize(('weight', 'lattice_weight'), [(0.4, 0.28), (1.0, 0.7), (2.4, 0.7)])
def test_a_lattice_counts_as_recency_with_no_more_than_the_weight(weight, lattice_weight):
    views = ring(views=4, frames=3, rows=4, columns=4, dim=4)  # views of noise: the gauge is closed
    config = PruningConfig('st_prune_joint', 0.3, joint_common=weight)
    kept = [mask.flatten() for mask in SpatioTemporalPruner(config)(views, 3)]
    for term in _terms(views, view_similarities(views), kept, config, 3, None):
        added = term[1] - torch.tensor([1 / 3, 2 / 3, 1.0]).repeat_interleave(16)
        on = torch.cat([torch.zeros(32), lattice(1, 4, 4, 14, added.device).float()])
        assert torch.allclose(added, lattice_weight * on, atol=1e-6)


def test_what_is_all_alike_in_one_view_may_tell_it_from_others():
    old, new = basis(0, 1, 2, 3).reshape(2, 2, 16), basis(4, 5, 6, 7).reshape(2, 2, 16)
    both = ViewTokens('both', torch.stack([old, new]), (0, 1))
    newest = ViewTokens('newest', basis(8, 9, 10, 11).reshape(1, 2, 2, 16), (1,))
    masks = [torch.ones(2, 2, 2, dtype=torch.bool), torch.ones(1, 2, 2, dtype=torch.bool)]
    [_, reasons] = explain([both, newest], masks, PruningConfig('st_prune_joint', 0.9, joint_common=0.0), 2)
    assert (reasons == Reason.RECENCY).all()


def test_where_nothing_tells_tokens_apart_the_distance_is_left():
    view = ViewTokens('view', basis(0, 1, 2, 3).reshape(1, 2, 2, 16), (0,))
    [reasons] = explain([view], [torch.ones(1, 2, 2, dtype=torch.bool)], PruningConfig('st_prune_joint', 0.9), 1)
    assert (reasons == Reason.DIVERSITY).all()


@pytest.mark.parametrize(('weight', 'expected'), [(0.0, False), (0.01, True)])
def test_explaining_compares_views_where_pruning_does(weight, expected):
    cache = AskedCache()

    views = ring(views=3, frames=2)
    config = PruningConfig('st_prune_joint', 0.25, joint_common=weight)
    explain(views, SpatioTemporalPruner(config)(views, 2), config, 2, cache)
    assert cache.asked == [expected]


def test_a_gauge_that_closes_leaves_no_token_to_what_other_views_show():
    views = ring(views=4, frames=3, rows=4, columns=4, dim=4)  # views of noise: nothing stands out
    config = PruningConfig('st_prune_joint', 0.7, joint_common=2.4)
    common = commonness([unit_rows(view) for view in views], [view.slots for view in views])
    assert trust_in([one[-16:] for one in common]) == 0
    masks = SpatioTemporalPruner(config)(views, 3)
    given = {Reason(n) for mask, one in zip(masks, explain(views, masks, config, 3)) for n in one[mask].tolist()}
    assert Reason.OTHER_VIEWS not in given and given & {Reason.MOTION, Reason.RECENCY}


def test_what_carried_a_kept_token():
    """One token moves, one is new and nothing more, one has no likeness anywhere."""
    still = basis(0, 1, 2, 3)
    frames = torch.stack([still, still.clone(), still.clone()])
    frames[:, 1] = basis(5, 6, 7)
    view = ViewTokens('view', frames.reshape(3, 2, 2, 16), (0, 1, 2))
    config = PruningConfig('mtp', 0.3, lambda_temporal=2.0, budget='view')
    masks = [torch.zeros(3, 2, 2, dtype=torch.bool)]
    masks[0][0, 0, 1] = masks[0][2, 0, 0] = masks[0][2, 1, 0] = True
    [reasons] = explain([view], masks, config, 3)
    assert reasons[0, 0, 1] == Reason.MOTION
    assert reasons[2, 0, 0] == Reason.RECENCY
    few = [masks[0].clone()]
    few[0][2] = False
    [alone] = explain([view], few, replace(config, lambda_temporal=0.01), 3)
    assert alone[0, 0, 1] == Reason.MOTION, 'a token that was alone is not far from anything'
    rare = replace(config, method='rsp', lambda_spatial=2.0)
    other = ViewTokens('other', basis(0, 1, 2, 3).reshape(1, 2, 2, 16), (2,))
    everything = [torch.ones(3, 2, 2, dtype=torch.bool), torch.ones(1, 2, 2, dtype=torch.bool)]
    [reasons, _] = explain([view, other], everything, rare, 3)
    assert reasons[0, 0, 1] == Reason.OTHER_VIEWS


def test_words_for_every_reason():
    assert set(WORDS) == set(Reason) == {Reason.NONE, *KEPT_REASONS, *DROPPED_REASONS}
    assert len({reason.words for reason in Reason}) == len(Reason)
    assert prune(ring(), 3)[0].dtype == torch.bool
