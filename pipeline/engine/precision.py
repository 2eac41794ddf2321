"""In which numbers and memory format the trunk of a model runs, and how much that changes.

The trunk is what runs up to the explained layer. Its batch norms are folded into convolutions. In
bfloat16 or float16 it runs under autocast, with the weights of its convolutions and linear layers
cast once; the head, all gradients and all statistics stay float32.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import ModelConfig
from pipeline.engine import inference
from pipeline.engine.fold_batchnorm import fold_batch_norms
from pipeline.errors import ConfigError
from pipeline.model import target_layer
from pipeline.model.classifier import Classifier, load_classifier
from pipeline.storage.run_setup import Resolved

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
LEAST_TOP1, LEAST_COSINE = 0.99, 0.99
"""Agreement with float32 below which a faster precision is not taken by itself."""
CAST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class Agreement:
    """How far a precision says the same as float32, on so many images.

    top1 is the share of equal predictions; cosine the mean cosine of the two heatmaps of the class
    that float32 predicts, over the images where both have evidence (NaN where none has).
    """

    top1: float
    cosine: float
    images: int

    @property
    def holds(self) -> bool:
        """Whether the faster precision may be taken."""
        return self.top1 >= LEAST_TOP1 and self.cosine >= LEAST_COSINE


def fastest(device: torch.device) -> str:
    """The precision that this hardware computes fastest without emulating it."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability(device) >= (7, 0) else "fp32"
    if device.type == "cpu":
        tells = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return "bf16" if tells is not None and tells() else "fp32"
    return "fp32"


def prepare(
    classifier: Classifier, precision: str, *, channels_last: bool, compiled: bool
) -> Classifier:
    """A classifier whose trunk runs as wanted; the given one stays as it is.

    What shares weights with the head, or computes its own, is not cast but left to autocast.

    Args:
        classifier: as loaded, float32.
        precision: a key of DTYPES.
        channels_last: memory format of pictures and convolutions.
        compiled: torch.compile the trunk, at the first batch.
    """
    dtype = DTYPES[precision]
    if dtype is None and not channels_last and not compiled:
        return classifier
    names = trunk(classifier)  # also lets weights that are computed anew be copied
    module = copy.deepcopy(classifier.module)
    ready = replace(classifier, module=module, trunk_dtype=dtype, channels_last=channels_last)
    foldable = set(names) - {classifier.layer_name}  # what the layer gives is explained
    fold_batch_norms(module, foldable, classifier.input(_pattern(classifier)))
    if channels_last:
        _to_channels_last(module)
    if dtype is not None:
        _cast(module.network, names, dtype)
    if compiled:
        for name in _outermost(names):
            each = module.network.get_submodule(name)
            each.forward = torch.compile(each.forward)  # hooks stay outside
    return ready


def prepare_as_resolved(classifier: Classifier, resolved: Resolved) -> Classifier:
    """A classifier prepared with the resolved settings of a run."""
    return prepare(
        classifier,
        resolved.precision,
        channels_last=resolved.channels_last,
        compiled=resolved.compile,
    )


def load_audited(
    config: ModelConfig, resolved: Resolved, device: torch.device, seed: int
) -> Classifier:
    """Load the model that a run has explained, with the run's target layer; not yet prepared.

    Raises:
        ConfigError: the model cannot be loaded, or its weights are not those of the run.
    """
    layer = replace(config, target_layer=resolved.target_layer)
    classifier = load_classifier(layer, device, seed)
    if classifier.fingerprint != resolved.model_fingerprint:
        raise ConfigError("model: its weights are not those that the run has explained")
    return classifier


def takes_channels_last(classifier: Classifier) -> bool:
    """Whether the model can be explained in that memory format; one that calls view() may not."""
    module = copy.deepcopy(classifier.module)
    _to_channels_last(module)
    changed = replace(classifier, module=module, channels_last=True)
    try:
        inference.heatmaps(changed, _pattern(classifier))
    except RuntimeError:
        return False
    return True


def trunk(classifier: Classifier) -> list[str]:
    """Names of the modules that are done when the explained layer is, that layer among them."""
    pictures = classifier.input(_pattern(classifier))
    dtype = classifier.trunk_dtype
    with torch.autocast(pictures.device.type, dtype, enabled=dtype is not None):
        done = [seen.name for seen in target_layer.survey(classifier.module, pictures)]
    at = done.index(classifier.layer_name)
    after = set(done[at + 1 :])
    return [name for name in dict.fromkeys(done[: at + 1]) if name not in after]


def agreement(
    exact: Classifier, fast: Classifier, batches: list[Tensor], method: str = "gradcam"
) -> Agreement:
    """What two preparations of one model say about the same pictures.

    Args:
        exact, fast: the two, on the device of the batches.
        batches: pictures (N, 3, H, W) uint8, as the model sees them.
        method: a key of cam.METHODS.
    """
    same, cosines = [], []
    for images in batches:
        wanted, classes = inference.heatmaps(exact, images, method=method)
        found, others = inference.heatmaps(fast, images, classes, method)
        same.append(classes == others)
        alive = (wanted.amax(dim=1) > 0) & (found.amax(dim=1) > 0)
        cosines.append(F.cosine_similarity(wanted, found)[alive])
    return Agreement(
        float(torch.cat(same).float().mean()),
        float(torch.cat(cosines).mean()),
        sum(map(len, batches)),
    )


def _pattern(classifier: Classifier) -> Tensor:
    """Two pictures (2, 3, H, W) uint8, on the model's device."""
    return classifier.preprocess.pattern().to(classifier.device)


def _to_channels_last(module: nn.Module) -> None:
    for each in module.modules():
        if isinstance(each, nn.Conv2d | nn.ConvTranspose2d):
            each.to(memory_format=torch.channels_last)


def _cast(network: nn.Module, names: list[str], dtype: torch.dtype) -> None:
    """Cast the weights of the trunk that autocast would cast at every batch, in place."""
    modules = dict(network.named_modules())
    shared = {
        id(parameter)
        for name, module in modules.items()
        if name not in names
        for parameter in module.parameters(recurse=False)
    }
    for name in names:
        module = modules[name]
        own = dict(module.named_parameters(recurse=False))  # no weight that is computed anew
        if isinstance(module, CAST) and "weight" in own and not shared & set(map(id, own.values())):
            module.to(dtype)


def _outermost(names: list[str]) -> list[str]:
    """Names without those of modules inside others of them."""
    return [
        name
        for name in names
        if not any(name.startswith(f"{other}.") for other in names if other != name)
    ]
