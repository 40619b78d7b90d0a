"""Whether a GGUF file holds the language model of a model folder: architecture, sizes, vocabulary, deepstack. No torch.

Whatever differs would give text and hints that look like answers, so all of it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stprune_ros.errors import ModelError, plain
from stprune_ros.progress import Say, say_nothing
from stprune_ros.vlm.hf.files import read_json
from stprune_ros.vlm.hf.weight_digest import weights_digest
from stprune_ros.vlm.llama_cpp.gguf_file import GgufFile
from stprune_ros.vlm.llama_cpp.library import find_library, load_library

ARCHITECTURES = {'qwen2_vl': 'qwen2vl', 'qwen2_5_vl': 'qwen2vl', 'qwen3_vl': 'qwen3vl'}  # by family
# What both say, by the names of each.
SIZES = {
    'embedding_length': 'hidden_size',
    'block_count': 'num_hidden_layers',
    'feed_forward_length': 'intermediate_size',
    'attention.head_count': 'num_attention_heads',
    'attention.head_count_kv': 'num_key_value_heads',
}
DEEPSTACK = 'n_deepstack_layers'  # left out where there are none
EMBEDDINGS = 'token_embd.weight'
PADDING = '[PAD'  # what llama.cpp's converter calls ids that the tokenizer does not use


def engine_faults(gguf: str, library: str | None, folder: Path) -> list[str]:
    """What is wrong with a GGUF file, a library, and between the file and a checked model folder.

    ``library`` None is one of another machine, which is not looked at.
    """
    config = read_json(folder / 'config.json')
    family = str(config['model_type'])
    faults = family_fault(family)
    if library is not None:
        try:
            load_library(find_library(library))
        except ModelError as error:
            faults.append(str(error))
    try:
        file = GgufFile.read(gguf)
        return faults + (pairing_faults(file, family, config) if family in ARCHITECTURES else [])
    except ModelError as error:
        return [*faults, str(error)]


def revision_of(weights: Sequence[Path], gguf: str | Path, say: Say = say_nothing) -> str:
    """The digest of all weights that an answer may come from: those of the folder and those of the GGUF file."""
    return weights_digest((*weights, Path(gguf)), say)


def family_fault(family: str) -> list[str]:
    """Why a family cannot be run, one sentence; empty where it can."""
    if family in ARCHITECTURES:
        return []
    return [
        f"model.engine 'llama.cpp' runs {', '.join(ARCHITECTURES)}, not {family}: its positions or its attention are"
        " not llama.cpp's; set model.engine to 'transformers'"
    ]


def pairing_faults(file: GgufFile, family: str, config: Mapping[str, Any]) -> list[str]:
    """What of the sizes of a GGUF file differs from the config.json of a folder, one sentence each.

    Sizes that ``config`` leaves to defaults are not compared. Raises ModelError where the file does not say one.
    """
    wanted = ARCHITECTURES[family]
    if file.architecture != wanted:
        return [_apart(file, 'is of architecture', f"'{plain(file.architecture)}'", f"'{wanted}' for {family}")]
    text = config.get('text_config') or config  # older checkpoints have its entries one level up
    sizes: dict[str, Any] = {key: text.get(name) for key, name in SIZES.items()}
    if wanted == 'qwen3vl':
        sizes[DEEPSTACK] = len(config.get('vision_config', {}).get('deepstack_visual_indexes', ()))
    faults = []
    for key, expected in sizes.items():
        found = file.number(key, 0 if key == DEEPSTACK else None)
        if expected is not None and found != expected:
            faults.append(_apart(file, f'has {key}', found, expected))
    deep, blocks = file.number(DEEPSTACK, 0), file.number('block_count')
    if deep >= blocks:
        faults.append(
            f"GGUF file '{file.path}' has {deep} deepstack layers and {blocks} blocks, and llama.cpp runs only fewer"
            " deepstack layers than blocks: set model.engine to 'transformers'"
        )
    table, shape = file.tensor(EMBEDDINGS).shape, (text.get('hidden_size'), text.get('vocab_size'))
    if not faults and None not in shape and table != shape:
        faults.append(_apart(file, f'has {EMBEDDINGS} of', _times(table), _times(shape)))
    return faults


def vocabulary_fault(file: GgufFile, tokens: Sequence[str | None]) -> list[str]:
    """The first token that a GGUF file calls otherwise than the tokenizer of a folder, in a sentence; empty for none.

    A file without a vocabulary is refused, too: the same sizes prove nothing.
    """
    if not file.tokens:
        return [f"GGUF file '{file.path}' holds no vocabulary, so whether it belongs to the model folder is not known"]
    for number, (found, wanted) in enumerate(_both(file.tokens, tokens)):
        if found != wanted and not found.startswith(PADDING):
            return [_apart(file, f'has token {number}', f"'{plain(found)}'", f"'{plain(wanted)}'")]
    return []


def _both(found: Sequence[str], wanted: Sequence[str | None]) -> Iterator[tuple[str, str]]:
    return ((one, other or PADDING) for one, other in zip(found, wanted))


def _apart(file: GgufFile, what: str, found: object, wanted: object) -> str:
    return f"GGUF file '{file.path}' {what} {found}, its model folder {wanted}: they do not belong together"


def _times(shape: Sequence[object]) -> str:
    return ' x '.join(map(str, shape))
