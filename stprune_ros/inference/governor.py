"""How many visual tokens a tick can afford: a keep ratio that holds a latency target.

A tick costs what it has cost when its tokens are chosen (age of the frame set, decoding, encoding), and then a fixed
part plus a part that grows with the kept tokens. The first is known by then; the second is estimated from earlier
ticks by a Kalman filter over (fixed ms, ms per token). Its noise points along the estimate itself, because load and
clock speed stretch both alike: so a slower machine shows in one tick, and what each part weighs is learnt apart from
it, whenever the ratio moves. No clock in here, no torch, no ROS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stprune_ros.core.types import Choice
from stprune_ros.settings.parameters import LatencySettings

STEP = 0.9  # ratio between two neighbouring steps; between them nothing moves
MARGIN = 0.04  # share of the target that is left free
DEVIATIONS = 2.0  # mean absolute deviations left free on top: about 95 % of normal jitter
MAX_MARGIN = 0.4  # share of the target that jitter may take at most
HYSTERESIS = 0.5  # share of the margin that may be used up before the level falls: noise must not make it chatter
EMA_WEIGHT = 0.15  # weight of the newest tick in running means
MAX_JITTER = 0.25  # a deviation by a larger share is a change, not jitter
SCALE_NOISE = 0.05  # how much faster or slower the machine gets from one tick to the next, as a share
SHAPE_NOISE = 0.02  # the same for the share of the cost that grows with the tokens
MAX_SHAPE_DEVIATION = 0.5  # largest standard deviation of that share
READING_NOISE = 0.1  # jitter of one reading, as a share
GATE_SIGMAS = 2.0  # standard deviations beyond which a reading means that the machine changed
MAX_INNOVATION = 1.5  # factor that the estimate follows in one tick: one hiccup is not a machine five times as slow
MIN_TICK_MS, MAX_TICK_MS = 1e-3, 1e7  # ms; no tick takes less or more
MIN_SLOPE_SHARE = 0.02  # share of the cost that grows with the tokens at least: else no ratio would be too high


@dataclass(frozen=True, slots=True)
class Cost:
    """What one tick took, in ms: ``spent_ms`` before its tokens were chosen, ``rest_ms`` from there to the hint.

    ``prefill_ms`` is the part of ``rest_ms`` that ran ``tokens_run`` tokens, ``tokens_kept`` of them visual.
    """

    spent_ms: float
    rest_ms: float
    prefill_ms: float
    tokens_kept: int
    tokens_run: int


class Governor:
    """`choose` a ratio when a tick's frames are encoded, `observe` what the tick took once its hint is there."""

    def __init__(self) -> None:
        self._level = math.inf  # the ratio that the estimates allow, on a step
        self._fixed = self._slope = 0.0  # ms, ms per kept token
        self._covariance = (0.0, 0.0, 0.0)  # of fixed, of fixed with slope, of slope
        self._spent = 0.0  # running mean of spent_ms
        self._spent_deviation = self._rest_deviation = 0.0  # running mean absolute deviations
        self._ticks = 0

    def choose(self, limits: LatencySettings, start: float, spent_ms: float, tokens_full: int) -> Choice:
        """Ratio for a tick of ``tokens_full`` visual tokens whose budget has ``spent_ms`` behind it.

        Within the limits in any case. ``start`` is the ratio until there is something to go by.
        """
        if self._ticks < 2 or not tokens_full:
            self._level = _clamp(start, limits)
            return Choice(self._level, math.nan, limits.target_ms)
        # The usual tick sets the level; a tick that begins later than usual gets less, and leaves the level alone.
        margin = _margin(limits, math.hypot(self._spent_deviation, self._rest_deviation))
        self._level = self._moved(limits, limits.target_ms - self._spent, margin, tokens_full)
        room = limits.target_ms - spent_ms - HYSTERESIS * _margin(limits, self._rest_deviation)
        now = max(self._affordable(room, tokens_full), limits.keep_min)
        ratio = self._level if now >= self._level else _step_below(now, limits)
        return Choice(ratio, spent_ms + self._rest(ratio * tokens_full), limits.target_ms)

    def observe(self, cost: Cost) -> None:
        """Learn from a tick. The first is left out: it warms caches up. So is one with a time that cannot be."""
        if not (MIN_TICK_MS <= cost.rest_ms <= MAX_TICK_MS and -MAX_TICK_MS <= cost.spent_ms <= MAX_TICK_MS):
            return
        self._ticks += 1
        if self._ticks < 2:
            return
        kept = max(cost.tokens_kept, 1)
        if self._ticks == 2:
            self._begin(cost, kept)
            return
        deviation = min(abs(cost.rest_ms - self._rest(kept)), MAX_JITTER * cost.rest_ms)
        self._rest_deviation += EMA_WEIGHT * (deviation - self._rest_deviation)
        self._spent_deviation += EMA_WEIGHT * (abs(cost.spent_ms - self._spent) - self._spent_deviation)
        self._spent += EMA_WEIGHT * (cost.spent_ms - self._spent)
        self._learn(kept, cost.rest_ms)

    def _begin(self, cost: Cost, kept: int) -> None:
        """First guess: prefill is shared alike by the tokens that it ran, all else is fixed."""
        self._slope = max(cost.prefill_ms / max(cost.tokens_run, kept), MIN_SLOPE_SHARE * cost.rest_ms / kept)
        self._slope = min(self._slope, cost.rest_ms / kept)
        self._fixed = cost.rest_ms - self._slope * kept
        self._spent = cost.spent_ms
        unsure = (MAX_SHAPE_DEVIATION * self._slope) ** 2
        self._covariance = (unsure * kept * kept, -unsure * kept, unsure)

    def _learn(self, kept: int, rest_ms: float) -> None:
        """One step of the filter."""
        expected = self._rest(kept)
        error = min(max(rest_ms, expected / MAX_INNOVATION), expected * MAX_INNOVATION) - expected
        self._covariance = self._drifted(kept, SCALE_NOISE)
        if error * error > GATE_SIGMAS**2 * self._variance(kept):
            self._covariance = self._drifted(kept, abs(error) / expected)
        both, cross, each = self._covariance
        along_fixed, along_slope, variance = both + kept * cross, cross + kept * each, self._variance(kept)
        gain_fixed, gain_slope = along_fixed / variance, along_slope / variance
        self._covariance = (
            both - gain_fixed * along_fixed,
            cross - gain_fixed * along_slope,
            each - gain_slope * along_slope,
        )
        now = max(expected + (gain_fixed + gain_slope * kept) * error, MIN_TICK_MS)
        # Costs neither fall with more tokens nor begin below zero.
        self._slope = min(max(self._slope + gain_slope * error, MIN_SLOPE_SHARE * now / kept), now / kept)
        self._fixed = now - self._slope * kept

    def _drifted(self, kept: int, scale: float) -> tuple[float, float, float]:
        """The covariance after the machine may have changed its speed by a share ``scale``, and the cost its shape."""
        both, cross, each = self._covariance
        fixed, slope = scale * self._fixed, scale * self._slope
        turn = SHAPE_NOISE * self._rest(kept) / kept
        if each > (MAX_SHAPE_DEVIATION / SHAPE_NOISE * turn) ** 2:
            turn = 0.0
        return (
            both + fixed * fixed + turn * turn * kept * kept,
            cross + fixed * slope - turn * turn * kept,
            each + slope * slope + turn * turn,
        )

    def _variance(self, kept: int) -> float:
        """Variance of the next reading in ms^2."""
        both, cross, each = self._covariance
        return both + 2 * kept * cross + kept * kept * each + (READING_NOISE * self._rest(kept)) ** 2

    def _rest(self, kept: float) -> float:
        return self._fixed + self._slope * kept

    def _affordable(self, room_ms: float, tokens_full: int) -> float:
        return (room_ms - self._fixed) / (self._slope * tokens_full)

    def _moved(self, limits: LatencySettings, room_ms: float, margin_ms: float, tokens_full: int) -> float:
        """The level after one tick: down at once, up one step at a time."""
        level = _clamp(self._level, limits)
        safe = self._affordable(room_ms - margin_ms, tokens_full)
        if self._affordable(room_ms - HYSTERESIS * margin_ms, tokens_full) < level:
            return _step_below(max(safe, limits.keep_min), limits)
        above = _step_below(min(level / STEP * 1.001, limits.keep_max), limits)
        return max(above, level) if safe >= above else level


def _margin(limits: LatencySettings, deviation_ms: float) -> float:
    return MARGIN * limits.target_ms + min(DEVIATIONS * deviation_ms, MAX_MARGIN * limits.target_ms)


def _clamp(ratio: float, limits: LatencySettings) -> float:
    return min(max(ratio, limits.keep_min), limits.keep_max)


def _step_below(ratio: float, limits: LatencySettings) -> float:
    """The highest step not above ``ratio``: keep_max times a power of STEP, and keep_min below the last of them."""
    if ratio >= limits.keep_max:
        return limits.keep_max
    steps = math.ceil(math.log(ratio / limits.keep_max) / math.log(STEP) - 1e-9)
    return max(limits.keep_max * STEP**steps, limits.keep_min)
