"""Joint pruning: values worked out by hand, and rings with missing frames against the reference."""

import math
from dataclasses import replace

import pytest
import torch
from helpers.references import reference_separability, reference_skewness, reference_st_prune_joint
from helpers.token_rings import kept_of, prune, ring, uneven_ring
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.pruning import joint as joint_module
from stprune_ros.pruning import pruner
from stprune_ros.pruning.baselines.uninformed import uniform_mask
from stprune_ros.pruning.commonness import commonness, commonness_at_instant, commonness_batched, separability, skewness
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.joint import prune_joint, trust_in
from stprune_ros.pruning.pruner import SpatioTemporalPruner, even_bonus, even_masks
from stprune_ros.pruning.tensors import equal_groups
from stprune_ros.pruning.view_tokens import ViewSimilarity, ViewTokens

E = torch.eye(8)  # tokens that have nothing in common: every distance is 1


def tokens(*frames):
    """(T, P, 8), each token a row of `E`."""
    return E[torch.tensor(frames)]


def joint(weights, keep, common=(0, 0, 0, 0), volatility=(0, 0), history=4, frozen=None):
    """Indices kept of a view of two frames, in slots 1 and 3, of two tokens each."""
    view = ViewSimilarity(E[:4].reshape(2, 2, 8), E[:4] @ E[:4].T)
    common, volatility = [torch.tensor(common).float()], [torch.tensor(volatility).float()]
    [kept] = kept_of(prune_joint([view], common, volatility, [(1, 3)], history, [keep], weights, frozen))
    return kept


@pytest.mark.parametrize('method', ['st_prune_joint', 'st_prune_staged'])
@pytest.mark.parametrize('scale', [False, True])
@pytest.mark.parametrize('skip_frozen', [False, True])
@pytest.mark.parametrize('budget', ['view', 'ring'])
@pytest.mark.parametrize(('gauge', 'even'), [(False, 0.0), (True, 0.0), (True, 0.45)])
@pytest.mark.parametrize(('views', 'seed', 'common'), [(1, 0, 1.5), (2, 1, 0.4), (5, 2, 1.5), (6, 3, 1.5), (6, 4, 0.0)])
def test_any_ring_with_any_switches_equals_the_reference(
    views, seed, common, gauge, even, budget, skip_frozen, scale, method
):
    uneven = uneven_ring(views, seed)
    config = PruningConfig(
        method,
        joint_volatility_share=0.6,
        joint_recency=0.5,
        joint_common=common,
        joint_lattice=0.4,
        gauge_commonness=gauge,
        even_share=even,
        keep_ratio=0.3,
        budget=budget,
        skip_frozen=skip_frozen,
        multiplicative_bonus=scale,
    )
    found, first = kept_of(SpatioTemporalPruner(config)(uneven, 4)), 0.6 if method == 'st_prune_staged' else None
    weights = 0.6 * common, 0.5, common, 0.4 * min(common, 1)
    assert found == reference_st_prune_joint(
        uneven, 4, 0.3, weights, scale, skip_frozen, budget == 'ring', gauge, first, even
    )


def test_recency_counts_the_slots_of_the_history():
    # Recency 1/2 and 1: a common token of the newest frame loses 0.75 and comes after one of the older frame.
    assert joint((0, 1, 1), 2, common=(0, 0, 0.75, 0)) == [0, 3]
    assert joint((0, 1, 1), 2, common=(0, 0, 0.25, 0)) == [2, 3]
    # In a history of eight slots recency is 1/4 and 1/2.
    assert joint((0, 1, 1), 2, common=(0, 0, 0.3, 0), history=8) == [0, 3]


def test_each_weight_belongs_to_its_term():
    assert joint((1, 0, 0), 2, common=(1, 0, 0, 0), volatility=(1, 0)) == [0, 2]
    assert joint((0, 1, 0), 2, common=(0, 0, 1, 1), volatility=(1, 0)) == [2, 3]
    assert joint((0, 0, 1), 2, common=(1, 0, 0, 1), volatility=(1, 0)) == [1, 2]
    assert joint((0, 0, 1), 1, common=(-0.1, -0.2, -0.3, 0)) == [2]


def test_volatility_may_differ_from_frame_to_frame():
    assert joint((1, 0, 0), 2, volatility=((0, 1), (1, 0))) == [1, 2]


def test_frozen_frames_are_selected_from_last():
    assert joint((0, 1, 0), 2, frozen=[torch.tensor([False, True])]) == [0, 1]


def test_commonness_is_the_mean_of_the_best_similarities():
    views = [E[[0, 1]], E[[0, 2, 3]], torch.stack([E[0], (E[1] + E[2]) / 2**0.5])]
    expected = [[1, 2**-0.5 / 2], [1, 2**-0.5 / 2, 0], [1, 2**-0.5]]
    for common, values in zip(commonness_at_instant(views), expected):
        assert common.tolist() == pytest.approx(values)
    assert commonness_at_instant(views[:1])[0].tolist() == [0, 0]


def test_commonness_in_one_batch():
    views = [tokens([0, 1], [2, 3]), tokens([0, 2], [4, 3]), tokens([5, 1], [6, 3])]
    expected = [[0.5, 0.5, 0, 1], [0.5, 0, 0, 1], [0, 0.5, 0, 1]]
    assert [common.tolist() for common in commonness_batched(views)] == expected


def test_commonness_compares_what_was_taken_at_the_same_time():
    views = [tokens([0], [1]), tokens([1], [0]), torch.zeros(0, 1, 8)]
    assert [x.tolist() for x in commonness(views, [(0, 1), (0, 1), ()])] == [[0, 0], [0, 0], []]
    assert [x.tolist() for x in commonness(views, [(0, 1), (1, 2), ()])] == [[0, 1], [1, 0], []]


def test_separability_of_known_distributions():
    uniform = torch.arange(2000) / 2000
    assert separability(uniform).item() == pytest.approx(0.75, abs=1e-3)
    normal = torch.special.ndtri((torch.arange(20000) + 0.5) / 20000)
    assert separability(normal).item() == pytest.approx(2 / math.pi, abs=5e-3)
    assert separability(torch.tensor([0.2] * 7 + [0.9] * 2)).item() == pytest.approx(1.0)
    for flat in (torch.full((5,), 0.3), torch.tensor([0.3]), torch.zeros(0)):
        assert separability(flat).item() == 0.0


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12))
def test_separability_is_the_best_split(values):
    assert separability(torch.tensor(values)).item() == pytest.approx(reference_separability(values), abs=1e-4)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12))
def test_skewness_is_the_third_moment(values):
    assert skewness(torch.tensor(values)).item() == pytest.approx(reference_skewness(values), abs=1e-3)


def test_commonness_is_trusted_where_a_few_are_far_below_the_rest():
    """Few things among much that is alike but not equal: no two groups, and outliers all the same."""
    rest = torch.arange(100) / 100
    few = torch.cat([rest, torch.full((3,), -0.8)])
    assert separability(few) < 0.72
    assert -2.0 < skewness(few) < 0.0  # not yet
    assert skewness(torch.cat([rest / 3, torch.full((3,), -0.8)])) < -2.0
    assert trust_in([rest / 3, torch.full((3,), -0.8)]).item() == 1.0
    assert trust_in([rest / 3, torch.full((3,), 1.2)]).item() < 0.9  # above the rest is no thing


def test_commonness_is_trusted_where_it_falls_in_two_groups():
    two, even = torch.tensor([0.1, 0.11, 0.9, 0.91]), torch.arange(100) / 100  # separability 0.9997 and 0.75
    assert trust_in([two[:2], two[2:]]).item() == 1.0
    assert trust_in([even[::2], even[1::2]]).item() == pytest.approx(0.5, abs=0.01)
    assert trust_in([torch.zeros(3), torch.zeros(3)]).item() == 0.0
    assert trust_in([two]).item() == 1.0  # one view has nothing to be compared with


def test_where_nothing_stands_out_the_newest_frame_is_covered_evenly():
    """Tokens of one view in all views: nothing is unlike the rest. With one view the lattice has no say."""
    views = ring(views=3, frames=2, rows=4, columns=6)
    alike = [replace(view, tokens=views[0].tokens) for view in views]
    even = uniform_mask((1, 4, 6), 12).reshape(4, 6)
    for mask in prune(alike, 2, 'st_prune_joint', 0.25, joint_common=1.0, gauge_commonness=True, joint_lattice=5.0):
        assert torch.equal(mask[-1], even)
    for config in ({}, {'gauge_commonness': True, 'joint_lattice': 5.0}):
        [alone] = prune(views[:1], 2, 'st_prune_joint', 0.25, joint_common=1.0, **config)
        assert int((alone[-1] & even).sum()) < 12


@pytest.mark.parametrize('method', ['st_prune_joint', 'st_prune_staged'])
@pytest.mark.parametrize('budget', ['view', 'ring'])
@pytest.mark.parametrize('even', [0.25, 0.5, 1.0])
def test_an_even_share_is_kept_first_and_counts_in_the_budget(method, budget, even):
    views = ring(views=3, frames=2, rows=4, columns=6)
    masks = prune(views, 2, method, 0.25, budget=budget, even_share=even)
    lattice = uniform_mask((2, 4, 6), round(even * 12))
    for mask in masks:
        assert (mask.flatten() | ~lattice).all()
        assert even < 1 or torch.equal(mask.flatten(), lattice)
    assert sum(int(mask.sum()) for mask in masks) == 36
    assert budget == 'ring' or [int(mask.sum()) for mask in masks] == [12, 12, 12]


def test_a_lattice_has_no_more_weight_than_commonness():
    views = ring(views=4, frames=3, rows=4, columns=4, dim=4)  # noise: the gauge is closed
    hardly, never, fully = (
        prune(views, 3, 'st_prune_joint', 0.3, joint_common=weight, joint_lattice=lattice, gauge_commonness=True)
        for weight, lattice in ((1e-6, 10.0), (1e-6, 0.0), (1.0, 10.0))
    )
    assert all(map(torch.equal, hardly, never))
    assert not all(map(torch.equal, hardly, fully))


def test_an_even_share_outweighs_every_other_term_at_its_most():
    config = PruningConfig(joint_common=10.0, joint_volatility_share=0.5, joint_lattice=0.25)
    assert even_bonus(config) == 3 + (5 + 1) + 2 * 10 + 0.25
    assert even_bonus(replace(config, joint_common=0.5, lambda_temporal=2.0)) == 3 + 2 + 2 * 0.5 + 0.25 * 0.5


@pytest.mark.parametrize('method', ['st_prune_joint', 'st_prune_staged'])
@pytest.mark.parametrize(
    'weights',
    [
        {'joint_volatility_share': 10.0, 'joint_recency': 10.0, 'joint_common': 10.0},
        {'joint_common': 10.0},
        {'joint_lattice': 10.0, 'joint_common': 1.0, 'gauge_commonness': True},
        {'lambda_temporal': 10.0},
        {'joint_recency': 10.0, 'multiplicative_bonus': True},
    ],
)
def test_no_weight_that_may_be_set_comes_before_an_even_share(method, weights):
    """Of all frames, the oldest too, also where a view keeps one token."""
    views = ring(views=3, frames=2, rows=4, columns=6)
    for ratio, keeps in ((0.25, 12), (0.02, 1)):
        masks = prune(views, 2, method, ratio, budget='ring', even_share=0.5, **weights)
        lattice = uniform_mask((2, 4, 6), max(1, keeps // 2))
        assert all((mask.flatten() | ~lattice).all() for mask in masks)
        assert sum(int(mask.sum()) for mask in masks) == 3 * keeps


def test_an_even_share_is_spread_over_frames_that_are_not_repeats():
    [view] = ring(views=1, frames=3, rows=4, columns=6)
    repeated = replace(view, tokens=torch.cat([view.tokens[:2], view.tokens[1:2]]))
    found = even_masks([repeated], [18], 0.5, [torch.tensor([False, False, True])])[0].reshape(3, 24)
    assert found.sum(dim=1).tolist() == [3, 3, 0]
    assert torch.equal(found.flatten()[:48], uniform_mask((3, 4, 6), 9)[:48])


def test_where_things_stand_out_the_gauge_changes_nothing():
    """Half of every view repeats in all others, half is new: two groups far apart."""
    views = ring(views=3, frames=2, rows=4, columns=6, dim=64)
    for view in views:
        view.tokens[:, :2] = views[0].tokens[:, :2]
    plain, gauged = (prune(views, 2, 'st_prune_joint', 0.25, gauge_commonness=on) for on in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(plain, gauged))


def groups_as_on_a_gpu(tensors, *also):
    """`equal_groups` of tensors that are said to be on a GPU."""
    return equal_groups([x.to('meta') for x in tensors], *also)


@pytest.mark.parametrize('method', ['st_prune_joint', 'st_prune', 'mtp'])
@pytest.mark.parametrize('switches', [{}, {'skip_frozen': True}, {'multiplicative_bonus': True}])
@pytest.mark.parametrize('gone', [False, True])
def test_views_that_go_through_together_keep_what_each_keeps_alone(monkeypatch, method, switches, gone):
    views = ring(views=5, rows=3, columns=4, dim=16, seed=3)
    for number, view in enumerate(views):
        view.tokens[0] *= 1 + number  # no view resembles another
    if gone:
        views[2] = ViewTokens('gone', torch.zeros(0, 0, 0, 0), ())
    prune = SpatioTemporalPruner(PruningConfig(method, 0.25, **switches))
    expected, groups = kept_of(prune(views, 4)), []
    for module in (pruner, joint_module):
        monkeypatch.setattr(
            module, 'equal_groups', lambda *given: groups.append(groups_as_on_a_gpu(*given)) or groups[-1]
        )
    assert kept_of(prune(views, 4)) == expected
    assert groups == [[list(range(4 if gone else 5))]] * len(groups) and (groups or switches.get('skip_frozen'))


def test_only_what_is_equal_goes_together_and_only_on_a_gpu():
    same = [torch.zeros(2, 3) for _ in range(3)]
    assert equal_groups(same) == [[0], [1], [2]]
    assert groups_as_on_a_gpu(same) == [[0, 1, 2]]
    assert groups_as_on_a_gpu(same, [(0, 1), (0, 1), (1, 2)]) == [[0], [1], [2]]
    assert groups_as_on_a_gpu([*same, torch.zeros(2, 4)]) == [[0], [1], [2], [3]]
    assert groups_as_on_a_gpu([]) == []
