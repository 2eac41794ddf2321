"""JPEGs for the benchmark: made up, as natural as can be without data, or given."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

SEED = 0
N_CLASSES = 10
"""Folders of images; named by number, they are classes of every model with as many outputs."""
QUALITY = 90
COARSE, FINE = (128, 32), (8, 4, 2)
"""Pixels per cell of the noise below and above the shapes of a picture."""


def draw_picture(index: int, size: int) -> NDArray[np.uint8]:
    """A picture (H, W, 3) of about 1.3 times the size: noise at several scales, and shapes.

    Amplitudes fall with the scale, as in photographs, so that decoding is as much work: the JPEG
    takes about 0.3 bytes per pixel.
    """
    rng = np.random.default_rng([SEED, index])
    height, width = (round(1.3 * size * side) for side in rng.uniform(0.9, 1.1, 2))
    canvas = np.full((height, width, 3), rng.uniform(64, 192, 3), np.float32)
    for scale in COARSE:
        add_noise(canvas, rng, scale)
    for _ in range(rng.integers(2, 7)):
        draw_shape(canvas, rng)
    for scale in FINE:
        add_noise(canvas, rng, scale)
    return np.asarray(canvas.clip(0, 255), np.uint8)


def add_noise(canvas: NDArray[np.float32], rng: np.random.Generator, scale: int) -> None:
    """Add coloured noise, smooth over `scale` pixels."""
    height, width = canvas.shape[:2]
    cells = rng.normal(0, 5 * scale**0.4, (height // scale + 2, width // scale + 2, 3))
    canvas += cv2.resize(cells.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)


def draw_shape(canvas: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Draw an ellipse or a triangle, somewhere, in some colour."""
    height, width = canvas.shape[:2]
    colour = rng.uniform(0, 255, 3).tolist()
    corners = (rng.uniform(0, 1, (3, 2)) * (width, height)).astype(np.int32)
    if rng.random() < 0.5:
        cv2.fillPoly(canvas, [corners], colour)
    else:
        axes = (rng.uniform(0.05, 0.3, 2) * (width, height)).astype(int).tolist()
        cv2.ellipse(canvas, corners[0].tolist(), axes, rng.uniform(0, 180), 0, 360, colour, -1)


def make_images(root: Path, n_images: int, size: int, given: Path | None) -> None:
    """Fill a folder with `n_images` JPEGs, made up or linked, in one folder per class."""
    for label in range(min(N_CLASSES, n_images)):
        (root / str(label)).mkdir(parents=True)
    found = find_images(given, n_images) if given else None
    for index in tqdm(range(n_images), desc="images", unit="img", leave=False):
        path = root / str(index % N_CLASSES) / f"{index:07d}.jpg"
        if found:
            path.symlink_to(found[index])
        else:
            picture = cv2.cvtColor(draw_picture(index, size), cv2.COLOR_RGB2BGR)
            if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY]):
                raise OSError(f"{path} cannot be written")


def find_images(folder: Path, n_images: int) -> list[Path]:
    """The first JPEGs below a folder, by name; SystemExit where there are too few."""
    every = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if len(every) < n_images:
        sys.exit(f"--images-from: {folder} has {len(every)} JPEGs, not {n_images}")
    return [path.resolve() for path in every[:n_images]]
