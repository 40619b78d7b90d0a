"""The front half that node and replay share: messages in, windows out.

No clock and no thread: the same stamps give the same ticks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from stprune_ros.core.ego import EgoTrack
from stprune_ros.core.frame_buffer import FrameBuffer
from stprune_ros.core.frozen_images import FrozenImages
from stprune_ros.core.odometry import ToBase, nowhere
from stprune_ros.core.publisher_turns import PublisherTurns, several_publishers
from stprune_ros.core.rig import CameraRig
from stprune_ros.core.stamps import impossible, stamp_of
from stprune_ros.core.synchronizer import RingSynchronizer
from stprune_ros.core.timing_faults import TimingFaults
from stprune_ros.core.types import CameraFrame, FrameSet, Window
from stprune_ros.core.view_turns import ViewTurns
from stprune_ros.errors import SettingsError, plain
from stprune_ros.settings.settings import Settings, nanoseconds

PATIENCE_NS = 1_000_000_000  # how much event time odometry has to show up at all
ODOMETRY = ''  # among the inputs, whose other names are cameras
MAX_WAITING = 64  # sets that wait for odometry: stamps that hardly move make nobody wait for ever


@dataclass(frozen=True)
class CameraRoles:
    """Which camera plays which part, names checked against the rig; the anchor is one of the ring.

    ``side`` are those of the ring, in ring order, that are neither the anchor nor critical.
    """

    anchor: str
    critical: tuple[str, ...]
    side: tuple[str, ...]

    @classmethod
    def from_settings(cls, settings: Settings, rig: CameraRig) -> CameraRoles:
        """Anchor (the camera nearest straight ahead unless named) and critical cameras (the anchor unless named).

        Where neither is named, a camera of which nobody knows where it looks may be the one straight ahead, and counts
        as critical. Raises SettingsError naming a camera that is not in the ring.
        """
        given, unusable = settings.cameras, {camera.name: camera for camera in rig.unusable}
        anchor = given.anchor or rig.foremost
        lost = [] if given.anchor else [camera.name for camera in rig.unusable if camera.azimuth is None]
        critical = tuple(given.critical) or (anchor, *lost)
        for camera in (anchor, *critical):
            if camera not in rig.ring and camera not in unusable:
                raise SettingsError(
                    f"camera '{camera}' in 'cameras.anchor' or 'cameras.critical' is not in the ring:"
                    f' {", ".join(rig.ring)}'
                )
        anchor = anchor if anchor in rig.ring else rig.ring[0]
        return cls(anchor, critical, tuple(camera for camera in rig.ring if camera not in (anchor, *critical)))


class SensorStream:
    """Synchroniser, ego track and history in a row.

    Sentences to log collect inside, each once: take them with `take_notes`. ``counters`` are the synchroniser's, plus
    ``flushes``, ``frames_unstamped``, ``ticks``, and of the sets that became no tick ``sets_flushed`` (the clock jumped
    or the stream ended while they waited for odometry) and ``sets_between`` (``inference.period_ms`` leaves them out).
    ``used`` counts the images that frame sets hold, by camera.
    """

    def __init__(
        self,
        settings: Settings,
        rig: CameraRig,
        to_base: ToBase = nowhere,
        no_odometry: str = '',
        counters: Counter[str] | None = None,
    ) -> None:
        """``to_base`` gives the way from a frame that odometry names to ``cameras.base_frame``, None without one.

        ``no_odometry`` says more than the usual sentence where no odometry comes at all. ``counters`` are those of the
        stream before, to go on with.
        """
        self.rig = rig
        self.used: Counter[str] = Counter()
        self.roles = CameraRoles.from_settings(settings, rig)
        names, offsets = settings.cameras.names, settings.cameras.offsets_ms
        given = {name: nanoseconds(offset) for name, offset in zip(names, offsets)}
        limits: dict[str, Any] = {
            'tolerance_ns': nanoseconds(settings.sync.tolerance_ms),
            'max_wait_ns': nanoseconds(settings.sync.max_wait_ms),
            'max_spread_ns': nanoseconds(settings.sync.max_spread_ms),
            'offsets_ns': {camera: given.get(camera, 0) for camera in rig.ring},
        }
        self._replaceable = self.roles.anchor not in self.roles.critical
        self._sync = RingSynchronizer(
            rig.ring,
            self.roles.anchor,
            min_views=settings.sync.min_views,
            replaceable=self._replaceable,
            silent_ns=nanoseconds(settings.cameras.stale_after_ms),
            counters=counters,
            **limits,
        )
        named = set(names) == set(rig.ring)
        self._timing = TimingFaults(names if named else rig.ring, self.roles.anchor, named=named, **limits)
        self._ego = EgoTrack(nanoseconds(settings.ego.max_age_ms), settings.cameras.base_frame, to_base)
        self._ego.absent = no_odometry or self._ego.absent
        self._tick_fault = ''  # why the last set has no ego state
        self._buffer = FrameBuffer(
            settings.history.frames,
            nanoseconds(settings.history.stride_ms),
            nanoseconds(settings.history.max_gap_ms),
            ViewTurns(self.roles.side, nanoseconds(settings.cameras.refresh_ms)),
        )
        self._frozen = FrozenImages(nanoseconds(settings.cameras.frozen_after_ms))
        self._turns = PublisherTurns()
        self._mixed: frozenset[str] = frozenset()
        self._stale_ns = nanoseconds(settings.cameras.stale_after_ms)
        self._period_ns = nanoseconds(settings.inference.period_ms)
        self._tick_cell: int | None = None
        self._start_ns: int | None = None  # stamp of the first set
        self._waiting: list[FrameSet] = []  # closed sets whose odometry has not come yet
        self._notes: list[str] = []

    @property
    def counters(self) -> Counter[str]:
        """Counts since start."""
        return self._sync.counters

    @property
    def odometry_fault(self) -> str:
        """Why the newest odometry, or the odometry of the last set, is not used; '' where it is."""
        return (
            several_publishers('odometry messages') if ODOMETRY in self._mixed else self._ego.fault or self._tick_fault
        )

    @property
    def mixed(self) -> frozenset[str]:
        """Cameras whose images come from several publishers in turn."""
        return self._mixed - {ODOMETRY}

    @property
    def odometry_refused(self) -> int:
        """Samples of odometry that were not used."""
        return self._ego.refused

    def newest_ns(self, camera: str) -> int | None:
        """Newest offset-corrected stamp of a camera, None before its first frame."""
        return self._sync.newest_ns(camera)

    def count_sets(self, counts: Callable[[int], bool]) -> None:
        """See `RingSynchronizer.count_sets`."""
        self._sync.count_sets(counts)

    def take_notes(self) -> list[str]:
        """New sentences to log, and forget them."""
        notes, self._notes = [*self._sync.take_notes(), *self._timing.take_notes(), *self._notes], []
        return notes

    def fault(self, camera: str) -> str | None:
        """What is wrong with the publishers or the stamps of a camera as long as it lasts, None where they are good."""
        if camera in self._mixed:
            return mixed_images(camera)
        if camera == self.roles.anchor and self._sync.anchor_fault:
            return self._sync.anchor_fault
        return self._timing.sentence(camera) if camera in self.rig.ring else None

    def add_image(
        self, camera: str, message: Any, received_ns: int | None = None, publisher: bytes = b''
    ) -> list[Window]:
        """Take a duck-typed Image or CompressedImage by reference; returns the windows that are due, oldest first.

        Those of the rig's unusable cameras are passed over. ``received_ns``, by any clock, only helps to say how far a
        camera's own clock is off. ``publisher`` is an id of whoever sent it: images of several that take turns are left
        out.
        """
        if any(camera == unusable.name for unusable in self.rig.unusable) or self._is_mixed(camera, publisher):
            return []
        frame = frame_of(camera, message)
        if frame.stamp_ns == 0:
            self.counters['frames_unstamped'] += 1
            self._timing.saw_unstamped(camera, impossible(message.header))
            return []
        if self._frozen.is_frozen(camera, message, frame.stamp_ns):
            frame = replace(frame, frozen=True)
        self._timing.saw(camera, frame.stamp_ns, received_ns)
        self._close(self._sync.add(frame))
        return self._release()

    def add_odometry(self, message: Any, publisher: bytes = b'') -> list[Window]:
        """Take a duck-typed Odometry, unless several publishers take turns; a set that waited for it may become due."""
        if self._is_mixed(ODOMETRY, publisher):
            return []
        self._notes += self._ego.add(message)
        return self._release()

    def finish(self) -> list[Window]:
        """The end of a bag: everything that is still open becomes due."""
        self._close(self._sync.flush())
        self._notes += self._timing.totals(anchor_stays=not self._replaceable)
        return self._release(ended=True)

    def reset(self, reason: str) -> None:
        """The clock jumped: forget everything that was buffered."""
        self._sync.reset()
        self._timing.reset()
        self._frozen.reset()
        self._ego.clear()
        self._buffer.flush()
        self.close()
        self._start_ns = self._tick_cell = None
        self._tick_fault = ''
        self._notes.append(f'history flushed: {reason}')

    def close(self) -> None:
        """Nothing will come any more: sets that still wait are dropped."""
        self.counters['sets_flushed'] += len(self._waiting)
        self._waiting.clear()

    def _is_mixed(self, name: str, publisher: bytes) -> bool:
        is_mixed = self._turns.saw(name, publisher)
        if is_mixed and name not in self._mixed:
            self._notes.append(several_publishers('odometry messages') if name == ODOMETRY else mixed_images(name))
            if name == ODOMETRY:
                self._ego.clear()
            else:  # nobody knows whose these are
                self._sync.forget(name)
                self._buffer.forget(name)
        self._mixed = self._turns.mixed
        return is_mixed

    def _close(self, closed: list[FrameSet]) -> None:
        for frame_set in closed:
            self.used.update(frame_set.frames.keys())
            self._timing.judge(frame_set)
        self._waiting += closed

    def _release(self, ended: bool = False) -> list[Window]:
        windows = []
        while self._waiting and (
            ended or len(self._waiting) > MAX_WAITING or not self._odometry_may_come(self._waiting[0].stamp_ns)
        ):
            window = self._tick(self._waiting.pop(0))
            if window is not None:
                windows.append(window)
        return windows

    def _odometry_may_come(self, stamp_ns: int) -> bool:
        """Whether a sample after ``stamp_ns`` is still worth waiting for, to interpolate instead of hold."""
        newest, watermark = self._ego.newest_ns, self._sync.watermark_ns
        if watermark is not None and self._ego.is_settling(watermark):
            return True
        if self._start_ns is None:
            self._start_ns = stamp_ns
        if newest is None:  # it may only be slow to start
            alive = stamp_ns < self._start_ns + PATIENCE_NS
        else:
            alive = stamp_ns - self._ego.max_age_ns <= newest < stamp_ns
        return alive and watermark is not None and watermark < stamp_ns + self._sync.max_wait_ns

    def _tick(self, frame_set: FrameSet) -> Window | None:
        ego = self._ego.at(frame_set.stamp_ns)
        self._tick_fault = '' if ego is not None else self._ego.reason(frame_set.stamp_ns)
        self._notes += self._ego.take_notes() if ego is not None else self._ego.why_none(frame_set.stamp_ns)
        mixed = self.mixed.intersection(frame_set.missing)
        frame_set = replace(frame_set, ego=ego, stale=self._stale(frame_set), mixed=mixed)
        cell = frame_set.stamp_ns // self._period_ns if self._period_ns else None
        is_tick = cell is None or cell != self._tick_cell
        reason = self._buffer.add(frame_set, is_tick)
        if reason is not None:
            self.counters['flushes'] += 1
            self._notes.append(f'history flushed: {reason}')
        if not is_tick:
            self.counters['sets_between'] += 1
            return None
        self._tick_cell = cell
        self.counters['ticks'] += 1
        return self._buffer.window()

    def _stale(self, frame_set: FrameSet) -> frozenset[str]:
        def silent(camera: str) -> bool:
            newest = self._sync.newest_ns(camera)
            return newest is None or newest < frame_set.stamp_ns - self._stale_ns

        return frozenset(filter(silent, frame_set.missing))


def mixed_images(camera: str) -> str:
    """What to say about a camera whose images come from several publishers."""
    return several_publishers(f"images of camera '{camera}'")


def frame_of(camera: str, message: Any) -> CameraFrame:
    """A CameraFrame that refers to an Image or CompressedImage message (rclpy or rosbags alike).

    Its stamp is 0 where the message has none that is possible.
    """
    height, width = getattr(message, 'height', 0), getattr(message, 'width', 0)  # a CompressedImage has neither
    encoding = plain(message.encoding if hasattr(message, 'encoding') else message.format)
    return CameraFrame(camera, stamp_of(message.header), encoding, int(height), int(width), message)
