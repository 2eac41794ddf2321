"""Draws the pictures of the page into the report's folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import pictures
from pipeline.config import ReportConfig
from pipeline.dataset import describe
from pipeline.pictures import Heatmap, Rgb
from pipeline.report.page import Image, View

CLASS_SIDE = 96
"""Longer side of a class's mean heatmap in pixels."""


@dataclass(frozen=True)
class Studio:
    """Where to draw, in which look, and how to get at what the model saw.

    grid is (rows, columns) of the heatmaps; see takes a plan position and an image id, returns
    (H, W, 3) uint8 RGB, and may raise anything for an image that cannot be read.
    """

    folder: Path
    look: ReportConfig
    grid: tuple[int, int]
    see: Callable[[int, str], Rgb]

    def view(self, row: dict[str, Any]) -> View:
        """Draw one image with its heatmaps; one that cannot be read says why.

        row holds index, image_id, heatmap and heatmap_label as in a part.
        """
        try:
            seen = self.see(row["index"], row["image_id"])
        except Exception as error:  # noqa: BLE001 - whatever a bad file or dataset raises is shown
            return View(row["image_id"], problem=describe(error))
        picture = pictures.for_display(seen, self.look.thumbnail)
        pred, label = (self._heatmap(row[name]) for name in ("heatmap", "heatmap_label"))
        return View(
            image_id=row["image_id"],
            picture=self._save(f"{row['index']}", picture),
            pred=self._overlay(f"{row['index']}-pred", picture, pred),
            pred_place="" if pred is None else pictures.place(pred),
            label=self._overlay(f"{row['index']}-label", picture, label),
            label_place="" if label is None else pictures.place(label),
        )

    def mean_map(self, row: dict[str, Any]) -> Image | None:
        """Draw the mean heatmap of a class, a row with class_index and heatmap; None has none."""
        heatmap = self._heatmap(row["heatmap"])
        if heatmap is None:
            return None
        drawn = pictures.map_picture(heatmap, CLASS_SIDE, self.look.colormap)
        return self._save(f"class-{row['class_index']}", drawn)

    def legend(self) -> Image:
        """Draw the colour bar."""
        return self._save(
            "legend", pictures.colour_bar(240, 12, self.look.alpha, self.look.colormap)
        )

    def _heatmap(self, cells: list[float] | None) -> Heatmap | None:
        return None if cells is None else np.asarray(cells, np.float32).reshape(self.grid)

    def _overlay(self, name: str, picture: Rgb, heatmap: Heatmap | None) -> Image | None:
        if heatmap is None:
            return None
        look = self.look
        drawn = pictures.overlay(picture, heatmap, look.alpha, colormap=look.colormap)
        return self._save(name, drawn)

    def _save(self, name: str, picture: Rgb) -> Image:
        path = self.folder / "pictures" / f"{name}.webp"
        path.parent.mkdir(exist_ok=True)
        pictures.save(path, picture)
        return Image(f"pictures/{path.name}", picture.shape[1], picture.shape[0])
