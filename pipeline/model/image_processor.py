"""The image processor of a Hugging Face model, as the preprocessing of this project."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import PreprocessConfig, ZooModel
from pipeline.errors import ConfigError, as_config_error
from pipeline.model.loaded import timm_preprocess
from pipeline.model.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PretrainedConfig

Entries = dict[str, Any]
"""The entries of an image processor's JSON file."""
Size = int | list[int] | tuple[int, int]
"""The shorter side in pixels, or height and width."""

FILES = ("preprocessor_config.json", "processor_config.json")
FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's number of a filter, as an image processor stores it, and torchvision's name."""


def preprocess(
    library: ModuleType, config: ZooModel, settings: PretrainedConfig
) -> tuple[PreprocessConfig, list[str]]:
    """What the image processor says of everything that the user left open, and what was assumed.

    Args:
        library: transformers.
        config: name tells the model; preprocess is what the user set.
        settings: the model's config.

    Raises:
        ConfigError: what PreprocessConfig cannot express, by its entry.
    """
    wanted = config.preprocess
    if _sized(wanted) and None not in (wanted.mean, wanted.std, wanted.interpolation):
        return wanted, []
    if settings.model_type != "timm_wrapper" and not _has_processor(config.name):
        return _assumed(config, settings)
    with as_config_error(
        f"model.name: the image processor of {config.name} cannot be loaded, and not all of "
        "model.preprocess is given"
    ):
        processor = library.AutoImageProcessor.from_pretrained(config.name, trust_remote_code=False)
    says = _said(processor.to_dict(), wanted, _channels(settings))
    if wanted.mean is None and wanted.std is None:
        _check(processor, says, sized=_sized(wanted))
    return says, []


def _sized(wanted: PreprocessConfig) -> bool:
    return wanted.resize is not None or wanted.crop is not None


def _channels(settings: PretrainedConfig) -> int:
    return int(getattr(settings, "num_channels", 3))


def _has_processor(name: str) -> bool:
    from transformers.utils import cached_file  # noqa: PLC0415 - an extra

    for file in FILES:
        try:
            cached_file(name, file)
        except OSError as error:
            if "does not appear to have" in str(error):  # there is no error of its own for it
                continue
        return True  # what cannot be reached, say, is told when it is loaded
    return False


def _assumed(config: ZooModel, settings: PretrainedConfig) -> tuple[PreprocessConfig, list[str]]:
    """Without an image processor: the config's size and ImageNet's colours, said aloud."""
    says = PreprocessConfig(256, 224, list(IMAGENET_MEAN), list(IMAGENET_STD))
    if _channels(settings) == 1:
        says.mean = says.std = [0.5]
    size = getattr(settings, "image_size", None)
    if isinstance(size, int | list | tuple):
        says.resize = says.crop = list(_pair(size))
    wanted = config.preprocess
    keys = [] if _sized(wanted) else ["resize", "crop"]
    keys += [key for key in ("mean", "std") if getattr(wanted, key) is None]
    if not keys:
        return says, []
    used = ", ".join(f"{key}={getattr(says, key)}" for key in keys)
    note = (
        f"{config.name} has no {FILES[0]}, and model.preprocess.{{{','.join(keys)}}} "
        f"is not given; it was taken as {used}"
    )
    return says, [note]


def _said(entries: Entries, wanted: PreprocessConfig, channels: int) -> PreprocessConfig:
    """The entries of an image processor as far as they are needed, or why they cannot be."""
    if "data_config" in entries:  # a model of timm, in transformers' wrapper
        return timm_preprocess(entries["data_config"])
    says = PreprocessConfig()
    if not _sized(wanted):
        says.resize, says.crop = _sizes(entries)
    if wanted.mean is None or wanted.std is None:
        says.mean, says.std = _colours(entries, channels)
    if wanted.interpolation is None:
        says.interpolation = FILTERS.get(entries.get("resample", -1))
        if says.interpolation is None:
            raise _unfollowed("interpolation", f"resample={entries.get('resample')}")
    return says


def _unfollowed(keys: str, entry: str) -> ConfigError:
    return ConfigError(
        f"model.preprocess.{keys}: the model's image processor has {entry}, which cannot be "
        f"followed; set model.preprocess.{keys} by hand, or let a factory of your own do it "
        "(model=custom)"
    )


def _sizes(entries: Entries) -> tuple[Size, Size]:
    """Resize and crop of an image processor."""
    for key, wanted in (("do_resize", True), ("do_pad", False)):
        if bool(entries.get(key)) is not wanted:
            raise _unfollowed("resize", f"{key}={not wanted}")
    resize, crop = _resize(entries)
    if entries.get("do_center_crop") and crop is None:
        size = dict(entries.get("crop_size") or {})
        if size.keys() != {"height", "width"}:
            raise _unfollowed("resize", f"crop_size={size}")
        crop = [size["height"], size["width"]]
    elif isinstance(resize, int) and crop is None:
        raise _unfollowed("resize", f"size={dict(entries['size'])} and no do_center_crop")
    return resize, resize if crop is None else crop


def _resize(entries: Entries) -> tuple[Size, Size | None]:
    """Resize, and crop where that is part of it: some image processors have rules of their own."""
    size, kind = dict(entries.get("size") or {}), entries["image_processor_type"]
    if size.keys() == {"height", "width"}:
        return [size["height"], size["width"]], None
    if size.keys() != {"shortest_edge"}:
        raise _unfollowed("resize", f"size={size}")
    side = size["shortest_edge"]
    if kind.startswith("ConvNext"):
        square = [side, side]
        return (square if side >= 384 else int(side / entries["crop_pct"])), square
    if kind.startswith("PoolFormer") and entries.get("crop_pct"):
        return int(side / entries["crop_pct"]), None
    if kind.startswith("Levit"):
        return int(256 / 224 * side), None
    return side, None


def _colours(entries: Entries, channels: int) -> tuple[list[float], list[float]]:
    """Mean and std for which (x / 255 - mean) / std is the image processor's value of a level x."""
    if entries.get("do_flip_channel_order"):
        raise _unfollowed("{mean,std}", "do_flip_channel_order=True")
    unit, offset = 255.0, 0
    if entries.get("do_rescale"):
        unit, offset = 255 * entries["rescale_factor"], int(bool(entries.get("rescale_offset")))
    mean, std = np.zeros(channels), np.ones(channels)
    if entries.get("do_normalize"):
        mean, std = (
            _channel(entries, "image_mean", channels),
            _channel(entries, "image_std", channels),
        )
    if entries.get("include_top"):  # EfficientNet's classifiers divide once more
        std = std * _channel(entries, "image_std", channels)
    return ((mean + offset) / unit).round(9).tolist(), (std / unit).round(9).tolist()


def _channel(entries: Entries, key: str, channels: int) -> NDArray[np.float64]:
    values = np.array(entries[key], dtype=np.float64)
    if values.size not in (1, channels):
        raise _unfollowed("{mean,std}", f"{key}={entries[key]} for {channels} channels")
    return np.broadcast_to(values, (channels,))


def _check(processor: BaseImageProcessor, says: PreprocessConfig, *, sized: bool) -> None:
    """Compare with what the image processor makes of a picture: its class may have rules too.

    Where the user gave the size, a picture of one colour is compared, which no geometry changes.
    """
    kind = type(processor).__name__
    keys = "{mean,std}" if sized else "{resize,mean,std}"
    picture = _picture(plain=sized, channels=len(says.mean or ()))
    ours = _ours(says, picture)
    with as_config_error(
        f"model.preprocess.{keys} is not given, and the model's {kind} does not work"
    ):
        theirs = processor(images=picture, return_tensors="pt").get("pixel_values")
    if not isinstance(theirs, Tensor) or theirs.ndim != 4:
        raise _unfollowed(keys, f"{kind} as its class")
    # A centre crop may lie one pixel off: both libraries round half pixels, each in its way.
    most = 3 if sized else 3 + 255 / min(ours.shape[2:])
    if sized:
        ours, theirs = _centre(ours), _centre(theirs)
    if ours.shape != theirs.shape or _levels(ours - theirs, says) > most:
        raise _unfollowed(keys, f"{kind} as its class")


def _picture(*, plain: bool, channels: int) -> NDArray[np.uint8]:
    """(128, 192, channels): colours that tell the place, or one colour everywhere."""
    rows, columns = np.mgrid[:128, :192]
    ramps = [columns / 191, rows / 127, 1 - (rows + columns) / 318][:channels]
    picture = (np.stack(ramps, axis=2) * 255).astype(np.uint8)
    return np.broadcast_to(picture[30, 150], picture.shape).copy() if plain else picture


def _ours(says: PreprocessConfig, picture: NDArray[np.uint8]) -> Tensor:
    """The model's input (1, C, h, w), 8 x 8 pixels where the size does not matter."""
    resize = says.resize if isinstance(says.resize, int) else _pair(says.resize or 8)
    mean, std = tuple(says.mean or ()), tuple(says.std or ())
    fitting = Preprocess(resize, _pair(says.crop or 8), mean, std)
    colour = np.repeat(picture, 3 // picture.shape[2], axis=2)
    return fitting.normalise(fitting.fit(colour)[None])


def _levels(difference: Tensor, says: PreprocessConfig) -> float:
    """Mean of a difference of inputs, in the 255 levels of a picture."""
    std = torch.tensor(says.std)[:, None, None]
    return float((difference * std * 255).abs().mean())


def _centre(images: Tensor) -> Tensor:
    """(N, C, h, w) to (N, C, 1, 1)."""
    height, width = images.shape[2:]
    return images[:, :, height // 2, width // 2][:, :, None, None]


def _pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
