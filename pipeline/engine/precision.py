"""Number format and memory format of a model's backbone, and agreement of the result with float32.

Batch norms of the backbone are folded into its convolutions. In bfloat16 or float16 the backbone
runs under autocast, and the weights of its convolutions and linear layers are cast once. The head,
all gradients and all statistics stay float32.
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
MIN_TOP1, MIN_COSINE = 0.99, 0.99
"""Agreement with float32 that "auto" requires of a faster precision."""
CAST_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class Agreement:
    """Agreement of a precision with float32 on a number of images.

    top1 is the share of equal predictions. cosine is the mean cosine of the two heatmaps of the
    class that float32 predicts, over the images where neither map is dead (NaN if there are none).
    """

    top1: float
    cosine: float
    images: int

    @property
    def holds(self) -> bool:
        """Whether "auto" may choose the faster precision."""
        return self.top1 >= MIN_TOP1 and self.cosine >= MIN_COSINE


def fastest(device: torch.device) -> str:
    """The precision that the hardware computes fastest, without emulation."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability(device) >= (7, 0) else "fp32"
    if device.type == "cpu":
        is_supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return "bf16" if is_supported is not None and is_supported() else "fp32"
    return "fp32"


def prepare(
    classifier: Classifier, precision: str, *, channels_last: bool, compiled: bool
) -> Classifier:
    """A copy of the classifier whose backbone runs in the given formats.

    Layers that share weights with the head, or compute their weights, are not cast in advance;
    autocast casts them at every batch.

    Args:
        classifier: as loaded, float32; it is not changed.
        precision: a key of DTYPES.
        channels_last: use the channels-last memory format for images and convolutions.
        compiled: compile the backbone with torch.compile, at the first batch.
    """
    dtype = DTYPES[precision]
    if dtype is None and not channels_last and not compiled:
        return classifier
    # The forward pass comes before deepcopy, which cannot copy computed weights with a graph.
    names = backbone_names(classifier)
    module = copy.deepcopy(classifier.module)
    ready = replace(classifier, module=module, backbone_dtype=dtype, channels_last=channels_last)
    foldable = set(names) - {classifier.layer_name}  # folding would change the explained output
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
        ConfigError: the model cannot be loaded, or its weights differ from those of the run.
    """
    layer = replace(config, target_layer=resolved.target_layer)
    classifier = load_classifier(layer, device, seed)
    if classifier.fingerprint != resolved.model_fingerprint:
        raise ConfigError("model: its weights are not those that the run has explained")
    return classifier


def takes_channels_last(classifier: Classifier) -> bool:
    """Whether the model can be explained in channels-last format; a model that calls view() may
    not be.
    """
    module = copy.deepcopy(classifier.module)
    _to_channels_last(module)
    changed = replace(classifier, module=module, channels_last=True)
    try:
        inference.heatmaps(changed, _pattern(classifier))
    except RuntimeError:
        return False
    return True


def backbone_names(classifier: Classifier) -> list[str]:
    """Names of the modules that finish before the target layer or are the target layer."""
    inputs = classifier.input(_pattern(classifier))
    dtype = classifier.backbone_dtype
    with torch.autocast(inputs.device.type, dtype, enabled=dtype is not None):
        names = [output.name for output in target_layer.trace(classifier.module, inputs)]
    position = names.index(classifier.layer_name)
    head = set(names[position + 1 :])
    return [name for name in dict.fromkeys(names[: position + 1]) if name not in head]


def agreement(
    exact: Classifier, fast: Classifier, batches: list[Tensor], method: str = "gradcam"
) -> Agreement:
    """Compare the predictions and heatmaps of two preparations of one model.

    Args:
        exact: the model in float32, on the device of the batches.
        fast: the model in the faster precision, on the same device.
        batches: images (N, 3, H, W) uint8 at the model's input size.
        method: a key of cam.methods.METHODS.
    """
    same, cosines = [], []
    for images in batches:
        exact_maps, exact_classes = inference.heatmaps(exact, images, method=method)
        fast_maps, fast_classes = inference.heatmaps(fast, images, exact_classes, method)
        same.append(exact_classes == fast_classes)
        alive = (exact_maps.amax(dim=1) > 0) & (fast_maps.amax(dim=1) > 0)
        cosines.append(F.cosine_similarity(exact_maps, fast_maps)[alive])
    return Agreement(
        float(torch.cat(same).float().mean()),
        float(torch.cat(cosines).mean()),
        sum(map(len, batches)),
    )


def _pattern(classifier: Classifier) -> Tensor:
    """Two test images (2, 3, H, W) uint8, on the model's device."""
    return classifier.preprocess.pattern().to(classifier.device)


def _to_channels_last(module: nn.Module) -> None:
    for each in module.modules():
        if isinstance(each, nn.Conv2d | nn.ConvTranspose2d):
            each.to(memory_format=torch.channels_last)


def _cast(network: nn.Module, names: list[str], dtype: torch.dtype) -> None:
    """Cast in place the backbone's weights that autocast would otherwise cast at every batch."""
    modules = dict(network.named_modules())
    shared = {
        id(parameter)
        for name, module in modules.items()
        if name not in names
        for parameter in module.parameters(recurse=False)
    }
    for name in names:
        module = modules[name]
        own = dict(module.named_parameters(recurse=False))  # computed weights are no parameters
        if (
            isinstance(module, CAST_LAYERS)
            and "weight" in own
            and not shared & set(map(id, own.values()))
        ):
            module.to(dtype)


def _outermost(names: list[str]) -> list[str]:
    """The names of modules that lie inside no other module of the list."""
    return [
        name
        for name in names
        if not any(name.startswith(f"{other}.") for other in names if other != name)
    ]
