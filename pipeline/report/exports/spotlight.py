"""Export the suspects as a Parquet file for Renumics Spotlight, with images and embeddings."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data import pictures
from pipeline.report import overlay
from pipeline.report.exports.review import Review
from pipeline.storage.arrays import join_texts
from pipeline.storage.atomic import drafted
from pipeline.storage.schema import FOCUS, Row

CATEGORIES = ("label", "prediction", "kind", "finding_id")
"""Columns by which Spotlight filters and colours."""
SIDE = 160
"""Longer side, in pixels, of the heatmaps."""
BATCH = 256
"""Number of suspects whose pictures are in memory at a time."""


def write_spotlight(
    review: Review, path: Path, colormap: str = "viridis", alpha: float = 0.5
) -> None:
    """Write one row per suspect: image, heatmap, embedding, focus statistics and all its columns.

    `image` is the absolute path of the image file, or the WebP file of `review.encode`. `heatmap`
    is a WebP file: the heatmap over the image of `review.encode`, or alone if there is none; both
    show the whole image. It is null for a row without a heatmap.

    Args:
        review: the suspects.
        path: the Parquet file.
        colormap: name of an OpenCV colour map.
        alpha: opacity of heat over an image, in [0, 1].

    Raises:
        ConfigError: the colour map is unknown.
        DataError: as `Review.explained`.
        OSError: the disk is full, or the folder is read-only.
    """
    overlay.colormap_code(colormap)
    table = _table(review)
    explained = review.explained(["index", "image_id", "heatmap", "image_height", "image_width"])
    with (
        drafted(path, durable=False) as draft,
        pq.ParquetWriter(draft, _schema(review, table.schema)) as file,
    ):
        for start in range(0, table.num_rows, BATCH):
            rows = explained.slice(start, BATCH)
            drawn = _drawn(review, rows, colormap, alpha)
            whole = table.slice(start, BATCH)
            for place, name in enumerate(drawn):
                whole = whole.add_column(place, name, drawn[name])
            file.write_table(whole)


def _table(review: Review) -> pa.Table:
    """All columns except image and heatmap."""
    table = join_texts(review.suspects).rename_columns(
        ["prediction" if name == "pred" else name for name in review.suspects.column_names]
    )
    for name in CATEGORIES:
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table[name].combine_chunks().dictionary_encode())
    explained = review.explained(["embedding", *FOCUS])
    for name in FOCUS:
        table = table.append_column(name, explained[name])
    # float32, because pandas cannot read lists of float16
    return table.append_column("embedding", explained["embedding"].cast(pa.list_(pa.float32())))


def _schema(review: Review, schema: pa.Schema) -> pa.Schema:
    image = pa.binary() if review.root is None else pa.string()
    return pa.schema([("image", image), ("heatmap", pa.binary()), *schema])


def _drawn(review: Review, rows: pa.Table, colormap: str, alpha: float) -> dict[str, pa.Array]:
    """The columns image and heatmap."""
    images: list[bytes | str | None] = []
    heatmaps: list[bytes | None] = []
    for row in rows.to_pylist():
        picture = review.encode(row["index"], row["image_id"])
        heatmaps.append(_heatmap(review, row, picture, colormap, alpha))
        images.append(review.file(row["image_id"]) or picture)
    kind = pa.binary() if review.root is None else pa.string()
    return {"image": pa.array(images, kind), "heatmap": pa.array(heatmaps, pa.binary())}


def _heatmap(
    review: Review, row: Row, picture: bytes | None, colormap: str, alpha: float
) -> bytes | None:
    """The heatmap of a suspect as a WebP file."""
    if row["heatmap"] is None:
        return None
    if picture is None:
        return pictures.encode_webp(overlay.apply_colormap(review.heat(row, SIDE), colormap))
    whole = np.asarray(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR_RGB))
    whole = pictures.shrink(np.asarray(whole, np.uint8), SIDE)
    heat = review.heat(row, max(whole.shape))
    return pictures.encode_webp(overlay.overlay(whole, heat, alpha, colormap=colormap))
