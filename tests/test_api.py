"""The functions for Python users: audit, open_run, Run; what dir() and type checkers see."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hydra.core.global_hydra import GlobalHydra
from matplotlib.figure import Figure

import pipeline
from helpers.small_data import CLASSES, MODEL, network, write_images
from pipeline.errors import ConfigError, DataError, NotFinished

PER_CLASS = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three classes, one of them unreadable, and a network."""
    folder = tmp_path_factory.mktemp("api")
    write_images(folder / "photos", PER_CLASS)
    (folder / "photos" / "owl" / "0000.png").write_bytes(b"no image")
    (folder / "net.py").write_text(MODEL)
    return folder


def settings(folder: Path, run_id: str) -> list[str]:
    """The command line of a small audit."""
    return [
        f"dataset.root={folder}/photos",
        f"output_dir={folder}/out",
        f"run_id={run_id}",
        *network(f"{folder}/net.py:build"),
        "loader.num_workers=0",
        "loader.shard_size=8",
        "analysis.permutations=20",
        "analysis.trials=10",
        "report.suspects=3",
        "report.examples=3",
    ]


@pytest.fixture(scope="module")
def run(folder: Path) -> pipeline.Run:
    """A finished run, made from Python."""
    return pipeline.audit(*settings(folder, "texts"))


@pytest.fixture
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_dir_and_all_name_what_the_package_offers() -> None:
    assert set(pipeline.__all__) <= set(dir(pipeline))
    assert all(callable(getattr(pipeline, name)) for name in pipeline.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        pipeline.nothing  # noqa: B018


def test_the_package_is_typed_and_imports_nothing_heavy() -> None:
    assert (Path(pipeline.__file__).with_name("py.typed")).is_file()
    heavy = "('torch', 'pandas', 'pyarrow', 'numpy', 'cv2', 'hydra')"
    code = f"import sys, pipeline; dir(pipeline); print([n for n in {heavy} if n in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_an_audit_from_python_writes_the_tables_of_the_command(
    run: pipeline.Run, folder: Path
) -> None:
    arguments = settings(folder, "command")
    command = [sys.executable, "-m", "pipeline", *arguments]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    other = folder / "out" / "command"
    tables = sorted(path.relative_to(other) for path in other.glob("*/*.parquet"))
    assert len(tables) > 8
    for table in tables:
        assert pq.read_table(run.folder.path / table).equals(pq.read_table(other / table)), table


def test_a_mapping_holds_python_values_and_choices(run: pipeline.Run, folder: Path) -> None:
    values: dict[str, object] = {"run_id": "mapping", "dataset": "image_folder", "model": "custom"}
    for text in settings(folder, "mapping"):
        key, _, value = text.partition("=")
        values.setdefault(key, value if "preprocess" not in key else None)
    values["model.preprocess.resize"] = 16
    values["model.preprocess.mean"] = values["model.preprocess.std"] = [0.5, 0.5, 0.5]
    for key in ("loader.num_workers", "loader.shard_size", "report.suspects", "report.examples"):
        values[key] = int(str(values[key]))
    other = pipeline.audit(values, {"stages": ["explain", "discover"]})
    assert other.images().drop(columns="image_id").equals(run.images().drop(columns="image_id"))
    assert [sentence.split(":")[0] for sentence in other.unfinished] == [
        "no findings yet",
        "no suspects yet",
    ]


def test_settings_that_cannot_be_used_are_named(folder: Path) -> None:
    before = GlobalHydra.instance().hydra
    with pytest.raises(ConfigError, match="loader\\.shard_size: 0 is below 1"):
        pipeline.audit(*settings(folder, "bad"), {"loader.shard_size": 0})
    with pytest.raises(ConfigError, match="no_such_key"):
        pipeline.audit("no_such_key=1")
    with pytest.raises(ConfigError, match="loader\\.no_such_key"):
        pipeline.audit(*settings(folder, "bad"), {"loader.no_such_key": 0})
    assert GlobalHydra.instance().hydra is before
    assert not (folder / "out" / "bad").exists()


def test_tables_are_data_frames_with_nullable_integers(run: pipeline.Run) -> None:
    suspects, classes, findings = run.suspects(), run.classes(), run.findings()
    assert suspects["rank"].tolist() == list(range(1, len(suspects) + 1))
    assert suspects["rank"].dtype == pd.Int64Dtype()
    assert all(isinstance(reasons, list) for reasons in suspects["reasons"])
    assert classes["class_name"].tolist() == list(CLASSES) == run.class_names
    assert classes["n_label"].sum() == 3 * PER_CLASS - 1
    assert {"region_x0", "region_y1", "verdict"} <= set(findings.columns)
    assert run.to_arrow("suspects").num_rows == len(suspects)
    assert run.to_arrow("images").num_rows == 3 * PER_CLASS


def test_images_are_chosen_by_column_and_condition(run: pipeline.Run) -> None:
    everything = run.images()
    assert len(everything) == 3 * PER_CLASS
    assert not {"heatmap", "embedding"} & set(everything.columns)
    good = run.images(["image_id", "label", "focus_border"], where={"status": "ok"})
    assert list(good.columns) == ["image_id", "label", "focus_border"]
    assert len(good) == 3 * PER_CLASS - 1
    some = run.images(["label"], where={"label": ["cat", "owl"], "error": None})
    assert sorted(some["label"].unique()) == ["cat", "owl"]
    assert len(some) == 2 * PER_CLASS - 1
    half = run.images(["confidence"], where=pc.field("confidence") > 0.5)
    assert (half["confidence"] > 0.5).all()
    assert run.images(["label_index"])["label_index"].dtype == pd.Int32Dtype()
    for wrong in ({"columns": ["nothing"]}, {"where": {"nothing": 1}}):
        with pytest.raises(KeyError, match="no column nothing"):
            run.images(**wrong)


def test_heatmaps_come_in_the_order_of_the_ids(run: pipeline.Run) -> None:
    ids = ["owl/0003.png", "cat/0001.png", "owl/0000.png", "owl/0003.png"]
    maps = run.heatmaps(ids)
    assert maps.shape == (4, 8, 8)
    assert maps.dtype == np.float32
    stored = {row["image_id"]: row["heatmap"] for row in _rows(run)}
    for one, cells in zip(ids, maps, strict=True):
        if stored[one] is None:
            assert one == "owl/0000.png"
            assert np.isnan(cells).all()
        else:
            assert np.array_equal(np.asarray(stored[one], np.float32), cells.ravel())
    wrong = next(row for row in _rows(run) if row["heatmap_label"] is not None)
    (label,) = run.heatmaps([str(wrong["image_id"])], of="label")
    assert np.array_equal(np.asarray(wrong["heatmap_label"], np.float32), label.ravel())
    with pytest.raises(KeyError, match=r"cat/9\.png"):
        run.heatmaps(["cat/9.png"])


def _rows(run: pipeline.Run) -> list[dict[str, object]]:
    columns = ["image_id", "heatmap", "heatmap_label"]
    parts = sorted((run.folder.path / "parts").glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part, columns=columns).to_pylist()]


def test_an_image_is_shown_with_the_heatmaps_it_has(run: pipeline.Run) -> None:
    right = run.images(["image_id", "label", "pred"], where={"status": "ok"})
    same = right[right["label"] == right["pred"]]["image_id"].iloc[0]
    other = right[right["label"] != right["pred"]]["image_id"].iloc[0]
    for image_id, panels in ((same, 3), (other, 5)):  # of one class, of prediction and label
        figure = run.show(image_id)
        assert isinstance(figure, Figure)
        assert len([axis for axis in figure.axes if axis.images]) == panels
    given = np.zeros((20, 20, 3), np.uint8)
    assert isinstance(run.show(same, image=given), Figure)
    with pytest.raises(DataError, match="error row"):
        run.show("owl/0000.png")
    with pytest.raises(KeyError, match="nobody"):
        run.show("nobody.png")


def test_a_folder_without_a_run_is_refused_and_runs_inside_it_are_named(
    run: pipeline.Run, folder: Path
) -> None:
    with pytest.raises(ConfigError, match=r"is no run.*texts"):
        pipeline.open_run(folder / "out")


@pytest.mark.usefixtures("no_warnings")
def test_a_finished_run_opens_in_silence(run: pipeline.Run) -> None:
    again = pipeline.open_run(run.folder.path)
    assert again.unfinished == []
    assert "27 images" in repr(again)
    assert again.report.is_file()


def test_an_unfinished_run_opens_with_a_warning(folder: Path) -> None:
    with pytest.warns(UserWarning, match="no suspects yet: the rank stage has not run"):
        part = pipeline.audit(*settings(folder, "part"), "stages=[explain]")
    with pytest.raises(NotFinished, match="suspects"):
        part.suspects()
    assert len(part.images()) == 3 * PER_CLASS
