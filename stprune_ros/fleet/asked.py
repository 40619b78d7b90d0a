"""Tasks of an evaluation: given to workers, and to others where these die."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import count

from stprune_ros.errors import StpruneError
from stprune_ros.fleet.dispatch import ATTEMPTS, WAIT_S, Workers
from stprune_ros.fleet.tasks import AskTask, Broken, Died, Outcome


def as_they_come(workers: Workers, tasks: Sequence[AskTask]) -> Iterator[tuple[int, Outcome]]:
    """What came of each task with its place among the tasks, as soon as it is done.

    Raises StpruneError where one cannot be done, or its workers die again and again.
    """
    queue, numbers = deque(range(len(tasks))), count()
    running: dict[int, int] = {}
    deaths: Counter[int] = Counter()
    while queue or running:
        while queue and workers.idle:
            number = next(numbers)
            running[number] = queue.popleft()
            workers.submit(number, tasks[running[number]])
        for number, outcome in workers.wait(WAIT_S):
            place = running.pop(number)
            if isinstance(outcome, Died):
                deaths[place] += 1
                if deaths[place] == ATTEMPTS:
                    raise StpruneError(f'{ATTEMPTS} workers in a row died of {tasks[place].name}: {outcome.reason}')
                queue.appendleft(place)
            elif isinstance(outcome, Broken):
                raise StpruneError(f'{tasks[place].name} cannot be evaluated: {outcome.sentence}')
            else:
                yield place, outcome


def in_order(workers: Workers, tasks: Sequence[AskTask]) -> Iterator[Outcome]:
    """As `as_they_come`, but in the order of the tasks, whoever is done first."""
    done: dict[int, Outcome] = {}
    wanted = 0
    for place, outcome in as_they_come(workers, tasks):
        done[place] = outcome
        while wanted in done:
            yield done.pop(wanted)
            wanted += 1
