"""Candidates: possible cues of a class, each as two groups of its images and as concepts.

A candidate says which of the sampled images of a class have the possible cue, where in these images
its concepts are strong, and what they contribute to the prediction. It need not be right:
verification decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.analysis.shortcuts import candidate_rows, divisions, places, whole_class
from pipeline.analysis.shortcuts.candidate_rows import CONCEPT, PLACE, ClassImages, OtherImages
from pipeline.analysis.shortcuts.concepts import ConceptMaps, Concepts
from pipeline.analysis.shortcuts.divisions import Bools, Division
from pipeline.analysis.shortcuts.places import CellImages
from pipeline.storage.schema import Row

Found = Iterator[tuple[Row, pa.Table]]
"""Rows of CANDIDATES, each with the rows of concepts_schema of its images."""


def find_candidates(images: ClassImages, others: OtherImages, seed: int) -> Found:
    """Find the candidates of a class.

    Args:
        images: images of the class.
        others: images of all classes; those of this class are left out.
        seed: seed of the concepts and of the choice of source images.

    Yields:
        A row of CANDIDATES, and the rows of concepts_schema of its images: the divisions of the
        class by concepts and by the pixels of one place, its common concepts, and its context.
    """
    concepts = Concepts.fit(images.evidence.activations, seed)
    maps = concepts.maps(images.evidence.activations, images.evidence.gradients)
    other = others.without(images.class_index)
    elsewhere = concepts.strength(other.activations)
    rng = np.random.default_rng((seed, images.class_index))
    yield from _by_concepts(images, maps, other, divisions.summarise(elsewhere), rng)
    yield from _by_places(images, other, rng)
    yield from whole_class.find_whole_class(images, maps, elsewhere)


def _by_concepts(
    images: ClassImages,
    maps: ConceptMaps,
    other: OtherImages,
    other_features: divisions.Floats,
    rng: np.random.Generator,
) -> Found:
    """Candidates from the concepts that divide a class."""
    of_class = images.sample.own == images.class_index
    found = divisions.find_divisions(maps, of_class, other_features)
    for number, division in enumerate(found, start=1):
        row = candidate_rows.complete(
            {
                "kind": CONCEPT,
                "place": f"group {number}",
                "raised_by": "concepts that divide the images of the class",
                "statistic": division.separation,
                "contribution": division.contribution,
                **_groups(images, of_class, division.has_cue),
                "groups": candidate_rows.group_table(
                    images.sample,
                    of_class,
                    division.has_cue,
                    other.sample,
                    other_features @ division.direction > division.threshold,
                ),
            }
        )
        yield row, _concept_rows(row["candidate_id"], images, maps, division, rng)


def _by_places(images: ClassImages, other: OtherImages, rng: np.random.Generator) -> Found:
    """Candidates from the pixels of one place that divide a class."""
    of_class = images.sample.own == images.class_index
    own, elsewhere = (
        CellImages(features, candidate_rows.margins(logits, images.class_index))
        for features, logits in (
            (images.features, images.evidence.logits),
            (other.features, other.logits),
        )
    )
    found = places.find_places(own, elsewhere, of_class)
    for number, place in enumerate(found, start=1):
        row = candidate_rows.complete(
            {
                "kind": PLACE,
                "place": f"place {number}",
                "raised_by": "pixels of one place that differ from those of other classes",
                "statistic": place.separation,
                "cells": place.cells.tolist(),
                **_groups(images, of_class, place.has_cue),
                "groups": candidate_rows.group_table(
                    images.sample,
                    of_class,
                    place.has_cue,
                    other.sample,
                    place.elsewhere > place.threshold,
                ),
            }
        )
        shown = _shown(images, place.has_cue, of_class & ~place.has_cue, rng)
        yield (
            row,
            candidate_rows.without_concepts(
                row["candidate_id"], images, place.has_cue, place.score, shown
            ),
        )


def _groups(images: ClassImages, of_class: Bools, has_cue: Bools) -> dict[str, Any]:
    """The class, and its images with and without the cue."""
    return {
        "class_index": images.class_index,
        "class_name": images.name,
        "donor_index": images.sample.index[of_class & has_cue].tolist(),
        "without_index": images.sample.index[of_class & ~has_cue].tolist(),
    }


def _shown(images: ClassImages, has_cue: Bools, lacking: Bools, rng: np.random.Generator) -> Bools:
    """The images that interventions use: those predicted as the class with the cue, some without.

    Args:
        images: n images of a class.
        has_cue: (n,) whether an image has the cue.
        lacking: (n,) whether an image is a source without the cue.
        rng: random generator of the choice.
    """
    shown = has_cue & (images.sample.predicted == images.class_index)
    shown[rng.permutation(np.flatnonzero(lacking))[: candidate_rows.MAX_WITHOUT]] = True
    return np.asarray(shown)


def _concept_rows(
    identifier: str,
    images: ClassImages,
    maps: ConceptMaps,
    division: Division,
    rng: np.random.Generator,
) -> pa.Table:
    """Rows of concepts_schema for all images of a class."""
    positive = np.maximum(maps.contribution, 0)
    shown = _shown(images, division.has_cue, division.without_cue, rng)
    columns = {
        "has_cue": division.has_cue,
        "score": division.score.astype(np.float32),
        "contribution": (maps.contribution @ division.weights).sum(axis=(1, 2)),
        "presence": candidate_rows.quantise(maps.strength @ division.weights, shown),
        "evidence": candidate_rows.quantise(positive @ division.weights, shown),
        "other_evidence": candidate_rows.quantise(positive @ (1 - division.weights), shown),
        "activity": candidate_rows.quantise(images.evidence.energy.cpu().numpy(), shown),
    }
    return candidate_rows.to_table(identifier, images, columns)
