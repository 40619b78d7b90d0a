"""Why cameras are missing from sets: stamps that repeat or go back, wrong clocks, trigger offsets, rates.

Judged from stamps and their order of arrival over several sets; a fault lasts until the stamps are right again.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median, median_low

from stprune_ros.core.types import FrameSet

KEPT = 12  # stamps of each camera that are looked at
SETS = 10  # closed sets that are looked at
ENOUGH = 3  # of whatever is judged
JUMP_NS = 1_000_000_000  # a step back as far as this is a source that started anew
CLOCK_NS = 1_000_000_000  # no trigger is set off by more than this
SILENT_NS = 1_000_000_000  # how much later than the others the anchor may begin, or earlier end
SLOW = 1.5  # a camera with so many times the anchor's period sends fewer images
MS = 1e6


@dataclass
class _Stamps:
    """What one camera sent; stamps in ns, as they came."""

    taken: deque[int] = field(default_factory=lambda: deque(maxlen=KEPT))
    leads: deque[int] = field(default_factory=lambda: deque(maxlen=KEPT))  # ahead of the anchor's at arrival
    led_at: int | None = None  # anchor stamp of the last lead
    kinds: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT))  # '' or what was wrong
    steps: deque[int] = field(default_factory=lambda: deque(maxlen=KEPT))  # steps back
    counts: Counter[str] = field(default_factory=Counter)  # since start, 'all' included
    first: int | None = None  # the first stamp of all
    jumped: bool = False  # stamps started anew

    def forget(self) -> None:
        self.jumped = True
        self.taken.clear()
        self.leads.clear()
        self.led_at = None

    @property
    def period_ns(self) -> float:
        """Median distance of the stamps; NaN below two."""
        return median(self.intervals) if self.intervals else math.nan

    @property
    def intervals(self) -> list[int]:
        """Distances of the stamps."""
        return [after - before for before, after in pairwise(sorted(self.taken))]


class TimingFaults:
    """Feed it every frame (`saw`, `saw_unstamped`) and every closed set (`judge`); times are integer nanoseconds.

    ``names`` is the order in which ``cameras.offsets_ms`` is given, ``named`` whether the user gave it. `sentence` says
    what is wrong with a camera right now, `take_notes` what became wrong since it was last called, and `totals` at the
    end how much was dropped.
    """

    def __init__(
        self,
        names: Sequence[str],
        anchor: str,
        *,
        named: bool,
        tolerance_ns: int,
        max_wait_ns: int,
        max_spread_ns: int,
        offsets_ns: Mapping[str, int],
    ) -> None:
        self._names, self._named, self._anchor = tuple(names), named, anchor
        self._tolerance_ns, self._max_wait_ns, self._max_spread_ns = tolerance_ns, max_wait_ns, max_spread_ns
        self._offsets_ns = offsets_ns
        self._cameras = {name: _Stamps() for name in names}
        self._anchor_ns: tuple[int, int | None] | None = None  # newest stamp, and when it was received
        self._sets: deque[FrameSet] = deque(maxlen=SETS)
        self._faults: dict[str, tuple[str, str]] = {}  # kind and sentence by camera
        self._good: Counter[tuple[str, str]] = Counter()  # sets without a fault that was told, by camera and kind
        self._notes: list[str] = []

    def saw(self, camera: str, stamp_ns: int, received_ns: int | None = None) -> None:
        """Take the stamp of a frame and, where it is known, when that was received (any clock)."""
        found = self._cameras[camera]
        kind = self._kind(found, stamp_ns)
        self._count(found, kind)
        if kind == 'repeated':
            return
        if kind == 'back' and found.taken[-1] - stamp_ns > JUMP_NS:
            found.forget()
            if camera == self._anchor:
                self._sets.clear()
        found.taken.append(stamp_ns)
        found.first = stamp_ns if found.first is None else found.first
        if camera == self._anchor:
            self._anchor_ns = (stamp_ns, received_ns)
        elif self._anchor_ns is not None and found.led_at != self._anchor_ns[0]:
            anchor_ns, anchor_received_ns = self._anchor_ns
            waited = 0 if received_ns is None or anchor_received_ns is None else received_ns - anchor_received_ns
            found.leads.append(stamp_ns - anchor_ns - waited)
            found.led_at = anchor_ns  # once per frame of the anchor: it may have stopped

    def saw_unstamped(self, camera: str, impossible: str = '') -> None:
        """A frame had no stamp, or one that is ``impossible``. The first of each camera makes a note."""
        found = self._cameras[camera]
        self._count(found, 'unstamped')
        if found.counts['unstamped'] > 1:
            return
        if impossible:
            self._notes.append(
                f"images of camera '{camera}' have the stamp {impossible}, which no clock has, and are refused; the"
                ' driver must set header.stamp'
            )
        else:
            self._notes.append(
                f"images of camera '{camera}' have no stamp and are refused; the driver must set header.stamp"
            )

    def judge(self, frame_set: FrameSet) -> None:
        """Take a closed set, and judge every camera anew."""
        self._sets.append(frame_set.without_images())
        for camera in self._names:
            fault = self._missing_because(camera) if camera != self._anchor else None
            self._tell(camera, fault)
            if fault is None:
                self._faults.pop(camera, None)
            else:
                self._faults[camera] = fault

    def reset(self) -> None:
        """The clock jumped: forget the stamps; counts go on."""
        for found in self._cameras.values():
            found.forget()
        self._sets.clear()
        self._faults.clear()
        self._anchor_ns = None

    def sentence(self, camera: str) -> str | None:
        """What is wrong with the stamps of a camera as of its last frame, None where they are good."""
        found = self._cameras[camera]
        recent = Counter(found.kinds)
        if recent['unstamped']:
            without = found.counts['unstamped']
            return f"{without} images of camera '{camera}' had no stamp that can be: the driver must set header.stamp"
        if recent['repeated'] >= ENOUGH:
            return self._repeats(camera)
        if recent['back'] >= ENOUGH:
            return self._steps_back(camera)
        return self._faults.get(camera, ('', None))[1]

    def take_notes(self) -> list[str]:
        """Sentences about faults that began; each once until it has been gone for several sets."""
        notes, self._notes = self._notes, []
        return notes

    def totals(self, anchor_stays: bool = True) -> list[str]:
        """At the end of a bag: sentences about stamps that were no good, with their counts, and about silence.

        A silent anchor is no loss unless it ``anchor_stays`` one.
        """
        notes = [*self._silences()] if anchor_stays else []
        for camera, found in self._cameras.items():
            if found.counts['unstamped'] > 1:
                all_of_them = found.counts['all']
                notes.append(
                    f"camera '{camera}' sent {found.counts['unstamped']} of {all_of_them} images without a stamp"
                )
            if found.counts['repeated'] >= ENOUGH:
                notes.append(self._repeats(camera))
            if found.counts['back often']:
                notes.append(self._steps_back(camera))
        return notes

    def _silences(self) -> Iterator[str]:
        """Where the anchor begins well after the other cameras, or ends before them: without it there are no sets."""
        good = [
            found
            for name, found in self._cameras.items()
            if name != self._anchor and found.taken and self._faults.get(name, ('', ''))[0] != 'clock'
        ]
        anchor = self._cameras[self._anchor]
        if not good or not anchor.taken or any(found.jumped for found in (anchor, *good)):
            return
        late = (anchor.first or 0) - median(found.first or 0 for found in good)
        early = median(max(found.taken) for found in good) - max(anchor.taken)
        for silent, which in ((late, 'first'), (early, 'last')):
            if silent > SILENT_NS:
                yield (
                    f"the anchor, camera '{self._anchor}', sends nothing in the {which} {_long(silent)}: nothing is"
                    ' inferred there; cameras.anchor makes another camera the anchor'
                )

    def _kind(self, found: _Stamps, stamp_ns: int) -> str:
        if not found.taken:
            return ''
        if stamp_ns == found.taken[-1]:
            return 'repeated'
        if stamp_ns > found.taken[-1]:
            return ''
        found.steps.append(found.taken[-1] - stamp_ns)
        return 'repeated' if stamp_ns in found.taken and found.steps[-1] <= JUMP_NS else 'back'

    def _count(self, found: _Stamps, kind: str) -> None:
        found.kinds.append(kind)
        found.counts['all'] += 1
        if kind:
            found.counts[kind] += 1
            found.counts['back often'] += kind == 'back' and found.kinds.count('back') >= ENOUGH

    def _repeats(self, camera: str) -> str:
        counts = self._cameras[camera].counts
        return (
            f"images of camera '{camera}' repeat their stamp: {counts['repeated']} dropped of {counts['all']};"
            ' the driver must set header.stamp anew for each'
        )

    def _steps_back(self, camera: str) -> str:
        found = self._cameras[camera]
        return (
            f"stamps of camera '{camera}' went back {found.counts['back']} times, by up to {_long(max(found.steps))}:"
            ' two publishers on its topic, or a clock that is being set'
        )

    def _tell(self, camera: str, fault: tuple[str, str] | None) -> None:
        for told in [key for key in self._good if key[0] == camera]:
            self._good[told] += 1
            if self._good[told] > SETS:
                del self._good[told]
        if fault is None:
            return
        kind, sentence = fault
        if (camera, kind) not in self._good:
            self._notes.append(sentence)
        self._good[camera, kind] = 0

    def _missing_because(self, camera: str) -> tuple[str, str] | None:
        """Kind and sentence of what keeps a camera out of most sets; None where nothing does or images get lost."""
        found, anchor = self._cameras[camera], self._cameras[self._anchor]
        if len(found.leads) < ENOUGH or not self._mostly_missing(list(self._sets), camera):
            return None
        lead_ns, period_ns = median_low(found.leads), anchor.period_ns  # no mean of before and after a clock is set
        if not period_ns > 0:
            return None
        expected = self._offsets_ns[camera] - self._offsets_ns[self._anchor]
        if abs(lead_ns) > CLOCK_NS or lead_ns - expected > max(self._tolerance_ns, SLOW * period_ns):
            return 'clock', self._wrong_clock(camera, lead_ns)
        if expected - lead_ns > max(self._tolerance_ns, SLOW * period_ns):
            return 'late', self._late(camera, lead_ns)
        first, last = min(found.taken) - period_ns, max(found.taken) + period_ns
        if not self._mostly_missing([one for one in self._sets if first <= one.stamp_ns <= last], camera):
            return None
        if found.period_ns > SLOW * period_ns:
            slow = len(found.intervals) > ENOUGH and min(found.intervals) > SLOW * period_ns
            return ('rate', self._slow(camera, period_ns)) if slow else None
        return self._off(camera, period_ns, expected)

    def _mostly_missing(self, sets: Sequence[FrameSet], camera: str) -> bool:
        without = sum(camera in frame_set.missing for frame_set in sets)
        return len(sets) >= ENOUGH and 2 * without >= len(sets)

    def _off(self, camera: str, period_ns: float, expected: float) -> tuple[str, str] | None:
        """A camera at about the anchor's rate is missing: for its offset, or for the span of the sets."""
        apart = self._distances(camera, period_ns)
        if not apart:
            return None
        beyond = _wrapped(median(apart) - expected, period_ns)
        away = [abs(_wrapped(one - expected, period_ns)) for one in apart]
        steady = max(abs(one - median(apart)) for one in apart) <= max(self._tolerance_ns, period_ns / 5)
        if steady and abs(beyond) > self._tolerance_ns:
            return 'offset', self._wrong_offset(camera, period_ns, expected, beyond)
        if _drifting(apart, period_ns) and 2 * sum(one > self._tolerance_ns for one in away) >= len(away):
            return 'drift', self._drifts(camera, max(away))
        if not self._mostly_left_out(camera, expected):
            return None
        return ('spread', self._spread(camera)) if self._spreads(camera) else ('after', self._after_closing(camera))

    def _mostly_left_out(self, camera: str, expected: float) -> bool:
        """Whether most sets lack the camera although it has a frame within the tolerance."""
        frames = self._cameras[camera].taken
        sets = [one.stamp_ns + expected for one in self._sets if camera in one.missing]
        near = sum(any(abs(frame - wanted) <= self._tolerance_ns for frame in frames) for wanted in sets)
        return 2 * near >= len(self._sets)

    def _spreads(self, camera: str) -> bool:
        """Whether most sets without the camera would span too much with its frame."""
        sets = [one for one in self._sets if camera in one.missing]
        spans = []
        for one in sets:
            stamps = [frame.stamp_ns - self._offsets_ns[name] for name, frame in one.frames.items()]
            own = [stamp - self._offsets_ns[camera] for stamp in self._cameras[camera].taken]
            stamps.append(min(own, key=lambda stamp: abs(stamp - one.stamp_ns + self._offsets_ns[self._anchor])))
            spans.append(max(stamps) - min(stamps))
        return 2 * sum(span > self._max_spread_ns for span in spans) >= len(sets)

    def _distances(self, camera: str, period_ns: float) -> list[float]:
        """How long after the anchor each frame came, in ns, from one round to the next alike; may be empty."""
        anchor, frames = self._cameras[self._anchor].taken, self._cameras[camera].taken
        nearest = [min((frame - stamp for stamp in anchor), key=abs) for frame in frames]
        within = [one for one in nearest if abs(one) <= 0.55 * period_ns]
        return [within[0] + _wrapped(one - within[0], period_ns) for one in within]

    def _wrong_offset(self, camera: str, period_ns: float, expected: float, beyond: float) -> str:
        offsets = self._measured_offsets(period_ns)
        now = offsets.get(camera, expected + beyond)
        side = 'after' if now >= 0 else 'before'
        instead = f' instead of {expected / MS:.0f} ms' if expected else ''
        listed = [round(offsets.get(name, self._offsets_ns[name]) / MS) for name in self._names]
        return (
            f"camera '{camera}' comes {abs(now) / MS:.0f} ms {side} the anchor{instead}, tolerance is"
            f' {self._tolerance_ns / MS:g} ms: set cameras.offsets_ms to {listed} or sync.tolerance_ms'
            f'{self._needed_for(listed)}'
        )

    def _needed_for(self, offsets_ms: Sequence[int]) -> str:
        """What offsets do not go without: the names that they belong to, and time to wait for the last camera."""
        wait_ms = math.ceil(self._tolerance_ns / MS) + max(map(abs, offsets_ms))
        needed = [] if self._named else [f'cameras.names: [{", ".join(self._names)}]']
        needed += [f'sync.max_wait_ms: {wait_ms}'] if wait_ms > self._max_wait_ns / MS else []
        return f' (with the offsets, {" and ".join(needed)})' if needed else ''

    def _measured_offsets(self, period_ns: float) -> dict[str, float]:
        """How long after the anchor each camera of its rate fires, in ns: the round of the ring that is shortest."""
        phases = {self._anchor: 0.0}
        for camera, found in self._cameras.items():
            apart = self._distances(camera, period_ns) if camera != self._anchor else []
            if apart and not found.period_ns > SLOW * period_ns:
                phases[camera] = median(apart) % period_ns
        order = sorted(phases, key=lambda camera: phases[camera])
        gaps = [_gap(phases, order, place, period_ns) for place in range(len(order))]
        widest = max(round(gap / MS) for gap in gaps)
        rounds = [order[place] for place, gap in enumerate(gaps) if round(gap / MS) == widest]
        found_ns = [_after(phases, self._anchor, first, period_ns) for first in rounds]
        return min(found_ns, key=lambda offsets: max(map(abs, offsets.values())))

    def _wrong_clock(self, camera: str, lead_ns: float) -> str:
        side = 'ahead of' if lead_ns > 0 else 'behind'
        return f"camera '{camera}' is {_long(abs(lead_ns))} {side} the anchor: check the clocks"

    def _late(self, camera: str, lead_ns: float) -> str:
        wanted = math.ceil((abs(lead_ns) + self._tolerance_ns) / MS / 10) * 10
        return (
            f"images of camera '{camera}' come {abs(lead_ns) / MS:.0f} ms later than the anchor's, when their set is"
            f' closed: set sync.max_wait_ms, {self._max_wait_ns / MS:g}, to {wanted} or more, or check the clocks'
        )

    def _slow(self, camera: str, period_ns: float) -> str:
        found = self._cameras[camera].period_ns
        return (
            f"camera '{camera}' sends {1e9 / found:.1f} Hz where the anchor sends {1e9 / period_ns:.1f} Hz: it is"
            ' missing in most sets; raise its rate, or make the slowest camera the anchor (cameras.anchor)'
        )

    def _drifts(self, camera: str, farthest: float) -> str:
        return (
            f"camera '{camera}' fires at times of its own, up to {farthest / MS:.0f} ms from the anchor, tolerance is"
            f' {self._tolerance_ns / MS:g} ms: trigger the cameras together, or raise sync.tolerance_ms'
        )

    def _spread(self, camera: str) -> str:
        return (
            f"camera '{camera}' is in time, but left out of most sets, which would span more than sync.max_spread_ms,"
            f' {self._max_spread_ns / MS:g} ms: raise it, or set cameras.offsets_ms'
        )

    def _after_closing(self, camera: str) -> str:
        return (
            f"images of camera '{camera}' come when their sets are closed already: raise sync.max_wait_ms,"
            f' {self._max_wait_ns / MS:g}, or check the clocks of the other cameras, which close sets when they are'
            ' ahead'
        )


def _gap(phases: Mapping[str, float], order: Sequence[str], place: int, period_ns: float) -> float:
    """Time without a frame before the camera at a place of the round."""
    return (phases[order[place]] - phases[order[place - 1]]) % period_ns if len(order) > 1 else period_ns


def _after(phases: Mapping[str, float], anchor: str, first: str, period_ns: float) -> dict[str, float]:
    """How long after the anchor each camera fires in a round that begins with the camera ``first``."""
    from_start = {camera: (phase - phases[first]) % period_ns for camera, phase in phases.items()}
    return {camera: after - from_start[anchor] for camera, after in from_start.items()}


def _drifting(apart: Sequence[float], period_ns: float) -> bool:
    """Whether each frame comes later (or each earlier) after the anchor than the one before."""
    steps = [_wrapped(after - before, period_ns) for before, after in pairwise(apart)]
    return len(steps) > ENOUGH and (min(steps) > 0 or max(steps) < 0)


def _wrapped(time_ns: float, period_ns: float) -> float:
    """The same moment of a round, nearest to its start: within half a period."""
    return (time_ns + period_ns / 2) % period_ns - period_ns / 2


def _long(time_ns: float) -> str:
    return f'{time_ns / 1e9:.1f} s' if time_ns >= 1e9 / 2 else f'{time_ns / MS:.0f} ms'
