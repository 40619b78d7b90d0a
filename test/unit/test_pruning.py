"""MTP and RSP against a slow, obvious reference; budgets exact for every shape; selection deterministic."""

import doctest
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from helpers.references import reference_st_prune
from helpers.token_rings import prune, ring, rings, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from stprune_ros import pruning
from stprune_ros.errors import StpruneError
from stprune_ros.pruning import selection
from stprune_ros.pruning.baselines.uninformed import uniform_mask
from stprune_ros.pruning.commonness import commonness, commonness_batched
from stprune_ros.pruning.config import METHOD_NAMES, PruningConfig
from stprune_ros.pruning.greedy import greedy_plain
from stprune_ros.pruning.pruner import METHODS, SpatioTemporalPruner, stage_budgets
from stprune_ros.pruning.selection import greedy_max_min, most_steps, multiply_by_bonus, select, token_budget
from stprune_ros.pruning.similarity import cosine_similarities
from stprune_ros.pruning.temporal import repeated_frames, temporal_volatility
from stprune_ros.pruning.tensors import kept_indices, split_evenly
from stprune_ros.pruning.view_tokens import ViewTokens, check_views, unit_rows

WHOLE_RING = (
    *('divprune', 'dtd', 'dart', 'vidcom2_ring', 'mvpruner', 'mvpruner_view'),
    *('coreset', 'newest_divprune', 'newest_vidcom2'),
)


@pytest.mark.parametrize('ratio', [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize('seed', [0, 1])
@pytest.mark.parametrize('scale', [False, True])
def test_equals_the_reference(ratio, seed, scale):
    views = ring(seed=seed)
    masks = SpatioTemporalPruner(PruningConfig('st_prune', ratio, budget='view', multiplicative_bonus=scale))(views, 3)
    found = [mask.flatten().nonzero().flatten().tolist() for mask in masks]
    assert found == reference_st_prune(views, 3, ratio, scale=scale)


def test_greedy_prefers_the_far_and_breaks_ties_by_index():
    x = unit(torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]))
    [keep] = select(cosine_similarities([x]), [torch.zeros(4)], [2])
    assert keep.tolist() == [True, False, True, False]


@settings(max_examples=100)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 9), st.booleans(), st.data())
def test_the_compiled_loop_picks_the_same_tokens(sets, count, seed, ties, data):
    generator = torch.Generator().manual_seed(seed)
    x = unit(torch.randn(sets, count, 4, generator=generator))
    bonus = torch.rand(sets, count, generator=generator)
    if ties:
        x, bonus = x.round(), bonus.round()
    budgets = data.draw(st.lists(st.integers(0, count), min_size=sets, max_size=sets))
    similarity = x @ x.transpose(1, 2)
    plain = greedy_plain(similarity, bonus, torch.tensor(budgets), max(budgets))
    assert torch.equal(greedy_max_min(similarity, bonus, budgets), plain)


def test_batched_selection_equals_one_by_one():
    views = [unit(torch.randn(n, 8, generator=torch.Generator().manual_seed(n))) for n in (5, 17, 9)]
    bonuses = [x[:, 0] for x in views]
    together = select(cosine_similarities(views), bonuses, [2, 6, 9])
    for x, bonus, keep, count in zip(views, bonuses, together, [2, 6, 9]):
        [alone] = select(cosine_similarities([x]), [bonus], [count])
        assert torch.equal(alone, keep)
        assert int(keep.sum()) == count


def test_volatility_sees_what_moves():
    x = torch.zeros(4, 6, 3)
    x[:, :, 0] = 1.0
    x[1::2, 2] = torch.tensor([0.0, 1.0, 0.0])
    assert temporal_volatility(x).tolist() == [0, 0, 1, 0, 0, 0]
    assert temporal_volatility(x[:1]).tolist() == [0] * 6
    assert temporal_volatility(x[:, :2]).tolist() == [0, 0]


def test_moving_and_recent_tokens_win_over_static_history():
    generator = torch.Generator().manual_seed(3)
    still = torch.randn(1, 4, 4, 32, generator=generator).repeat(4, 1, 1, 1)
    still += 0.01 * torch.randn(still.shape, generator=generator)
    still[:, 1, 1] = torch.randn(4, 32, generator=generator)  # something moves here
    [keep] = prune([ViewTokens('V', still, (0, 1, 2, 3))], 4, ratio=0.25)
    assert keep[:, 1, 1].all()
    # 16 tokens are kept; apart from the moving place every place is static, and its newest copy is the one that stays
    assert keep[3].sum() >= 12


@pytest.mark.parametrize('method', ['st_prune', 'mtp', 'st_prune_joint'])
@pytest.mark.parametrize('skip_frozen', [False, True])
def test_repeats_of_a_frozen_camera_come_last(method, skip_frozen):
    """A camera froze and woke up: what it repeated takes no token while there is anything else.

    Volatility has so much weight that without the switch copies of what changed are selected before what stayed.
    """
    frames = torch.randn(2, 3, 4, 16, generator=torch.Generator().manual_seed(5))
    view = ViewTokens('V', frames[[0, 0, 0, 1]], (0, 1, 2, 3))
    config = PruningConfig(
        method, 0.5, lambda_temporal=6.0, joint_volatility_share=1.5, joint_common=2.0, skip_frozen=skip_frozen
    )
    [keep] = SpatioTemporalPruner(config)([view], 4)
    assert int(keep.sum()) == 24
    assert bool(keep[:2].any()) is not skip_frozen


def test_frozen_frames_do_not_count_as_a_scene_that_stands_still():
    frames = unit(torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(2)))
    frozen = frames[[0, 0, 0, 1, 2]]
    assert repeated_frames(frozen).tolist() == [True, True, False, False, False]
    assert torch.allclose(temporal_volatility(frozen, ~repeated_frames(frozen)), temporal_volatility(frames), atol=1e-6)
    assert not torch.allclose(temporal_volatility(frozen), temporal_volatility(frames), atol=0.05)


@pytest.mark.parametrize('method', ['st_prune', 'st_prune_joint'])
def test_without_repeats_skipping_them_changes_nothing(method):
    views = ring(seed=4)
    plain, skipping = (
        SpatioTemporalPruner(PruningConfig(method, 0.2, skip_frozen=skip))(views, 3) for skip in (False, True)
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, skipping))


def test_rsp_gives_up_what_a_neighbour_shows():
    generator = torch.Generator().manual_seed(5)
    views = [torch.randn(1, 1, 8, 32, generator=generator) for _ in range(3)]
    views[0][0, 0, :3] = views[1][0, 0, :3]  # the same place in two views
    kept = prune([ViewTokens(str(i), x, (0,)) for i, x in enumerate(views)], 1, ratio=0.5)
    assert not kept[0].flatten()[:3].any()
    assert [int(mask.sum()) for mask in kept] == [4, 4, 4]


@settings(max_examples=250)
@given(rings(), st.floats(0.001, 1.0), st.sampled_from(sorted(METHODS)))
def test_budgets_are_exact(views, ratio, method):
    """Any ring: missing views (0 frames), missing frames, different grids; any ratio; any method."""
    masks = prune(views, 4, method, ratio)
    again = prune(views, 4, method, ratio)
    several = sum(view.count > 0 for view in views) > 1
    budgets = [token_budget(ratio, view.count) if view.count else 0 for view in views]
    for view, mask, same, due in zip(views, masks, again, budgets):
        assert mask.shape == view.tokens.shape[:3]
        assert torch.equal(mask, same)
        kept = int(mask.sum())
        if method == 'none' or ratio == 1:
            assert kept == view.count
        elif method == 'st_prune' and several and len(view.slots) > 1:
            assert kept == stage_budgets(view, ratio, True, True)[1]
            assert abs(kept - max(1, ratio * view.count)) <= 1
        elif method not in WHOLE_RING:
            assert kept == due
    if method in WHOLE_RING:
        assert sum(int(mask.sum()) for mask in masks) == sum(budgets)


@pytest.mark.parametrize('missing', [0, 1])
def test_a_single_frame_of_a_single_view_is_pruned_by_diversity(missing):
    """Neither stage has anything to compare with."""
    [view] = ring(views=1, frames=1)
    gone = [ViewTokens('gone', torch.zeros(0, 0, 0, 0), ())] * missing
    [kept, *nothing] = prune([view, *gone], 3, 'st_prune', 0.25)
    [diverse] = select(cosine_similarities([unit_rows(view)[0]]), [torch.zeros(12)], [3])
    assert torch.equal(kept.flatten(), diverse)
    assert [mask.numel() for mask in nothing] == [0] * missing


@pytest.mark.parametrize('method', sorted(METHODS))
def test_features_are_compared_in_float32(method):
    coarse = ring(dtype=torch.bfloat16)
    same = [replace(view, tokens=view.tokens.float()) for view in coarse]
    assert all(torch.equal(a, b) for a, b in zip(prune(coarse, 3, method, 0.3), prune(same, 3, method, 0.3)))


@pytest.mark.parametrize('method', sorted(METHODS))
def test_tokens_that_are_all_alike_keep_their_budget(method):
    views = [ViewTokens(str(i), torch.full((3, 3, 4, 8), value), (0, 1, 2)) for i, value in enumerate((0.0, 1.0))]
    assert sum(int(mask.sum()) for mask in prune(views, 3, method, 0.25)) == (72 if method == 'none' else 18)


def test_joint_pruning_gives_up_what_any_other_view_shows():
    generator = torch.Generator().manual_seed(6)
    wall = torch.randn(32, generator=generator)
    views = [torch.randn(1, 1, 8, 32, generator=generator) for _ in range(4)]
    for x in views:
        x[0, 0, :5] = wall + 0.3 * torch.randn(5, 32, generator=generator)
    kept = prune(
        [ViewTokens(str(i), x, (0,)) for i, x in enumerate(views)], 1, 'st_prune_joint', 0.375, joint_common=2.4
    )
    for mask in kept:
        assert mask.flatten().tolist() == [False] * 5 + [True] * 3


@settings(max_examples=60)
@given(rings())
def test_commonness_is_the_mean_best_likeness_to_the_others_at_the_same_time(views):
    units = [unit_rows(view) for view in views]
    found = commonness(units, [view.slots for view in views])
    for i, view in enumerate(views):
        expected = []
        for t, slot in enumerate(view.slots):
            others = [
                units[j][other.slots.index(slot)] for j, other in enumerate(views) if j != i and slot in other.slots
            ]
            for row in units[i][t]:
                best = [max(float(row @ token) for token in other) for other in others]
                expected.append(sum(best) / len(best) if best else 0.0)
        assert found[i].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(('views', 'frames'), [(6, 4), (2, 1), (1, 3)])
def test_all_instants_at_once_are_one_after_the_other(views, frames):
    tokens = ring(views, frames)
    units = [unit_rows(view) for view in tokens]
    expected = commonness(units, [view.slots for view in tokens])
    for one, other in zip(commonness_batched(units), expected):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_missing_view_changes_only_its_neighbours():
    views = ring(views=5)
    gone = [*views[:2], ViewTokens('V2', torch.zeros(0, 0, 0, 0), ()), *views[3:]]
    whole, part = prune(views, 3), prune(gone, 3)
    assert part[2].numel() == 0
    assert torch.equal(whole[0], part[0])
    assert [int(m.sum()) for m in part] == [int(m.sum()) if i != 2 else 0 for i, m in enumerate(whole)]


def test_nan_features_are_refused_with_a_sentence():
    views = ring()
    views[1].tokens[2, 0, 0, 0] = math.nan
    with pytest.raises(StpruneError, match="view 'V1': features of frame 3 of 3 hold NaN"):
        prune(views, 3)


def test_features_are_looked_at_once_for_all_views():
    """On a GPU every look waits for all that was asked of it before."""

    class Looks(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func.name() in ('aten::_local_scalar_dense', 'aten::is_nonzero', 'aten::equal')
            return func(*args, **(kwargs or {}))

    with Looks() as looks:
        check_views(ring(views=5), 3)
    assert looks.count == 1


@pytest.mark.parametrize('slots', [(0, 1), (0, 1, 3), (0, 0, 1), (2, 1, 0), (-1, 0, 1)])
def test_wrong_slots_are_refused(slots):
    [view] = ring(views=1)
    with pytest.raises(StpruneError, match="view 'V0'"):
        prune([ViewTokens('V0', view.tokens, slots)], 3)


def test_tokens_without_a_grid_are_refused():
    with pytest.raises(StpruneError, match="view 'V': features of shape .3, 12, 16. do not match 3 slots; expected"):
        prune([ViewTokens('V', torch.zeros(3, 12, 16), (0, 1, 2))], 3)


def test_features_may_be_as_large_as_floats_go():
    """The square of 1e30 is no float32."""
    [plain] = prune(ring(views=1), 3)
    [large] = prune([replace(view, tokens=view.tokens * 1e30) for view in ring(views=1)], 3)
    assert int(large.sum()) == int(plain.sum())


@pytest.mark.parametrize('ratio', [0.0, -1.0, 1.01, math.nan])
def test_ratios_out_of_range_are_refused(ratio):
    with pytest.raises(StpruneError, match='keep ratio'):
        PruningConfig(keep_ratio=ratio)


def test_every_method_has_a_name_and_the_parameter_table_offers_it():
    assert tuple(METHODS) == METHOD_NAMES


def test_unknown_method_names_the_known():
    with pytest.raises(StpruneError, match="'fastest'; choose one of st_prune, st_prune_staged"):
        SpatioTemporalPruner(PruningConfig('fastest'))


def test_random_depends_on_its_seed_alone():
    views = ring()
    first, same, other = (prune(views, 3, 'random', seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, same))
    assert not all(torch.equal(a, b) for a, b in zip(first, other))


@given(st.integers(0, 200), st.integers(1, 20))
def test_an_even_split_is_even(total, bins):
    parts = split_evenly(total, bins)
    assert int(parts.sum()) == total
    assert int(parts.max() - parts.min()) <= 1


def test_uniform_mask_covers_frames_rows_and_columns():
    mask = uniform_mask((4, 6, 10), 24).reshape(4, 6, 10)
    assert mask.sum(dim=(1, 2)).tolist() == [6] * 4
    assert mask.sum(dim=(0, 2)).tolist() == [4] * 6


def test_greedy_handles_no_sets_at_all():
    assert select([], [], []) == []
    empty = greedy_max_min(torch.zeros(1, 0, 0), torch.zeros(1, 0), [0])
    assert empty.shape == (1, 0)


def test_the_usage_example_of_the_package_runs():
    result = doctest.testmod(pruning)
    assert result.failed == 0 and result.attempted > 5


def test_the_settings_of_pruning_need_no_torch():
    program = "import sys; sys.modules['torch'] = None; import stprune_ros.pruning.config"
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_defaults_of_the_settings():
    assert PruningConfig() == PruningConfig('st_prune_joint', 0.1, 0.6, 0.8, 1.0, -1, 0.125, 0.7, 0.0, 'ring')
    assert PruningConfig().gauge_commonness
    assert not PruningConfig(budget='view').ring_budget
    assert PruningConfig(joint_volatility_share=0.5, joint_recency=2, joint_common=3).joint_weights == (1.5, 2, 3)


@pytest.mark.parametrize(
    ('ratio', 'count', 'budget'), [(0.1, 24, 2), (0.1, 25, 3), (0.01, 10, 1), (1.0, 7, 7), (0.5, 0, 0), (0.25, 6, 2)]
)
def test_token_budgets_round_half_up_and_keep_one(ratio, count, budget):
    assert token_budget(ratio, count) == budget


def test_greedy_by_hand():
    """Similar pairs 0-1 (0.9) and 2-3 (0.5); the bonus starts with token 2."""
    similarity = torch.eye(4)
    similarity[0, 1] = similarity[1, 0] = 0.9
    similarity[2, 3] = similarity[3, 2] = 0.5
    bonus = torch.tensor([0.0, 0.1, 0.3, 0.0])
    order = [2, 1, 3, 0]  # then 1 (1 + 0.1), 3 (0.5), 0 (0.1)
    for count in range(5):
        assert select([similarity], [bonus], [count])[0].nonzero().flatten().tolist() == sorted(order[:count])
    for count in range(5):
        plain = greedy_plain(similarity[None], bonus[None], torch.tensor([count]), count)
        found = [math.inf, 1.1, 0.5, 0.1][:count]
        for scores in (plain[0], greedy_max_min(similarity[None], bonus[None], [count])[0]):
            assert scores[order[:count]].tolist() == pytest.approx(found)
            assert scores[order[count:]].tolist() == [-math.inf] * (4 - count)


def far_apart(*bonuses):
    """A set of tokens that have nothing in common: each but the first scores 1 plus its bonus."""
    return torch.eye(len(bonuses)), torch.tensor(bonuses, dtype=torch.float32)


def shared(budgets, *sets):
    return [mask.nonzero().flatten().tolist() for mask in select(*zip(*sets), budgets, ring_budget=True)]


def test_one_budget_goes_to_the_best_tokens_of_the_ring():
    low, high = far_apart(0.0, 0.1, 0.2, 0.3, 0.05), far_apart(0.5, 0.4, 0.6, 0.9, 0.8)
    # Each keeps its two best; of the four that remain to be given away the other has three that are better.
    assert shared([4, 4], low, high) == [[1, 2, 3], [0, 1, 2, 3, 4]]
    assert shared([2, 2], low, high) == [[3], [2, 3, 4]]
    assert shared([2, 2], high, low) == [[2, 3, 4], [3]]
    assert shared([1, 1], low, high) == [[3], [3]]  # none is starved


def test_views_of_one_ring_may_differ_in_size():
    """The floor is half of what the view itself would keep: a small view gets no more for being one of few."""
    large, small = far_apart(*[0.0] * 10), far_apart(1.0, 1.0)
    assert shared([4, 1], large, small) == [[0, 1, 2], [0, 1]]
    assert shared([5, 2], large, small) == [[0, 1, 2, 3, 4], [0, 1]]


def test_ties_between_views_go_to_the_first():
    same = far_apart(*[0.0] * 4)
    assert shared([2, 2, 2], same, same, same) == [[0, 1, 2, 3], [0], [0]]
    assert [most_steps([2, 2, 2], sizes) for sizes in ((9, 9, 9), (3, 9, 0))] == [[4, 4, 4], [3, 4, 0]]


@given(rings(), st.sampled_from(['st_prune', 'st_prune_joint', 'mtp', 'rsp']), st.floats(0.01, 0.9), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_ring_keeps_the_same_total_and_half_of_every_share(views, method, ratio, one_copy):
    alone, together = (
        [int(mask.sum()) for mask in prune(views, 4, method, ratio, budget=budget, keep_one_copy=one_copy)]
        for budget in ('view', 'ring')
    )
    assert sum(alone) == sum(together)
    assert all(kept >= min(share, max(1, share // 2)) for share, kept in zip(alone, together))


def test_a_view_full_of_new_things_keeps_more():
    """In the first view nothing changes and all is alike; in the second every token is new."""
    dull = torch.ones(2, 3, 4, 16) + 0.01 * ring(views=1)[0].tokens[:2]
    views = [ViewTokens('dull', dull, (0, 1)), ViewTokens('busy', ring(views=1)[0].tokens[:2], (0, 1))]
    for method in ('st_prune', 'st_prune_joint', 'mtp', 'rsp'):
        alone, together = (
            [int(mask.sum()) for mask in prune(views, 2, method, 0.5, budget=budget)] for budget in ('view', 'ring')
        )
        assert alone == [12, 12]
        assert together[0] < 12 < together[1], method


def test_a_bonus_may_multiply_the_distance():
    similarity = torch.tensor([[1, 0.5, 0], [0.5, 1, 0.2], [0, 0.2, 1]])
    changed, start = multiply_by_bonus(similarity, torch.tensor([0.0, math.log(2), math.log(0.5)]))
    # Row: the selected token; column: the one whose distance its own bonus scales.
    expected = torch.tensor([[1, 0, 0.5], [0.5, 1, 0.6], [0, -0.6, 1]])
    assert torch.allclose(changed, expected, atol=1e-6)
    assert start.tolist() == [0, 1, 0]


def test_kept_indices_ascend():
    assert kept_indices(torch.tensor([False, True, False, True, True]), 3).tolist() == [1, 3, 4]
    assert kept_indices(torch.zeros(0, dtype=torch.bool), 0).tolist() == []


def test_similarities_are_within_each_set():
    sets = [torch.eye(3)[[0, 1, 0]], torch.eye(3)[:1]]
    assert [x.tolist() for x in cosine_similarities(sets)] == [[[1, 0, 1], [0, 1, 0], [1, 0, 1]], [[1]]]


@pytest.mark.parametrize('scale', [False, True])
def test_without_numba_the_selection_is_the_same(monkeypatch, scale):
    config = PruningConfig('st_prune', 0.3, multiplicative_bonus=scale)
    views = [*ring(seed=9), *(replace(view, tokens=view.tokens[:, :2]) for view in ring(views=2, seed=8))]
    compiled = SpatioTemporalPruner(config)(views, 3)
    monkeypatch.setattr(selection, 'greedy_numba', None)
    assert all(torch.equal(a, b) for a, b in zip(compiled, SpatioTemporalPruner(config)(views, 3)))
