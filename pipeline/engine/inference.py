"""Images through the model: predictions, heatmaps, statistics, embeddings, on the device.

`explain` takes a batch as large as the model likes. What follows from its maps alone is left to
`statistics`, which takes a whole shard at once, as a hundred small operations on each batch would
cost a small model a tenth of its speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
    """explain(images, labels, objects) of a batch, while the classifier's graph is cut.

    Args:
        classifier: whose layer is explained.
        method: a key of cam.METHODS.
        dimensions: of the embedding, where the layer has more channels.
        size: of a batch; smaller ones are filled up, so that a row is the same in any.
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

    On a GPU nothing in here waits for the device.

    Args:
        forward: of `classifier.cut_graph`.
        classifier: whose preprocessing the images went through.
        images: (N, 3, H, W) uint8 on the device.
        labels: (N,) class indices, NO_LABEL where an image has none.
        objects: (N, H, W) in [0, 1], or None where none of the batch has one.
        method: a key of cam.METHODS.
        projection: (C, d) matrix for the embedding, or None.

    Returns:
        Tensors with N rows each: columns of part_schema, NaN where a row has none, and what
        `statistics` goes on from: "maps" and "label_maps" (N, h, w), the same where the label is
        predicted, "differs" where it is not, "cover" (N, h, w) by the object in [0, 1], and
        "finite", which rows have finite logits.
    """

    def predicted_and_given(logits: Tensor) -> Tensor:
        predicted = logits.argmax(dim=1)
        given = torch.where(labels == NO_LABEL, predicted, labels)
        both = _worth_a_second_map(given != predicted)
        return torch.stack([predicted, given] if both else [predicted], dim=1)

    found = methods.compute_cam(forward, classifier.input(images), predicted_and_given, method)
    scores, activations = found.logits.float(), found.activations.float()
    predicted, given = found.targets[:, 0], found.targets[:, -1]
    maps = [each.float() for each in found.maps]
    return {
        **_prediction(classifier, scores, predicted, given, labels != NO_LABEL),
        **focus.image_statistics(images),
        "embedding": methods.pooled(activations, maps[0], projection),
        "features": methods.averaged(activations, projection),
        "maps": maps[0],
        "label_maps": maps[-1],
        "differs": given != predicted,
        "cover": torch.zeros_like(maps[0]) if objects is None else focus.cover(objects, maps[0]),
        "finite": scores.isfinite().all(dim=1),
    }


def statistics(explained: dict[str, Tensor]) -> dict[str, Tensor]:
    """All columns of part_schema that come from tensors, of any number of explained images.

    Args:
        explained: what `explain` gave, of one batch or of several put together.

    Returns:
        Each with N rows; what a row does not have is NaN. valid (N,) tells which rows have finite
        logits and maps.
    """
    columns = dict(explained)
    maps, label_maps = columns.pop("maps"), columns.pop("label_maps")
    differs, cover, finite = (columns.pop(name) for name in ("differs", "cover", "finite"))
    heatmap, peak = methods.normalise(maps)
    heatmap_label, peak_label = methods.normalise(label_maps)
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
    """Maps alone (N, h*w), divided by their maxima, and predicted classes (N,) of uint8 pictures.

    Args:
        classifier: whose layer is explained.
        images: (N, 3, H, W) uint8 on the device.
        classes: (N,) to be explained; None: those predicted.
        method: a key of cam.METHODS.
    """

    def chosen(logits: Tensor) -> Tensor:
        return (logits.argmax(dim=1) if classes is None else classes)[:, None]

    with classifier.cut_graph() as forward:
        found = methods.compute_cam(forward, classifier.input(images), chosen, method)
    return methods.normalise(found.maps[0])[0].flatten(1), found.logits.argmax(dim=1)


def top2_heatmaps(
    classifier: Classifier, images: Tensor, method: str = "gradcam"
) -> tuple[Tensor, Tensor, Tensor]:
    """Raw maps (N, 2, h, w) of the predicted class and its runner-up, and both classes (N, 2);
    and how active the explained layer is, for any class: the energy (N, h, w) of its channels.

    Args: as `heatmaps`.
    """

    def first_two(logits: Tensor) -> Tensor:
        return logits.topk(2, dim=1).indices

    with classifier.cut_graph() as forward:
        found = methods.compute_cam(forward, classifier.input(images), first_two, method)
    energy = found.activations.float().square().sum(dim=1)
    return torch.stack(found.maps, dim=1), found.targets, energy


def probabilities(forward: graph.Forward, classifier: Classifier, images: Tensor) -> Tensor:
    """Probabilities (N, K) of uint8 images (N, 3, H, W), as `explain` computes them."""
    logits, _ = forward(classifier.input(images))
    return classifier.probabilities(logits.detach().float())


def projection(channels: int, dimensions: int, device: torch.device) -> Tensor | None:
    """A fixed Gaussian (C, d) matrix that keeps angles (Johnson-Lindenstrauss); None where C <= d.

    The legacy generator is used because its stream never changes between versions of numpy.
    """
    if channels <= dimensions:
        return None
    values = np.random.RandomState(PROJECTION_SEED).standard_normal((channels, dimensions))
    return torch.tensor(values / dimensions**0.5, dtype=torch.float32, device=device)


def _worth_a_second_map(differs: Tensor) -> bool:
    """Whether any label differs; to ask a GPU would be to wait, and a map costs the head alone."""
    return differs.device.type != "cpu" or bool(differs.any())


def _prediction(
    classifier: Classifier, scores: Tensor, predicted: Tensor, given: Tensor, labelled: Tensor
) -> dict[str, Tensor]:
    probs = classifier.probabilities(scores)
    # The explained class leads even where others are equal to it, which topk orders at will.
    leading = scores.scatter(1, predicted[:, None], torch.inf)
    top_index = leading.topk(min(TOP, scores.shape[1]), dim=1).indices
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
