"""Candidates that all images of a class have: its common concepts, and its context."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipeline.analysis.shortcuts import candidate_rows, divisions
from pipeline.analysis.shortcuts.candidate_rows import COMMON, CONTEXT, MIN_IMAGES, ClassImages
from pipeline.analysis.shortcuts.concepts import ConceptMaps
from pipeline.analysis.shortcuts.divisions import Bools, Floats
from pipeline.storage.schema import Row

MAX_COMMON = 2
"""Most common concepts of a class."""
MIN_COMMON_AUC, MIN_COMMON_SHARE = 0.97, 0.15
"""Least area under the ROC curve by which the strength of a common concept tells a class from
others, and least share of all contributions."""


def find_whole_class(
    images: ClassImages, maps: ConceptMaps, elsewhere: Floats
) -> Iterator[tuple[Row, pa.Table]]:
    """Find the candidates that all images of a class have.

    Args:
        images: images of the class.
        maps: their concepts.
        elsewhere: (m, h, w, k) strengths of the concepts in images of other classes.

    Yields:
        A row of CANDIDATES, and its rows of concepts_schema; none for a class that is predicted for
        fewer than MIN_IMAGES images.
    """
    is_predicted = images.sample.predicted == images.class_index
    if is_predicted.sum() < MIN_IMAGES:
        return
    common = _common_concepts(maps, is_predicted, elsewhere) if images.is_local else []
    for concept in common:
        place = f"concept {concept + 1}"
        row = _row(images, COMMON, place, "a concept that all images of the class have")
        yield row, _rows_of_common(row["candidate_id"], images, maps, concept)
    row = _row(images, CONTEXT, CONTEXT, "what surrounds the objects of the class")
    nothing = np.zeros(len(is_predicted), np.float32)
    yield (
        row,
        candidate_rows.without_concepts(
            row["candidate_id"], images, is_predicted, nothing, is_predicted
        ),
    )


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


def _row(images: ClassImages, kind: str, place: str, raised_by: str) -> Row:
    """Row of CANDIDATES of a possible cue that all images predicted as a class have."""
    is_predicted = images.sample.predicted == images.class_index
    return candidate_rows.complete(
        {
            "class_index": images.class_index,
            "class_name": images.name,
            "kind": kind,
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
        **candidate_rows.map_columns(
            images, strength, evidence, positive.sum(axis=3) - evidence, is_predicted
        ),
    }
    return candidate_rows.to_table(identifier, images, columns)
