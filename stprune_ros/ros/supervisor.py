"""Judges the inference thread: whether it hangs, and whether the process has to end so that it can be started again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from stprune_ros.errors import one_line
from stprune_ros.ros.journal import Journal
from stprune_ros.ros.worker import Busy, Worker
from stprune_ros.settings.settings import Settings

# Exit codes of the node, beside 0. A process whose interpreter is stuck is ended from outside: watchdog.SIGNAL.
CANNOT_START, INFERENCE_FAILED, INFERENCE_HANGS = 1, 3, 4


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the process ends, and with which exit code."""

    code: int
    sentence: str = ''


class Supervisor:
    """To be asked several times a second by a thread other than the worker's.

    ``hang_s`` is for how long the tick in work has taken where that is too long, else 0.
    """

    def __init__(self, worker: Worker[Any], journal: Journal) -> None:
        self.hang_s = 0.0
        self._worker, self._journal = worker, journal

    def look(self, settings: Settings) -> Ending | None:
        """Cancel a tick that hangs; an Ending where there is nothing left to hope for."""
        worker, limits = self._worker, settings.inference
        if not worker.running:
            reason = f'{type(worker.fatal).__name__}: {one_line(worker.fatal)}' if worker.fatal else 'nobody knows why'
            return Ending(INFERENCE_FAILED, f'the inference thread has ended ({reason}): the node ends')
        if limits.max_failures and worker.failures >= limits.max_failures:
            return Ending(
                INFERENCE_FAILED,
                f'inference failed {worker.failures} times in a row (inference.max_failures): the node ends',
            )
        busy = worker.busy
        busy_ms = (time.monotonic() - busy.started) * 1e3 if busy is not None else 0.0
        if busy is not None and busy.slow:
            self.hang_s = 0.0
            return _judge_loading(busy_ms, settings.model.load_timeout_ms)
        if limits.abort_ms and busy_ms > limits.abort_ms:
            return Ending(
                INFERENCE_HANGS, f'inference has hung for {busy_ms / 1e3:.1f} s (inference.abort_ms): the node ends'
            )
        self._judge_tick(busy, busy_ms, limits.watchdog_ms)
        return None

    def _judge_tick(self, busy: Busy | None, busy_ms: float, watchdog_ms: float) -> None:
        if busy is None or not watchdog_ms or busy_ms <= watchdog_ms:
            if self.hang_s:
                self._journal.info(f'inference goes on after {self.hang_s:.1f} s; the answer that came late is dropped')
            self.hang_s = 0.0
            return
        if not self.hang_s:
            self._journal.error(
                f'inference hangs: a tick has taken more than {watchdog_ms:g} ms, and its answer will be dropped;'
                ' raise inference.watchdog_ms where ticks may take so long'
            )
        self.hang_s = busy_ms / 1e3
        busy.cancel.set()


def _judge_loading(taken_ms: float, limit_ms: float) -> Ending | None:
    if not limit_ms or taken_ms <= limit_ms:
        return None
    return Ending(
        INFERENCE_HANGS,
        f'loading has taken {taken_ms / 1e3:.1f} s, more than model.load_timeout_ms, {limit_ms:g} ms: the node ends',
    )
