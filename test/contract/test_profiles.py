"""The profiles fit the computers that they are for, in the published shapes of their models; docs say how well."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.engines import needs_llama
from helpers.published_shapes import write_published, write_published_gguf

from stprune_ros.bench.architectures import QWEN3_2B, QWEN3_4B, Architecture
from stprune_ros.bench.bounds import DEVICES, DeviceSpec, token_bytes
from stprune_ros.cli import main
from stprune_ros.pruning.pruner import final_budget
from stprune_ros.resources import resource_path
from stprune_ros.settings.parameter_file import ParameterFile, settings_of
from stprune_ros.settings.settings import Settings

pytestmark = needs_llama
ROOT = Path(__file__).resolve().parents[2]
PROFILES = ('workstation', 'orin_agx', 'orin_nx')
TEXT_TOKENS = 411  # of Qwen3-VL with the default prompt and both questions: docs/models.md
ON: dict[str, tuple[Architecture, DeviceSpec]] = {'orin_agx': (QWEN3_4B, DEVICES[0]), 'orin_nx': (QWEN3_2B, DEVICES[1])}


def profile(name: str) -> Path:
    return resource_path(f'config/profiles/{name}.param.yaml')


def settings(file: Path) -> Settings:
    return settings_of(ParameterFile.read(file))


def documented(name: str) -> dict[str, str]:
    """The column of a profile in the table of the docs."""
    lines = (ROOT / 'docs' / 'profiles.md').read_text().partition('<!-- profiles -->\n')[2].splitlines()
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines[: lines.index('')]]
    column = rows[0].index(name)
    return {row[0]: row[column] for row in rows}


@pytest.fixture(scope='module')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders and GGUF files of the models that the profiles name."""
    root = tmp_path_factory.mktemp('published')
    for hub_id in {documented(name)['model'] for name in PROFILES}:
        folder = write_published(root / hub_id.split('/')[1], hub_id)
        write_published_gguf(folder, root / f'{folder.name}-Q4_K_M.gguf')
    return root


def check(capsys: pytest.CaptureFixture[str], file: Path, memory: str) -> tuple[float, int, str]:
    """GiB that are left, below 0 where it does not fit; tokens of an image, and what was said on stderr."""
    code = main(['check', str(file), '--model', '--memory', memory])
    said = capsys.readouterr()
    tokens = re.search(r'images of (\d+) tokens', said.out)
    if tokens is None:
        return -1.0, 0, said.err
    left = re.search(r'^left +([\d.]+) GiB', said.out, re.MULTILINE)
    assert (code == 0) == (left is not None)
    return float(left[1]) if left else -1.0, int(tokens[1]), said.err


def placed(name: str, shapes: Path, folder: Path, **changes: object) -> Path:
    """A copy of a profile that names the models of ``shapes``, with other values of some entries."""
    text = profile(name).read_text().replace('/models/', f'{shapes}/')
    for entry, value in changes.items():
        text, count = re.subn(rf'\b{entry}: .*', f'{entry}: {value}', text)
        assert count == 1, entry
    file = folder / f'{name}.param.yaml'
    file.write_text(text)
    return file


@pytest.mark.parametrize('name', PROFILES)
def test_a_profile_is_what_the_docs_say(name: str) -> None:
    found, shown = settings(profile(name)), documented(name)
    assert sorted(path.name for path in profile(name).parent.iterdir()) == sorted(
        f'{one}.param.yaml' for one in PROFILES
    )
    engine = 'llama.cpp, Q4_K_M' if found.model.engine == 'llama.cpp' else f'transformers, {found.model.dtype}'
    assert {
        'engine': engine,
        'pixels of an image, at most': str(found.model.max_image_pixels),
        'frames': str(found.history.frames),
        'ms between frames': f'{found.history.stride_ms:g}',
        'keep ratio, at most': f'{found.latency.keep_max:g}',
        'target, ms': f'{found.latency.target_ms:g}',
        'written tokens, at most': str(found.inference.max_new_tokens),
        'hints valid for, ms': f'{found.output.valid_for_ms:g}',
    }.items() <= shown.items()
    assert Path(found.model.path).name == shown['model'].split('/')[1]
    assert found.model.gguf in ('', f'{found.model.path}-Q4_K_M.gguf')
    assert found.latency.target_ms < found.inference.deadline_ms < found.history.stride_ms, 'one set of images a tick'
    assert found.latency.keep_min <= found.pruning.keep_ratio <= found.latency.keep_max
    assert len(found.cameras.names) == 6


@pytest.mark.parametrize('name', PROFILES)
def test_every_path_of_a_profile_is_marked(name: str) -> None:
    lines = profile(name).read_text().splitlines()
    named = [index for index, line in enumerate(lines) if re.match(r' +(path|gguf|engine_library|names): ', line)]
    assert len(named) == (4 if settings(profile(name)).model.engine == 'llama.cpp' else 2)
    assert all(lines[index - 1].strip().startswith('# SET: ') for index in named)


@pytest.mark.parametrize('name', PROFILES)
def test_a_profile_fits_with_the_margin_of_the_docs(
    name: str, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = documented(name)
    free, least = shown['free memory assumed, GiB'], float(shown['left, at least, GiB'])
    left, tokens, said = check(capsys, placed(name, shapes, tmp_path), f'{free}GiB')
    assert said == ''
    assert least <= left
    assert tokens == int(shown['tokens of an image of 1920x1080'])
    assert float(free) - left == pytest.approx(float(shown['taken at the highest keep ratio, GiB']), abs=0.011)
    # The margin is one that more frames or pixels would use up, and on llama.cpp the context even before.
    for changes in ({'frames': 16}, {'max_image_pixels': 0}):
        if settings(profile(name)).model.engine == 'llama.cpp':
            _, tokens, said = check(capsys, placed(name, shapes, tmp_path, **changes), f'{free}GiB')
            assert tokens == 0 and 'model.context_tokens is' in said
            changes['context_tokens'] = 16384
        left, tokens, _ = check(capsys, placed(name, shapes, tmp_path, **changes), f'{free}GiB')
        assert tokens and left < least


@pytest.mark.parametrize('name', ON)
def test_computed_times_are_those_of_the_docs(name: str) -> None:
    shown, (architecture, device) = documented(name), ON[name]
    tokens, frames = int(shown['tokens of an image of 1920x1080']), int(shown['frames'])
    tower = architecture.vision_flops(tokens, architecture.vision_layers)
    kept = 6 * final_budget(0.1, frames * tokens) + TEXT_TOKENS
    assert [shown[f'{what} at best, ms'] for what in ('encode', 'prefill of 10 %', 'written token')] == [
        f'{6 * tower / device.tflops / 1e9:.0f}',
        f'{architecture.language.prefill_flops(kept) / device.tflops / 1e9:.0f}',
        f'{token_bytes(architecture.language, "Q4_K_M") / device.gb_s / 1e6:.1f}',
    ]
