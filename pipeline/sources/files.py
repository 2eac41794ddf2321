"""Image files: a folder per class, or a manifest that names them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import ImageFolder, Manifest
from pipeline.decode import DecodeError, decode, read_file
from pipeline.errors import ConfigError, DataError
from pipeline.sources.source import Picture, Source, check_column, column_labels, distinct

SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".webp",
        ".gif",
        ".jp2",
        ".avif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    ]
)


def image_folder(config: ImageFolder, max_pixels: int) -> Source:
    """Every image file below a folder; the first folder level is its label."""
    root = _folder("dataset.root", config.root)
    names, ignored = [], Counter[str]()
    for path in _walk(root):
        if Path(path).suffix.lower() in SUFFIXES:
            names.append(path)
        else:
            ignored[Path(path).suffix.lower() or "without suffix"] += 1
    names.sort()
    labels = [_printable(Path(name).parts[0]) if os.sep in name else None for name in names]
    return Source(
        image_ids=[_printable(Path(name).as_posix()) for name in names],
        labels=labels,
        read=partial(_read, [str(root / name) for name in names], max_pixels),
        class_names=distinct(labels),
        ignored=dict(ignored.most_common()),
    )


def manifest(config: Manifest, max_pixels: int) -> Source:
    """The images that a table names; columns without a role travel along."""
    table = _manifest_table(config)
    root = _folder("dataset.root", config.root or str(Path(config.path).parent))
    names = table[config.path_column].to_pylist()
    for row, name in enumerate(names):
        if not name:
            raise DataError(f"{config.path}: row {row + 1} has no {config.path_column}")
    labels = column_labels(table, config.label_column)
    roles = {config.path_column, config.label_column, config.mask_column}
    roles.update(config.box_columns or [])
    others = [column for column in table.column_names if column not in roles]
    boxes = [table[name].cast(pa.float64()).to_pylist() for name in config.box_columns or []]
    masks = table[config.mask_column].to_pylist() if config.mask_column else None
    return Source(
        image_ids=names,
        labels=labels,
        read=partial(
            _read,
            [str(root / name) for name in names],
            max_pixels,
            boxes=list(zip(*boxes, strict=True)) if boxes else None,
            masks=masks and [name and str(root / name) for name in masks],
        ),
        class_names=distinct(labels),
        metadata=table.select(others) if others else None,
    )


def box_mask(shape: tuple[int, ...], box: tuple[float, ...]) -> NDArray[np.uint8]:
    """(H, W) mask, 255 inside the box (x0, y0, x1, y1) in pixels, which may reach outside."""
    mask = np.zeros(shape[:2], np.uint8)
    x0, y0, x1, y1 = (max(0, round(side)) for side in box)
    mask[y0:y1, x0:x1] = 255
    return mask


def _read(
    files: list[str],
    max_pixels: int,
    index: int,
    *,
    boxes: list[tuple[float | None, ...]] | None = None,
    masks: list[str | None] | None = None,
) -> Picture:
    pixels = decode(read_file(Path(files[index])), max_pixels)
    mask = masks[index] if masks else None
    if mask:
        return Picture(pixels, _read_mask(mask, pixels.shape[:2], max_pixels))
    box = [side for side in boxes[index] if side is not None] if boxes else []
    return Picture(pixels, box_mask(pixels.shape, tuple(box)) if len(box) == 4 else None)


def _read_mask(path: str, shape: tuple[int, ...], max_pixels: int) -> NDArray[np.uint8]:
    mask = decode(read_file(Path(path)), max_pixels).max(axis=2)
    if mask.shape != shape:
        raise DecodeError(f"its mask has shape {mask.shape}, the image {shape}")
    return np.asarray(mask > 0, np.uint8) * np.uint8(255)


def _walk(root: Path) -> Iterator[str]:
    """Paths of all files below root, relative to it; links are followed, hidden files are not."""
    visited = set()
    for folder, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        here = os.path.realpath(folder)
        if here in visited:  # a link that leads back up
            folders.clear()
            continue
        visited.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith("."):
                yield os.path.relpath(Path(folder) / name, root)


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be listed: {error.strerror}")


def _folder(key: str, path: str) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise ConfigError(f"{key}: {path} is not a folder")
    return folder


def _manifest_table(config: Manifest) -> pa.Table:
    path = Path(config.path)
    if not path.is_file():
        raise ConfigError(f"dataset.path: there is no file {path}")
    if config.box_columns and len(config.box_columns) != 4:
        raise ConfigError("dataset.box_columns: needs the four columns x0, y0, x1, y1")
    text = [config.path_column, config.label_column, config.mask_column]
    # Ids and labels stay as written: "007" is no number.
    types = {column: pa.string() for column in text if column}
    try:
        table = (
            pq.read_table(path)
            if path.suffix.lower() in (".parquet", ".pq")
            else pa.csv.read_csv(path, convert_options=pa.csv.ConvertOptions(column_types=types))
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"dataset.path: {path} cannot be read: {error}") from error
    for key in ("path_column", "label_column", "mask_column"):
        check_column(f"dataset.{key}", getattr(config, key), table.column_names, config.path)
    for column in config.box_columns or []:
        check_column("dataset.box_columns", column, table.column_names, config.path)
    return table


def _printable(name: str) -> str:
    """A file name as valid text: bytes that are no UTF-8 are written as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
