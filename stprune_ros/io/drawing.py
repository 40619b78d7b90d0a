"""One picture of a tick, RGB uint8 (height, width, 3): the ring with its kept tokens, why they stayed, and the hint.

Debug topics, the report of a replay and results.mcap show the same. No meaning rests on colour alone: kept tokens carry
a letter, dropped ones a line, overlaps are striped, and the chosen hint is named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

import cv2
import numpy as np

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Answer, ViewReport
from stprune_ros.pruning.reason import Reason

TILE_WIDTH, TILE_HEIGHT = 320, 180  # of a view, without its footer
FOOTER_HEIGHT, HEADER_HEIGHT = 24, 72
LEAST_WIDTH = 2 * TILE_WIDTH  # the header needs room
QUALITY = 76  # of its JPEG

DIMMING = 0.4  # brightness of dropped tokens, which are grey as well
LETTERS = {
    Reason.MOTION: 'M',
    Reason.RECENCY: 'R',
    Reason.DIVERSITY: 'D',
    Reason.OTHER_VIEWS: 'U',
    Reason.EVEN: 'E',
}
LEGEND = {
    Reason.MOTION: 'moves',
    Reason.RECENCY: 'recent',
    Reason.DIVERSITY: 'diverse',
    Reason.OTHER_VIEWS: 'unlike other views',
    Reason.EVEN: 'even',
}
# From the palette of Okabe and Ito, which all kinds of colour vision tell apart.
COLOURS = {
    Reason.NONE: (255, 255, 255),
    Reason.MOTION: (213, 94, 0),
    Reason.RECENCY: (86, 180, 233),
    Reason.DIVERSITY: (240, 228, 66),
    Reason.OTHER_VIEWS: (0, 158, 115),
    Reason.COPY_IN_TIME: (120, 126, 138),
    Reason.COPY_IN_VIEW: (120, 126, 138),
    Reason.LIKE_KEPT: (52, 57, 66),
    Reason.EVEN: (204, 121, 167),
}
DROPPED_COLOUR = (52, 57, 66)  # in the masks of the history
GROUND, INK, SOFT = (18, 21, 27), (240, 242, 246), (160, 168, 182)
CHOSEN, OTHER = (230, 159, 0), (96, 104, 118)  # bars of the chosen candidate and of the others
OVERLAP_HEIGHT, OVERLAP_STRIPE = 6, 4  # pixels
LEAST_CELL = 11  # pixels; a letter in a smaller one cannot be read


def overlap_columns(rig: CameraRig, views: Sequence[ViewReport]) -> dict[str, np.ndarray]:
    """Per camera of the ring with a token grid: which of its columns a neighbour sees, too, bool (columns,)."""
    found = {}
    for view in views:
        if view.camera in rig.cameras and view.keep is not None and len(rig.ring) > 1:
            columns, sides = view.keep.shape[2], {rig.left(view.camera), rig.right(view.camera)}
            shared = [rig.shared(view.camera, side, columns) for side in sides - {view.camera}]
            found[view.camera] = np.any(shared, axis=0)
    return found


def ring_picture(answer: Answer, overlaps: Mapping[str, np.ndarray]) -> np.ndarray:
    """The tick in one picture; the images are those in the answer's views, ``overlaps`` are `overlap_columns`.

    Two rows of tiles as seen from above: the first view in the middle of the upper row, its left neighbour left of it.
    """
    tiles = [_tile(view, overlaps.get(view.camera)) for view in answer.views] or [_blank()]
    upper = (len(tiles) + 1) // 2
    shift = (upper - 1) // 2
    clockwise = tiles[len(tiles) - shift :] + tiles[: len(tiles) - shift]
    # Seen from above, whoever goes on clockwise comes back along the lower row.
    rows = [clockwise[:upper], clockwise[upper:][::-1]]
    ring = np.vstack([np.hstack(row + [_blank()] * (upper - len(row))) for row in rows if row])
    ring = np.pad(ring, ((0, 0), (0, max(0, LEAST_WIDTH - ring.shape[1])), (0, 0)))
    return np.vstack([_header(answer, ring.shape[1]), ring])


def encode_jpeg(picture: np.ndarray, quality: int = QUALITY) -> bytes:
    """JPEG of an RGB picture; ``quality`` is OpenCV's, 0 to 100."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)


def _blank(height: int = TILE_HEIGHT + FOOTER_HEIGHT, width: int = TILE_WIDTH) -> np.ndarray:
    return np.full((height, width, 3), GROUND, np.uint8)


def _tile(view: ViewReport, overlap: np.ndarray | None) -> np.ndarray:
    """One view: its current frame with the tokens, and below it name, counts and the masks of its history."""
    tile, text = _blank(), f'{view.camera}  {view.tokens_kept}/{view.tokens_full}'
    if view.image is None or not view.tokens_full:
        _write(tile, f'no frame: {view.state.name.lower()}', (12, TILE_HEIGHT // 2), SOFT, 0.5)
    else:
        tile[:TILE_HEIGHT] = cv2.resize(view.image, (TILE_WIDTH, TILE_HEIGHT), interpolation=cv2.INTER_AREA)
        if view.keep is not None and len(view.keep):
            reasons = np.zeros_like(view.keep, np.uint8) if view.reasons is None else view.reasons
            if reasons.any() or not view.keep.all():  # where nothing was weighed there is nothing to mark
                _draw_tokens(tile[:TILE_HEIGHT], view.keep[-1], reasons[-1])
            _draw_history(tile[TILE_HEIGHT:], view.keep, reasons, TILE_WIDTH - 12 - _text_width(text, 0.4))
    if overlap is not None:
        pixels = np.arange(TILE_WIDTH)
        shared = overlap[pixels * len(overlap) // TILE_WIDTH]
        stripes = np.where((pixels // OVERLAP_STRIPE % 2)[:, None], INK, (0, 0, 0)).astype(np.uint8)
        tile[:OVERLAP_HEIGHT, shared] = stripes[shared]
    _write(tile[TILE_HEIGHT:], text, (4, FOOTER_HEIGHT - 8), INK, 0.4)
    return tile


def _draw_tokens(picture: np.ndarray, keep: np.ndarray, reasons: np.ndarray) -> None:
    """Grey out what was dropped, outline what was kept, and mark both with why; ``keep`` is bool (rows, columns)."""
    height, width = picture.shape[:2]
    bottoms, rights = (np.arange(count + 1) * size // count for count, size in zip(keep.shape, (height, width)))
    dropped = ~_enlarge(keep, height, width)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    picture[dropped] = (grey[dropped] * DIMMING).astype(np.uint8)[:, None]
    for row, column in product(*map(range, keep.shape)):
        (top, bottom), (left, right) = bottoms[row : row + 2], rights[column : column + 2]
        reason = Reason(reasons[row, column])
        middle = (int(left + right) // 2, int(top + bottom) // 2)
        quarter = (int(right - left) // 4, int(bottom - top) // 4)
        if keep[row, column]:
            cv2.rectangle(picture, (int(left), int(top)), (int(right) - 1, int(bottom) - 1), COLOURS[reason], 1)
            if reason in LETTERS and min(right - left, bottom - top) >= LEAST_CELL:
                _write(picture, LETTERS[reason], (middle[0] - 4, middle[1] + 4), COLOURS[reason], 0.38)
        elif reason == Reason.COPY_IN_TIME:
            cv2.line(picture, (middle[0] - quarter[0], middle[1]), (middle[0] + quarter[0], middle[1]), COLOURS[reason])
        elif reason == Reason.COPY_IN_VIEW:
            cv2.line(picture, (middle[0], middle[1] - quarter[1]), (middle[0], middle[1] + quarter[1]), COLOURS[reason])


def _draw_history(footer: np.ndarray, keep: np.ndarray, reasons: np.ndarray, room: int) -> None:
    """The kept tokens of every frame, oldest first, in ``room`` pixels at the right; the oldest may not fit."""
    height = FOOTER_HEIGHT - 4
    width = max(1, round(height * keep.shape[2] / keep.shape[1]))
    for age in range(min(len(keep), room // (width + 2))):
        colours = np.array([COLOURS[Reason(value)] for value in reasons[-1 - age].ravel()], np.uint8)
        cells = np.where(keep[-1 - age][..., None], colours.reshape(*keep.shape[1:], 3), DROPPED_COLOUR)
        right = TILE_WIDTH - 2 - age * (width + 2)
        footer[2 : 2 + height, right - width : right] = _enlarge(cells.astype(np.uint8), height, width)


def _header(answer: Answer, width: int) -> np.ndarray:
    """Hint and status, tokens and latency; a bar for each candidate; what the letters mean."""
    header, hint, timing = _blank(HEADER_HEIGHT, width), answer.hint, answer.timing
    said = hint.behavior.name if hint.status.is_valid else 'no hint'
    sure = f' {100 * hint.confidence:.0f} %' if hint.status.is_valid else ''
    _write(header, f'{said}{sure}  {hint.status.name}', (8, 20), INK, 0.6)
    latency = 'no hint' if math.isnan(timing.hint_ms) else f'hint {timing.source_to_hint_ms:.0f} ms'
    share = f'{100 * answer.tokens_kept / answer.tokens_full:.0f} %' if answer.tokens_full else 'none'
    times = f'{answer.tokens_kept}/{answer.tokens_full} tokens, {share}  {latency}  tick {timing.tick_ms:.0f} ms'
    _write(header, times, (max(width - 8 - _text_width(times, 0.42), width // 2), 19), SOFT, 0.42)
    room = width // max(1, len(hint.distribution))
    for index, (behavior, share_of) in enumerate(hint.distribution):
        left, chosen = 8 + index * room, behavior == hint.behavior and hint.status.is_valid
        length = round((room - 16) * min(max(share_of, 0.0), 1.0))
        cv2.rectangle(header, (left, 28), (left + room - 16, 34), DROPPED_COLOUR, -1)
        cv2.rectangle(header, (left, 28), (left + length, 34), CHOSEN if chosen else OTHER, -1)
        _write(header, f'{behavior.name} {100 * share_of:.0f}', (left, 46), INK if chosen else SOFT, 0.36)
    left = 8
    explained = any(view.reasons is not None and view.reasons.any() for view in answer.views)
    for reason, text in LEGEND.items() if explained else ():
        _write(header, LETTERS[reason], (left, 65), COLOURS[reason], 0.4)
        _write(header, text, (left + 13, 65), SOFT, 0.36)
        left += 24 + _text_width(text, 0.36)
    marks = '- copy in time   | copy in a view   ' if explained else ''
    _write(header, f'{marks}striped: overlap', (left + 6, 65), SOFT, 0.36)
    return header


def _write(picture: np.ndarray, text: str, place: tuple[int, int], colour: tuple[int, int, int], size: float) -> None:
    """Text with a dark edge; OpenCV's font has ASCII only, so that other letters become question marks."""
    plain = text.encode('ascii', 'replace').decode()
    for tone, thickness in ((GROUND, 3), (colour, 1)):
        cv2.putText(picture, plain, place, cv2.FONT_HERSHEY_SIMPLEX, size, tone, thickness, cv2.LINE_AA)


def _text_width(text: str, size: float) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)[0][0])


def _enlarge(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """A (rows, columns, ...) grid over (height, width) pixels, each with the value of the cell that it lies in."""
    rows = np.arange(height) * grid.shape[0] // height
    columns = np.arange(width) * grid.shape[1] // width
    return np.asarray(grid[rows][:, columns])
