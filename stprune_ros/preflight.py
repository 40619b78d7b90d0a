"""What a command can refuse at once: outputs that cannot be written, before anything slow is imported or computed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from stprune_ros.errors import StpruneError

RESULTS = 'results.mcap'  # what a replay writes; must not be what it reads


def require_folder(output: Path, bag: Path | None = None) -> None:
    """Raise StpruneError where ``output`` cannot be a folder with new files, or is the ``bag`` that is read.

    Leaves nothing behind.
    """
    if output.exists() and not output.is_dir():
        raise StpruneError(f"'{output}' is a file, where a folder for the results is to be; name another --output")
    if bag is not None and bag.exists():
        own = [output] if bag.is_dir() else [output / RESULTS]
        if any(path.exists() and path.samefile(bag) for path in own):
            raise StpruneError(f"'{output}' is where the bag itself lies; name another folder for --output")
    _require_writable(output)


def require_file(output: Path, ending: str = '.json') -> None:
    """Raise StpruneError where ``output`` cannot be a new file with a plot of that name beside it.

    ``ending`` is the one to propose.
    """
    if output.is_dir():
        raise StpruneError(f"'{output}' is a folder; name a file for --output")
    if output.suffix == '.png':
        raise StpruneError(f"'{output}' would be overwritten by the plot beside it; name a {ending} file for --output")
    if not output.parent.is_dir():
        raise StpruneError(f"there is no folder '{output.parent}' for '{output.name}'; make it")
    _require_writable(output.parent)


def require_other(output: Path, inputs: Mapping[str, Path | None]) -> None:
    """Raise StpruneError where ``output`` is one of the files that are read; ``inputs`` by what they are."""
    for what, path in inputs.items():
        if path is not None and path.exists() and output.exists() and output.samefile(path):
            raise StpruneError(f"'{output}' is the {what}; name another --output")


def _require_writable(folder: Path) -> None:
    """Try it: what permissions say is not the whole truth, for root or on a read-only disk."""
    made = []
    try:
        for path in reversed([folder, *folder.parents]):
            if not path.exists():
                path.mkdir()
                made.append(path)
        descriptor, name = tempfile.mkstemp(prefix='.stprune', dir=folder)
        os.close(descriptor)
        Path(name).unlink()
    except OSError as error:
        raise StpruneError(f"'{folder}' cannot be written to: {error.strerror}; name another output") from None
    finally:
        for path in reversed(made):
            path.rmdir()
