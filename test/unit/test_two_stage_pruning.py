"""Temporal and spatial pruning: values worked out by hand, and both stages together against the reference."""

import itertools
import math

import pytest
import torch
from helpers.references import reference_st_prune
from helpers.token_rings import kept_of, prune, uneven_ring
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.pruner import SpatioTemporalPruner, final_budget, stage_budgets
from stprune_ros.pruning.spatial import prune_spatial, pruning_phases
from stprune_ros.pruning.temporal import (
    motion_compensated_volatility,
    prune_temporal,
    recency,
    repeated_frames,
    temporal_bonus,
    temporal_volatility,
)
from stprune_ros.pruning.view_tokens import ViewSimilarity, ViewTokens

E = torch.eye(24)  # tokens that have nothing in common: every distance is 1


def spatial(tokens, budgets, **more):
    """Indices that `prune_spatial` keeps with weight 0.8; tokens are numbers of rows of `E`."""
    views = [E[list(view)] for view in tokens]
    return kept_of(prune_spatial(views, [x @ x.T for x in views], budgets, 0.8, **more))


SWITCHES = list(itertools.product([False, True], repeat=5))


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize(('scale', 'overlap', 'one_copy', 'skip_frozen', 'share'), SWITCHES)
@pytest.mark.parametrize('views', [2, 5, 6])
def test_any_ring_with_any_switches_equals_the_reference(views, scale, overlap, one_copy, skip_frozen, share, seed):
    ring = uneven_ring(views, seed)
    config = PruningConfig(
        'st_prune',
        0.3,
        lambda_temporal=0.9,
        lambda_spatial=1.1,
        calibrated_overlap=overlap,
        keep_one_copy=one_copy,
        skip_frozen=skip_frozen,
        multiplicative_bonus=scale,
        budget='ring' if share else 'view',
    )
    found = kept_of(SpatioTemporalPruner(config)(ring, 4))
    assert found == reference_st_prune(ring, 4, 0.3, 0.9, 1.1, scale, overlap, one_copy, skip_frozen, share)


def test_both_stages_share_a_ratio_by_its_square_root():
    view = ViewTokens('V', torch.zeros(4, 5, 5, 1), (0, 1, 2, 3))
    assert stage_budgets(view, 0.25, True, True) == (50, 25)
    assert stage_budgets(view, 0.25, True, False) == (25, 25)
    assert stage_budgets(view, 0.25, False, True) == (100, 25)
    assert stage_budgets(view, 0.1, True, True) == (32, 10)  # 31.6, then 10.1
    assert final_budget(0.1, 784) == 78
    assert stage_budgets(ViewTokens('gone', torch.zeros(0, 0, 0, 0), ()), 0.25, True, True) == (0, 0)


def test_recency_counts_the_slots_of_the_history():
    assert recency(torch.zeros(2, 3, 4), (1, 3), 4).tolist() == [0.5, 1.0]
    assert recency(torch.zeros(1, 3, 4), (0,), 8).tolist() == [0.125]


def test_the_temporal_bonus_is_the_weighted_mean_of_volatility_and_recency():
    x = torch.zeros(2, 2, 4)
    once = temporal_bonus(x, torch.tensor([0.0, 1.0]), (1, 3), 4, 0.6)
    assert once.tolist() == pytest.approx([0.15, 0.45, 0.3, 0.6])
    each = temporal_bonus(x, torch.tensor([[0.0, 1.0], [0.5, 0.0]]), (1, 3), 4, 0.6)
    assert each.tolist() == pytest.approx([0.15, 0.45, 0.45, 0.3])


def test_volatility_is_the_variance_scaled_over_the_view():
    # Variances over three frames: 0 where nothing changes, 1 - 5/9 with one other frame, 1 - 3/9 if all differ.
    x = torch.stack([E[[0, 1, 3]], E[[0, 1, 4]], E[[0, 2, 5]]])
    assert temporal_volatility(x).tolist() == pytest.approx([0, 2 / 3, 1])
    # Without the first frame the second position changes as much as the third.
    assert temporal_volatility(x, torch.tensor([False, True, True])).tolist() == pytest.approx([0, 1, 1])


def test_only_a_frame_like_its_successor_is_repeated():
    frames = torch.stack([E[:2], E[:2], E[2:4], E[:2], E[[0, 3]]])
    assert repeated_frames(frames).tolist() == [True, False, False, False, False]
    assert repeated_frames(frames[:1]).tolist() == [False]
    assert repeated_frames(frames[:0]).tolist() == []


def test_frozen_frames_are_selected_from_last():
    x = torch.stack([E[:2], E[2:4]])
    view = ViewSimilarity(x, x.flatten(0, 1) @ x.flatten(0, 1).T)
    still, frozen = [torch.zeros(2)], [torch.tensor([False, True])]
    kept = [prune_temporal([view], still, [(0, 1)], 2, [2], 0.6, f) for f in (None, frozen)]
    assert [kept_of(masks) for masks in kept] == [[[2, 3]], [[0, 1]]]


def test_volatility_follows_static_patches_to_where_they_were():
    """A row of four patches that moved one to the right; what is in the last one now was not there before."""
    old, new = E[[1, 2, 9, 8]], E[[0, 1, 2, 3]]
    flow = torch.tensor([[[0, math.nan], [0, 0], [0, 1], [0, 2]], [[0, 0], [0, 1], [0, 2], [0, 3]]]).float()
    found = motion_compensated_volatility(torch.stack([old, new]), (1, 4), flow)
    # Distances 0, 0 and 1; the first patch came in and gets their mean, and so does what left the old frame.
    assert found[1].tolist() == pytest.approx([1 / 3, 0, 0, 1], abs=1e-6)
    assert found[0].tolist() == pytest.approx([0, 0, 1, 1 / 3], abs=1e-6)


def test_volatility_along_the_motion_is_the_mean_over_pairs_of_frames():
    """Columns of two rows that swapped: over three frames of 2 x 3 patches, two pairs of three differ where one did."""
    here = torch.tensor([[r, c] for r in range(2) for c in range(3)]).float()
    below = torch.tensor([[1 - r, c] for r in range(2) for c in range(3)]).float()
    x = torch.stack([E[[3, 9, 5, 0, 1, 10]], E[:6], E[[0, 1, 12, 3, 4, 5]]])
    found = motion_compensated_volatility(x, (2, 3), torch.stack([below, here, here]))
    # Per patch of the newest frame: 0 has (0, 0, 0), 4 has (9, 4, 4), 2 has (10, 2, 12), all others stay.
    assert found[2].tolist() == pytest.approx([0, 0, 1, 0, 2 / 3, 0], abs=1e-5)
    assert found[1].tolist() == pytest.approx([0, 0, 1, 0, 2 / 3, 0], abs=1e-5)
    assert found[0].tolist() == pytest.approx([0, 2 / 3, 0, 0, 0, 1], abs=1e-5)


def test_a_view_gives_up_what_its_neighbours_show():
    # Token 1 is in both views beside the first: 0.8 * (1 + 1) / 2 off; token 2 is in one of them: 0.4 off.
    ring = [(0, 1, 2, 3), (4, 1, 5, 6), (7, 8, 9, 10), (1, 2, 11, 12)]
    assert spatial(ring, [3, 3, 3, 3])[0] == [0, 2, 3]
    assert spatial(ring, [2, 3, 3, 3])[0] == [0, 3]
    assert spatial(ring, [3, 3, 3, 3])[2] == [0, 1, 2]  # no copies: the lowest indices


def test_the_penalty_is_the_mean_over_both_neighbours():
    """A copy in one neighbour costs 0.4, which leaves more than being 0.7 similar to a kept token does."""
    near = torch.nn.functional.normalize(0.7 * E[0] + math.sqrt(1 - 0.49) * E[5], dim=0)
    views = [torch.stack([E[0], near, E[1]]), E[[1, 7, 8]], E[[10, 11, 12]]]
    kept = kept_of(prune_spatial(views, [x @ x.T for x in views], [2, 3, 3], 0.8))
    assert kept[0] == [0, 2]  # 1 - 0.4 against 1 - 0.7
    assert kept_of(prune_spatial(views, [x @ x.T for x in views], [2, 3, 3], 1.6))[0] == [0, 1]  # 1 - 0.8 against 0.3


def test_only_what_both_views_of_a_pair_can_see_counts_as_a_copy():
    """Token 0 of the first view is a copy of token 0 in its right neighbour."""
    nobody, token_0 = torch.zeros(3, dtype=torch.bool), torch.tensor([True, False, False])
    ring, budgets = [(0, 1, 2), (0, 3, 4), (5, 6, 7)], [2, 2, 2]
    seen, unseen = (nobody, nobody), [0, 1]
    assert spatial(ring, budgets, overlaps=[(nobody, token_0), (token_0, nobody), seen])[:2] == [[1, 2], [1, 2]]
    assert spatial(ring, budgets, overlaps=[(nobody, token_0), (nobody, token_0), seen])[:2] == [unseen, unseen]
    assert spatial(ring, budgets, overlaps=[(token_0, nobody), (token_0, nobody), seen])[:2] == [unseen, unseen]


def test_shared_columns_reach_the_neighbour_on_their_side():
    """The copy in the last column of A and the first of B counts, that in the first column of A does not."""
    left, right = torch.tensor([True, False, False]), torch.tensor([False, False, True])
    tokens = {'A': [0, 1, 2, 3, 4, 5], 'B': [2, 7, 8, 0, 10, 11], 'C': [12, 13, 14, 15, 16, 17]}
    views = [ViewTokens(name, E[row].reshape(1, 2, 3, 24), (0,), (left, right)) for name, row in tokens.items()]
    kept = kept_of(prune(views, 1, 'rsp', 5 / 6, calibrated_overlap=True))
    assert kept == [[0, 1, 3, 4, 5], [1, 2, 3, 4, 5], [0, 1, 2, 3, 4]]
    # Without calibration both copies count in either view, and the first goes.
    assert kept_of(prune(views, 1, 'rsp', 4 / 6))[0] == [1, 3, 4, 5]


def test_without_calibration_every_column_may_be_shared():
    views = [ViewTokens(str(i), E[row].reshape(1, 1, 3, 24), (0,)) for i, row in enumerate([[0, 1, 2], [0, 3, 4]])]
    assert kept_of(prune(views, 1, 'rsp', 2 / 3, calibrated_overlap=True)) == [[1, 2], [1, 2]]


def test_phases_of_rings():
    assert pruning_phases(6, True) == [[0, 2, 4], [1, 3, 5], []]
    assert pruning_phases(5, True) == [[0, 2], [1, 3], [4]]
    assert pruning_phases(1, True) == [[], [], [0]]
    assert pruning_phases(3, False) == [[0, 1, 2]]


@given(st.integers(2, 40))
def test_no_two_neighbours_are_pruned_in_one_phase(views):
    phases = pruning_phases(views, True)
    assert sorted(itertools.chain(*phases)) == list(range(views))
    assert not any((i + 1) % views in phase for phase in phases for i in phase)


def test_of_a_copy_in_the_first_and_last_view_of_an_odd_ring_one_stays():
    others = [(3, 4, 5), (6, 7, 8), (9, 10, 11)]
    ring = [(0, 1, 2), *others, (0, 12, 13)]
    assert spatial(ring, [2] * 5, keep_one_copy=True) == [[0, 1], [0, 1], [0, 1], [0, 1], [1, 2]]
    assert spatial(ring, [2] * 5)[0] == [1, 2]  # else both give up theirs


def test_what_the_neighbour_dropped_is_no_copy():
    ring = [(1, 2, 0), (0, 3, 4), (5, 6, 7), (8, 9, 10)]  # the first view drops its last token
    assert spatial(ring, [2] * 4, keep_one_copy=True)[:2] == [[0, 1], [0, 1]]
    assert spatial(ring, [3, 2, 2, 2], keep_one_copy=True)[:2] == [[0, 1, 2], [1, 2]]


def test_the_switch_measures_volatility_along_the_motion():
    """The patches of `test_volatility_follows_static_patches_to_where_they_were`, and volatility decides."""
    tokens = torch.stack([E[[1, 2, 9, 8]], E[[0, 1, 2, 3]]]).reshape(2, 1, 4, 24)
    flow = torch.tensor([[[0, math.nan], [0, 0], [0, 1], [0, 2]], [[0, 0], [0, 1], [0, 2], [0, 3]]]).float()
    view = ViewTokens('V', tokens, (0, 1), flow=flow)
    found = [
        kept_of(prune([view], 2, 'mtp', 3 / 8, lambda_temporal=10.0, compensate_motion=on)) for on in (False, True)
    ]
    # Off, all positions differ alike and the newest frame wins; on, bonuses are 10, 7.5 and 6.7 where 2.5 to 5 follow.
    assert found == [[[4, 5, 6]], [[2, 4, 7]]]


def test_frames_of_a_frozen_camera_do_not_count_along_the_motion():
    """Position 0 moves on by a distance of 0.9, 1 moves by 1 and back, 2 shows something else each time, 3 nothing."""
    step = 0.1 * E[0] + math.sqrt(0.99) * E[10]
    first, second = E[[0, 1, 2, 3]], torch.stack([step, E[11], E[12], E[3]])
    third = torch.stack([step, E[1], E[13], E[3]])
    tokens = torch.stack([first, first, second, third]).reshape(4, 1, 4, 24)
    flow = torch.tensor([[0.0, 0], [0, 1], [0, 2], [0, 3]]).repeat(4, 1, 1)
    view = ViewTokens('V', tokens, (0, 1, 2, 3), flow=flow)
    config = {'lambda_temporal': 10.0, 'compensate_motion': True}
    # Of four frames the pairs of position 0 differ by 4 * 0.9 / 6, those of 1 by 3 / 6; of three by 0.6 and 2 / 3.
    assert kept_of(prune([view], 4, 'mtp', 3 / 16, **config)) == [[10, 12, 14]]
    assert kept_of(prune([view], 4, 'mtp', 3 / 16, skip_frozen=True, **config)) == [[10, 13, 14]]


def test_a_patch_seen_in_fewer_frames_is_judged_by_their_pairs():
    """Positions 1 and 2 never show the same twice, and 1 is out of the image in the oldest frame."""
    x = torch.stack([E[[0, 1, 2, 3]], E[[0, 4, 5, 3]], E[[0, 6, 7, 3]]])
    flow = torch.tensor([[0.0, 0], [0, 1], [0, 2], [0, 3]]).repeat(3, 1, 1)
    flow[0, 1] = math.nan
    assert motion_compensated_volatility(x, (1, 4), flow)[2].tolist() == pytest.approx([0, 1, 1, 0], abs=1e-6)
    flow[:2, 2] = math.nan  # seen once: the mean of the others
    assert motion_compensated_volatility(x, (1, 4), flow)[2].tolist() == pytest.approx([0, 1, 1 / 3, 0], abs=1e-6)


def test_a_patch_between_two_cells_belongs_to_the_nearer():
    """Position 0 was at 0.6 and looked different, 3 stayed; 1 and 2 were out of the image and get the mean."""
    x = torch.stack([E[[9, 9, 9, 9]], E[[0, 9, 9, 9]]])
    flow = torch.tensor([[0.0, 0], [0, 1], [0, 2], [0, 3]]).repeat(2, 1, 1)
    flow[0, :3, 1] = torch.tensor([0.6, math.nan, math.nan])
    found = motion_compensated_volatility(x, (1, 4), flow)
    assert found.flatten().tolist() == pytest.approx([0.5, 1, 0.5, 0, 1, 0.5, 0.5, 0], abs=1e-6)
