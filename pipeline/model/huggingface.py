"""Image classifiers of Hugging Face transformers, with their image processor's preprocessing."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.config import PreprocessConfig, ZooModel
from pipeline.errors import ConfigError
from pipeline.model import checkpoint, zoo
from pipeline.model.checkpoint import Weights
from pipeline.model.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's number of a filter, as an image processor stores it, and torchvision's name."""


def build(config: ZooModel, weights: Weights | None) -> zoo.Built:
    """The classifier in a folder of save_pretrained, or of that id on the Hub, in float32.

    Args:
        config: name tells the model; weights are its own (DEFAULT) or random (None).
        weights: of a checkpoint, which tells the number of classes and is filled in later. Where
            its names are those of another version of transformers, they are changed in place.

    Raises:
        ConfigError: a model that cannot be found, is no image classifier, lacks weights, brings
            its own code, or has a preprocessing that PreprocessConfig cannot express.
    """
    if config.weights not in (None, "DEFAULT"):
        raise ConfigError(
            f"model.weights: a model of the Hub has DEFAULT, not {config.weights!r}; for a "
            "revision, download it (hf download ID --revision ...) and give its folder as "
            "model.name"
        )
    library = _library()
    settings = _settings(library, config.name)
    doubts = _output_doubts(config, settings)
    if weights is not None:
        module = _for_checkpoint(library, config, settings, weights)
    elif config.weights is None:
        module = _random(library, config.name, settings)
        doubts.append(zoo._random_weights(config.name))
    else:
        module = _pretrained(library, config.name, settings)
    says, note = _preprocess(library, config, settings)
    return zoo.Built(module.float(), says, _class_names(settings), doubts + note)


def _library() -> Any:
    try:
        import transformers  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            'model=huggingface needs transformers: pip install "camaudit[huggingface]"'
        ) from error
    # Where the Hub has a .bin only, it would ask a bot for a pull request to that repository.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    return transformers


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Whatever transformers raises, as a ConfigError; it raises a lot, of its helpers too."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        if isinstance(error, pickle.UnpicklingError):
            reason = "its weights are a pickle that could run code; save them as safetensors"
        elif not isinstance(error, OSError | ValueError):
            reason = f"{type(error).__name__}: {reason}"
        raise ConfigError(f"{what}: {reason}") from error


def _settings(library: Any, name: str) -> Any:
    """The model's config, for a model in float32."""
    where = "" if Path(name).is_dir() else "is no folder, and as an id on the Hub "
    with _told(f"model.name: {name} {where}cannot be loaded"):
        settings = library.AutoConfig.from_pretrained(name, trust_remote_code=False)
    if type(settings) not in library.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ConfigError(
            f"model.name: {name} is a {settings.model_type}, of which transformers has no image "
            "classifier"
        )
    settings.dtype = torch.float32  # before it is built: float() would widen buffers cut to half
    return settings


def _random(library: Any, name: str, settings: Any) -> nn.Module:
    with _told(f"model.name: {name} cannot be built"):
        module = library.AutoModelForImageClassification.from_config(
            settings, trust_remote_code=False
        )
    assert isinstance(module, nn.Module)
    return module


def _pretrained(library: Any, name: str, settings: Any) -> nn.Module:
    with _told(f"model.name: {name} cannot be loaded"):
        module, info = library.AutoModelForImageClassification.from_pretrained(
            name,
            config=settings,
            trust_remote_code=False,
            weights_only=True,
            ignore_mismatched_sizes=True,  # told below, by name
            output_loading_info=True,
        )
    problems = _problems(info)
    if problems:
        raise ConfigError(
            f"model.name: {name} lacks weights, which would be random\n  " + "\n  ".join(problems)
        )
    assert isinstance(module, nn.Module)
    return module


def _problems(info: dict[str, Any], *, strict: bool = False) -> list[str]:
    """What transformers filled with random numbers and, where strict, what it did not use."""
    # Old checkpoints lack the batch counters of BatchNorm, which evaluation does not use.
    missing = [key for key in info["missing_keys"] if not key.endswith("num_batches_tracked")]
    shapes = [
        # transformers 4.5x tells names only
        key
        if isinstance(key, str)
        else f"{key[0]} is {tuple(key[1])}, the model has {tuple(key[2])}"
        for key in info["mismatched_keys"]
    ]
    unused = info["unexpected_keys"] if strict else []
    problems = {"missing": missing, "unexpected": unused, "of another shape": shapes}
    return [
        f"{len(keys)} keys {what}: {checkpoint._some(sorted(keys))}"
        for what, keys in problems.items()
        if keys
    ]


def _for_checkpoint(library: Any, config: ZooModel, settings: Any, weights: Weights) -> nn.Module:
    """The model with as many classes as the checkpoint; its weights are not yet filled in."""
    module = _random(library, config.name, settings)
    n_outputs = checkpoint.n_outputs(weights, module, settings.num_labels)
    if n_outputs != settings.num_labels:
        settings.num_labels = n_outputs
        module = _random(library, config.name, settings)
    _rename(weights, module, settings, str(config.checkpoint))
    return module


def _rename(weights: Weights, module: Any, settings: Any, path: str) -> None:
    """Give weights the module's own names, where transformers stores them under others."""
    own = module.state_dict().keys()
    if not weights.keys() - own:
        return
    with _told(f"model.checkpoint: {path} cannot be loaded"):
        loaded, info = type(module).from_pretrained(
            None,
            config=settings,
            state_dict=dict(weights),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    if len(info["unexpected_keys"]) == len(weights) or len(info["missing_keys"]) == len(own):
        return  # names of a training wrapper, which checkpoint.fill knows
    problems = _problems(info, strict=True)
    if problems:
        raise ConfigError(
            f"model.checkpoint: {path} does not fit the model\n  " + "\n  ".join(problems)
        )
    weights.clear()
    weights.update(loaded.state_dict())


def _output_doubts(config: ZooModel, settings: Any) -> list[str]:
    if settings.problem_type != "multi_label_classification" or config.output == "multilabel":
        return []
    return [
        f"{config.name} was trained for multi_label_classification, which model.output=multilabel "
        f"stands for, not {config.output}"
    ]


def _class_names(settings: Any) -> list[str] | None:
    """The labels in the order of the outputs, unless they are transformers' placeholders.

    The label of a single logit is none of both classes' names.
    """
    indices = range(settings.num_labels)
    names = [settings.id2label.get(index) for index in indices]
    if len(names) < 2 or None in names or names == [f"LABEL_{index}" for index in indices]:
        return None
    return [str(name) for name in names]


def _preprocess(
    library: Any, config: ZooModel, settings: Any
) -> tuple[PreprocessConfig, list[str]]:
    """What the image processor says of everything that the user left open."""
    wanted = config.preprocess
    if _sized(wanted) and None not in (wanted.mean, wanted.std, wanted.interpolation):
        return wanted, []
    if settings.model_type != "timm_wrapper" and not _has_processor(config.name):
        return _assumed(config, settings)
    with _told(
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


def _channels(settings: Any) -> int:
    return int(getattr(settings, "num_channels", 3))


def _has_processor(name: str) -> bool:
    from transformers.utils import cached_file  # noqa: PLC0415 - an extra

    for file in PROCESSOR_FILES:
        try:
            cached_file(name, file)
        except OSError as error:
            if "does not appear to have" in str(error):  # there is no error of its own for it
                continue
        return True  # what cannot be reached, say, is told when it is loaded
    return False


def _assumed(config: ZooModel, settings: Any) -> tuple[PreprocessConfig, list[str]]:
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
        f"{config.name} has no {PROCESSOR_FILES[0]}, and model.preprocess.{{{','.join(keys)}}} "
        f"is not given; it was taken as {used}"
    )
    return says, [note]


def _said(entries: dict[str, Any], wanted: PreprocessConfig, channels: int) -> PreprocessConfig:
    """The entries of an image processor as far as they are needed, or why they cannot be."""
    if "data_config" in entries:  # a model of timm, in transformers' wrapper
        return zoo._timm_preprocess(entries["data_config"])
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


def _sizes(entries: dict[str, Any]) -> tuple[Any, Any]:
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


def _resize(entries: dict[str, Any]) -> tuple[Any, Any]:
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


def _colours(entries: dict[str, Any], channels: int) -> tuple[list[float], list[float]]:
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


def _channel(entries: dict[str, Any], key: str, channels: int) -> NDArray[np.float64]:
    values = np.array(entries[key], dtype=np.float64)
    if values.size not in (1, channels):
        raise _unfollowed("{mean,std}", f"{key}={entries[key]} for {channels} channels")
    return np.broadcast_to(values, (channels,))


def _check(processor: Any, says: PreprocessConfig, *, sized: bool) -> None:
    """Compare with what the image processor makes of a picture: its class may have rules too.

    Where the user gave the size, a picture of one colour is compared, which no geometry changes.
    """
    kind = type(processor).__name__
    keys = "{mean,std}" if sized else "{resize,mean,std}"
    picture = _picture(plain=sized, channels=len(says.mean or ()))
    ours = _ours(says, picture)
    with _told(f"model.preprocess.{keys} is not given, and the model's {kind} does not work"):
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


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
