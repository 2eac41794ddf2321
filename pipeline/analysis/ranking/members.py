"""Images of findings: right for the wrong reason, if the model relies on the cue in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.storage import arrays
from pipeline.storage.schema import Row

CONFIRMED = "confirmed"


@dataclass(frozen=True)
class Members:
    """Pairs of image and finding, sorted by image: plan position, number of the finding,
    reliance (NaN where not tried) and strength (m,); and the rows of the findings.
    """

    index: NDArray[np.int64]
    finding: NDArray[np.int64]
    reliance: NDArray[np.float64]
    strength: NDArray[np.float64]
    findings: list[Row]

    def strongest(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """The strength (n,) of the strongest finding of images, by plan position; 0 for none."""
        if not len(self.index):
            return np.zeros(len(index))
        starts = np.flatnonzero(np.diff(self.index, prepend=-1))
        images, best = self.index[starts], np.maximum.reduceat(self.strength, starts)
        place = np.minimum(np.searchsorted(images, index), len(images) - 1)
        return np.where(images[place] == index, best[place], 0.0)

    def of(self, index: int) -> Iterator[tuple[float, str, str]]:
        """Strength, reason in words and finding_id of every finding of an image."""
        first, end = np.searchsorted(self.index, [index, index + 1])
        for pair in range(first, end):
            finding = self.findings[self.finding[pair]]
            name = f"shortcut of {finding['class_name']} ({finding['kind']})"
            reason = f"looks at the {finding['verdict']} {name}"
            if not np.isnan(self.reliance[pair]):
                reason += f"; without it the prediction loses {self.reliance[pair]:.0%}"
                reason += " of its probability"
            yield float(self.strength[pair]), reason, finding["finding_id"]


def gathered(members: pa.Table, findings: pa.Table) -> Members:
    """From the tables of verify (MEMBERS, FINDINGS)."""
    rows = findings.to_pylist()
    number = pc.index_in(members["finding_id"], findings["finding_id"].combine_chunks())
    finding = number.to_numpy().astype(np.int64)
    reliance = arrays.numbers(members, "reliance")
    score = arrays.numbers(findings, "score")[finding]
    doubt = np.array([1.0 if row["verdict"] == CONFIRMED else 0.5 for row in rows])[finding]
    strength = np.clip(np.where(np.isnan(reliance), score, reliance), 0, 1) * doubt
    index = members["index"].to_numpy()
    order = np.argsort(index, kind="stable")
    return Members(index[order], finding[order], reliance[order], strength[order], rows)
