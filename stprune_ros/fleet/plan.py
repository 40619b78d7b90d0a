"""What a fleet is to run: which bags, under which settings. Nothing is opened here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from itertools import product
from pathlib import Path

from stprune_ros.errors import BagError, SettingsError, plain, require_utf8
from stprune_ros.parameter import Parameter
from stprune_ros.replay.moment import PARAMETER_FILE
from stprune_ros.settings.parameters import lookup
from stprune_ros.settings.settings import Settings

STORAGES = ('.mcap', '.db3')
PACKED = ('.mcap.zstd', '.db3.zstd')
METADATA = 'metadata.yaml'
RESULTS, OF_REPLAY = 'results.mcap', ('summary.json', PARAMETER_FILE)  # what replays leave
BASE = 'base'  # the setting of --params alone
REPORTS = ('fleet.json', 'fleet.html', 'fleet.parquet')  # beside the folders of bags
MAX_NAME = 100  # bytes of a folder; a file system takes 255, endings and digests included
TRUTHS = {'true': True, 'false': False}


@dataclass(frozen=True, slots=True)
class Drive:
    """One bag: where it lies, the name of its folder in the output, and its size in bytes."""

    path: Path
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Setting:
    """One point of a sweep: the name of its folders, the parameters that set it apart as they were given, and all."""

    name: str
    given: tuple[tuple[str, str], ...]
    settings: Settings


@dataclass(frozen=True, slots=True)
class Run:
    """One bag under one setting."""

    drive: Drive
    setting: Setting

    @property
    def folder(self) -> Path:
        """Its folder, relative to the output."""
        return Path(self.drive.name, self.setting.name)


def runs_of(drives: Sequence[Drive], settings: Sequence[Setting]) -> list[Run]:
    """Every bag under every setting: model by model, so that each is loaded once, and of each the largest bags first.

    A long bag that comes last would be waited for.
    """
    models = list(dict.fromkeys((setting.settings.model, setting.settings.prompt) for setting in settings))
    by_model = [[one for one in settings if (one.settings.model, one.settings.prompt) == model] for model in models]
    by_size = sorted(drives, key=lambda drive: (-drive.bytes, drive.name))
    return [Run(drive, setting) for group in by_model for drive in by_size for setting in group]


def find_drives(given: Sequence[str]) -> list[Drive]:
    """The bags that are named: bag folders, bag files, folders that hold bags at any depth, or patterns of these.

    Raises StpruneError where one of ``given`` names none, two have one name, one is not UTF-8, or a folder may be one
    bag or several.
    """
    paths: dict[Path, Path] = {}
    for text in given:
        found = [bag for path in _named(text) for bag in _bags_at(path)]
        if not found:
            what = 'holds no bag' if Path(text).exists() else 'names nothing that is there'
            raise BagError(
                f"'{plain(text)}' {what}: name bag folders, .mcap or .db3 files, a folder that holds some, or a pattern"
            )
        for bag in found:
            place = bag.resolve()
            if place not in paths or bag.name == place.name:  # a link to it that is found, too, gives it no other name
                paths[place] = bag
    for path in paths.values():
        require_utf8(str(path))
    apart = [path for place, path in paths.items() if place.parent not in paths]  # no file of a bag beside the bag
    drives = [Drive(path, _folder_name(_stem(path)), _size(path)) for path in apart]
    by_name: dict[str, Drive] = {}
    for drive in drives:
        other = by_name.setdefault(drive.name, drive)
        if other is not drive:
            raise BagError(
                f"bags '{other.path}' and '{drive.path}' have one name, '{drive.name}', and so one folder in --output:"
                ' rename one of them, or give each a fleet of its own'
            )
    return drives


def require_apart(output: Path, given: Sequence[str], drives: Sequence[Drive]) -> None:
    """Raise BagError where results would lie in a folder that is ``given`` for its bags, or beside one of these."""
    bags = [drive.path.resolve() for drive in drives]
    homes = [output.resolve(), *((output / drive.name).resolve() for drive in drives)]
    searched = [path.resolve() for text in given for path in _named(text) if path.is_dir()]
    of_bags = [folder for folder in searched if any(bag.is_relative_to(folder) for bag in bags)]
    taken = [folder for folder in of_bags if any(home.is_relative_to(folder) for home in homes)]
    taken += [bag.parent for bag in bags if bag.parent == homes[0]]
    if taken:
        raise BagError(
            f"with --output '{output}' results would lie among the bags in '{taken[0]}': name a folder outside of it"
        )


def settings_of(base: Settings, sweeps: Sequence[str]) -> list[Setting]:
    """Every combination of what the sweeps name, each as in ``pruning.keep_ratio=0.05,0.1``; the first varies last.

    Raises SettingsError for a text of another form, a parameter or a value that does not exist, or one named twice.
    """
    named: dict[str, list[tuple[str, object]]] = {}
    for sweep in sweeps:
        name, values = _parse(sweep)
        if name in named:
            raise SettingsError(f"--sweep names '{name}' twice: give all its values in one")
        named[name] = values
    settings = []
    for chosen in product(*named.values()):
        changes = {name: value for name, (_, value) in zip(named, chosen)}
        given = tuple((name, text) for name, (text, _) in zip(named, chosen))
        folder = _folder_name(','.join(f'{name}={text}' for name, text in given)) if given else BASE
        settings.append(Setting(folder, given, base.changed(changes)))
    return settings


def _parse(sweep: str) -> tuple[str, list[tuple[str, object]]]:
    """A parameter's name, and its values as they were written and as they are."""
    name, equals, text = sweep.partition('=')
    texts = [part.strip() for part in _between_commas(text)]
    if not equals or not all(texts):
        raise SettingsError(f"--sweep is '{plain(sweep)}', which is not of the form pruning.keep_ratio=0.05,0.1,0.25")
    found = lookup(name.strip())
    values: list[tuple[str, object]] = [(one, found.parse(_value(found, one))) for one in texts]
    twice = [text for index, (text, value) in enumerate(values) if value in [other for _, other in values[:index]]]
    if twice:
        raise SettingsError(f"--sweep gives '{found.name}' the value {plain(twice[0])} twice: name each once")
    return found.name, values


def _between_commas(text: str) -> list[str]:
    """The parts between commas that stand in no brackets."""
    return re.findall(r'(?:[^,\[]|\[[^\]]*\]?)+|(?<=,)(?=,|$)', text) or ['']


def _value(parameter: Parameter, text: str) -> object:
    """A text as the parameter's type reads it; the text itself where it cannot, for `Parameter.parse` to refuse."""
    if parameter.many and text.startswith('[') and text.endswith(']'):
        items = [item.strip() for item in text[1:-1].split(',') if item.strip()]
        return [_item(parameter.kind, item) for item in items]
    return _item(parameter.kind, text)


def _item(kind: type, text: str) -> object:
    if kind is bool:
        return TRUTHS.get(text.lower(), text)
    if '_' in text and kind in (int, float):  # of 0_1 Python makes 1, where 0.1 was meant
        return text
    try:
        return kind(text)
    except ValueError:
        return text


def _named(text: str) -> list[Path]:
    """What is called so, else what fits it as a pattern."""
    return [Path(text)] if Path(text).exists() else [Path(found) for found in sorted(glob(text, recursive=True))]


def _bags_at(path: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The bags that a file or folder is or holds, in order of their names. A link to a folder ``above`` ends there."""
    if path.is_file():
        if path.suffix in STORAGES and not _is_of_replay(path.parent):
            yield path
        return
    place = path.resolve()
    if not path.is_dir() or _is_of_replay(path) or place in above:
        return
    files = sorted(file.name for file in path.iterdir() if file.name.endswith((*STORAGES, *PACKED)))
    if (path / METADATA).is_file() or len(files) == 1:
        yield path
    elif files:
        raise BagError(
            f"folder '{path}' holds {len(files)} bag files and no metadata.yaml: name the files where each is a drive,"
            f" as in '{path}/*{Path(files[0]).suffix}', or let 'ros2 bag reindex' write it where they are one"
        )
    else:
        for folder in sorted(path.iterdir()):
            if folder.is_dir() and not folder.name.startswith('.'):
                yield from _bags_at(folder, (*above, place))


def _is_of_replay(folder: Path) -> bool:
    """Whether a replay wrote here, also one that was killed: that is no drive."""
    return (folder / RESULTS).is_file() and any((folder / name).is_file() for name in OF_REPLAY)


def _stem(path: Path) -> str:
    """What a bag is called where it was named; a folder that was named as . or .. by its own name."""
    named = path.name if path.name not in ('', '..') else path.resolve().name
    return named if path.is_dir() else path.stem


def _size(path: Path) -> int:
    files = path.rglob('*') if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _folder_name(text: str) -> str:
    """The text itself where a folder may be called so, else what is left of it with a digest that keeps it apart."""
    clean = re.sub(r'[^\w.,=+-]', '_', text)
    if clean == text and len(text.encode()) <= MAX_NAME and not text.startswith(('.', *REPORTS)):
        return text
    short = clean.lstrip('.').encode()[:MAX_NAME].decode(errors='ignore')
    return f'{short}-{hashlib.sha256(text.encode()).hexdigest()[:8]}'
