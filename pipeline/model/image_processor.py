"""Convert the image processor of a Hugging Face model to a PreprocessConfig."""

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
"""Pillow's number of a filter, as image processors store it, and torchvision's name."""


def preprocess(
    library: ModuleType, config: ZooModel, settings: PretrainedConfig
) -> tuple[PreprocessConfig, list[str]]:
    """Take from the image processor every preprocessing value that the user did not set.

    Args:
        library: the transformers module.
        config: name is the folder or id of the model; preprocess holds the user's values.
        settings: the model's config.

    Returns:
        The preprocessing, and warnings about assumed values.

    Raises:
        ConfigError: PreprocessConfig cannot express an entry; the message names the entry.
    """
    wanted = config.preprocess
    if _has_size(wanted) and None not in (wanted.mean, wanted.std, wanted.interpolation):
        return wanted, []
    if settings.model_type != "timm_wrapper" and not _has_processor(config.name):
        return _assume_defaults(config, settings)
    with as_config_error(
        f"model.name: the image processor of {config.name} cannot be loaded, and not all of "
        "model.preprocess is given"
    ):
        processor = library.AutoImageProcessor.from_pretrained(config.name, trust_remote_code=False)
    defaults = _convert_entries(processor.to_dict(), wanted, _channels(settings))
    if wanted.mean is None and wanted.std is None:
        _check(processor, defaults, sized=_has_size(wanted))
    return defaults, []


def _has_size(wanted: PreprocessConfig) -> bool:
    return wanted.resize is not None or wanted.crop is not None


def _channels(settings: PretrainedConfig) -> int:
    return int(getattr(settings, "num_channels", 3))


def _has_processor(name: str) -> bool:
    from transformers.utils import cached_file  # noqa: PLC0415 - an extra

    for file in FILES:
        try:
            cached_file(name, file)
        except OSError as error:
            if "does not appear to have" in str(error):  # transformers has no own error for this
                continue
        return True  # other errors, such as an unreachable Hub, are reported by the loader
    return False


def _assume_defaults(
    config: ZooModel, settings: PretrainedConfig
) -> tuple[PreprocessConfig, list[str]]:
    """The preprocessing without an image processor, with a warning that names each assumption.

    The size is that of the model's config, mean and std are those of ImageNet.
    """
    defaults = PreprocessConfig(256, 224, list(IMAGENET_MEAN), list(IMAGENET_STD))
    if _channels(settings) == 1:
        defaults.mean = defaults.std = [0.5]
    size = getattr(settings, "image_size", None)
    if isinstance(size, int | list | tuple):
        defaults.resize = defaults.crop = list(_pair(size))
    wanted = config.preprocess
    keys = [] if _has_size(wanted) else ["resize", "crop"]
    keys += [key for key in ("mean", "std") if getattr(wanted, key) is None]
    if not keys:
        return defaults, []
    used = ", ".join(f"{key}={getattr(defaults, key)}" for key in keys)
    note = (
        f"{config.name} has no {FILES[0]}, and model.preprocess.{{{','.join(keys)}}} "
        f"is not given; the defaults are {used}"
    )
    return defaults, [note]


def _convert_entries(entries: Entries, wanted: PreprocessConfig, channels: int) -> PreprocessConfig:
    """Convert the entries of an image processor that the user's values do not replace.

    Raises:
        ConfigError: PreprocessConfig cannot express an entry.
    """
    if "data_config" in entries:  # a model of timm, in transformers' wrapper
        return timm_preprocess(entries["data_config"])
    defaults = PreprocessConfig()
    if not _has_size(wanted):
        defaults.resize, defaults.crop = _sizes(entries)
    if wanted.mean is None or wanted.std is None:
        defaults.mean, defaults.std = _colours(entries, channels)
    if wanted.interpolation is None:
        defaults.interpolation = FILTERS.get(entries.get("resample", -1))
        if defaults.interpolation is None:
            raise _unsupported("interpolation", f"resample={entries.get('resample')}")
    return defaults


def _unsupported(keys: str, entry: str) -> ConfigError:
    return ConfigError(
        f"model.preprocess.{keys}: the model's image processor has {entry}, which camaudit cannot "
        f"reproduce; set model.preprocess.{keys}, or write a factory (model=custom)"
    )


def _sizes(entries: Entries) -> tuple[Size, Size]:
    """Resize and crop of an image processor."""
    for key, wanted in (("do_resize", True), ("do_pad", False)):
        if bool(entries.get(key)) is not wanted:
            raise _unsupported("resize", f"{key}={not wanted}")
    resize, crop = _resize(entries)
    if entries.get("do_center_crop") and crop is None:
        size = dict(entries.get("crop_size") or {})
        if size.keys() != {"height", "width"}:
            raise _unsupported("resize", f"crop_size={size}")
        crop = [size["height"], size["width"]]
    elif isinstance(resize, int) and crop is None:
        raise _unsupported("resize", f"size={dict(entries['size'])} and no do_center_crop")
    return resize, resize if crop is None else crop


def _resize(entries: Entries) -> tuple[Size, Size | None]:
    """Resize of an image processor, and crop where its class derives the crop from the size."""
    size, kind = dict(entries.get("size") or {}), entries["image_processor_type"]
    if size.keys() == {"height", "width"}:
        return [size["height"], size["width"]], None
    if size.keys() != {"shortest_edge"}:
        raise _unsupported("resize", f"size={size}")
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
    """Mean and std with which (x / 255 - mean) / std equals the image processor's result for x."""
    if entries.get("do_flip_channel_order"):
        raise _unsupported("{mean,std}", "do_flip_channel_order=True")
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
        raise _unsupported("{mean,std}", f"{key}={entries[key]} for {channels} channels")
    return np.broadcast_to(values, (channels,))


def _check(processor: BaseImageProcessor, defaults: PreprocessConfig, *, sized: bool) -> None:
    """Compare the preprocessing with the image processor's result on one image.

    The class of an image processor may contain rules that its entries do not show. Where the user
    set the size, an image of one colour is compared, which no resize changes.
    """
    kind = type(processor).__name__
    keys = "{mean,std}" if sized else "{resize,mean,std}"
    image = _test_image(plain=sized, channels=len(defaults.mean or ()))
    ours = _ours(defaults, image)
    with as_config_error(
        f"model.preprocess.{keys} is not given, and the model's {kind} does not work"
    ):
        theirs = processor(images=image, return_tensors="pt").get("pixel_values")
    if not isinstance(theirs, Tensor) or theirs.ndim != 4:
        raise _unsupported(keys, f"{kind} as its class")
    # The two libraries round half pixels differently, so a centre crop may be off by one pixel.
    tolerance = 3 if sized else 3 + 255 / min(ours.shape[2:])
    if sized:
        ours, theirs = _centre(ours), _centre(theirs)
    if ours.shape != theirs.shape or _levels(ours - theirs, defaults) > tolerance:
        raise _unsupported(keys, f"{kind} as its class")


def _test_image(*, plain: bool, channels: int) -> NDArray[np.uint8]:
    """A test image (128, 192, channels): colour ramps, or one colour if plain."""
    rows, columns = np.mgrid[:128, :192]
    ramps = [columns / 191, rows / 127, 1 - (rows + columns) / 318][:channels]
    image = (np.stack(ramps, axis=2) * 255).astype(np.uint8)
    return np.broadcast_to(image[30, 150], image.shape).copy() if plain else image


def _ours(defaults: PreprocessConfig, image: NDArray[np.uint8]) -> Tensor:
    """This project's input (1, C, h, w) of the image; 8 x 8 pixels where no size is given."""
    resize = defaults.resize if isinstance(defaults.resize, int) else _pair(defaults.resize or 8)
    mean, std = tuple(defaults.mean or ()), tuple(defaults.std or ())
    preprocessing = Preprocess(resize, _pair(defaults.crop or 8), mean, std)
    colour = np.repeat(image, 3 // image.shape[2], axis=2)
    return preprocessing.normalise(preprocessing.fit(colour)[None])


def _levels(difference: Tensor, defaults: PreprocessConfig) -> float:
    """Mean absolute difference of two inputs, in units of the 255 grey levels."""
    std = torch.tensor(defaults.std)[:, None, None]
    return float((difference * std * 255).abs().mean())


def _centre(images: Tensor) -> Tensor:
    """The central pixel (N, C, 1, 1) of images (N, C, h, w)."""
    height, width = images.shape[2:]
    return images[:, :, height // 2, width // 2][:, :, None, None]


def _pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
