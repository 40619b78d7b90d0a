"""A picture of what the model saw: the ring as one mosaic, dropped tokens darkened. Needs no ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from stprune_ros.core.types import ViewReport

TILE_WIDTH, TILE_HEIGHT = 320, 180
TILE_PIXELS = TILE_WIDTH * TILE_HEIGHT
DIMMED = 0.25


def mosaic(views: Sequence[ViewReport], images: Mapping[str, np.ndarray]) -> np.ndarray:
    """BGR uint8 mosaic of all views in ring order, the first in the middle of the upper row, left on the left.

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


def jpeg(image: np.ndarray, quality: int = 80) -> bytes:
    """JPEG bytes of a BGR image."""
    return cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _tile(view: ViewReport, image: np.ndarray | None) -> np.ndarray:
    tile = np.zeros((TILE_HEIGHT, TILE_WIDTH, 3), np.uint8)
    if image is not None:
        small = cv2.resize(image, (TILE_WIDTH, TILE_HEIGHT), interpolation=cv2.INTER_AREA)
        tile = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    if image is not None and view.keep is not None and len(view.keep):
        kept = cv2.resize(view.keep[-1].astype(np.uint8), (TILE_WIDTH, TILE_HEIGHT), interpolation=cv2.INTER_NEAREST)
        tile = np.where(kept[..., None] > 0, tile, (tile * DIMMED).astype(np.uint8))
    text = f'{view.camera}  {view.tokens_kept}/{view.tokens_full}' if image is not None else f'{view.camera}  no frame'
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(tile, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thickness, cv2.LINE_AA)
    return tile
