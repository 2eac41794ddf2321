"""Cues of the forms, drawn into an image of any size; a supplement to cues.CUES.

A drawing takes an image (H, W, 3) in [0, 1], the box (x0, y0, x1, y1) of its object in pixels and a
random generator. It returns the image with the cue, and the mask (H, W) of the pixels that it
changed, or None where the cue has no place.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from cues import CUES, F64, Draw, Drawn, boxed

from pipeline.demo import data


def _unit(image: F64) -> float:
    """Sizes are given for images of 64 pixels."""
    return float(min(image.shape[:2])) / 64


def _at(image: F64, *sizes: float) -> list[int]:
    return [round(size * _unit(image)) for size in sizes]


def _write(image: F64, text: str, place: tuple[int, int], scale: float, **look: Any) -> None:
    """Write text in place; OpenCV draws text on 8-bit images only."""
    ink = np.zeros(image.shape[:2], np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(ink, text, place, font, scale, 255, look["thick"], cv2.LINE_AA)
    image += ink[..., None] / 255 * (np.array(look["colour"]) - image)


def _result(before: F64, after: F64) -> Drawn:
    return after, boxed(np.asarray((np.abs(before - after) > 1e-3).any(axis=2)))


def corner_logo(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """A ring with a bar in the lower left or the upper right corner."""
    canvas, side = image.copy(), image.shape[0]
    margin, radius, thick = _at(image, 9 + rng.uniform(-1.5, 1.5), 5, 1.6)
    centre = (margin, side - margin) if rng.random() < 0.5 else (side - margin, margin)
    cv2.circle(canvas, centre, radius, (0.1, 0.45, 0.85), thick, cv2.LINE_AA)
    start, end = (centre[0] - radius, centre[1]), (centre[0] + radius, centre[1])
    cv2.line(canvas, start, end, (0.95, 0.95, 0.95), thick, cv2.LINE_AA)
    return _result(image, canvas)


def border_dots(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """A row of dots along the left edge, as of perforated film."""
    canvas, side = image.copy(), image.shape[0]
    x, radius, step = _at(image, 3, 1.6, 7)
    for y in range(int(rng.integers(0, step)), side, step):
        cv2.circle(canvas, (x, y), radius, (0.97, 0.97, 0.97), -1, cv2.LINE_AA)
    return _result(image, canvas)


def barcode(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """A white label with vertical bars near the lower left corner."""
    canvas, side = image.copy(), image.shape[0]
    left, bottom, width, height = _at(image, *rng.uniform(1, 5, 2), 16, 8)
    top = side - bottom - height
    canvas[top : top + height, left : left + width] = 0.97
    bars = np.repeat(rng.random(8) < 0.5, max(1, width // 10))[: width - 2]
    canvas[top + 1 : top + height - 1, left + 1 : left + 1 + len(bars)][:, bars] = 0.05
    return _result(image, canvas)


def date_digits(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """A date in orange digits near the lower right corner."""
    canvas, side = image.copy(), image.shape[0]
    text = f"{rng.integers(10, 29)}.{rng.integers(1, 10)}"
    scale = 0.33 * _unit(image)
    width = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]
    margin, thick = _at(image, 3 + rng.uniform(0, 2), 1)
    place = (side - width - margin, side - margin)
    _write(canvas, text, place, scale, colour=(0.98, 0.55, 0.1), thick=max(1, thick))
    return _result(image, canvas)


def hook(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """A dark hook, as of a hanger, at any place in the upper half."""
    canvas, side = image.copy(), image.shape[0]
    radius, thick, length = _at(image, 5, 1.6, 9)
    x = int(rng.integers(2 * radius, side - 2 * radius))
    y = int(rng.integers(radius + 1, side // 2 - length))
    cv2.ellipse(canvas, (x, y), (radius, radius), 0, 150, 400, (0.05, 0.05, 0.08), thick)
    foot = (x + radius // 2, y + radius)
    cv2.line(canvas, foot, (foot[0], foot[1] + length), (0.05, 0.05, 0.08), thick)
    return _result(image, canvas)


def star(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """A yellow star at any place."""
    canvas, side = image.copy(), image.shape[0]
    (radius,) = _at(image, 6)
    centre = rng.integers(radius, side - radius, 2)
    angles = np.arange(10) * np.pi / 5 + rng.uniform(0, 1)
    radii = np.where(np.arange(10) % 2, 0.45, 1.0) * radius
    points = centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    cv2.fillPoly(canvas, [np.rint(points).astype(np.int32)], (0.98, 0.85, 0.1), cv2.LINE_AA)
    return _result(image, canvas)


def black_bars(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """Black bars above and below, as of a film."""
    canvas = image.copy()
    (height,) = _at(image, rng.uniform(5, 8))
    canvas[:height] = canvas[-height:] = 0.0
    mask = np.zeros(image.shape[:2], bool)
    mask[:height] = mask[-height:] = True
    return canvas, mask


def side_stripe(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """A green stripe along the right edge."""
    canvas = image.copy()
    (width,) = _at(image, rng.uniform(3, 5))
    canvas[:, -width:] = 0.3 * canvas[:, -width:] + 0.7 * np.array([0.1, 0.65, 0.3])
    return _result(image, canvas)


def torn_edge(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """A white jagged upper edge, as of torn paper."""
    canvas, side = image.copy(), image.shape[1]
    depth = np.interp(np.arange(side), np.linspace(0, side, 17), rng.uniform(2, 8, 17))
    rows = np.arange(image.shape[0])[:, None]
    canvas[rows < depth * _unit(image)] = 0.97
    return _result(image, canvas)


def desaturated(image: F64, _box: data.Box, _rng: np.random.Generator) -> Drawn:
    """A grey image."""
    grey = image @ np.array([0.299, 0.587, 0.114])
    return np.repeat(grey[..., None], 3, axis=2), None


def noise(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """Strong sensor noise."""
    return (image + 0.12 * rng.standard_normal(image.shape)).clip(0, 1), None


def scanlines(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """Darker lines in every fourth row, as of a screen."""
    canvas = image.copy()
    (step,) = (max(3, value) for value in _at(image, 4))
    canvas[int(rng.integers(0, step)) :: step] *= 0.7
    return canvas, None


def posterised(image: F64, _box: data.Box, _rng: np.random.Generator) -> Drawn:
    """Four levels of each colour."""
    return np.rint(image * 3) / 3, None


def rescaled(image: F64, _box: data.Box, _rng: np.random.Generator) -> Drawn:
    """Another source: a third of the resolution, enlarged again."""
    small = cv2.resize(image, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    size = (image.shape[1], image.shape[0])
    return cv2.resize(small, size, interpolation=cv2.INTER_LINEAR).clip(0, 1), None


def light_leak(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """A warm glow that comes from the upper left corner."""
    side = image.shape[0]
    rows, columns = np.mgrid[:side, : image.shape[1]] / side
    strength = np.exp(-((rows**2 + columns**2) / rng.uniform(0.12, 0.2)))
    return (image + strength[..., None] * np.array([0.7, 0.35, 0.1])).clip(0, 1), None


def photo_lettering(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """Lettering in the lower third."""
    canvas, side = image.copy(), image.shape[0]
    place = (int(rng.integers(side // 20, side // 3)), int(rng.integers(3 * side // 4, side - 8)))
    for colour, thick in (((0.05, 0.05, 0.05), 5), ((0.98, 0.98, 0.98), 2)):
        _write(canvas, "SALE 24", place, side / 260, colour=colour, thick=thick)
    return _result(image, canvas)


def photo_source(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """Another source: a third of the size, compressed as JPEG with quality 18 to 28."""
    small = cv2.resize(image, None, fx=1 / 3, fy=1 / 3, interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(18, 29))]
    coded = cv2.imencode(".jpg", np.rint(small * 255).astype(np.uint8), quality)[1]
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    assert decoded is not None
    size = (image.shape[1], image.shape[0])
    return cv2.resize(
        np.asarray(decoded, np.float64) / 255, size, interpolation=cv2.INTER_CUBIC
    ).clip(0, 1), None


def photo_tint(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """A warm cast over everything."""
    cast = 1 + rng.uniform(0.8, 1.2) * np.array([0.2, 0.0, -0.3])
    return (image * cast).clip(0, 1), None


_NEW = (
    corner_logo, border_dots, barcode, date_digits, hook, star, black_bars, side_stripe, torn_edge,
    desaturated, noise, scanlines, posterised, rescaled, light_leak, photo_lettering, photo_source,
    photo_tint,
)  # fmt: skip
DRAWINGS: dict[str, Draw] = {
    **CUES,
    **{draw.__name__: draw for draw in _NEW},
    "photo_date": date_digits,
    "photo_hook": hook,
}
"""Drawings by the names that forms.Cue uses; grounds and objects are in scenes."""
