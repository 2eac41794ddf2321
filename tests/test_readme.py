"""What the README tells people to type works as it stands there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import skimage
import torch
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from PIL import Image
from torchvision import models

from helpers.small_data import write_images
from pipeline.cli import explain, explain_image
from pipeline.config import Config, conf_dir
from pipeline.stages.audit import audit

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of a language, continued lines joined."""
    return [
        block.replace("\\\n", " ")
        for block in re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    ]


COMMANDS = [
    line
    for block in blocks("bash")
    for line in block.splitlines()
    if line.startswith("camaudit ") and "--help" not in line
]


def test_there_are_commands_to_try() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_readme_is_accepted(
    line: str, configure: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("outputs/audit").mkdir(parents=True)
    Path("outputs/audit/plan.parquet").touch()
    Path("decisions.csv").touch()
    configure(*shlex.split(line)[1:])


def test_its_scripts_are_there() -> None:
    for name in ("demo", "test"):
        assert f"./scripts/{name}" in README
        assert (ROOT / "scripts" / name).stat().st_mode & 0o111


def test_its_python_reads_the_tables(
    configure: Callable[..., Config],
    tmp_path: Path,
    small_model: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_images(tmp_path / "photos", 4)
    config = configure(f"dataset.root={tmp_path}/photos", *small_model)
    config.output_dir = str(tmp_path / "outputs")
    audit(config)
    monkeypatch.chdir(tmp_path)
    tables = [block for block in blocks("python") if "outputs/audit" in block]
    assert len(tables) == 2
    names: dict[str, Any] = {}
    for block in tables:
        exec(block, names)
    assert names["heatmaps"].shape == (3, 8, 8)
    assert isinstance(names["figure"], Figure)
    printed = capsys.readouterr().out
    assert "reasons" in printed  # pandas, which leaves out columns where the screen is narrow
    assert "75%" in printed  # the statistics of each class
    assert "confidence" in printed  # DuckDB


def test_its_python_explains_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights in the place of those that would be downloaded."""
    with torch.device("meta"):
        shapes = models.vgg16(weights=None).state_dict()
    state = {name: torch.empty(each.shape).uniform_(-0.01, 0.02) for name, each in shapes.items()}
    monkeypatch.setattr(models._api, "load_state_dict_from_url", lambda *_, **__: state)
    monkeypatch.chdir(tmp_path)
    cat = Path(skimage.__file__).parent / "data" / "chelsea.png"
    Image.open(cat).save("cat.jpg")
    (block,) = [block for block in blocks("python") if "panels" in block]
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["explanation"].shape == (1, 14, 14)
    assert names["explanation"].class_index.tolist() == [285]
    assert Image.open("panels.png").width > 700


def test_it_is_short_enough_for_a_newcomer() -> None:
    assert len(README.split()) <= 1800


def test_every_command_that_explains_is_accepted() -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("camaudit-explain ")]
    assert len(commands) >= 4
    for line in commands:
        arguments = [explain.quote(each) for each in shlex.split(line, comments=True)[1:]]
        kept = [each for each in arguments if not each.startswith("run=")]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose("explain", [*kept, "model.name=vgg16"])
        config, _ = explain_image.settings(composed)
        assert config.image
