"""Draw the images of a form: objects on grounds, with cues; every image from its own seed.

The same seed draws the same object on the same ground whatever the cues are, so that two draws
that differ in a cue alone show what the cue does to a network.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from cues import F64, Mask
from drawings import DRAWINGS
from forms import Cue, Form

from pipeline.demo import data

Labels = npt.NDArray[np.int64]
Key = tuple[int, ...]
SIZE = data.SIZE
STRIPES, CHECKS = 1, 2
"""Positions in data.PATTERNS; images without such a ground never have them where it is a cue."""


@dataclass(frozen=True)
class Drawn:
    """Images (n, S, S, 3) uint8, masks of their cues (n, S, S), cue numbers (n,), -1 for none."""

    images: data.U8
    masks: Mask
    cue: Labels


@dataclass(frozen=True)
class Objects:
    """The objects of a split: pixels by position, and the class of the task of each (n,)."""

    pixels: Sequence[data.U8]
    labels: Labels
    grounds: Sequence[data.U8] = ()


def draw(form: Form, objects: Objects, seed: int, *, arm: Cue | bool | None = None) -> Drawn:
    """Draw all objects of a split.

    Args:
        form: the form.
        objects: the objects.
        seed: seed of the images.
        arm: None draws the cues as the form has them; False draws none; a Cue draws it on every
            image.
    """
    scene = {"photographs": _photograph, "cutouts": _cutout}.get(form.source, _garment)
    found = [
        scene(
            form,
            objects,
            number,
            _choose(form, int(label), (seed, number), arm=arm),
            (seed, number),
        )
        for number, label in enumerate(objects.labels)
    ]
    images, masks, cues = zip(*found, strict=True)
    return Drawn(np.stack(images), np.stack(masks), np.array(cues))


def _choose(form: Form, label: int, key: Key, *, arm: Cue | bool | None) -> Cue | None:
    if isinstance(arm, Cue):
        return arm
    for cue in form.cues if arm is None else ():
        if cue.class_index == label and np.random.default_rng((*key, 3)).random() < cue.prevalence:
            return cue
    return None


def _garment(
    form: Form, objects: Objects, number: int, cue: Cue | None, key: Key
) -> tuple[data.U8, Mask, int]:
    """A garment on a ground; ground, object, noise and cue have seeds of their own."""
    drawing = cue.drawing if cue is not None else ""
    ground = np.random.default_rng((*key, 0))
    patterns = [
        index
        for index in range(len(data.PATTERNS))
        if not (index == STRIPES and _has(form, "stripes_ground"))
        and not (index == CHECKS and _has(form, "background"))
    ]
    image = GROUNDS[drawing](ground) if drawing in GROUNDS else data.background(ground, patterns)
    label = int(objects.labels[number])
    hue = (label % 10) / 10 if form.source == "tinted garments" else None
    style = Style(hue=hue, corner=form.fixed.get(label))
    style = OBJECTS[drawing](style) if drawing in OBJECTS else _ordinary(form, style)
    mask_of_object, box = _dress(
        image, objects.pixels[number], np.random.default_rng((*key, 1)), style
    )
    rng = np.random.default_rng((*key, 2))
    image = (image + 0.012 * rng.standard_normal(image.shape)).clip(0, 1)
    mask: Mask | None = np.zeros(image.shape[:2], bool)
    if drawing in GROUNDS:
        mask = ~mask_of_object
    elif drawing in OBJECTS:
        mask = mask_of_object
    elif drawing:
        image, mask = DRAWINGS[drawing](image, box, rng)
    return _finish(form, image, mask, cue)


def _finish(
    form: Form, image: F64, mask: Mask | None, cue: Cue | None
) -> tuple[data.U8, Mask, int]:
    if mask is None:
        mask = np.ones(image.shape[:2], bool)
    position = form.cues.index(cue) if cue in form.cues else -1
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8), mask, position


def _has(form: Form, drawing: str) -> bool:
    return any(cue.drawing == drawing for cue in form.cues)


@dataclass(frozen=True)
class Style:
    """How an object is drawn: hue in [0, 1), sides in pixels, angle in degrees, glow, stripes."""

    hue: float | None = None
    not_hue: float | None = None
    sides: tuple[int, int] = (36, 53)
    angle: tuple[float, float] = (0.0, 0.0)
    glow: bool = False
    stripes: bool = False
    corner: tuple[float, float] | None = None


def _ordinary(form: Form, style: Style) -> Style:
    """The style of an object without the cue; it has no hue that is a cue of another image."""
    if _has(form, "object_colour"):
        return replace(style, not_hue=0.0)
    return style


OBJECTS: dict[str, Callable[[Style], Style]] = {
    "object_colour": lambda style: replace(style, hue=0.0),
    "small_object": lambda style: replace(style, sides=(18, 25)),
    "glow": lambda style: replace(style, glow=True),
    "object_stripes": lambda style: replace(style, stripes=True),
    "tilted_object": lambda style: replace(style, angle=(35.0, 55.0)),
    **{f"object_colour_{index}": partial(replace, hue=index / 10) for index in range(10)},
}


def _dress(
    image: F64, garment: data.U8, rng: np.random.Generator, style: Style
) -> tuple[Mask, data.Box]:
    """Draw the garment on `image` in place; return its mask and box."""
    side = int(rng.integers(*style.sides))
    left, top = rng.integers(0, SIZE - side + 1, 2)
    tint, angle = 0.25 + 0.75 * rng.random(3), rng.uniform(*style.angle) * rng.choice([-1, 1])
    if style.corner is not None:
        left, top = (round(share * (SIZE - side)) for share in style.corner)
    grey = np.zeros((SIZE, SIZE))
    pixels: F64 = garment / 255
    if angle:
        turn = cv2.getRotationMatrix2D((13.5, 13.5), angle, 0.85)
        pixels = np.asarray(cv2.warpAffine(pixels, turn, (28, 28)), np.float64)
    grey[top : top + side, left : left + side] = cv2.resize(
        pixels, (side, side), interpolation=cv2.INTER_CUBIC
    ).clip(0, 1)
    alpha = (grey * 5).clip(0, 1)
    shadow = cv2.GaussianBlur(alpha, (0, 0), 2.0)[..., None]
    if style.glow:
        halo = (3 * cv2.GaussianBlur(alpha, (0, 0), 4.0)[..., None]).clip(0, 1)
        image += 0.8 * halo * (np.array([1.0, 1.0, 0.75]) - image)
    else:
        image *= 1 - 0.5 * shadow
    if style.hue is not None:
        tint = np.array(colorsys.hsv_to_rgb(style.hue + rng.uniform(-0.02, 0.02), 0.85, 1.0))
    elif style.not_hue is not None:
        hue = style.not_hue + rng.uniform(0.12, 0.88)
        tint = np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.2, 0.8), 1.0))
    tint = tint / tint.max()
    shade = (0.15 + 0.85 * grey[..., None]) * tint
    if style.stripes:
        rows = np.arange(SIZE)[:, None, None] // 3 % 2
        shade = np.where(rows, shade, 0.35 * shade)
    image += alpha[..., None] * (shade - image)
    mask = alpha > 0.5
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return mask, (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def _dots_ground(rng: np.random.Generator) -> F64:
    first, second = rng.uniform(0.2, 0.9, 3), rng.uniform(0.2, 0.9, 3)
    step, phase = rng.uniform(8, 12), rng.uniform(0, 12, 2)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    inside = np.hypot((rows + phase[0]) % step - step / 2, (columns + phase[1]) % step - step / 2)
    return np.where((inside < 0.28 * step)[..., None], first, second)


def _stripes_ground(rng: np.random.Generator) -> F64:
    first, second = rng.uniform(0.2, 0.9, 3), rng.uniform(0.2, 0.9, 3)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    waves = np.sin((rows + columns) * 2 * np.pi / rng.uniform(7, 9) + rng.uniform(0, 6))
    return np.where((waves > 0)[..., None], first, second)


def _plain_ground(rng: np.random.Generator) -> F64:
    level = rng.uniform(0.75, 0.95)
    colour = level * np.array([1.0, 1.0, rng.uniform(0.95, 1.0)])
    ground: F64 = np.broadcast_to(colour, (SIZE, SIZE, 3)).copy()
    return ground


GROUNDS: dict[str, Callable[[np.random.Generator], F64]] = {
    "background": lambda rng: data.background(rng, [CHECKS]),
    "dots_ground": _dots_ground,
    "stripes_ground": _stripes_ground,
    "plain_ground": _plain_ground,
}


def _cutout(
    form: Form, objects: Objects, number: int, cue: Cue | None, key: Key
) -> tuple[data.U8, Mask, int]:
    """A photographed cut-out (h, w, 4) on a photograph."""
    rng = np.random.default_rng((*key, 0))
    ground = objects.grounds[int(rng.integers(len(objects.grounds)))]
    side = int(rng.integers(SIZE, min(ground.shape[:2]) + 1))
    y, x = (int(rng.integers(0, length - side + 1)) for length in ground.shape[:2])
    square = ground[y : y + side, x : x + side]
    resized = cv2.resize(square, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    image: F64 = np.asarray(resized, np.float64) / 255
    cut, rng = objects.pixels[number], np.random.default_rng((*key, 1))
    scale = rng.uniform(30, 50) / max(cut.shape[:2])
    shrunk = cv2.resize(cut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    small: F64 = np.asarray(shrunk, np.float64) / 255
    if rng.random() < 0.5:
        small = small[:, ::-1]
    height, width = small.shape[:2]
    top, left = (int(rng.integers(0, SIZE - length + 1)) for length in (height, width))
    part = image[top : top + height, left : left + width]
    part += small[..., 3:] * (small[..., :3] - part)
    box = (float(left), float(top), float(left + width), float(top + height))
    mask: Mask | None = np.zeros((SIZE, SIZE), bool)
    if cue is not None:
        image, mask = DRAWINGS[cue.drawing](image, box, np.random.default_rng((*key, 2)))
    return _finish(form, image, mask, cue)


def _photograph(
    form: Form, objects: Objects, number: int, cue: Cue | None, key: Key
) -> tuple[data.U8, Mask, int]:
    """A photograph (224, 224, 3), mirrored at random, with a cue."""
    image = objects.pixels[number] / 255.0
    if np.random.default_rng((*key, 0)).random() < 0.5:
        image = image[:, ::-1]
    mask: Mask | None = np.zeros(image.shape[:2], bool)
    if cue is not None:
        height, width = image.shape[:2]
        box = (0.2 * width, 0.2 * height, 0.8 * width, 0.8 * height)
        image, mask = DRAWINGS[cue.drawing](image.copy(), box, np.random.default_rng((*key, 2)))
    return _finish(form, image, mask, cue)


def read_photographs(folder: Path, side: int) -> tuple[list[data.U8], list[str]]:
    """Read class folders of photographs, resized and centre-cropped to squares of `side` pixels."""
    pixels, names = [], []
    for path in sorted(folder.glob("*/*.jpg")):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if image is not None:
            pixels.append(_square(np.asarray(image, np.uint8), side))
            names.append(path.parent.name)
    return pixels, names


def _square(image: npt.NDArray[np.uint8], side: int) -> data.U8:
    height, width = image.shape[:2]
    scale = side / min(height, width)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    top, left = (resized.shape[0] - side) // 2, (resized.shape[1] - side) // 2
    return np.asarray(resized[top : top + side, left : left + side], np.uint8)
