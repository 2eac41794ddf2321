"""Load a classifier: built, filled with weights, its layer chosen, tried on one picture."""

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
    """A classifier on its device, and what is known about it.

    layer_name names the module of the network that is explained, layout tells how it holds a map
    and channels the map's depth. class_names are None where neither weights nor settings name the
    outputs. trunk_dtype is what autocast runs the layers up to the explained one in (None: as they
    are), channels_last the memory format of the pictures.
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
    trunk_dtype: torch.dtype | None = None
    channels_last: bool = False

    @property
    def layer(self) -> nn.Module:
        """The module whose output is explained."""
        return self.module.network.get_submodule(self.layer_name)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the map."""
        return self.layout.rows, self.layout.columns

    def cut_graph(self) -> AbstractContextManager[graph.Forward]:
        """The model ready to be explained at its layer, as `cam.cut_graph`."""
        return graph.cut_graph(self.module, self.layer, self.layout, self.trunk_dtype)

    def input(self, images: Tensor) -> Tensor:
        """The model's float32 input (N, C, H, W) of pictures (N, 3, H, W) uint8."""
        wanted = torch.channels_last if self.channels_last else torch.contiguous_format
        return self.preprocess.normalise(images).contiguous(memory_format=wanted)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (N, K) of logits (N, K); softmax, or of each label by itself."""
        return outputs.probabilities(logits, self.module.output)


def load_classifier(config: ModelConfig, device: torch.device, seed: int) -> Classifier:
    """Build the classifier of the settings and try it on one picture.

    Raises:
        ConfigError: a model, checkpoint, layer, class list or preprocessing that cannot be used.
    """
    class_names = _class_names(config.class_names)
    weights = None
    if config.checkpoint is not None:
        weights = checkpoint.read(config.checkpoint, trust=config.trust_checkpoint)
    torch.manual_seed(seed)  # random weights are the same on every resume
    built = backends.BUILDERS[config.kind](config, weights)
    if weights is not None:
        checkpoint.fill(built.module, weights, str(config.checkpoint))
    module = LogitsModule(built.module.to(device), config.output).eval()
    fitting = _preprocess(config.preprocess, built)
    pictures = fitting.normalise(fitting.pattern().to(device))
    logits = _logits(module, pictures[:1])
    target = target_layer.find_target_layer(config.target_layer, module, pictures)
    return Classifier(
        module=module,
        layer_name=target.name,
        layout=target.layout,
        preprocess=fitting,
        class_names=class_names or built.class_names,
        n_outputs=logits.shape[1],
        channels=target.channels,
        fingerprint=fingerprint(built.module),
        warnings=built.warnings + _doubts(logits, config.output),
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


@torch.no_grad()
def _logits(module: LogitsModule, images: Tensor) -> Tensor:
    """The model's logits (1, K) of one picture, which all others will resemble."""
    try:
        logits: Tensor = module(images)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the model cannot take a picture of shape {tuple(images.shape)}: {error}"
        ) from error
    shape = tuple(logits.shape)
    if shape in ((1,), (1, 1)) and module.output != outputs.BINARY:
        raise ConfigError(
            "the model's output is one logit per image; set model.output=binary if it tells two "
            "classes apart"
        )
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ConfigError(f"the model's output is {shape}, not (batch, 2 or more classes)")
    if not logits.isfinite().all():
        raise ConfigError("the model's output is not finite (NaN or infinite); are its weights?")
    return logits


def _doubts(logits: Tensor, output: str) -> list[str]:
    """What looks wrong about the logits (1, K) of one picture."""
    sums_to_one = abs(float(logits.sum()) - 1) < 1e-3
    if output == outputs.MULTICLASS and logits.min() >= 0 and sums_to_one:
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
