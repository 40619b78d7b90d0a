"""Whether what is read from a folder can have been put there by somebody else."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path


def is_private(folder: Path) -> bool:
    """Whether nobody but this user and root can put files into ``folder`` or replace it, be it there or not yet."""
    for place in (folder, *folder.parents):
        try:
            found = place.stat()
        except OSError:
            continue  # made by whoever comes first, in a folder that is looked at next
        sticky = place != folder and found.st_mode & stat.S_ISVTX
        if found.st_uid not in (0, os.getuid()) or (found.st_mode & _others_write(found.st_gid) and not sticky):
            return False
    return True


def _others_write(group: int) -> int:
    """The mode bits that let others write: not those of a group that is this user's alone, as most users have one."""
    try:
        alone = grp.getgrgid(group).gr_name == pwd.getpwuid(os.getuid()).pw_name and not grp.getgrgid(group).gr_mem
    except KeyError:
        alone = False
    return stat.S_IWOTH if alone or group == 0 else stat.S_IWOTH | stat.S_IWGRP
