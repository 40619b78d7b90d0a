"""The node under faults that come in a random order for as long as you like: `python test/soak.py --minutes 60`.

The real node in a process of its own, with a tiny model and a backend that fails when it is told, among cameras,
odometry and a clock that fail as well. Prints a line a minute, then what became of the frame sets, latencies, memory,
threads and descriptors, and at last `soak: ok ...` or `soak: FAILED ...`; the exit code is 0 or 1.

It fails where sets do not add up, memory, threads or descriptors grow, hints or descriptions are silent for longer than
a heartbeat and a second, stamps, sequence numbers or alive counters go back, the node ends, something is OK within a
fault or does not become OK after it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from conftest import new_domain_id  # first, for it sets the environment of ROS
from helpers.faults import Fault, Scene, faults
from helpers.faulty_vehicle import FaultyVehicle
from helpers.harness import TIMEOUT_S, FaultyNode, base_values
from helpers.soak_ledger import Ledger, slope_mb
from helpers.tiny_models import make_tiny_model
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

HEARTBEAT_S, SILENCE_S = 1.0, 2.0
LASTS_S, CALM_S = (5.5, 9.0), (0.5, 2.5)
TOGETHER = 0.25  # share of faults that are joined by another one
SLOPE_MB = 1.0  # in 10 minutes
SLOPE_FROM_MINUTES = 20.0  # in less time memory says nothing about 10 minutes
SHORT_GROWTH_MB = 10.0  # what a short soak may grow by after WARM: allocators take memory in steps of some MB
WARM = 1 / 3  # of the time


class NodeEndedError(Exception):
    """The process under test is gone."""


class Soak:
    """One node, one vehicle, and faults from a seed."""

    def __init__(self, folder: Path, seed: int, rate_hz: float) -> None:
        self.ledger = Ledger(SILENCE_S)
        self._random = Random(seed)
        self._vehicle = FaultyVehicle(new_domain_id(), '/soak', self.ledger.sent)
        self._vehicle.period_s = 1.0 / rate_hz
        self._act, self._vehicle.act = self._vehicle.act, self._look  # type: ignore[method-assign]
        model = make_tiny_model(folder / 'model', 'ringworld')
        (model / 'stprune.json').unlink(missing_ok=True)  # or it would pass for untrained, and never hint
        values = {
            **base_values(model),
            'use_sim_time': True,
            'sync.min_views': 2,
            'ego.max_age_ms': 500.0,  # odometry comes as seldom as the images
            'inference.period_ms': 250.0,
            'inference.max_failures': 0,
            'inference.watchdog_ms': 2500.0,
            'output.heartbeat_ms': HEARTBEAT_S * 1e3,
            'output.max_ahead_ms': 500.0,  # /clock is coarse
        }
        self.node = FaultyNode(folder, self._vehicle, values)
        self._scene = Scene(self._vehicle, self.node, self._change, self.ledger.describes, self._random)
        self._deck: list[Fault] = []
        self.count = 0

    def run(self, minutes: float, say: Callable[[str], None]) -> None:
        """Bring the node up, and faults upon it for so long; then let it come to rest."""
        self._wait(lambda: self.ledger.is_well(0.0, []), 'the first answer')
        self.ledger.begin(self.node.process.pid)
        began, minute = time.monotonic(), 0
        while time.monotonic() - began < minutes * 60 and len(self.ledger.faults) < 20:
            self._meet(self._draw())
            self._listen(self._random.uniform(*CALM_S))
            if time.monotonic() - began > 60 * (minute + 1):
                minute = int((time.monotonic() - began) // 60)
                used = self.ledger.usage[-1]
                say(
                    f'{minute:4d} min: {self.count} faults, {self.ledger.answers_heard} answers,'
                    f' {used.rss_mb:.1f} MB, {used.threads} threads, {used.descriptors} descriptors'
                )
        self._change('deactivate')
        self._rest()

    def close(self) -> int:
        """End the node; its exit code."""
        code = self.node.stop()
        self._vehicle.close()
        return code

    def _draw(self) -> list[Fault]:
        """One fault, or two that go together; each comes once before one comes again."""
        if not self._deck:
            self._deck = faults()
            self._random.shuffle(self._deck)
        first = self._deck.pop()
        if first.alone or not self._deck or self._random.random() > TOGETHER:
            return [first]
        second = next((one for one in self._deck if not one.alone and one.room != first.room), None)
        if second is None:
            return [first]
        self._deck.remove(second)
        return [first, second]

    def _meet(self, together: Sequence[Fault]) -> None:
        name = ' and '.join(fault.name for fault in together)
        undo = [fault.begin(self._scene) for fault in together]
        began = self.ledger.now_s
        self.count += len(together)
        self._listen(self._random.uniform(*LASTS_S))
        ended = self.ledger.now_s
        if any(fault.name == 'the node pauses' for fault in together):
            self._rest()
        for end in reversed(undo):  # the second may have found what the first had changed
            end()
        names = [fault.diagnostic for fault in together if fault.diagnostic]
        since = self.ledger.now_s
        self._wait(lambda: self.ledger.is_well(since, names), f"OK after '{name}'")
        for fault in together:
            self.ledger.judge_answers(fault, began, ended)
            if len(together) == 1:  # one may hide the other
                self.ledger.judge_diagnostics(fault, began, ended)

    def _rest(self) -> None:
        """Inactive, the node has no set of which nothing became."""
        changed = self.ledger.now_s

        def at_rest() -> bool:
            sums = self.ledger.sums
            return sums is not None and not sums.open and self.ledger.now_s - changed > 1.5

        self._vehicle.listen_until(at_rest, TIMEOUT_S)
        assert self.ledger.sums is not None
        self.ledger.judge_sums(self.ledger.sums)

    def _change(self, name: str) -> None:
        request = ChangeState.Request(transition=Transition(id=getattr(Transition, f'TRANSITION_{name.upper()}')))
        if not self._vehicle.call(ChangeState, 'change_state', request, self.node).success:
            self.ledger.faults.append(f"the transition '{name}' failed")

    def _look(self) -> None:
        """Whenever the vehicle acts."""
        self._act()
        self.ledger.take(self._vehicle)
        if self.node.process.poll() is not None:
            raise NodeEndedError
        self.ledger.use()

    def _listen(self, time_s: float) -> None:
        until = self.ledger.now_s + time_s
        self._vehicle.listen_until(lambda: self.ledger.now_s >= until, TIMEOUT_S)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        self._vehicle.listen_until(condition, TIMEOUT_S)
        if not condition():
            raise TimeoutError(f'no {what} within {TIMEOUT_S:g} s: {self.ledger.state}')


def resources(ledger: Ledger, minutes: float) -> list[str]:
    """What is wrong with memory, threads and descriptors; prints them."""
    usage = ledger.usage
    if len(usage) < 10:
        return ['too short to tell anything']
    warm = [one for one in usage if one.at - usage[0].at > WARM * (usage[-1].at - usage[0].at)]
    grown = warm[-1].rss_mb - warm[0].rss_mb
    slope = slope_mb(warm)
    print(
        f'memory: {usage[0].rss_mb:.1f} MB at first, {warm[0].rss_mb:.1f} MB after a third of the time,'
        f' {warm[-1].rss_mb:.1f} MB at the end: slope {slope:+.2f} MB per 10 minutes'
    )
    found = []
    if minutes >= SLOPE_FROM_MINUTES and slope > SLOPE_MB:
        found.append(f'memory grows by {slope:.2f} MB per 10 minutes, more than {SLOPE_MB:g}')
    if minutes < SLOPE_FROM_MINUTES and grown > SHORT_GROWTH_MB:
        found.append(f'memory grew by {grown:.1f} MB, more than {SHORT_GROWTH_MB:g}')
    for name in ('threads', 'descriptors'):
        # The least of ten seconds: a file that is just being read is no leak.
        before, after = (min(getattr(one, name) for one in part) for part in (warm[:10], warm[-10:]))
        print(f'{name}: {getattr(usage[0], name)} at first, {before} after a third of the time, {after} at the end')
        if after > before:
            found.append(f'{name} grew from {before} to {after}')
    return found


def report(ledger: Ledger) -> None:
    """Print the figures."""
    print(f'sets: {ledger.sums}')
    answers = ', '.join(f'{count} {status}' for status, count in ledger.statuses.items())
    print(f'answers heard: {ledger.answers_heard} ({answers}); messages lost on the way: {ledger.lost}')
    if ledger.latencies_s:
        ordered = sorted(ledger.latencies_s)
        shown = (
            f'p{share} {1e3 * ordered[min(len(ordered) - 1, len(ordered) * share // 100)]:.0f}'
            for share in (50, 90, 99)
        )
        print(f'latency of valid hints in ms, from sending the images: {", ".join(shown)}, max {1e3 * ordered[-1]:.0f}')
    print(
        f'longest silence: {ledger.longest_silence_s:.2f} s, limit {SILENCE_S:g} s; the machine had no core for node'
        f' or soak for {ledger.lost_s:.1f} s in all, which are not counted'
    )


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--minutes', type=float, default=2.0, help='how long faults go on')
    parser.add_argument('--seed', type=int, default=0, help='of the faults, their order and times')
    parser.add_argument('--rate', type=float, default=5.0, help='frame sets per second')
    given = parser.parse_args(words)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # and take the node along
    with tempfile.TemporaryDirectory(prefix='stprune_soak_') as folder:
        soak, wrong, code = Soak(Path(folder), given.seed, given.rate), [], 1
        try:
            soak.run(given.minutes, lambda line: print(line, flush=True))
        except NodeEndedError:
            wrong.append('the node ended')
        except (TimeoutError, AssertionError) as error:
            wrong.append(str(error))
        finally:
            code = soak.close()
        wrong += [f'the node ended with {code}'] * bool(code) + soak.ledger.faults
        wrong += ['the node printed a traceback'] * ('Traceback' in soak.node.output())
        report(soak.ledger)
        wrong += resources(soak.ledger, given.minutes)
        if wrong:
            print(*soak.node.output().splitlines()[-40:], sep='\n')
            print(*(f'wrong: {sentence}' for sentence in wrong), sep='\n')
    told = f'{soak.count} faults in {given.minutes:g} minutes, seed {given.seed}'
    print(f'soak: FAILED ({len(wrong)} things are wrong; {told})' if wrong else f'soak: ok ({told})')
    return bool(wrong)


if __name__ == '__main__':
    sys.exit(main())
