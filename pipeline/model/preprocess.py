"""From a decoded picture to the model's input: geometry in the loader, numbers on the device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as V

from pipeline.data.decode import DecodeError
from pipeline.data.pictures import Box, seen_box
from pipeline.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_RESIZED = 1 << 26
"""Pixels of a resized picture before it is cropped; a sliver would be blown up beyond memory."""


@dataclass(frozen=True)
class Preprocess:
    """What a model expects of a picture.

    resize is the shorter side in pixels or (height, width); crop the (height, width) of the centre
    crop; mean and std, per channel in [0, 1], tell by their number whether the model sees colour
    (3) or grey (1). The order (resize, crop, scale, normalise) and the antialiased resize are
    those of torchvision's ImageClassification transforms on a Pillow picture, to 2 of 255 levels.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return len(self.mean)

    def fit(self, picture: NDArray[np.uint8]) -> Tensor:
        """(H, W, C) uint8 to the (C, height, width) uint8 that the model sees.

        Raises:
            DecodeError: where a picture is so narrow that it cannot be resized.
        """
        tensor = torch.from_numpy(picture).permute(2, 0, 1)
        size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
        short, long = sorted(picture.shape[:2])
        if len(size) == 1 and size[0] ** 2 * long > MAX_RESIZED * short:
            raise DecodeError(f"too narrow to be resized: {short} x {long} pixels")
        tensor = V.resize(tensor, size, InterpolationMode(self.interpolation), antialias=True)
        cropped: Tensor = V.center_crop(tensor, list(self.crop))
        # Rows, columns, channels in memory, as it came: no copy is needed for channels-last models.
        return cropped.permute(1, 2, 0).contiguous().permute(2, 0, 1)

    def seen(self, shape: tuple[int, ...]) -> Box:
        """What the model sees of a picture of a shape (height, width, ...), as `seen_box`."""
        return seen_box(self.resize, self.crop, shape)

    def pattern(self) -> Tensor:
        """(2, 3, height, width) uint8 for trials of a model: they differ everywhere.

        They have some contrast, as a model may divide by the picture's own spread.
        """
        height, width = self.crop
        values = (torch.arange(3 * height * width) % 256).to(torch.uint8).view(3, height, width)
        return torch.stack([values, 255 - values])

    def colours(self, images: Tensor) -> Tensor:
        """(N, 3, h, w) uint8 with the number of channels that the model wants.

        Grey is the luma of ITU-R BT.601 in the integers of Pillow's convert("L"), so that a grey
        picture stays what it is; torchvision rounds it down.
        """
        if self.channels == 3:
            return images
        red, green, blue = images.int().unbind(dim=1)
        luma: Tensor = (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16
        return luma.to(torch.uint8)[:, None]

    def normalise(self, images: Tensor) -> Tensor:
        """(N, 3, h, w) uint8 to the model's float32 input (N, channels, h, w), on their device."""
        mean, std = _constant(self.mean, images.device), _constant(self.std, images.device)
        return self.colours(images).float().div_(255).sub_(mean).div_(std)


@lru_cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(C, 1, 1) on a device; made once, as every copy to a GPU makes it wait."""
    return torch.tensor(values, device=device)[:, None, None]


def checked(
    resize: object, crop: object, mean: object, std: object, interpolation: str | None
) -> Preprocess:
    """A Preprocess from what a person wrote.

    Raises:
        ConfigError: naming the key that cannot be used.
    """
    height_width = _size("resize", resize)
    sides = resize if isinstance(resize, int) else height_width
    cropped = height_width if crop is None else _size("crop", crop)
    # Beside a shorter side of the right length, the longer one may do for every picture.
    least = (min(cropped), min(cropped)) if isinstance(resize, int) else cropped
    if height_width[0] < least[0] or height_width[1] < least[1]:
        raise ConfigError(
            f"model.preprocess.crop: {crop!r} is larger than resize {resize!r}; the edges of every "
            "picture would be black"
        )
    modes = ("nearest", "bilinear", "bicubic")
    interpolation = interpolation or "bilinear"
    if interpolation not in modes:
        raise ConfigError(
            f"model.preprocess.interpolation: {interpolation!r} is none of {', '.join(modes)}"
        )
    means, stds = _colour("mean", mean), _colour("std", std)
    if len(means) != len(stds) or not all(std > 0 for std in stds):
        raise ConfigError(
            f"model.preprocess: mean {list(means)} and std {list(stds)} need the same "
            "number of channels (1 or 3), and a std above 0"
        )
    return Preprocess(sides, cropped, means, stds, interpolation)


def _size(key: str, value: object) -> tuple[int, int]:
    sides: list[Any] = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(sides) == 2 and all(type(side) is int and side > 0 for side in sides):
        return sides[0], sides[1]
    raise ConfigError(f"model.preprocess.{key}: {value!r} is neither pixels nor [height, width]")


def _colour(key: str, value: object) -> tuple[float, ...]:
    if isinstance(value, list | tuple) and len(value) in (1, 3):
        return tuple(float(channel) for channel in value)
    raise ConfigError(f"model.preprocess.{key}: {value!r} needs one number per channel, 1 or 3")
