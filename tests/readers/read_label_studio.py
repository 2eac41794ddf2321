"""What Label Studio's SDK says of an export, as JSON. Usage: read_label_studio.py TASKS..."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from label_studio_sdk.label_interface import LabelInterface


def read(path: Path) -> dict[str, Any]:
    """Choices of the configuration; for every task, whether it fits and what is wrong in it."""
    interface = LabelInterface(path.with_suffix(".xml").read_text(encoding="utf-8"))
    interface.validate()
    tasks = json.loads(path.read_text(encoding="utf-8"))
    return {
        "choices": interface.get_control("class").labels,
        # The data alone: predictions are what validate_prediction is for.
        "tasks": [interface.validate_task({"data": task["data"]}) for task in tasks],
        "wrong": [
            interface.validate_prediction(prediction, return_errors=True)
            for task in tasks
            for prediction in task["predictions"]
        ],
    }


if __name__ == "__main__":
    print(json.dumps([read(Path(path)) for path in sys.argv[1:]]))
