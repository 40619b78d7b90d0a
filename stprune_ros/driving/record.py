"""What a drive leaves behind: every step of the ego vehicle, every tick of its cameras, and what happened."""

from __future__ import annotations

from dataclasses import dataclass, field

from stprune_ros.core.types import Behavior, Status


@dataclass(frozen=True, slots=True)
class Step:
    """The ego vehicle at ``t`` (s), and what the planner did: see `planner.Command`.

    ``progress`` is in m, ``ttc`` the time to collision (s).
    """

    t: float
    x: float
    y: float
    yaw: float
    speed: float
    progress: float
    limit: float
    behavior: Behavior
    ttc: float


@dataclass(frozen=True, slots=True)
class Tick:
    """What the cameras showed at ``t`` (s): the true hint, its ``reason`` and that reason's ``gap`` (m)."""

    t: float
    truth: Behavior
    reason: str
    gap: float


@dataclass(frozen=True, slots=True)
class Said:
    """A hint about the images of ``stamp_s`` that came out at ``out_s``: STALE where it had expired by then."""

    stamp_s: float
    out_s: float
    status: Status
    behavior: Behavior
    confidence: float = 1.0
    tokens_kept: int = 0
    tokens_full: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """Something at ``t`` (s): a kind of collision with the actor ``actor``, 'stop line' or 'red light' (actor -1)."""

    t: float
    kind: str
    actor: int = -1


@dataclass
class Drive:
    """One drive through the world ``seed``; grows while it goes on."""

    seed: int
    seconds: float
    steps: list[Step] = field(default_factory=list)
    ticks: list[Tick] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
