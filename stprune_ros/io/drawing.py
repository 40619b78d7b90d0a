"""Pictures of what pruning kept, all RGB uint8 (height, width, 3): a mosaic of the ring, and single views with masks.

The node publishes the mosaic on its debug topic; the report of a replay shows the single views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from stprune_ros.core.types import ViewReport

TILE_WIDTH, TILE_HEIGHT = 320, 180
TILE_DIMMING = 0.25  # brightness of dropped tokens in the mosaic
MOSAIC_QUALITY = 80  # of its JPEG

VIEW_WIDTH = 360  # pixels; twice what the report shows, for dense screens
VIEW_DIMMING = 0.4  # brightness of dropped tokens, which are grey as well
VIEW_QUALITY = 82
MASK_CELL = 6  # pixels of a token in the history masks
DROPPED_COLOUR, KEPT_COLOUR = (70, 76, 88), (255, 214, 102)
GAP_COLOUR = (0, 0, 0)  # between two masks; transparent in a PNG


def mosaic(views: Sequence[ViewReport], images: Mapping[str, np.ndarray]) -> np.ndarray:
    """All views in one picture, two rows of tiles: the first in the middle of the upper row, its left neighbour left.

    ``images`` holds the current RGB frame (height, width, 3) of each camera that has one.
    """
    tiles = [_tile(view, images.get(view.camera)) for view in views]
    upper = (len(tiles) + 1) // 2
    shift = (upper - 1) // 2
    clockwise = tiles[len(tiles) - shift :] + tiles[: len(tiles) - shift]
    # Seen from above, whoever goes on clockwise comes back along the lower row.
    rows = [clockwise[:upper], clockwise[upper:][::-1]]
    blank = np.zeros((TILE_HEIGHT, TILE_WIDTH, 3), np.uint8)
    return np.vstack([np.hstack(row + [blank] * (upper - len(row))) for row in rows if row])


def kept_tokens(image: np.ndarray, keep: np.ndarray, width: int = VIEW_WIDTH) -> np.ndarray:
    """``image`` (height, width, 3) resized to ``width`` pixels: kept tokens outlined, dropped ones dimmed and grey.

    ``keep`` is bool (rows, columns): the token grid spans the whole image.
    """
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    shrinks = image.shape[1] > width
    view = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    kept = _enlarge(keep, height, width)
    grey = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)
    result = np.where(kept[..., None], view, (grey * VIEW_DIMMING).astype(np.uint8))
    edges = np.zeros_like(kept)
    edges[:, 1:] |= kept[:, 1:] != kept[:, :-1]
    edges[1:] |= kept[1:] != kept[:-1]
    result[edges] = KEPT_COLOUR
    return np.ascontiguousarray(result)


def history_masks(keep: np.ndarray) -> np.ndarray:
    """The keep masks (frames, rows, columns) side by side, oldest first, with gaps of `GAP_COLOUR`."""
    colours = np.array([DROPPED_COLOUR, KEPT_COLOUR], np.uint8)
    cells = np.kron(keep.astype(np.uint8), np.ones((1, MASK_CELL, MASK_CELL), np.uint8))
    gap = np.full((cells.shape[1], MASK_CELL, 3), GAP_COLOUR, np.uint8)
    return np.concatenate([part for mask in cells for part in (colours[mask], gap)][:-1], axis=1)


def encode_jpeg(picture: np.ndarray, quality: int) -> bytes:
    """JPEG of an RGB picture; ``quality`` is OpenCV's, 0 to 100."""
    return _encode('.jpg', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(picture: np.ndarray) -> bytes:
    """PNG of an RGB picture in which `GAP_COLOUR` is transparent."""
    alpha = np.where((picture == GAP_COLOUR).all(axis=2), 0, 255).astype(np.uint8)
    rgba = np.dstack([picture, alpha])
    return _encode('.png', cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_PNG_COMPRESSION, 9])


def _tile(view: ViewReport, image: np.ndarray | None) -> np.ndarray:
    tile = np.zeros((TILE_HEIGHT, TILE_WIDTH, 3), np.uint8)
    if image is not None:
        tile = cv2.resize(image, (TILE_WIDTH, TILE_HEIGHT), interpolation=cv2.INTER_AREA)
    if image is not None and view.keep is not None and len(view.keep):
        kept = cv2.resize(view.keep[-1].astype(np.uint8), (TILE_WIDTH, TILE_HEIGHT), interpolation=cv2.INTER_NEAREST)
        tile = np.where(kept[..., None] > 0, tile, (tile * TILE_DIMMING).astype(np.uint8))
    text = f'{view.camera}  {view.tokens_kept}/{view.tokens_full}' if image is not None else f'{view.camera}  no frame'
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(tile, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thickness, cv2.LINE_AA)
    return tile


def _enlarge(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """A (rows, columns) grid over (height, width) pixels, each with the value of the cell that it lies in."""
    rows = np.arange(height) * grid.shape[0] // height
    columns = np.arange(width) * grid.shape[1] // width
    return np.asarray(grid[rows][:, columns])


def _encode(extension: str, bgr: np.ndarray, options: list[int]) -> bytes:
    _, data = cv2.imencode(extension, bgr, options)
    return bytes(data)
