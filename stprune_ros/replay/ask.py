"""A question about one moment of a bag."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stprune_ros.core.types import Answer, Window
from stprune_ros.errors import BagError, StpruneError
from stprune_ros.inference.question import Ask, Question, Reply, status_name
from stprune_ros.io import images
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.replay.records import stamp_text
from stprune_ros.settings.settings import Settings, nanoseconds
from stprune_ros.vlm.loading import load_model, loading_text, require_model


def ask_bag(
    path: Path, settings: Settings, question: Question, at_ns: int | None, say: Callable[[str], object]
) -> dict[str, Any]:
    """The answer from the newest window up to ``at_ns`` (None: the last one), as `reply_summary` has it.

    As the node would have given it then, but for its deadline, which counts from when the model is loaded and the
    window is there. Raises StpruneError where there is no such window, or a camera is not in the ring.
    """
    with Bag(path) as bag:
        windows = BagWindows(bag, settings)
        question.require_cameras(tuple(windows.rig.ring))
        require_model(settings)
        window = newest_window(windows, at_ns)
        say(loading_text(settings))
        from stprune_ros.inference.pipeline import Pipeline  # brings torch, for which a refusal need not wait

        backend, prompt = load_model(settings, say)
        pipeline = Pipeline(settings, backend, windows.rig, prompt, images.decode_for_model)
        ask = Ask(question)
        answer = pipeline.run(window, ask=ask)
    if ask.reply is None:
        raise StpruneError(f'nothing was inferred at {stamp_text(answer.stamp_ns)}: {_why_not(answer)}')
    return reply_summary(ask.reply, question, settings)


def newest_window(windows: BagWindows, at_ns: int | None) -> Window:
    """The last window whose stamp is not after ``at_ns``. Raises BagError naming the first stamp where none is."""
    newest: Window | None = None
    for window in windows.read():
        if at_ns is not None and window.current.stamp_ns > at_ns:
            if newest is None:
                at, first = stamp_text(at_ns), stamp_text(window.current.stamp_ns)
                raise BagError(f"bag '{windows.bag.path}' has no tick up to {at}: the first is at {first}, change --at")
            break
        newest = window
    if newest is None:
        raise BagError(f"bag '{windows.bag.path}' gave no frame set that could be asked about: see `stprune replay`")
    return newest


def reply_summary(reply: Reply, question: Question, settings: Settings) -> dict[str, Any]:
    """A reply as `stprune ask --json` has it."""
    answer = reply.answer
    assert answer is not None
    text = reply.text if reply.has_answer else ''
    probabilities = reply.probabilities if text else ()
    return {
        'status': status_name(reply.status),
        'reason': reply.reason,
        'text': text,
        'truncated': reply.truncated,
        'candidates': [{'text': one, 'probability': p} for one, p in zip(question.candidates, probabilities)],
        'stamp_ns': answer.stamp_ns,
        'valid_until_ns': answer.stamp_ns + (nanoseconds(settings.output.valid_for_ms) if text else 0),
        'tokens': reply.tokens,
        'stage_ms': {name: round(ms, 3) for name, ms in reply.stage_ms.items()},
        'model_id': answer.provenance.model_id,
        'model_revision': answer.provenance.model_revision,
        'prompt_id': answer.provenance.prompt_id,
        'keep_ratio': answer.provenance.keep_ratio,
        'cameras': {view.camera: view.state.name for view in answer.views},
    }


def _why_not(answer: Answer) -> str:
    return answer.notes[0] if answer.notes else answer.hint.status.name
