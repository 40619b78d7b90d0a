"""The real node with a backend that fails as it is told: `python -m helpers.faulty_node`.

What the file named by STPRUNE_TEST_FAULTS holds at the time counts: a JSON object from a place to one of FAULTS or, for
what comes back from it, of RESULTS. Places
are methods of the backend, its 'info', 'load', 'generate', which is writing, each time that a text begins or goes on,
and 'activate', the transition. So a test starts and ends a fault by
writing that file; what hangs, does so until then.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from helpers.texts import with_changed_texts

from stprune_ros.progress import Say
from stprune_ros.ros.managed_node import StpruneNode
from stprune_ros.ros.node import main
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm import loading
from stprune_ros.vlm.backend import Backend, Generated

ENVIRONMENT = 'STPRUNE_TEST_FAULTS'
# Of 'generate': a text is left after each token, whether or not a newer set waits; each token takes a while.
CRAWL, DAWDLE = 'crawl', 'dawdle'
DAWDLE_S = 0.1
METHODS = ('encode', 'prefill', 'score', 'free')


def write_faults(file: Path, **faults: str) -> None:
    """What shall go wrong from now on; in one step, so that no half is read."""
    half = file.with_suffix('.half')
    half.write_text(json.dumps(faults), encoding='utf-8')
    half.replace(file)


def _raise(error: BaseException) -> None:
    raise error


def _hold_the_lock() -> None:
    re.match(r'(a+)+$', 'a' * 60 + 'b')  # takes years, in one call that keeps the interpreter's lock


def _hang() -> None:
    while 'hang' in _faults().values():
        time.sleep(0.05)


def _out_of_memory() -> None:
    import torch

    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')


FAULTS: Mapping[str, Callable[[], None]] = {
    'raise': lambda: _raise(RuntimeError('CUDA error: device-side assert triggered')),
    'oom': _out_of_memory,
    'memory': lambda: _raise(MemoryError('std::bad_alloc')),
    'exit': lambda: _raise(SystemExit(7)),
    'slow': lambda: time.sleep(1.5),
    'hang': _hang,
    'lock': _hold_the_lock,
}
# Results that are not what they should be, in place of those of the backend.
RESULTS: Mapping[str, Callable[[Any], Any]] = {
    'nan': lambda scores: [math.nan] * len(scores),
    'mute': lambda generated: replace(generated, text=' \n\0'),
}


def _faults() -> dict[str, str]:
    return dict(json.loads(Path(os.environ[ENVIRONMENT]).read_text(encoding='utf-8')))


def meet_fault(place: str) -> None:
    """Do what the file says of this place."""
    fault = _faults().get(place)
    if fault in FAULTS:
        FAULTS[fault]()


class FaultyBackend:
    """Another backend behind faults; everything else is that backend's."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        if name == 'info':
            meet_fault(name)
        if name == 'begin':
            return with_changed_texts(self._backend, _write)
        if name not in METHODS:
            return found

        def guarded(*arguments: Any, **named: Any) -> Any:
            meet_fault(name)
            result = found(*arguments, **named)
            return RESULTS.get(_faults().get(name, ''), lambda result: result)(result)

        return guarded


def _write(write: Callable[..., Generated | None], *arguments: Any) -> Generated | None:
    meet_fault('generate')
    fault = _faults().get('generate', '')
    if fault == CRAWL:
        looks, (*limits, told) = count(), arguments
        arguments = (*limits, lambda tokens: bool(told and told(tokens)) or next(looks) > 0)
    if fault == DAWDLE:
        *limits, pause = arguments
        arguments = (*limits, lambda tokens: bool(time.sleep(DAWDLE_S) or (pause and pause(tokens))))
    written = write(*arguments)
    return None if written is None else RESULTS.get(fault, lambda result: result)(written)


def _load(settings: Settings, say: Say) -> Any:
    meet_fault('load')
    return FaultyBackend(loading._load_transformers(settings, say))


def _activate(node: StpruneNode, activate: Callable[[StpruneNode], None] = StpruneNode._activate) -> None:
    meet_fault('activate')
    activate(node)


if __name__ == '__main__':
    loading.ENGINES = {'transformers': _load}
    StpruneNode._activate = _activate  # type: ignore[method-assign]
    sys.exit(main())
