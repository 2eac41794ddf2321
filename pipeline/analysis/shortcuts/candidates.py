"""What may be a shortcut of a class, from the tables alone; precision is the business of proof.

Where: regions off the usual place that draw more of the class's heat than a random draw would.
What: groups of its images that look at something of their own.
All else that heat cannot localise or no region holds: the background, edges, what moves, colour,
lighting and texture are tried for every class; a statistic tells how far the class stands out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.analysis.shortcuts import clusters, regions
from pipeline.analysis.shortcuts.class_sample import ClassSample
from pipeline.analysis.shortcuts.metadata import Association
from pipeline.analysis.shortcuts.regions import Cells, Floats
from pipeline.analysis.verification import interventions, transfers
from pipeline.analysis.verification.interventions import GENERAL, Intervention
from pipeline.storage.schema import CANDIDATES, IMAGE

IN_PLACE = {"texture in place": transfers.texture, "sharpness in place": transfers.sharpness}
"""The probes of the structure of a hot region; they carry no object over."""
LEAST = 8
"""A class with fewer live maps is not searched: nothing about it could be significant."""
BACKGROUND = "background"
METADATA = "metadata"
PLACES = ("patch", "region")
"""Kinds that a box tells."""
MEMBER = 0.95
MOST_REGIONS = 3
MOST_GROUPS = 2
REGION = "hot region"
"""The probe of candidates from heat; each class has its own."""
GROUP_PROBES = ("moving", BACKGROUND)
COLUMNS = {
    "colour": [i for i, name in enumerate(IMAGE) if "mean" in name or "std" in name],
    "lighting": [IMAGE.index("image_brightness"), IMAGE.index("image_contrast")],
    "texture": [IMAGE.index("image_sharpness")],
    "sharpness": [IMAGE.index("image_sharpness")],
    "edge": [i for i, name in enumerate(IMAGE) if "border" in name],
}
"""Statistics of the picture that speak for a kind of cue."""


def of_class(
    name: str, class_index: int, drawn: ClassSample, permutations: int, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Rows of CANDIDATES for a class that has images in the sample, and so have others."""
    own = drawn.classes == class_index
    heat = regions.mass(drawn.heatmaps)
    yield from raised(name, class_index, drawn, permutations, rng)
    for row in _general(drawn, heat, own):
        yield _full(name, class_index, row)


def raised(
    name: str, class_index: int, drawn: ClassSample, permutations: int, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Those of them that the class's heat and embeddings raise; the others every class has."""
    own = drawn.classes == class_index
    heat = regions.mass(drawn.heatmaps)
    found = regions.unusual_regions(heat[own], heat[~own], permutations, rng)
    rows = [_region(region, heat, own, drawn) for region in found[:MOST_REGIONS]]
    rows += [
        {**row, "probe": probe, "kind": probe.split()[0]} for row in rows for probe in IN_PLACE
    ]
    for row in rows + _groups(drawn, heat, own):
        yield _full(name, class_index, row)


def _full(name: str, class_index: int, row: dict[str, Any]) -> dict[str, Any]:
    shared = {"class_index": class_index, "class_name": name}
    full = {**dict.fromkeys(CANDIDATES.names), **shared, **row}
    return {**full, "candidate_id": identity(full)}


def of_metadata(found: Association, n_tests: int, name: str) -> dict[str, Any]:
    """A row of CANDIDATES; its p-value holds for all tests together (Bonferroni)."""
    told = (
        f"{found.share:.0%} of the images with {found.column} = {found.value} are predicted so, "
        f"{found.others:.0%} of the others, label for label ({found.column} and label: "
        f"Cramer's V {found.confounding:.2f})"
    )
    row = {
        "class_index": found.class_index,
        "class_name": name,
        "kind": METADATA,
        "place": f"{found.column} = {found.value}",
        "probe": METADATA,
        "raised_by": told,
        "statistic": found.share - found.others,
        "p_value": min(1.0, found.p_value * n_tests),
    }
    return {**dict.fromkeys(CANDIDATES.names), **row, "candidate_id": identity(row)}


def probe_of(candidate: dict[str, Any]) -> Intervention:
    """The probe that puts a row of CANDIDATES to the test."""
    if candidate["cells"] is None:
        return GENERAL[candidate["probe"]]
    cells = np.asarray(candidate["cells"], bool)
    if candidate["probe"] == BACKGROUND:
        return interventions.background(cells)
    if candidate["probe"] in IN_PLACE:
        return interventions.local(candidate["kind"], IN_PLACE[candidate["probe"]], cells)
    return interventions.fixed(candidate["kind"], cells)


def identity(candidate: dict[str, Any]) -> str:
    """An id that stays the same from run to run: of the class, the kind and the rough place."""
    digest = hashlib.sha256(candidate["class_name"].encode()).hexdigest()[:8]
    where = candidate["place"] or candidate["probe"]
    return re.sub(r"\W+", "-", f"{candidate['kind']} {where} {digest}")


def in_place(cells: Cells, probe: str) -> dict[str, Any]:
    """The part of a candidate's row that says where it is and what that is called."""
    kind, place = regions.kind(cells), regions.place(cells)
    named = {"kind": kind, "place": place, "probe": probe}
    return {**named, "region": regions.bounds(cells), "cells": cells.tolist()}


def _region(
    region: regions.Region, heat: Floats, own: NDArray[np.bool_], drawn: ClassSample
) -> dict[str, Any]:
    share = regions.share(heat, region.cells)
    # A carrier has more heat there than all but the most extreme images of other classes.
    carriers = own & (share > np.quantile(share[~own], MEMBER))
    return {
        **in_place(region.cells, REGION),
        "raised_by": region.statistic,
        "statistic": region.z,
        "p_value": region.p_value,
        "donor_index": drawn.index[carriers].tolist(),
    }


def _groups(drawn: ClassSample, heat: Floats, own: NDArray[np.bool_]) -> list[dict[str, Any]]:
    rows = np.flatnonzero(own)
    groups = clusters.minorities(drawn.embeddings[rows], heat[rows], MOST_GROUPS)
    return [
        {
            "kind": probe,
            "place": f"group {number}",
            "probe": probe,
            "raised_by": "a group of its images",
            "statistic": len(group) / len(rows),
            "donor_index": drawn.index[rows[group]].tolist(),
        }
        for number, group in enumerate(groups, start=1)
        for probe in GROUP_PROBES
    ]


def _general(drawn: ClassSample, heat: Floats, own: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    off = ~regions.usual_place(heat[~own])
    for name, cells in interventions.edge_cells().items():
        yield {**in_place(cells, name), **_stands_out(drawn, own, "edge")}
    for name, probe in GENERAL.items():
        if probe.kind in COLUMNS:
            yield {"kind": probe.kind, "probe": name, **_stands_out(drawn, own, probe.kind)}
        else:
            share = regions.share(heat, off)
            told = {"raised_by": "heat off the usual place", **_separation(share[:, None], own)}
            yield {"kind": probe.kind, "probe": name, **told}


def _stands_out(drawn: ClassSample, own: NDArray[np.bool_], kind: str) -> dict[str, Any]:
    told = _separation(drawn.statistics[:, COLUMNS[kind]], own)
    return {"raised_by": f"{kind} statistics of the pictures", **told}


def _separation(columns: Floats, own: NDArray[np.bool_]) -> dict[str, float]:
    """How well the best column (n, k) tells the class from others: |2 AUC - 1|, Mann-Whitney."""
    found = [
        stats.mannwhitneyu(column[own], column[~own])
        for column in np.nan_to_num(columns.astype(np.float64)).T
    ]
    pairs = own.sum() * (~own).sum()
    best = min(found, key=lambda test: float(test.pvalue))
    return {
        "statistic": abs(2 * float(best.statistic) / pairs - 1),
        "p_value": min(1.0, float(best.pvalue) * len(found)),
    }
