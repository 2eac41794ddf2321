"""camaudit-explain: a run's row to the last bit, classes and paths as people write them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from pipeline.cli import explain, explain_image
from pipeline.config import Config, ExplainConfig, conf_dir
from pipeline.errors import AuditError, ConfigError, DataError
from pipeline.stages.audit import audit
from pipeline.storage import run_folder
from pipeline.storage.run_folder import RunFolder

Configure = Callable[..., Config]
NAMES = ["cat", "dog", "owl", "Egyptian cat", "7"]
MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 5),
    )
"""
RUN = Path("out") / "audit"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A JPEG, a PNG with alpha, a grey one, a photo that EXIF turns, one of 16 bits, a tall one."""
    root = tmp_path / "photos"
    root.mkdir()
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (80, 60))
    Image.fromarray(pixels).save(root / "photo.jpg")
    alpha = rng.integers(0, 256, (60, 80, 1), np.uint8)
    Image.fromarray(np.dstack([pixels, alpha])).save(root / "alpha.png")
    Image.fromarray(pixels[..., 0]).save(root / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(root / "turned.jpg", exif=exif)
    cv2.imwrite(str(root / "deep.png"), pixels.astype(np.uint16) * 257)
    Image.fromarray(pixels[:, :20]).save(root / "tall.webp")
    return root


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    (tmp_path / "net.py").write_text(MODEL)
    return [
        "model=custom",
        f"model.factory={tmp_path}/net.py:build",
        f"model.class_names=[{','.join(NAMES)}]",
        "model.preprocess.resize=48",
        "model.preprocess.crop=40",
        "model.preprocess.mean=[0.5,0.5,0.5]",
        "model.preprocess.std=[0.5,0.5,0.5]",
    ]


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def explained(*arguments: str) -> list[str]:
    """What the command prints, in this process."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("explain", [explain.quote(argument) for argument in arguments])
    return list(explain_image.run(*explain_image.settings(composed)))


def written(lines: list[str]) -> list[Path]:
    return [Path(line.removeprefix("written: ")) for line in lines if line.startswith("written")]


def rows_of(config: Config) -> dict[str, dict[str, Any]]:
    run = RunFolder(config.folder)
    rows = run_folder.rows(run, run_folder.read_plan(run).setup).to_table().to_pylist()
    return {row["image_id"]: row for row in rows}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_heatmap_is_the_one_of_the_run_to_the_last_bit(
    configure: Configure, photos: Path, model: list[str], precision: str
) -> None:
    wanted = [f"precision={precision}", *model]
    small = ["stages=[explain]", "loader.batch_size=8"]
    config = configure(f"dataset.root={photos}", *wanted, *small)
    audit(config)
    rows = rows_of(config)
    assert len(rows) == 6
    for name, row in rows.items():
        assert row["status"] == "ok", row["error"]
        paths = written(
            explained(f"image={photos}/{name}", *wanted, "batch_size=8", "separate=true")
        )
        (numbers,) = (path for path in paths if path.suffix == ".npy")
        heatmap = np.load(numbers)
        assert numbers.name == f"{Path(name).stem}-explained-{row['pred_index']}.npy"
        assert heatmap.dtype == np.float16
        assert heatmap.max() == 1
        np.testing.assert_array_equal(heatmap.ravel(), np.array(row["heatmap"], np.float16))


def test_a_run_names_its_model_and_its_images(
    configure: Configure, tmp_path: Path, photos: Path, model: list[str]
) -> None:
    config = configure(f"dataset.root={photos}", *model, "cam=layercam", "stages=[explain]")
    audit(config)
    row = rows_of(config)["turned.jpg"]
    lines = explained("image=turned.jpg", f"run={config.folder}", "separate=true")
    assert "image size" not in lines[0]
    assert lines[0] == "turned.jpg: 60 x 80 pixels"
    assert "layercam, fp32" in lines[1]
    heatmap = np.load(f"turned-explained-{row['pred_index']}.npy")
    np.testing.assert_array_equal(heatmap.ravel(), np.array(row["heatmap"], np.float16))
    with pytest.raises(DataError, match=r"image: other.jpg: cannot be read"):
        explained("image=other.jpg", f"run={config.folder}")
    (tmp_path / "net.py").write_text(MODEL.replace("manual_seed(1)", "manual_seed(2)"))
    (tmp_path / "net2.py").write_text(MODEL.replace("manual_seed(1)", "manual_seed(2)"))
    of_run = config.folder / "run.json"
    of_run.write_text(of_run.read_text().replace("net.py", "net2.py"))
    with pytest.raises(ConfigError, match="not those that the run has explained"):
        explained("image=turned.jpg", f"run={config.folder}")


@pytest.mark.parametrize("name", ["photo.jpg", "alpha.png", "grey.png", "turned.jpg"])
def test_the_panels_are_at_the_own_size_of_the_upright_picture(
    photos: Path, model: list[str], name: str
) -> None:
    explained(f"image={photos}/{name}", *model, "separate=true", "output=out/panels.png")
    size = (60, 80) if name == "turned.jpg" else (80, 60)
    original = Image.open("out/panels-original.png")
    assert original.size == size
    upright: Image.Image = Image.open(photos / name)
    if name == "turned.jpg":
        upright = upright.transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_allclose(
        np.asarray(original).astype(int), np.asarray(upright.convert("RGB")).astype(int), atol=2
    )
    panels = [path for path in Path("out").glob("*.png") if path.name != "panels.png"]
    assert len(panels) == 3
    assert all(Image.open(path).size == size for path in panels)
    assert Image.open("out/panels.png").width > 700


@pytest.mark.parametrize(
    ("wanted", "classes"),
    [
        ("top", [2]),
        ("top3", [2, 0, 3]),
        ("1", [1]),
        ("7", [4]),  # a class that is called so goes before the output of that number
        ("egyptian_cat", [3]),
        ("Egyptian cat", [3]),
        (["dog", 0, "top2"], [1, 0, 2]),
        ("top9", [2, 0, 3, 1, 4]),
        (3, [3]),
    ],
)
def test_classes_are_found_as_people_write_them(wanted: Any, classes: list[int]) -> None:
    probs = np.array([0.3, 0.1, 0.4, 0.15, 0.05], np.float32)
    assert explain_image.select_classes(wanted, NAMES, probs) == classes


@pytest.mark.parametrize("wanted", ["cta", "5", "-1", "top0", "", "3.5"])
def test_a_class_that_is_none_is_refused_with_close_names(wanted: str) -> None:
    with pytest.raises(ConfigError, match=r"neither top, an output from 0 to 4.*close names"):
        explain_image.select_classes(wanted, NAMES, np.ones(5, np.float32))


@pytest.mark.parametrize(
    "name",
    ["a b.png", "a=b,c.png", "it's [1] ${x} {y}.png", '"q" \\ b.png', "größe 猫.png", "-1.png"],
)
def test_paths_may_hold_anything(photos: Path, model: list[str], name: str) -> None:
    (photos / "grey.png").rename(photos / name)
    (path,) = written(explained(f"image={photos}/{name}", *model, "batch_size=1"))
    assert path == Path(f"{Path(name).stem}-explained.png")
    assert path.is_file()


def test_the_classes_are_printed_with_their_probabilities(photos: Path, model: list[str]) -> None:
    lines = explained(f"image={photos}/photo.jpg", *model, "class=[top2,owl]", "batch_size=1")
    assert lines[0].endswith("photo.jpg: 80 x 60 pixels")
    assert "layer 3 (40 x 40), gradcam, fp32" in lines[1]
    told = [line.split("%")[0].strip() for line in lines if "%" in line]
    assert len(told) == 5
    assert sum(map(float, told)) == pytest.approx(100, abs=0.3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("image=none.jpg", DataError, "image: none.jpg: cannot be read: No such file"),
        ("class=bird", ConfigError, "class: 'bird'"),
        ("colormap=mauve", ConfigError, "mauve"),
        ("alpha=2", ConfigError, "alpha: 2.* is not between 0 and 1"),
        ("batch_size=0", ConfigError, "batch_size: 0 is neither auto"),
        ("precision=fp8", ConfigError, "precision: 'fp8'"),
        ("model.target_layer='0.5'", ConfigError, "model.target_layer"),
        ("run=photos", ConfigError, "run: photos is no run"),
        ("output=photos/photo.jpg", ConfigError, "is the image itself"),
        ("output=net.py/x.png", ConfigError, "cannot be written"),
    ],
)
def test_what_cannot_be_used_is_named(
    photos: Path, model: list[str], change: str, error: type[AuditError], message: str
) -> None:
    before = (photos / "photo.jpg").read_bytes()
    with pytest.raises(error, match=message):
        explained("image=photos/photo.jpg", *model, "batch_size=1", change)
    assert (photos / "photo.jpg").read_bytes() == before


def test_an_image_must_be_given(model: list[str]) -> None:
    with pytest.raises(ConfigError, match="image: must be given"):
        explained(*model)


def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command, to its end."""
    command = [sys.executable, "-m", "pipeline.cli.explain", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_real_command_writes_one_picture_and_nothing_else(
    photos: Path, model: list[str], tmp_path: Path
) -> None:
    before = set(tmp_path.iterdir())
    done = ran("image=photos/turned.jpg", *model, "class=Egyptian cat", "batch_size=1")
    assert done.returncode == 0, done.stderr
    assert "written: turned-explained.png" in done.stdout
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {"turned-explained.png"}


def test_the_real_command_ends_with_the_code_of_its_error(model: list[str]) -> None:
    unreadable = ran("image=net.py", *model)
    assert unreadable.returncode == DataError.exit_code == 3
    assert "damaged header" in unreadable.stderr
    assert "Traceback" not in unreadable.stderr


def test_help_says_what_to_type() -> None:
    helped = ran("--help")
    assert helped.returncode == 0
    assert "camaudit-explain image=cat.jpg model.name=vgg16 class='Egyptian cat'" in helped.stdout


def test_the_defaults_in_conf_are_those_of_the_dataclass() -> None:
    written_down = OmegaConf.to_container(OmegaConf.load(conf_dir() / "explain.yaml"))
    assert isinstance(written_down, dict)
    keys = {key: value for key, value in written_down.items() if key not in ("defaults", "hydra")}
    keys["wanted"] = keys.pop("class")
    known = OmegaConf.to_container(OmegaConf.structured(ExplainConfig))
    assert isinstance(known, dict)
    assert keys == {key: value for key, value in known.items() if key not in ("model", "cam")}


def test_the_table_holds_heatmaps_that_can_differ(
    configure: Configure, photos: Path, model: list[str]
) -> None:
    """Else the comparison to the last bit would say nothing."""
    config = configure(f"dataset.root={photos}", *model, "stages=[explain]")
    audit(config)
    maps = pa.array([row["heatmap"] for row in rows_of(config).values()])
    assert len({tuple(values) for values in maps.to_pylist()}) == 6
