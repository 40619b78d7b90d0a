"""Scenes of an evaluation on a Ray cluster: the same answers as on one machine, in the same order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager

from stprune_ros.evaluation.case import CaseSource
from stprune_ros.evaluation.fidelity import Evaluating, EvaluationPlan
from stprune_ros.evaluation.hits import SceneResult
from stprune_ros.fleet.asked import in_order
from stprune_ros.fleet.cluster import Pool, connected, resources
from stprune_ros.fleet.dispatch import Workers
from stprune_ros.fleet.tasks import Asked, AskScene, Outcome
from stprune_ros.settings.settings import Settings


def on_ray(address: str, workers: int | None) -> Evaluating:
    """Workers of a Ray cluster that runs: as many as it has cores, unless ``workers`` says it."""

    @contextmanager
    def evaluating(
        source: CaseSource, plan: EvaluationPlan, settings: Settings, scenes: Sequence[int]
    ) -> Iterator[Iterable[list[SceneResult]]]:
        tasks = [AskScene(source, plan, settings, scene) for scene in scenes]
        with pool_on_ray(address, workers, settings) as pool:
            yield map(_results, in_order(pool, tasks))

    return evaluating


@contextmanager
def pool_on_ray(address: str, workers: int | None, settings: Settings) -> Iterator[Workers]:
    """Workers there that ask the model of these settings."""
    with connected(address, workers, 1):
        given = resources(workers, 1, None, 0, settings.model.device != 'cpu', grows=True)
        with closing(Pool(given)) as pool:
            yield pool


def _results(outcome: Outcome) -> list[SceneResult]:
    assert isinstance(outcome, Asked)
    return outcome.results
