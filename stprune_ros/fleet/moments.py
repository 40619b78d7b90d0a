"""Moments of a data set on a Ray cluster: workers ask, and the command writes down what came of it at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from stprune_ros.evaluation.asked_model import AskedModel
from stprune_ros.evaluation.datasets.asking import Answering, Asking, MomentSaid, OpenMoment
from stprune_ros.evaluation.datasets.files import Faults
from stprune_ros.fleet.asked import as_they_come
from stprune_ros.fleet.scenes import pool_on_ray
from stprune_ros.fleet.tasks import Answered, AskMoment


def on_ray(address: str, workers: int | None) -> Answering:
    """Workers of a Ray cluster that runs: as many as it has cores, unless ``workers`` says it."""

    @contextmanager
    def answering(asking: Asking, moments: Sequence[OpenMoment]) -> Iterator[Iterator[MomentSaid]]:
        def said() -> Iterator[MomentSaid]:
            for place, outcome in as_they_come(pool, tasks_of(asking, moments)):
                assert isinstance(outcome, Answered)
                yield MomentSaid(moments[place], outcome.pictures, outcome.said, outcome.faults)

        if not moments:
            yield iter(())
            return
        with pool_on_ray(address, workers, asking.settings) as pool:
            yield said()

    return answering


def tasks_of(asking: Asking, moments: Sequence[OpenMoment]) -> list[AskMoment]:
    """A task for each moment, which knows nothing of the others."""
    model = AskedModel.of(asking.backend.info, asking.prompt)
    return [
        AskMoment(replace(asking.dataset, moments=(), left_out=(), faults=Faults()), asking.settings, model, one)
        for one in moments
    ]
