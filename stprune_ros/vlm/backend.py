"""What the pipeline asks of a vision-language model: encode images, prefill once, score and write from there.

Everything above this package knows only this protocol; every engine implements it in a folder of its own, see
``loading.ENGINES``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:  # a prompt file is checked where there is no torch
    import torch


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Identity of a loaded model; ``trained`` is False where the weights are random.

    ``domain`` names the only world that the model was trained on; empty for a general one. ``joint_common`` is the
    value of pruning.joint_common that it was trained for; None where nobody said.
    ``notes`` are sentences about what the model folder holds and is not used, or is used in a way of its own.
    """

    model_id: str
    revision: str
    family: str
    trained: bool
    device: str
    dtype: str
    domain: str = ''
    joint_common: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """Visual tokens of one image: ``tokens`` (rows * columns, D), row-major over ``grid`` = (rows, columns).

    ``deep`` holds one (rows * columns, D) tensor per deepstack layer, empty for families without.
    ``extra`` holds tokens that belong to no patch (an image newline): (n, D), always kept, appended after the patches.
    """

    tokens: torch.Tensor
    grid: tuple[int, int]
    deep: tuple[torch.Tensor, ...] = ()
    extra: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class PreparedImages:
    """So many images as `Backend.encode` takes them; ``state`` belongs to the backend."""

    count: int
    state: Any

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, slots=True)
class VisualFrame:
    """One image in a prompt: its features and which tokens stay, ``keep`` bool (rows * columns,)."""

    features: ImageFeatures
    keep: torch.Tensor


@dataclass(frozen=True, slots=True)
class Context:
    """A prefilled prompt; ``state`` belongs to the backend and may be used for any number of questions.

    Until the next prefill, at least: an engine with one KV cache refuses an older context with a ModelError.

    ``tokens_text`` and ``tokens_visual`` count what was prefilled; extra tokens of images count as text, see
    `ImageFeatures`: ``tokens_visual`` is what the keep masks hold.
    """

    tokens_text: int
    tokens_visual: int
    state: Any


@dataclass(frozen=True, slots=True)
class Generated:
    """Greedy text; ``finished`` is False where the token limit, the deadline or the cancel event cut it short.

    ``note`` is a sentence about what else did, '' where nothing did.
    """

    text: str
    tokens: int
    finished: bool
    timed_out: bool = False
    note: str = ''


Pause = Callable[[int], bool]  # whether a text of so many tokens shall be left for now


class Text(Protocol):
    """A greedy text in progress. It keeps what it needs of its context, which may be forgotten meanwhile.

    So other prompts may be prefilled and scored before it goes on, and it says the same words all the same.
    """

    def write(
        self, deadline: float | None = None, cancel: Event | None = None, pause: Pause | None = None
    ) -> Generated | None:
        """Go on up to the end and return the whole text; None where ``pause`` said to leave it, to go on later.

        Stops early at ``deadline`` (time.monotonic() seconds) or when ``cancel`` is set: all three are looked at before
        every token, the first one included.
        Raises ModelError where it has ended; whatever it raises, it has ended then.
        """
        ...

    def so_far(self) -> str:
        """The words that are there; the last one may lack its end."""
        ...

    def close(self) -> None:
        """Give up what is held; may be called at any time."""
        ...


class Backend(Protocol):
    """A hosted model. One thread at a time."""

    info: ModelInfo
    model_pixels: int  # larger images are reduced to this many pixels before the model sees them; 0: never
    side_pixels: int  # the same for those of side cameras

    def prepare(self, images: Sequence[np.ndarray], side: bool = False) -> PreparedImages:
        """Bring RGB images, uint8 (height, width, 3), into the form that `encode` takes; they may differ in size.

        With ``side`` they are of side cameras and get the pixels of those.

        This is the part of encoding that the CPU does, whatever the device is: resize, scale, cut into patches.
        Raises StpruneError for an image of another type or shape, or too oblong for the model.
        """
        ...

    def encode(self, images: Sequence[np.ndarray] | PreparedImages) -> list[ImageFeatures]:
        """Visual tokens of each image, which is prepared first where that is not done yet."""
        ...

    def prefill(self, system: str, content: Sequence[str | VisualFrame]) -> Context:
        """Run the shared prefix (system text, then texts and images in order, pruned) once and keep its KV cache.

        An empty ``system`` leaves the system turn out. Content should end with an image or a line break: the question
        is tokenised apart from it.
        Raises StpruneError where a keep mask does not fit its image, or where texts hold image placeholders.
        """
        ...

    def check_candidates(self, question: str, candidates: Sequence[str]) -> None:
        """Raise ModelError naming candidates that the model cannot tell apart or has no words for.

        `score` would, at the first tick.
        """
        ...

    def score(self, context: Context, question: str, candidates: Sequence[str]) -> list[float]:
        """Log-probability of each candidate as the answer to ``question``, in one pass.

        Over the candidates alone: their probabilities sum to one. How many tokens a candidate has does not move it, nor
        do the forms in which it may be written; see `guided_choice`.
        Raises ModelError naming candidates that the model cannot tell apart.
        """
        ...

    def score_all(self, context: Context, asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        """`score` for several questions about the same context, in one pass; each question's sum to one."""
        ...

    def begin(self, context: Context, question: str, max_new_tokens: int) -> Text:
        """A greedy answer to ``question``, to be written: at most ``max_new_tokens`` tokens.

        There is one text at a time: one that is in progress ends.
        Raises ModelError where the question holds a mark that ends turns, shows images or the like.
        """
        ...

    def generate(
        self,
        context: Context,
        question: str,
        max_new_tokens: int,
        deadline: float | None = None,
        cancel: Event | None = None,
    ) -> Generated:
        """`begin` a text and write it in one go; every engine inherits this."""
        generated = self.begin(context, question, max_new_tokens).write(deadline, cancel)
        assert generated is not None  # nothing paused it
        return generated

    def free(self) -> None:
        """Release caches (not the weights), e.g. after running out of memory; a text in progress ends."""
        ...


@runtime_checkable
class TextEmbedder(Protocol):
    """What pruning that reads the question asks of a model beside `Backend`; an engine may lack it."""

    def embed(self, text: str) -> torch.Tensor:
        """The tokens of ``text`` as the language model takes them, in the space of visual tokens: (n, D)."""
        ...
