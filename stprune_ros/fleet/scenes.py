"""Scenes of an evaluation on a Ray cluster: the same answers as on one machine, in the same order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count

from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.case import CaseSource
from stprune_ros.evaluation.fidelity import Evaluating, EvaluationPlan
from stprune_ros.evaluation.hits import SceneResult
from stprune_ros.fleet.cluster import Pool, connected, resources
from stprune_ros.fleet.dispatch import ATTEMPTS, WAIT_S, Workers
from stprune_ros.fleet.tasks import Asked, AskScene, Broken, Died
from stprune_ros.settings.settings import Settings


def on_ray(address: str, workers: int | None) -> Evaluating:
    """Workers of a Ray cluster that runs: as many as it has cores, unless ``workers`` says it."""

    @contextmanager
    def evaluating(
        source: CaseSource, plan: EvaluationPlan, settings: Settings, scenes: Sequence[int]
    ) -> Iterator[Iterable[list[SceneResult]]]:
        with connected(address, workers, 1):
            given = resources(workers, 1, None, 0, settings.model.device != 'cpu', grows=True)
            with closing(Pool(given)) as pool:
                yield asked_in_order(pool, [AskScene(source, plan, settings, scene) for scene in scenes])

    return evaluating


def asked_in_order(workers: Workers, tasks: Sequence[AskScene]) -> Iterator[list[SceneResult]]:
    """The results of each task in the order of the tasks, whoever is done first.

    Raises StpruneError where a scene cannot be evaluated, or its workers die again and again.
    """
    queue, numbers, done = deque(tasks), count(), {}
    running: dict[int, AskScene] = {}
    deaths: Counter[int] = Counter()
    for task in tasks:
        while task.scene not in done:
            while queue and workers.idle:
                number, asked = next(numbers), queue.popleft()
                running[number] = asked
                workers.submit(number, asked)
            for number, outcome in workers.wait(WAIT_S):
                asked = running.pop(number)
                if isinstance(outcome, Asked):
                    done[asked.scene] = outcome.results
                    continue
                deaths[asked.scene] += 1
                if isinstance(outcome, Broken):
                    raise StpruneError(f'scene {asked.scene} cannot be evaluated: {outcome.sentence}')
                assert isinstance(outcome, Died)
                if deaths[asked.scene] == ATTEMPTS:
                    raise StpruneError(f'{ATTEMPTS} workers in a row died of scene {asked.scene}: {outcome.reason}')
                queue.appendleft(asked)
        yield done.pop(task.scene)
