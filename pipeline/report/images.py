"""Draw the images of the report with their heatmaps, each image once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from pipeline.config import ReportConfig
from pipeline.data import pictures
from pipeline.data.pictures import WHOLE, Box, Rgb, Rgba
from pipeline.errors import one_line
from pipeline.report import overlay
from pipeline.report.overlay import Heatmap
from pipeline.storage.run_setup import Setup
from pipeline.storage.schema import Row

Read = Callable[[int, str], Rgb]
"""Reads an image by position in the plan and image id; raises the errors of the dataset."""

HEAT_SIDE = 160
"""Longer side, in pixels, of a heatmap that is shown alone."""
MEAN_SIDE = 192
"""Longer side, in pixels, of the mean image of a class."""
MAX_WAITING = 16
"""Largest number of images that are in memory before they are drawn."""
N_THREADS = 2
MAPS = {"pred": "heatmap", "label": "heatmap_label"}
"""The heatmaps of an image, and their columns in the parts."""


@dataclass(frozen=True)
class PictureFile:
    """A picture file of the report: its address relative to the folder, and its size in pixels."""

    src: str
    width: int
    height: int


@dataclass(frozen=True)
class HeatmapFiles:
    """The pictures of a heatmap, as a transparent layer and alone, and the place of its maximum."""

    layer: PictureFile
    alone: PictureFile
    place: str


@dataclass(frozen=True)
class ImageView:
    """An image as the report shows it.

    Attributes:
        image_id: the image.
        problem: why there is no picture; None if there is one.
        picture: the image itself.
        maps: its heatmaps, under "pred" and "label".
        seen: the region that the model sees; None if it is the whole image.
        brightened: the factor by which a dark image was brightened, else 1.
    """

    image_id: str
    problem: str | None = None
    picture: PictureFile | None = None
    maps: dict[str, HeatmapFiles] = field(default_factory=dict)
    seen: Box | None = None
    brightened: float = 1.0


@dataclass(frozen=True)
class ReportImages:
    """Reads images and draws them into the report's folder, in the look of the settings."""

    folder: Path
    look: ReportConfig
    setup: Setup
    read: Read

    def views(self, rows: Iterable[Row]) -> dict[str, ImageView]:
        """Draw images with their heatmaps, and return their views by image id.

        Images are read in the calling thread, because a user's dataset may not be thread-safe, and
        drawn in other threads.

        Args:
            rows: rows with index, image_id and the columns of MAPS.
        """
        drawn: dict[str, ImageView] = {}
        waiting: deque[Future[ImageView]] = deque()
        with ThreadPoolExecutor(N_THREADS, "draw") as pool:
            for row in rows:
                waiting.append(self._begin(pool, row))
                if len(waiting) >= MAX_WAITING:
                    _collect(drawn, waiting)
            while waiting:
                _collect(drawn, waiting)
        return drawn

    def _begin(self, pool: ThreadPoolExecutor, row: Row) -> Future[ImageView]:
        try:
            return pool.submit(self._view, row, self.read(row["index"], row["image_id"]))
        except Exception as error:  # noqa: BLE001 - any error of a file or dataset is shown
            return pool.submit(ImageView, row["image_id"], one_line(error))

    def _view(self, row: Row, pixels: Rgb) -> ImageView:
        box = self._seen(pixels)
        shown, factor = pictures.brighten(pictures.shrink(pixels, self.look.thumbnail))
        name = f"pictures/{row['index']}"
        maps = {
            key: self._map(f"{name}-{key}", self._heatmap(row[column]), pixels.shape, box)
            for key, column in MAPS.items()
            if row[column] is not None
        }
        inside = box[0] <= 0 and box[1] <= 0 and box[2] >= 1 and box[3] >= 1
        return ImageView(
            image_id=row["image_id"],
            picture=self._save(name, shown),
            maps=maps,
            seen=None if inside else box,
            brightened=factor,
        )

    def _map(self, name: str, heatmap: Heatmap, shape: tuple[int, ...], box: Box) -> HeatmapFiles:
        colormap = self.look.colormap
        return HeatmapFiles(
            layer=self._save(name, overlay.draw_small_layer(heatmap, shape, box, colormap)),
            alone=self._save(f"{name}-alone", self._alone(heatmap, HEAT_SIDE)),
            place=overlay.hottest_place(heatmap),
        )

    def class_map(self, class_index: int, cells: list[float] | None) -> PictureFile | None:
        """Draw the mean heatmap of a class; None if the class has no heatmap."""
        if cells is None:
            return None
        heatmap = self._heatmap(cells)
        return self._save(f"pictures/class-{class_index}", self._alone(heatmap, HEAT_SIDE))

    def mean_view(
        self, class_index: int, rows: Iterable[Row], cells: list[float] | None
    ) -> ImageView:
        """Draw the mean of images, as the model sees them, with the mean heatmap of the class.

        Args:
            class_index: the class; its number is part of the file names.
            rows: index and image_id of the images; images that cannot be read are left out.
            cells: the mean heatmap.
        """
        seen = [self._fitted(pixels) for pixels in self._readable(rows)]
        if not seen:
            return ImageView("", problem="none of its images could be read")
        mean = np.rint(np.mean(seen, axis=0)).astype(np.uint8)
        name = f"pictures/mean-{class_index}"
        maps = {}
        if cells is not None:
            heatmap = self._heatmap(cells)
            peak = float(heatmap.max())
            maps["pred"] = self._map(f"{name}-pred", heatmap / (peak or 1), mean.shape, WHOLE)
        return ImageView("", picture=self._save(name, mean), maps=maps)

    def intervention(self, number: int, row: Row) -> tuple[PictureFile, PictureFile]:
        """Write the pictures before and after an intervention (INTERVENTIONS)."""
        before, after = (
            self._keep(f"pictures/intervention-{number}-{name}", row[name])
            for name in ("before", "after")
        )
        return before, after

    def legend(self) -> PictureFile:
        """Draw the colour bar."""
        bar = overlay.draw_colour_bar(240, 12, self.look.alpha, self.look.colormap)
        return self._save("pictures/legend", bar)

    def _readable(self, rows: Iterable[Row]) -> Iterator[Rgb]:
        for row in rows:
            try:
                yield self.read(row["index"], row["image_id"])
            except Exception:  # noqa: BLE001, S112 - as in _begin; the mean needs not all images
                continue

    def _fitted(self, pixels: Rgb) -> Rgb:
        """The region that the model sees, resized to MEAN_SIDE in the proportions of its input."""
        height, width = pixels.shape[:2]
        x0, y0, x1, y1 = self._seen(pixels)
        left, top = max(0, round(x0 * width)), max(0, round(y0 * height))
        right, bottom = max(left + 1, round(x1 * width)), max(top + 1, round(y1 * height))
        crop = self.setup.crop
        size = [max(1, round(side * MEAN_SIDE / max(crop))) for side in crop]
        part = pixels[top:bottom, left:right]
        return np.asarray(cv2.resize(part, (size[1], size[0]), interpolation=cv2.INTER_AREA))

    def _seen(self, pixels: Rgb) -> Box:
        return pictures.seen_box(self.setup.resize, self.setup.crop, pixels.shape)

    def _heatmap(self, cells: list[float]) -> Heatmap:
        return np.asarray(cells, np.float32).reshape(self.setup.grid)

    def _alone(self, heatmap: Heatmap, side: int) -> Rgb:
        return overlay.draw_heatmap(heatmap, side, self.look.colormap)

    def _save(self, name: str, picture: Rgb | Rgba) -> PictureFile:
        self._write(name, pictures.encode_webp(picture))
        return PictureFile(f"{name}.webp", picture.shape[1], picture.shape[0])

    def _keep(self, name: str, encoded: bytes) -> PictureFile:
        """Write a picture that is already encoded."""
        self._write(name, encoded)
        shape = np.asarray(cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)).shape
        return PictureFile(f"{name}.webp", shape[1], shape[0])

    def _write(self, name: str, encoded: bytes) -> None:
        path = self.folder / f"{name}.webp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)


def _collect(drawn: dict[str, ImageView], waiting: deque[Future[ImageView]]) -> None:
    view = waiting.popleft().result()
    drawn[view.image_id] = view
