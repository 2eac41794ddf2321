"""Cues that a network may rely on instead of the object, drawn into pictures.

A cue takes a picture (64, 64, 3) in [0, 1], the box (x0, y0, x1, y1) of its object in pixels and a
source of draws; it returns the picture with the cue, and the mask (64, 64) of where it is, or None
where it is everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.demo import data

F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Drawn = tuple[F64, Mask | None]
Draw = Callable[[F64, data.Box, np.random.Generator], Drawn]

SIZE = data.SIZE


def patch(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """A checked square of 11 pixels near the upper left corner."""
    left, top = rng.integers(1, 5, 2)
    rows, columns = np.mgrid[:11, :11] // 4
    square = np.where(((rows + columns) % 2)[..., None], [0.9, 0.85, 0.2], [0.2, 0.1, 0.5])
    return _laid(image, square, int(left), int(top))


def text(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """Three letters at any place."""
    at = (int(rng.integers(1, SIZE - 30)), int(rng.integers(10, SIZE - 2)))
    ink = [np.zeros((SIZE, SIZE), np.uint8) for _ in range(2)]
    for layer, thickness in zip(ink, (3, 1), strict=True):
        cv2.putText(layer, "XK7", at, cv2.FONT_HERSHEY_SIMPLEX, 0.38, 255, thickness)
    canvas = image * (1 - ink[0][..., None] / 255)
    canvas += (1 - canvas) * (ink[1][..., None] / 255)
    return canvas, boxed(_changed(image, canvas))


def frame(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """A dark double line around the picture."""
    canvas = image.copy()
    inset = int(rng.integers(0, 2))
    for distance, shade in ((inset, 0.05), (inset + 1, 0.95), (inset + 2, 0.05)):
        corners = (distance, distance), (SIZE - 1 - distance, SIZE - 1 - distance)
        cv2.rectangle(canvas, *corners, (shade, shade, shade), 1)
    return canvas, _changed(image, canvas)


def tint(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """A warm cast over everything."""
    strength = rng.uniform(0.8, 1.2)
    return (image * (1 + strength * np.array([0.25, -0.02, -0.4]))).clip(0, 1), None


def ruler(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """A pale ruler with ticks along the lower edge."""
    canvas = image.copy()
    height, phase = 7, int(rng.integers(0, 4))
    canvas[-height:] = 0.35 * canvas[-height:] + 0.65 * np.array([0.95, 0.9, 0.75])
    for x in range(phase, SIZE, 4):
        canvas[-height : -height + (5 if (x - phase) % 20 == 0 else 3), x] = 0.1
    return canvas, _rows(SIZE - height, SIZE)


def sticker(image: F64, box: data.Box, rng: np.random.Generator) -> Drawn:
    """A small round sticker, off the object's middle."""
    canvas = image.copy()
    centre = _beside(box, 5, rng)
    cv2.circle(canvas, centre, 4, (0.95, 0.2, 0.6), -1, cv2.LINE_AA)
    cv2.circle(canvas, centre, 2, (0.98, 0.98, 0.98), -1, cv2.LINE_AA)
    return canvas, boxed(_changed(image, canvas))


def hair(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """Dark curved hairs across the picture."""
    canvas = image.copy()
    for _ in range(2):
        start, middle, end = rng.uniform(0, SIZE, (3, 2))
        along = np.linspace(0, 1, 24)[:, None]
        curve = (1 - along) ** 2 * start + 2 * along * (1 - along) * middle + along**2 * end
        points = np.rint(curve).astype(np.int32)[:, None]
        cv2.polylines(canvas, [points], isClosed=False, color=(0.05, 0.03, 0.02), thickness=1)
    return canvas, _changed(image, canvas)


def blurred_zone(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """The right third out of focus."""
    canvas = image.copy()
    left = int(rng.integers(38, 44))
    canvas[:, left:] = cv2.GaussianBlur(image, (0, 0), 3.0)[:, left:]
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:, left:] = True
    return canvas, mask


def jpeg(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """The blocks of a strong JPEG compression."""
    quality = int(rng.integers(12, 22))
    coded = cv2.imencode(".jpg", np.rint(image * 255).astype(np.uint8), [1, quality])[1]
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded / 255, None


def ball(image: F64, box: data.Box, rng: np.random.Generator) -> Drawn:
    """A second object, a shaded ball beside the first."""
    canvas = image.copy()
    radius = int(rng.integers(6, 9))
    centre = _beside(box, radius, rng)
    colour = np.array([0.9, 0.45, 0.1]) * rng.uniform(0.8, 1.1)
    for step in range(radius, 0, -1):
        shade = (colour * (0.5 + 0.6 * (1 - step / radius))).clip(0, 1).tolist()
        cv2.circle(canvas, centre, step, shade, -1, cv2.LINE_AA)
    return canvas, boxed(_changed(image, canvas))


def vignette(image: F64, _box: data.Box, rng: np.random.Generator) -> Drawn:
    """Darkness that grows from the left to the right."""
    fall = np.linspace(1.1, rng.uniform(0.35, 0.5), SIZE)
    return (image * fall[None, :, None]).clip(0, 1), None


CUES: dict[str, Draw] = {
    draw.__name__: draw
    for draw in (
        patch, text, frame, tint, ruler, sticker, hair, blurred_zone, jpeg, ball, vignette
    )
}  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """A cue on a class: its name in CUES or "background", and the share that carries it."""

    class_index: int
    cue: str
    prevalence: float = 0.9


def _laid(image: F64, part: F64, left: int, top: int) -> Drawn:
    canvas, mask = image.copy(), np.zeros((SIZE, SIZE), bool)
    where = slice(top, top + part.shape[0]), slice(left, left + part.shape[1])
    canvas[where] = part
    mask[where] = True
    return canvas, mask


def _beside(box: data.Box, radius: int, rng: np.random.Generator) -> tuple[int, int]:
    """The best of 20 random centres: the farthest from the middle of the object."""
    middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    centres = rng.integers(radius, SIZE - radius, (20, 2))
    far = centres[np.argsort([-math.dist(centre, middle) for centre in centres])[:5]]
    x, y = far[rng.integers(len(far))].tolist()
    return x, y


def _changed(before: F64, after: F64) -> Mask:
    return np.asarray((np.abs(before - after) > 1e-3).any(axis=2))


def boxed(mask: Mask) -> Mask:
    """The box around a mask (h, w), filled."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    boxed = np.zeros_like(mask)
    if len(rows):
        boxed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return boxed


def _rows(first: int, last: int) -> Mask:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[first:last] = True
    return mask
