"""Convert a decoded image to the model's input: resize and crop in the loader, normalise on the
device.
"""

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
"""Largest number of pixels of a resized image; a very narrow image would exceed the memory."""


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of a model: resize, centre crop, scale to [0, 1], normalise.

    resize is the shorter side in pixels or (height, width), crop the (height, width) of the centre
    crop. mean and std hold a value in [0, 1] for each channel: 3 for a colour model, 1 for grey.
    Order and antialiased resize are those of torchvision's ImageClassification transforms on a
    Pillow image; pixels agree to 2 of 255 levels.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"

    @property
    def channels(self) -> int:
        """Number of channels of the model's input: 1 for grey, 3 for colour."""
        return len(self.mean)

    def fit(self, image: NDArray[np.uint8]) -> Tensor:
        """Resize and crop an image (H, W, C) uint8 to the model's size: (C, height, width) uint8.

        Raises:
            DecodeError: the image is too narrow to be resized.
        """
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        size = [self.resize] if isinstance(self.resize, int) else list(self.resize)
        short, long = sorted(image.shape[:2])
        if len(size) == 1 and size[0] ** 2 * long > MAX_RESIZED * short:
            raise DecodeError(f"too narrow to be resized: {short} x {long} pixels")
        tensor = V.resize(tensor, size, InterpolationMode(self.interpolation), antialias=True)
        cropped: Tensor = V.center_crop(tensor, list(self.crop))
        # The memory order stays rows, columns, channels: channels-last models need no copy.
        return cropped.permute(1, 2, 0).contiguous().permute(2, 0, 1)

    def seen(self, shape: tuple[int, ...]) -> Box:
        """The part of an image of shape (height, width, ...) that the model sees, as `seen_box`."""
        return seen_box(self.resize, self.crop, shape)

    def pattern(self) -> Tensor:
        """Two test images (2, 3, height, width) uint8 that differ in every pixel.

        Each image has contrast, because a model may divide by the image's standard deviation.
        """
        height, width = self.crop
        values = (torch.arange(3 * height * width) % 256).to(torch.uint8).view(3, height, width)
        return torch.stack([values, 255 - values])

    def colours(self, images: Tensor) -> Tensor:
        """Convert images (N, 3, h, w) uint8 to the model's number of channels.

        Grey is the luma of ITU-R BT.601 in the integer arithmetic of Pillow's convert("L"), which
        leaves a grey image unchanged; torchvision's conversion rounds down.
        """
        if self.channels == 3:
            return images
        red, green, blue = images.int().unbind(dim=1)
        luma: Tensor = (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16
        return luma.to(torch.uint8)[:, None]

    def normalise(self, images: Tensor) -> Tensor:
        """Convert images (N, 3, h, w) uint8 to the model's float32 input (N, channels, h, w)."""
        mean, std = _constant(self.mean, images.device), _constant(self.std, images.device)
        return self.colours(images).float().div_(255).sub_(mean).div_(std)


@lru_cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The values as a tensor (C, 1, 1); cached, because every copy to a GPU makes it wait."""
    return torch.tensor(values, device=device)[:, None, None]


def check_preprocess(
    resize: object, crop: object, mean: object, std: object, interpolation: str | None
) -> Preprocess:
    """Make a Preprocess of the settings' values.

    Raises:
        ConfigError: a value cannot be used; the message names its key.
    """
    height_width = _size("resize", resize)
    sides = resize if isinstance(resize, int) else height_width
    cropped = height_width if crop is None else _size("crop", crop)
    # With a shorter side in `resize`, the crop has to fit into that side alone.
    least = (min(cropped), min(cropped)) if isinstance(resize, int) else cropped
    if height_width[0] < least[0] or height_width[1] < least[1]:
        raise ConfigError(
            f"model.preprocess.crop: {crop!r} is larger than resize {resize!r}; every image would "
            "have black edges"
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
