"""One drive: the world goes on in steps, the cameras look at it, a guide answers, and the planner heeds the hints.

The planner acts at each step on what has come out by then. The step that follows decides how the world looks at that
moment, so that a hint about it, however fast, counts from the next step on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from stprune_ros.driving import events
from stprune_ros.driving.guides import Guide
from stprune_ros.driving.planner import Planner
from stprune_ros.driving.record import Drive, Event, Step, Tick
from stprune_ros.ringworld.recording import (
    ODOMETRY_HZ,
    compressed_image,
    odometry,
    render_tick,
    sensor_noise,
    stamp_ns,
)
from stprune_ros.ringworld.world import STEP, SteppedWorld


def run_drive(world: SteppedWorld, planner: Planner, guide: Guide, hz: float) -> Drive:
    """Drive through a new ``world`` for as long as it is laid out, its cameras at ``hz``."""
    drive = Drive(world.seed, world.seconds)
    sensors = Sensors(world, hz)
    observer = _Observer(world, drive)
    count = math.ceil(world.seconds / STEP)
    for index in range(count + 1):  # the last step shows how the world looks at the end
        now_ns = stamp_ns(index * STEP)
        for hint, said in guide.due(now_ns):
            planner.take(hint, now_ns)
            drive.said.append(said)
        speed, progress = world.ego_speed, world.ego_progress
        command = planner.command(now_ns, speed, world.route.desired_speed(progress))
        world.step(command.acceleration)
        if index < count:
            ttc = observer.look(index * STEP)
            x, y, yaw = world.route.pose(progress)
            drive.steps.append(Step(index * STEP, x, y, yaw, speed, progress, command.limit, command.behavior, ttc))
            if guide.looks:
                drive.ticks += sensors.feed(guide, min((index + 1) * STEP, world.seconds))
    return drive


class Sensors:
    """Odometry and cameras of a world, in time order, as a recording of it has them."""

    def __init__(self, world: SteppedWorld, hz: float) -> None:
        self._world = world
        self._hz = hz
        self._noise = sensor_noise(world.seed)
        self._samples = 0  # of odometry so far
        self._ticks = 0
        self._count = max(1, math.floor(world.seconds * hz + 1e-6))

    def feed(self, guide: Guide, until_s: float) -> Iterator[Tick]:
        """Give ``guide`` what is due before ``until_s``; yields a tick for each set of images."""
        while self._ticks < self._count and self._ticks / self._hz < until_s - 1e-9:
            t = self._ticks / self._hz
            self._odometry(guide, t)
            images, truth = render_tick(self._world, t, rolling=False)
            now_ns = stamp_ns(t)
            messages = [(camera.name, compressed_image(camera, now_ns, rgb, self._noise)) for camera, _, rgb in images]
            guide.take_images(messages, truth, now_ns)
            self._ticks += 1
            yield Tick(t, truth.behavior, truth.reason, truth.gap)
        self._odometry(guide, until_s - 1e-6)

    def _odometry(self, guide: Guide, t: float) -> None:
        """Everything up to ``t``, that moment included."""
        while self._samples / ODOMETRY_HZ <= t + 1e-9:
            at = self._samples / ODOMETRY_HZ
            guide.take_odometry(odometry(self._world.ego(at), stamp_ns(at)), stamp_ns(at))
            self._samples += 1


class _Observer:
    """Writes down what happens to the ego vehicle, step by step."""

    def __init__(self, world: SteppedWorld, drive: Drive) -> None:
        self._world = world
        self._drive = drive
        self._lines = events.LineWatch()
        self._touched: set[int] = set()

    def look(self, t: float) -> float:
        """Add what happens at ``t`` to the drive; returns the time to collision (s)."""
        snapshot = self._world.snapshot(t)
        actors = events.actors_in_reach(snapshot)
        for number, kind in events.touched(snapshot, actors):
            if number not in self._touched:
                self._touched.add(number)
                self._drive.events.append(Event(t, kind, number))
        road = self._world.route.road(self._world.progress(t))
        red = road is not None and self._world.light(road[0], t) == 'red'
        overran, entered = self._lines.look(road, snapshot.ego.speed, red)
        if overran:
            self._drive.events.append(Event(t, events.STOP_LINE_RUN))
        if entered:
            self._drive.events.append(Event(t, events.RED_LIGHT_RUN))
        return events.time_to_collision(snapshot, [actor for actor in actors if actor.id not in self._touched])
