"""Which part of the odometry counts: the twist where it is given, else the pose, and nothing where they contradict.

Pose and twist of one source are two witnesses of one motion. They are compared over the same short time, so that
neither a single wrong sample nor a correction of the localisation decides.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from stprune_ros.core.odometry import Quaternion, Reading, Triple
from stprune_ros.core.pose_motion import KEEP_NS, MIN_STEP_NS, WINDOW_NS, PoseSeries, Rate, middle_of
from stprune_ros.core.transforms import matrix_from_quaternion
from stprune_ros.core.types import EgoState

MAX_SPEED = 100.0  # m/s
MAX_TURN = 4.0  # rad/s
SPEED_TOLERANCE, TURN_TOLERANCE = 1.0, 0.2  # m/s, rad/s ...
SPEED_SHARE, TURN_SHARE = 0.2, 0.25  # ... and this share of the larger value
SIGNED, OPPOSED = 0.29, -0.8  # m/s from which a velocity has a sign, however near; cosine of opposite directions
MOVING, TURNING = 0.5, 0.1  # m/s, rad/s from which a pose moves
SLIP = 0.5  # share of a speed that may be sideways where an orientation that never changes is to be believed
LEAP = 5.0  # m/s that no vehicle gains or loses within half a window
QUIET_NS = 1_000_000_000  # a twist that was given before must be zero for this long to count as not given
GAP_NS = 2_500_000_000  # samples farther apart have nothing to do with each other
RATED_NS = 20_000_000  # how old the motion by the pose may be
STILL_NS = 500_000_000  # for how long a position must not change to be spoken of
SETTLED_NS, SETTLED_COUNT = 100_000_000, 3
UP = 2  # z of the vehicle frame
UNCONFIRMED = 'odometry velocity is zero and there is no second pose yet to confirm it: not used until there is'


@dataclass(frozen=True, slots=True)
class Verdict:
    """``state`` at a sample, or None and in ``refusal`` why it is not used; ``notes`` say what was assumed."""

    state: EgoState | None
    refusal: str = ''
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Twist:
    """What is known of one half of the twist."""

    name: str
    moving: float
    seen: bool = False  # it was other than zero
    zero_ns: int | None = None  # since when it is zero
    from_pose: bool = False

    def add(self, stamp_ns: int, value: Triple) -> None:
        if any(value):
            self.seen, self.zero_ns, self.from_pose = True, None, False
        elif self.zero_ns is None:
            self.zero_ns = stamp_ns

    def is_missing(self, stamp_ns: int, pose: Rate | None) -> bool:
        """Whether it is zero while the pose moves: once that was found, until another value comes."""
        if self.zero_ns is None or pose is None:
            return False
        if pose.size > self.moving and (not self.seen or stamp_ns - self.zero_ns >= QUIET_NS):
            self.from_pose = True
        return self.from_pose


class OdometryCheck:
    """Collects readings in the order of their stamps and judges them."""

    def __init__(self) -> None:
        self._frames = ('', '')
        self.clear()

    def clear(self) -> None:
        """Forget everything: the source started anew."""
        self._position, self._orientation = PoseSeries(is_position=True), PoseSeries(is_position=False)
        self._linear, self._angular = _Twist('velocity', MOVING), _Twist('turn rate', TURNING)
        self._direction_given = True
        self._restart()

    def _restart(self) -> None:
        self._twists: deque[tuple[int, Triple, Triple]] = deque()
        self._position.restart()
        self._orientation.restart()
        self._first_ns, self._newest_ns, self._count = 0, 0, 0
        self._rates: tuple[Rate | None, Rate | None] = None, None
        self._rated_ns: int | None = None

    @property
    def is_settled(self) -> bool:
        """Whether there are enough samples to judge by."""
        return self._count >= SETTLED_COUNT and self._newest_ns - self._first_ns >= SETTLED_NS

    def add(self, reading: Reading) -> None:
        """Take a reading as evidence; one that is older than the newest is none."""
        if (reading.parent, reading.child) != self._frames:
            self._frames = (reading.parent, reading.child)
            self.clear()
        if self._count and reading.stamp_ns > self._newest_ns + GAP_NS:
            self._restart()
        if self._count and reading.stamp_ns <= self._newest_ns:
            return
        if not self._count:
            self._first_ns = reading.stamp_ns
        self._newest_ns = reading.stamp_ns
        self._count += 1
        self._linear.add(reading.stamp_ns, reading.linear)
        self._angular.add(reading.stamp_ns, reading.angular)
        if not self._twists or reading.stamp_ns - self._twists[-1][0] >= MIN_STEP_NS:
            self._twists.append((reading.stamp_ns, reading.linear, reading.angular))
            while self._twists[0][0] < reading.stamp_ns - KEEP_NS - WINDOW_NS:
                self._twists.popleft()
        if reading.position is not None:
            self._position.add(reading.stamp_ns, reading.position, reading.orientation)
        if reading.orientation is not None:
            self._orientation.add(reading.stamp_ns, reading.orientation, None)
            self._direction_given |= self._orientation.moved

    def judge(self, reading: Reading) -> Verdict:
        """The state at a reading that was added before, by the evidence so far."""
        notes: list[str] = []
        if self._rated_ns is None or self._newest_ns - self._rated_ns >= RATED_NS:
            self._rates = self._position.rate(), self._orientation.rate()
            self._rated_ns = self._newest_ns
        going = self._rates[0] if reading.position is not None else None
        turning = self._rates[1] if reading.orientation is not None else None
        self._doubt_orientation(reading, going, notes)
        if self._may_be_empty(reading, going):
            return Verdict(None, UNCONFIRMED, tuple(notes))
        # A sensor may stand where the vehicle turns about it: a turn rate that is missing tells of the velocity, too.
        turn_missing = reading.angular_given and self._angular.is_missing(self._newest_ns, turning)
        if turn_missing and self._position.moved and not self._linear.seen:
            self._linear.from_pose = True
        linear = self._velocity(reading, going, notes)
        angular = self._turn_rate(reading, turning, notes)
        if linear is None or angular is None:
            return Verdict(
                None,
                'odometry does not give its twist, and no motion can be told from its pose: not used; its driver must'
                ' fill the twist, or position and orientation',
                tuple(notes),
            )
        refusal = self._contradiction(reading, going, turning, notes) or _excess(linear, angular)
        refusal = refusal or self._leap(reading)
        state = None if refusal else to_state(reading, linear, angular)
        return Verdict(state, refusal, tuple(notes))

    def _may_be_empty(self, reading: Reading, going: Rate | None) -> bool:
        """Whether a zero velocity may as well be one that is not filled in: there is only one pose so far."""
        if going is not None or not reading.linear_given or any(reading.linear) or not any(reading.position or ()):
            return False
        return not self._linear.seen or self._linear.from_pose

    def _velocity(self, reading: Reading, going: Rate | None, notes: list[str]) -> np.ndarray | None:
        """(3,) m/s of the child frame in its own axes; None where nothing gives it."""
        if reading.linear_given and not self._linear.is_missing(self._newest_ns, going):
            return np.array(reading.linear)
        if going is None:  # neither it nor the pose tells; only at the very start, or without a position
            return None if self.is_settled or not reading.linear_given else np.array(reading.linear)
        if not self._position.moved:
            return None if any(reading.linear) or not any(reading.position or ()) else np.zeros(3)
        if not self._direction_given:
            return None
        notes.append(_replaced(self._linear.name, reading.linear_given))
        return going.vector

    def _turn_rate(self, reading: Reading, turning: Rate | None, notes: list[str]) -> np.ndarray | None:
        """(3,) rad/s of the child frame in its own axes; None where nothing gives it."""
        if reading.angular_given and not self._angular.is_missing(self._newest_ns, turning):
            return np.array(reading.angular)
        if turning is None:
            return None if self.is_settled or not reading.angular_given else np.array(reading.angular)
        if not self._direction_given:
            return None
        notes.append(_replaced(self._angular.name, reading.angular_given))
        return turning.vector

    def _doubt_orientation(self, reading: Reading, going: Rate | None, notes: list[str]) -> None:
        """An orientation that never changes is none where the twist turns or the position moves to the side."""
        if reading.orientation is None or self._orientation.moved:
            return
        rates = reading.rotation @ _typical(self._angulars(WINDOW_NS))
        turns = self.is_settled and reading.angular_given and abs(float(rates[UP])) > TURNING
        sideways = False
        if going is not None and going.vector is not None and going.size > 2 * MOVING:
            sideways = abs(float((reading.rotation @ going.vector)[1])) > SLIP * going.size
        if turns or sideways:
            self._direction_given = False
            notes.append('odometry orientation never changes although the vehicle turns: it counts as not given')

    def _contradiction(self, reading: Reading, going: Rate | None, turning: Rate | None, notes: list[str]) -> str:
        """Where pose and twist tell different motions, the sentence with both; '' where they agree or one is silent."""
        if not self.is_settled:
            return ''
        linear_counts = reading.linear_given and not self._linear.from_pose
        if going is not None and linear_counts:
            velocity = _typical(self._linears(going.end_ns - going.start_ns, going.end_ns), LEAP)
            if not self._position.moved:
                still = self._newest_ns - self._first_ns >= STILL_NS
                if still and any(reading.position or ()) and np.linalg.norm(velocity) > SPEED_TOLERANCE:
                    notes.append('odometry position never changes while its twist moves: it counts as not given')
            elif going.vector is None or not self._direction_given:
                if _differ(going.size, float(np.linalg.norm(velocity)), SPEED_TOLERANCE, SPEED_SHARE):
                    return _contradicts(f'{going.size:.1f} m/s', f'{np.linalg.norm(velocity):.1f} m/s')
            else:
                return self._of_velocity(reading, going, velocity) or self._of_turn(reading, turning)
        return self._of_turn(reading, turning)

    def _of_velocity(self, reading: Reading, going: Rate, by_twist: np.ndarray) -> str:
        assert going.vector is not None
        rotation, angular, by_pose = reading.rotation, _typical(self._angulars(WINDOW_NS)), going.vector
        turned, twist = rotation @ by_pose, rotation @ by_twist
        at_base = twist + np.cross(reading.translation, rotation @ angular)
        # Some sources give the pose of the vehicle beside the twist of a sensor: either reading may agree.
        apart = _far(turned, twist) and _far(by_pose, at_base)
        opposed = going.steady and _opposed(turned, twist) and _far(by_pose, at_base, SIGNED)
        return _contradicts(_in_words(turned), _in_words(twist)) if apart or opposed else ''

    def _of_turn(self, reading: Reading, turning: Rate | None) -> str:
        counts = reading.angular_given and not self._angular.from_pose and self._direction_given
        if turning is None or turning.vector is None or not counts or not self._orientation.moved:
            return ''
        twist = reading.rotation @ _typical(self._angulars(turning.end_ns - turning.start_ns, turning.end_ns))
        by_twist, by_pose = float(twist[UP]), float((reading.rotation @ turning.vector)[UP])
        if all(_differ(yaw, by_twist, TURN_TOLERANCE, TURN_SHARE) for yaw in (by_pose, float(turning.vector[UP]))):
            return _contradicts(f'{by_pose:+.2f} rad/s', f'{by_twist:+.2f} rad/s')
        return ''

    def _leap(self, reading: Reading) -> str:
        if not reading.linear_given or self._linear.from_pose or not self.is_settled:
            return ''
        usual, now = middle_of(self._linears(WINDOW_NS)), np.array(reading.linear)
        if np.linalg.norm(now - usual) <= LEAP:
            return ''
        return (
            f'odometry leaps from {np.linalg.norm(usual):.1f} m/s to {np.linalg.norm(now):.1f} m/s: not used until it'
            ' stays there'
        )

    def _linears(self, span_ns: int, end_ns: int | None = None) -> np.ndarray:
        return np.array([linear for _, linear, _ in self._within(span_ns, end_ns)])

    def _angulars(self, span_ns: int, end_ns: int | None = None) -> np.ndarray:
        return np.array([angular for _, _, angular in self._within(span_ns, end_ns)])

    def _within(self, span_ns: int, end_ns: int | None = None) -> list[tuple[int, Triple, Triple]]:
        end_ns = self._newest_ns if end_ns is None else end_ns
        start_ns = end_ns - span_ns
        found = takewhile(lambda twist: twist[0] >= start_ns, reversed(self._twists))
        return [twist for twist in found if twist[0] <= end_ns] or [self._twists[-1]]


def to_state(reading: Reading, linear: np.ndarray, angular: np.ndarray) -> EgoState:
    """The motion (3,) m/s and (3,) rad/s of a reading's child frame as that of the vehicle frame.

    A rigid body: the vehicle frame has the same turn rate, and moves round the child frame by it.
    """
    if not reading.turned:
        position = (
            reading.position if any(reading.position or ()) else None
        )  # the origin is where nothing was filled in
        return EgoState(reading.stamp_ns, position, reading.orientation, _triple(linear), _triple(angular))
    rates = reading.rotation @ angular
    velocity = reading.rotation @ linear + np.cross(reading.translation, rates)
    position, orientation = _pose_of_base(reading)
    return EgoState(reading.stamp_ns, position, orientation, _triple(velocity), _triple(rates))


def _pose_of_base(reading: Reading) -> tuple[Triple | None, Quaternion | None]:
    if reading.orientation is None:
        return None, None
    matrix = matrix_from_quaternion(reading.orientation)
    assert matrix is not None  # it has length one
    turn = matrix @ reading.rotation.T
    position = (
        None if not any(reading.position or ()) else _triple(np.array(reading.position) - turn @ reading.translation)
    )
    return position, _quaternion(turn)


def _quaternion(matrix: np.ndarray) -> Quaternion:
    """Unit quaternion x, y, z, w of a rotation matrix (3, 3): the eigenvector of its largest eigenvalue."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    table = np.array(
        [
            [a - e - i, b + d, c + g, h - f],
            [b + d, e - a - i, f + h, c - g],
            [c + g, f + h, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    x, y, z, w = (float(value) for value in np.linalg.eigh(table)[1][:, -1])
    return (x, y, z, w) if w >= 0 else (-x, -y, -z, -w)


def _excess(linear: np.ndarray, angular: np.ndarray) -> str:
    speed, turn = float(np.linalg.norm(linear)), float(np.linalg.norm(angular))
    if speed <= MAX_SPEED and turn <= MAX_TURN:
        return ''
    value, limit = (
        (f'{speed:.1f} m/s', f'{MAX_SPEED:g}') if speed > MAX_SPEED else (f'{turn:.1f} rad/s', f'{MAX_TURN:g}')
    )
    return f'odometry says {value}, more than the {limit} that a road vehicle can do: not used; check its units'


def _replaced(what: str, given: bool) -> str:
    if given:
        return f'odometry {what} is zero while the pose moves: it is taken from the pose'
    return f'odometry {what} is not provided, says its covariance: it is taken from the pose'


def _contradicts(by_pose: str, by_twist: str) -> str:
    return (
        f'odometry contradicts itself, {by_pose} by its pose but {by_twist} by its twist: not used; check units and'
        ' frames of its driver'
    )


def _in_words(velocity: np.ndarray) -> str:
    """A velocity in vehicle axes: along, and across where that matters."""
    along, across = float(velocity[0]), float(velocity[1])
    side = f', {abs(across):.1f} m/s to the {"left" if across > 0 else "right"}' if abs(across) >= 0.5 else ''
    return f'{abs(along):.1f} m/s {"backward" if along < 0 else "forward"}{side}'


def _typical(values: np.ndarray, limit: float = np.inf) -> np.ndarray:
    """Mean (3,) of values (n, 3) without those farther than ``limit`` from their median."""
    near = np.linalg.norm(values - middle_of(values), axis=1) <= limit
    return np.asarray((values[near] if near.any() else values).mean(axis=0))


def _differ(a: float, b: float, tolerance: float, share: float) -> bool:
    return abs(a - b) > tolerance + share * max(abs(a), abs(b))


def _far(a: np.ndarray, b: np.ndarray, tolerance: float = SPEED_TOLERANCE) -> bool:
    """Whether two velocities differ in the vehicle's plane: height is known too badly."""
    larger = max(float(np.linalg.norm(a[:2])), float(np.linalg.norm(b[:2])))
    return float(np.linalg.norm(a[:2] - b[:2])) > tolerance + SPEED_SHARE * larger


def _opposed(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two velocities in the vehicle's plane are both large enough to have a direction, and point apart."""
    sizes = float(np.linalg.norm(a[:2])), float(np.linalg.norm(b[:2]))
    return min(sizes) >= SIGNED and float(a[:2] @ b[:2]) < OPPOSED * sizes[0] * sizes[1]


def _triple(vector: np.ndarray) -> Triple:
    return float(vector[0]), float(vector[1]), float(vector[2])
