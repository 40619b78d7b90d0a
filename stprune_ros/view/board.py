"""What was heard of a node last, bounded and as plain values: the page is made of nothing else.

A hint is shown as a planner takes it: from the newest valid one on until it expires by the node's clock.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from threading import Lock
from typing import Any

from stprune_ros.core.types import Behavior, CameraState, ConfidenceSource, Status
from stprune_ros.errors import plain
from stprune_ros.replay.records import stamp_text

MAX_AHEAD_NS = 100_000_000  # as the example of a consumer: what is farther in the future is not believed
MAX_TEXT = 2000  # characters, the bound of a description
MAX_LIST = 64  # cameras, candidates, notes, states of diagnostics and their values: more are left out
MAX_PICTURE = 4 * 2**20  # bytes
PICTURES = 4  # so many stay, for browsers that ask for one a little later
LOG_LINES = 100
LEVELS = {10: 'debug', 20: 'info', 30: 'warning', 40: 'error', 50: 'fatal'}
DIAGNOSTIC_LEVELS = ('ok', 'warning', 'error', 'stale')
NOT_HEARD = 'nothing was heard of the node yet'
JPEG = b'\xff\xd8\xff'


@dataclass(frozen=True, slots=True)
class Standing:
    """A hint that was valid when it came; ``received`` is in s of this process."""

    stamp_ns: int
    expires_ns: int
    received: float
    shown: Mapping[str, Any]

    def is_valid(self, now_ns: int) -> bool:
        """Whether it says anything at ``now_ns``."""
        return self.stamp_ns - MAX_AHEAD_NS <= now_ns < self.expires_ns


class Board:
    """Takes messages of the node with the full name ``node`` from one thread and gives what is new to others.

    ``clock`` gives the time in ns by the node's clock, and why no age can be told by it; ``changed`` is called when
    something is new; ``watchers`` is how many browsers look.
    """

    def __init__(self, node: str) -> None:
        self.clock: Callable[[], tuple[int, str]] = lambda: (0, NOT_HEARD)
        self.changed: Callable[[], object] = lambda: None
        self.watchers = 0
        self._node = node
        self._logger = node.lstrip('/').replace('/', '.')
        self._lock = Lock()
        self._versions: dict[str, int] = {}
        self._sections: dict[str, Any] = {}
        self._lines: deque[Mapping[str, Any]] = deque(maxlen=LOG_LINES)
        self._standing: Standing | None = None
        self._pictures: dict[int, bytes] = {}  # by number, oldest first
        self._heard: Mapping[str, Callable[[Any], bool]] = {
            'hint': self._hear_hint,
            'text': self._hear_text,
            'picture': self._hear_picture,
            'diagnostics': self._hear_diagnostics,
            'log': self._hear_log,
            'node': self._hear_node,
        }

    def hear(self, kind: str, message: Any) -> None:
        """Take a message in."""
        with self._lock:
            is_new = self._heard[kind](message)
        if is_new:
            self.changed()

    def now(self) -> float:
        """Seconds of the clock that all times of `update` are of."""
        return time.monotonic()

    def picture(self, number: int) -> bytes:
        """The JPEG of a picture by its number, empty where it is not there any more."""
        return self._pictures.get(number, b'')

    def update(self, seen: dict[str, int]) -> dict[str, Any]:
        """What somebody who has ``seen`` these versions lacks, and the hint as it stands now; ``seen`` is brought up.

        All times are seconds of this process: ``now``, ``at`` of what was received, ``until`` of the hint.
        """
        now_ns, fault = self.clock()
        with self._lock:
            now = self.now()
            lacking = {name: self._sections[name] for name, one in self._versions.items() if seen.get(name) != one}
            seen.update(self._versions)
            standing = self._standing
            hint = None
            if standing is not None and not fault and standing.is_valid(now_ns):
                hint = {**standing.shown, 'until': now + (standing.expires_ns - now_ns) / 1e9}
            last = None if standing is None else standing.received
            return {'now': now, 'fault': fault, 'hint': hint, 'last_hint': last, **lacking}

    def _put(self, name: str, value: Mapping[str, Any]) -> bool:
        self._sections[name] = {**value, 'at': self.now()}
        self._versions[name] = self._versions.get(name, 0) + 1
        return True

    def _hear_node(self, problem: str) -> bool:
        return self._put('node', {'problem': problem})

    def _hear_hint(self, message: Any) -> bool:
        now_ns, fault = self.clock()
        stamp_ns, valid_ns = _ns(message.header.stamp), _ns(message.valid_for)
        valid = message.status in (Status.OK, Status.DEGRADED)
        new = Standing(stamp_ns, stamp_ns + valid_ns, self.now(), _hint(message) if valid else {})
        held = self._standing
        expired = held is None or not held.is_valid(now_ns)
        # Heartbeats and errors take nothing back: the last hint stands until it expires.
        if valid and not fault and new.is_valid(now_ns) and (expired or held is None or stamp_ns > held.stamp_ns):
            self._standing = new
        info = message.info
        answer = {
            'status': name_of(Status, message.status),
            'stamp': stamp_text(stamp_ns) if stamp_ns else '',
            'notes': _texts(info.notes),
        }
        if info.cameras:  # a heartbeat has none, and what the last answer cost stays
            self._put('cost', _cost(info))
        return self._put('answer', {**answer, **_provenance(info)})

    def _hear_text(self, message: Any) -> bool:
        if message.status not in (Status.OK, Status.DEGRADED, Status.TIMEOUT):
            return False  # what was written last stays, with its age
        now_ns, fault = self.clock()
        left_ns = 0 if fault else _ns(message.header.stamp) + _ns(message.valid_for) - now_ns
        text = {'text': plain(message.description, MAX_TEXT), 'cut': bool(message.truncated)}
        return self._put('text', {**text, 'until': self.now() + left_ns / 1e9})

    def _hear_picture(self, message: Any) -> bool:
        size = len(message.data)
        data = bytes(message.data) if size <= MAX_PICTURE else b''
        if not data.startswith(JPEG):
            return self._put('picture', {'number': 0, 'stamp': '', 'problem': f'{size} bytes are no picture'})
        number = self._versions.get('picture', 0) + 1
        held = [*self._pictures.items(), (number, data)]
        self._pictures = dict(held[-PICTURES:])
        stamp = stamp_text(_ns(message.header.stamp))
        return self._put('picture', {'number': number, 'stamp': stamp, 'problem': ''})

    def _hear_diagnostics(self, message: Any) -> bool:
        prefix = f'{self._node}: '
        found = {
            plain(status.name.removeprefix(prefix)): _state(status)
            for status in message.status
            if status.name.startswith(prefix)
        }
        if not found:
            return False
        return self._put('states', {'states': dict(list(found.items())[:MAX_LIST])})

    def _hear_log(self, message: Any) -> bool:
        if message.name != self._logger and not message.name.startswith(f'{self._logger}.'):
            return False
        level = LEVELS.get(message.level, f'level {message.level}')
        self._lines.append(
            {'stamp': stamp_text(_ns(message.stamp)), 'level': level, 'text': plain(message.msg, MAX_TEXT)}
        )
        return self._put('log', {'lines': list(self._lines)})


def name_of(kind: type[IntEnum], value: int) -> str:
    """The name of a value, or that it has none."""
    try:
        return kind(value).name
    except ValueError:
        return f'{kind.__name__} {value}'


def _ns(stamp: Any) -> int:
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def _texts(found: Iterable[str]) -> list[str]:
    return [plain(text, MAX_TEXT) for text in list(found)[:MAX_LIST]]


def _hint(message: Any) -> dict[str, Any]:
    """What a valid hint says."""
    shares = zip(list(message.candidates)[:MAX_LIST], list(message.probabilities)[:MAX_LIST])
    return {
        'said': name_of(Behavior, message.behavior),
        'status': name_of(Status, message.status),
        'stamp': stamp_text(_ns(message.header.stamp)),
        'confidence': float(message.confidence),
        'source': name_of(ConfidenceSource, message.confidence_source),
        'shares': [[name_of(Behavior, behavior), float(share)] for behavior, share in shares],
    }


def _provenance(info: Any) -> dict[str, Any]:
    return {
        'model': plain(info.model_id),
        'trained': bool(info.model_trained),
        'prompt': plain(info.prompt_id),
        'method': plain(info.method),
        'keep_ratio': float(info.keep_ratio),
    }


def _cost(info: Any) -> dict[str, Any]:
    """What an answer saw and took."""
    stages = zip(_texts(info.stage_names), [float(ms) for ms in list(info.stage_ms)[:MAX_LIST]])
    cameras = [
        {
            'name': plain(camera.name),
            'state': name_of(CameraState, camera.state),
            'kept': int(camera.tokens_kept),
            'full': int(camera.tokens_full),
        }
        for camera in list(info.cameras)[:MAX_LIST]
    ]
    return {
        'cameras': cameras,
        'stages': [[name, ms] for name, ms in stages],
        'latency_s': float(info.output_latency),
        'kept': int(info.tokens_kept),
        'full': int(info.tokens_full),
    }


def _state(status: Any) -> dict[str, Any]:
    level = status.level[0] if isinstance(status.level, bytes) else int(status.level)
    return {
        'level': DIAGNOSTIC_LEVELS[level] if level < len(DIAGNOSTIC_LEVELS) else f'level {level}',
        'message': plain(status.message, MAX_TEXT),
        'values': [[plain(pair.key), plain(pair.value, MAX_TEXT)] for pair in list(status.values)[:MAX_LIST]],
    }
