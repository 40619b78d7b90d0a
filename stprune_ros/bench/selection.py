"""Time that a selection takes: ours and the baselines on the same tensors; the floor is the bare similarity product."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stprune_ros.bench.ticks import free_bytes, spread_of
from stprune_ros.pruning.baselines.diversity import divprune_growing, grow, select_over_ring
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.pruner import SpatioTemporalPruner, stage_budgets
from stprune_ros.pruning.selection import select
from stprune_ros.pruning.similarity import SimilarityCache, cosine_similarities, view_similarities
from stprune_ros.pruning.view_tokens import ViewTokens, unit_rows, view_budget

FLOOR = 'similarity product'
JOINT = 'st_prune_joint'  # the node's default
REUSE, JOINT_REUSE = 'st_prune, next tick', f'{JOINT}, next tick'
REUSING = {REUSE: 'st_prune', JOINT_REUSE: JOINT}
GROWING = 'divprune_growing'
LOOPS = 'st_prune, loops alone'  # both greedy loops, similarities given
GROWING_LOOP = 'divprune_growing, loop alone'  # distances given
OURS = (JOINT, JOINT_REUSE, 'st_prune', REUSE, LOOPS)
VARIANTS = (*OURS, GROWING, GROWING_LOOP, 'divprune', 'tfps', 'dart', 'cdpruner', 'evs', 'random')
MAX_RUNS = 9

Masks = list[Tensor]


@dataclass(frozen=True)
class Size:
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


MAIN = Size(6, 4, 14, 14, 2048)
FULL = (
    Size(1, 4, 16, 16, 1024),
    replace(MAIN, frames=1),
    replace(MAIN, views=1),
    replace(MAIN, frames=2),
    replace(MAIN, views=3),
    MAIN,
    replace(MAIN, keep=0.25),
    replace(MAIN, keep=0.5),
    replace(MAIN, dim=1024),
    replace(MAIN, dim=3584),
    replace(MAIN, views=12),
    replace(MAIN, frames=8),
    replace(MAIN, frames=16),
    Size(12, 16, 14, 15, 1024),
)
QUICK = (replace(MAIN, frames=1), replace(MAIN, views=3), MAIN, replace(MAIN, frames=8))


@dataclass(frozen=True)
class Limits:
    """Seconds: of repeated runs of one cell, and that one run may be expected to take at most."""

    repeat_s: float
    run_s: float


def ring(size: Size, seed: int = 0) -> list[ViewTokens]:
    """Random features in which frames of a view resemble each other, as those of a camera do."""
    generator = torch.Generator().manual_seed(seed)
    shape = (size.rows, size.columns, size.dim)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    views = []
    for i in range(size.views):
        scene = torch.randn(*shape, generator=generator)
        frames = [(scene + 0.5 * torch.randn(*shape, generator=generator)).to(device) for _ in range(size.frames)]
        views.append(ViewTokens(f'V{i}', torch.stack(frames), tuple(range(size.frames)), frames=tuple(frames)))
    return views


def next_ring(views: Sequence[ViewTokens]) -> list[ViewTokens]:
    """The ring with another newest frame in every view; the history stays."""
    moved = []
    for view in views:
        frames = (*view.tokens.unbind()[:-1], view.tokens[-1].roll(1, dims=0))
        before = view.frames or frames
        moved.append(replace(view, tokens=torch.stack(frames), frames=(*before[:-1], frames[-1])))
    return moved


def config_of(size: Size, method: str = 'st_prune') -> PruningConfig:
    """A method at the size's keep ratio, all else as it is by default."""
    return PruningConfig(method, size.keep)


def variant(name: str, views: Sequence[ViewTokens], size: Size) -> Callable[[], Masks]:
    """A method as a function without arguments that returns masks.

    Every second call of what is in `REUSING` is on `next_ring`.
    """
    history = size.frames
    if name == FLOOR:
        rows = [unit_rows(view).flatten(0, 1) for view in views]
        return lambda: cosine_similarities(rows)
    if name == GROWING:
        return lambda: select_over_ring(views, config_of(size, 'divprune'), divprune_growing)
    if name == GROWING_LOOP:
        x = torch.cat([unit_rows(view).flatten(0, 1) for view in views])
        distance, keep = 1 - x @ x.T, sum(view_budget(view, config_of(size)) for view in views)
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
        other = next_ring(views)
        prune = SpatioTemporalPruner(config_of(size, REUSING[name]), SimilarityCache(2**33))
        prune(other, history)
        rings = [views, other]

        def tick() -> Masks:
            rings.append(rings.pop(0))
            return prune(rings[-1], history)

        return tick
    prune_plain = SpatioTemporalPruner(config_of(size, name))
    plain = [replace(view, frames=None) for view in views]
    return lambda: prune_plain(plain, history)


def work(name: str, size: Size) -> float:
    """What a method's time grows with, up to a factor: only used to foresee whether a size would exceed the limit."""
    n, inside, d = size.tokens, size.tokens / size.views, size.dim
    k = size.keep * n
    return {
        GROWING: n * n * d / 100 + k * k * n / 2,
        GROWING_LOOP: k * k * n / 2,
        LOOPS: k * n / size.views,
        JOINT: n * d * (inside + n / size.frames),
        JOINT_REUSE: n / size.frames * d * (inside + n / size.frames),
        'divprune': n * n * d / 10 + k * n * d,
        'cdpruner': k * inside * (d + k / size.views),
        'dart': n * d,
        'evs': n * d,
        'random': n,
    }.get(name, n * inside * d)


def memory(name: str, size: Size) -> float:
    """Bytes that a method takes beside the features, roughly."""
    n, inside, d = size.tokens, size.tokens / size.views, size.dim
    if name in (GROWING, GROWING_LOOP):
        return 4 * (n * d + 2 * n * n + size.keep * n * n)
    square = 0 if name in ('divprune', 'cdpruner', 'dart', 'evs', 'random') else n * inside
    return 4.0 * (3 * n * d + 2 * square)


def measure(sizes: Sequence[Size], limits: Limits) -> Iterator[list[dict[str, Any]]]:
    """Per size one row for each method, the floor first; one with a 'reason' where a method was not run."""
    seen: dict[str, tuple[float, float]] = {}  # per method: work and seconds of the largest size so far
    for size in sizes:
        views = ring(size)
        rows = [_cell(name, size, views, limits, seen) for name in (FLOOR, *VARIANTS)]
        floor = rows[0].get('ms_median')
        for row in rows:
            if 'ms_median' in row:
                row['over_floor'] = round(row['ms_median'] / floor, 3) if floor else None
        yield rows


def _cell(
    name: str, size: Size, views: Sequence[ViewTokens], limits: Limits, seen: dict[str, tuple[float, float]]
) -> dict[str, Any]:
    row = {
        'method': name,
        'tokens': size.tokens,
        'views': size.views,
        'frames': size.frames,
        'dim': size.dim,
        'keep': size.keep,
    }
    need, free = memory(name, size), free_bytes()
    if free is not None and need > 0.8 * free:
        return {**row, 'reason': f'needs {need / 2**30:.1f} GiB beside the features, {free / 2**30:.1f} GiB are free'}
    if name in seen:
        before, seconds = seen[name]
        expected = seconds * work(name, size) / before
        if expected > limits.run_s:
            return {**row, 'reason': f'about {expected:.0f} s for one run, more than the {limits.run_s:g} s allowed'}
    run = variant(name, views, size)
    times = _times(run, limits)
    if name not in seen or work(name, size) > seen[name][0]:
        seen[name] = (work(name, size), min(times) / 1e3)
    spread = spread_of(times)
    return {**row, 'runs': len(times), **{f'ms_{key}': value for key, value in spread.items()}}


def _times(run: Callable[[], Masks], limits: Limits) -> list[float]:
    """Times in ms; the first run is left out where there is time for others."""
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
