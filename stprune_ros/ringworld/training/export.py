"""A trained host as a model folder that loads offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from stprune_ros.ringworld.training.hosts import Host
from stprune_ros.ringworld.training.tokenizer import PROMPT

DOMAIN = 'ringworld, a synthetic driving world'


def write_prompt(path: Path) -> None:
    """Write the prompt file that the model is trained with."""
    path.write_text(yaml.safe_dump(PROMPT, sort_keys=False, width=120), encoding='utf-8')


def export_model(folder: Path, host: Host, model: Any, tokenizer: Any, facts: dict[str, Any]) -> None:
    """Write a model folder: weights in half precision, configs, tokenizer, prompt, and ``facts`` about the training.

    A model card (README.md) that is there already is left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: weight.half() for name, weight in model.state_dict().items()}
    model.config.dtype = torch.float16
    model.save_pretrained(folder, state_dict=half)
    (folder / 'model.safetensors').chmod(0o644)  # written for the owner only
    tokenizer.save_pretrained(folder)
    host.make_processor().save_pretrained(folder)
    write_prompt(folder / 'prompt.yaml')
    note = {'trained': True, 'domain': DOMAIN, 'host': host.name, **facts}
    (folder / 'stprune.json').write_text(json.dumps(note, indent=2) + '\n', encoding='utf-8')
