"""Photographs that are made up, for measuring: JPEGs that are decoded as those of a folder are."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

SCENES = 64
"""Different JPEGs; an image is one of them."""


def class_names(n_classes: int) -> list[str]:
    """Return the names of the classes."""
    return [f"class {index:04d}" for index in range(n_classes)]


class Photos:
    """JPEGs of 500 x 375 pixels, as many as wanted."""

    def __init__(self, n_images: int, n_classes: int) -> None:
        self.classes = class_names(n_classes)
        self.targets = [index % n_classes for index in range(n_images)]
        self.ids = [f"{self.classes[t]}/{i:07d}.jpg" for i, t in enumerate(self.targets)]
        self.files = [np.asarray(cv2.imencode(".jpg", photo(seed))[1]) for seed in range(SCENES)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = cv2.imdecode(self.files[index % SCENES], cv2.IMREAD_COLOR_RGB)
        return {"image": pixels, "label": self.targets[index]}


def photo(seed: int) -> npt.NDArray[np.uint8]:
    """Return blurred noise (375, 500, 3), which is as hard to pack as a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)
    enlarged = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC)
    smooth = np.asarray(enlarged, np.float32)
    grain = cv2.GaussianBlur(rng.normal(0, 40, smooth.shape).astype(np.float32), (0, 0), 1.5)
    return np.asarray(np.clip(smooth + grain, 0, 255), np.uint8)
