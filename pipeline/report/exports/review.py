"""What every export is made of: the suspects of a run, their rows, the way to their pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.pictures import WHOLE, seen_box
from pipeline.errors import DataError
from pipeline.report.overlay import Heatmap, resize_heatmap
from pipeline.storage import parquet, paths, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.scan import Rows
from pipeline.storage.schema import Row

SEPARATOR = "; "
"""Between the reasons of a suspect, where they are one text."""

Picture = Callable[[int, str], bytes | None]
"""From plan position and image id to the whole picture, small, as a WebP file; or None."""


def no_picture(_index: int, _image_id: str) -> None:
    """The Picture of a caller that has none to give."""


@dataclass(frozen=True)
class Review:
    """The suspects of a run, to be looked at elsewhere.

    suspects holds the columns of SUSPECTS and whatever others stand beside them, best first; rows
    are the parts of the whole run, of which only what is asked for is read.
    """

    run_id: str
    setup: Setup
    suspects: pa.Table
    rows: Rows
    picture: Picture = no_picture

    @property
    def root(self) -> Path | None:
        """The absolute folder that image ids are relative to; None without files on this disk."""
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
        """Absolute path of an image, there or not; None where images are no files.

        Bytes that are no UTF-8 stand in it as escapes, as they do in image ids.
        """
        root = self.root
        if root is None:
            return None
        return str(root / image_id).encode("utf-8", "backslashreplace").decode()

    def files(self) -> list[str] | None:
        """`file` of every suspect; None where images are no files."""
        paths = [self.file(image_id) for image_id in self.suspects["image_id"].to_pylist()]
        return None if self.root is None else [path for path in paths if path is not None]

    def explained(self, names: list[str]) -> pa.Table:
        """Columns of the parts, one row per suspect in the order of the suspects.

        Parts without a suspect are not opened.

        Raises:
            DataError: where the suspects were not found in these parts.
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
        """The heatmap of a row in the frame of its whole picture (H, W), its longer side `side`.

        The row has heatmap, image_height and image_width. Where the size is not known, it is taken
        for that of what the model saw.
        """
        heatmap = np.array(row["heatmap"], np.float32).reshape(self.setup.grid)
        crop = self.setup.crop
        size = (row["image_height"] or crop[0], row["image_width"] or crop[1])
        box = WHOLE if not row["image_height"] else seen_box(self.setup.resize, crop, size)
        shape = tuple(max(1, round(length * side / max(size))) for length in size)
        return resize_heatmap(heatmap, shape, box)

    def flat(self) -> pa.Table:
        """The suspects with lists of texts, such as the reasons, as one text each."""
        table = self.suspects
        for place, field in enumerate(table.schema):
            if pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type):
                joined = pc.binary_join(table[field.name], SEPARATOR)
                table = table.set_column(place, field.name, joined)
        return table


def open_review(run: RunFolder, picture: Picture = no_picture) -> Review:
    """The suspects of a ranked run.

    Raises:
        NotFinished: where explain or rank have not run.
        ConfigError, DataError: as `store.read_plan` and `store.read`.
    """
    setup = run_folder.read_plan(run, []).setup
    suspects = parquet.read(run.analysis("suspects"))
    return Review(run.path.resolve().name, setup, suspects, run_folder.rows(run, setup), picture)


def absolute(path: str | Path) -> Path:
    """A path from the working directory, without `..`; links are not followed."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps `..`


def _stale(rows: Rows) -> DataError:
    return DataError(
        f"the suspects do not belong to {rows.parts[0].parent}; run the stage rank again"
    )
