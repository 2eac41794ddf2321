"""The classifier that is audited: built, filled with weights, tried on one picture."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from pipeline import cam, checkpoint, factory, preprocess
from pipeline.checkpoint import Weights
from pipeline.config import AUTO, CustomModel, ModelConfig, PreprocessConfig, ZooModel
from pipeline.errors import ConfigError
from pipeline.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

ZOO_OUTPUTS = 1000
"""Classes of a torchvision model that nothing else is known of (ImageNet-1k)."""

# Layers that thin out a map without computing a new one, and layers that hand on what they get.
POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
SILENT = (nn.Identity, nn.Dropout, nn.Dropout2d)


@dataclass
class Classifier:
    """A classifier on its device, and what is known about it.

    layer_name names the module that is explained; grid is (rows, columns) of its map, channels its
    depth. class_names are None where neither weights nor settings name the outputs.
    """

    module: nn.Module
    layer_name: str
    preprocess: Preprocess
    class_names: list[str] | None
    n_outputs: int
    channels: int
    grid: tuple[int, int]
    fingerprint: str
    warnings: list[str]

    @property
    def layer(self) -> nn.Module:
        """The module whose output is explained."""
        return self.module.get_submodule(self.layer_name)


@dataclass
class _Built:
    """A module as its library gives it, with its own preprocessing and class names, if any."""

    module: nn.Module
    preprocess: PreprocessConfig
    class_names: list[str] | None = None
    warnings: list[str] = field(default_factory=list)


def load(config: ModelConfig, device: torch.device, seed: int) -> Classifier:
    """Build the classifier of the settings and try it on one picture.

    Raises:
        ConfigError: a model, checkpoint, layer, class list or preprocessing that cannot be used.
    """
    class_names = _class_names(config.class_names)
    weights = None
    if config.checkpoint is not None:
        weights = checkpoint.read(config.checkpoint, trust=config.trust_checkpoint)
    torch.manual_seed(seed)  # random weights are the same on every resume
    built = BUILDERS[config.kind](config, weights)
    if weights is not None:
        checkpoint.fill(built.module, weights, str(config.checkpoint))
    module = built.module.to(device).eval()
    fitting = _preprocess(config.preprocess, built)
    pictures = fitting.normalise(_any_pictures(fitting).to(device))
    logits = _logits(module, pictures[:1])
    layer_name = _target_layer(config.target_layer, module, pictures)
    activations = _explained(module, layer_name, pictures[:1])
    return Classifier(
        module=module,
        layer_name=layer_name,
        preprocess=fitting,
        class_names=class_names or built.class_names,
        n_outputs=logits.shape[1],
        channels=activations.shape[1],
        grid=(activations.shape[2], activations.shape[3]),
        fingerprint=fingerprint(module),
        warnings=built.warnings + _doubts(logits),
    )


def fingerprint(module: nn.Module) -> str:
    """Hash of a model's structure and weights (32 hex digits), the same in every process."""
    structure = re.sub(r" at 0x[0-9a-f]+", "", repr(module))
    digest = hashlib.sha256(structure.encode())
    for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def auto_layer(module: nn.Module, pictures: Tensor) -> str:
    """Name of the last module that computes an (N, C, h, w) map which all evidence passes through.

    A map has more than one cell. Pooling computes nothing new and is passed over, and so is a
    block that ends in it, or a branch beside others. Where several modules give the same map, the
    outermost is named.

    Args:
        module: a classifier in evaluation mode.
        pictures: two inputs (2, C, h, w) that differ everywhere.

    Raises:
        ConfigError: where there is no such module, or layers that work on tokens come after it,
            as in transformers after the map of their patches.
    """
    found = _maps(module, pictures[:1])
    for name in reversed(found):
        if name is None:
            break
        if found.count(name) == 1 and _all_passes(module, name, pictures):
            return name
    after = ": its last layers work on tokens" if None in found else ""
    raise ConfigError(
        f"model.target_layer: auto finds no map at the end of the model{after}; name a layer that "
        "gives (batch, channels, rows, columns)"
    )


@torch.no_grad()
def _maps(module: nn.Module, images: Tensor) -> list[str | None]:
    """Names of the modules that compute maps, in the order of their outputs; None for tokens."""
    found: list[str | None] = []
    thinned: list[Tensor] = []  # kept alive, so that no new tensor is taken for one of them

    def note(name: str, layer: nn.Module, _inputs: object, output: object) -> None:
        if not isinstance(output, Tensor) or isinstance(layer, SILENT):
            return
        if _are_tokens(output, images):
            found.append(None)
        elif output.ndim != 4 or output[0, 0].numel() == 1:
            return
        elif isinstance(layer, POOLING) or any(output is other for other in thinned):
            thinned.append(output)
        else:
            found.append(name)

    with ExitStack() as hooks:
        for name, layer in module.named_modules():
            if name:
                hooks.enter_context(layer.register_forward_hook(partial(note, name)))
        module(images)
    return found


@torch.no_grad()
def _all_passes(module: nn.Module, name: str, pictures: Tensor) -> bool:
    """Whether the logits hang on one map alone: while it stays, another picture changes none."""
    kept: list[Tensor] = []

    def keep(_layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.clone())
        return kept[0].clone()

    with module.get_submodule(name).register_forward_hook(keep):
        first, second = module(pictures[:1]), module(pictures[1:])
    return bool((first - second).abs().max() <= 1e-4 * first.abs().max())


def _are_tokens(output: Tensor, images: Tensor) -> bool:
    """Whether a layer's output is (N, tokens, C) or a map with the channels last."""
    if output.ndim == 3:
        return min(output.shape[1:]) > 1
    return output.ndim == 4 and _channels_last(output, images)


def _channels_last(output: Tensor, images: Tensor) -> bool:
    """Whether (N, a, b, c) is rows, columns, channels: a and b, not b and c, are like the picture.

    The sides of a map are those of the picture divided by one stride, but for a cell or so.
    """
    height, width = images.shape[2:]

    def alike(rows: int, columns: int) -> bool:
        return abs(rows * width - columns * height) <= height + width

    _, a, b, c = output.shape
    return alike(a, b) and not alike(b, c) and a * b > 1


def _torchvision(config: ZooModel, weights: Weights | None) -> _Built:
    models = torchvision.models
    known = models.list_models(module=models)
    if config.name not in known:
        raise ConfigError(
            f"model.name: torchvision has no {config.name!r}{_close(config.name, known)}"
        )
    kinds = models.get_model_weights(config.name)
    if config.weights is not None and config.weights not in ("DEFAULT", *kinds.__members__):
        raise ConfigError(
            f"model.weights: {config.name} has {', '.join(kinds.__members__)}, "
            f"not {config.weights!r}"
        )
    chosen = kinds[config.weights] if config.weights in kinds.__members__ else kinds.DEFAULT
    says = _torchvision_preprocess(chosen.transforms())
    if weights is not None:
        with torch.device("meta"):
            skeleton = models.get_model(config.name, weights=None)
        arguments = {"num_classes": checkpoint.n_outputs(weights, skeleton, ZOO_OUTPUTS)}
        if hasattr(skeleton, "aux_logits"):  # heads for training, which a checkpoint may lack
            aux = any("aux" in key.lower() for key in weights)
            arguments |= {"aux_logits": aux, "init_weights": False}
        module = models.get_model(config.name, weights=None, **arguments)
        return _Built(module, says, warnings=_input_doubts(config.name, module))
    if config.weights is None:
        module = models.get_model(config.name, weights=None)
        return _Built(module, says, warnings=[_random_weights(config.name)])
    try:
        module = models.get_model(config.name, weights=chosen)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"model.weights: {chosen} cannot be downloaded: {error}") from error
    return _Built(module, says, list(chosen.meta["categories"]))


def _timm(config: ZooModel, weights: Weights | None) -> _Built:
    try:
        import timm  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError('model=timm needs timm: pip install "camaudit[timm]"') from error
    if not timm.is_model(config.name):
        raise ConfigError(
            f"model.name: timm has no {config.name!r}{_close(config.name, timm.list_models())}"
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
    says = _timm_preprocess(timm.data.resolve_model_data_config(module))
    if weights is None and not pretrained:
        return _Built(module, says, warnings=[_random_weights(config.name)])
    if pretrained and module.num_classes == ZOO_OUTPUTS:
        info = timm.data.ImageNetInfo()
        return _Built(module, says, [info.index_to_description(i) for i in range(ZOO_OUTPUTS)])
    return _Built(module, says)


def _custom(config: CustomModel, _weights: Weights | None) -> _Built:
    module = factory.build("model.factory", config.factory, config.factory_args)
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"model.factory: {config.factory} returned a {type(module).__name__}, "
            "not a torch.nn.Module"
        )
    grey = _first_channels(module) == 1
    says = PreprocessConfig(
        resize=256,
        crop=224,
        mean=[0.5] if grey else list(IMAGENET_MEAN),
        std=[0.5] if grey else list(IMAGENET_STD),
    )
    open_keys = [
        key for key in ("resize", "mean", "std") if getattr(config.preprocess, key) is None
    ]
    if not open_keys:
        return _Built(module, says)
    used = ", ".join(f"{key}={getattr(says, key)}" for key in ("resize", "crop", "mean", "std"))
    note = f"model.preprocess.{{{','.join(open_keys)}}} not given; what is open was taken as {used}"
    return _Built(module, says, warnings=[note])


BUILDERS: dict[str, Callable[[Any, Weights | None], _Built]] = {
    "torchvision": _torchvision,
    "timm": _timm,
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


def _timm_preprocess(data: dict[str, Any]) -> PreprocessConfig:
    """timm resizes to size / crop_pct before it crops (timm.data.transforms_factory)."""
    crop = list(data["input_size"][1:])
    sides = [int(side / data["crop_pct"]) for side in crop]
    return PreprocessConfig(
        resize=sides if data["crop_mode"] == "squash" else min(sides),
        crop=crop,
        mean=list(data["mean"]),
        std=list(data["std"]),
        interpolation=data["interpolation"],
    )


def _preprocess(wanted: PreprocessConfig, built: _Built) -> Preprocess:
    """What the settings say, and where they are silent, what the weights say."""
    says = built.preprocess
    sizes = (says.resize, says.crop)
    if wanted.resize is not None or wanted.crop is not None:
        sizes = (wanted.crop if wanted.resize is None else wanted.resize, wanted.crop)
    return preprocess.checked(
        *sizes,
        mean=says.mean if wanted.mean is None else wanted.mean,
        std=says.std if wanted.std is None else wanted.std,
        interpolation=wanted.interpolation or says.interpolation,
    )


def _any_pictures(fitting: Preprocess) -> Tensor:
    """(2, 3, h, w) uint8, with some contrast: a model may divide by the picture's own spread."""
    height, width = fitting.crop
    values = (torch.arange(3 * height * width) % 256).to(torch.uint8).view(3, height, width)
    return torch.stack([values, 255 - values])


def _first_channels(module: nn.Module) -> int | None:
    first = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    return first.in_channels if first is not None else None


def _target_layer(wanted: str, module: nn.Module, images: Tensor) -> str:
    if wanted != AUTO:
        names = [name for name, _ in module.named_modules() if name]
        if wanted in names:
            return wanted
        raise ConfigError(f"model.target_layer: the model has no {wanted!r}{_close(wanted, names)}")
    return auto_layer(module, images)


@torch.no_grad()
def _logits(module: nn.Module, images: Tensor) -> Tensor:
    """The model's logits (1, K) of one picture, which all others will resemble."""
    try:
        logits = module(images)
    except Exception as error:
        raise ConfigError(
            f"the model cannot take a picture of shape {tuple(images.shape)}: {error}"
        ) from error
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        raise ConfigError(f"the model's output is {shape}, not (batch, 2 or more classes)")
    if not logits.isfinite().all():
        raise ConfigError("the model's output is not finite (NaN or infinite); are its weights?")
    return logits


def _explained(module: nn.Module, layer_name: str, images: Tensor) -> Tensor:
    """The layer's map (1, C, h, w) of one picture, after a trial of its gradients."""
    target = torch.zeros(1, 1, dtype=torch.long, device=images.device)
    try:
        with cam.cut_graph(module, module.get_submodule(layer_name)) as forward:
            logits, activations = forward(images)
            _check_map(activations, images)
            cam.gradients(logits, activations, target)
    except Exception as error:
        raise ConfigError(
            f"model.target_layer: {layer_name!r} cannot be explained: {error}"
        ) from error
    return activations.detach()


def _check_map(activations: Tensor, images: Tensor) -> None:
    shape = tuple(activations.shape)
    if _channels_last(activations, images):
        raise cam.LayerError(
            f"its output of shape {shape} is (batch, rows, columns, channels); "
            "a map needs (batch, channels, rows, columns)"
        )
    if shape[2] * shape[3] == 1:
        raise cam.LayerError(f"its output of shape {shape} has a single cell, which is no map")


def _doubts(logits: Tensor) -> list[str]:
    """What looks wrong about the logits (1, K) of one picture."""
    if logits.min() >= 0 and abs(float(logits.sum()) - 1) < 1e-3:
        return [
            "the model's outputs look like probabilities; camaudit takes logits, so that every "
            "confidence will be too low"
        ]
    return []


def _input_doubts(name: str, module: nn.Module) -> list[str]:
    if not hasattr(module, "transform_input"):
        return []
    return [
        f"a {name} that was trained from torchvision's weights wants model.preprocess.mean and "
        "std [0.5, 0.5, 0.5] (transform_input), which no checkpoint tells"
    ]


def _class_names(wanted: Any) -> list[str] | None:
    """A list, or the lines of a text file, or a JSON list or {"0": name} mapping."""
    if wanted is None:
        return None
    if isinstance(wanted, str):
        wanted = _class_file(Path(wanted))
    if not isinstance(wanted, list) or not all(isinstance(name, str | int) for name in wanted):
        raise ConfigError(f"model.class_names: {wanted!r} is neither a list of names nor a file")
    if not wanted:
        raise ConfigError("model.class_names: there are none")
    names = [str(name) for name in wanted]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(f"model.class_names: given more than once: {', '.join(twice[:10])}")
    return names


def _class_file(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() != ".json":
            return [line.strip() for line in text.splitlines() if line.strip()]
        names = json.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.class_names: {path} cannot be read: {error}") from error
    if not isinstance(names, dict):
        return names
    if set(names) != {str(index) for index in range(len(names))}:
        raise ConfigError(f'model.class_names: {path} needs the keys "0" to "{len(names) - 1}"')
    return [names[str(index)] for index in range(len(names))]


def _close(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=5, cutoff=0.4) or names[-5:]
    return f"; close names: {', '.join(close)}" if close else ""


def _random_weights(name: str) -> str:
    return f"{name} has random weights: set model.weights or model.checkpoint"
