"""The mosaic: cameras where they look, dropped tokens dark."""

from __future__ import annotations

import numpy as np
import pytest

from stprune_ros.core.types import CameraState, ViewReport
from stprune_ros.io.drawing import DIMMED, TILE_HEIGHT, TILE_WIDTH, jpeg, mosaic

RING = ('front', 'front_right', 'back_right', 'back', 'back_left', 'front_left')


def views(names: tuple[str, ...], keep: np.ndarray | None = None) -> list[ViewReport]:
    keep = np.ones((1, 2, 2), bool) if keep is None else keep
    return [ViewReport(name, CameraState.OK, 1, 1, 4, 2, keep) for name in names]


def grey(names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """One grey level per camera, so that it can be found again."""
    return {name: np.full((90, 160, 3), 100 + 20 * number, np.uint8) for number, name in enumerate(names)}


def layout(picture: np.ndarray, names: tuple[str, ...]) -> list[list[str]]:
    """Which camera is in which tile, by the grey of its lower middle; '' where it is black."""
    of_level = {100 + 20 * number: name for number, name in enumerate(names)}
    rows, columns = picture.shape[0] // TILE_HEIGHT, picture.shape[1] // TILE_WIDTH
    middles = picture[TILE_HEIGHT - 40 :: TILE_HEIGHT, TILE_WIDTH // 2 :: TILE_WIDTH, 0]
    return [[of_level.get(int(middles[row, column]), '') for column in range(columns)] for row in range(rows)]


def test_six_cameras_lie_where_they_look():
    assert layout(mosaic(views(RING), grey(RING)), RING) == [
        ['front_left', 'front', 'front_right'],
        ['back_left', 'back', 'back_right'],
    ]


@pytest.mark.parametrize('count', [1, 2, 3, 4, 5, 7])
def test_every_camera_of_any_ring_has_a_tile(count):
    names = tuple(f'camera{number}' for number in range(count))
    placed = [name for row in layout(mosaic(views(names), grey(names)), names) for name in row if name]
    assert sorted(placed) == sorted(names)


def test_dropped_tokens_of_the_newest_frame_are_dark():
    keep = np.array([[[True, True], [True, True]], [[True, False], [False, True]]])
    picture = mosaic(views(('front',), keep), grey(('front',)))
    bottom = picture[TILE_HEIGHT * 3 // 4]
    assert bottom[TILE_WIDTH * 3 // 4, 0] == 100
    assert bottom[TILE_WIDTH // 4, 0] == round(100 * DIMMED)


def test_missing_camera_has_a_black_tile_with_its_name():
    picture = mosaic([*views(('front',)), ViewReport('back', CameraState.MISSING)], grey(('front',)))
    tile = picture[TILE_HEIGHT:]
    assert tile[TILE_HEIGHT // 2 :].max() == 0
    assert tile[: TILE_HEIGHT // 2].max() > 200


def test_jpeg_has_an_end():
    assert jpeg(mosaic(views(RING), grey(RING))).endswith(b'\xff\xd9')
