"""Explain a few images from Python, with the code that explains a whole dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.cam import graph, methods
from pipeline.config import AUTO
from pipeline.data.decode import to_rgb
from pipeline.data.pictures import WHOLE, Box
from pipeline.data.source import number_duplicates
from pipeline.model.classifier import Classifier
from pipeline.model.outputs import MULTICLASS, LogitsModule, probabilities
from pipeline.model.target_layer import find_target_layer

Targets = Tensor | Sequence[int] | int


class Explanation(Tensor):
    """Heatmaps (N, h, w) of a batch, and which class each heatmap explains.

    An Explanation is the tensor of its heatmaps: indexing, arithmetic and `.cpu()` work as on any
    tensor and return plain tensors.

    Attributes:
        class_index: (N,) int64, the explained class of each image.
        class_name: N names of these classes; the index as text where the classes have no names.
        probability: (N,) float32 in [0, 1], the model's probability of the explained class.
        layer: name of the module whose output is explained.
        seen: N boxes (x0, y0, x1, y1) in fractions of the given image: the part of it that the
            model sees. The whole image where `explain` was given tensors.
    """

    # Results of operations are plain tensors: a sum of heatmaps explains no class.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    class_index: Tensor
    class_name: list[str]
    probability: Tensor
    layer: str
    seen: list[Box]

    @property
    def heatmaps(self) -> Tensor:
        """The heatmaps (N, h, w) in [0, 1] as a plain tensor."""
        return self.as_subclass(Tensor)

    def __repr__(self) -> str:  # type: ignore[override]
        """Shape, layer, and class and probability of each image."""
        pairs = zip(self.class_name, self.probability.tolist(), strict=True)
        classes = ", ".join(f"{name} {probability:.1%}" for name, probability in pairs)
        n, rows, columns = self.shape
        return f"Explanation({n} heatmaps of {rows} x {columns}, layer {self.layer}: {classes})"


def explain(
    model: nn.Module | Classifier,
    images: Tensor | Sequence[object],
    targets: Targets | None = None,
    *,
    target_layer: str = AUTO,
    method: str = "gradcam",
    class_names: Sequence[str] | None = None,
) -> Explanation:
    """Compute where the evidence for a class lies in each image of a batch.

    Args:
        model: a module that returns logits (N, K), or a Classifier. The model is left unchanged.
        images: for a module, its normalised input (N, C, H, W) on the model's device. For a
            Classifier, fitted images (N, 3, H, W) uint8 (Preprocess.fit), or a sequence of images
            of any size (PIL images, uint8 arrays (H, W, 3)), which are fitted first.
        targets: the class (N,) to explain in each image, or one class for all images. None
            explains the predicted class of each image.
        target_layer: name of the module whose output is explained; "auto" finds the layer as the
            setting model.target_layer does. A Classifier has its own layer.
        method: a key of cam.methods.METHODS.
        class_names: names of the K classes; by default those of the Classifier.

    Returns:
        The heatmaps (N, h, w) in [0, 1] on the layer's own grid, each divided by its maximum, with
        the explained classes. A heatmap is all zero where no evidence speaks for the class.

    Raises:
        ConfigError: the layer cannot be explained.
        DecodeError: an item of the sequence is no image.
        IndexError: a target is no class of the model.
    """
    batch, seen = _fit(model, images)

    def choose(logits: Tensor) -> Tensor:
        return _classes(targets, logits)[:, None]

    with _prepare(model, batch, target_layer) as (forward, inputs, layer):
        result = methods.compute_cam(forward, inputs, choose, method)
    heatmaps, _ = methods.normalise_maps(result.maps[0])
    classes = result.targets[:, 0]
    output = model.module.output if isinstance(model, Classifier) else MULTICLASS
    names = _names(model, class_names, result.logits.shape[1])
    explanation = heatmaps.as_subclass(Explanation)
    explanation.class_index = classes
    explanation.class_name = [names[index] for index in classes.tolist()]
    all_probabilities = probabilities(result.logits.float(), output)
    explanation.probability = all_probabilities.gather(1, classes[:, None])[:, 0]
    explanation.layer = layer
    explanation.seen = seen
    return explanation


def _fit(
    model: nn.Module | Classifier, images: Tensor | Sequence[object]
) -> tuple[Tensor, list[Box]]:
    """The batch (N, C, H, W) of the given images, and the box that the model sees of each."""
    if isinstance(images, Tensor):
        return images, [WHOLE] * len(images)
    if not isinstance(model, Classifier):
        raise TypeError(
            "images of any size need a Classifier; a module takes a tensor (N, C, H, W)"
        )
    arrays = [to_rgb(image) for image in images]
    fitted = torch.stack([model.preprocess.fit(array) for array in arrays])
    return fitted.to(model.device), [model.preprocess.seen(array.shape) for array in arrays]


@contextmanager
def _prepare(
    model: nn.Module | Classifier, images: Tensor, target_layer: str
) -> Iterator[tuple[graph.Forward, Tensor, str]]:
    """Yield the forward pass whose graph begins at the layer, its input, and the layer's name."""
    if isinstance(model, Classifier):
        with model.cut_graph() as forward:
            yield forward, model.input(images), model.layer_name
        return
    module = LogitsModule(model, MULTICLASS)
    with graph.frozen(model):
        target = find_target_layer(target_layer, module, _noise_pair(images))
    layer = module.network.get_submodule(target.name)
    with graph.cut_graph(module, layer, target.layout) as forward:
        yield forward, images, target.name


def _noise_pair(images: Tensor) -> Tensor:
    """Two inputs (2, C, H, W) of noise with the mean and spread of the first image."""
    first = images[:1].detach()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, *first.shape[1:], generator=generator).to(first)
    return first.mean() + first.std() * noise


def _classes(targets: Targets | None, logits: Tensor) -> Tensor:
    """The class (N,) to explain in each image."""
    n, n_classes = logits.shape
    if targets is None:
        return logits.argmax(dim=1)
    classes = torch.as_tensor(targets, dtype=torch.int64, device=logits.device).expand(n)
    if ((classes < 0) | (classes >= n_classes)).any():
        wrong = classes[(classes < 0) | (classes >= n_classes)][0]
        raise IndexError(f"target {int(wrong)} is no class of a model with {n_classes}")
    return classes


def _names(
    model: nn.Module | Classifier, class_names: Sequence[str] | None, n_classes: int
) -> list[str]:
    """A name for each of the K classes, each name once."""
    if class_names is None and isinstance(model, Classifier):
        class_names = model.class_names
    if class_names is None:
        return [str(index) for index in range(n_classes)]
    if len(class_names) != n_classes:
        raise ValueError(f"{len(class_names)} class names for a model with {n_classes} classes")
    return number_duplicates(class_names)
