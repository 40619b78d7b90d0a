"""Time of the token selection alone: every method on the same tensors, and the similarity product as lower bound."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stprune_ros.bench.ticks import available_memory, median_and_range
from stprune_ros.pruning.baselines.diversity import divprune_growing, grow, unit_tokens
from stprune_ros.pruning.baselines.scope import over_ring
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.pruner import SpatioTemporalPruner, stage_budgets
from stprune_ros.pruning.selection import select
from stprune_ros.pruning.similarity import SimilarityCache, cosine_similarities, view_similarities
from stprune_ros.pruning.view_tokens import ViewTokens, unit_rows, view_budget

FLOOR = 'similarity product'  # what every method with all similarities takes at least
JOINT = 'st_prune_joint'  # the node's default, with its ring budget and gauge
REUSE, JOINT_REUSE = 'st_prune, next tick', f'{JOINT}, next tick'  # the similarities of the history are cached
REUSING = {REUSE: 'st_prune', JOINT_REUSE: JOINT}
GROWING = 'divprune_growing'
LOOPS = 'st_prune, loops alone'  # both greedy loops, similarities given
GROWING_LOOP = 'divprune_growing, loop alone'  # distances given
WHOLE_DIVPRUNE = (GROWING, 'divprune')  # the authors' steps, and ours, which never hold all distances
PAIRED = (FLOOR, JOINT, JOINT_REUSE, 'st_prune', REUSE, *WHOLE_DIVPRUNE, GROWING_LOOP, LOOPS)
ST_PRUNE = (JOINT, JOINT_REUSE, 'st_prune', REUSE, LOOPS)
TIMED_METHODS = (*ST_PRUNE, GROWING, GROWING_LOOP, 'divprune', 'tfps_view', 'dart', 'cdpruner_view', 'evs', 'random')
MAX_RUNS = 9

Masks = list[Tensor]


@dataclass(frozen=True)
class RingSize:
    """A ring of ``views`` x ``frames`` images of ``rows`` x ``columns`` tokens of ``dim`` values, and what is kept."""

    views: int
    frames: int
    rows: int
    columns: int
    dim: int
    keep: float = 0.1

    @property
    def tokens(self) -> int:
        """Tokens of the whole ring."""
        return self.views * self.frames * self.rows * self.columns


MAIN_SIZE = RingSize(6, 4, 14, 14, 2048)
DEFAULT_SIZES = (
    RingSize(1, 4, 16, 16, 1024),
    replace(MAIN_SIZE, frames=1),
    replace(MAIN_SIZE, views=1),
    replace(MAIN_SIZE, frames=2),
    replace(MAIN_SIZE, views=3),
    MAIN_SIZE,
    replace(MAIN_SIZE, keep=0.25),
    replace(MAIN_SIZE, keep=0.5),
    replace(MAIN_SIZE, dim=1024),
    replace(MAIN_SIZE, dim=3584),
    replace(MAIN_SIZE, views=12),
    replace(MAIN_SIZE, frames=8),
    replace(MAIN_SIZE, frames=16),
    RingSize(12, 16, 14, 15, 1024),
)
QUICK_SIZES = (replace(MAIN_SIZE, frames=1), replace(MAIN_SIZE, views=3), MAIN_SIZE, replace(MAIN_SIZE, frames=8))


@dataclass(frozen=True)
class TimeLimits:
    """For how long a method is repeated on a size, and how long a single run may be expected to take, in seconds."""

    repeat_s: float
    run_s: float


def random_ring(size: RingSize, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[ViewTokens]:
    """Random features; the frames of a view resemble each other, as those of a camera do."""
    generator = torch.Generator().manual_seed(seed)
    shape = (size.rows, size.columns, size.dim)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    views = []
    for i in range(size.views):
        scene = torch.randn(*shape, generator=generator)
        frames = [
            (scene + 0.5 * torch.randn(*shape, generator=generator)).to(device, dtype) for _ in range(size.frames)
        ]
        views.append(ViewTokens(f'V{i}', torch.stack(frames), tuple(range(size.frames)), frames=tuple(frames)))
    return views


def advance_ring(views: Sequence[ViewTokens]) -> list[ViewTokens]:
    """The ring with another current frame in every view and the same history."""
    advanced = []
    for view in views:
        frames = (*view.tokens.unbind()[:-1], view.tokens[-1].roll(1, dims=0))
        before = view.frames or frames
        advanced.append(replace(view, tokens=torch.stack(frames), frames=(*before[:-1], frames[-1])))
    return advanced


def pruning_config(size: RingSize, method: str = 'st_prune') -> PruningConfig:
    """The default configuration of a method, at the keep ratio of ``size``; with commonness, which costs the most."""
    return PruningConfig(method, size.keep, joint_common=1.0)


def prepare_method(name: str, views: Sequence[ViewTokens], size: RingSize) -> Callable[[], Masks]:
    """A function without arguments that runs a method on ``views`` and returns its keep masks.

    Methods in `REUSING` alternate between ``views`` and the ring that `advance_ring` makes of them.
    """
    history = size.frames
    if name == FLOOR:
        rows = [unit_rows(view).flatten(0, 1) for view in views]
        return lambda: cosine_similarities(rows)
    if name == GROWING:
        config = pruning_config(size, 'divprune')
        return lambda: over_ring(views, config, lambda images, keep: divprune_growing(unit_tokens(images), keep))
    if name == GROWING_LOOP:
        x = torch.cat([unit_rows(view).flatten(0, 1) for view in views])
        distance, keep = 1 - x @ x.T, sum(view_budget(view, pruning_config(size)) for view in views)
        return lambda: [grow(distance, keep)]
    if name == LOOPS:
        inside = view_similarities(views)
        budgets = [stage_budgets(view, size.keep, size.frames > 1, True) for view in views]
        survivors = [x.similarity[:first, :first].contiguous() for x, (first, _) in zip(inside, budgets)]
        flat = [x.similarity.new_zeros(len(x.similarity)) for x in inside]
        first, last = zip(*budgets)

        def loops() -> Masks:
            if size.frames > 1:
                select([x.similarity for x in inside], flat, first)
            return select(survivors, [bonus[: len(x)] for bonus, x in zip(flat, survivors)], last)

        return loops
    if name in REUSING:
        other = advance_ring(views)
        prune = SpatioTemporalPruner(pruning_config(size, REUSING[name]), SimilarityCache(2**33))
        prune(other, history)
        rings = [views, other]

        def tick() -> Masks:
            rings.append(rings.pop(0))
            return prune(rings[-1], history)

        return tick
    prune_plain = SpatioTemporalPruner(pruning_config(size, name))
    plain = [replace(view, frames=None) for view in views]
    return lambda: prune_plain(plain, history)


def expected_work(name: str, size: RingSize) -> float:
    """Operations of a method up to a factor, from which the time on a larger size is extrapolated."""
    n, inside, d = size.tokens, size.tokens / size.views, size.dim
    k = size.keep * n
    return {
        GROWING: n * n * d / 100 + k * k * n / 2,
        GROWING_LOOP: k * k * n / 2,
        LOOPS: k * n / size.views,
        JOINT: n * d * (inside + n / size.frames),
        JOINT_REUSE: n / size.frames * d * (inside + n / size.frames),
        'divprune': n * n * d / 10 + k * n * d,
        'cdpruner_view': k * inside * (d + k / size.views),
        'dart': n * d,
        'evs': n * d,
        'random': n,
    }.get(name, n * inside * d)


def expected_memory(name: str, size: RingSize) -> float:
    """Bytes that a method allocates beside the features, roughly."""
    n, inside, d = size.tokens, size.tokens / size.views, size.dim
    if name in (GROWING, GROWING_LOOP):
        return 4 * (n * d + 2 * n * n + size.keep * n * n)
    square = 0 if name in ('divprune', 'cdpruner_view', 'dart', 'evs', 'random', 'tfps_view') else n * inside
    return 4.0 * (3 * n * d + 2 * square)


def measure_selections(sizes: Sequence[RingSize], limits: TimeLimits) -> Iterator[list[dict[str, Any]]]:
    """For each size one row per method, `FLOOR` first; with a 'reason' instead of times where a method was not run."""
    largest: dict[str, tuple[float, float]] = {}  # by method: work and seconds on the largest size so far
    for size in sizes:
        views = random_ring(size)
        rows = [_measure_method(name, size, views, limits, largest) for name in (FLOOR, *TIMED_METHODS)]
        floor = rows[0].get('ms_median')
        for row in rows:
            if 'ms_median' in row:
                row['over_floor'] = round(row['ms_median'] / floor, 3) if floor else None
        yield rows


def measure_pairs(size: RingSize, rounds: int, names: Sequence[str] = PAIRED) -> list[dict[str, Any]]:
    """CPU ms of several methods, run in turn so that whatever else the machine does meets all of them.

    One row per method with what each round took. On a GPU it is the time by the clock.
    """
    views = random_ring(size)
    runs = {name: prepare_method(name, views, size) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name, run in runs.items():
            spent = _timed(run)
            if number:  # the first round makes what is made once
                times[name].append(round(spent, 3))
    head = {key: getattr(size, key) for key in ('tokens', 'views', 'frames', 'dim', 'keep')}
    return [
        {
            'method': name,
            **head,
            'rounds': rounds,
            'ms': each,
            **{f'ms_{k}': v for k, v in median_and_range(each).items()},
        }
        for name, each in times.items()
    ]


def _timed(run: Callable[[], Masks]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - started)
    started = time.process_time()
    run()
    return 1e3 * (time.process_time() - started)


def _measure_method(
    name: str, size: RingSize, views: Sequence[ViewTokens], limits: TimeLimits, largest: dict[str, tuple[float, float]]
) -> dict[str, Any]:
    row = {
        'method': name,
        'tokens': size.tokens,
        'views': size.views,
        'frames': size.frames,
        'dim': size.dim,
        'keep': size.keep,
    }
    need, available = expected_memory(name, size), available_memory()
    if available is not None and need > 0.8 * available:
        return {
            **row,
            'reason': f'needs {need / 2**30:.1f} GiB beside the features, {available / 2**30:.1f} GiB are free',
        }
    if name in largest:
        work, seconds = largest[name]
        expected = seconds * expected_work(name, size) / work
        if expected > limits.run_s:
            return {**row, 'reason': f'about {expected:.0f} s for one run, more than the {limits.run_s:g} s allowed'}
    run = prepare_method(name, views, size)
    times = _run_times(run, limits)
    if name not in largest or expected_work(name, size) > largest[name][0]:
        largest[name] = (expected_work(name, size), min(times) / 1e3)
    found = median_and_range(times)
    return {**row, 'runs': len(times), **{f'ms_{key}': value for key, value in found.items()}}


def _run_times(run: Callable[[], Masks], limits: TimeLimits) -> list[float]:
    """Times in ms; the first run counts only where there is no time for a second."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 2 or (len(times) <= MAX_RUNS and time.perf_counter() - began < limits.repeat_s):
        started = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started))
        if times[0] > 1e3 * limits.repeat_s:
            break
    return times[1:] if len(times) > 1 else times
