"""The report: overlays pixel by pixel, hostile names as text, empty cases, an old report kept."""

from __future__ import annotations

import csv
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from pipeline import pictures, store
from pipeline.config import Config, Manifest, ReportConfig, ZooModel, result_settings
from pipeline.errors import ConfigError, NotFinished, Stopped
from pipeline.ops import Journal
from pipeline.report import page
from pipeline.schema import (
    CANDIDATES,
    FINDINGS,
    MEMBERS,
    SUSPECTS,
    Setup,
    classes_schema,
    part_schema,
    plan_schema,
)
from pipeline.stages import report
from pipeline.store import Plan, RunFolder

NASTY = [
    "<script>document.title='hacked'</script>",
    "\"'><img src=x onerror=\"document.title='hacked'\">",
    "Größe 猫 \u202egnp {{ 7 * 7 }} &amp; `${1}`",
    "n" * 300,
]
GRID = (2, 3)
SIZE = (40, 60)  # height and width of the pictures
FITTED = {"resize": list(SIZE), "crop": list(SIZE), "mean": [0.5] * 3, "std": [0.5] * 3}


def make_run(
    folder: Path,
    *,
    names: list[str] = NASTY,
    labelled: bool = True,
    found: bool = True,
    failed: tuple[int, ...] = (4, 8),
    preprocess: dict[str, Any] = FITTED,
) -> Config:
    """A run of nine images as the other stages leave it; `found` says if anything was found."""
    labels = [names[i % len(names)] if labelled else None for i in range(9)]
    ids = [f"{i} {names[i % len(names)][:80]}.png".replace("/", "_") for i in range(9)]
    config = Config(
        output_dir=str(folder / "out"),
        dataset=_dataset(folder / "data", ids, labels),
        model=ZooModel(kind="torchvision", name="resnet18"),
        report=ReportConfig(thumbnail=64),
    )
    setup = Setup(
        fingerprint="0",
        settings=result_settings(config),
        decided={"device": "cpu", "loader.batch_size": 2, "model.target_layer": "layer4"},
        class_names=names,
        grid=GRID,
        embedding_dim=2,
        preprocess=preprocess,
        n_images=len(ids),
        shard_size=4,
    )
    run = RunFolder(config.folder)
    rows = [_row(i, ids, labels, names, failed) for i in range(len(ids))]
    _write_rows(run, setup, rows)
    _write_analysis(run, names, labelled, [row for row in rows if found and row["status"] == "ok"])
    return config


def _dataset(folder: Path, ids: list[str], labels: list[str | None]) -> Manifest:
    """Pictures that are red on the left and blue on the right, named by a manifest."""
    folder.mkdir(parents=True)
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:, : SIZE[1] // 2, 2] = pixels[:, SIZE[1] // 2 :, 0] = 255  # OpenCV writes BGR
    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, quoting=csv.QUOTE_ALL)
        table.writerow(["path", "label"])
        for name, label in zip(ids, labels, strict=True):
            (folder / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
            table.writerow([name, label or ""])
    return Manifest(path=str(folder / "list.csv"))


def _row(
    index: int, ids: list[str], labels: list[str | None], names: list[str], failed: tuple[int, ...]
) -> dict[str, Any]:
    label, pred = labels[index], (index + index // 4) % len(names)
    given = {
        "index": index,
        "image_id": ids[index],
        "label": label,
        "label_index": None if label is None else names.index(label),
    }
    if index in failed:
        return {**given, "status": "error", "error": f"broken <b>{index % 2}</b>"}
    heatmap = np.eye(1, 6, index % 6, dtype=np.float16)[0]
    other = label is not None and names[pred] != label
    return {
        **given,
        "status": "ok",
        "pred_index": pred,
        "pred": names[pred],
        "confidence": 0.75,
        "heatmap": heatmap,
        "heatmap_max": 1.0,
        "heatmap_label": heatmap[::-1] if other else None,
    }


def _write_rows(run: RunFolder, setup: Setup, rows: list[dict[str, Any]]) -> None:
    planned = [{**row, "shard": row["index"] // setup.shard_size} for row in rows]
    store.write_plan(run, Plan(pa.Table.from_pylist(planned, plan_schema()), setup))
    schema = part_schema(setup.grid, setup.embedding_dim)
    for shard in range(setup.n_shards):
        of_shard = [rows[i] for i in setup.rows(shard)]
        store.commit_part(run, setup, shard, pa.Table.from_pylist(of_shard, schema))


def _write_analysis(
    run: RunFolder, names: list[str], labelled: bool, good: list[dict[str, Any]]
) -> None:
    """The tables of discover, verify and rank: all of `good` suspect, a finding for its first."""
    classes = [
        {"class_index": i, "class_name": name, "n_label": 2 * labelled, "n_pred": 1, "dead_maps": 0}
        | {"n_correct": int(labelled), "accuracy": 0.5 if labelled else None}
        | {"heatmap": [0.1 * i] * 6 if i else None}
        for i, name in enumerate(names)
    ]
    findings = [
        {"finding_id": "f<1>", "class_name": row["pred"], "kind": "region", "verdict": "confirmed"}
        | {"region": {"x0": 0.5, "y0": 0.5, "x1": 1.0, "y1": 1.0}, "n_images": 3, "score": 0.5}
        | {"effect": 0.8, "control": 0.1, "ci_low": 0.6, "ci_high": 0.8, "q_value": 1e-6}
        | {"example_ids": [row["image_id"]], "summary": f"{row['pred']}: a region."}
        for row in good[:1]
    ]
    members = [{**row, "finding_id": "f<1>", "reliance": 0.25} for row in good[:1]]
    suspects = [
        {**row, "rank": rank, "score": 1 / rank, "kind": ("label_error", "ambiguous")[rank % 2]}
        | {"finding_id": "f<1>" if rank == 1 else None, "reasons": [f"because of {row['pred']}"]}
        for rank, row in enumerate(good, start=1)
    ]
    for name, rows, schema in (
        ("classes", classes, classes_schema(GRID)),
        ("candidates", [], CANDIDATES),
        ("findings", findings, FINDINGS),
        ("members", members, MEMBERS),
        ("suspects", suspects, SUSPECTS),
    ):
        store.write(pa.Table.from_pylist(rows, schema), run.analysis(name))


class Seen(HTMLParser):
    """What a browser would find in a page: its text, its elements with their attributes."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.text = folder, ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed((folder / "index.html").read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def pictures(self) -> list[Path]:
        """The files that its images name."""
        sources = [attributes["src"] for tag, attributes in self.elements if tag == "img"]
        return [self.folder / str(source) for source in sources]


def make_report(config: Config) -> Seen:
    """Run the stage and look at the page."""
    report.run(config, Journal(config))
    return Seen(RunFolder(config.folder).report)


def flat(colour: tuple[int, int, int], height: int = 70, width: int = 70) -> pictures.Rgb:
    """A picture of one colour."""
    return np.full((height, width, 3), colour, np.uint8)


def one_hot(row: int, column: int) -> pictures.Heatmap:
    """A 7 x 7 heatmap with one hot cell."""
    heatmap = np.zeros((7, 7), np.float32)
    heatmap[row, column] = 1
    return heatmap


def test_a_cold_map_leaves_the_picture_as_it_is() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    np.testing.assert_array_equal(
        pictures.overlay(noise, np.zeros((7, 7)), 0.9, colormap="jet"), noise
    )
    np.testing.assert_array_equal(
        pictures.overlay(noise, np.ones((7, 7)), 0.0, colormap="jet"), noise
    )


def test_a_hot_cell_colours_its_place_and_no_other() -> None:
    grey = flat((128, 128, 128))
    changed = np.abs(
        pictures.overlay(grey, one_hot(1, 5), 0.5, colormap="jet").astype(int) - grey
    ).sum(2)
    assert np.unravel_index(changed.argmax(), changed.shape)[0] in range(10, 20)
    assert changed[15, 55] > 100
    assert changed[40:].max() == changed[:, :40].max() == 0


def test_a_constant_map_mixes_every_pixel_alike_in_the_share_of_alpha() -> None:
    red, yellow = np.array([200, 0, 0]), np.array([255, 255, 0])  # autumn ends in yellow
    mixed = pictures.overlay(flat((200, 0, 0)), np.ones((7, 7)), 0.25, colormap="autumn")
    np.testing.assert_allclose(
        mixed, np.broadcast_to(0.75 * red + 0.25 * yellow, mixed.shape), atol=1
    )


def test_colours_are_rgb_on_screen_and_on_disk(tmp_path: Path) -> None:
    assert pictures.coloured(np.zeros((1, 1)), "autumn")[0, 0].tolist() == [255, 0, 0]
    pictures.save(tmp_path / "red.webp", flat((255, 0, 0)))
    blue, green, red = cv2.imread(str(tmp_path / "red.webp")).mean(axis=(0, 1))  # type: ignore[union-attr]
    assert red > 240
    assert max(blue, green) < 10


def test_an_unknown_colour_map_is_refused_with_those_there_are(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    config.report.colormap = "mauve"
    with pytest.raises(ConfigError, match=r"report.colormap: 'mauve' is none of .*viridis"):
        make_report(config)
    assert pictures.colormap_code("VIRIDIS") == cv2.COLORMAP_VIRIDIS


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((28, 28), (224, 224)),
        ((64, 32), (256, 128)),
        ((224, 99), (224, 99)),
        ((300, 600), (112, 224)),
    ],
)
def test_pictures_are_shown_large_enough(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert pictures.for_display(flat((9, 9, 9), *size), 224).shape == (*shown, 3)


def test_a_small_picture_keeps_its_pixels() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (28, 20, 3), np.uint8)
    np.testing.assert_array_equal(pictures.for_display(noise, 224)[4::8, 4::8], noise)


@pytest.mark.parametrize(
    ("cell", "words"),
    [((0, 0), "upper left"), ((3, 3), "centre"), ((6, 3), "lower edge"), ((3, 6), "right edge")],
)
def test_the_place_of_a_map_is_told_in_words(cell: tuple[int, int], words: str) -> None:
    assert pictures.place(one_hot(*cell)) == words
    assert pictures.place(0 * one_hot(*cell)) == "nowhere"


def test_names_are_shown_as_text_and_make_no_elements(tmp_path: Path) -> None:
    harmless = make_report(make_run(tmp_path / "a", names=["w", "x", "y", "z"]))
    seen = make_report(make_run(tmp_path / "b"))
    for name in NASTY:
        assert name in seen.text
        assert f"because of {name}" in seen.text
    assert "broken <b>0</b>" in seen.text
    # Whatever the names hold, the page is made of the same elements and attributes.
    shapes = [[(tag, sorted(attrs)) for tag, attrs in page.elements] for page in (harmless, seen)]
    assert shapes[0] == shapes[1]


def test_all_pictures_are_there_and_none_is_left_over(tmp_path: Path) -> None:
    seen = make_report(make_run(tmp_path))
    named = set(seen.pictures())
    assert named == set(seen.folder.glob("pictures/*"))
    assert all(cv2.imread(str(path)) is not None for path in named)
    loading = {
        attrs.get("loading")
        for tag, attrs in seen.elements
        if tag == "img" and "legend" not in str(attrs["src"])
    }
    assert loading == {"lazy"}


def test_what_is_shown_is_what_the_model_saw(tmp_path: Path) -> None:
    """The centre crop of a grey model: a square, left half as bright as red, right half as blue."""
    seen = make_report(
        make_run(tmp_path, preprocess=FITTED | {"crop": [20, 20], "mean": [0.5], "std": [0.5]})
    )
    picture = cv2.imread(str(seen.folder / "pictures/0.webp"))
    assert picture is not None
    assert picture.shape == (80, 80, 3)
    left, right = picture[:, :36].astype(int), picture[:, 44:].astype(int)
    assert abs(left.mean() - 76) < 3  # luma of full red and blue, ITU-R BT.601
    assert abs(right.mean() - 29) < 3
    assert np.ptp(left) < 6


def test_a_label_map_is_drawn_where_the_label_differs(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    seen = make_report(config)
    rows = store.read(RunFolder(config.folder).part(0), ["label", "pred", "status"]).to_pylist()
    for index, row in enumerate(rows):
        differs = row["status"] == "ok" and row["label"] != row["pred"]
        assert (seen.folder / f"pictures/{index}-label.webp").exists() == differs


def test_only_the_first_suspects_are_drawn(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    config.report.suspects = 2
    seen = make_report(config)
    assert sum(tag == "li" and attrs.get("class") == "suspect" for tag, attrs in seen.elements) == 2
    assert "2 of 7, all of which stand in analysis/suspects.parquet" in seen.text


@pytest.mark.parametrize(
    ("options", "sentences"),
    [
        (
            {"labelled": False},
            ["no labels", "1 confirmed shortcut, 7 suspects, 2 images could not"],
        ),
        ({"found": False}, ["No shortcut was found.", "No prediction is suspect.", "no suspects"]),
        ({"failed": ()}, ["Every planned image was read and explained."]),
        (
            {"failed": tuple(range(9))},
            ["No image could be audited", "9 images of 9", "broken <b>1</b>"],
        ),
    ],
)
def test_empty_cases_are_told_in_words(
    tmp_path: Path, options: dict[str, Any], sentences: list[str]
) -> None:
    seen = make_report(make_run(tmp_path, **options))
    for sentence in sentences:
        assert sentence in seen.text


def test_pictures_that_are_gone_become_their_reason(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    image_id = store.read_plan(RunFolder(config.folder)).table["image_id"][0].as_py()
    (tmp_path / "data" / image_id).unlink()
    seen = make_report(config)
    assert seen.text.count("No picture.") == 2  # as a suspect and as an example
    shutil.rmtree(tmp_path / "data")
    assert make_report(config).text.count("No picture.") == 8


def test_a_signal_while_a_picture_is_read_ends_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def see(_index: int, _image_id: str) -> pictures.Rgb:
        raise Stopped(15)

    monkeypatch.setattr(report, "seer", lambda *_: see)
    with pytest.raises(Stopped):
        make_report(make_run(tmp_path))


def test_another_image_in_its_place_is_not_shown(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    lines = Path(config.dataset.path).read_text(encoding="utf-8").splitlines(keepends=True)
    Path(config.dataset.path).write_text("".join([lines[0], *lines[:0:-1]]), encoding="utf-8")
    assert "the dataset has changed since it was audited" in make_report(config).text


def test_warnings_about_the_audit_come_first(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    journal = Journal(config)
    journal.warn("half of the maps <i>are empty</i>")
    report.run(config, journal)
    text = Seen(RunFolder(config.folder).report).text
    assert 0 < text.index("half of the maps <i>are empty</i>") < text.index("Findings")


def test_an_old_report_stays_whole_until_the_new_one_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_run(tmp_path)
    folder = make_report(config).folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(page, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_report(config)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (folder / "pictures/stale.webp").touch()
    make_report(config)
    assert not (folder / "pictures/stale.webp").exists()
    assert not list(folder.parent.glob(".report*"))


def test_the_same_tables_give_the_same_report(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    journal = Journal(config)
    folder = RunFolder(config.folder).report
    contents = []
    for _ in range(2):
        report.run(config, journal)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        contents.append([(path, path.read_bytes()) for path in files])
    assert contents[0] == contents[1]


def test_a_missing_table_names_the_way_on(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    RunFolder(config.folder).analysis("suspects").unlink()
    with pytest.raises(NotFinished, match=r"suspects.parquet is not there yet; run the stage"):
        make_report(config)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0, "< 0.001"), (0.0312345, "0.0312"), (-1.5, "-1.5")]
)
def test_numbers_are_told_in_three_digits(value: float | None, text: str) -> None:
    assert page.number(value) == text
