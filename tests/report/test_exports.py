"""Exports: nothing is lost on the way, and the tools that they are written for read them."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

import cv2
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers.setups import resolved
from helpers.small_run import GRID, NASTY, SIZE, flat, make_run
from pipeline.cli import export
from pipeline.data import pictures
from pipeline.errors import ConfigError, DataError
from pipeline.model.preprocess import Preprocess
from pipeline.report import overlay
from pipeline.report.exports import FORMATS, Review, open_review
from pipeline.report.exports.label_studio import served_from
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import Plan, RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.scan import Rows
from pipeline.storage.schema import FOCUS, SUSPECTS, part_schema

ROOT = Path(__file__).parents[2]
NAMES = [*NASTY, 'a, b; "c"\r\nd\te', "=1+1", "  space  ", "bell \x07, $reasons"]
DIM = 6
RED = flat((255, 0, 0), *SIZE)

Reader = Callable[..., Any]


@pytest.fixture(scope="session")
def reader() -> Reader:
    """Runs a script of tests/readers, where the real tools are, and returns what it tells."""
    python = ROOT / ".venv" / "readers" / "bin" / "python"
    assert python.exists(), "the tools are not here: scripts/readers installs them"

    def read(script: str, home: Path, *arguments: str | Path) -> Any:
        own = {"HOME": str(home), "PYTHONPATH": str(ROOT), "FIFTYONE_DO_NOT_TRACK": "true"}
        command = [python, ROOT / "tests/readers" / script, *arguments]
        ended = subprocess.run(
            command, env=os.environ | own, cwd=home, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout.splitlines()[-1])

    return read


def make_reviewable(folder: Path, **options: Any) -> RunFolder:
    """A run of hostile names whose rows hold all that exports take, and whose suspects were judged.

    Heat is in cell `index % 6` of the grid of 2 x 3; the map of the first suspect is dead.
    """
    run = RunFolder(make_run(folder, **{"names": NAMES} | options).folder)
    plan = run_folder.read_plan(run)
    setup = replace(plan.setup, embedding_dim=DIM)
    run_folder.write_plan(run, Plan(plan.table, setup))
    for shard in range(setup.n_shards):
        rows = parquet.read(run.part(shard)).to_pylist()
        for row in (row for row in rows if row["status"] == "ok"):
            row |= {"image_height": SIZE[0], "image_width": SIZE[1], "focus_border": 0.25}
            row["embedding"] = embedding(row["index"])
            for name in ("heatmap", "heatmap_label"):
                heat = None if row[name] is None or row["index"] == 0 else row[name]
                row[name] = None if heat is None else np.array(heat, np.float16)
        table = pa.Table.from_pylist(rows, part_schema(GRID, DIM))
        run_folder.commit_part(run, setup, shard, table)
    suspects = parquet.read(run.analysis("suspects"))
    notes = [None, 'a "note",\nin two lines', *[None] * 7][: suspects.num_rows]
    decisions = [None, "fix_label", *[None] * 7][: suspects.num_rows]
    reviewed = suspects.drop_columns(["decision", "note"])
    reviewed = reviewed.append_column("decision", pa.array(decisions, pa.string()))
    parquet.write(reviewed.append_column("note", pa.array(notes, pa.string())), suspects_of(run))
    return run


def suspects_of(run: RunFolder) -> Path:
    """The file of the suspects."""
    return run.analysis("suspects")


def embedding(index: int) -> Any:
    """DIM numbers that tell the image."""
    return (index + np.arange(DIM) / 8).astype(np.float16)


def without_files(review: Review) -> Review:
    """The same run of a dataset whose images are no files."""
    return replace(review, setup=custom(review.setup))


def custom(setup: Setup) -> Setup:
    """The setup of a run of a torch Dataset."""
    settings = setup.settings | {"dataset.kind": "custom", "dataset.factory": "data.py:build"}
    return replace(setup, settings=settings)


def written(name: str, review: Review, folder: Path, **options: Any) -> Path:
    """The file of an export under its usual name."""
    path = folder / str(FORMATS[name].file)
    FORMATS[name].write(review, path, **options)
    return path


def decoded(picture: bytes) -> pictures.Rgb:
    """(H, W, 3) RGB of an image file."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of a manifest, its images in tmp_path/data."""
    return make_reviewable(tmp_path)


@pytest.fixture
def review(run: RunFolder) -> Review:
    """Its suspects."""
    return open_review(run)


# What all exports are made of


def test_rows_come_in_the_order_of_the_suspects(review: Review) -> None:
    mixed = replace(review, suspects=review.suspects.take(pa.array([6, 0, 3])))
    rows = mixed.explained(["index", "embedding"])
    wanted = mixed.suspects["index"].to_pylist()
    assert wanted != sorted(wanted)
    assert rows["index"].to_pylist() == wanted
    assert rows["embedding"].to_pylist() == [embedding(index).tolist() for index in wanted]


def test_only_the_parts_of_suspects_are_read(run: RunFolder, review: Review) -> None:
    first = replace(review, suspects=review.suspects.slice(0, 2))
    run.part(1).write_bytes(b"damaged")
    assert first.explained(["index"])["index"].to_pylist() == [0, 1]
    with pytest.raises(DataError, match="part-00001"):
        review.explained(["index"])


@pytest.mark.parametrize(
    ("column", "value"), [("image_id", "other.png"), ("index", 77), ("index", 10)]
)
def test_suspects_of_other_parts_are_refused(review: Review, column: str, value: Any) -> None:
    rows = review.suspects.to_pylist()
    rows[0][column] = value
    stale = replace(review, suspects=pa.Table.from_pylist(rows, review.suspects.schema))
    with pytest.raises(DataError, match="run the stage rank again"):
        stale.explained(["heatmap"])


@pytest.mark.parametrize(
    ("settings", "file"),
    [
        ({"kind": "image_folder", "root": "/data/../photos"}, "/photos/a/b.png"),
        ({"kind": "image_folder", "root": "photos"}, "{here}/photos/a/b.png"),
        ({"kind": "manifest", "root": None, "path": "lists/x.csv"}, "{here}/lists/a/b.png"),
        ({"kind": "manifest", "root": "/photos", "path": "lists/x.csv"}, "/photos/a/b.png"),
        ({"kind": "torchvision", "root": "/photos"}, None),
        ({"kind": "huggingface", "path": "/photos"}, None),
    ],
)
def test_the_file_of_an_image_is_told_by_the_settings(
    review: Review, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, file: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    dotted = {f"dataset.{key}": value for key, value in settings.items()}
    told = replace(review, setup=replace(review.setup, settings=dotted))
    assert told.file("a/b.png") == (file and file.format(here=tmp_path))


def test_a_file_whose_name_is_no_utf8_stands_there_escaped(review: Review, tmp_path: Path) -> None:
    settings = {"dataset.kind": "image_folder", "dataset.root": os.fsdecode(b"/photos \xff")}
    told = replace(review, setup=replace(review.setup, settings=settings))
    assert told.file("a.png") == r"/photos \udcff/a.png"
    assert pd.read_csv(written("csv", told, tmp_path))["file"][0].startswith(r"/photos \udcff/0")


@pytest.mark.parametrize("name", ["csv", "label-studio", "spotlight"])
def test_a_run_without_suspects_gives_an_empty_export(name: str, tmp_path: Path) -> None:
    path = written(name, open_review(make_reviewable(tmp_path, found=False)), tmp_path)
    if name == "label-studio":
        assert json.loads(path.read_text()) == []
    else:
        table = pd.read_csv(path) if name == "csv" else pd.read_parquet(path)
        assert len(table) == 0
        assert {"image_id", "reasons", "note"} <= set(table.columns)


def test_an_export_that_fails_leaves_the_earlier_one(review: Review, tmp_path: Path) -> None:
    path = written("spotlight", review, tmp_path)
    before = path.read_bytes()

    def broken(_index: int, _image_id: str) -> bytes:
        raise MemoryError

    with pytest.raises(MemoryError):
        written("spotlight", replace(review, encode=broken), tmp_path)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))


def test_exports_need_no_torch_and_no_hydra() -> None:
    heavy = "('torch', 'hydra', 'omegaconf', 'fiftyone', 'pipeline.run', 'pipeline.config')"
    code = f"import sys, pipeline.report.exports; print([n for n in {heavy} if n in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert told.stdout.decode().strip() == "[]"


# The frame of a picture


def framed(
    heatmap: Any, size: tuple[int | None, int | None], preprocess: dict[str, Any], side: int
) -> Any:
    """A heatmap in the frame of its whole picture."""
    setup = Setup("", {}, resolved(1), [], heatmap.shape, 0, preprocess, 0, 1)
    review = Review("", setup, SUSPECTS.empty_table(), Rows([], 1))
    row = {"heatmap": heatmap.ravel(), "image_height": size[0], "image_width": size[1]}
    return review.heat(row, side)


@pytest.mark.parametrize(
    ("size", "resize", "crop"),
    [
        ((60, 60), 64, (64, 64)),
        ((100, 300), 64, (56, 56)),
        ((300, 100), 64, (56, 56)),
        ((90, 120), [64, 64], (64, 64)),
        ((90, 120), [80, 72], (64, 64)),
        ((60, 60), 64, (64, 96)),  # wider than the picture: its sides are black
    ],
)
def test_heat_lies_where_the_model_saw_what_drew_it(
    size: tuple[int, int], resize: Any, crop: tuple[int, int]
) -> None:
    """A bright spot goes through the real preprocessing; the map of it leads back to its place."""
    sides = tuple(resize) if isinstance(resize, list) else resize
    model = Preprocess(sides, crop)
    for y, x in [(0.5, 0.5), (0.4, 0.55), (0.6, 0.42)]:
        picture = np.zeros((*size, 3), np.uint8)
        centre = (round(x * size[1]), round(y * size[0]))
        cv2.circle(picture, centre, max(size) // 12, (255, 255, 255), -1)
        seen = model.fit(picture)[0].numpy().astype(np.float32) / 255
        heatmap = cv2.resize(seen, (crop[1] // 4, crop[0] // 4), interpolation=cv2.INTER_AREA)
        heat = framed(np.asarray(heatmap), size, {"resize": resize, "crop": list(crop)}, 120)
        assert max(heat.shape) == 120
        assert heat.shape[0] / heat.shape[1] == pytest.approx(size[0] / size[1], rel=0.02)
        rows, columns = np.indices(heat.shape)
        assert np.average(rows + 0.5, weights=heat) / heat.shape[0] == pytest.approx(y, abs=0.02)
        assert np.average(columns + 0.5, weights=heat) / heat.shape[1] == pytest.approx(x, abs=0.02)


def test_what_the_model_did_not_see_has_no_heat() -> None:
    heat = framed(np.ones((7, 7)), (100, 400), {"resize": 256, "crop": [224, 224]}, 400)
    seen = np.zeros((100, 400), bool)
    seen[6:94, 156:244] = True  # 224 of 256 pixels of the height, and as many in the middle
    edge = cv2.dilate(seen.astype(np.uint8), np.ones((3, 3))) != cv2.erode(
        seen.astype(np.uint8), np.ones((3, 3))
    )
    np.testing.assert_array_equal(heat[~edge], seen[~edge].astype(np.float32))


def test_the_frame_is_the_models_where_the_size_is_not_known() -> None:
    heat = framed(np.eye(2), (None, None), {"resize": 256, "crop": [224, 112]}, 8)
    assert heat.shape == (8, 4)
    assert heat[:2, 0].min() == heat[6:, 3].min() == 1
    assert heat[:2, 3].max() == heat[6:, 0].max() == 0


# CSV


def test_csv_reads_back_unchanged(review: Review, tmp_path: Path) -> None:
    path = written("csv", review, tmp_path)
    wanted = review.suspects.to_pylist()
    for suspect in wanted:
        suspect["reasons"] = "; ".join(suspect["reasons"])
        suspect["file"] = str(tmp_path / "data" / suspect["image_id"])
        assert Path(suspect["file"]).is_file()
    frame = pd.read_csv(path).astype(object)
    of_pandas = frame.where(frame.notna(), None).to_dict("records")
    found = duckdb.sql(f"select * from read_csv('{path}', header=true, new_line='\\n')")
    of_duckdb = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    assert len(wanted) == 7
    for rows in (of_pandas, of_duckdb):
        for row in rows:
            for name in ("confidence", "score"):
                row[name] = float(np.float32(row[name]))
        assert rows == wanted


def test_csv_has_no_file_where_images_are_none(review: Review, tmp_path: Path) -> None:
    path = written("csv", without_files(review), tmp_path)
    assert list(pd.read_csv(path).columns) == review.suspects.column_names


# Label Studio


def test_tasks_hold_all_that_is_known_of_a_suspect(review: Review, tmp_path: Path) -> None:
    tasks = json.loads(written("label-studio", review, tmp_path).read_text(encoding="utf-8"))
    for task, suspect in zip(tasks, review.suspects.to_pylist(), strict=True):
        data = {key: value for key, value in task["data"].items() if key != "image"}
        suspect["prediction"] = suspect.pop("pred")
        suspect["reasons"] = "; ".join(suspect["reasons"])
        assert data == suspect
        given, score = task["predictions"][1], task["predictions"][0]["score"]
        assert [p["model_version"] for p in task["predictions"]] == ["audit", "given label"]
        assert score == suspect["confidence"]
        assert given["result"][0]["value"]["choices"] == [
            suspect["label"].replace("\x07", "\ufffd")
        ]


@pytest.mark.parametrize("root", [None, ".", "data"])
def test_urls_lead_to_the_files(review: Review, tmp_path: Path, root: str | None) -> None:
    document_root = None if root is None else tmp_path / root
    path = written("label-studio", review, tmp_path, document_root=document_root)
    served = served_from(review, document_root)
    assert served == (document_root or tmp_path / "data")
    for task, suspect in zip(
        json.loads(path.read_text()), review.suspects.to_pylist(), strict=True
    ):
        url = urlsplit(task["data"]["image"])
        assert (url.scheme, url.netloc, url.path) == ("", "", "/data/local-files/")
        (inside,) = parse_qs(url.query, strict_parsing=True)["d"]
        assert (served / inside).is_file()
        assert (served / inside).name == suspect["image_id"]


def test_files_outside_the_document_root_are_refused(review: Review, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--document-root: .*0 .*\.png is not below .*/else"):
        written("label-studio", review, tmp_path, document_root=tmp_path / "else")
    assert not list(tmp_path.glob("label-studio*"))


def test_tasks_do_not_lie_where_their_configuration_goes(review: Review, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give a .json file"):
        FORMATS["label-studio"].write(review, tmp_path / "tasks.xml")


def test_files_in_many_places_are_served_from_what_holds_them(review: Review) -> None:
    ids = ["/mnt/a/x.png", "/mnt/b/y.png", "/mnt/b/../c/z.png"]
    suspects = review.suspects.slice(0, 3).set_column(2, "image_id", pa.array(ids))
    assert served_from(replace(review, suspects=suspects)) == Path("/mnt")


def test_a_picture_that_is_no_file_is_in_its_task(review: Review, tmp_path: Path) -> None:
    picture = pictures.encode_webp(RED)
    some = replace(without_files(review), encode=lambda index, _id: picture if index else None)
    first, second = json.loads(written("label-studio", some, tmp_path).read_text())[:2]
    assert first["data"]["image"] == first["data"]["image_id"]
    start, data = second["data"]["image"].split(",")
    assert start == "data:image/webp;base64"
    assert base64.b64decode(data) == picture


def test_many_classes_become_a_list_to_search_in(review: Review, tmp_path: Path) -> None:
    names = [f"{number} {name}" for number in range(5) for name in NAMES]
    many = replace(review, setup=replace(review.setup, class_names=names))
    for some, layout in ((review, "inline"), (many, "select")):
        path = written("label-studio", some, tmp_path).with_suffix(".xml")
        (choices,) = ET.parse(path).getroot().iter("Choices")
        assert choices.get("layout") == layout


@pytest.mark.readers
def test_label_studio_takes_tasks_and_configuration(
    review: Review, tmp_path: Path, reader: Reader
) -> None:
    unlabelled = open_review(make_reviewable(tmp_path / "u", labelled=False))
    numbers = ["1", "true", "None", "nan"]  # which an XML reader may take for what they are not
    strange = replace(unlabelled, setup=replace(review.setup, class_names=numbers))
    (tmp_path / "strange").mkdir()
    exports = [
        written("label-studio", review, tmp_path),
        written("label-studio", strange, tmp_path / "strange"),
        written("label-studio", without_files(unlabelled), tmp_path / "u"),
    ]
    usual, odd, few = reader("read_label_studio.py", tmp_path, *exports)
    names = [name.replace("\x07", "\ufffd") for name in NAMES]
    assert usual == {"choices": names, "tasks": [True] * 7, "wrong": [[]] * 14}
    assert few == {"choices": names, "tasks": [True] * 7, "wrong": [[]] * 7}
    assert odd["choices"] == numbers
    assert all(odd["wrong"])  # predictions that are no class: the others were looked at, too


# Spotlight


def test_spotlight_holds_the_rows_of_the_parts(review: Review, tmp_path: Path) -> None:
    mixed = replace(review, suspects=review.suspects.take(pa.array([6, 0, 3])))
    table = pq.read_table(written("spotlight", mixed, tmp_path))
    index = mixed.suspects["index"].to_pylist()
    assert table["index"].to_pylist() == index
    assert table["embedding"].to_pylist() == [embedding(i).tolist() for i in index]
    assert table.schema.field("embedding").type == pa.list_(pa.float32())
    assert set(FOCUS) <= set(table.column_names)
    assert table["focus_border"].to_pylist() == [0.25] * 3
    for name in mixed.suspects.column_names:
        if name not in ("pred", "reasons"):
            assert table[name].to_pylist() == mixed.suspects[name].to_pylist()
    assert table["prediction"].to_pylist() == mixed.suspects["pred"].to_pylist()
    assert table["image"].to_pylist() == mixed.files()


def test_spotlight_draws_heat_in_the_frame_of_the_file(review: Review, tmp_path: Path) -> None:
    """The model saw the middle 20 x 20 pixels of 40 x 60."""
    preprocess = review.setup.preprocess | {"crop": [20, 20]}
    cropped = replace(review, setup=replace(review.setup, preprocess=preprocess))
    rows = pq.read_table(written("spotlight", cropped, tmp_path)).to_pylist()
    assert rows[0]["heatmap"] is None
    cold, hot = overlay.apply_colormap(np.array([[0.0, 1.0]]), "viridis")[0].astype(int)
    for row in rows[1:]:
        picture = decoded(row["heatmap"])
        height, width = picture.shape[:2]
        assert (height, width) == (107, 160)
        y, x = divmod(row["index"] % 6, 3)  # of the hot cell, in a grid of 2 x 3
        down, right = 0.25 + 0.25 * (y + 0.5), 1 / 3 + (x + 0.5) / 9
        assert np.abs(picture[int(down * height), int(right * width)] - hot).max() < 60
        outside = np.concatenate([picture[:18].reshape(-1, 3), picture[:, :44].reshape(-1, 3)])
        assert np.abs(outside - cold).mean() < 4


def test_spotlight_lays_heat_over_what_the_model_saw(review: Review, tmp_path: Path) -> None:
    seen = replace(without_files(review), encode=lambda index, _id: pictures.encode_webp(RED))
    rows = pq.read_table(written("spotlight", seen, tmp_path, alpha=1.0)).to_pylist()
    assert rows[0]["heatmap"] is None
    for row in rows:
        assert np.abs(decoded(row["image"]).astype(int) - RED).max() < 12
    for row in rows[1:]:
        y, x = divmod(row["index"] % 6, 3)
        picture = decoded(row["heatmap"])
        assert picture.shape == RED.shape
        changed = np.abs(picture.astype(int) - RED).sum(axis=2)
        assert changed[10 + 20 * y, 10 + 20 * x] > 200  # the middle of the hot cell is yellow
        assert changed[10 + 20 * (1 - y), 10 + 20 * ((x + 2) % 3 if x != 1 else 0)] < 60


def test_spotlight_refuses_an_unknown_colour_map(review: Review, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'mauve' is none of"):
        written("spotlight", review, tmp_path, colormap="mauve")


@pytest.mark.readers
def test_spotlight_shows_images_categories_and_the_similarity_map(
    review: Review, tmp_path: Path, reader: Reader
) -> None:
    unlabelled = without_files(open_review(make_reviewable(tmp_path / "u", labelled=False)))
    seen = replace(unlabelled, encode=lambda _index, _id: pictures.encode_webp(RED))
    exports = written("spotlight", review, tmp_path), written("spotlight", seen, tmp_path / "u")
    files, none = reader("read_spotlight.py", tmp_path, *exports)
    for shown, suspects in ((files, review.suspects), (none, unlabelled.suspects)):
        types = {name: column["type"] for name, column in shown.items()}
        assert {types[name] for name in ("image", "heatmap")} == {"Image"}
        assert {types[name] for name in ("label", "prediction", "kind")} == {"Category"}
        assert types["embedding"] == "Embedding"
        assert types["finding_id"] == "Category"
        assert {types[name] for name in ("confidence", "score", "focus_border")} == {"float"}
        assert {types[name] for name in ("image_id", "reasons", "decision", "note")} == {"str"}
        assert types["rank"] == types["index"] == "int"
        values = {name: column["values"] for name, column in shown.items()}
        for name in ("rank", "index", "image_id", "label", "confidence", "score", "kind"):
            assert values[name] == suspects[name].to_pylist()
        for name in ("finding_id", "decision", "note"):
            assert values[name] == suspects[name].to_pylist()
        assert values["prediction"] == suspects["pred"].to_pylist()
        assert values["reasons"] == ["; ".join(some) for some in suspects["reasons"].to_pylist()]
        index = suspects["index"].to_pylist()
        assert values["embedding"] == [embedding(i).tolist() for i in index]
        assert [image[:2] for image in values["image"]] == [[SIZE[1], SIZE[0]]] * 7
        assert [image is None for image in values["heatmap"]] == [i == 0 for i in index]
    blue = files["image"]["values"][0][2]  # red on the left, blue on the right
    assert blue == pytest.approx([127.5, 0, 127.5])
    assert none["image"]["values"][0][2] == pytest.approx([255, 0, 0], abs=6)


# FiftyOne


def test_without_fiftyone_the_way_to_it_is_told(
    review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(ConfigError, match=r"pip install 'camaudit\[fiftyone\]'"):
        FORMATS["fiftyone"].write(review)


def test_fiftyone_needs_files_or_a_place_for_them(review: Review) -> None:
    with pytest.raises(ConfigError, match=r"this dataset has none; .*\(--to\)"):
        FORMATS["fiftyone"].write(without_files(review))


@pytest.mark.readers
def test_fiftyone_keeps_the_suspects_in_its_database(
    run: RunFolder, review: Review, tmp_path: Path, reader: Reader
) -> None:
    fewer = make_reviewable(tmp_path / "u", labelled=False, failed=tuple(range(3, 9)))
    commands = [
        [str(run.path), "fiftyone"],
        [str(fewer.path), "fiftyone"],  # a run of the same name
        [str(fewer.path), "fiftyone", "--name", "other"],
        [str(run.path), "fiftyone", "--name", "other", "--overwrite"],
        [str(fewer.path), "fiftyone", "--name", "few"],
        [str(fewer.path), "fiftyone", "--name", "?"],
    ]
    bare, folder = make_reviewable(tmp_path / "b"), tmp_path / "pictures"
    plan = run_folder.read_plan(bare)
    run_folder.write_plan(bare, Plan(plan.table, custom(plan.setup)))
    arguments = [bare.path, folder, *map(json.dumps, commands)]
    told = reader("read_fiftyone.py", tmp_path, *arguments)
    assert told["codes"] == [0, 1, 0, 0, 0, 1]
    assert not told["torch"]
    datasets = told["datasets"]
    assert sorted(datasets) == ["camaudit-audit", "few", "other", "pictures"]  # and no drafts
    assert all(dataset["persistent"] for dataset in datasets.values())
    assert len(datasets["few"]["samples"]) == 3
    assert not any("ground_truth" in sample for sample in datasets["few"]["samples"])
    for name in ("camaudit-audit", "other"):
        samples = datasets[name]["samples"]
        for sample, suspect in zip(samples, review.suspects.to_pylist(), strict=True):
            check_sample(sample, suspect, tmp_path / "data")
    for sample in datasets["pictures"]["samples"]:
        index, path = sample["index"], Path(sample["filepath"])
        assert path == folder / f"{index:08d}.webp"
        assert path.exists() == bool(index)
        if index:
            assert path.read_bytes() == b"%d" % index
            heat = np.array(sample["heatmap"])  # in the frame of the whole picture
            assert heat.shape[0] / heat.shape[1] == pytest.approx(SIZE[0] / SIZE[1], abs=0.02)
            y, x = divmod(index % 6, GRID[1])
            middle = (y + 0.5) / GRID[0] * heat.shape[0], (x + 0.5) / GRID[1] * heat.shape[1]
            assert heat[int(middle[0]), int(middle[1])] > 0.9


def check_sample(sample: dict[str, Any], suspect: dict[str, Any], data: Path) -> None:
    """A sample of FiftyOne tells all of its suspect."""
    index = suspect["index"]
    assert sample["filepath"] == str(data / suspect["image_id"])
    assert sample["ground_truth"] == [suspect.pop("label"), None]
    assert sample["prediction"] == [suspect.pop("pred"), suspect.pop("confidence")]
    assert sample["tags"] == [suspect["kind"]]
    assert sample["embedding"] == embedding(index).tolist()
    assert {name: sample[name] for name in suspect} == suspect
    if index == 0:
        assert sample["heatmap"] is None
        return
    heatmap = np.array(sample["heatmap"])
    y, x = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    assert heatmap.shape == (43, 64)  # as wide and high as the picture
    assert divmod(index % 6, 3) == (2 * y // 43, 3 * x // 64)
    assert 0.9 < heatmap.max() <= 1
    assert heatmap.min() == 0


# The command


def outcome(*arguments: str | Path) -> int:
    """Exit code of the command."""
    try:
        return export.main([str(argument) for argument in arguments])
    except SystemExit as ended:  # argparse exits by itself
        return int(ended.code or 0)


@pytest.mark.parametrize("name", ["csv", "label-studio", "spotlight"])
def test_the_command_writes_into_the_run(
    name: str, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(run.path, name) == 0
    path = run.path / "exports" / str(FORMATS[name].file)
    assert path.is_file()
    assert f"7 suspects written to {path}" in capsys.readouterr().out


def test_the_command_writes_where_it_is_told(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "tasks.json"
    assert outcome(run.path, "label-studio", "--to", path, "--document-root", tmp_path) == 0
    assert len(json.loads(path.read_text())) == 7
    assert path.with_suffix(".xml").is_file()
    assert capsys.readouterr().out.endswith(f"has to serve local files from {tmp_path}\n")


def test_the_command_gives_whole_pictures(run: RunFolder, tmp_path: Path) -> None:
    setup = run_folder.read_plan(run).setup
    images = run_folder.read_plan(run).table["image_id"].to_pylist()
    picture = export.encoder(replace(setup, preprocess=setup.preprocess | {"crop": [40, 30]}))
    (tmp_path / "data" / images[2]).unlink()
    first, gone, other = picture(0, images[0]), picture(2, images[2]), picture(1, "other")
    assert gone is other is None
    assert first is not None
    shown = decoded(first)
    assert shown.shape[0] / shown.shape[1] == pytest.approx(SIZE[0] / SIZE[1])
    width = shown.shape[1]
    assert shown[:, : width // 2 - 8].mean(axis=(0, 1)) == pytest.approx([255, 0, 0], abs=6)
    assert shown[:, width // 2 + 8 :].mean(axis=(0, 1)) == pytest.approx([0, 0, 255], abs=6)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing", "csv"], 1, "nothing is no run"),
        (["{run}", "excel"], 1, "invalid choice: 'excel'"),
        (["{run}", "csv", "--name", "x"], 1, "--name is no option of the format csv"),
        (["{run}", "fiftyone", "--document-root", "/"], 1, "--document-root is no option"),
        (["{run}", "csv", "--to", "{run}/plan.parquet/x.csv"], 1, "plan.parquet"),
    ],
)
def test_what_cannot_be_used_is_told(
    arguments: list[str],
    code: int,
    message: str,
    run: RunFolder,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert outcome(*(argument.format(run=run.path) for argument in arguments)) == code
    told = capsys.readouterr()
    assert message in told.err
    assert "Traceback" not in told.err
    assert not told.out


def test_a_run_that_is_not_ranked_yet_is_no_mistake(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    suspects_of(run).unlink()
    assert outcome(run.path, "csv") == 75
    assert "suspects.parquet is not there yet" in capsys.readouterr().err


def test_help_tells_formats_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("--help") == 0
    told = capsys.readouterr().out
    for name in FORMATS:
        assert f"camaudit-export outputs/audit {name}" in told
