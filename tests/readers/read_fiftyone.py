"""Exports runs to FiftyOne and tells what is in its database, as JSON.

Usage: read_fiftyone.py BARE FOLDER ARGUMENTS..., each the arguments of one camaudit-export as a
JSON list. BARE is a run of images that are no files; pictures of them are written to FOLDER.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np

from pipeline.cli.export import main
from pipeline.report.exports import FORMATS, open_review
from pipeline.storage.run_folder import RunFolder


def export(arguments: list[str]) -> int:
    """Exit code of the command."""
    try:
        return main(arguments)
    except SystemExit as end:  # argparse exits by itself
        return int(end.code or 0)


def export_pictures(run: str, folder: str) -> None:
    """Export a run with a picture of all but its first image, as the dataset `pictures`."""
    review = open_review(RunFolder(Path(run)), lambda index, _id: b"%d" % index if index else None)
    FORMATS["fiftyone"].write(review, Path(folder), name="pictures")


def read(name: str) -> dict[str, Any]:
    """A dataset: whether it stays, and its samples."""
    dataset = fo.load_dataset(name)
    return {"persistent": dataset.persistent, "samples": [sample(one) for one in dataset]}


def sample(one: Any) -> dict[str, Any]:
    """The fields of a sample: of labels the name and confidence, of a heatmap the map."""
    fields = {name: one[name] for name in one.field_names if not name.endswith("_at")}
    return {name: plain(value) for name, value in fields.items()}


def plain(value: Any) -> Any:
    """A value for JSON."""
    if isinstance(value, fo.Classification):
        return [value.label, value.confidence]
    if isinstance(value, fo.Heatmap):
        return value.map.tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    codes = [export(json.loads(arguments)) for arguments in sys.argv[3:]]
    export_pictures(*sys.argv[1:3])
    torch = "torch" in sys.modules
    names = {name: read(name) for name in fo.list_datasets()}
    print(json.dumps({"codes": codes, "datasets": names, "torch": torch}))
