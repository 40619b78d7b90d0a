"""The border to transformers: the library, or one sentence that says how to get it, and its kind of encoder output."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from stprune_ros.errors import ModelError
from stprune_ros.vlm.hf.family import EncoderOutput
from stprune_ros.vlm.hf.model_checks import HOOK

# transformers imports torchao wherever that is installed, which then warns of kernels that nothing here uses.
for _logger in ('torchao', 'torch.utils._pytree'):
    logging.getLogger(_logger).setLevel(logging.ERROR)
try:
    import transformers
except ImportError as missing:
    raise ModelError(f"'{missing.name}' is not installed; install it with pip install 'transformers>=5.18'") from None

__all__ = ['image_hook', 'transformers']


@dataclass
class HookOutput(transformers.utils.ModelOutput):  # type: ignore[misc]
    """`family.EncoderOutput` in the library's own kind of output: since 5.24 it takes nothing else."""

    last_hidden_state: Any = None
    pooler_output: Any = None
    deepstack_features: Any = None


def image_hook(kept: EncoderOutput) -> dict[str, Any]:
    """Arguments of a forward pass that puts ``kept`` where the image tokens of its ids stand."""
    output = HookOutput(pooler_output=kept.pooler_output, deepstack_features=kept.deepstack_features)
    return {HOOK: {'image': output}}
