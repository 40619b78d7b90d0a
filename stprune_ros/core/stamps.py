"""Stamps of messages as integer nanoseconds, and which of them no clock has."""

from __future__ import annotations

from typing import Any

LATEST_S = 2**31 - 86400  # a day before the seconds of ROS overflow: times that are added must still fit


def stamp_of(header: Any) -> int:
    """A Header's stamp in ns; 0 where there is none, and where it is impossible: before 1970, in 2038, or no time."""
    seconds, nanoseconds = int(header.stamp.sec), int(header.stamp.nanosec)
    return seconds * 10**9 + nanoseconds if 0 <= seconds < LATEST_S and 0 <= nanoseconds < 10**9 else 0


def impossible(header: Any) -> str:
    """A stamp that `stamp_of` does not take, in words; '' for a good one, and where there is none."""
    stamp = header.stamp
    return f'{stamp.sec} s {stamp.nanosec} ns' if stamp_of(header) == 0 and (stamp.sec or stamp.nanosec) else ''
