"""The common input of all exports: the suspects of a run, their rows and their images."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.data.pictures import WHOLE, seen_box
from pipeline.errors import DataError
from pipeline.report.overlay import Heatmap, resize_heatmap
from pipeline.storage import parquet, paths, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.scan import Rows
from pipeline.storage.schema import Row

Encode = Callable[[int, str], bytes | None]
"""Returns an image, by position in the plan and image id, as a small WebP file, or None."""


def encode_none(_index: int, _image_id: str) -> None:
    """The Encode of a caller that has no images."""


@dataclass(frozen=True)
class Review:
    """The suspects of a run for a review in another tool.

    suspects has the columns of SUSPECTS, and may have others; rows are the parts of the whole run,
    which are read on demand.
    """

    run_id: str
    setup: Setup
    suspects: pa.Table
    rows: Rows
    encode: Encode = encode_none

    @property
    def root(self) -> Path | None:
        """The absolute folder to which image ids are relative; None without local image files."""
        settings = self.setup.settings
        if settings["dataset.kind"] == "image_folder":
            root = paths.to_path(settings["dataset.root"])
        elif settings["dataset.kind"] == "manifest":
            root = paths.to_path(
                settings["dataset.root"] or paths.to_path(settings["dataset.path"]).parent
            )
        else:
            return None
        local = paths.local_path(root)
        return None if local is None else absolute(local)

    def file(self, image_id: str) -> str | None:
        """Absolute path of an image file, which may not exist; None if the images are no files.

        Bytes that are not valid UTF-8 are escaped, as in image ids.
        """
        root = self.root
        if root is None:
            return None
        return str(root / image_id).encode("utf-8", "backslashreplace").decode()

    def files(self) -> list[str] | None:
        """`file` of every suspect; None if the images are no files."""
        paths = [self.file(image_id) for image_id in self.suspects["image_id"].to_pylist()]
        return None if self.root is None else [path for path in paths if path is not None]

    def explained(self, names: list[str]) -> pa.Table:
        """Read columns of the parts, one row per suspect in the order of the suspects.

        Parts without a suspect are not opened.

        Raises:
            DataError: the suspects are not those of these parts.
        """
        wanted = self.suspects["index"].to_numpy()
        if len(wanted) and wanted.max() // self.rows.shard_size >= len(self.rows.parts):
            raise _stale(self.rows)
        found = self.rows.at(wanted, list(dict.fromkeys(["index", "image_id", *names])))
        if found.num_rows != len(np.unique(wanted)):
            raise _stale(self.rows)
        rows = found.take(pa.array(np.searchsorted(found["index"].to_numpy(), wanted)))
        if not rows["image_id"].equals(self.suspects["image_id"]):
            raise _stale(self.rows)
        return rows.select(names)

    def heat(self, row: Row, side: int) -> Heatmap:
        """The heatmap of a row, resized to its whole image, with a longer side of `side` pixels.

        The row has heatmap, image_height and image_width. If the size is null, the image is taken
        to be the region that the model sees.
        """
        heatmap = np.array(row["heatmap"], np.float32).reshape(self.setup.grid)
        crop = self.setup.crop
        size = (row["image_height"] or crop[0], row["image_width"] or crop[1])
        box = WHOLE if not row["image_height"] else seen_box(self.setup.resize, crop, size)
        shape = tuple(max(1, round(length * side / max(size))) for length in size)
        return resize_heatmap(heatmap, shape, box)


def open_review(run: RunFolder, encode: Encode = encode_none) -> Review:
    """Open the suspects of a ranked run.

    Raises:
        NotFinished: explain or rank has not run.
        ConfigError, DataError: as `run_folder.read_plan` and `parquet.read`.
    """
    setup = run_folder.read_plan(run, []).setup
    suspects = parquet.read(run.analysis("suspects"))
    return Review(run.path.resolve().name, setup, suspects, run_folder.rows(run, setup), encode)


def absolute(path: str | Path) -> Path:
    """The absolute path without `..`; symbolic links are not resolved."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps `..`


def _stale(rows: Rows) -> DataError:
    return DataError(
        f"the suspects do not belong to {rows.parts[0].parent}; run the stage rank again"
    )
