"""Similarities kept from tick to tick: the same keep masks as without, and nothing kept for longer than it may be."""

import weakref
from dataclasses import replace

import pytest
import torch
from helpers.token_rings import AskedCache, ring, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from stprune_ros.errors import StpruneError
from stprune_ros.pruning import commonness, similarity_batched
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.pruner import CACHED_METHODS, METHODS, SpatioTemporalPruner
from stprune_ros.pruning.similarity import SimilarityCache, self_similarity, view_similarities
from stprune_ros.pruning.similarity_batched import BatchedSimilarityCache
from stprune_ros.pruning.view_tokens import ViewTokens, previous_indices

HISTORY = 4


def a_view(name, frames, slots=None):
    """A view of these frames, (rows, columns, D) each, as the pipeline makes one."""
    tokens = torch.stack(frames) if frames else torch.zeros(0, 0, 0, 0)
    return ViewTokens(name, tokens, slots or tuple(range(len(frames))), frames=tuple(frames))


def both(views, cache, method='st_prune', ratio=0.3, **more):
    """Masks with and without the cache."""
    config = PruningConfig(method, ratio, **more)
    plain = [replace(view, frames=None) for view in views]
    return SpatioTemporalPruner(config, cache)(views, HISTORY), SpatioTemporalPruner(config)(plain, HISTORY)


@st.composite
def drives(draw):
    """Ticks of one to three views: windows over a stream of frames that shift, lose frames, go back, change grid."""
    names = 'abc'[: draw(st.integers(1, 3))]
    dim = draw(st.sampled_from([3, 8, 16, 33]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 5)))
    grids = draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=2))
    keys = [(name, grid) for name in names for grid in grids]
    stock = {(name, grid): [torch.randn(*grid, dim, generator=generator) for _ in range(7)] for name, grid in keys}
    ticks = []
    for _ in range(draw(st.integers(2, 6))):
        views = []
        for name in names:
            frames = stock[name, draw(st.sampled_from(grids))]
            picked = draw(st.lists(st.integers(0, 6), max_size=HISTORY, unique=draw(st.booleans())))
            picked = sorted(picked) if draw(st.booleans()) else picked
            views.append(a_view(name, [frames[i] for i in picked]))
        ticks.append(views)
    return ticks


@settings(max_examples=150)
@given(
    drives(),
    st.sampled_from(CACHED_METHODS),
    st.sampled_from([0.05, 0.1, 0.3, 0.8]),
    st.booleans(),
    st.sampled_from([0, 2000, 2**20]),
)
def test_the_masks_are_the_same_with_and_without(ticks, method, ratio, keep_one_copy, room):
    cache = SimilarityCache(room)
    for views in ticks:
        with_cache, without = both(views, cache, method, ratio, keep_one_copy=keep_one_copy)
        assert all(torch.equal(a, b) for a, b in zip(with_cache, without))
        assert cache.bytes <= room


@pytest.mark.parametrize(('frames', 'tokens', 'dim'), [(1, 1, 4), (3, 2, 8), (2, 7, 5), (4, 196, 64)])
def test_similarities_within_a_view_are_the_whole_product(frames, tokens, dim):
    units = torch.nn.functional.normalize(torch.randn(frames, tokens, dim), dim=-1)
    x, found = units.flatten(0, 1), self_similarity(units)
    assert torch.allclose(found, x @ x.T, atol=1e-6)


@pytest.mark.parametrize('shape', [(7, 7, 1024), (14, 14, 640)])
def test_the_similarities_are_the_same_bits_at_real_sizes(shape):
    frames = [torch.randn(*shape, generator=torch.Generator().manual_seed(i)) for i in range(7)]
    cache = SimilarityCache()
    for tick in range(4):
        view = a_view('V', frames[tick : tick + 4])
        [found] = cache.attach([view])
        [anew] = view_similarities([view])
        assert torch.equal(found.cached.units, anew.units)
        assert torch.equal(found.cached.similarity, anew.similarity)


def test_a_tick_multiplies_only_the_rows_of_its_new_frame_and_half_of_what_mirrors(monkeypatch):
    products = []
    multiply = torch.mm
    monkeypatch.setattr(torch, 'mm', lambda a, b, out: products.append(out.numel()) or multiply(a, b, out=out))
    frames = [torch.randn(2, 3, 8) for _ in range(6)]
    cache = SimilarityCache()
    counts = []
    for window in ([0, 1, 2, 3], [0, 1, 2, 4], [1, 2, 4, 5]):  # the first, its newest replaced, moved on by a keyframe
        products.clear()
        cache.attach([a_view('V', [frames[i] for i in window])])
        counts.append(sum(products))
    itself = 1 * 1 + 2 * 3 + 1 * 4 + 2 * 6  # a frame of 6 tokens in four strips
    assert counts == [6 * 36 + 4 * itself, 3 * 36 + itself, 3 * 36 + itself]


def test_a_tick_checks_only_its_new_frames_and_refuses_a_broken_one_each_time(monkeypatch):
    looked_at = []
    norm = torch.linalg.vector_norm

    def counted(x, *args, **how):
        if how.get('dim') == 1:
            looked_at.append(len(x))
        return norm(x, *args, **how)

    monkeypatch.setattr(torch.linalg, 'vector_norm', counted)
    frames = [torch.randn(2, 3, 8) for _ in range(6)]
    frames[5][0, 0, 0] = torch.nan
    prune = SpatioTemporalPruner(PruningConfig('st_prune_joint', 0.5), SimilarityCache())
    for window in ([0, 1, 2, 3], [0, 1, 2, 4], [1, 2, 4, 3]):
        prune([a_view('V', [frames[i] for i in window])], 4)
    assert looked_at == [4, 1, 1]
    for _ in range(2):
        with pytest.raises(StpruneError, match="view 'V': features of frame 4 of 4 hold NaN"):
            prune([a_view('V', [frames[i] for i in [1, 2, 4, 5]])], 4)
    for window in ([1, 5, 2, 4], [5, 1, 2, 4]):  # a late one, behind which all are looked at
        with pytest.raises(StpruneError, match='hold NaN'):
            prune([a_view('V', [frames[i] for i in window])], 4)


def test_a_tick_looks_across_views_only_for_its_new_frame(monkeypatch):
    instants = []
    look = commonness.commonness_at_instant
    monkeypatch.setattr(commonness, 'commonness_at_instant', lambda units: instants.append(1) or look(units))
    frames = [[torch.randn(2, 3, 8) for _ in range(6)] for _ in range(3)]
    cache = SimilarityCache()
    counts = []
    for window in ([0, 1, 2, 3], [0, 1, 2, 4], [1, 2, 4, 5]):
        instants.clear()
        found = cache.attach(
            [a_view(str(i), [row[n] for n in window]) for i, row in enumerate(frames)], with_commonness=True
        )
        anew = commonness.commonness([view.cached.units for view in found], [view.slots for view in found])
        assert all(torch.equal(view.cached.commonness, x) for view, x in zip(found, anew))
        counts.append(len(instants) - 4)
    assert counts == [4, 1, 1]


def test_what_is_no_longer_in_the_ring_is_dropped():
    cache = SimilarityCache()
    views = [a_view(name, [torch.randn(2, 2, 8)]) for name in 'ab']
    cache.attach(views)
    whole = cache.bytes
    cache.attach(views[:1])
    assert 0 < cache.bytes == whole / 2
    cache.clear()
    assert cache.bytes == 0


def test_frames_that_left_the_history_are_let_go_where_views_are_no_longer_compared():
    cache = SimilarityCache()
    SpatioTemporalPruner(PruningConfig(joint_common=2.4), cache)(
        [a_view(name, [torch.randn(2, 2, 8)]) for name in 'ab'], HISTORY
    )
    held = [weakref.ref(frame) for entry in cache._entries.values() for frame in entry.frames]
    for _ in range(2):
        views = [a_view(name, [torch.randn(2, 2, 8)]) for name in 'ab']
        SpatioTemporalPruner(PruningConfig(joint_common=0.0), cache)(views, HISTORY)
    assert len(held) == 2 and not any(frame() is not None for frame in held)


@settings(max_examples=60)
@given(drives(), st.lists(st.sampled_from([0.0, 0.5, 2.4, -1.0]), min_size=6, max_size=6))
def test_the_masks_are_the_same_whatever_weight_held_the_tick_before(ticks, weights):
    cache = SimilarityCache()
    for views, weight in zip(ticks, weights):
        with_cache, without = both(views, cache, 'st_prune_joint', joint_common=weight)
        assert all(torch.equal(a, b) for a, b in zip(with_cache, without))


def test_views_of_one_name_do_not_write_into_each_other():
    frames = [torch.randn(2, 3, 8) for _ in range(4)]
    cache = SimilarityCache()
    for pair in ((0, 1), (2, 3), (0, 3)):
        views = [a_view('V', [frames[i], frames[i] + 1]) for i in pair]
        with_cache, without = both(views, cache)
        assert all(torch.equal(a, b) for a, b in zip(with_cache, without))


def test_views_without_frames_to_tell_apart_are_not_kept():
    cache = SimilarityCache()
    assert cache.attach(ring())[0].cached is None
    assert cache.bytes == 0


def test_a_missing_view_has_no_part_in_a_batch_on_another_device():
    """The device is one that computes shapes only."""
    views = [ViewTokens(str(n), torch.zeros(n, 2, 3, 8, device='meta'), tuple(range(n))) for n in (2, 3)]
    views.insert(1, ViewTokens('gone', torch.zeros(0, 0, 0, 0), ()))
    found = view_similarities(views)
    assert [x.similarity.shape for x in found] == [(12, 12), (0, 0), (18, 18)]
    assert [x.similarity.device.type for x in found] == ['meta', 'cpu', 'meta']


def test_blocks_cover_the_whole_square():
    units = unit(torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0)))
    flat = units.flatten(0, 1)
    assert torch.allclose(self_similarity(units), flat @ flat.T, atol=1e-6)


@st.composite
def alike(draw):
    """Ticks of one to three views of one grid, with the same windows over their streams as a rule."""
    views, dim = draw(st.integers(1, 3)), draw(st.sampled_from([3, 16]))
    grid = draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 5)))
    streams = [[torch.randn(*grid, dim, generator=generator) for _ in range(7)] for _ in range(views)]
    ticks = []
    for _ in range(draw(st.integers(2, 6))):
        size = draw(st.integers(1, HISTORY))
        window = sorted(draw(st.permutations(range(7)))[:size])
        windows = [window] * views
        if draw(st.booleans()):  # one camera delivers other frames
            windows[-1] = sorted(draw(st.permutations(range(7)))[:size])
        ticks.append([a_view(str(i), [streams[i][n] for n in picked]) for i, picked in enumerate(windows)])
    return ticks


@settings(max_examples=150)
@given(alike(), st.lists(st.booleans(), min_size=6, max_size=6), st.sampled_from([0, 2**20]))
def test_a_ring_as_one_batch_knows_what_its_views_alone_know(ticks, across, room):
    cache = BatchedSimilarityCache()
    for views, asked in zip(ticks, across):
        found = cache.attach([*views, a_view('gone', [])], asked, room)
        assert cache.bytes <= room
        anew = view_similarities(views)
        together = commonness.commonness([x.units for x in anew], [view.slots for view in views])
        for view, expected, shared in zip(found, anew, together):
            assert torch.allclose(view.cached.units, expected.units, atol=1e-6)
            assert torch.allclose(view.cached.similarity, expected.similarity, atol=1e-5)
            if asked or view.cached.commonness is not None:
                assert torch.allclose(view.cached.commonness, shared, atol=1e-5)
        assert found[-1].cached.similarity.shape == (0, 0)


def test_a_batch_multiplies_only_what_is_new_in_any_view(monkeypatch):
    entered = []
    compute = similarity_batched._compute_new
    monkeypatch.setattr(
        similarity_batched, '_compute_new', lambda units, new, batch: entered.append(new) or compute(units, new, batch)
    )
    frames = [[torch.randn(2, 3, 8) for _ in range(6)] for _ in range(3)]
    cache = BatchedSimilarityCache()
    # The first, its newest replaced, moved on by a keyframe, the same again.
    for window in ([0, 1, 2, 3], [0, 1, 2, 4], [1, 2, 4, 5], [1, 2, 4, 5]):
        cache.attach([a_view(str(i), [row[n] for n in window]) for i, row in enumerate(frames)], True, 2**20)
    assert entered == [[0, 1, 2, 3], [3], [3]]
    windows = ([1, 2, 4, 5], [1, 2, 4, 5], [1, 3, 4, 5])
    cache.attach([a_view(str(i), [frames[i][n] for n in w]) for i, w in enumerate(windows)], True, 2**20)
    assert entered[3:] == [[0, 1, 2, 3]]


def test_views_that_differ_do_not_go_as_one_batch():
    cache = BatchedSimilarityCache()
    views = [a_view('a', [torch.randn(2, 3, 8)]), a_view('b', [torch.randn(3, 3, 8)])]
    assert cache.attach(views, True, 2**20) == views
    assert cache.attach([replace(views[0], frames=None)], True, 2**20)[0].cached is None
    assert cache.bytes == 0


def test_off_the_cpu_the_host_reads_no_value():
    """On a device that knows shapes only, whatever needs a value fails."""
    streams = [[torch.zeros(2, 3, 8, device='meta') for _ in range(6)] for _ in range(3)]
    cache = SimilarityCache()
    for window in ([0, 1, 2, 3], [0, 1, 2, 4], [1, 2, 4, 5]):
        views = [a_view(str(i), [frames[n] for n in window]) for i, frames in enumerate(streams)]
        found = cache.attach([*views, a_view('gone', [])], with_commonness=True)
        assert [view.cached.similarity.shape for view in found] == [(24, 24)] * 3 + [(0, 0)]
        masks = METHODS['st_prune_staged'](found, HISTORY, PruningConfig('st_prune_staged', 0.25))
        assert [mask.numel() for mask in masks] == [24, 24, 24, 0]
    assert cache.bytes > 0
    cache.clear()
    assert cache.bytes == 0


@pytest.mark.parametrize('method', ['st_prune', 'st_prune_staged', 'evs'])
def test_the_pruner_fills_its_cache_where_the_method_gains_from_it(method):
    cache = SimilarityCache()
    SpatioTemporalPruner(PruningConfig(method), cache)([a_view('a', [torch.randn(2, 2, 8)] * 2)], HISTORY)
    assert (cache.bytes > 0) is (method != 'evs')


def test_the_pruner_asks_its_cache_for_commonness_in_joint_pruning(monkeypatch):
    views = [a_view(name, [torch.randn(2, 3, 8)]) for name in 'ab']
    cache = SimilarityCache()
    pruner = SpatioTemporalPruner(PruningConfig('st_prune_joint'), cache)
    first = pruner(views, HISTORY)
    instants = []
    monkeypatch.setattr(commonness, 'commonness_at_instant', instants.append)
    assert all(torch.equal(a, b) for a, b in zip(pruner(views, HISTORY), first))
    assert instants == []


@pytest.mark.parametrize(('method', 'expected'), [('st_prune', False), ('mtp', False), ('st_prune_staged', True)])
def test_only_methods_that_weigh_commonness_ask_for_it(method, expected):
    cache = AskedCache()

    SpatioTemporalPruner(PruningConfig(method, 0.3, joint_common=2.4), cache)(ring(), 3)
    assert cache.asked == [expected]


def test_what_was_cleared_is_computed_anew(monkeypatch):
    views = [a_view(name, [torch.randn(2, 3, 8)]) for name in 'ab']
    cache = SimilarityCache()
    cache.attach(views, with_commonness=True)
    cache.clear()
    instants, compute = [], commonness.commonness_at_instant
    monkeypatch.setattr(commonness, 'commonness_at_instant', lambda units: instants.append(1) or compute(units))
    cache.attach(views, with_commonness=True)
    assert instants == [1]


def test_a_ring_that_moves_to_another_device_leaves_nothing_behind():
    cache = SimilarityCache()
    cache.attach([a_view('a', [torch.randn(2, 3, 8)])])
    cache.attach([a_view('a', [torch.zeros(2, 3, 8, device='meta')])])
    assert cache.bytes == 4 * (6 * 8 + 6 * 6)  # one frame of six tokens: rows and similarities
    cache.clear()
    assert cache.bytes == 0


def test_frames_are_recognized_by_identity_and_in_order():
    a, b, c = (torch.zeros(1) for _ in range(3))
    assert previous_indices((b, c), (a, b)) == [1, None]
    assert previous_indices((b, a), (a, b)) == [None, None]
    assert previous_indices((a, a), (a, b)) == [None, None]
