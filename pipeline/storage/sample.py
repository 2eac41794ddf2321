"""Columns of the parts as arrays, a null as what arithmetic passes over; samples of their rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.storage.arrays import NO_CLASS


def sample_per_class(groups: NDArray[np.int64], per_group: int, seed: int) -> NDArray[np.int64]:
    """Positions, sorted, of up to `per_group` drawn members of each group (n,)."""
    order = np.random.default_rng(seed).permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[order], prepend=NO_CLASS - 1))
    place = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return np.sort(order[place < per_group])
