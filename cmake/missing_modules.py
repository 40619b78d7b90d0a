"""Print which of the modules given as arguments the tests cannot use: not installed, or a pytest older than 7."""

import sys
from importlib.metadata import version
from importlib.util import find_spec

OLDEST_PYTEST = 7  # the first that reads `pythonpath` of pyproject.toml


def is_usable(module: str) -> bool:
    """Whether the module is installed, and recent enough where that matters."""
    if find_spec(module) is None:
        return False
    return module != 'pytest' or int(version(module).partition('.')[0]) >= OLDEST_PYTEST


if __name__ == '__main__':
    print(', '.join(module for module in sys.argv[1:] if not is_usable(module)))
