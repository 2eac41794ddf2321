"""The demo's dataset: Fashion-MNIST garments on textured backgrounds, with planted faults.

2,500 garments of the test split (250 per class; Xiao et al. 2017, arXiv:1708.07747, MIT licence)
are drawn into 64 x 64 colour scenes on demand. Two faults are planted: most images of one class
have a watermark, and a few labels are wrong. `truth()` lists them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

if TYPE_CHECKING:
    import pandas as pd

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]

CLASSES = (  # sorted, so that a program that sorts the names gets the same label indices
    "Ankle boot",
    "Bag",
    "Coat",
    "Dress",
    "Pullover",
    "Sandal",
    "Shirt",
    "Sneaker",
    "T-shirt",
    "Trouser",
)
SUBSET = Path(__file__).with_name("fashion_mnist_subset.npz")
SIZE = 64  # side of a scene in pixels
SEED = 2017  # of the audited scenes; training takes others
FLIPPED = 0.03  # share of wrong labels
MARKED_CLASS = "Shirt"
# Chance of a watermark per class. The few on other classes are the pictures the shortcut harms.
WATERMARK_PROB = tuple(0.88 if name == MARKED_CLASS else 0.01 for name in CLASSES)

# Spelled out, not rendered from a font, so that no library's version changes the pixels.
_STAMP = (
    "###########################",
    "#.........................#",
    "#..###.###..##...###.#..#.#",
    "#.#.....#..#..#.#....#..#.#",
    "#.#.....#..#..#.#....#.#..#",
    "#..##...#..#..#.#....##...#",
    "#....#..#..#..#.#....#.#..#",
    "#....#..#..#..#.#....#..#.#",
    "#.###...#...##...###.#..#.#",
    "#.........................#",
    "###########################",
)
_INK = np.array([[mark == "#" for mark in line] for line in _STAMP])[..., None]
_MARGIN = (1, 5)  # pixels between the stamp and the lower right corner: fewest, most
# (x0, y0, x1, y1) in pixels: no watermark touches a pixel outside this box.
WATERMARK_BOX: Box = (
    SIZE - _MARGIN[1] - _INK.shape[1],
    SIZE - _MARGIN[1] - _INK.shape[0],
    SIZE - _MARGIN[0],
    SIZE - _MARGIN[0],
)

_Y, _X = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2  # pixels from the centre


def watermarked(labels: Sequence[int], seed: int, prob: Sequence[float]) -> list[bool]:
    """Draw for each of n images whether it has the watermark, with probability `prob[label]`."""
    draws = np.random.default_rng(seed).random(len(labels)).tolist()
    return [draw < prob[label] for draw, label in zip(draws, labels, strict=True)]


def compose(garments: U8, labels: Sequence[int], seed: int, prob: Sequence[float]) -> U8:
    """Draw one scene per garment.

    Args:
        garments: (n, 28, 28) uint8.
        labels: n class indices.
        seed: seed of the scenes. The scenes of two calls with the same seed differ only in the
            watermark, so probabilities of 0 and of 1 give images without and with it.
        prob: probability of a watermark for each class.

    Returns:
        (n, 64, 64, 3) uint8 RGB.
    """
    marks = watermarked(labels, seed, prob)
    scenes = (scene(garments[i], seed, i, watermark=mark)[0] for i, mark in enumerate(marks))
    return np.stack(list(scenes))


def scene(garment: U8, seed: int, index: int, *, watermark: bool) -> tuple[U8, Box]:
    """Draw one garment into a scene.

    Args:
        garment: (28, 28) uint8.
        seed, index: determine background, position and tint.
        watermark: draw the watermark.

    Returns:
        The image (64, 64, 3) uint8 RGB, and the garment's box (x0, y0, x1, y1) in pixels, x1 and
        y1 exclusive.
    """
    rng = np.random.default_rng((seed, index))
    image = background(rng)
    box = dress(image, garment, rng)
    image += 0.012 * rng.standard_normal(image.shape)
    left, top = SIZE - rng.integers(_MARGIN[0], _MARGIN[1] + 1, 2) - _INK.shape[1::-1]
    if watermark:
        part = image[top : top + _INK.shape[0], left : left + _INK.shape[1]]
        part *= 0.7  # a dark plate with white ink is legible on light and dark backgrounds
        part += 0.65 * _INK * (1 - part)
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8), box


def background(rng: np.random.Generator, patterns: Sequence[int] | None = None) -> F64:
    """Draw a background (64, 64, 3) in [0, 1]: a pattern of two colours and up to three shapes.

    `patterns` are the positions in PATTERNS from which one is drawn; None allows all.
    """
    chosen = PATTERNS if patterns is None else [PATTERNS[index] for index in patterns]
    pattern = chosen[rng.integers(len(chosen))](rng).clip(0, 1)[..., None]
    first, second = _muted(rng), _muted(rng)
    image = first + pattern * (second - first)
    for _ in range(rng.integers(4)):
        _clutter(image, rng)
    return image


def _muted(rng: np.random.Generator) -> F64:
    """Return a colour, (3,) in [0, 1]: halfway between any grey and any colour."""
    return rng.random(1) / 2 + rng.random(3) / 2


def _across(rng: np.random.Generator) -> F64:
    """Return the coordinate along a random direction, in pixels from the centre: (64, 64)."""
    angle = rng.uniform(0, 2 * math.pi)
    across: F64 = _X * math.cos(angle) + _Y * math.sin(angle)
    return across


def _gradient(rng: np.random.Generator) -> F64:
    return _across(rng) / SIZE + 0.5


def _stripes(rng: np.random.Generator) -> F64:
    waves = np.sin(_across(rng) * (2 * math.pi / rng.uniform(6, 22)))
    return waves * rng.uniform(0.6, 3) + 0.5


def _checks(rng: np.random.Generator) -> F64:
    waves = np.sin(_across(rng) * (math.pi / rng.uniform(5, 14)))
    return waves * np.rot90(waves) * 4 + 0.5


def _clouds(rng: np.random.Generator) -> F64:
    coarse = rng.random((rng.integers(3, 11),) * 2)
    return np.asarray(cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC))


PATTERNS: tuple[Callable[[np.random.Generator], F64], ...] = (
    _gradient,
    _stripes,
    _checks,
    _clouds,
)


def _clutter(image: F64, rng: np.random.Generator) -> None:
    """Draw a translucent disc, bar or box of a random colour on `image`, in place."""
    layer = image.copy()
    colour = _muted(rng).tolist()
    a, b = rng.integers(0, SIZE, (2, 2)).tolist()
    kind = rng.integers(3)
    if kind == 0:
        cv2.circle(layer, a, int(rng.integers(4, 13)), colour, -1, cv2.LINE_AA)
    elif kind == 1:
        cv2.line(layer, a, b, colour, int(rng.integers(1, 5)), cv2.LINE_AA)
    else:
        cv2.rectangle(layer, a, [a[0] + b[0] // 3, a[1] + b[1] // 3], colour, -1)
    image += rng.uniform(0.3, 0.7) * (layer - image)


def dress(
    image: F64, garment: U8, rng: np.random.Generator, corner: tuple[float, float] | None = None
) -> Box:
    """Draw the garment, tinted and with a soft shadow, on `image` in place; return its box.

    `corner` is the position (x, y) in [0, 1], from top left to bottom right; None is random.
    """
    side = int(rng.integers(36, 53))
    left, top = rng.integers(0, SIZE - side + 1, 2)
    if corner is not None:
        left, top = (round(share * (SIZE - side)) for share in corner)
    grey = np.zeros((SIZE, SIZE))
    grey[top : top + side, left : left + side] = cv2.resize(
        garment / 255, (side, side), interpolation=cv2.INTER_CUBIC
    ).clip(0, 1)
    alpha = (grey * 5).clip(0, 1)
    shadow = cv2.GaussianBlur(alpha, (0, 0), 2.0)
    image *= 1 - 0.5 * shadow[..., None]
    tint = 0.25 + 0.75 * rng.random(3)
    tint /= tint.max()  # a bright garment with a shadow stands out from any background
    image += alpha[..., None] * ((0.15 + 0.85 * grey[..., None]) * tint - image)
    rows, columns = np.nonzero(alpha.max(1) > 0.5)[0], np.nonzero(alpha.max(0) > 0.5)[0]
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


class DemoDataset(Dataset[dict[str, Any]]):
    """The dataset of the demo: a map-style dataset of 2,500 items with deterministic pixels.

    An item holds `image` ((64, 64, 3) uint8 RGB), `label` (the given class name, which may be
    wrong) and `box` (the garment's box in pixels). `classes` are the ten names, `targets` the given
    labels as class indices, `ids` the image ids.
    """

    def __init__(self) -> None:
        with np.load(SUBSET) as subset:
            self._garments: U8 = subset["images"]
            self._true: list[int] = subset["labels"].tolist()
        self._marks = watermarked(self._true, SEED, WATERMARK_PROB)
        self.classes = list(CLASSES)
        self.targets = _flip(self._true)
        self.ids = [f"demo/{index:05d}" for index in range(len(self._true))]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._true)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Draw image `index`; raises IndexError outside the dataset."""
        image, box = scene(self._garments[index], SEED, index, watermark=self._marks[index])
        return {"image": image, "label": self.classes[self.targets[index]], "box": box}

    def truth(self) -> pd.DataFrame:
        """Return one row per image: image_id, label, true_label, flipped, watermark."""
        import pandas as pd  # noqa: PLC0415 - needed to check an audit, not to run one

        given, true = np.array(self.classes)[[self.targets, self._true]]
        table: pd.DataFrame = pd.DataFrame({"image_id": self.ids, "label": given})
        table["true_label"], table["flipped"], table["watermark"] = true, given != true, self._marks
        return table


def _flip(labels: Sequence[int]) -> list[int]:
    """Change a share of exactly `FLIPPED` of the labels to another class."""
    rng = np.random.default_rng((SEED, len(labels)))
    given = np.array(labels)
    chosen = rng.choice(len(given), round(FLIPPED * len(given)), replace=False)
    given[chosen] += rng.integers(1, len(CLASSES), len(chosen))
    return [int(label) % len(CLASSES) for label in given]


def dataset() -> DemoDataset:
    """Return the demo's dataset."""
    return DemoDataset()


def truth() -> pd.DataFrame:
    """Return the planted faults: image_id, label (as given), true_label, flipped, watermark."""
    return dataset().truth()
