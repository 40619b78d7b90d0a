"""The full prompt the ordinary way, as a reference: template, tokenizer and image processor over everything at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

# Per family of square tiles: what its own processor writes for one image around the image tokens, how many of those,
# and how that processor is kept from cutting images up.
TILES: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    'llava_onevision': ('', '', 16 + 1, {}),
    'internvl': ('<img>', '</img>', 16, {'crop_to_patches': False}),
    'smolvlm': (
        '<fake_token_around_image><global-img>',
        '<fake_token_around_image>',
        16,
        {'do_image_splitting': False, 'size': {'longest_edge': 128}},
    ),
    'gemma3': ('\n\n<start_of_image>', '<end_of_image>\n\n', 16, {'do_pan_and_scan': False}),
}
TILES['idefics3'] = TILES['smolvlm']
WRITTEN = {'llava_onevision': '<image>', 'gemma3': '<start_of_image>'}  # images stand in the text, not beside it


class Plain:
    """One prompt with images on a plain transformers model; ``content`` holds texts and None for each image."""

    def __init__(
        self,
        backend: Any,
        system: str,
        content: Sequence[str | None],
        question: str,
        images: Sequence[np.ndarray],
        answer: str = '',
    ) -> None:
        self.model, self.tokenizer, self.family = backend._model, backend._tokenizer, backend.info.family
        self.image_id = self.model.config.image_token_id
        self.image = self.tokenizer.convert_ids_to_tokens(self.image_id)
        text = self._rendered(system, content, question)
        if self.family in TILES:
            before, after, self.count, options = TILES[self.family]
            tokens = [self.count] * len(images)
            self.inputs = self._tiles(backend._processor, list(images), options)
            placeholder = WRITTEN.get(self.family, self.image)
        else:
            before = after = ''
            placeholder = self.image
            batch = backend._processor(images=list(images), return_tensors='pt')
            self.inputs = {name: batch[name] for name in ('pixel_values', 'image_grid_thw')}
            merge = self.model.config.vision_config.spatial_merge_size
            tokens = [int(grid.prod() // merge**2) for grid in batch['image_grid_thw']]
        pieces = text.split(placeholder)
        shown = pieces[0]
        for number, piece in zip(tokens, pieces[1:], strict=True):
            shown += before + self.image * number + after + piece
        self.ids = self.tokenizer(shown + answer, add_special_tokens=False, return_tensors='pt').input_ids
        self.kinds = (self.ids == self.image_id).int()
        self.inputs = {
            name: value.to(self.model.dtype) if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in self.inputs.items()
        }

    def generate(self, count: int) -> list[int]:
        """What the model's own greedy ``generate`` writes."""
        told = {'mm_token_type_ids': self.kinds} if self.family not in TILES else {}
        told |= {'token_type_ids': self.kinds} if self.family == 'gemma3' else {}
        out = self.model.generate(
            input_ids=self.ids,
            attention_mask=torch.ones_like(self.ids),
            **self.inputs,
            **told,
            do_sample=False,
            max_new_tokens=count,
        )
        return out[0, self.ids.shape[1] :].tolist()

    @torch.inference_mode()
    def logits(self, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (S, vocabulary); visual tokens without ``keep`` are there but nobody may look at them."""
        visible = self._visible()
        length = len(visible)
        if keep is not None:
            kept = torch.ones(length, dtype=torch.bool)
            kept[self.kinds[0].bool()] = self._with_extra(keep)
            visible &= kept[None] | torch.eye(length, dtype=torch.bool)
        out = self.model(
            input_ids=self.ids,
            attention_mask=self._mask(visible),
            position_ids=self._positions(),
            **self.inputs,
            use_cache=False,
        )
        return out.logits[0]

    def _rendered(self, system: str, content: Sequence[str | None], question: str) -> str:
        parts = [{'type': 'image'} if part is None else {'type': 'text', 'text': part} for part in content]
        parts.append({'type': 'text', 'text': question})
        if self.family in WRITTEN:
            parts = [{'type': 'text', 'text': ''.join(part.get('text', WRITTEN[self.family]) for part in parts)}]
        turns = [
            {'role': 'system', 'content': [{'type': 'text', 'text': system}]},
            {'role': 'user', 'content': parts},
        ]
        rendered: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return rendered

    def _tiles(self, processor: Any, images: list[np.ndarray], options: dict[str, Any]) -> dict[str, Any]:
        """All images of one prompt, as the family's own processor does several images."""
        nested = [images] if self.family in ('llava_onevision', 'smolvlm', 'idefics3') else images
        batch = processor(images=nested, return_tensors='pt', **options)
        names = {
            'llava_onevision': ('pixel_values', 'image_sizes'),
            'smolvlm': ('pixel_values', 'pixel_attention_mask'),
            'idefics3': ('pixel_values', 'pixel_attention_mask'),
        }
        found = {name: batch[name] for name in names.get(self.family, ('pixel_values',))}
        if self.family == 'llava_onevision':
            found['batch_num_images'] = torch.tensor([len(images)])
        return found

    def _with_extra(self, keep: torch.Tensor) -> torch.Tensor:
        """The newline token that LLaVA-OneVision puts behind the patches of an image always stays."""
        if self.family != 'llava_onevision':
            return keep
        return torch.cat(
            [keep.view(-1, self.count - 1), torch.ones(len(keep) // (self.count - 1), 1).bool()], 1
        ).flatten()

    def _visible(self) -> torch.Tensor:
        """Who sees whom: what is before, and in Gemma3 the tokens of one image each other."""
        length = self.ids.shape[1]
        visible = torch.ones(length, length, dtype=torch.bool).tril()
        if self.family == 'gemma3':
            places = self.kinds[0].nonzero().flatten().view(-1, self.count)
            for image in places:
                visible[image[:, None], image[None]] = True
        return visible

    def _mask(self, visible: torch.Tensor) -> Any:
        def additive(seen: torch.Tensor) -> torch.Tensor:
            return torch.zeros(1, 1, *seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)

        if self.family != 'gemma3':
            return additive(visible)
        place = torch.arange(len(visible))
        near = place[:, None] - place[None] < self.model.config.text_config.sliding_window
        return {'full_attention': additive(visible), 'sliding_attention': additive(visible & near)}

    def _positions(self) -> torch.Tensor:
        if self.family in TILES:
            return torch.arange(self.ids.shape[1])[None]
        positions, _ = self.model.base_model.get_rope_index(
            self.ids, image_grid_thw=self.inputs['image_grid_thw'], mm_token_type_ids=self.kinds
        )
        return positions
