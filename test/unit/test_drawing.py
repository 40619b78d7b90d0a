"""Pictures of what pruning kept: the mosaic of the ring, single views and history masks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stprune_ros.core.types import CameraState, ViewReport
from stprune_ros.io.drawing import (
    DROPPED_COLOUR,
    KEPT_COLOUR,
    MASK_CELL,
    TILE_DIMMING,
    TILE_HEIGHT,
    TILE_WIDTH,
    VIEW_DIMMING,
    VIEW_WIDTH,
    encode_jpeg,
    encode_png,
    history_masks,
    kept_tokens,
    mosaic,
)

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


def test_four_cameras_lie_in_a_square():
    names = ('front', 'right', 'back', 'left')
    assert layout(mosaic(views(names), grey(names)), names) == [['front', 'right'], ['left', 'back']]


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
    assert bottom[TILE_WIDTH // 4, 0] == round(100 * TILE_DIMMING)


def test_missing_camera_has_a_black_tile_with_its_name():
    picture = mosaic([*views(('front',)), ViewReport('back', CameraState.MISSING)], grey(('front',)))
    tile = picture[TILE_HEIGHT:]
    assert tile[TILE_HEIGHT // 2 :].max() == 0
    written = np.flatnonzero((tile > 200).any(axis=(0, 2)))
    assert written.max() > cv2.getTextSize('back  no', cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0]


def test_mosaic_is_rgb_and_counts_the_tokens():
    image = np.zeros((90, 160, 3), np.uint8)
    image[...] = (10, 200, 30)
    one, two = (mosaic([ViewReport('front', CameraState.OK, 1, 1, 4, kept)], {'front': image}) for kept in (2, 3))
    assert one[-1, -1].tolist() == [10, 200, 30]
    assert not np.array_equal(one, two)
    assert np.array_equal(one[25:], two[25:])


def test_a_view_without_a_mask_stays_bright():
    picture = mosaic([ViewReport('front', CameraState.OK)], grey(('front',)))
    assert (picture[TILE_HEIGHT // 2 :] == 100).all()


@pytest.mark.parametrize('quality', [80, 82])
def test_jpeg_has_the_colours_and_the_quality(quality):
    picture = np.full((16, 16, 3), (200, 120, 40), np.uint8)
    data = encode_jpeg(picture, quality)
    assert data == cv2.imencode('.jpg', picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(decoded.astype(int) - picture).max() <= 3


def test_kept_tokens_keep_their_colour():
    image = np.zeros((40, 80, 3), np.uint8)
    image[...] = (10, 200, 30)
    keep = np.zeros((2, 4), bool)
    keep[0, 1] = True
    picture = kept_tokens(image, keep, width=80)
    assert picture.shape == (40, 80, 3)
    assert picture[10, 30].tolist() == [10, 200, 30]
    assert picture[30, 30].tolist() == [int(VIEW_DIMMING * (0.299 * 10 + 0.587 * 200 + 0.114 * 30))] * 3
    outlined = (picture == KEPT_COLOUR).all(axis=2)
    assert outlined[:20, 20].all() and outlined[:20, 40].all() and outlined[20, 20:40].all()
    assert outlined.sum() == 3 * 20


@pytest.mark.parametrize('size', [(40, 80), (900, 1600), (2, 4000)])
def test_views_have_one_width(size):
    picture = kept_tokens(np.zeros((*size, 3), np.uint8), np.ones((3, 5), bool))
    assert picture.shape == (max(1, round(VIEW_WIDTH * size[0] / size[1])), VIEW_WIDTH, 3)


def test_fine_detail_is_averaged_and_not_skipped():
    stripes = np.zeros((40, 8 * VIEW_WIDTH, 3), np.uint8)
    stripes[:, ::8] = 240
    picture = kept_tokens(stripes, np.ones((1, 1), bool))
    assert (picture == 30).all()


def test_history_strip_shows_every_frame():
    keep = np.zeros((3, 2, 4), bool)
    keep[2, 1, 3] = True
    strip = cv2.imdecode(np.frombuffer(encode_png(history_masks(keep)), np.uint8), cv2.IMREAD_UNCHANGED)
    kept = (strip == (*KEPT_COLOUR[::-1], 255)).all(axis=2)
    rows, columns = np.nonzero(kept)
    assert strip.shape == (2 * MASK_CELL, 3 * 4 * MASK_CELL + 2 * MASK_CELL, 4)
    assert (rows.min(), columns.min()) == (MASK_CELL, strip.shape[1] - MASK_CELL)
    assert kept.sum() == MASK_CELL**2
    gaps = [slice(frame * 5 * MASK_CELL + 4 * MASK_CELL, (frame + 1) * 5 * MASK_CELL) for frame in range(2)]
    assert all((strip[:, gap] == 0).all() for gap in gaps)
    dropped = ~kept
    for gap in gaps:
        dropped[:, gap] = False
    assert (strip[dropped] == (*DROPPED_COLOUR[::-1], 255)).all()
