"""The suspects as tasks of Label Studio, with the configuration to label them by."""

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
from pipeline.report.exports.review import SEPARATOR, Review, absolute
from pipeline.storage.atomic import drafted
from pipeline.storage.schema import Row

LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves files below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."""
GIVEN = "given label"
"""The model version of predictions that hold the label the dataset gives."""
CHOICE, IMAGE = "class", "image"
MANY = 12
"""Classes that are shown as buttons; more become a list to search in."""

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_label_studio(review: Review, path: Path, document_root: Path | None = None) -> None:
    """Write one task per suspect as a JSON list, and the labelling configuration beside it as .xml.

    Every task holds the model's class as a prediction of the run's name, and the given label as
    one of GIVEN. Images that are no files are written into the tasks where `review.picture` gives
    them; else `image` is their id.

    Args:
        document_root: the folder that Label Studio serves local files from, see `served_from`.

    Raises:
        ConfigError: an image that is not below document_root, or a path that ends in .xml itself.
        OSError: disk full, folder read-only.
    """
    root, beside = served_from(review, document_root), path.with_suffix(".xml")
    if beside == path:
        raise ConfigError(f"{path} is where the labelling configuration goes; give a .json file")
    with drafted(path, durable=False) as draft, drafted(beside, durable=False) as configuration:
        with draft.open("w", encoding="utf-8") as file:
            file.write("[")
            for number, task in enumerate(_tasks(review, root)):
                text = json.dumps(task, ensure_ascii=False, allow_nan=False)
                file.write(f"{',' if number else ''}\n{text}")
            file.write("\n]\n")
        configuration.write_text(_configuration(review), encoding="utf-8")


def served_from(review: Review, document_root: Path | None = None) -> Path | None:
    """The folder that URLs of images are relative to; None where images are no files.

    It is document_root where given; else the dataset's root, or, if a manifest names files that are
    elsewhere, the folder that holds them all.
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
    """What Label Studio loads as the image of a suspect."""
    image_id = str(suspect["image_id"])
    file = review.file(image_id)
    if file is None or root is None:
        picture = review.picture(suspect["index"], image_id)
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
    """A value as JSON holds it: lists as one text, NaN as null, what it does not know as text."""
    if isinstance(value, list):
        return SEPARATOR.join(map(str, value))
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _configuration(review: Review) -> str:
    """The labelling configuration: reasons, image, and every class to choose from."""
    given = review.suspects["label"].drop_null().unique().to_pylist()
    names = list(dict.fromkeys(map(_xml_text, [*review.setup.class_names, *given])))
    view = ET.Element("View")
    header = "$kind: $label, predicted as $prediction" if given else "$kind: $prediction"
    ET.SubElement(view, "Header", value=header, size="4")
    ET.SubElement(view, "Text", name="why", value="$reasons")
    ET.SubElement(view, "Image", name=IMAGE, value=f"${IMAGE}", zoom="true")
    layout = "select" if len(names) > MANY else "inline"
    named = {"name": CHOICE, "toName": IMAGE, "choice": "single", "layout": layout}
    choices = ET.SubElement(view, "Choices", named, required="true")
    for name in names:
        ET.SubElement(choices, "Choice", value=name)
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def _xml_text(text: str) -> str:
    """Text without the control characters that XML cannot hold."""
    return _NO_XML.sub("\ufffd", text)
