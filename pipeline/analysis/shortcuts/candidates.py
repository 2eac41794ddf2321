"""Candidates: possible cues of a class, each as two groups of its images and as concepts.

A candidate says which of the sampled images of a class have the possible cue, where in these images
its concepts are strong, and what they contribute to the prediction. It need not be right:
verification decides.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from pipeline.analysis.shortcuts import divisions
from pipeline.analysis.shortcuts.class_sample import ClassSample
from pipeline.analysis.shortcuts.concepts import ConceptMaps, Concepts, Floats
from pipeline.analysis.shortcuts.divisions import Bools, Division
from pipeline.analysis.shortcuts.metadata import Association, Confounder
from pipeline.engine.inference import ClassEvidence
from pipeline.storage.schema import CANDIDATES, Row, concepts_schema

CONCEPT = "concept"
"""Kind of a candidate that comes from the concepts of the target layer."""
COMMON = "common"
"""Kind of a candidate that is one concept of a class, which all its images have and others lack: a
cue of all images does not divide the class."""
CONTEXT = "context"
"""Kind of the candidate of a class that is all that surrounds its objects, for such cues, too."""
METADATA = "metadata"
"""Kind of a candidate that comes from a metadata column; no intervention tests it."""
MIN_IMAGES = 16
"""Fewest images that are labelled or predicted as a class; a smaller class has no candidates."""
MAX_COMMON = 2
"""Most common concepts of a class."""
MIN_COMMON_AUC, MIN_COMMON_SHARE = 0.97, 0.15
"""Least area under the ROC curve by which the strength of a common concept tells a class from
others, and least share of all contributions."""
MAX_WITHOUT = 64
"""Most images without the cue whose maps are kept for interventions."""


@dataclass(frozen=True)
class ClassImages:
    """Sampled images that are labelled or predicted as a class.

    Attributes:
        class_index, name: the class.
        sample: the images.
        evidence: of the target layer for the class, in these images.
    """

    class_index: int
    name: str
    sample: ClassSample
    evidence: ClassEvidence


@dataclass(frozen=True)
class OtherImages:
    """Sampled images of all classes, and their activations (n, C, h, w)."""

    sample: ClassSample
    activations: Tensor


def find_candidates(
    images: ClassImages, others: OtherImages, seed: int
) -> Iterator[tuple[Row, pa.Table]]:
    """Find the candidates of a class.

    Args:
        images: images of the class.
        others: images of all classes; those of this class are left out.
        seed: seed of the concepts and of the choice of source images.

    Yields:
        A row of CANDIDATES, and the rows of concepts_schema of its images: the divisions of the
        class, its common concepts, and its context.
    """
    concepts = Concepts.fit(images.evidence.activations, seed)
    maps = concepts.maps(images.evidence.activations, images.evidence.gradients)
    outside = (others.sample.own != images.class_index) & (
        others.sample.predicted != images.class_index
    )
    other = others.sample.select(outside)
    elsewhere = concepts.strength(others.activations[outside.tolist()])
    other_features = divisions.summarise(elsewhere)
    of_class = images.sample.own == images.class_index
    found = divisions.find_divisions(maps, of_class, other_features)
    rng = np.random.default_rng((seed, images.class_index))
    for number, division in enumerate(found, start=1):
        has_cue = other_features @ division.direction > division.threshold
        row = {
            "class_index": images.class_index,
            "class_name": images.name,
            "kind": CONCEPT,
            "probe": CONCEPT,
            "place": f"group {number}",
            "raised_by": "concepts that divide the images of the class",
            "statistic": division.separation,
            "contribution": division.contribution,
            "donor_index": images.sample.index[division.with_cue].tolist(),
            "without_index": images.sample.index[division.without_cue].tolist(),
            "groups": _group_table(images.sample, of_class, division.has_cue, other, has_cue),
        }
        complete = _complete(row)
        yield complete, _concept_rows(complete["candidate_id"], images, maps, division, rng)
    is_predicted = images.sample.predicted == images.class_index
    if is_predicted.sum() < MIN_IMAGES:
        return
    for concept in _common_concepts(maps, is_predicted, elsewhere):
        place = f"concept {concept + 1}"
        row = _of_whole_class(images, COMMON, place, "a concept that all images of the class have")
        yield row, _rows_of_common(row["candidate_id"], images, maps, concept)
    row = _of_whole_class(images, CONTEXT, CONTEXT, "what surrounds the objects of the class")
    yield row, _rows_of_context(row["candidate_id"], images)


def _common_concepts(maps: ConceptMaps, is_predicted: Bools, elsewhere: Floats) -> list[int]:
    """Numbers of the concepts that tell a class from others, the largest contributions first.

    Args:
        maps: concepts of n images.
        is_predicted: (n,) whether an image is predicted as the class.
        elsewhere: (m, h, w, k) strengths of the concepts in images of other classes.
    """
    if not len(elsewhere):
        return []
    strengths = np.concatenate([maps.strength[is_predicted], elsewhere]).mean(axis=(1, 2))
    truth = np.arange(len(strengths)) < is_predicted.sum()
    aucs = divisions.areas_under_roc(strengths, truth)
    contributions = maps.contribution[is_predicted].sum(axis=(1, 2)).mean(axis=0)
    shares = contributions / max(float(contributions.sum()), divisions.TINY)
    ordered = np.argsort(-contributions, kind="stable")
    fitting = (aucs >= MIN_COMMON_AUC) & (shares >= MIN_COMMON_SHARE)
    return [int(concept) for concept in ordered if fitting[concept]][:MAX_COMMON]


def _of_whole_class(images: ClassImages, kind: str, place: str, raised_by: str) -> Row:
    """Row of CANDIDATES of a possible cue that all images predicted as a class have."""
    is_predicted = images.sample.predicted == images.class_index
    return _complete(
        {
            "class_index": images.class_index,
            "class_name": images.name,
            "kind": kind,
            "probe": kind,
            "place": place,
            "raised_by": raised_by,
            "donor_index": images.sample.index[is_predicted].tolist(),
            "without_index": [],
        }
    )


def _rows_of_common(
    identifier: str, images: ClassImages, maps: ConceptMaps, concept: int
) -> pa.Table:
    """Rows of concepts_schema of a common concept."""
    is_predicted = images.sample.predicted == images.class_index
    positive = np.maximum(maps.contribution, 0)
    strength, evidence = maps.strength[..., concept], positive[..., concept]
    columns = {
        "has_cue": is_predicted,
        "score": strength.mean(axis=(1, 2)),
        "contribution": maps.contribution[..., concept].sum(axis=(1, 2)),
        "presence": _quantise(strength, is_predicted),
        "evidence": _quantise(evidence, is_predicted),
        "other_evidence": _quantise(positive.sum(axis=3) - evidence, is_predicted),
        "activity": _quantise(images.evidence.energy.cpu().numpy(), is_predicted),
    }
    return _to_table(identifier, images, columns)


def _rows_of_context(identifier: str, images: ClassImages) -> pa.Table:
    """Rows of concepts_schema of the context of a class, which has no concepts."""
    is_predicted = images.sample.predicted == images.class_index
    energy = images.evidence.energy.cpu().numpy()
    activity = _quantise(energy, is_predicted)
    nothing = np.zeros(len(is_predicted), np.float32)
    no_maps = _quantise(np.zeros_like(energy), is_predicted)
    columns = {
        "has_cue": is_predicted,
        "score": nothing,
        "contribution": nothing,
        "presence": no_maps,
        "evidence": no_maps,
        "other_evidence": activity,
        "activity": activity,
    }
    return _to_table(identifier, images, columns)


def candidate_of_association(found: Association, n_tests: int, name: str) -> Row:
    """Make a row of CANDIDATES from a metadata column associated with a prediction.

    Args:
        found: the test of a value of the column.
        n_tests: tests of the run; the row's p-value is corrected for all of them (Bonferroni).
        name: of the predicted class.
    """
    evidence = (
        f"{found.share_with:.0%} of the images with {found.column} = {found.value} are "
        f"predicted as {name}, but {found.share_without:.0%} of the images without it, "
        f"compared within each label ({found.column} and label: Cramer's V "
        f"{found.confounding:.2f})"
    )
    effect = found.share_with - found.share_without
    return _metadata_row(found, name, evidence, effect, min(1.0, found.p_value * n_tests))


def candidate_of_confounder(found: Confounder, name: str) -> Row:
    """Make a row of CANDIDATES from a value of a metadata column that says the same as a label.

    Args:
        found: the value and the label.
        name: of the class of the label.
    """
    evidence = (
        f"{found.share_of_label:.0%} of the images labelled {name} have {found.column} = "
        f"{found.value}, and {found.share_of_value:.0%} of the images with it are labelled "
        f"{name}, so that no test can tell which of the two the model relies on"
    )
    return _metadata_row(found, name, evidence, found.share_of_label, found.p_value)


def _metadata_row(
    found: Association | Confounder, name: str, evidence: str, statistic: float, p_value: float
) -> Row:
    return _complete(
        {
            "class_index": found.class_index,
            "class_name": name,
            "kind": METADATA,
            "place": f"{found.column} = {found.value}",
            "probe": METADATA,
            "raised_by": evidence,
            "statistic": statistic,
            "p_value": p_value,
        }
    )


def _complete(row: Row) -> Row:
    """Add the id to a candidate, and null for the columns that it does not have."""
    return {**dict.fromkeys(CANDIDATES.names), **row, "candidate_id": candidate_id(row)}


def candidate_id(candidate: Row) -> str:
    """Make an id that is the same in every run, from the class, the kind and the place."""
    digest = hashlib.sha256(candidate["class_name"].encode()).hexdigest()[:8]
    where = candidate["place"] or "moving"
    return re.sub(r"\W+", "-", f"{candidate['kind']} {where} {digest}")


def _group_table(
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


def _concept_rows(
    identifier: str,
    images: ClassImages,
    maps: ConceptMaps,
    division: Division,
    rng: np.random.Generator,
) -> pa.Table:
    """Rows of concepts_schema for all images of a class."""
    positive = np.maximum(maps.contribution, 0)
    sample = images.sample
    shown = division.has_cue & (sample.predicted == images.class_index)
    shown[rng.permutation(np.flatnonzero(division.without_cue))[:MAX_WITHOUT]] = True
    columns = {
        "has_cue": division.has_cue,
        "score": division.score.astype(np.float32),
        "contribution": (maps.contribution @ division.weights).sum(axis=(1, 2)),
        "presence": _quantise(maps.strength @ division.weights, shown),
        "evidence": _quantise(positive @ division.weights, shown),
        "other_evidence": _quantise(positive @ (1 - division.weights), shown),
        "activity": _quantise(images.evidence.energy.cpu().numpy(), shown),
    }
    return _to_table(identifier, images, columns)


def _to_table(identifier: str, images: ClassImages, columns: dict[str, Any]) -> pa.Table:
    """Rows of concepts_schema: columns, and those that are the same for all candidates."""
    sample, logits = images.sample, images.evidence.logits.cpu().numpy().copy()
    own = logits[:, images.class_index].copy()
    logits[:, images.class_index] = -np.inf
    complete = {
        "candidate_id": [identifier] * len(own),
        "index": sample.index,
        "pred_index": sample.predicted,
        "margin": own - logits.max(axis=1),
        **columns,
    }
    height, width = images.evidence.energy.shape[1:]
    schema = concepts_schema((height, width))
    return pa.Table.from_arrays(
        [pa.array(complete[field.name], field.type, from_pandas=True) for field in schema],
        schema=schema,
    )


def _quantise(maps: Floats, shown: NDArray[np.bool_]) -> list[NDArray[np.uint8] | None]:
    """Maps (n, h, w) as lists of bytes in fractions of each maximum; None where not shown."""
    flat = maps.reshape(len(maps), -1)
    peak = np.maximum(flat.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    rounded = np.rint(255 * np.clip(flat / peak, 0, 1)).astype(np.uint8)
    return [row if keep else None for row, keep in zip(rounded, shown, strict=True)]
