"""Export the suspects as tasks of Label Studio, with a labelling configuration."""

from __future__ import annotations

import base64
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from pipeline.errors import ConfigError
from pipeline.report.exports.review import Review, absolute
from pipeline.storage.arrays import SEPARATOR
from pipeline.storage.atomic import drafted
from pipeline.storage.schema import Row

LOCAL_FILES = "/data/local-files/?d="
"""Address at which Label Studio serves files below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."""
GIVEN = "given label"
"""The model version of the predictions that hold the dataset's label."""
CHOICE, IMAGE = "class", "image"
MAX_BUTTONS = 12
"""Largest number of classes that are shown as buttons; more become a searchable list."""

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_label_studio(review: Review, path: Path, document_root: Path | None = None) -> None:
    """Write one task per suspect as a JSON list, and the labelling configuration as .xml beside it.

    Every task has two predictions: the model's class, with the run's name as model version, and
    the dataset's label, with the model version GIVEN. An image that is no file is embedded in its
    task if `review.encode` returns it; otherwise `image` is its id.

    Args:
        review: the suspects.
        path: the JSON file.
        document_root: the folder from which Label Studio serves local files, see `served_from`.

    Raises:
        ConfigError: an image is not below document_root, or the path ends in .xml.
        OSError: the disk is full, or the folder is read-only.
    """
    root, beside = served_from(review, document_root), path.with_suffix(".xml")
    if beside == path:
        raise ConfigError(f"{path} is the file of the labelling configuration; give a .json file")
    with drafted(path, durable=False) as draft, drafted(beside, durable=False) as configuration:
        with draft.open("w", encoding="utf-8") as file:
            file.write("[")
            for number, task in enumerate(_tasks(review, root)):
                text = json.dumps(task, ensure_ascii=False, allow_nan=False)
                file.write(f"{',' if number else ''}\n{text}")
            file.write("\n]\n")
        configuration.write_text(_configuration(review), encoding="utf-8")


def served_from(review: Review, document_root: Path | None = None) -> Path | None:
    """The folder to which URLs of images are relative; None if the images are no files.

    It is document_root if given, else the dataset's root, or the common folder of all files if a
    manifest lists files outside the root.
    """
    files = review.files()
    if review.root is None or files is None:
        return None
    if document_root is not None:
        return absolute(document_root)
    paths = [absolute(file) for file in files]
    if all(path.is_relative_to(review.root) for path in paths):
        return review.root
    return Path(os.path.commonpath([path.parent for path in paths]))


def _tasks(review: Review, root: Path | None) -> Iterator[Row]:
    for suspect in review.suspects.to_pylist():
        data = {name: _plain(value) for name, value in suspect.items() if name != "pred"}
        data |= {IMAGE: _image(review, suspect, root), "prediction": suspect["pred"]}
        predictions = [_prediction(review.run_id, suspect["pred"], data["confidence"])]
        if suspect["label"] is not None:
            predictions.append(_prediction(GIVEN, suspect["label"], None))
        yield {"data": data, "predictions": predictions}


def _image(review: Review, suspect: Row, root: Path | None) -> str:
    """The address from which Label Studio loads the image of a suspect."""
    image_id = str(suspect["image_id"])
    file = review.file(image_id)
    if file is None or root is None:
        picture = review.encode(suspect["index"], image_id)
        if picture is None:
            return image_id
        return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"
    path = absolute(file)
    if not path.is_relative_to(root):
        raise ConfigError(f"--document-root: {path} is not below {root}")
    return LOCAL_FILES + quote(path.relative_to(root).as_posix())


def _prediction(version: str, name: str, score: float | None) -> Row:
    choice = {"from_name": CHOICE, "to_name": IMAGE, "type": "choices"}
    result = [choice | {"value": {"choices": [_xml_text(name)]}}]
    scored = {} if score is None else {"score": score}
    return {"model_version": version, "result": result, **scored}


def _plain(value: Any) -> Any:
    """Convert a value for JSON: a list becomes one text, NaN null, an unknown type text."""
    if isinstance(value, list):
        return SEPARATOR.join(map(str, value))
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _configuration(review: Review) -> str:
    """The labelling configuration: reasons, image, and a choice of all classes."""
    given = review.suspects["label"].drop_null().unique().to_pylist()
    names = list(dict.fromkeys(map(_xml_text, [*review.setup.class_names, *given])))
    view = ET.Element("View")
    header = "$kind: $label, predicted as $prediction" if given else "$kind: $prediction"
    ET.SubElement(view, "Header", value=header, size="4")
    ET.SubElement(view, "Text", name="why", value="$reasons")
    ET.SubElement(view, "Image", name=IMAGE, value=f"${IMAGE}", zoom="true")
    layout = "select" if len(names) > MAX_BUTTONS else "inline"
    named = {"name": CHOICE, "toName": IMAGE, "choice": "single", "layout": layout}
    choices = ET.SubElement(view, "Choices", named, required="true")
    for name in names:
        ET.SubElement(choices, "Choice", value=name)
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def _xml_text(text: str) -> str:
    """Text without the control characters that XML cannot hold."""
    return _NO_XML.sub("\ufffd", text)
