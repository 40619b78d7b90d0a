"""Every baseline against a slow, obvious reference: its formula, one token at a time, in plain Python and float64."""

import pytest
import torch
from helpers import references
from helpers.references import gaussians, mean, rows
from helpers.token_rings import kept_of, prune, ring, rings, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from stprune_ros.pruning.baselines.diversity import greedy_dpp, nearest_distance
from stprune_ros.pruning.baselines.video import frame_quotas, typicality
from stprune_ros.pruning.view_tokens import ViewTokens

RATIOS = (0.05, 0.1, 0.25, 0.5, 0.9)
BASELINES = (
    *('divprune', 'tfps', 'tfps_view', 'cdpruner', 'cdpruner_view', 'dart', 'dart_image', 'coreset'),
    *('mvpruner', 'mvpruner_view', 'flashvid', 'evs', 'dtd', 'vidcom2_ring', 'vidcom2_view', 'newest_divprune'),
)


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


@pytest.mark.parametrize('ratio', RATIOS)
@pytest.mark.parametrize('baseline', ['dart', 'cdpruner', 'mvpruner', 'mvpruner_view'])
def test_with_a_question_equals_the_reference(baseline, ratio):
    for seed in range(3):
        views = uneven_ring(seed)
        question = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed))
        masks = prune(views, 4, baseline, ratio, options={'question': question})
        expected = getattr(references, f'reference_{baseline}')(views, ratio, question.double().tolist())
        assert [set(kept) for kept in kept_of(masks)] == expected, f'seed {seed}'
        assert kept_of(masks) != kept_of(prune(views, 4, baseline, ratio)) or ratio in (0.05, 0.9)


def slow_video(seed, cut=None):
    """Five frames of 3 x 4 tokens that drift, with another scene from frame ``cut`` on."""
    generator = torch.Generator().manual_seed(seed)
    frames = [torch.randn(3, 4, 8, generator=generator) + 0.5]
    for t in range(1, 5):
        noise = torch.randn(3, 4, 8, generator=generator)
        frames.append(noise - 0.5 if t == cut else frames[-1].roll(t % 2, dims=1) + (0.2, 0.45)[seed % 2] * noise)
    return ViewTokens('V', torch.stack(frames), tuple(range(5)))


@pytest.mark.parametrize('cut', [None, 2, 4])
@pytest.mark.parametrize('ratio', [0.04, 0.1, 0.2, 0.35, 0.5, 0.75, 0.95])
def test_flashvid_follows_trees_through_time(ratio, cut):
    for seed in range(6):
        view = slow_video(seed, cut)
        [kept] = kept_of(prune([view], 5, 'flashvid', ratio))
        assert [set(kept)] == references.reference_flashvid([view], ratio), f'seed {seed}'


def test_a_thing_that_moves_is_one_tree():
    """Two things stand on grey; one moves by a column per frame: with no direct selection a token of each stays."""
    frames = torch.zeros(3, 1, 4, 4) + torch.tensor([1.0, 0, 0, 0]) + 0.01 * torch.eye(4)
    for t in range(3):
        frames[t, 0, 0], frames[t, 0, t + 1] = torch.eye(4)[1], torch.eye(4)[2]
    view = ViewTokens('V', frames, (0, 1, 2))
    [kept] = kept_of(prune([view], 3, 'flashvid', 3 / 12, {'alpha': 0.0}))
    assert kept[:2] == [0, 1] and len(kept) == 3 and kept[2] in (2, 3)


def test_mvpruner_gives_a_diverse_view_more():
    views = ring(views=3, frames=1, rows=4, columns=4, dim=32)
    dull = torch.ones(1, 4, 4, 32) + 0.1 * views[1].tokens
    views[1] = ViewTokens('dull', dull, (0,))
    counts = [int(mask.sum()) for mask in prune(views, 1, 'mvpruner', 0.5)]
    assert sum(counts) == 24 and counts[1] < min(counts[0], counts[2])
    sharper = [int(mask.sum()) for mask in prune(views, 1, 'mvpruner', 0.5, {'temperature': 0.2})]
    assert sum(sharper) == 24 and sharper[1] < counts[1]


@pytest.mark.parametrize(
    ('baseline', 'option', 'values'),
    [
        ('vidcom2_view', 'temperature', (0.01, 1.0)),
        ('dart', 'pivots', (4, 1)),
        ('cdpruner', 'ridge', (0.001, 10.0)),
        ('flashvid', 'alpha', (0.7, 0.1)),
    ],
)
def test_an_option_at_the_value_of_the_authors_changes_nothing(baseline, option, values):
    views = ring(views=2, frames=3, rows=4, columns=5, dim=6)
    plain, same, other = (
        kept_of(prune(views, 3, baseline, 0.3, options)) for options in ({}, *({option: value} for value in values))
    )
    assert plain == same != other
    assert sum(map(len, plain)) == sum(map(len, other))


@pytest.mark.parametrize('baseline', BASELINES)
def test_a_ring_without_any_frame_keeps_nothing(baseline):
    views = [ViewTokens(name, torch.zeros(0, 0, 0, 0), ()) for name in 'ab']
    assert [mask.shape for mask in prune(views, 4, baseline)] == [(0, 0, 0), (0, 0, 0)]


@given(rings(), st.floats(0.001, 0.999))
@settings(max_examples=60)
def test_one_view_alone_leaves_no_difference_of_scope(views, ratio):
    """DivPrune is T-FPS over a view, DTD is EVS, and a video is a view, where the ring is a single view."""
    for view in views:
        for everywhere, within in (('divprune', 'tfps_view'), ('dtd', 'evs'), ('vidcom2_ring', 'vidcom2_view')):
            assert torch.equal(prune([view], 4, everywhere, ratio)[0], prune([view], 4, within, ratio)[0])


def test_max_min_over_the_ring_may_starve_a_view():
    views = ring(views=2, frames=1, dim=32)
    dull = torch.ones(1, 3, 4, 32) + 1e-3 * views[1].tokens
    views = [views[0], ViewTokens('dull', dull, (0,))]
    assert [int(mask.sum()) for mask in prune(views, 1, 'divprune', 0.5)] == [12, 0]
    assert [int(mask.sum()) for mask in prune(views, 1, 'tfps_view', 0.5)] == [6, 6]


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
    [mask] = prune([ViewTokens('V', tokens, (0, 1, 2, 3))], 4, 'vidcom2_view', 1 / 3)
    assert mask.flatten(1).sum(dim=1).tolist() == [3, 3, 7, 3]


def test_typicality_sums_five_gaussians():
    [view] = ring(views=1, frames=1, dim=4)
    tokens = rows(view)
    expected = [gaussians(row, mean(tokens)) for row in tokens]
    x = view.tokens.flatten(0, 2)
    assert typicality(x, x.mean(dim=0)).tolist() == pytest.approx(expected, rel=1e-5)


@given(st.integers(1, 8), st.integers(1, 12), st.data())
def test_frame_quotas_are_exact(frames, places, data):
    keep = data.draw(st.integers(1, frames * places))
    logits = torch.tensor(data.draw(st.lists(st.floats(-9, 9), min_size=frames, max_size=frames)))
    sizes = torch.tensor(data.draw(st.lists(st.integers(1, places), min_size=frames, max_size=frames)))
    for capacity in (torch.full((frames,), places), sizes):
        part = capacity * (1 + (3 * logits).softmax(0) - 1 / frames)
        count = min(keep, int(capacity.sum()))
        quotas = frame_quotas(count * part / part.sum(), count, capacity)
        assert int(quotas.sum()) == count
        assert int(quotas.min()) >= min(count // frames, 1)
        assert (quotas <= capacity).all()


@pytest.mark.parametrize('ratio', [0.02, 0.05, 0.1])
def test_the_newest_frame_as_one_video_equals_the_reference(ratio):
    for seed in range(3):
        views = uneven_ring(seed)
        kept = [set(mask.flatten().nonzero().flatten().tolist()) for mask in prune(views, 4, 'newest_vidcom2', ratio)]
        assert kept == references.reference_newest_vidcom2(views, ratio), f'seed {seed}'


@pytest.mark.parametrize('method', ['newest_random', 'newest_uniform', 'newest_divprune', 'newest_vidcom2'])
def test_the_newest_frame_comes_first_and_then_the_one_before(method):
    views = ring(views=3, frames=3)  # 12 tokens per frame
    for ratio, frames in ((0.2, (0, 0, 7)), (1 / 3, (0, 0, 12)), (0.5, (0, 6, 12)), (0.8, (5, 12, 12))):
        kept = torch.stack(prune(views, 3, method, ratio)).sum(dim=(0, 2, 3))
        assert kept.tolist() == [3 * count for count in frames]
    masks = prune([*views[:2], ViewTokens('gone', torch.zeros(0, 0, 0, 0), ())], 3, method, 0.2)
    assert [int(mask.sum()) for mask in masks][2] == 0 and sum(int(mask.sum()) for mask in masks) == 14


def test_the_lattice_on_the_newest_frame_is_even():
    [mask] = prune(ring(views=1, rows=4, columns=6), 3, 'newest_uniform', 8 / 72)
    assert mask[-1].sum(dim=1).tolist() == [2, 2, 2, 2]
    assert mask[-1, 0].nonzero().flatten().tolist() == [1, 4]


def test_lots_on_the_newest_frame_follow_the_seed():
    views = ring(views=2, frames=2, rows=4, columns=6)
    one, two, again = (prune(views, 2, 'newest_random', 0.2, seed=seed) for seed in (1, 2, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, again))
    assert not all(torch.equal(a, b) for a, b in zip(one, two))
    assert not torch.equal(one[0], one[1])


def test_a_coreset_keeps_one_of_every_crowd():
    """Three crowds of unequal size: the largest is covered first, and no crowd twice before all are covered once."""
    x = torch.eye(3)[[0, 1, 1, 1, 2, 2]].reshape(1, 1, 6, 3)
    for keep, kept in ((1, [1]), (2, [1, 4]), (3, [0, 1, 4]), (4, [0, 1, 2, 4])):
        [mask] = prune([ViewTokens('V', x, (0,))], 1, 'coreset', keep / 6)
        assert mask.flatten().nonzero().flatten().tolist() == kept


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
