"""What `stprune check` says: everything that is wrong with a parameter file, the files it names and the model folder.

Nothing that is slow to import is imported before it is needed; torch only where the memory is worked out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stprune_ros.errors import SettingsError, StpruneError
from stprune_ros.results import Show
from stprune_ros.settings import parameter_file
from stprune_ros.settings.parameters import lookup
from stprune_ros.settings.settings import Settings
from stprune_ros.settings.topic_names import replay_only

# Parameters that a calibration holds for, and what contradicts them.
GROUPS_OF_CALIBRATION = ('pruning.', 'history.', 'model.', 'cameras.refresh_ms', 'cameras.stale_after_ms')


def check(file: Path, model: bool, size: tuple[int, int], memory: int | None, show: Show) -> int:
    """Print every problem of a parameter file on stderr, each behind the file's name; returns 0 without any, else 1.

    With ``model`` the model folder is checked too, and what it takes of memory shown, for images of ``size`` =
    (height, width); with ``memory`` for another machine, which has so many bytes free. Raises StpruneError where the
    file cannot be read, the model does not fit, or the calibration is for another one.
    """
    found = parameter_file.ParameterFile.read(file)
    for note in found.notes:
        print(f'{file}: {note}', file=sys.stderr)
    problems = [*found.problems, *parameter_file.problems_in(found.values)]
    problems += problems_of_named_files(found.values, here=memory is None)
    model_problems, model_notes = model_report(found.values, memory is None) if model else ([], [])
    problems = list(dict.fromkeys([*problems, *model_problems]))  # a folder that is missing is named once
    for problem in problems:
        print(f'{file}: {problem}', file=sys.stderr)
    if problems:
        show('', {'file': file, 'problems': problems, 'notes': found.notes})
        return 1
    settings = Settings.from_values(found.values)
    notes = (*replay_only(settings.cameras, settings.topics), *model_notes)
    told = '\n'.join(f'{file}: {note}' for note in ('all parameters are known and in range', *notes))
    show(told, {'file': file, 'problems': [], 'notes': [*found.notes, *notes]})
    if not model:
        return 0
    from stprune_ros.vlm.loading import check_candidates, check_memory, require_calibration

    require_calibration(settings, lambda sentence: print(f'{file}: {sentence}', file=sys.stderr))
    check_candidates(settings)
    text, fits, warning, figures = check_memory(settings, size, memory)
    show(text, {'memory': {'fits': fits, 'warning': warning, **figures}})
    if not fits:
        raise StpruneError(
            'the model does not fit: lower history.frames, pruning.keep_ratio, latency.keep_max or'
            ' model.max_image_pixels, or quantize it'
        )
    if warning:
        print(f'{file}: {warning}', file=sys.stderr)
    return 0


def good_values(values: dict[str, object]) -> dict[str, object]:
    """The values that are allowed, each by itself; the others are named elsewhere."""
    good: dict[str, object] = {}
    for name, value in values.items():
        with suppress(SettingsError):
            good[name] = lookup(name).parse(value)
    return good


def problems_of_named_files(values: dict[str, object], here: bool) -> list[str]:
    """What is wrong with rig, prompt, calibration and GGUF file and model path, and between them and other ``values``.

    A library of llama.cpp is looked for only where the model will run ``here``.
    """
    good = good_values(values)
    problems = _rig_problems(good)
    prompt, path = str(good.get('prompt.file', '')), str(good.get('model.path', ''))
    if prompt:
        from stprune_ros.vlm.prompt import Prompt

        problems += _refusal(lambda: Prompt.load(prompt))
    if path:
        from stprune_ros.vlm.hf.model_folder import require_path

        problems += _refusal(lambda: require_path(path))
    gguf, library = str(good.get('model.gguf', '')), str(good.get('model.engine_library', ''))
    if gguf:
        from stprune_ros.vlm.llama_cpp.gguf_file import GgufFile

        problems += _refusal(lambda: GgufFile.read(gguf))
    if library and here:
        from stprune_ros.vlm.llama_cpp.library import find_library

        problems += _refusal(lambda: find_library(library))
    if good.get('prompt.calibration'):
        from stprune_ros.vlm.loading import load_calibration

        # Without the groups that could contradict each other, which is said elsewhere.
        bound = {name: value for name, value in good.items() if name.startswith(GROUPS_OF_CALIBRATION)}
        bound['prompt.calibration'] = good['prompt.calibration']
        problems += _refusal(lambda: load_calibration(Settings.from_values(bound)))
    return problems


def _rig_problems(good: dict[str, object]) -> list[str]:
    path = str(good.get('cameras.rig_file', ''))
    if not path:
        return []
    from stprune_ros.core.rig import CameraRig

    try:
        ring = CameraRig.from_file(path).ring
    except StpruneError as error:
        return str(error).splitlines()
    names, listed = _texts(good.get('cameras.names')), ', '.join(ring)
    problems = [
        f"camera '{camera}' in 'cameras.names' is not in the rig file: {listed}"
        for camera in dict.fromkeys(names)
        if camera not in ring
    ]
    roles = filter(None, [str(good.get('cameras.anchor', '')), *_texts(good.get('cameras.critical'))])
    problems += [
        f"camera '{camera}' in 'cameras.anchor' or 'cameras.critical' is not in the ring: {listed}"
        for camera in dict.fromkeys(roles)
        if camera not in ring and not names  # with names it is compared with those
    ]
    return problems


def _texts(value: object) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


def model_report(values: dict[str, object], here: bool) -> tuple[list[str], list[str]]:
    """Problems of the model folder of ``model.*``, all of them, and notes about it; a hub id is looked up.

    Where it will not run ``here``, the library of llama.cpp is not looked at.
    """
    from stprune_ros.vlm.loading import inspect_model

    asked = ('model.', 'pruning.')
    good = {name: value for name, value in good_values(values).items() if name.startswith(asked)}
    try:
        settings = Settings.from_values(good)
    except SettingsError:  # two of them contradict each other, which is said elsewhere
        return [], []
    return inspect_model(settings, here)


def _refusal(attempt: Callable[[], object]) -> list[str]:
    try:
        attempt()
    except StpruneError as error:
        return str(error).splitlines()
    return []
