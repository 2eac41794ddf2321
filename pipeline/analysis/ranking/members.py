"""Images with the cue of a finding, and how strongly each one is a suspect for that reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.storage import arrays
from pipeline.storage.schema import Row
from pipeline.storage.values import Verdict


@dataclass(frozen=True)
class Members:
    """m pairs of an image and a finding, sorted by image.

    Attributes:
        index: (m,) positions of the images in the plan.
        finding: (m,) positions in `findings`.
        reliance: (m,) in [0, 1], NaN where it was not measured.
        strength: (m,) in [0, 1], how strongly the image is a suspect.
        findings: rows of FINDINGS.
    """

    index: NDArray[np.int64]
    finding: NDArray[np.int64]
    reliance: NDArray[np.float64]
    strength: NDArray[np.float64]
    findings: list[Row]

    def strongest(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """The largest strength (n,) of images, by position in the plan; 0 without a finding."""
        if not len(self.index):
            return np.zeros(len(index))
        starts = np.flatnonzero(np.diff(self.index, prepend=-1))
        images, best = self.index[starts], np.maximum.reduceat(self.strength, starts)
        place = np.minimum(np.searchsorted(images, index), len(images) - 1)
        return np.where(images[place] == index, best[place], 0.0)

    def findings_of(self, index: int) -> Iterator[tuple[float, str, str]]:
        """Yield strength, reason in words and finding_id of every finding of an image."""
        first, end = np.searchsorted(self.index, [index, index + 1])
        for pair in range(first, end):
            finding = self.findings[self.finding[pair]]
            name = f"shortcut of {finding['class_name']} ({finding['kind']})"
            reason = f"has the cue of the {finding['verdict']} {name}"
            if not np.isnan(self.reliance[pair]):
                reason += f"; without the cue the prediction loses {self.reliance[pair]:.0%}"
                reason += " of its probability"
            yield float(self.strength[pair]), reason, finding["finding_id"]


def join_members(members: pa.Table, findings: pa.Table) -> Members:
    """Join the tables of verify (MEMBERS, FINDINGS).

    The strength is the reliance, or the finding's score where the reliance was not measured; half
    of it where the finding is not confirmed.
    """
    rows = findings.to_pylist()
    number = pc.index_in(members["finding_id"], findings["finding_id"].combine_chunks())
    finding = number.to_numpy().astype(np.int64)
    reliance = arrays.numbers(members, "reliance")
    score = arrays.numbers(findings, "score")[finding]
    factor = [1.0 if row["verdict"] == Verdict.CONFIRMED else 0.5 for row in rows]
    strength = np.where(np.isnan(reliance), score, reliance)
    strength = np.clip(strength, 0, 1) * np.array(factor)[finding]
    index = members["index"].to_numpy()
    order = np.argsort(index, kind="stable")
    return Members(index[order], finding[order], reliance[order], strength[order], rows)
