"""The worker: the newest wins, errors do not end it, dropping cancels, and what became of the items adds up."""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.ros.worker import Worker

TIMEOUT_S = 30.0


def busy_worker() -> tuple[Worker[int], Event, SimpleQueue[int]]:
    """A worker that is at work on 0 until ``go_on`` is set, and the items that it saw."""
    started, go_on, seen = Event(), Event(), SimpleQueue()

    def work(item: int, cancel: Event) -> None:
        seen.put(item)
        started.set()
        go_on.wait(TIMEOUT_S)

    worker = Worker(work, lambda item, error, cancel: None)
    worker.put(0)
    assert started.wait(TIMEOUT_S)
    return worker, go_on, seen


def test_newest_item_wins_and_skipped_ones_are_counted():
    worker, go_on, seen = busy_worker()
    for item in (1, 2, 3):
        worker.put(item)
    go_on.set()
    assert [seen.get(timeout=TIMEOUT_S) for _ in range(2)] == [0, 3]
    assert worker.counts['skipped'] == 2
    assert worker.stop(TIMEOUT_S)


def test_who_is_at_work_can_tell_whether_something_waits():
    worker, go_on, _ = busy_worker()
    assert not worker.has_waiting
    worker.put(1)
    assert worker.has_waiting
    worker.drop()
    assert not worker.has_waiting
    worker.do(lambda: None)
    assert worker.has_waiting, 'a job, too'
    go_on.set()
    assert worker.stop(TIMEOUT_S)
    assert worker.has_waiting, 'the end'


def test_items_that_came_together_all_have_their_turn():
    worker, go_on, seen = busy_worker()
    worker.put(1, 2)
    worker.put(3, 4, 5)
    go_on.set()
    assert [seen.get(timeout=TIMEOUT_S) for _ in range(4)] == [0, 3, 4, 5]
    assert worker.counts['skipped'] == 2
    assert worker.stop(TIMEOUT_S)


def test_error_is_reported_and_work_goes_on():
    failures, seen = SimpleQueue(), SimpleQueue()

    def work(item: str, cancel: Event) -> None:
        if item == 'bad':
            raise RuntimeError('out of memory')
        seen.put(item)

    worker = Worker(work, lambda item, error, cancel: failures.put((item, str(error))))
    worker.put('bad')
    assert failures.get(timeout=TIMEOUT_S) == ('bad', 'out of memory')
    worker.put('good')
    assert seen.get(timeout=TIMEOUT_S) == 'good'
    assert worker.stop(TIMEOUT_S)


def test_drop_cancels_what_runs_and_forgets_what_waits():
    started, cancels, seen = Event(), SimpleQueue(), SimpleQueue()

    def work(item: int, cancel: Event) -> None:
        seen.put(item)
        started.set()
        cancels.put(cancel.wait(TIMEOUT_S) if item == 0 else cancel.is_set())
        if item == 0:
            raise RuntimeError('its result is of no interest any more')

    failures = SimpleQueue()
    worker = Worker(work, lambda item, error, cancel: failures.put((item, cancel.is_set())))
    worker.put(0)
    assert started.wait(TIMEOUT_S)
    worker.put(1)
    worker.drop()
    assert cancels.get(timeout=TIMEOUT_S) is True
    worker.put(2)
    assert cancels.get(timeout=TIMEOUT_S) is False
    assert [seen.get(timeout=TIMEOUT_S) for _ in range(2)] == [0, 2]
    assert failures.get(timeout=TIMEOUT_S) == (0, True)
    assert worker.stop(TIMEOUT_S)


@pytest.mark.parametrize(('is_out', 'count'), [(True, 'done'), (False, 'cancelled')])
def test_an_item_whose_result_is_out_is_done_however_late_it_was_cancelled(is_out, count):
    started, go_on = Event(), Event()

    def work(item: int, cancel: Event) -> bool:
        started.set()
        go_on.wait(TIMEOUT_S)
        return is_out

    worker = Worker(work, lambda item, error, cancel: None)
    worker.put(0)
    assert started.wait(TIMEOUT_S)
    worker.drop()
    go_on.set()
    wait_until_idle(worker)
    assert worker.counts == {'dropped': 0, 'skipped': 0, count: 1}
    assert worker.stop(TIMEOUT_S)


def test_a_cancelled_item_does_not_end_a_row_of_failures():
    started, go_on = Event(), Event()

    def work(item: str, cancel: Event) -> bool:
        if item == 'bad':
            raise RuntimeError('out of memory')
        started.set()
        return go_on.wait(TIMEOUT_S)

    worker = Worker(work, lambda item, error, cancel: None)
    worker.put('bad')
    wait_until_idle(worker)
    worker.put('slow')
    assert started.wait(TIMEOUT_S)
    worker.drop()
    go_on.set()
    wait_until_idle(worker)
    assert worker.failures == 1
    worker.put('good')
    wait_until_idle(worker)
    assert worker.failures == 0
    assert worker.stop(TIMEOUT_S)


def test_stop_ends_an_idle_worker():
    worker = Worker(lambda item, cancel: None, lambda item, error, cancel: None)
    assert worker.running
    assert worker.stop(TIMEOUT_S)
    assert not worker.running


def test_stop_says_when_the_work_does_not_end():
    started, go_on = Event(), Event()

    def work(item: int, cancel: Event) -> None:
        started.set()
        go_on.wait(TIMEOUT_S)

    worker = Worker(work, lambda item, error, cancel: None)
    worker.put(0)
    assert started.wait(TIMEOUT_S)
    assert not worker.stop(0.01)
    go_on.set()
    assert worker.stop(TIMEOUT_S)


def test_stop_cancels_what_runs():
    started = Event()

    def work(item: int, cancel: Event) -> None:
        started.set()
        cancel.wait(TIMEOUT_S)

    worker = Worker(work, lambda item, error, cancel: None)
    worker.put(0)
    assert started.wait(TIMEOUT_S)
    assert worker.stop(TIMEOUT_S / 2)


@pytest.mark.parametrize('error', [RuntimeError('CUDA error'), SystemExit(7), KeyboardInterrupt(), MemoryError()])
def test_nothing_that_the_work_raises_ends_the_thread(error):
    failures = SimpleQueue()

    def work(item: int, cancel: Event) -> None:
        if item < 3:
            raise error

    worker = Worker(work, lambda item, raised, cancel: failures.put((raised, worker.failures)))
    for item in range(3):
        worker.put(item)
        assert failures.get(timeout=TIMEOUT_S) == (error, item + 1)
    done = Event()
    worker.put(3)
    worker.do(done.set)
    assert done.wait(TIMEOUT_S)
    wait_for(lambda: worker.counts['done'] == 1)
    assert worker.failures == 0 and worker.running and worker.fatal is None
    assert worker.counts['failed'] == 3
    assert worker.stop(TIMEOUT_S)


def test_a_handler_that_fails_ends_the_thread_and_leaves_its_reason():
    reason = ValueError('free failed')

    def work(item: int, cancel: Event) -> None:
        raise RuntimeError('CUDA error')

    def failed(item: int, error: BaseException, cancel: Event) -> None:
        raise reason

    worker = Worker(work, failed)
    worker.put(0)
    wait_for(lambda: not worker.running)
    assert worker.fatal is reason and worker.busy is None


def test_jobs_come_before_items_keep_their_order_and_are_not_dropped():
    worker, go_on, seen = busy_worker()
    worker.put(1)
    worker.do(lambda: seen.put(-1))
    worker.do(lambda: seen.put(-2), slow=True)
    worker.drop()
    worker.put(2)
    go_on.set()
    assert [seen.get(timeout=TIMEOUT_S) for _ in range(4)] == [0, -1, -2, 2]
    assert worker.counts == {'skipped': 0, 'dropped': 1, 'cancelled': 1} | {'done': worker.counts['done']}
    assert worker.stop(TIMEOUT_S)


def test_what_is_in_work_since_when_and_whether_it_may_be_slow():
    worker, go_on, _ = busy_worker()
    assert worker.busy is not None and not worker.busy.slow
    assert 0 <= time.monotonic() - worker.busy.started < TIMEOUT_S
    loading, loaded = Event(), Event()

    def load() -> None:
        loading.set()
        loaded.wait(TIMEOUT_S)

    worker.do(load, slow=True)
    go_on.set()
    assert loading.wait(TIMEOUT_S)
    assert worker.busy is not None and worker.busy.slow
    loaded.set()
    wait_for(lambda: worker.busy is None)
    assert worker.stop(TIMEOUT_S)


@given(st.lists(st.sampled_from(['put', 'put two', 'drop', 'fail', 'wait'])))
def test_what_became_of_the_items_adds_up(actions):
    def work(item: str, cancel: Event) -> None:
        if item == 'fail':
            raise RuntimeError(item)

    worker = Worker(work, lambda item, error, cancel: None)
    put = 0
    for action in actions:
        if action == 'drop':
            worker.drop()
        elif action == 'wait':
            wait_until_idle(worker)
        else:
            items = (action,) * (1 + (action == 'put two'))
            put += len(items)
            worker.put(*items)
    wait_until_idle(worker)
    assert sum(worker.counts.values()) == put
    assert worker.stop(TIMEOUT_S)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def wait_until_idle(worker: Worker) -> None:
    """Until nothing waits and nothing is in work."""
    wait_for(lambda: not worker._waiting and worker.busy is None)
