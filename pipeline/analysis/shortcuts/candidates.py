"""Candidates: cues that a class may rely on, each with the intervention that will test it.

Three kinds of candidates come from a class's own tables: regions outside the usual place with more
heat than a random draw of images has, statistics inside such regions, and minority groups of its
images. Every class also has the same general candidates (background, edges, moving windows, colour,
lighting, texture, sharpness), because heatmaps cannot localise these cues; a statistic measures how
far the class differs from others. Candidates need not be precise: verification decides.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.analysis import place_words
from pipeline.analysis.shortcuts import clusters, regions
from pipeline.analysis.shortcuts.class_sample import ClassSample
from pipeline.analysis.shortcuts.metadata import Association
from pipeline.analysis.shortcuts.regions import Cells, Floats
from pipeline.storage.schema import CANDIDATES, IMAGE, Row

BACKGROUND = "background"
"""Name and kind of the intervention on everything but the objects."""
METADATA = "metadata"
"""Kind of a candidate that comes from a metadata column; no intervention tests it."""
REGION = "hot region"
"""Name of the intervention on a region in which the class has unusual heat."""
GENERAL_KINDS = {
    BACKGROUND: BACKGROUND,
    "moving": "moving",
    "moving, small": "moving",
    "in place, small": "moving",
    "colour": "colour",
    "lighting": "lighting",
    "texture": "texture",
    "sharpness": "sharpness",
}
"""Names and kinds of the interventions that need no region; every class has a candidate of each.
A test asserts that these are the names and kinds of verification.interventions.GENERAL."""
LOCAL_KINDS = {"texture in place": "texture", "sharpness in place": "sharpness"}
"""Names and kinds of the interventions on a statistic inside an unusual region."""
GROUP_INTERVENTIONS = ("moving", BACKGROUND)
"""Names of the interventions on a minority group of a class's images."""
BOXED_KINDS = ("patch", "region")
"""Kinds of candidates whose place is a box in the image."""
STATISTICS_OF_KIND = {
    "colour": [i for i, name in enumerate(IMAGE) if "mean" in name or "std" in name],
    "lighting": [IMAGE.index("image_brightness"), IMAGE.index("image_contrast")],
    "texture": [IMAGE.index("image_sharpness")],
    "sharpness": [IMAGE.index("image_sharpness")],
    "edge": [i for i, name in enumerate(IMAGE) if "border" in name],
}
"""Positions in IMAGE of the statistics that differ where a class has a cue of the kind."""

MIN_IMAGES = 8
"""Fewest sampled images of a class; in a smaller class no difference could be significant."""
CUE_QUANTILE = 0.95
"""An image has the cue of a region if its heat there exceeds this quantile of other classes'."""
MAX_REGIONS = 3
"""Most unusual regions of a class."""
MAX_GROUPS = 2
"""Most minority groups of a class."""


def find_candidates(
    name: str, class_index: int, sample: ClassSample, permutations: int, rng: np.random.Generator
) -> Iterator[Row]:
    """Find all candidates of a class.

    Args:
        name, class_index: the class.
        sample: images of the class and images of other classes to compare with; at least one each.
        permutations: draws of the permutation test of regions.
        rng: random generator of these draws.

    Yields:
        Rows of CANDIDATES: the class-specific ones first, then the general ones.
    """
    own = sample.classes == class_index
    heat = regions.heat_shares(sample.heatmaps)
    yield from find_specific_candidates(name, class_index, sample, permutations, rng)
    for row in _general_candidates(sample, heat, own):
        yield _complete_row(name, class_index, row)


def find_specific_candidates(
    name: str, class_index: int, sample: ClassSample, permutations: int, rng: np.random.Generator
) -> Iterator[Row]:
    """Find the candidates that the class's heatmaps and embeddings suggest.

    The arguments are those of `find_candidates`. A class without unusual regions and without
    minority groups has no class-specific candidate.
    """
    own = sample.classes == class_index
    heat = regions.heat_shares(sample.heatmaps)
    found = regions.find_unusual_regions(heat[own], heat[~own], permutations, rng)
    rows = [_region_candidate(region, heat, own, sample) for region in found[:MAX_REGIONS]]
    rows += [
        {**row, "probe": intervention, "kind": kind}
        for row in rows
        for intervention, kind in LOCAL_KINDS.items()
    ]
    for row in rows + _group_candidates(sample, heat, own):
        yield _complete_row(name, class_index, row)


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
    row = {
        "class_index": found.class_index,
        "class_name": name,
        "kind": METADATA,
        "place": f"{found.column} = {found.value}",
        "probe": METADATA,
        "raised_by": evidence,
        "statistic": found.share_with - found.share_without,
        "p_value": min(1.0, found.p_value * n_tests),
    }
    return {**dict.fromkeys(CANDIDATES.names), **row, "candidate_id": candidate_id(row)}


def candidate_id(candidate: Row) -> str:
    """Make an id that is the same in every run, from the class, the kind and the rough place."""
    digest = hashlib.sha256(candidate["class_name"].encode()).hexdigest()[:8]
    where = candidate["place"] or candidate["probe"]
    return re.sub(r"\W+", "-", f"{candidate['kind']} {where} {digest}")


def place_columns(cells: Cells, intervention: str) -> Row:
    """Columns of CANDIDATES for a region.

    Args:
        cells: (h, w), the region.
        intervention: name of the intervention on the region.

    Returns:
        The columns kind, place, probe, region and cells.
    """
    kind, place = regions.kind_of_cells(cells), place_words.place_of_cells(cells)
    named = {"kind": kind, "place": place, "probe": intervention}
    return {**named, "region": regions.bounding_box(cells), "cells": cells.tolist()}


def _complete_row(name: str, class_index: int, row: Row) -> Row:
    shared = {"class_index": class_index, "class_name": name}
    complete = {**dict.fromkeys(CANDIDATES.names), **shared, **row}
    return {**complete, "candidate_id": candidate_id(complete)}


def _region_candidate(
    region: regions.Region, heat: Floats, own: NDArray[np.bool_], sample: ClassSample
) -> Row:
    share = regions.heat_inside(heat, region.cells)
    with_cue = own & (share > np.quantile(share[~own], CUE_QUANTILE))
    return {
        **place_columns(region.cells, REGION),
        "raised_by": region.statistic,
        "statistic": region.z,
        "p_value": region.p_value,
        "donor_index": sample.index[with_cue].tolist(),
    }


def _group_candidates(sample: ClassSample, heat: Floats, own: NDArray[np.bool_]) -> list[Row]:
    rows = np.flatnonzero(own)
    groups = clusters.find_minority_groups(sample.embeddings[rows], heat[rows], MAX_GROUPS)
    return [
        {
            "kind": intervention,
            "place": f"group {number}",
            "probe": intervention,
            "raised_by": "a group of its images",
            "statistic": len(group) / len(rows),
            "donor_index": sample.index[rows[group]].tolist(),
        }
        for number, group in enumerate(groups, start=1)
        for intervention in GROUP_INTERVENTIONS
    ]


def _general_candidates(sample: ClassSample, heat: Floats, own: NDArray[np.bool_]) -> Iterator[Row]:
    unusual = ~regions.usual_cells(heat[~own])
    for name, cells in regions.edge_cells().items():
        yield {**place_columns(cells, name), **_difference_of_statistics(sample, own, "edge")}
    for name, kind in GENERAL_KINDS.items():
        if kind in STATISTICS_OF_KIND:
            difference = _difference_of_statistics(sample, own, kind)
        else:
            share = regions.heat_inside(heat, unusual)
            difference = {
                "raised_by": "heat off the usual place",
                **_separation(share[:, None], own),
            }
        yield {"kind": kind, "probe": name, **difference}


def _difference_of_statistics(sample: ClassSample, own: NDArray[np.bool_], kind: str) -> Row:
    separation = _separation(sample.statistics[:, STATISTICS_OF_KIND[kind]], own)
    return {"raised_by": f"{kind} statistics of the pictures", **separation}


def _separation(columns: Floats, own: NDArray[np.bool_]) -> dict[str, float]:
    """How well the best of k columns (n, k) separates the class (n,) from other classes.

    The statistic is |2 AUC - 1| in [0, 1]; the p-value is that of the Mann-Whitney test, corrected
    for the number of columns (Bonferroni).
    """
    tests = [
        stats.mannwhitneyu(column[own], column[~own])
        for column in np.nan_to_num(columns.astype(np.float64)).T
    ]
    pairs = own.sum() * (~own).sum()
    best = min(tests, key=lambda test: float(test.pvalue))
    return {
        "statistic": abs(2 * float(best.statistic) / pairs - 1),
        "p_value": min(1.0, float(best.pvalue) * len(tests)),
    }
