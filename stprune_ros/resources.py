"""Where the installed files that are not Python live: messages, config, models."""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from stprune_ros.errors import StpruneError

NAME = 'stprune_ros'


def resource_path(relative: str) -> Path:
    """Path of a file or folder below the package's share folder.

    Looks beside the sources first, then through AMENT_PREFIX_PATH (colcon), then below ``sys.prefix`` (pip sets no
    AMENT_PREFIX_PATH). Raises StpruneError naming every place it looked.
    """
    source = Path(__file__).resolve().parents[1]
    prefixes = [*filter(None, os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)), sys.prefix]
    roots = [source, *(Path(prefix) / 'share' / NAME for prefix in prefixes)]
    # The source root is no package root when installed: site-packages has no package.xml.
    found = [root / relative for root in roots if (root / 'package.xml').is_file() and (root / relative).exists()]
    if not found:
        places = ', '.join(str(root) for root in roots)
        raise StpruneError(f"'{relative}' of {NAME} is not installed; looked in {places}")
    return found[0]


def version() -> str:
    """The version of this package, as its package.xml has it: colcon installs no metadata of pip's."""
    found = ElementTree.parse(resource_path('package.xml')).getroot().findtext('version')
    return found or 'unknown'


def dds_profile() -> tuple[str, str]:
    """Environment variable and file that give camera images room in the shared memory of Fast DDS."""
    fast_dds_2 = os.environ.get('ROS_DISTRO') in ('humble', 'jazzy')
    variable = 'FASTRTPS_DEFAULT_PROFILES_FILE' if fast_dds_2 else 'FASTDDS_DEFAULT_PROFILES_FILE'
    return variable, str(resource_path('config/dds/fastdds_shm.xml'))
