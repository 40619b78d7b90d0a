"""When a tick hangs, and when the process has to end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

pytest.importorskip('rclpy')

from stprune_ros.ros.supervisor import INFERENCE_FAILED, INFERENCE_HANGS, Supervisor
from stprune_ros.ros.worker import Busy
from stprune_ros.settings.settings import Settings

LIMITS = {'inference.watchdog_ms': 1000.0, 'inference.abort_ms': 5000.0, 'model.load_timeout_ms': 20000.0}


@dataclass
class IdleWorker:
    """What a supervisor looks at."""

    running: bool = True
    failures: int = 0
    fatal: BaseException | None = None
    busy: Busy | None = None

    def works_since(self, seconds: float, slow: bool = False) -> Busy:
        self.busy = Busy(slow, time.monotonic() - seconds)
        return self.busy


@dataclass
class Log:
    """Lines with their level."""

    lines: list[tuple[str, str]] = field(default_factory=list)

    def error(self, text: str) -> None:
        self.lines.append(('error', text))

    def info(self, text: str) -> None:
        self.lines.append(('info', text))


def supervised(**values: float) -> tuple[IdleWorker, Log, Supervisor, Settings]:
    worker, log = IdleWorker(), Log()
    given = {**LIMITS, **{name.replace('__', '.'): value for name, value in values.items()}}
    return worker, log, Supervisor(worker, log), Settings.from_values(given)


def test_idle_and_quick_work_is_left_alone():
    worker, log, supervisor, settings = supervised()
    assert supervisor.look(settings) is None
    busy = worker.works_since(0.9)
    assert supervisor.look(settings) is None
    assert (supervisor.hang_s, busy.cancel.is_set(), log.lines) == (0.0, False, [])


def test_a_tick_that_hangs_is_cancelled_and_said_once_and_so_is_its_end():
    worker, log, supervisor, settings = supervised()
    busy = worker.works_since(1.1)
    for _ in range(3):
        assert supervisor.look(settings) is None
    assert supervisor.hang_s == pytest.approx(1.1, abs=0.5) and busy.cancel.is_set()
    assert [level for level, _ in log.lines] == ['error']
    assert log.lines[0][1].startswith('inference hangs: a tick has taken more than 1000 ms')
    worker.works_since(0.1)  # the next one
    assert supervisor.look(settings) is None
    assert supervisor.hang_s == 0.0
    assert log.lines[1][0] == 'info' and log.lines[1][1].startswith('inference goes on after 1.')
    worker.works_since(1.1)
    supervisor.look(settings)
    assert len(log.lines) == 3  # another episode


def test_loading_after_a_tick_that_hung_is_no_hang():
    worker, _, supervisor, settings = supervised()
    worker.works_since(1.1)
    supervisor.look(settings)
    assert supervisor.hang_s > 1.0
    worker.works_since(1.1, slow=True)
    assert supervisor.look(settings) is None
    assert supervisor.hang_s == 0.0


def test_a_tick_that_never_ends_ends_the_process():
    worker, _, supervisor, settings = supervised()
    worker.works_since(5.1)
    ending = supervisor.look(settings)
    assert ending is not None and ending.code == INFERENCE_HANGS
    assert ending.sentence.startswith('inference has hung for 5.')


def test_loading_has_a_limit_of_its_own():
    worker, log, supervisor, settings = supervised()
    busy = worker.works_since(19.0, slow=True)
    assert supervisor.look(settings) is None
    assert (supervisor.hang_s, busy.cancel.is_set(), log.lines) == (0.0, False, [])
    worker.works_since(21.0, slow=True)
    ending = supervisor.look(settings)
    assert ending is not None and ending.code == INFERENCE_HANGS
    assert ending.sentence == 'loading has taken 21.0 s, more than model.load_timeout_ms, 20000 ms: the node ends'


def test_failures_in_a_row_end_the_process():
    worker, _, supervisor, settings = supervised(inference__max_failures=3)
    worker.failures = 2
    assert supervisor.look(settings) is None
    worker.failures = 3
    ending = supervisor.look(settings)
    assert ending is not None and ending.code == INFERENCE_FAILED
    assert ending.sentence == 'inference failed 3 times in a row (inference.max_failures): the node ends'


@pytest.mark.parametrize(
    ('fatal', 'reason'), [(None, 'nobody knows why'), (ValueError('free failed.\n'), 'ValueError: free failed')]
)
def test_a_dead_thread_ends_the_process(fatal, reason):
    worker, _, supervisor, settings = supervised()
    worker.running, worker.fatal = False, fatal
    ending = supervisor.look(settings)
    assert ending is not None and ending.code == INFERENCE_FAILED
    assert ending.sentence == f'the inference thread has ended ({reason}): the node ends'


def test_every_limit_can_be_switched_off():
    off = {name.replace('.', '__'): 0.0 for name in LIMITS}
    worker, log, supervisor, settings = supervised(**off, inference__max_failures=0)
    worker.failures = 10**6
    for slow in (False, True):
        worker.works_since(10**6, slow)
        assert supervisor.look(settings) is None
    assert (supervisor.hang_s, log.lines) == (0.0, [])
