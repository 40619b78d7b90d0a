"""The soak's own judgement: what does not hold is found, each by its name, and what holds is not."""

from __future__ import annotations

import os
from types import SimpleNamespace as Box

import pytest

pytest.importorskip('rclpy')

from helpers.faults import Fault, faults
from helpers.soak_ledger import DROPS, Ledger, Sums, Usage, slope_mb, starved_s
from soak import resources

from stprune_ros.core.types import Status
from stprune_ros.ros import diagnostics

START_NS = 10**18
DEAD = Fault('left dies', 'camera', lambda scene: lambda: None, 0.5, 'camera left', 1.0)


def output(stamp_ns: int, sequence: int, counter: int, status: Status = Status.OK, cameras: int = 3) -> Box:
    header = Box(stamp=Box(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9))
    info = Box(sequence=sequence, cameras=['camera'] * cameras)
    return Box(header=header, status=int(status), alive_counter=counter, info=info)


def level(name: str, found: bytes, **values: int) -> Box:
    pairs = [Box(key=key, value=str(value)) for key, value in values.items()]
    return Box(name=f'/node: {name}', level=found, message='', values=pairs)


class Run:
    """A ledger, fed by hand; its clock is set by hand too."""

    def __init__(self) -> None:
        self.ledger = Ledger(2.0)
        self.ledger.begin(os.getpid())
        self.ledger._looked = float('inf')

    def hear(self, *hints: Box, texts: tuple[Box, ...] = (), levels: tuple[Box, ...] = ()) -> None:
        arrays = [Box(status=list(levels))] if levels else []
        self.ledger.take(Box(hints=list(hints), texts=list(texts), diagnostics=arrays))

    def send(self, *stamps: int) -> None:
        for stamp in stamps:
            self.ledger.sent('front', stamp)

    def wait(self, time_s: float) -> None:
        self.ledger.now_s += time_s


def test_answers_and_heartbeats_in_order_are_well():
    run = Run()
    run.hear(output(0, 0, 1, Status.NO_HINT, cameras=0))
    run.send(START_NS, START_NS + 1)
    run.hear(output(START_NS, 0, 2), output(START_NS, 0, 3, Status.NO_HINT, cameras=0), output(START_NS + 1, 4, 4))
    assert run.ledger.faults == []
    assert run.ledger.statuses == {'OK': 2} and run.ledger.answers_heard == 2 and run.ledger.lost == 0
    assert len(run.ledger.latencies_s) == 2


@pytest.mark.parametrize(
    ('stamp', 'sequence', 'counter', 'sentence'),
    [
        (START_NS, 6, 3, 'the stamp of a hint went back'),
        (START_NS + 2, 4, 3, 'the sequence of the hint went from 5 to 4'),
        (START_NS + 2, 6, 2, 'the alive counter of the hint went from 2 to 2'),
        (START_NS + 3, 6, 3, f'a hint has the stamp {START_NS + 3}, which no set had'),
    ],
)
def test_what_goes_back_or_comes_from_nowhere_is_found(stamp, sequence, counter, sentence):
    run = Run()
    run.send(START_NS, START_NS + 1, START_NS + 2)
    run.hear(output(START_NS + 1, 5, 2), output(stamp, sequence, counter))
    assert [fault[: len(sentence)] for fault in run.ledger.faults] == [sentence]


def test_stamps_may_go_back_where_those_of_the_images_did():
    run = Run()
    run.send(START_NS, START_NS - 5 * 10**9)
    run.hear(output(START_NS, 0, 1), output(START_NS - 5 * 10**9, 1, 2))
    assert run.ledger.faults == []
    run.hear(output(START_NS, 2, 3))
    assert len(run.ledger.faults) == 1


def test_messages_that_did_not_arrive_are_counted():
    run = Run()
    run.send(START_NS)
    run.hear(output(START_NS, 0, 1), output(START_NS, 0, 4, Status.NO_HINT, cameras=0))
    assert run.ledger.lost == 2


def test_a_silence_is_found_once_even_before_it_ends():
    run = Run()
    run.send(START_NS)
    run.hear(output(START_NS, 0, 1), texts=(output(START_NS, 0, 1),), levels=(level('rig', diagnostics.OK),))
    run.wait(1.9)
    run.hear(texts=(output(START_NS, 0, 2),), levels=(level('rig', diagnostics.OK),))
    assert run.ledger.faults == []
    run.wait(0.2)
    run.hear()
    run.hear()
    assert run.ledger.faults == ['no hint for 2.1 s']
    run.ledger.describes(False)
    run.wait(5.0)
    run.hear(output(START_NS, 0, 2))
    assert run.ledger.faults == ['no hint for 2.1 s', 'no status for 5.2 s']
    assert run.ledger.longest_silence_s == pytest.approx(7.1)


def test_ok_within_a_fault_is_found_for_hints_and_statuses():
    run = Run()
    for tick in range(50):  # 5 s
        run.send(START_NS + tick)
        status = Status.OK if tick in (3, 20, 48) else Status.DEGRADED
        found = diagnostics.OK if tick in (5, 30) else diagnostics.ERROR
        run.hear(output(START_NS + tick, tick, tick + 1, status), levels=(level('camera left', found),))
        run.wait(0.1)
    run.ledger.faults.clear()
    run.ledger.judge_answers(DEAD, 0.0, 5.0)  # tick 3 is before it shows, tick 48 may have met its end
    assert run.ledger.faults == ["OK 1 times within 'left dies', first 2.0 s after its begin"]
    run.ledger.judge_diagnostics(DEAD, 0.0, 5.0)
    assert run.ledger.faults[1:] == ["diagnostics say 'camera left' is OK, 1 of 39 times, within 'left dies'"]


def test_it_is_well_after_an_ok_of_a_later_set_and_a_later_status():
    run = Run()
    run.send(START_NS)
    run.wait(1.0)
    run.hear(output(START_NS, 0, 1), levels=(level('rig', diagnostics.OK),))
    assert not run.ledger.is_well(0.5, ['rig'])  # the set is older
    run.send(START_NS + 1)
    run.wait(0.1)
    run.hear(output(START_NS + 1, 1, 2), levels=(level('rig', diagnostics.WARN),))
    assert run.ledger.is_well(0.5, []) and not run.ledger.is_well(0.5, ['rig'])
    run.hear(levels=(level('rig', diagnostics.OK),))
    assert run.ledger.is_well(0.5, ['rig'])


def test_sums_are_those_of_the_node_and_what_has_no_fate_is_found():
    run = Run()
    run.send(START_NS)
    sets = {'sets_full': 5, 'sets_partial': 3, 'sets_skipped': 2, 'sets_flushed': 1, 'sets_between': 1}
    ticks = {'done': 1, 'failed': 1, 'skipped': 1, 'dropped': 1, 'cancelled': 1}
    levels = (level('synchronisation', diagnostics.OK, **sets), level('inference', diagnostics.OK, **ticks))
    run.hear(output(START_NS, 0, 1), levels=levels)
    sums = run.ledger.sums
    assert sums == Sums(10, 1, dict(zip(DROPS, (2, 1, 1, 1, 1, 1, 1))))
    assert str(sums).startswith('10 sets = 1 answers + 8 dropped (2 too few views, 1 between two ticks')
    run.ledger.judge_sums(sums)
    assert run.ledger.faults == [f'1 sets have no fate: {sums}']
    run.ledger.faults.clear()
    run.ledger.judge_sums(Sums(10, 2, sums.drops))
    assert run.ledger.faults == ['1 answers were heard, 0 lost, of 2']


def usage(minutes: float, rss_mb: float, threads: int = 20, descriptors: int = 20) -> list[Usage]:
    """A process that ends with these after some minutes of steady growth from 500 MB, 20 and 20."""
    count = int(minutes * 60)
    return [
        Usage(at, 500 + (rss_mb - 500) * at / count, *((threads, descriptors) if at > count / 2 else (20, 20)))
        for at in range(count + 1)
    ]


def judged(found: list[Usage], minutes: float) -> list[str]:
    ledger = Ledger(2.0)
    ledger.usage = found
    return resources(ledger, minutes)


def test_growth_is_found(capsys):
    assert slope_mb(usage(60, 503.0)) == pytest.approx(0.5)
    assert judged(usage(60, 503.0), 60) == []
    assert 'slope +0.50 MB per 10 minutes' in capsys.readouterr().out
    assert judged(usage(60, 512.0), 60) == ['memory grows by 2.00 MB per 10 minutes, more than 1']
    assert judged(usage(2, 515.0), 2) == []
    assert judged(usage(2, 520.0), 2) == ['memory grew by 13.2 MB, more than 10']
    assert judged(usage(60, 500.0, threads=21), 60) == ['threads grew from 20 to 21']
    assert judged(usage(60, 500.0, descriptors=22), 60) == ['descriptors grew from 20 to 22']
    assert judged(usage(60, 500.0)[:5], 60) == ['too short to tell anything']


def test_the_time_without_a_core_only_grows():
    before = starved_s(os.getpid())
    assert 0 <= before <= starved_s(os.getpid())


def test_faults_of_two_sources_go_together_and_end_together():
    by_name = {fault.name: fault for fault in faults()}
    scene = Box(vehicle=Box(stamp_of={}))
    undo = [by_name[name].begin(scene) for name in ('right has no stamps', 'odometry has no stamps')]
    assert {source: stamp_of(5) for source, stamp_of in scene.vehicle.stamp_of.items()} == {'right': 0, 'odometry': 0}
    for end in reversed(undo):
        end()
    assert scene.vehicle.stamp_of == {}
