"""Every baseline against a slow, obvious reference: its formula, one token at a time, in plain Python and float64."""

import pytest
import torch
from helpers import references
from helpers.references import gaussians, mean, rows
from helpers.token_rings import prune, ring, rings, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from stprune_ros.pruning.baselines.diversity import greedy_dpp, nearest_distance
from stprune_ros.pruning.baselines.video import frame_quotas, typicality
from stprune_ros.pruning.view_tokens import ViewTokens

RATIOS = (0.05, 0.1, 0.25, 0.5, 0.9)
BASELINES = ('divprune', 'tfps', 'evs', 'vidcom2', 'dtd', 'dart', 'cdpruner')


def uneven_ring(seed):
    """Grids and frames that differ between views, one view missing, tokens of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 2, 3), (0, 0, 0), (4, 2, 2), (1, 3, 3), (2, 3, 2)]
    views = []
    for i, shape in enumerate(shapes):
        dim = 6 if shape[0] else 0
        lengths = 0.5 + torch.rand(*shape, 1, generator=generator)
        tokens = torch.randn(*shape, dim, generator=generator) * lengths
        views.append(ViewTokens(f'V{i}', tokens, tuple(range(shape[0]))))
    return views


@pytest.mark.parametrize('ratio', RATIOS)
@pytest.mark.parametrize('baseline', BASELINES)
def test_equals_the_reference(baseline, ratio):
    for seed in range(3):
        views = uneven_ring(seed)
        kept = [set(mask.flatten().nonzero().flatten().tolist()) for mask in prune(views, 4, baseline, ratio)]
        assert kept == getattr(references, f'reference_{baseline}')(views, ratio), f'seed {seed}'


@pytest.mark.parametrize('baseline', BASELINES)
def test_a_ring_without_any_frame_keeps_nothing(baseline):
    views = [ViewTokens(name, torch.zeros(0, 0, 0, 0), ()) for name in 'ab']
    assert [mask.shape for mask in prune(views, 4, baseline)] == [(0, 0, 0), (0, 0, 0)]


@given(rings(), st.floats(0.001, 0.999))
@settings(max_examples=60)
def test_one_view_alone_leaves_no_difference_of_scope(views, ratio):
    """DivPrune is T-FPS, and DTD is EVS, where the ring is a single view."""
    for view in views:
        for everywhere, within in (('divprune', 'tfps'), ('dtd', 'evs')):
            assert torch.equal(prune([view], 4, everywhere, ratio)[0], prune([view], 4, within, ratio)[0])


def test_max_min_over_the_ring_may_starve_a_view():
    views = ring(views=2, frames=1, dim=32)
    dull = torch.ones(1, 3, 4, 32) + 1e-3 * views[1].tokens
    views = [views[0], ViewTokens('dull', dull, (0,))]
    assert [int(mask.sum()) for mask in prune(views, 1, 'divprune', 0.5)] == [12, 0]
    assert [int(mask.sum()) for mask in prune(views, 1, 'tfps', 0.5)] == [6, 6]


def still_and_moving():
    """Two views of 4 frames: in the first nothing changes, in the second one place does in each frame."""
    generator = torch.Generator().manual_seed(1)
    still = torch.randn(1, 2, 3, 16, generator=generator).repeat(4, 1, 1, 1)
    moving = still.clone()
    moving[:, 1, 2] = torch.randn(4, 16, generator=generator)
    return [ViewTokens('still', still, (0, 1, 2, 3)), ViewTokens('moving', moving, (0, 1, 2, 3))]


def test_evs_keeps_the_first_frame_and_what_changes():
    _, moving = prune(still_and_moving(), 4, 'evs', 9 / 24)
    assert moving[0].all()
    assert moving[1:].nonzero().tolist() == [[t, 1, 2] for t in range(3)]


def test_where_one_frame_exceeds_the_budget_evs_keeps_what_changes():
    _, moving = prune(still_and_moving(), 4, 'evs', 3 / 24)
    assert moving.nonzero().tolist() == [[t, 1, 2] for t in (1, 2, 3)]


def test_dtd_gives_a_view_in_motion_more():
    still, moving = prune(still_and_moving(), 4, 'dtd', 7.5 / 24)
    assert (int(still.sum()), int(moving.sum())) == (7, 9)
    assert still[0].all() and moving[0].all() and moving[1:, 1, 2].all()
    assert still[1, 0, 0]  # of all that is unchanged, the lowest index fills the budget


def test_vidcom2_gives_a_frame_unlike_the_rest_more():
    [view] = ring(views=1, frames=4, dim=32)
    tokens = view.tokens[:1].repeat(4, 1, 1, 1)
    tokens[2] = view.tokens[2]
    [mask] = prune([ViewTokens('V', tokens, (0, 1, 2, 3))], 4, 'vidcom2', 1 / 3)
    assert mask.flatten(1).sum(dim=1).tolist() == [3, 3, 7, 3]


def test_typicality_sums_five_gaussians():
    [view] = ring(views=1, frames=1, dim=4)
    tokens = rows(view)
    expected = [gaussians(row, mean(tokens)) for row in tokens]
    x = view.tokens.flatten(1, 2)
    assert typicality(x, x.mean(dim=1, keepdim=True)).flatten().tolist() == pytest.approx(expected, rel=1e-5)


@given(st.integers(1, 8), st.integers(1, 12), st.data())
def test_frame_quotas_are_exact(frames, places, data):
    keep = data.draw(st.integers(1, frames * places))
    logits = torch.tensor(data.draw(st.lists(st.floats(-9, 9), min_size=frames, max_size=frames)))
    quotas = frame_quotas(keep / frames * (1 + (3 * logits).softmax(0) - 1 / frames), keep, places)
    assert int(quotas.sum()) == keep
    assert int(quotas.min()) >= min(keep // frames, 1)
    assert int(quotas.max()) <= places


def test_dart_keeps_its_pivots_and_what_is_least_like_them():
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0] = torch.eye(8)
    x[0, 0, :4] *= 10
    x[0, 0, 4:, 0] = torch.tensor([0.5, -0.5, 0.2, 0.1])  # token 5 is the one least like pivot 0
    [mask] = prune([ViewTokens('V', x, (0,))], 1, 'dart', 5 / 8)
    assert mask.flatten().tolist() == [True] * 5 + [False] * 3
    [mask] = prune([ViewTokens('V', x, (0,))], 1, 'dart', 1 - 1e-9)
    assert mask.all()


def test_volume_past_the_rank_of_the_features_still_spreads():
    """Twenty copies each of two directions: after both are in, neither is taken over and over."""
    x = torch.eye(2).repeat_interleave(20, dim=0)
    mask = greedy_dpp(x, 10)
    assert [int(mask[:20].sum()), int(mask[20:].sum())] == [5, 5]


def test_isolation_does_not_depend_on_its_chunks(monkeypatch):
    x = unit(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)))
    whole = nearest_distance(x)
    monkeypatch.setattr('stprune_ros.pruning.baselines.diversity.CHUNK', 7)
    assert torch.allclose(nearest_distance(x), whole, atol=1e-6)
