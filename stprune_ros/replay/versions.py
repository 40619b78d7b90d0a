"""What a run was made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

from stprune_ros.resources import version

LIBRARIES = ('torch', 'transformers', 'numpy', 'opencv-python-headless', 'numba', 'rosbags')


def versions() -> dict[str, str]:
    """Versions of this package, of Python, of the machine's system, and of the libraries that results depend on."""
    found = {'stprune_ros': version(), 'python': platform.python_version(), 'system': platform.platform()}
    for library in LIBRARIES:
        try:
            found[library] = version_of(library)
        except PackageNotFoundError:  # Debian's packages have other names
            found[library] = 'unknown'
    return found
