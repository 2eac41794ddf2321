"""Build models by name from torchvision and timm, and models of the user's own factory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import nn

from pipeline.config import CustomModel, PreprocessConfig, ZooModel, factory
from pipeline.errors import ConfigError, close_names
from pipeline.model import checkpoint, huggingface
from pipeline.model.checkpoint import Weights
from pipeline.model.loaded import LoadedModel, random_weights, timm_preprocess
from pipeline.model.preprocess import IMAGENET_MEAN, IMAGENET_STD

ZOO_OUTPUTS = 1000
"""Number of classes of a model with its original head (ImageNet-1k)."""


def _torchvision(config: ZooModel, weights: Weights | None) -> LoadedModel:
    models = torchvision.models
    known = models.list_models(module=models)
    if config.name not in known:
        raise ConfigError(
            f"model.name: torchvision has no {config.name!r}{close_names(config.name, known)}"
        )
    kinds = models.get_model_weights(config.name)
    if config.weights is not None and config.weights not in ("DEFAULT", *kinds.__members__):
        raise ConfigError(
            f"model.weights: {config.name} has {', '.join(kinds.__members__)}, "
            f"not {config.weights!r}"
        )
    chosen = kinds[config.weights] if config.weights in kinds.__members__ else kinds.DEFAULT
    defaults = _torchvision_preprocess(chosen.transforms())
    if weights is not None:
        with torch.device("meta"):
            skeleton = models.get_model(config.name, weights=None)
        arguments = {"num_classes": checkpoint.n_outputs(weights, skeleton, ZOO_OUTPUTS)}
        if hasattr(skeleton, "aux_logits"):  # training heads, which a checkpoint may lack
            aux = any("aux" in key.lower() for key in weights)
            arguments |= {"aux_logits": aux, "init_weights": False}
        module = models.get_model(config.name, weights=None, **arguments)
        return LoadedModel(module, defaults, warnings=_input_warnings(config.name, module))
    if config.weights is None:
        module = models.get_model(config.name, weights=None)
        return LoadedModel(module, defaults, warnings=[random_weights(config.name)])
    try:
        module = models.get_model(config.name, weights=chosen)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"model.weights: {chosen} cannot be downloaded: {error}") from error
    return LoadedModel(module, defaults, list(chosen.meta["categories"]))


def _timm(config: ZooModel, weights: Weights | None) -> LoadedModel:
    try:
        import timm  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError('model=timm needs timm: pip install "camaudit[timm]"') from error
    if not timm.is_model(config.name):
        raise ConfigError(
            f"model.name: timm has no {config.name!r}{close_names(config.name, timm.list_models())}"
        )
    if config.weights not in (None, "DEFAULT"):
        raise ConfigError(
            f"model.weights: timm has DEFAULT, not {config.weights!r}; other weights are "
            f"other names, as in model.name={config.name}.tag"
        )
    pretrained = weights is None and config.weights is not None
    arguments: dict[str, Any] = {}
    if weights is not None:
        skeleton = timm.create_model(config.name)
        arguments["num_classes"] = checkpoint.n_outputs(weights, skeleton, skeleton.num_classes)
    try:
        module = timm.create_model(config.name, pretrained=pretrained, **arguments)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"model.name: timm cannot build {config.name}: {error}") from error
    defaults = timm_preprocess(timm.data.resolve_model_data_config(module))
    if weights is None and not pretrained:
        return LoadedModel(module, defaults, warnings=[random_weights(config.name)])
    if pretrained and module.num_classes == ZOO_OUTPUTS:
        info = timm.data.ImageNetInfo()
        return LoadedModel(
            module, defaults, [info.index_to_description(i) for i in range(ZOO_OUTPUTS)]
        )
    return LoadedModel(module, defaults)


def _custom(config: CustomModel, _weights: Weights | None) -> LoadedModel:
    module = factory.build("model.factory", config.factory, config.factory_args)
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"model.factory: {config.factory} returned a {type(module).__name__}, "
            "not a torch.nn.Module"
        )
    grey = _first_channels(module) == 1
    defaults = PreprocessConfig(
        resize=256,
        crop=224,
        mean=[0.5] if grey else list(IMAGENET_MEAN),
        std=[0.5] if grey else list(IMAGENET_STD),
    )
    open_keys = [
        key for key in ("resize", "mean", "std") if getattr(config.preprocess, key) is None
    ]
    if not open_keys:
        return LoadedModel(module, defaults)
    used = ", ".join(f"{key}={getattr(defaults, key)}" for key in ("resize", "crop", "mean", "std"))
    note = f"model.preprocess.{{{','.join(open_keys)}}} is not given; the defaults are {used}"
    return LoadedModel(module, defaults, warnings=[note])


BUILDERS: dict[str, Callable[[Any, Weights | None], LoadedModel]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "huggingface": huggingface.build,
    "custom": _custom,
}


def _torchvision_preprocess(transforms: Any) -> PreprocessConfig:
    return PreprocessConfig(
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        mean=list(transforms.mean),
        std=list(transforms.std),
        interpolation=transforms.interpolation.value,
    )


def _first_channels(module: nn.Module) -> int | None:
    first = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    return first.in_channels if first is not None else None


def _input_warnings(name: str, module: nn.Module) -> list[str]:
    if not hasattr(module, "transform_input"):
        return []
    return [
        f"a {name} that was trained from torchvision's weights needs model.preprocess.mean and "
        "std [0.5, 0.5, 0.5] (transform_input); a checkpoint does not contain this"
    ]
