"""Load a classifier: build it, load its weights, find its target layer, run it on one image."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.cam import graph
from pipeline.cam.graph import Layout
from pipeline.config import ModelConfig, PreprocessConfig
from pipeline.errors import ConfigError
from pipeline.model import backends, checkpoint, outputs, preprocess, target_layer
from pipeline.model.loaded import LoadedModel
from pipeline.model.outputs import LogitsModule
from pipeline.model.preprocess import Preprocess


@dataclass
class Classifier:
    """A classifier on its device, with its target layer and preprocessing.

    layer_name is the name of the target layer, layout the arrangement of its output, channels its
    number of channels. class_names are None where neither the weights nor the settings name the
    classes. backbone_dtype is the type in which autocast runs the backbone (None: the types of the
    model), channels_last the memory format of the images.
    """

    module: LogitsModule
    layer_name: str
    layout: Layout
    preprocess: Preprocess
    class_names: list[str] | None
    n_outputs: int
    channels: int
    fingerprint: str
    warnings: list[str]
    backbone_dtype: torch.dtype | None = None
    channels_last: bool = False

    @property
    def layer(self) -> nn.Module:
        """The module whose output is explained."""
        return self.module.network.get_submodule(self.layer_name)

    @property
    def device(self) -> torch.device:
        """The device of the model's parameters."""
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the map."""
        return self.layout.rows, self.layout.columns

    def cut_graph(self) -> AbstractContextManager[graph.Forward]:
        """Begin the autograd graph at the target layer, as `cam.graph.cut_graph` does."""
        return graph.cut_graph(self.module, self.layer, self.layout, self.backbone_dtype)

    def input(self, images: Tensor) -> Tensor:
        """Convert images (N, 3, H, W) uint8 to the model's float32 input (N, C, H, W)."""
        wanted = torch.channels_last if self.channels_last else torch.contiguous_format
        return self.preprocess.normalise(images).contiguous(memory_format=wanted)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Convert logits (N, K) to probabilities (N, K), as the model's output requires."""
        return outputs.probabilities(logits, self.module.output)


def load_classifier(config: ModelConfig, device: torch.device, seed: int) -> Classifier:
    """Build the classifier of the settings and run it on one image.

    Raises:
        ConfigError: the model, checkpoint, layer, class list or preprocessing cannot be used.
    """
    class_names = _class_names(config.class_names)
    weights = None
    if config.checkpoint is not None:
        weights = checkpoint.read_weights(config.checkpoint, trust=config.trust_checkpoint)
    torch.manual_seed(seed)  # random weights are the same on every resume
    built = backends.BUILDERS[config.kind](config, weights)
    if weights is not None:
        checkpoint.load_weights(built.module, weights, str(config.checkpoint))
    module = LogitsModule(built.module.to(device), config.output).eval()
    preprocessing = _preprocess(config.preprocess, built)
    inputs = preprocessing.normalise(preprocessing.pattern().to(device))
    logits = _logits(module, inputs[:1])
    target = target_layer.find_target_layer(config.target_layer, module, inputs)
    return Classifier(
        module=module,
        layer_name=target.name,
        layout=target.layout,
        preprocess=preprocessing,
        class_names=class_names or built.class_names,
        n_outputs=logits.shape[1],
        channels=target.channels,
        fingerprint=fingerprint(built.module),
        warnings=built.warnings + _logit_warnings(logits, config.output),
    )


def fingerprint(module: nn.Module) -> str:
    """Hash of a model's structure and weights (32 hex digits), the same in every process."""
    structure = re.sub(r" at 0x[0-9a-f]+", "", repr(module))
    digest = hashlib.sha256(structure.encode())
    for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _preprocess(wanted: PreprocessConfig, built: LoadedModel) -> Preprocess:
    """The preprocessing of the settings; the weights' own where a setting is not given."""
    defaults = built.preprocess
    sizes = (defaults.resize, defaults.crop)
    if wanted.resize is not None or wanted.crop is not None:
        sizes = (wanted.crop if wanted.resize is None else wanted.resize, wanted.crop)
    return preprocess.check_preprocess(
        *sizes,
        mean=defaults.mean if wanted.mean is None else wanted.mean,
        std=defaults.std if wanted.std is None else wanted.std,
        interpolation=wanted.interpolation or defaults.interpolation,
    )


@torch.no_grad()
def _logits(module: LogitsModule, images: Tensor) -> Tensor:
    """The model's logits (1, K) of one image, checked for shape and finite values."""
    try:
        logits: Tensor = module(images)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the model cannot process an image of shape {tuple(images.shape)}: {error}"
        ) from error
    shape = tuple(logits.shape)
    if shape in ((1,), (1, 1)) and module.output != outputs.BINARY:
        raise ConfigError(
            "the model's output is one logit per image; set model.output=binary if it separates "
            "two classes"
        )
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ConfigError(f"the model's output is {shape}, not (batch, 2 or more classes)")
    if not logits.isfinite().all():
        raise ConfigError("the model's output is not finite (NaN or infinite); are its weights?")
    return logits


def _logit_warnings(logits: Tensor, output: str) -> list[str]:
    """Warnings about the logits (1, K) of one image."""
    sums_to_one = abs(float(logits.sum()) - 1) < 1e-3
    if output == outputs.MULTICLASS and logits.min() >= 0 and sums_to_one:
        return [
            "the model's outputs look like probabilities; camaudit expects logits, so every "
            "confidence will be too low"
        ]
    return []


def _class_names(wanted: Any) -> list[str] | None:
    """Class names from a list, the lines of a text file, a JSON list or a {"0": name} mapping."""
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
