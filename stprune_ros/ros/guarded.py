"""Callbacks that end with themselves: what one raises is logged, and the node goes on."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from stprune_ros.errors import one_line


def guarded(callback: Callable[..., Any], what: str, warn: Callable[[str], object]) -> Callable[..., None]:
    """``callback``, whose exceptions go to ``warn`` as one sentence about ``what`` it was called for.

    The executor would pass them on to whoever spins, which is the end of the node.
    """

    @wraps(callback)  # rclpy looks at how many arguments it takes
    def call(*arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f'{Path(place.filename).name}:{place.lineno}'
            warn(f'{what} failed and is left out: {type(error).__name__} at {where}: {one_line(error)}')

    return call
