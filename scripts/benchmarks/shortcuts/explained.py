"""What the peers of the search for shortcuts are given: a finished explain stage as arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.storage import run_folder
from pipeline.storage.schema import IMAGE, TOP

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Explained:
    """The explained images of a set.

    heatmaps (n, h, w) of the given class, 0 where the map is dead; embeddings (n, d); predicted and
    given classes (n,); statistics (n, 12) as schema.IMAGE names them; probabilities (n, K) as
    `_probabilities` has them; pictures (n, 64, 64, 3).
    """

    heatmaps: F32
    embeddings: F32
    predicted: I64
    given: I64
    statistics: F32
    probabilities: F64
    pictures: U8

    @property
    def n_classes(self) -> int:
        """K."""
        return int(self.probabilities.shape[1])

    def of_class(self, class_index: int) -> F32:
        """The live maps (m, h, w) of the images of a class, all for that class.

        Not of those predicted as it: what the network took for another class is part of its own.
        """
        maps = self.heatmaps[self.given == class_index]
        return np.asarray(maps[maps.any(axis=(1, 2))])


def read(run: Path, pictures: U8) -> Explained:
    """What the explain stage of a run wrote, beside its pictures (n, 64, 64, 3) in planned order.

    Images with an error or without a label are left out.

    Raises:
        NotFinished, DataError: as store.read_plan and store.rows.
    """
    folder = run_folder.RunFolder(run)
    setup = run_folder.read_plan(folder).setup
    names = ["index", "pred_index", "label_index", "label_prob", "top_index", "top_prob"]
    table = run_folder.rows(folder, setup).to_table(
        columns=[*names, "heatmap", "heatmap_label", "embedding", *IMAGE],
        filter=(ds.field("status") == "ok") & ds.field("label_index").is_valid(),
    )
    return Explained(
        heatmaps=_heatmaps(table, math.prod(setup.grid)).reshape(-1, *setup.grid),
        embeddings=_lists(table["embedding"], setup.embedding_dim),
        predicted=table["pred_index"].to_numpy().astype(np.int64),
        given=table["label_index"].to_numpy().astype(np.int64),
        statistics=np.stack([table[name].to_numpy() for name in IMAGE], axis=1),
        probabilities=_probabilities(table, len(setup.class_names)),
        pictures=pictures[table["index"].to_numpy()],
    )


def _heatmaps(table: pa.Table, n_cells: int) -> F32:
    """Maps (n, n_cells) of the given class, which have a column of their own where it differs."""
    maps = _lists(table["heatmap"], n_cells).copy()
    other = table["heatmap_label"]
    maps[other.is_valid().to_numpy()] = _lists(other.drop_null(), n_cells)
    return np.asarray(maps)


def _lists(column: pa.ChunkedArray, length: int) -> F32:
    """A column of lists of one length as (n, length), NaN where an element is null."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(-1, length)


def _probabilities(table: pa.Table, n_classes: int) -> F64:
    """Probabilities (n, K) as far as the rows have them: the five highest and the label's.

    What is left is spread evenly over the other classes. The rows hold the five in half precision.
    """
    rows, n_top = np.arange(len(table)), min(TOP, n_classes)
    top = _lists(table["top_index"], TOP)[:, :n_top].astype(np.int64)
    known = np.full((len(table), n_classes), np.nan)
    known[rows[:, None], top] = _lists(table["top_prob"], TOP)[:, :n_top]
    known[rows, table["label_index"].to_numpy()] = table["label_prob"].to_numpy()
    unknown = np.isnan(known)
    left = (1 - np.nansum(known, axis=1)).clip(0) / unknown.sum(axis=1).clip(1)
    filled = np.where(unknown, left[:, None], known)
    return np.asarray(filled / filled.sum(axis=1, keepdims=True))
