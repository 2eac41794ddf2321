"""Rows of candidates: CANDIDATES, and the rows of concepts_schema of their images."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from pipeline.analysis.local_features import PixelFeatures
from pipeline.analysis.shortcuts.class_sample import ClassSample
from pipeline.analysis.shortcuts.divisions import Bools, Floats
from pipeline.engine.inference import ClassEvidence
from pipeline.storage.schema import CANDIDATES, Row, concepts_schema

CONCEPT = "concept"
"""Kind of a candidate that comes from the concepts of the target layer."""
AT_PLACE = "place"
"""Kind of a candidate that comes from the pixels of one place in the picture."""
STYLE = "style"
"""Kind of a candidate that comes from statistics of the pixels of the whole picture."""
COMMON = "common"
"""Kind of a candidate that is one concept of a class, which all its images have and others lack: a
cue of all images does not divide the class."""
CONTEXT = "context"
"""Kind of the candidate of a class that is all that surrounds its objects, for such cues, too."""
METADATA = "metadata"
"""Kind of a candidate that comes from a metadata column; no intervention tests it."""
MIN_IMAGES = 16
"""Fewest images that are labelled or predicted as a class; a smaller class has no candidates."""
MAX_WITHOUT = 64
"""Most images without the cue whose maps are kept for interventions."""


@dataclass(frozen=True)
class ClassImages:
    """Sampled images that are labelled or predicted as a class.

    Attributes:
        class_index, name: the class.
        sample: the images.
        evidence: of the target layer for the class, in these images.
        activity: (n, h, w), where the objects probably are.
        is_local: whether the cells of the target layer hold what the images show there.
        pixels: features of the pixels of these images.
    """

    class_index: int
    name: str
    sample: ClassSample
    evidence: ClassEvidence
    activity: Tensor
    is_local: bool
    pixels: PixelFeatures


@dataclass(frozen=True)
class OtherImages:
    """Sampled images of all classes, with activations (n, C, h, w) and logits (n, K)."""

    sample: ClassSample
    activations: Tensor
    logits: Tensor
    pixels: PixelFeatures

    def without(self, class_index: int) -> OtherImages:
        """The images that are neither labelled nor predicted as a class."""
        rows = (self.sample.own != class_index) & (self.sample.predicted != class_index)
        chosen = rows.tolist()
        return OtherImages(
            self.sample.select(rows),
            self.activations[chosen],
            self.logits[chosen],
            self.pixels.select(rows),
        )


def complete(row: Row) -> Row:
    """Add the id to a candidate, and null for the columns that it does not have."""
    known = {"probe": row["kind"], **row, "candidate_id": candidate_id(row)}
    return {**dict.fromkeys(CANDIDATES.names), **known}


def candidate_id(candidate: Row) -> str:
    """Make an id that is the same in every run, from the class, the kind and the place."""
    digest = hashlib.sha256(candidate["class_name"].encode()).hexdigest()[:8]
    where = candidate["place"] or "moving"
    return re.sub(r"\W+", "-", f"{candidate['kind']} {where} {digest}")


def group_table(
    sample: ClassSample, of_class: Bools, has_cue: Bools, other: ClassSample, elsewhere: Bools
) -> list[Row]:
    """Sizes and accuracies of four groups: of the class or not, with or without the cue.

    The accuracy is null for an empty group, and where images have no labels.
    """
    right, other_right = sample.predicted == sample.given, other.predicted == other.given
    groups_of = {
        "class, with the cue": right[of_class & has_cue],
        "class, without the cue": right[of_class & ~has_cue],
        "other classes, with the cue": other_right[elsewhere],
        "other classes, without the cue": other_right[~elsewhere],
    }
    labelled = bool((sample.given >= 0).any())
    return [
        {
            "group": name,
            "n_images": len(hits),
            "accuracy": float(hits.mean()) if len(hits) and labelled else None,
        }
        for name, hits in groups_of.items()
    ]


def without_concepts(
    identifier: str, images: ClassImages, has_cue: Bools, score: Floats, shown: Bools
) -> pa.Table:
    """Rows of concepts_schema of a candidate that has no concepts."""
    nothing = np.zeros(images.activity.shape, np.float32)
    columns = {
        "has_cue": has_cue,
        "score": score.astype(np.float32),
        "contribution": np.zeros(len(has_cue), np.float32),
        **map_columns(images, nothing, nothing, images.activity.cpu().numpy(), shown),
    }
    return to_table(identifier, images, columns)


def map_columns(
    images: ClassImages, presence: Floats, evidence: Floats, other_evidence: Floats, shown: Bools
) -> dict[str, Any]:
    """The columns of concepts_schema that hold maps.

    Args:
        images: n images of a class. If their target layer is not local, concepts have no place, and
            the activity takes the place of the other evidence.
        presence, evidence, other_evidence: (n, h, w).
        shown: (n,) whether an image's maps are kept.
    """
    activity = images.activity.cpu().numpy()
    if not images.is_local:
        presence = evidence = np.zeros_like(activity)
        other_evidence = activity
    return {
        "presence": quantise(presence, shown),
        "evidence": quantise(evidence, shown),
        "other_evidence": quantise(other_evidence, shown),
        "activity": quantise(activity, shown),
    }


def to_table(identifier: str, images: ClassImages, columns: dict[str, Any]) -> pa.Table:
    """Rows of concepts_schema: columns, and those that are the same for all candidates."""
    sample = images.sample
    complete = {
        "candidate_id": [identifier] * len(sample.index),
        "index": sample.index,
        "pred_index": sample.predicted,
        "margin": margins(images.evidence.logits, images.class_index),
        **columns,
    }
    height, width = images.activity.shape[1:]
    schema = concepts_schema((height, width))
    return pa.Table.from_arrays(
        [pa.array(complete[field.name], field.type, from_pandas=True) for field in schema],
        schema=schema,
    )


def margins(logits: Tensor, class_index: int) -> Floats:
    """The logit of a class minus the largest other logit (n,), of logits (n, K)."""
    others = logits.cpu().numpy().copy()
    own = others[:, class_index].copy()
    others[:, class_index] = -np.inf
    return np.asarray(own - others.max(axis=1))


def quantise(maps: Floats, shown: NDArray[np.bool_]) -> list[NDArray[np.uint8] | None]:
    """Maps (n, h, w) as lists of bytes in fractions of each maximum; None where not shown."""
    flat = maps.reshape(len(maps), -1)
    peak = np.maximum(flat.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    rounded = np.rint(255 * np.clip(flat / peak, 0, 1)).astype(np.uint8)
    return [row if keep else None for row, keep in zip(rounded, shown, strict=True)]
