"""The worker: the newest wins, errors do not end it, dropping cancels."""

from __future__ import annotations

from queue import SimpleQueue
from threading import Event

import pytest

from stprune_ros.ros.worker import Worker

TIMEOUT_S = 30.0


def busy_worker() -> tuple[Worker[int], Event, SimpleQueue[int]]:
    """A worker that is at work on 0 until ``go_on`` is set, and the items that it saw."""
    started, go_on, seen = Event(), Event(), SimpleQueue()

    def work(item: int, cancel: Event) -> None:
        seen.put(item)
        started.set()
        go_on.wait(TIMEOUT_S)

    worker = Worker(work, lambda item, error: None)
    worker.start()
    worker.put(0)
    assert started.wait(TIMEOUT_S)
    return worker, go_on, seen


def test_newest_item_wins_and_skipped_ones_are_counted():
    worker, go_on, seen = busy_worker()
    for item in (1, 2, 3):
        worker.put(item)
    go_on.set()
    assert [seen.get(timeout=TIMEOUT_S) for _ in range(2)] == [0, 3]
    assert worker.skipped == 2
    assert worker.stop(TIMEOUT_S)


def test_items_that_came_together_all_have_their_turn():
    worker, go_on, seen = busy_worker()
    worker.put(1, 2)
    worker.put(3, 4, 5)
    go_on.set()
    assert [seen.get(timeout=TIMEOUT_S) for _ in range(4)] == [0, 3, 4, 5]
    assert worker.skipped == 2
    assert worker.stop(TIMEOUT_S)


def test_error_is_reported_and_work_goes_on():
    failures, seen = SimpleQueue(), SimpleQueue()

    def work(item: str, cancel: Event) -> None:
        if item == 'bad':
            raise RuntimeError('out of memory')
        seen.put(item)

    worker = Worker(work, lambda item, error: failures.put((item, str(error))))
    worker.start()
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
    worker = Worker(work, lambda item, error: failures.put(item))
    worker.start()
    worker.put(0)
    assert started.wait(TIMEOUT_S)
    worker.put(1)
    worker.drop()
    assert cancels.get(timeout=TIMEOUT_S) is True
    worker.put(2)
    assert cancels.get(timeout=TIMEOUT_S) is False
    assert [seen.get(timeout=TIMEOUT_S) for _ in range(2)] == [0, 2]
    assert failures.empty()
    assert worker.stop(TIMEOUT_S)


def test_stop_ends_an_idle_worker_and_one_that_never_started():
    worker = Worker(lambda item, cancel: None, lambda item, error: None)
    assert worker.stop(TIMEOUT_S)
    worker = Worker(lambda item, cancel: None, lambda item, error: None)
    worker.start()
    assert worker.stop(TIMEOUT_S)


def test_stop_says_when_the_work_does_not_end():
    started, go_on = Event(), Event()

    def work(item: int, cancel: Event) -> None:
        started.set()
        go_on.wait(TIMEOUT_S)

    worker = Worker(work, lambda item, error: None)
    worker.start()
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

    worker = Worker(work, lambda item, error: None)
    worker.start()
    worker.put(0)
    assert started.wait(TIMEOUT_S)
    assert worker.stop(TIMEOUT_S / 2)


def test_a_worker_that_was_stopped_starts_again():
    seen = SimpleQueue()
    worker = Worker(lambda item, cancel: seen.put(item), lambda item, error: None)
    assert not worker.running
    assert worker.stop(TIMEOUT_S)
    for item in (1, 2):
        worker.start()
        assert worker.running
        with pytest.raises(RuntimeError, match='running already'):
            worker.start()
        worker.put(item)
        assert seen.get(timeout=TIMEOUT_S) == item
        assert worker.stop(TIMEOUT_S)
        assert not worker.running
        for late in (-item, -item):  # come too late, and must not be the first thing done after the next start
            worker.put(late)
        assert worker.skipped == 1
    worker.start()
    assert worker.skipped == 0
    assert worker.stop(TIMEOUT_S)
    assert seen.empty()
