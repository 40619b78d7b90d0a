"""Which model answers: what must be the same wherever answers stand in one file."""

from __future__ import annotations

from typing import NamedTuple

from stprune_ros.errors import ModelError, shown
from stprune_ros.vlm.backend import ModelInfo
from stprune_ros.vlm.prompt import Prompt


class AskedModel(NamedTuple):
    """A loaded model and its prompt, as far as answers depend on them."""

    model_id: str
    revision: str
    dtype: str
    prompt_id: str
    joint_common: float | None

    @classmethod
    def of(cls, info: ModelInfo, prompt: Prompt) -> AskedModel:
        """The model that was loaded here."""
        return cls(info.model_id, info.revision, info.dtype, prompt.id, info.joint_common)

    def require(self, here: AskedModel) -> None:
        """Raise ModelError where a worker loaded another model than the one that is to answer."""
        for name, wanted, found in zip(self._fields, self, here):
            if found != wanted:
                raise ModelError(
                    f'a worker has {name} {shown(found)}, and this command {shown(wanted)}: use one model folder on all'
                    ' machines, and name model.device and model.dtype'
                )
