"""What Renumics Spotlight makes of an export, as JSON. Usage: read_spotlight.py FILE..."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from renumics.spotlight.data_source.registry import create_datasource
from renumics.spotlight.data_store import DataStore
from renumics.spotlight.plugin_loader import load_plugins


def read(path: Path) -> dict[str, Any]:
    """Spotlight's name for the type of every column, and its values as it would show them."""
    store = DataStore(create_datasource(path), {})
    return {
        name: {
            "type": dtype.name,
            "values": [plain(value, dtype) for value in store.get_converted_values(name)],
        }
        for name, dtype in store.dtypes.items()
    }


def plain(value: Any, dtype: Any) -> Any:
    """A value for JSON: the name of a category, (width, height) and mean colour of an image."""
    if dtype.name == "Category":
        return None if value == -1 else dtype.inverted_categories[value]
    if isinstance(value, bytes):
        pixels = np.asarray(Image.open(io.BytesIO(value)).convert("RGB"))
        return [pixels.shape[1], pixels.shape[0], pixels.mean(axis=(0, 1)).tolist()]
    return value.tolist() if isinstance(value, np.ndarray) else value


if __name__ == "__main__":
    load_plugins()  # which brings the readers of files
    print(json.dumps([read(Path(path)) for path in sys.argv[1:]]))
