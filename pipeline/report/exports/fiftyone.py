"""Export the suspects as a dataset of FiftyOne, which is imported on use."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, as_config_error
from pipeline.report.exports.review import Review
from pipeline.storage.schema import Row

SIDE = 64
"""Longer side of a heatmap in cells; FiftyOne interpolates it, and stores all heatmaps."""
BATCH = 256
"""Number of rows that are Python lists at a time."""


def write_fiftyone(
    review: Review, path: Path | None = None, name: str | None = None, *, overwrite: bool = False
) -> None:
    """Import the suspects into a persistent dataset of FiftyOne's database.

    A sample has filepath, ground_truth, prediction with confidence, the heatmap of the prediction,
    embedding, and the columns of the suspects; its tag is the kind. An earlier dataset of the same
    name stays until the new one is complete.

    Args:
        review: the suspects.
        path: the folder for pictures if the dataset has no image files.
        name: name of the dataset; camaudit-<run_id> by default.
        overwrite: replace an earlier dataset of the same name.

    Raises:
        ConfigError: FiftyOne or its database is missing, the name is taken or invalid, or the
            dataset has no image files and no path is given.
        DataError: as `Review.explained`.
    """
    if review.root is None and path is None:
        raise ConfigError(
            "FiftyOne shows image files, and this dataset has none; give a folder for pictures "
            "(--to)"
        )
    fo, name = _fiftyone(), name or f"camaudit-{review.run_id}"
    with as_config_error("FiftyOne"):  # its database may not start
        earlier = fo.dataset_exists(name)
    if earlier and not overwrite:
        raise ConfigError(f"FiftyOne has a dataset {name!r}; give another --name, or --overwrite")
    with as_config_error("FiftyOne, --name"):
        dataset = fo.Dataset(None if earlier else name)
    try:
        dataset.add_samples(_samples(fo, review, path), progress=False)
        if earlier:
            fo.delete_dataset(name)
            dataset.name = name
        dataset.persistent = True
    except BaseException:
        dataset.delete()
        raise


def _fiftyone() -> Any:
    if find_spec("fiftyone") is None:
        raise ConfigError("FiftyOne is not installed: pip install 'camaudit[fiftyone]'")
    with as_config_error("FiftyOne"):
        import fiftyone  # noqa: PLC0415 - it takes seconds
    return fiftyone


def _samples(fo: Any, review: Review, path: Path | None) -> Iterator[Any]:
    columns = ["heatmap", "embedding", "image_height", "image_width"]
    batches = review.explained(columns).to_batches(max_chunksize=BATCH)
    rows = (row for batch in batches for row in batch.to_pylist())
    for suspect, row in zip(review.suspects.to_pylist(), rows, strict=True):
        label = suspect.pop("label")
        prediction = fo.Classification(
            label=suspect.pop("pred"), confidence=suspect.pop("confidence")
        )
        sample = fo.Sample(
            filepath=_file(review, suspect, path),
            tags=[suspect["kind"]],
            ground_truth=None if label is None else fo.Classification(label=label),
            prediction=prediction,
            **suspect,
        )
        if row["heatmap"] is not None:
            sample["heatmap"] = fo.Heatmap(map=review.heat(row, SIDE))
        if row["embedding"] is not None:
            sample["embedding"] = np.array(row["embedding"], np.float32)
        yield sample


def _file(review: Review, suspect: Row, path: Path | None) -> str:
    """The image file of a suspect; an image that is no file is written into the folder `path`."""
    file = review.file(suspect["image_id"])
    if file is not None:
        return file
    assert path is not None
    written = path.absolute() / f"{suspect['index']:08d}.webp"
    picture = review.encode(suspect["index"], suspect["image_id"])
    if picture is not None:
        path.mkdir(parents=True, exist_ok=True)
        written.write_bytes(picture)
    return str(written)
