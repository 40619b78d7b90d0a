"""A rig file to fill in, for rigs whose tf does not tell where the cameras look."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from stprune_ros.core.camera_model import CameraModel
from stprune_ros.core.rig_file import attitude_entry
from stprune_ros.errors import plain

HEAD = """\
# Where each camera looks: azimuth_deg is 0 ahead and 90 to the left, pitch_deg positive downwards, position in metres
# in the vehicle frame (x forward, y left, z up). A rolled camera has a rotation instead: the quaternion x, y, z, w
# that takes optical-frame vectors (z forward, x right, y down) there. Look at every line before you drive with it.
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


def rig_text(names: Sequence[str], infos: Mapping[str, Any], mounted: Mapping[str, CameraModel] | None = None) -> str:
    """YAML of a rig file: intrinsics from camera_info, and where tf does not tell, azimuths guessed from names."""
    lines = []
    for name in names:
        lines.append(f'  {name}:')
        model = (mounted or {}).get(name)
        if model is not None:
            lines += _optics_of(model) if model.width else _optics(infos.get(name))
            lines += [f'    {key}: {value}  # from tf' for key, value in attitude_entry(model.rotation).items()]
            place = ', '.join(f'{round(float(value), 9) + 0.0}' for value in model.translation)
            lines.append(f'    position: [{place}]  # from tf')
            continue
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


def _optics_of(model: CameraModel) -> list[str]:
    """The optics of the images, which are not those of camera_info where they are rectified, cropped or binned."""
    k = ', '.join(f'{float(value):.9g}' for value in model.k.ravel())
    lines = [f'    width: {model.width}', f'    height: {model.height}', f'    k: [{k}]']
    if any(model.d):
        lines.append(f'    distortion_model: {_word(model.distortion_model)}')
        lines.append(f'    d: [{", ".join(f"{value:.9g}" for value in model.d)}]')
    return lines


def _word(text: str) -> str:
    """Somebody else's word as a YAML value."""
    return text if re.fullmatch('[A-Za-z]\\w*', text) else json.dumps(plain(text))


def _optics(info: Any) -> list[str]:
    if info is None or not info.width or not any(info.k):
        return [f'    # {key}: ...  FILL IN' for key in ('width', 'height', 'hfov_deg')]
    k = ', '.join(f'{float(value):g}' for value in info.k)
    lines = [f'    width: {int(info.width)}', f'    height: {int(info.height)}', f'    k: [{k}]']
    if any(info.d):
        d = ', '.join(f'{float(value):g}' for value in info.d)
        lines += [f'    distortion_model: {_word(info.distortion_model)}', f'    d: [{d}]']
    return lines
