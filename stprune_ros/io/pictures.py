"""Pictures of what pruning kept: the current frame with kept tokens bright, and the history as small masks."""

from __future__ import annotations

import cv2
import numpy as np

WIDTH = 360  # pixels; twice what the report shows, for dense screens
DIM, KEPT_EDGE = 0.4, (255, 214, 102)
CELL = 6  # pixels of a token in the history masks
MASK_COLOURS = np.array([[70, 76, 88], [255, 214, 102]], np.uint8)  # RGB of dropped and kept


def kept_tokens(image: np.ndarray, keep: np.ndarray, width: int = WIDTH) -> np.ndarray:
    """RGB uint8 picture of ``image`` (height, width, 3), ``width`` pixels wide, dropped tokens dimmed and grey.

    ``keep`` is bool (rows, columns): the token grid spans the whole image.
    """
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    shrink = image.shape[1] > width
    picture = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_CUBIC)
    bright = _spread(keep.astype(np.uint8), width, height).astype(bool)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)
    result = np.where(bright[..., None], picture, (grey * DIM).astype(np.uint8))
    edges = np.zeros_like(bright)
    edges[:, 1:] |= bright[:, 1:] != bright[:, :-1]
    edges[1:] |= bright[1:] != bright[:-1]
    result[edges] = KEPT_EDGE
    return np.ascontiguousarray(result)


def history_masks(keep: np.ndarray) -> np.ndarray:
    """RGB uint8 strip of the keep masks (frames, rows, columns) side by side, oldest first."""
    cells = np.kron(keep.astype(np.uint8), np.ones((1, CELL, CELL), np.uint8))
    parts = [np.pad(MASK_COLOURS[mask], ((0, 0), (0, CELL), (0, 0)), constant_values=0) for mask in cells]
    return np.concatenate(parts, axis=1)[:, :-CELL]


def jpeg(picture: np.ndarray, quality: int = 82) -> bytes:
    """JPEG of an RGB picture."""
    return _encode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, quality])


def png(picture: np.ndarray, gap: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    """PNG of an RGB picture with the colour ``gap`` made transparent."""
    alpha = np.where((picture == gap).all(axis=2), 0, 255).astype(np.uint8)
    return _encode('.png', np.dstack([picture, alpha]), [cv2.IMWRITE_PNG_COMPRESSION, 9])


def _encode(kind: str, picture: np.ndarray, options: list[int]) -> bytes:
    order = cv2.COLOR_RGB2BGR if picture.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    _, data = cv2.imencode(kind, cv2.cvtColor(picture, order), options)
    return bytes(data)


def _spread(grid: np.ndarray, width: int, height: int) -> np.ndarray:
    """A (rows, columns) grid over (height, width) pixels, without blending."""
    rows = np.arange(height) * grid.shape[0] // height
    columns = np.arange(width) * grid.shape[1] // width
    return np.asarray(grid[rows][:, columns])
