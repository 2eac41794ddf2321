"""Predictions, heatmaps, statistics and embeddings of image batches, computed on the device.

`explain` runs the model on one batch. `statistics` computes from the maps of a whole shard at once
everything that needs no model: its hundred small operations, run on each batch, would cost a small
model a tenth of its speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.cam import focus, graph, methods
from pipeline.engine.batch_size import RetryOnOutOfMemory
from pipeline.model.classifier import Classifier
from pipeline.model.outputs import MULTILABEL
from pipeline.storage.schema import TOP

NO_LABEL = -1
PROJECTION_SEED = 20170


@contextmanager
def explaining(
    classifier: Classifier, method: str, dimensions: int, size: int = 1
) -> Iterator[RetryOnOutOfMemory]:
    """Yield explain(images, labels, objects) for batches of the classifier.

    Args:
        classifier: the model, with its target layer.
        method: a key of cam.methods.METHODS.
        dimensions: number of dimensions of the embedding, where the layer has more channels.
        size: batch size. Smaller batches are padded to it, so that an image's row does not depend
            on the size of its batch.
    """
    matrix = projection(classifier.channels, dimensions, classifier.device)
    with classifier.cut_graph() as forward:
        yield RetryOnOutOfMemory(
            partial(explain, forward, classifier, method=method, projection=matrix), size
        )


def explain(
    forward: graph.Forward,
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    objects: Tensor | None = None,
    *,
    method: str,
    projection: Tensor | None,
) -> dict[str, Tensor]:
    """Predict and explain a batch in one forward pass.

    On a GPU no operation of this function waits for the device.

    Args:
        forward: the function that `classifier.cut_graph` yields.
        classifier: the model; its preprocessing has fitted the images.
        images: (N, 3, H, W) uint8 on the device.
        labels: (N,) class indices, NO_LABEL for an image without a label.
        objects: (N, H, W) in [0, 1], coverage by the object; None if no image has an object.
        method: a key of cam.methods.METHODS.
        projection: (C, d) matrix of the embedding, or None.

    Returns:
        Tensors with N rows each: columns of part_schema (NaN where a row has no value), and the
        input of `statistics`: "maps" and "label_maps" (N, h, w), heatmaps of the predicted class
        and of the label, "differs" (N,), whether the two classes differ, "cover" (N, h, w) in
        [0, 1], coverage by the object, and "finite" (N,), whether the logits are finite.
    """

    def predicted_and_given(logits: Tensor) -> Tensor:
        predicted = logits.argmax(dim=1)
        given = torch.where(labels == NO_LABEL, predicted, labels)
        both = _needs_label_maps(given != predicted)
        return torch.stack([predicted, given] if both else [predicted], dim=1)

    result = methods.compute_cam(forward, classifier.input(images), predicted_and_given, method)
    scores, activations = result.logits.float(), result.activations.float()
    predicted, given = result.targets[:, 0], result.targets[:, -1]
    maps = [each.float() for each in result.maps]
    return {
        **_prediction(classifier, scores, predicted, given, labels != NO_LABEL),
        **focus.image_statistics(images),
        "embedding": methods.pool_features(activations, maps[0], projection),
        "features": methods.average_features(activations, projection),
        "maps": maps[0],
        "label_maps": maps[-1],
        "differs": given != predicted,
        "cover": torch.zeros_like(maps[0]) if objects is None else focus.cover(objects, maps[0]),
        "finite": scores.isfinite().all(dim=1),
    }


def statistics(explained: dict[str, Tensor]) -> dict[str, Tensor]:
    """Complete the columns of part_schema that come from tensors.

    Args:
        explained: the result of `explain`, of one batch or of several batches concatenated.

    Returns:
        Columns with N rows each, NaN where a row has no value. valid (N,) is True where logits and
        maps are finite.
    """
    columns = dict(explained)
    maps, label_maps = columns.pop("maps"), columns.pop("label_maps")
    differs, cover, finite = (columns.pop(name) for name in ("differs", "cover", "finite"))
    heatmap, peak = methods.normalise_maps(maps)
    heatmap_label, peak_label = methods.normalise_maps(label_maps)
    return {
        **columns,
        **focus.focus_statistics(maps),
        **focus.object_statistics(maps, cover),
        "heatmap": heatmap.flatten(1),
        "heatmap_max": peak,
        "heatmap_label": _where(differs, heatmap_label.flatten(1)),
        "heatmap_label_max": _where(differs, peak_label),
        "focus_label_similarity": _where(differs, focus.label_similarity(heatmap, heatmap_label)),
        "valid": finite & maps.flatten(1).isfinite().all(dim=1),
    }


def heatmaps(
    classifier: Classifier, images: Tensor, classes: Tensor | None = None, method: str = "gradcam"
) -> tuple[Tensor, Tensor]:
    """Compute heatmaps alone.

    Args:
        classifier: the model, with its target layer.
        images: (N, 3, H, W) uint8 on the device.
        classes: (N,) classes to explain; None explains the predicted classes.
        method: a key of cam.methods.METHODS.

    Returns:
        Heatmaps (N, h*w), each divided by its maximum, and the predicted classes (N,).
    """

    def chosen(logits: Tensor) -> Tensor:
        return (logits.argmax(dim=1) if classes is None else classes)[:, None]

    with classifier.cut_graph() as forward:
        result = methods.compute_cam(forward, classifier.input(images), chosen, method)
    return methods.normalise_maps(result.maps[0])[0].flatten(1), result.logits.argmax(dim=1)


def top2_heatmaps(
    classifier: Classifier, images: Tensor, method: str = "gradcam"
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the heatmaps of the two most probable classes. Arguments as `heatmaps`.

    Returns:
        Raw maps (N, 2, h, w), their classes (N, 2), and the energy (N, h, w) of the target layer:
        the sum of its squared activations over the channels, which depends on no class.
    """

    def first_two(logits: Tensor) -> Tensor:
        return logits.topk(2, dim=1).indices

    with classifier.cut_graph() as forward:
        result = methods.compute_cam(forward, classifier.input(images), first_two, method)
    energy = result.activations.float().square().sum(dim=1)
    return torch.stack(result.maps, dim=1), result.targets, energy


@dataclass(frozen=True)
class ClassEvidence:
    """The target layer's output for N images, and what it contributes to the logit of one class.

    Attributes:
        logits: (N, K) float32.
        activations: (N, C, h, w) bfloat16, whose range is that of float32: half the memory, and no
            large activation becomes infinite, no small gradient 0.
        gradients: (N, C, h, w) bfloat16, of the logit of the class minus the mean logit of the
            other classes. Two classes that share a cue both keep their evidence, which a
            difference to the second most probable class would cancel.
    """

    logits: Tensor
    activations: Tensor
    gradients: Tensor


def class_evidence(
    forward: graph.Forward, classifier: Classifier, images: Tensor, class_index: int
) -> ClassEvidence:
    """Compute activations and gradients of a class for uint8 images (N, 3, H, W).

    Args:
        forward: the function that `classifier.cut_graph` yields.
        classifier: the model, of at least two classes.
        images: (N, 3, H, W) uint8 on the device.
        class_index: the class.
    """
    logits, activations = forward(classifier.input(images))
    n_others = logits.shape[1] - 1
    own = logits[:, class_index]
    difference = own - (logits.sum(dim=1) - own) / n_others
    (gradients,) = torch.autograd.grad(difference.sum(), activations)
    return ClassEvidence(
        logits.detach().float(), activations.detach().bfloat16(), gradients.detach().bfloat16()
    )


def saliency(classifier: Classifier, images: Tensor) -> Tensor:
    """Compute where the pixels matter for the predicted class of uint8 images (N, 3, H, W).

    Gradient times input (Shrikumar et al., "Not Just a Black Box", arXiv 1605.01713), with the mean
    of each image's channel as the baseline, for the predicted logit minus the mean of the others.
    Magnitudes are averaged over the cells of the target layer's map; the square root makes the few
    largest ones count for less.

    Returns:
        (N, h, w) float32, not negative; 0 where the model lets no gradient through to its input.
    """
    with graph.frozen(classifier.module), torch.inference_mode(mode=False), torch.enable_grad():
        inputs = classifier.input(images).detach().clone().requires_grad_()
        logits = classifier.module(inputs)
        own = logits.amax(dim=1)
        difference = own - (logits.sum(dim=1) - own) / max(1, logits.shape[1] - 1)
        gradients = None
        if difference.requires_grad:
            (gradients,) = torch.autograd.grad(difference.sum(), inputs, allow_unused=True)
    if gradients is None:
        return inputs.new_zeros((len(images), *classifier.grid))
    values = inputs.detach()
    products = gradients * (values - values.mean(dim=(2, 3), keepdim=True))
    return F.adaptive_avg_pool2d(products.float().abs().sum(dim=1), classifier.grid).sqrt()


def probabilities(forward: graph.Forward, classifier: Classifier, images: Tensor) -> Tensor:
    """Compute the probabilities (N, K) of uint8 images (N, 3, H, W), as `explain` does."""
    logits, _ = forward(classifier.input(images))
    return classifier.probabilities(logits.detach().float())


def projection(channels: int, dimensions: int, device: torch.device) -> Tensor | None:
    """A fixed Gaussian (C, d) matrix that preserves angles (Johnson-Lindenstrauss lemma).

    None where C <= d. numpy's legacy generator is used, whose numbers are the same in all versions.
    """
    if channels <= dimensions:
        return None
    values = np.random.RandomState(PROJECTION_SEED).standard_normal((channels, dimensions))
    return torch.tensor(values / dimensions**0.5, dtype=torch.float32, device=device)


def _needs_label_maps(differs: Tensor) -> bool:
    """Whether to compute the label's maps too: on a GPU always, as reading a value would wait."""
    return differs.device.type != "cpu" or bool(differs.any())


def _prediction(
    classifier: Classifier, scores: Tensor, predicted: Tensor, given: Tensor, labelled: Tensor
) -> dict[str, Tensor]:
    probs = classifier.probabilities(scores)
    # topk orders equal scores arbitrarily; the explained class has to be the first.
    predicted_first = scores.scatter(1, predicted[:, None], torch.inf)
    top_index = predicted_first.topk(min(TOP, scores.shape[1]), dim=1).indices
    top_prob = probs.gather(1, top_index)
    if classifier.module.output == MULTILABEL:
        log_probs = F.logsigmoid(scores)
        entropy = torch.special.entr(probs) + torch.special.entr(1 - probs)
    else:
        log_probs = scores.log_softmax(dim=1)
        entropy = torch.special.entr(probs)
    label = given[:, None]
    return {
        "pred_index": predicted,
        "confidence": top_prob[:, 0],
        "label_prob": _where(labelled, probs.gather(1, label)[:, 0]),
        "margin": top_prob[:, 0] - top_prob[:, 1],
        "entropy": entropy.sum(dim=1),
        "loss": _where(labelled, -log_probs.gather(1, label)[:, 0]),
        "top_index": top_index,
        "top_prob": top_prob,
    }


def _where(condition: Tensor, values: Tensor) -> Tensor:
    shape = [-1] + [1] * (values.ndim - 1)
    return values.masked_fill(~condition.view(shape), float("nan"))
