"""A text classifier from a folder that judges answers as Lingo-Judge does: right where its one logit is above 0.

Input and threshold are those of https://github.com/wayveai/LingoQA (benchmark/judge.py), without which its figures
would be others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stprune_ros.errors import ModelError, one_line
from stprune_ros.vlm.hf.library import transformers
from stprune_ros.vlm.hf.pretrained import LOCAL
from stprune_ros.vlm.hf.weight_digest import weights_digest

MAX_TOKENS = 128


@dataclass(frozen=True)
class TextClassifier:
    """``name`` is the folder's, ``revision`` a digest of its weights."""

    name: str
    revision: str
    tokenizer: Any
    model: Any

    @classmethod
    def load(cls, folder: Path) -> TextClassifier:
        """Load a folder: weights from safetensors only, no code of its own, no network.

        Raises ModelError where it holds no such classifier, or one with other than one logit.
        """
        weights = tuple(sorted(folder.glob('*.safetensors')))
        if not weights:
            raise ModelError(
                f"judge '{folder}' has no .safetensors file; weights in other formats are not read: convert them with"
                ' save_pretrained of transformers'
            )
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)
            model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **LOCAL
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise ModelError(f"judge '{folder}' cannot be loaded: {one_line(error)}") from None
        if report['missing_keys']:  # they would be random
            raise ModelError(f"judge '{folder}' lacks {len(report['missing_keys'])} weights of a text classifier")
        if model.config.num_labels != 1:
            raise ModelError(f"judge '{folder}' has {model.config.num_labels} logits; one that judges has one")
        return cls(folder.resolve().name, weights_digest(weights), tokenizer, model.eval())

    def judge(self, question: str, truths: Sequence[str], answer: str) -> float:
        """1 where the answer is right by one of the true ones, else 0."""
        mark, said = self.tokenizer.cls_token or '', _plain(answer)
        texts = [f'{mark}\nQuestion: {question}\nAnswer: {_plain(truth)}\nStudent: {said}' for truth in truths]
        encoded = self.tokenizer(texts, return_tensors='pt', padding=True, truncation=True, max_length=MAX_TOKENS)
        with torch.inference_mode():
            return float(self.model(**encoded).logits.squeeze(-1).max() > 0)


def _plain(text: str) -> str:
    return text.lower().strip()
