"""The picture of a tick: the ring where its cameras look, tokens with their reasons, overlaps, hint and latency."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.answers import make_answer

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Answer, Behavior, CameraState, Status, ViewReport
from stprune_ros.io import drawing
from stprune_ros.io.drawing import (
    CHOSEN,
    COLOURS,
    DIMMING,
    DROPPED_COLOUR,
    FOOTER_HEIGHT,
    GROUND,
    HEADER_HEIGHT,
    LETTERS,
    OVERLAP_HEIGHT,
    TILE_HEIGHT,
    TILE_WIDTH,
    encode_jpeg,
    overlap_columns,
    ring_picture,
)
from stprune_ros.pruning.reason import DROPPED_REASONS, KEPT_REASONS, Reason
from stprune_ros.resources import resource_path

RING = ('front', 'front_right', 'back_right', 'back', 'back_left', 'front_left')
PITCH = TILE_HEIGHT + FOOTER_HEIGHT


def level(number: int) -> int:
    """The grey of a camera's image, by which it can be found again."""
    return 100 + 20 * number


def views(names: tuple[str, ...], keep: np.ndarray | None = None, reasons: np.ndarray | None = None) -> tuple:
    keep = np.ones((1, 2, 2), bool) if keep is None else keep
    images = [np.full((90, 160, 3), level(number), np.uint8) for number in range(len(names))]
    return tuple(
        ViewReport(name, CameraState.OK, 1, len(keep), keep.size, int(keep.sum()), keep, image, reasons)
        for name, image in zip(names, images)
    )


def drawn(names: tuple[str, ...], keep=None, reasons=None, overlaps=None, **more) -> np.ndarray:
    return ring_picture(make_answer(views=views(names, keep, reasons), **more), overlaps or {})


def tile(picture: np.ndarray, row: int = 0, column: int = 0) -> np.ndarray:
    top, left = HEADER_HEIGHT + row * PITCH, column * TILE_WIDTH
    return picture[top : top + PITCH, left : left + TILE_WIDTH]


def layout(picture: np.ndarray, count: int) -> list[list[str]]:
    """Which camera is in which tile, by the grey of a spot without marks; '' where there is none."""
    of_level = {level(number): str(number) for number in range(count)}
    rows, columns = (picture.shape[0] - HEADER_HEIGHT) // PITCH, picture.shape[1] // TILE_WIDTH
    spots = [
        [tile(picture, r, c)[TILE_HEIGHT // 4 + 20, TILE_WIDTH // 4 + 20, 0] for c in range(columns)]
        for r in range(rows)
    ]
    return [[of_level.get(int(spot), '') for spot in row] for row in spots]


def has(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=2).sum())


def test_six_cameras_lie_where_they_look():
    assert layout(drawn(RING), 6) == [['5', '0', '1'], ['4', '3', '2']]


def test_four_cameras_lie_in_a_square():
    assert layout(drawn(('front', 'right', 'back', 'left')), 4) == [['0', '1'], ['3', '2']]


@pytest.mark.parametrize('count', [1, 2, 3, 4, 5, 7])
def test_every_camera_of_any_ring_has_a_tile(count):
    picture = drawn(tuple(f'camera{number}' for number in range(count)))
    placed = [name for row in layout(picture, count) for name in row if name]
    assert sorted(placed) == sorted(map(str, range(count)))


def test_a_tick_without_any_view_has_a_picture_that_names_its_status():
    picture = ring_picture(make_answer(Status.ERROR), {})
    assert picture.shape == (HEADER_HEIGHT + PITCH, 2 * TILE_WIDTH, 3)
    assert not np.array_equal(picture, ring_picture(make_answer(Status.NO_HINT), {}))


def test_dropped_tokens_of_the_newest_frame_are_dark_and_grey():
    keep = np.array([[[True, True], [True, True]], [[True, False], [False, True]]])
    [view] = views(('front',), keep)
    view = replace(view, image=np.full((90, 160, 3), (10, 200, 30), np.uint8))
    found = tile(ring_picture(make_answer(views=(view,)), {}))
    assert found[TILE_HEIGHT * 3 // 4, TILE_WIDTH * 3 // 4].tolist() == [10, 200, 30]
    grey = round(0.299 * 10 + 0.587 * 200 + 0.114 * 30)
    assert found[TILE_HEIGHT * 3 // 4, TILE_WIDTH // 4].tolist() == [int(DIMMING * grey)] * 3


def test_kept_tokens_are_outlined_in_the_colour_of_their_reason_and_lettered():
    keep = np.array([[[True, True], [True, True]]])
    reasons = np.array([[[Reason.MOTION, Reason.RECENCY], [Reason.DIVERSITY, Reason.OTHER_VIEWS]]], np.uint8)
    found = tile(drawn(('front',), keep, reasons))
    for (row, column), reason in zip(np.ndindex(2, 2), KEPT_REASONS):
        top, left = row * TILE_HEIGHT // 2, column * TILE_WIDTH // 2
        cell = found[top : top + TILE_HEIGHT // 2, left : left + TILE_WIDTH // 2]
        inside = cell[8:-8, 8:-8]
        assert has(cell, COLOURS[reason]) >= 2 * (TILE_HEIGHT // 2 + TILE_WIDTH // 2) - 4
        assert inside.min() < 60, 'a letter'
        assert all(not has(cell, COLOURS[other]) for other in KEPT_REASONS if other != reason)


def test_letters_need_room():
    keep = np.ones((1, 30, 30), bool)
    reasons = np.full_like(keep, Reason.MOTION, np.uint8)
    found = tile(drawn(('front',), keep, reasons))[:TILE_HEIGHT]
    assert {tuple(pixel) for pixel in found.reshape(-1, 3).tolist()} == {(level(0),) * 3, COLOURS[Reason.MOTION]}


def test_dropped_tokens_are_marked_by_lines_that_tell_time_from_views():
    keep = np.zeros((1, 1, 3), bool)
    reasons = np.array([[DROPPED_REASONS]], np.uint8)
    cells = np.split(tile(drawn(('front',), keep, reasons))[:TILE_HEIGHT, :-2], 3, axis=1)
    marks = [(cell == COLOURS[Reason.COPY_IN_TIME]).all(axis=2) for cell in cells]
    assert [(bool(m.any()), int(np.ptp(np.nonzero(m)[0])) if m.any() else 0) for m in marks[:1]] == [(True, 0)]
    assert np.ptp(np.nonzero(marks[0])[1]) > 30
    assert np.ptp(np.nonzero(marks[1])[0]) > 30 and np.ptp(np.nonzero(marks[1])[1]) == 0
    assert not marks[2].any()


def test_colours_of_reasons_are_told_apart_in_grey_and_with_red_green_weakness():
    """By lightness alone, or by blue and yellow alone: no pair of kept tokens is the same in both."""

    def seen(colour: tuple[int, int, int]) -> tuple[float, float]:
        red, green, blue = (channel / 255 for channel in colour)
        return 0.3 * red + 0.59 * green + 0.11 * blue, blue - (red + green) / 2

    for one, other in combinations(KEPT_REASONS, 2):
        light, tint = np.abs(np.subtract(seen(COLOURS[one]), seen(COLOURS[other])))
        assert light + tint > 0.15, (one, other)
    assert len(set(LETTERS.values())) == len(LETTERS) == len(KEPT_REASONS)


def test_history_is_shown_oldest_first_at_the_right_of_the_footer():
    keep = np.zeros((3, 2, 2), bool)
    keep[0, 0, 0] = keep[2, 1, 1] = True
    footer = tile(drawn(('front',), keep))[TILE_HEIGHT:]
    width, right = FOOTER_HEIGHT - 4, TILE_WIDTH - 2
    frames = [footer[2:-2, right - (age + 1) * width - 2 * age : right - age * (width + 2)] for age in (2, 1, 0)]
    for frame, spot in zip(frames, ((0, 0), None, (1, 1))):
        lit = {(r, c) for r in (0, 1) for c in (0, 1) if frame[5 + 10 * r, 5 + 10 * c].tolist() == [255] * 3}
        assert lit == ({spot} if spot else set())
        assert has(frame, DROPPED_COLOUR) == (300 if spot else 400)


def test_overlap_columns_are_striped():
    overlap = np.array([True, False, False, True])
    found = tile(drawn(('front',), overlaps={'front': overlap}))
    band = found[:OVERLAP_HEIGHT]
    assert {tuple(pixel) for pixel in band[0, :80].tolist()} == {(0, 0, 0), drawing.INK}
    assert np.array_equal(band[1:, 82:238], tile(drawn(('front',)))[1:OVERLAP_HEIGHT, 82:238])


def test_overlaps_come_from_both_neighbours_of_the_calibrated_ring():
    rig = CameraRig.from_file(resource_path('config/rigs/nuscenes.yaml'))
    names = (*rig.ring, 'unknown')
    found = overlap_columns(rig, views(names, np.ones((1, 4, 20), bool)))
    assert set(found) == set(rig.ring)
    front = found['CAM_FRONT']
    assert front[0] and front[-1] and not front[10]
    assert np.array_equal(
        front, rig.shared('CAM_FRONT', 'CAM_FRONT_LEFT', 20) | rig.shared('CAM_FRONT', 'CAM_FRONT_RIGHT', 20)
    )


def test_a_ring_of_one_camera_overlaps_nothing(tmp_path: Path):
    file = tmp_path / 'rig.yaml'
    file.write_text('cameras:\n  front: {width: 64, height: 48, hfov_deg: 90, azimuth_deg: 0}\n')
    assert overlap_columns(CameraRig.from_file(file), views(('front',))) == {}


def test_missing_camera_says_its_state():
    [front] = views(('front',))
    pictures = [
        ring_picture(make_answer(views=(front, ViewReport('back', state))), {})
        for state in (CameraState.MISSING, CameraState.FROZEN)
    ]
    missing, frozen = (tile(picture, 1) for picture in pictures)
    assert not np.array_equal(missing, frozen)
    assert (missing[: TILE_HEIGHT // 2 - 20] == GROUND).all()


def hinted(behavior: Behavior = Behavior.STOP, share: float = 0.75, **more) -> Answer:
    distribution = ((Behavior.STOP, share), (Behavior.NONE, 1 - share))
    return make_answer(views=views(('front',)), behavior=behavior, distribution=distribution, **more)


def test_the_chosen_candidate_has_a_bar_as_long_as_its_share():
    for share in (0.25, 0.75):
        header = ring_picture(hinted(share=share), {})[:HEADER_HEIGHT]
        lit = (header[31] == CHOSEN).all(axis=1).nonzero()[0]
        assert (lit.min(), len(lit)) == (8, round(share * (TILE_WIDTH - 16)) + 1)
    other = (ring_picture(hinted(Behavior.NONE), {})[31] == CHOSEN).all(axis=1).nonzero()[0]
    assert other.min() == 8 + TILE_WIDTH
    assert not has(ring_picture(hinted(status=Status.TIMEOUT), {})[:HEADER_HEIGHT], CHOSEN)


def test_the_header_shows_confidence_counts_and_latency():
    plain = ring_picture(hinted(), {})[:HEADER_HEIGHT]
    for more in ({'confidence': 0.5}, {'hint_ms': 45.0}, {'hint_ms': 46.0}, {'stage_ms': {'hint': 7.0}}):
        assert not np.array_equal(plain, ring_picture(hinted(**more), {})[:HEADER_HEIGHT]), more


@pytest.mark.parametrize('quality', [80, 82])
def test_jpeg_has_the_colours_and_the_quality(quality):
    picture = np.full((16, 16, 3), (200, 120, 40), np.uint8)
    data = encode_jpeg(picture, quality)
    assert data == cv2.imencode('.jpg', picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(decoded.astype(int) - picture).max() <= 3


def test_names_that_the_font_lacks_are_drawn_all_the_same():
    assert not np.array_equal(tile(drawn(('Kamera vorn rechts ü',))), tile(drawn(('front',))))
