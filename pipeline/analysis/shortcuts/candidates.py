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

from pipeline.analysis.shortcuts import candidate_rows, divisions, places, styles, whole_class
from pipeline.analysis.shortcuts.candidate_rows import (
    AT_PLACE,
    CONCEPT,
    STYLE,
    ClassImages,
    OtherImages,
)
from pipeline.analysis.shortcuts.concepts import ConceptMaps, Concepts
from pipeline.analysis.shortcuts.divisions import Bools, Division
from pipeline.analysis.shortcuts.pixel_groups import MeasuredImages, PixelDivision
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
        class by concepts and by pixels, its common concepts, and its context.
    """
    concepts = Concepts.fit(images.evidence.activations, seed)
    maps = concepts.maps(images.evidence.activations, images.evidence.gradients)
    other = others.without(images.class_index)
    elsewhere = concepts.strength(other.activations)
    rng = np.random.default_rng((seed, images.class_index))
    yield from _by_concepts(images, maps, other, divisions.summarise(elsewhere), rng)
    yield from _by_pixels(images, other, rng)
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
                **_groups(images, division.with_cue, division.without_cue),
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


def _by_pixels(images: ClassImages, other: OtherImages, rng: np.random.Generator) -> Found:
    """Candidates from the pixels of one place, and of the whole picture, that divide a class."""
    of_class = images.sample.own == images.class_index
    own_margins, other_margins = (
        candidate_rows.margins(logits, images.class_index)
        for logits in (images.evidence.logits, other.logits)
    )
    found_places = places.find_places(
        MeasuredImages(images.pixels.cells, own_margins),
        MeasuredImages(other.pixels.cells, other_margins),
        of_class,
    )
    for number, place in enumerate(found_places, start=1):
        row = {
            "kind": AT_PLACE,
            "place": f"place {number}",
            "raised_by": "pixels of one place that differ from those of other classes",
            "cells": place.cells.tolist(),
        }
        yield _of_division(row, images, other, place.division, rng)
    style = styles.find_style(
        MeasuredImages(images.pixels.style, own_margins),
        MeasuredImages(other.pixels.style, other_margins),
        of_class,
    )
    if style is not None:
        raised_by = "colours or fine structure that differ from those of other classes"
        row = {"kind": STYLE, "place": STYLE, "raised_by": raised_by}
        yield _of_division(row, images, other, style, rng)


def _of_division(
    row: dict[str, Any],
    images: ClassImages,
    other: OtherImages,
    division: PixelDivision,
    rng: np.random.Generator,
) -> tuple[Row, pa.Table]:
    """Complete the row of a division by pixels, and make its rows of concepts_schema."""
    of_class = images.sample.own == images.class_index
    complete = candidate_rows.complete(
        {
            **row,
            "statistic": division.separation,
            **_groups(images, division.with_cue, division.without_cue),
            "groups": candidate_rows.group_table(
                images.sample, of_class, division.has_cue, other.sample, division.elsewhere
            ),
        }
    )
    shown = _shown(images, division.has_cue, division.without_cue, rng)
    table = candidate_rows.without_concepts(
        complete["candidate_id"], images, division.has_cue, division.score, shown
    )
    return complete, table


def _groups(images: ClassImages, with_cue: Bools, without_cue: Bools) -> dict[str, Any]:
    """The class, and its images with and without the cue, of masks (n,)."""
    return {
        "class_index": images.class_index,
        "class_name": images.name,
        "donor_index": images.sample.index[with_cue].tolist(),
        "without_index": images.sample.index[without_cue].tolist(),
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
        **candidate_rows.map_columns(
            images,
            maps.strength @ division.weights,
            positive @ division.weights,
            positive @ (1 - division.weights),
            shown,
        ),
    }
    return candidate_rows.to_table(identifier, images, columns)
