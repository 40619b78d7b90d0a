"""Weather of the hard world: what darkness, fog, rain, uneven surfaces and a noisy sensor do to a picture.

None of it is new every time: a picture follows from the seed of the world, the time and the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

NIGHT, FOG, RAIN = 0.5, 0.5, 0.5  # how often; a world that draws none of them has night
SKY_DISTANCE = 200.0  # m of air before the sky
DAY_AIR, NIGHT_AIR = np.array([186.0, 192.0, 200.0]), np.array([30.0, 31.0, 36.0])  # RGB of light that fog scatters
LAMP_SPACING, LAMP_SIDE, LAMP_POOL = 24.0, 6.0, 6.0  # m: street lamps along a road, from its middle, reach of one
LAMP_LIGHT, HEADLIGHT = 0.45, 0.9  # of the light of day
HEADLIGHT_REACH = 22.0  # m
ROADS_APART = 72.0  # m, as BLOCK of world.py
TEXTURE, TEXELS, TEXELS_PER_M = 0.22, 256, 12.0  # relative amplitude, side of the tile, scale
STREAKS, DROPS = 220, 7  # of rain in a picture, on a lens, in the heaviest rain
NOISE = 2.5  # standard deviation of a pixel, of 255, by day; the exposure of darker pictures raises it
EXPOSURE = 0.25  # a camera makes up for this power of how much darker it is than by day


@dataclass(frozen=True, slots=True)
class Weather:
    """``daylight``: share of a day's light; ``fog``: m until 1/e of a surface's light is left; ``rain``: 0 to 1."""

    daylight: float
    fog: float
    rain: float


@dataclass(frozen=True)
class Surfaces:
    """A picture before the weather.

    ``rgb`` float32 (H, W, 3); ``points`` (H, W, 3) in the world, ``distance`` (H, W) in m, infinite in the sky;
    ``actor_ids`` (H, W), -1 for none, and ``poses`` (N, 3) of actors: x, y, yaw; ``glows`` bool (H, W): seen without
    light. ``ego`` is its pose; ``frame`` (world's seed, ms, degrees of azimuth) tells this picture from all others.
    """

    rgb: np.ndarray
    points: np.ndarray
    distance: np.ndarray
    actor_ids: np.ndarray
    poses: np.ndarray
    glows: np.ndarray
    ego: tuple[float, float, float]
    frame: tuple[int, int, int]


def draw_weather(seed: int) -> Weather:
    """The weather of a world: night, fog and rain, each in half of them, at least one in each."""
    rng = np.random.default_rng([seed, 5])
    night, fog, rain = (rng.random(3) < (NIGHT, FOG, RAIN)).tolist()
    night = night or not (fog or rain)
    daylight = rng.uniform(0.1, 0.3) if night else rng.uniform(0.5, 0.85)
    return Weather(
        float(daylight),
        float(rng.uniform(18.0, 45.0) if fog else rng.uniform(80.0, 140.0)),
        float(rng.uniform(0.4, 1.0) if rain else 0.0),
    )


def in_weather(surfaces: Surfaces, weather: Weather) -> tuple[np.ndarray, np.ndarray]:
    """The picture uint8 (H, W, 3), and float32 (H, W): the share of a surface's own colour that is left in it."""
    seed, time, azimuth = surfaces.frame
    rng = np.random.default_rng([seed, 6, time, azimuth])
    sky = ~np.isfinite(surfaces.distance)
    light = np.where(sky, weather.daylight, light_at(surfaces.points, surfaces.ego, weather)).astype(np.float32)
    left = np.exp(-np.where(sky, SKY_DISTANCE, surfaces.distance) / weather.fog).astype(np.float32)
    colourful = 0.4 + 0.6 * np.minimum(light, 1.0)  # eyes and sensors lose colours in the dark
    rgb = surfaces.rgb * np.where(sky, 1.0, _texture(surfaces))[..., None]
    rgb = np.where(surfaces.glows[..., None], surfaces.rgb, light[..., None] * _saturated(rgb, colourful))
    glow = np.where(surfaces.glows[..., None], surfaces.rgb, 0.0) * np.sqrt(left)[..., None]
    rgb = rgb * left[..., None] + _air(weather) * (1.0 - left[..., None])
    wide = 2.0 + 3.0 * weather.rain
    rgb += (1.2 - weather.daylight) * cv2.GaussianBlur(glow, (0, 0), wide, sigmaY=wide * (1.0 + weather.rain))
    clarity = np.minimum(light, 1.0) * left * colourful
    if weather.rain:
        lens = _drops(np.random.default_rng([seed, 7, azimuth]), weather.rain, left.shape)
        rgb += lens[..., None] * (cv2.GaussianBlur(rgb, (0, 0), 7.0) - rgb)
        rgb += _streaks(rng, weather.rain, left.shape)[..., None] * (15.0 + 40.0 * weather.daylight)
        clarity *= 1.0 - 0.8 * lens
    rgb += rng.standard_normal(rgb.shape, dtype=np.float32) * NOISE
    rgb *= weather.daylight**-EXPOSURE
    return rgb.clip(0, 255).astype(np.uint8), clarity.astype(np.float32)


def light_at(points: np.ndarray, ego: tuple[float, float, float], weather: Weather) -> np.ndarray:
    """Light (H, W) at points (H, W, 3) as a share of a day's: of the sky, street lamps and the ego's headlights."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    from_lamp = [_from_grid(along, LAMP_SPACING) for along in (x, y)]
    aside = [_from_grid(across, ROADS_APART) - LAMP_SIDE for across in (y, x)]
    pools = [np.exp(-(a**2 + b**2) / (2.0 * LAMP_POOL**2)) for a, b in zip(from_lamp, aside, strict=True)]
    lamps = np.maximum(*pools) * np.exp(-np.abs(z) / 8.0)
    c, s = np.cos(ego[2]), np.sin(ego[2])
    ahead = (x - ego[0]) * c + (y - ego[1]) * s - 3.0
    beside = (y - ego[1]) * c - (x - ego[0]) * s
    cone = np.exp(-np.square(beside / (1.0 + 0.4 * np.maximum(ahead, 0.0))) - np.square(np.maximum(z - 1.0, 0.0)))
    headlights = np.where(ahead > 0.0, np.exp(-np.maximum(ahead, 0.0) / HEADLIGHT_REACH) * cone, 0.0)
    artificial = np.minimum(1.0, LAMP_LIGHT * lamps + HEADLIGHT * headlights)
    return np.asarray(weather.daylight + (1.0 - weather.daylight) * artificial)


def _from_grid(values: np.ndarray, spacing: float) -> np.ndarray:
    return np.abs((values + spacing / 2) % spacing - spacing / 2)


def _saturated(rgb: np.ndarray, share: np.ndarray) -> np.ndarray:
    grey = rgb.mean(-1, keepdims=True)
    return np.asarray(grey + share[..., None] * (rgb - grey))


def _air(weather: Weather) -> np.ndarray:
    return np.asarray(NIGHT_AIR + (DAY_AIR - NIGHT_AIR) * weather.daylight, np.float32)


def _texture(surfaces: Surfaces) -> np.ndarray:
    """Factor (H, W) by which surfaces are uneven; it moves with the actor that it is on."""
    x, y, z = (surfaces.points[..., n] for n in range(3))
    on = surfaces.actor_ids >= 0
    ax, ay, yaw = (surfaces.poses[surfaces.actor_ids[on], n].astype(np.float32) for n in range(3))
    dx, dy = x[on] - ax, y[on] - ay
    x, y = x.copy(), y.copy()
    x[on], y[on] = dx * np.cos(yaw) + dy * np.sin(yaw), dy * np.cos(yaw) - dx * np.sin(yaw)
    at = [np.float32(TEXELS_PER_M) * (flat + slope * z) % TEXELS for flat, slope in ((x, 0.5), (y, 0.9))]
    u, v = (places.astype(np.float32) for places in at)
    found = cv2.remap(_tile(surfaces.frame[0]), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(1.0 + TEXTURE * found.clip(-2.5, 2.5), np.float32)


@lru_cache(maxsize=16)
def _tile(seed: int) -> np.ndarray:
    """Noise without seams, coarse and fine alike: float32 (`TEXELS`, `TEXELS`) of mean 0 and deviation 1."""
    white = np.fft.rfft2(np.random.default_rng([seed, 8]).standard_normal((TEXELS, TEXELS)))
    frequency = np.hypot(np.fft.fftfreq(TEXELS)[:, None], np.fft.rfftfreq(TEXELS)[None]) * TEXELS
    noise = np.fft.irfft2(white / np.maximum(frequency, 4.0), (TEXELS, TEXELS))
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def _streaks(rng: np.random.Generator, rain: float, shape: tuple[int, ...]) -> np.ndarray:
    """Falling drops in the air, 0 to 1: (H, W)."""
    canvas = np.zeros(shape, np.uint8)
    count = int(STREAKS * rain)
    tops = rng.uniform((0, -10), (shape[1], shape[0]), (count, 2))
    ends = tops + np.column_stack([rng.uniform(-2.0, 2.0, count), rng.uniform(4.0, 14.0, count)])
    lines = np.round(np.stack([tops, ends], 1)).astype(np.int32)
    cv2.polylines(canvas, list(lines), False, 255, 1, cv2.LINE_AA)
    return canvas.astype(np.float32) / 255.0


def _drops(rng: np.random.Generator, rain: float, shape: tuple[int, ...]) -> np.ndarray:
    """Drops on a lens, where the picture is blurred: 0 to 1 (H, W)."""
    canvas = np.zeros(shape, np.uint8)
    for _ in range(round(DROPS * rain)):
        centre = (int(rng.integers(shape[1])), int(rng.integers(shape[0])))
        cv2.circle(canvas, centre, int(rng.integers(5, 14)), 255, -1)
    return np.asarray(cv2.GaussianBlur(canvas.astype(np.float32) / 255.0, (0, 0), 2.0))
