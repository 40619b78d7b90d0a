"""Every peer against a slow, obvious reference: its formula, one token at a time, in plain Python and float64."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_rings import prune, ring, rings, unit

from stprune_ros.pruning.peers import isolation, most_volume
from stprune_ros.pruning.peers_video import frame_quotas, typicality
from stprune_ros.pruning.selection import budget
from stprune_ros.pruning.tokens import ViewTokens

RATIOS = (0.05, 0.1, 0.25, 0.5, 0.9)
PEERS = ('divprune', 'tfps', 'evs', 'vidcom2', 'dtd', 'dart', 'cdpruner')


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


def rows(view):
    return view.tokens.double().flatten(0, 2).tolist()


def dot(a, b):
    return sum(p * q for p, q in zip(a, b))


def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def mean(vectors):
    return [sum(column) / len(vectors) for column in zip(*vectors)]


def share(view, ratio):
    return budget(ratio, view.count) if view.count else 0


def per_view(views, chosen):
    """Indices into all tokens of the ring as sets of indices into each view."""
    starts = list(itertools.accumulate((view.count for view in views), initial=0))
    return [{i - start for i in chosen if start <= i < start + view.count} for view, start in zip(views, starts)]


def reference_farthest(tokens, keep):
    distance = [[1 - cosine(a, b) for b in tokens] for a in tokens]
    everything = range(len(tokens))
    chosen = [max(everything, key=lambda i: sorted(distance[j][i] for j in everything)[1])]
    while len(chosen) < keep:
        rest = [i for i in everything if i not in chosen]
        chosen.append(max(rest, key=lambda i: min(distance[i][j] for j in chosen)))
    return set(chosen)


def reference_divprune(views, ratio):
    tokens = [row for view in views for row in rows(view)]
    return per_view(views, reference_farthest(tokens, sum(share(view, ratio) for view in views)))


def reference_tfps(views, ratio):
    return [reference_farthest(rows(view), share(view, ratio)) if view.count else set() for view in views]


def similarity_to_the_frame_before(view):
    """By index; None in the first frame."""
    tokens, places = rows(view), math.prod(view.tokens.shape[1:3])
    return [cosine(row, tokens[i - places]) if i >= places else None for i, row in enumerate(tokens)]


def reference_evs(views, ratio):
    kept = []
    for view in views:
        similarity, keep = similarity_to_the_frame_before(view), share(view, ratio)
        first = [i for i, value in enumerate(similarity) if value is None]
        later = sorted((i for i, value in enumerate(similarity) if value is not None), key=lambda i: similarity[i])
        kept.append(set((first + later if len(first) <= keep else later + first)[:keep]))
    return kept


def reference_dtd(views, ratio):
    similarity = [value for view in views for value in similarity_to_the_frame_before(view)]
    keep = sum(share(view, ratio) for view in views)
    first = {i for i, value in enumerate(similarity) if value is None}
    first = first if len(first) <= keep else set()
    for tau in [-2.0, *(value for value in similarity if value is not None)]:
        kept = first | {i for i, value in enumerate(similarity) if value is not None and not value > tau}
        if len(kept) == keep:
            return per_view(views, kept)
    raise AssertionError('no threshold meets the budget')


def gaussians(a, centre):
    distance = sum((p - q) ** 2 for p, q in zip(a, centre))
    return sum(math.exp(-distance / (2 * 2.0**power)) for power in range(-3, 2))


def reference_vidcom2_scores(view):
    """Per frame: similarity of each token to the video, and to video and frame together."""
    tokens = rows(view)
    middle = mean(tokens)
    variance = [sum((row[c] - middle[c]) ** 2 for row in tokens) for c in range(len(middle))]
    steady = sorted(sorted(range(len(middle)), key=lambda c: variance[c])[: len(middle) // 2])
    tokens = [[row[c] for c in steady] for row in tokens]
    tokens = [[value / math.sqrt(dot(row, row)) for value in row] for row in tokens]
    places = len(tokens) // len(view.tokens)
    frames = [tokens[start : start + places] for start in range(0, len(tokens), places)]
    video = [[gaussians(row, mean(tokens)) for row in frame] for frame in frames]
    both = [[v + gaussians(row, mean(frame)) for v, row in zip(line, frame)] for line, frame in zip(video, frames)]
    return video, both


def reference_vidcom2(views, ratio):
    kept = []
    for view in views:
        kept.append(set())
        if not view.count:
            continue
        video, both = reference_vidcom2_scores(view)
        frames, places, keep = len(both), len(both[0]), share(view, ratio)
        weights = [math.exp(-sum(line) / places / 0.01) for line in video]
        shares = [keep / frames * (1 + weight / sum(weights) - 1 / frames) for weight in weights]
        quotas = [min(places, max(math.floor(value), keep >= frames)) for value in shares]
        while sum(quotas) < keep:
            open_frames = [t for t in range(frames) if quotas[t] < places]
            quotas[max(open_frames, key=lambda t: round(shares[t] - quotas[t], 4))] += 1  # weights of 1e-9 are ties
        for t, line in enumerate(both):
            kept[-1] |= {t * places + p for p in sorted(range(places), key=lambda p: line[p])[: quotas[t]]}
    return kept


def reference_dart(views, ratio):
    tokens = [row for view in views for row in rows(view)]
    keep = sum(share(view, ratio) for view in views)
    pivots = sorted(range(len(tokens)), key=lambda i: -sum(abs(value) for value in tokens[i]))[:4]
    pivots = pivots[:keep]
    chosen = set(pivots)
    for number, pivot in enumerate(pivots):
        rest = keep - len(pivots)
        part = rest * (number + 1) // len(pivots) - rest * number // len(pivots)
        free = [i for i in range(len(tokens)) if i not in chosen]
        chosen |= set(sorted(free, key=lambda i: cosine(tokens[i], tokens[pivot]))[:part])
    return per_view(views, chosen)


def reference_cdpruner(views, ratio):
    kept = []
    for view in views:
        x = unit(view.tokens.double().flatten(0, 2))
        kernel = x @ x.T + 1e-3 * torch.eye(len(x), dtype=torch.float64)
        chosen = []
        while len(chosen) < share(view, ratio):
            rest = [i for i in range(len(x)) if i not in chosen]
            volume = {i: float(kernel[[*chosen, i]][:, [*chosen, i]].logdet()) for i in rest}
            chosen.append(next(i for i in rest if volume[i] > max(volume.values()) - 1e-7))
        kept.append(set(chosen))
    return kept


@pytest.mark.parametrize('ratio', RATIOS)
@pytest.mark.parametrize('peer', PEERS)
def test_equals_the_reference(peer, ratio):
    for seed in range(3):
        views = uneven_ring(seed)
        kept = [set(mask.flatten().nonzero().flatten().tolist()) for mask in prune(views, 4, peer, ratio)]
        assert kept == globals()[f'reference_{peer}'](views, ratio), f'seed {seed}'


@pytest.mark.parametrize('peer', PEERS)
def test_a_ring_without_any_frame_keeps_nothing(peer):
    views = [ViewTokens(name, torch.zeros(0, 0, 0, 0), ()) for name in 'ab']
    assert [mask.shape for mask in prune(views, 4, peer)] == [(0, 0, 0), (0, 0, 0)]


@given(rings(), st.floats(0.001, 0.999))
@settings(max_examples=60, deadline=None)
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
    mask = most_volume(x, 10)
    assert [int(mask[:20].sum()), int(mask[20:].sum())] == [5, 5]


def test_isolation_does_not_depend_on_its_chunks(monkeypatch):
    x = unit(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)))
    whole = isolation(x)
    monkeypatch.setattr('stprune_ros.pruning.peers.CHUNK', 7)
    assert torch.allclose(isolation(x), whole, atol=1e-6)
