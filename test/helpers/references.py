"""Slow, obvious references of every selection: its formula, one token at a time, in plain Python and float64."""

from __future__ import annotations

import itertools
import math

import torch
from helpers.token_rings import unit

from stprune_ros.pruning.selection import token_budget


def reference_greedy(tokens, bonus, count, scale=False):
    return sorted(reference_order(tokens, bonus, count, scale))


def reference_order(tokens, bonus, count, scale=False):
    """Soft terms are added to the distance; with ``scale`` they scale it, and alone decide the start."""
    tokens = tokens.double()
    chosen = []
    while len(chosen) < count:
        best, best_score = None, -math.inf
        for i in range(len(tokens)):
            if i in chosen:
                continue
            nearest = min((1 - float(tokens[i] @ tokens[j]) for j in chosen), default=0.0)
            score = nearest * math.exp(bonus[i]) if scale and chosen else nearest + bonus[i]
            if score > best_score + 1e-9:
                best, best_score = i, score
        chosen.append(best)
    return chosen


def reference_ring_greedy(tokens, bonuses, budgets, scale=False):
    """One loop over all views, each step takes the best token of the ring; what a view keeps at least comes first."""
    tokens, total = [x.double() for x in tokens], sum(budgets)
    chosen = [reference_order(x, bonus, min(k, max(1, k // 2)), scale) for x, bonus, k in zip(tokens, bonuses, budgets)]
    while sum(map(len, chosen)) < total:
        best, best_score = None, -math.inf
        for v, x in enumerate(tokens):
            for i in set(range(len(x))) - set(chosen[v]):
                nearest = min(1 - float(x[i] @ x[j]) for j in chosen[v])
                score = nearest * math.exp(bonuses[v][i]) if scale else nearest + bonuses[v][i]
                if score > best_score + 1e-9:
                    best, best_score = (v, i), score
        chosen[best[0]].append(best[1])
    return [sorted(kept) for kept in chosen]


def reference_select(tokens, bonuses, budgets, scale=False, ring_budget=False):
    if ring_budget:
        return reference_ring_greedy(tokens, bonuses, budgets, scale)
    return [reference_greedy(x, bonus, k, scale) for x, bonus, k in zip(tokens, bonuses, budgets)]


def reference_volatility(x, frozen):
    """1 - || mean ||^2 over the frames that are not frozen, scaled to [0, 1]: per position, for unit x (T, P, D)."""
    fresh = [x[t] for t in range(len(x)) if not frozen[t]]
    if len(x) < 2 or len(fresh) < 2:
        return [0.0 if len(x) < 2 else 0.5] * x.shape[1]
    raw = [1 - float((sum(frame[p] for frame in fresh) / len(fresh)).square().sum()) for p in range(x.shape[1])]
    low, high = min(raw), max(raw)
    return [(value - low) / (high - low) if high - low > 1e-6 else 0.0 for value in raw]


def reference_frozen(view, skip_frozen):
    frames = list(view.tokens)
    return [skip_frozen and t + 1 < len(frames) and torch.equal(frames[t], frames[t + 1]) for t in range(len(frames))]


def reference_units(view):
    return unit(view.tokens.float()).flatten(1, 2).double() if view.count else torch.zeros(0, 0, 1).double()


def reference_st_prune(
    views,
    history,
    ratio,
    lambda_m=0.6,
    lambda_s=0.8,
    scale=False,
    overlap=False,
    one_copy=False,
    skip_frozen=False,
    ring_budget=False,
):
    """Both stages, for rings of at least two views with tokens; views of one frame go to the second stage whole."""
    units = [reference_units(view) for view in views]
    survivors = []
    for view, x in zip(views, units):
        if len(x) < 2:
            survivors.append(list(range(view.count)))
            continue
        frozen = reference_frozen(view, skip_frozen)
        m = reference_volatility(x, frozen)
        bonus = [
            lambda_m * (m[p] + (slot + 1) / history) / 2 - 4 * frozen[t]
            for t, slot in enumerate(view.slots)
            for p in range(x.shape[1])
        ]
        count = math.floor(math.sqrt(ratio) * view.count + 0.5)
        survivors.append(reference_greedy(x.flatten(0, 1), bonus, count, scale))

    flat = [x.flatten(0, 1) for x in units]
    odd = len(views) % 2
    in_turn = [list(range(0, len(views) - odd, 2)), list(range(1, len(views), 2)), [len(views) - 1] * odd]
    kept, done = [[] for _ in views], []

    def penalty(v, i):
        total = 0.0
        for side, j in ((0, (v - 1) % len(views)), (1, (v + 1) % len(views))):
            there = survivors[j]
            if one_copy:
                there = kept[j] if j in done else []
            if overlap:
                columns, theirs = views[v].tokens.shape[2], views[j].tokens.shape[2]
                there = [n for n in there if views[j].shared[1 - side][n % theirs]]
                there = there if views[v].shared[side][i % columns] else []
            total += max((float(flat[v][i] @ flat[j][n]) for n in there), default=0.0)
        return total / 2

    def budget(v):
        part = ratio if len(units[v]) < 2 else math.sqrt(ratio)
        return max(1, math.floor(part * len(survivors[v]) + 0.5))

    for phase in in_turn if one_copy else [range(len(views))]:
        active = [v for v in phase if survivors[v]]
        tokens = [flat[v][survivors[v]] for v in active]
        bonuses = [[-lambda_s * penalty(v, i) for i in survivors[v]] for v in active]
        found = reference_select(tokens, bonuses, [budget(v) for v in active], scale, ring_budget)
        for v, chosen in zip(active, found):
            kept[v] = [survivors[v][n] for n in chosen]
        done += phase
    return kept


def reference_st_prune_joint(
    views, history, ratio, weights=(0.3, 0.7, 2.4), scale=False, skip_frozen=False, ring_budget=False
):
    units, bonuses = [reference_units(view) for view in views], {}
    for v, view in enumerate(views):
        if not view.count:
            continue
        frozen = reference_frozen(view, skip_frozen)
        m = reference_volatility(units[v], frozen)
        bonus = []
        for t, slot in enumerate(view.slots):
            others = [
                units[o][other.slots.index(slot)] for o, other in enumerate(views) if o != v and slot in other.slots
            ]
            for p in range(units[v].shape[1]):
                best = [float((other @ units[v][t, p]).max()) for other in others]
                common = sum(best) / len(best) if best else 0.0
                bonus.append(
                    weights[0] * m[p] + weights[1] * (slot + 1) / history - weights[2] * common - 4 * frozen[t]
                )
        bonuses[v] = bonus
    active = [v for v, view in enumerate(views) if view.count]
    found = reference_select(
        [units[v].flatten(0, 1) for v in active],
        [bonuses[v] for v in active],
        [share(views[v], ratio) for v in active],
        scale,
        ring_budget,
    )
    kept = [[] for _ in views]
    for v, chosen in zip(active, found):
        kept[v] = chosen
    return kept


def rows(view):
    return view.tokens.double().flatten(0, 2).tolist()


def dot(a, b):
    return sum(p * q for p, q in zip(a, b))


def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def mean(vectors):
    return [sum(column) / len(vectors) for column in zip(*vectors)]


def share(view, ratio):
    return token_budget(ratio, view.count) if view.count else 0


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
