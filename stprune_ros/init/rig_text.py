"""A rig file to fill in, for rigs whose tf does not tell where the cameras look."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

HEAD = """\
# Where each camera looks: azimuth_deg is 0 ahead and 90 to the left, pitch_deg positive downwards, position in metres
# in the vehicle frame (x forward, y left, z up). Look at every line before you drive with it.
cameras:
"""
# Words of camera names, most telling first, and where such a camera looks.
SIDES = (
    (r'(front|fwd).*left|left.*front|(^|_)fl($|_)', 60.0),
    (r'(front|fwd).*right|right.*front|(^|_)fr($|_)', -60.0),
    (r'(back|rear).*left|left.*(back|rear)|(^|_)(bl|rl)($|_)', 120.0),
    (r'(back|rear).*right|right.*(back|rear)|(^|_)(br|rr)($|_)', -120.0),
    (r'front|forward|fwd', 0.0),
    (r'back|rear', 180.0),
    (r'left', 90.0),
    (r'right', -90.0),
)


def rig_text(names: Sequence[str], infos: Mapping[str, Any]) -> str:
    """YAML of a rig file: intrinsics from camera_info, azimuths guessed from names, both where possible."""
    lines = []
    for name in names:
        lines.append(f'  {name}:')
        lines += _optics(infos.get(name))
        azimuth = guess_azimuth(name)
        if azimuth is None:
            lines.append('    # azimuth_deg: ...  FILL IN')
        else:
            lines.append(f'    azimuth_deg: {azimuth:g}  # guessed from the name')
        lines.append('    position: [0.0, 0.0, 1.5]  # FILL IN')
    return HEAD + '\n'.join(lines) + '\n'


def guess_azimuth(name: str) -> float | None:
    """Where a camera of that name looks, in degrees, left positive; None where its name does not say."""
    words = name.lower().replace('-', '_')
    return next((azimuth for pattern, azimuth in SIDES if re.search(pattern, words)), None)


def _optics(info: Any) -> list[str]:
    if info is None or not info.width or not any(info.k):
        return [f'    # {key}: ...  FILL IN' for key in ('width', 'height', 'hfov_deg')]
    k = ', '.join(f'{float(value):g}' for value in info.k)
    lines = [f'    width: {int(info.width)}', f'    height: {int(info.height)}', f'    k: [{k}]']
    if any(info.d):
        d = ', '.join(f'{float(value):g}' for value in info.d)
        lines += [f'    distortion_model: {info.distortion_model}', f'    d: [{d}]']
    return lines
