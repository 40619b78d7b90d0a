"""Which camera opens the frame sets: the anchor, or the next one while the anchor is silent or late.

Like the synchroniser it has no clock: how long a camera is silent is told by the stamps of the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

HORIZON_NS = 1_000_000_000  # a camera that most others are farther ahead of has a wrong clock, or comes far too late
LEAST_LATE_NS = 100_000_000  # nobody is late by less
LEAP_NS = 500_000_000  # no two stamps of a camera count for more time: a clock that is set is no silence of the others
ROUNDS = 3  # frames in a row that make a camera late, or an anchor good again
SLOW = 3  # periods of a camera for which it is not silent
SLOWEST_NS = 5_000_000_000  # no period is longer: it would be a gap


class AnchorWatch:
    """Feed it the stamp of every frame (`saw`), offsets taken off, in ns; ``acting`` opens the sets.

    An anchor that is not ``replaceable`` goes on acting whatever it does. ``silent_ns`` is how long the acting camera
    may send nothing, ``late_ns`` how far most others may be ahead of its frames when they come.
    """

    def __init__(self, cameras: Sequence[str], anchor: str, *, replaceable: bool, silent_ns: int, late_ns: int) -> None:
        self.acting = anchor
        self.fault = ''  # what is wrong with the anchor, as long as it lasts
        self._cameras, self._anchor = tuple(cameras), anchor
        self._replaceable = replaceable
        self._silent_ns, self._late_ns = silent_ns, max(late_ns, LEAST_LATE_NS)
        self._notes: list[str] = []
        self._newest: dict[str, int] = {}
        self._passed_ns: dict[str, int] = {}  # by camera: how far its stamps went since the acting one's last frame
        self._period_ns: dict[str, int] = {}  # between the last two frames of a camera
        self._late = self._good = 0  # frames in a row: of the acting camera, and of the anchor

    def saw(self, camera: str, stamp_ns: int) -> None:
        """Take the stamp of a frame."""
        step = max(0, stamp_ns - self._newest.get(camera, stamp_ns))
        self._newest[camera] = max(stamp_ns, self._newest.get(camera, stamp_ns))
        self._passed_ns[camera] = self._passed_ns.get(camera, 0) + min(step, LEAP_NS)
        late_ns = self._lag(stamp_ns, camera)
        is_late = late_ns > self._late_ns
        if step:
            self._period_ns[camera] = min(step, SLOWEST_NS)
        if camera == self._anchor:
            self._good = 0 if is_late else self._good + 1
        if camera == self.acting:
            self._passed_ns.clear()
            self._late = self._late + 1 if is_late else 0
            self._judge_late(late_ns)
        elif self.is_silent:
            self._replace('sends nothing', [name for name, passed in self._passed_ns.items() if passed])
        if self.acting != self._anchor and self._good >= ROUNDS:
            self._act(self._anchor)
            self._notes.append(f"camera '{self._anchor}' is the anchor again")
        if self.acting == self._anchor and self._good >= ROUNDS:
            self.fault = ''

    @property
    def is_silent(self) -> bool:
        """Whether the acting camera has sent nothing for longer than it may."""
        passed_ns = max((passed for name, passed in self._passed_ns.items() if name != self.acting), default=0)
        return passed_ns > max(self._silent_ns, SLOW * self._period_ns.get(self.acting, 0))

    def is_out_of_step(self, camera: str, stamp_ns: int, waited_ns: int = 0) -> bool:
        """Whether a frame is so far behind most others that a set of it would call them missing.

        ``waited_ns`` is how long the set may have been open.
        """
        return self._lag(stamp_ns, camera) > HORIZON_NS + waited_ns

    def take_notes(self) -> list[str]:
        """What changed since it was last asked."""
        notes, self._notes = self._notes, []
        return notes

    def forget(self, camera: str) -> None:
        """A camera started anew: what it sent before says nothing."""
        self._newest.pop(camera, None)

    def reset(self) -> None:
        """The clock jumped, or the anchor started anew: forget all stamps."""
        self._newest.clear()
        self._passed_ns.clear()
        self._period_ns.clear()
        self._late = self._good = 0
        self.fault = ''
        self.acting = self._anchor

    def _lag(self, stamp_ns: int, camera: str) -> int:
        """How far most of the other cameras are ahead of a stamp."""
        return _of_most([newest - stamp_ns for name, newest in self._newest.items() if name != camera])

    def _judge_late(self, late_ns: int) -> None:
        if self._late < ROUNDS:
            return
        if self._replaceable:
            self._replace(f'comes {late_ns / 1e9:.1f} s after the others', list(self._newest))
        elif late_ns > HORIZON_NS:
            self._say(
                f"the anchor, camera '{self._anchor}', is {late_ns / 1e9:.1f} s behind the other cameras: nothing is"
                ' inferred; check the clocks, or make another camera the anchor (cameras.anchor)'
            )

    def _replace(self, why: str, alive: Collection[str]) -> None:
        """Let the next camera of the ring act that is ``alive`` and in time; nothing changes where there is none."""
        at = self._cameras.index(self._anchor)
        others = [*self._cameras[at + 1 :], *self._cameras[:at]]
        fit = [name for name in others if name != self.acting and name in alive and self._is_in_time(name)]
        if not fit or not self._replaceable:
            return
        if self.acting == self._anchor:
            self._good = 0
            self._say(
                f"the anchor, camera '{self._anchor}', {why}: camera '{fit[0]}' is the anchor meanwhile; look at its"
                ' driver, or raise sync.max_wait_ms where it is late'
            )
        else:
            self._notes.append(f"camera '{self.acting}' {why}: camera '{fit[0]}' is the anchor meanwhile")
        self._act(fit[0])

    def _say(self, sentence: str) -> None:
        if not self.fault:
            self._notes.append(sentence)
        self.fault = sentence

    def _act(self, camera: str) -> None:
        self.acting = camera
        self._passed_ns.clear()
        self._late = 0

    def _is_in_time(self, camera: str) -> bool:
        """Whether a camera is neither behind most others nor ahead of them."""
        newest = self._newest[camera]
        lead_ns = _of_most([newest - other for name, other in self._newest.items() if name != camera])
        return self._lag(newest, camera) <= self._late_ns and lead_ns <= HORIZON_NS


def _of_most(distances: Sequence[int]) -> int:
    """What half of the distances, at least two, reach; 0 where there are fewer: one alone proves nothing."""
    enough = max(2, -(-len(distances) // 2))
    return sorted(distances, reverse=True)[enough - 1] if len(distances) >= enough else 0
