"""The table of checkpoints in docs/models.md, worked out from the folders that `build_models` makes.

python -m real.table FOLDER
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from real.build_models import families, merged, write_files, write_shapes

from stprune_ros.pruning.pruner import final_budget
from stprune_ros.resources import resource_path
from stprune_ros.vlm.backend import ImageFeatures, VisualFrame
from stprune_ros.vlm.hf.chat import Chat
from stprune_ros.vlm.hf.memory import weight_bytes
from stprune_ros.vlm.hf.model_folder import locate_model
from stprune_ros.vlm.hf.pretrained import read_parts
from stprune_ros.vlm.loading import DEFAULT_PROMPT
from stprune_ros.vlm.prompt import Prompt, View

HEAD = (
    '| checkpoint | family | an image becomes | tokens | kept of 24 | text | share | weights | tried |',
    '|---|---|---|---|---|---|---|---|---|',
)
VIEWS, FRAMES, SIZE = 6, 4, (1080, 1920)
KEEP_RATIO = 0.1
TRIED = {
    'qwen3_vl_thinking': 'prompt, text, pruning, size',
    'smolvlm': 'prompt, text, pruning, choice with a stand-in tokenizer; size',
}


def rows(folders: Path) -> Iterator[str]:
    """One row for each checkpoint, in the order of checkpoints.yaml."""
    for name, family in families().items():
        text, kept = text_tokens(folders / name)
        for index, (hub_id, entry) in enumerate(family['checkpoints'].items()):
            config = merged(family['config'], entry.get('config', {}))
            with tempfile.TemporaryDirectory() as path:
                write_files(Path(path), folders / 'downloads', family, config)
                write_shapes(Path(path))
                weights, _ = weight_bytes(locate_model(path), 'bfloat16', 'none')
            tried = 'size' if index else TRIED.get(name, 'prompt, text, pruning, choice, size')
            cells = (
                f'[{hub_id}](https://huggingface.co/{hub_id})',
                f'`{family["config"]["model_type"]}`',
                pixels(family['processor']),
                str(kept[0]),
                str(kept[1]),
                str(text),
                f'{text / (text + kept[1]):.1%}',
                f'{weights / 2**30:.2f} GiB',
                tried,
            )
            yield f'| {" | ".join(cells)} |'


def pixels(processor: Mapping[str, Any]) -> str:
    """To what an image is brought, in words."""
    size = processor.get('max_image_size') or processor.get('size') or {}
    if 'height' in size:
        return f'{size["height"]} x {size["width"]}'
    if 'max_image_size' in processor:
        return f'{size["longest_edge"]} x {size["longest_edge"]}'
    least, most = (
        processor.get('min_pixels') or size['shortest_edge'],
        processor.get('max_pixels') or size['longest_edge'],
    )
    return f'{least} to {most} pixels'


def text_tokens(folder: Path) -> tuple[int, tuple[int, int]]:
    """Tokens of text of one tick with the default prompt and both questions; tokens of an image, and of all kept."""
    model = locate_model(folder)
    parts = read_parts(model)
    image = model.family.image_tokens(parts.config.to_dict(), parts.processor.to_dict(), SIZE, 0)
    patches = image - model.family.extra_tokens
    frame = VisualFrame(ImageFeatures(torch.zeros(patches, 1), (1, patches)), torch.zeros(patches, dtype=torch.bool))
    prompt = Prompt.load(resource_path(DEFAULT_PROMPT))
    views = [View(f'direction {view}', f'CAM_{view}', [frame] * FRAMES) for view in range(VIEWS)]
    chat = Chat(parts.tokenizer, model.family, parts.config.image_token_id, parts.config.text_config.vocab_size)
    full = chat.prompt(prompt.system, prompt.content(views, None))
    asked = [question + full.question_suffix for question in (prompt.hint_question, prompt.describe_question)]
    text = int(full.keep.sum()) + sum(len(chat.text_ids(question)) for question in asked)
    return text, (image, VIEWS * final_budget(KEEP_RATIO, FRAMES * patches))


if __name__ == '__main__':
    print('\n'.join([*HEAD, *rows(Path(sys.argv[1]))]))
