"""Slow, obvious references of every selection: its formula, one token at a time, in plain Python and float64."""

from __future__ import annotations

import itertools
import math

import torch
from helpers.token_rings import unit

from stprune_ros.pruning.baselines.uninformed import uniform_mask
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


def reference_separability(values):
    """Otsu's eta: every split of the sorted values tried, the variance between the groups over the whole one."""
    values, best = sorted(values), 0.0
    middle = sum(values) / len(values)
    whole = sum((value - middle) ** 2 for value in values)
    for n in range(1, len(values)):
        low, high = values[:n], values[n:]
        between = sum(len(part) * (sum(part) / len(part) - middle) ** 2 for part in (low, high))
        best = max(best, between / whole if whole > 1e-12 else 0.0)
    return best


def reference_skewness(values):
    middle = sum(values) / len(values)
    second, third = (sum((value - middle) ** power for value in values) / len(values) for power in (2, 3))
    return third / second**1.5 if second > 1e-12 else 0.0


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
    views,
    history,
    ratio,
    weights=(0.3, 1.0, 2.4, 0.7),
    scale=False,
    skip_frozen=False,
    ring_budget=False,
    gauge=False,
    lambda_first=None,
    even_share=0.0,
):
    """With ``lambda_first`` MTP comes first and leaves ratio^0.35 of every view, where any view has a second frame."""
    units, bonuses, stays = [reference_units(view) for view in views], {}, {}

    def commonness(v, t, p):
        slot, best = views[v].slots[t], []
        for o, other in enumerate(views):
            if o != v and slot in other.slots:
                best.append(float((units[o][other.slots.index(slot)] @ units[v][t, p]).max()))
        return sum(best) / len(best) if best else 0.0

    active = [v for v, view in enumerate(views) if view.count]
    newest = [commonness(v, len(units[v]) - 1, p) for v in active for p in range(units[v].shape[1])]
    trust = 1
    if gauge and len(active) > 1:
        scores = ((reference_separability(newest) - 0.72) / 0.06, (-reference_skewness(newest) - 1.5) / 0.5)
        trust = min(max(*scores, 0), 1)
    for v, view in enumerate(views):
        if not view.count:
            continue
        frozen = reference_frozen(view, skip_frozen)
        m = reference_volatility(units[v], frozen)
        bonus, first = [], []
        even = uniform_mask((1, *view.tokens.shape[1:3]), min(share(view, ratio), units[v].shape[1])).tolist()
        around = uniform_mask(view.tokens.shape[:3], math.floor(even_share * share(view, ratio) + 0.5)).tolist()
        for t, slot in enumerate(view.slots):
            for p in range(units[v].shape[1]):
                soft = weights[0] * m[p] + weights[1] * (slot + 1) / history - 4 * frozen[t]
                extra = weights[3] * (1 - trust) * (even[p] and t == len(view.slots) - 1)
                extra += 10 * (around[t * units[v].shape[1] + p] and not frozen[t])
                bonus.append(soft + extra - weights[2] * trust * commonness(v, t, p))
                if lambda_first is not None:
                    first.append(lambda_first * (m[p] + (slot + 1) / history) / 2 - 4 * frozen[t] + extra)
        bonuses[v], stays[v] = bonus, list(range(view.count))
        if lambda_first is not None and any(len(other.slots) > 1 for other in views):
            count = math.floor(ratio**0.35 * view.count + 0.5)
            stays[v] = reference_greedy(units[v].flatten(0, 1), first, count, scale)
    found = reference_select(
        [units[v].flatten(0, 1)[stays[v]] for v in active],
        [[bonuses[v][i] for i in stays[v]] for v in active],
        [share(views[v], ratio) for v in active],
        scale,
        ring_budget,
    )
    kept = [[] for _ in views]
    for v, chosen in zip(active, found):
        kept[v] = [stays[v][n] for n in chosen]
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


def images_of(view):
    """Per image of a view: the indices of its tokens among those of the view."""
    places = math.prod(view.tokens.shape[1:3])
    return [range(t * places, (t + 1) * places) for t in range(len(view.tokens))]


def image_budgets(view, ratio):
    frames, keep = len(view.tokens), share(view, ratio)
    return [keep * (t + 1) // frames - keep * t // frames for t in range(frames)]


def each_image(views, ratio, choose):
    """``choose(tokens, keep)`` for every image alone."""
    kept = []
    for view in views:
        tokens, chosen = rows(view), set()
        for image, keep in zip(images_of(view), image_budgets(view, ratio)):
            chosen |= {image[i] for i in choose([tokens[i] for i in image], keep)} if keep else set()
        kept.append(chosen)
    return kept


def each_view(views, ratio, choose):
    return [set(choose(rows(view), share(view, ratio))) if view.count else set() for view in views]


def whole_ring(views, ratio, choose):
    tokens = [row for view in views for row in rows(view)]
    return per_view(views, choose(tokens, sum(share(view, ratio) for view in views)) if tokens else set())


def newest_frames(views, ratio, choose, ring):
    """The whole budget on the newest frame; where it is larger, that one whole and the rest on the frame before it."""
    kept, candidates = [set() for _ in views], []
    for v, view in enumerate(views):
        rest = share(view, ratio)
        for image in reversed(images_of(view)):
            if rest >= len(image):
                kept[v] |= set(image)
                rest -= len(image)
            else:
                if rest:
                    candidates.append((v, image, rest))
                break
    groups = [candidates] if ring else [[candidate] for candidate in candidates]
    for group in groups:
        where = [(v, i) for v, image, _ in group for i in image]
        chosen = choose([rows(views[v])[i] for v, i in where], sum(rest for *_, rest in group)) if group else ()
        for n in chosen:
            kept[where[n][0]].add(where[n][1])
    return kept


def reference_divprune(views, ratio):
    return whole_ring(views, ratio, reference_farthest)


def reference_tfps(views, ratio):
    return each_image(views, ratio, reference_farthest)


def reference_tfps_view(views, ratio):
    return each_view(views, ratio, reference_farthest)


def reference_newest_divprune(views, ratio):
    return newest_frames(views, ratio, reference_farthest, ring=True)


def reference_coreset(views, ratio):
    return whole_ring(views, ratio, reference_medoids)


def reference_medoids(tokens, keep):
    """Greedy: the token that brings the sum of distances to the nearest kept one down most, first of equal ones."""
    distance = [[1 - cosine(a, b) for b in tokens] for a in tokens]
    nearest, chosen = [2.0] * len(tokens), []
    while len(chosen) < keep:
        rest = [j for j in range(len(tokens)) if j not in chosen]
        cost = {j: sum(min(near, row[j]) for near, row in zip(nearest, distance)) for j in rest}
        best = next(j for j in rest if cost[j] < min(cost.values()) + 1e-8)
        chosen.append(best)
        nearest = [min(near, row[best]) for near, row in zip(nearest, distance)]
    return set(chosen)


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


def reference_least_typical(frames, keep):
    """Pairs (frame, place) that VidCom2 keeps of frames, each a list of tokens; frames may differ in size."""
    tokens = [row for frame in frames for row in frame]
    middle = mean(tokens)
    variance = [sum((row[c] - middle[c]) ** 2 for row in tokens) for c in range(len(middle))]
    steady = sorted(sorted(range(len(middle)), key=lambda c: variance[c])[: len(middle) // 2])
    frames = [[[row[c] / math.sqrt(sum(row[d] ** 2 for d in steady)) for c in steady] for row in f] for f in frames]
    video = mean([row for frame in frames for row in frame])
    to_video = [[gaussians(row, video) for row in frame] for frame in frames]
    both = [[v + gaussians(row, mean(frame)) for v, row in zip(line, frame)] for line, frame in zip(to_video, frames)]

    weights = [math.exp(-sum(line) / len(line) / 0.01) for line in to_video]
    parts = [len(line) * (1 + w / sum(weights) - 1 / len(frames)) for line, w in zip(to_video, weights)]
    shares = [keep * part / sum(parts) for part in parts]
    quotas = whole_quotas(shares, keep, [len(line) for line in both])
    return [(t, p) for t, line in enumerate(both) for p in sorted(range(len(line)), key=lambda p: line[p])[: quotas[t]]]


def frames_of(view):
    tokens = rows(view)
    return [[tokens[i] for i in image] for image in images_of(view)]


def reference_vidcom2_view(views, ratio):
    kept = []
    for view in views:
        chosen = reference_least_typical(frames_of(view), share(view, ratio)) if view.count else []
        kept.append({images_of(view)[t][p] for t, p in chosen})
    return kept


def reference_vidcom2_ring(views, ratio):
    frames = [(v, image) for v, view in enumerate(views) for image in images_of(view)]
    keep, kept = sum(share(view, ratio) for view in views), [set() for _ in views]
    for t, p in reference_least_typical([frame for view in views for frame in frames_of(view)], keep):
        v, image = frames[t]
        kept[v].add(image[p])
    return kept


def reference_newest_vidcom2(views, ratio):
    """For budgets below one frame."""
    newest = [(v, images_of(view)[-1]) for v, view in enumerate(views) if view.count]
    keep, kept = sum(share(view, ratio) for view in views), [set() for _ in views]
    for t, p in reference_least_typical([frames_of(views[v])[-1] for v, _ in newest], keep):
        v, image = newest[t]
        kept[v].add(image[p])
    return kept


def reference_dart(views, ratio, question=()):
    return whole_ring(views, ratio, lambda tokens, keep: reference_pivots(tokens, keep, question))


def reference_dart_image(views, ratio):
    return each_image(views, ratio, reference_pivots)


def reference_pivots(tokens, keep, question=(), count=4):
    def largest(vectors):
        return sorted(range(len(vectors)), key=lambda i: -sum(abs(value) for value in vectors[i]))[:count]

    chosen = set(largest(tokens)[:keep])
    pivots = [tokens[i] for i in largest(tokens)[:keep]] + [question[i] for i in largest(question)]
    rest = keep - len(chosen)
    for number, pivot in enumerate(pivots):
        part = rest * (number + 1) // len(pivots) - rest * number // len(pivots)
        free = [i for i in range(len(tokens)) if i not in chosen]
        chosen |= set(sorted(free, key=lambda i: cosine(tokens[i], pivot))[:part])
    return chosen


def reference_cdpruner(views, ratio, question=None):
    return each_image(views, ratio, lambda tokens, keep: reference_volume(tokens, keep, question))


def reference_cdpruner_view(views, ratio):
    return each_view(views, ratio, reference_volume)


def reference_volume(tokens, keep, question=None):
    """What is least like the question counts as most relevant, as in the authors' program."""
    x = unit(torch.tensor(tokens, dtype=torch.float64))
    if question is not None:
        unlike = [-sum(cosine(token, word) for word in question) / len(question) for token in tokens]
        x *= torch.tensor([(u - min(unlike) + 1e-6) / (max(unlike) - min(unlike)) for u in unlike])[:, None].double()
    kernel = x @ x.T + 1e-3 * torch.eye(len(x), dtype=torch.float64)
    chosen = []
    while len(chosen) < keep:
        rest = [i for i in range(len(x)) if i not in chosen]
        volume = {i: float(kernel[[*chosen, i]][:, [*chosen, i]].logdet()) for i in rest}
        chosen.append(next(i for i in rest if volume[i] > max(volume.values()) - 1e-7))
    return set(chosen)


def reference_mvpruner(views, ratio, question=None):
    images = [image for view in views for image in frames_of(view)]
    keep = sum(share(view, ratio) for view in views)
    return per_view(views, reference_diverse_views(images, keep, question) if images else set())


def reference_mvpruner_view(views, ratio, question=None):
    keep = sum(share(view, ratio) for view in views)
    images = [rows(view) for view in views if view.count]
    return per_view(views, reference_diverse_views(images, keep, question))


def whole_quotas(shares, keep, capacity):
    """Rounded down, to one at least where there is enough for all; then one by one to whom most is missing."""
    least = keep >= len(shares)
    quotas = [min(room, max(math.floor(value), least)) for value, room in zip(shares, capacity)]
    while sum(quotas) > keep:
        rich = [t for t in range(len(quotas)) if quotas[t] > least]
        quotas[min(rich, key=lambda t: round(shares[t] - quotas[t], 4))] -= 1
    while sum(quotas) < keep:
        unfilled = [t for t in range(len(quotas)) if quotas[t] < capacity[t]]
        quotas[max(unfilled, key=lambda t: round(shares[t] - quotas[t], 4))] += 1
    return quotas


def reference_diverse_views(images, keep, question=None):
    """Indices into all tokens of ``images``, lists of tokens; ``question`` is a list of tokens, too."""
    diversity = []
    for image in images:
        nearest = [min(1 - cosine(a, b) for j, b in enumerate(image) if j != i) for i, a in enumerate(image)]
        diversity.append(sum(nearest) / len(nearest))
    low, high = min(diversity), max(diversity)
    parts = [len(image) * math.exp((d - high) / (high - low + 1e-5)) for image, d in zip(images, diversity)]
    shares = [keep * part / sum(parts) for part in parts]
    kept, start = set(), 0
    for image, quota in zip(images, whole_quotas(shares, keep, [len(image) for image in images])):
        if question is None:
            chosen = reference_farthest(image, quota) if quota else set()
        else:
            relevance, chosen = [sum(dot(a, q) for q in question) / len(question) for a in image], []
            while len(chosen) < quota:
                rest = [i for i in range(len(image)) if i not in chosen]
                near = {i: min((1 - cosine(image[i], image[j]) for j in chosen), default=1) for i in rest}
                chosen.append(max(rest, key=lambda i: near[i] * relevance[i]))
        kept |= {start + i for i in chosen}
        start += len(image)
    return kept


def reference_flashvid(views, ratio):
    kept = []
    for view in views:
        chosen = reference_flashvid_view(frames_of(view), share(view, ratio)) if view.count else set()
        kept.append({images_of(view)[t][p] for t, p in chosen})
    return kept


def reference_flashvid_view(frames, keep):
    """Pairs (frame, place) of one video, given as lists of tokens."""
    budgets = [keep * (t + 1) // len(frames) - keep * t // len(frames) for t in range(len(frames))]
    means = [mean(frame) for frame in frames]
    starts = [t for t in range(len(frames)) if t == 0 or cosine(means[t], means[t - 1]) < 0.9]
    kept = set()
    for start, end in zip(starts, [*starts[1:], len(frames)]):
        segment = range(start, end)
        direct = {t: math.ceil(0.7 * budgets[t]) for t in segment}
        for t in segment:
            events = [sum(dot(token, means[s]) for s in segment) / len(segment) for token in frames[t]]
            kept |= {(t, p) for p in reference_calibrated(frames[t], events, direct[t])}
        left = sum(budgets[t] - direct[t] for t in segment)
        if left:
            kept |= reference_trees(frames, segment, kept, left)
    return kept


def reference_calibrated(tokens, events, keep):
    places = range(len(tokens))
    weighted = [[(0 if i == j else 1 - cosine(tokens[i], tokens[j])) * events[j] for j in places] for i in places]
    chosen = []
    while len(chosen) < keep:
        rest = [j for j in places if j not in chosen]
        if chosen:
            chosen.append(max(rest, key=lambda j: min(weighted[i][j] for i in chosen)))
        else:
            chosen.append(max(rest, key=lambda j: sorted(weighted[i][j] for i in places)[:2][-1]))
    return chosen


def reference_trees(frames, segment, taken, keep):
    """Every free token hangs on the most similar free one of the frame before, if that is similar enough."""
    free = {(t, p) for t in segment for p in range(len(frames[t]))} - taken
    parents = {}
    for t, p in sorted(free):
        before = {q: cosine(frames[t][p], frames[t - 1][q]) for s, q in free if s == t - 1}
        if before:
            best = max(sorted(before), key=before.get)
            parents[t, p] = (before[best], (t - 1, best))
    hanging = sorted((token for token in parents if parents[token][0] > 0.8), key=lambda token: -parents[token][0])
    hanging = set(hanging[: len(free) - keep])
    roots = free - hanging

    def root_of(token):
        return root_of(parents[token][1]) if token in hanging else token

    trees = {root: [frames[t][p] for t, p in sorted(free) if root_of((t, p)) == root] for root in roots}
    lists = [sorted(root for root in roots if root[0] == t) for t in segment]
    quotas = whole_quotas([keep * len(part) / len(roots) for part in lists], keep, [len(part) for part in lists])
    kept = set()
    for part, quota in zip(lists, quotas):
        kept |= {part[i] for i in reference_peaks([mean(trees[root]) for root in part], quota)}
    return kept


def reference_peaks(points, count):
    if not count:
        return []

    def apart(a, b):
        return math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b)) / len(a))

    distance = [[apart(a, b) for b in points] for a in points]
    nearest = [sorted(row)[: min(count, 7)] for row in distance]
    density = [math.exp(-sum(d**2 for d in row) / len(row)) for row in nearest]
    largest, score = max(map(max, distance)), []
    for i, row in enumerate(distance):
        denser = [row[j] for j in range(len(points)) if (-density[j], j) < (-density[i], i)]
        score.append(density[i] * min(denser, default=largest))
    return sorted(range(len(points)), key=lambda i: -score[i])[:count]
