"""Loads the model on the worker's thread, so that the node goes on reporting meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

from stprune_ros.errors import StpruneError, one_line
from stprune_ros.progress import Say, say_nothing
from stprune_ros.settings.settings import Settings

if TYPE_CHECKING:
    from stprune_ros.vlm.backend import Backend, ModelInfo
    from stprune_ros.vlm.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model, for the worker's thread only, what it is, and what it is asked."""

    backend: Backend
    info: ModelInfo
    prompt: Prompt


@dataclass(slots=True)
class Loading:
    """One attempt to load: `run` it on any thread; once ``done`` is set there is a ``model``, or else a ``fault``."""

    settings: Settings
    say: Say = say_nothing  # from the thread that runs it, about what takes long
    started: float = field(default_factory=time.monotonic)
    done: Event = field(default_factory=Event)
    model: Model | None = None
    fault: str = ''
    abandoned: bool = False  # nobody wants the model any more: what has not begun need not

    def run(self) -> None:
        """Load; whatever goes wrong is put into one sentence."""
        try:
            self.model = None if self.abandoned else self._load()
        except BaseException as error:  # of libraries that may do anything, SystemExit included
            known = isinstance(error, StpruneError)
            self.fault = str(error) if known else f'loading failed with {type(error).__name__}: {one_line(error)}'
        self.done.set()

    def _load(self) -> Model:
        from stprune_ros.vlm.loading import load_model

        backend, prompt = load_model(self.settings, self.say)
        # Importing and compiling take a second, for which the executor has no time once images come.
        from stprune_ros.inference.pipeline import warm_up

        warm_up(backend.info.device)
        return Model(backend, backend.info, prompt)
