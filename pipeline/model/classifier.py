"""Load a classifier: built, filled with weights, its layer chosen, tried on one picture."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import ModelConfig, PreprocessConfig
from pipeline.errors import ConfigError
from pipeline.model import checkpoint, layer, preprocess, zoo
from pipeline.model.preprocess import Preprocess


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
    built = zoo.BUILDERS[config.kind](config, weights)
    if weights is not None:
        checkpoint.fill(built.module, weights, str(config.checkpoint))
    module = built.module.to(device).eval()
    fitting = _preprocess(config.preprocess, built)
    pictures = fitting.normalise(_any_pictures(fitting).to(device))
    logits = _logits(module, pictures[:1])
    layer_name = layer.target_layer(config.target_layer, module, pictures)
    activations = layer.explained(module, layer_name, pictures[:1])
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


def _preprocess(wanted: PreprocessConfig, built: zoo.Built) -> Preprocess:
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


def _doubts(logits: Tensor) -> list[str]:
    """What looks wrong about the logits (1, K) of one picture."""
    if logits.min() >= 0 and abs(float(logits.sum()) - 1) < 1e-3:
        return [
            "the model's outputs look like probabilities; camaudit takes logits, so that every "
            "confidence will be too low"
        ]
    return []


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
