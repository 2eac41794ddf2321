"""The wheel in an environment of its own, with no checkout around."""

from __future__ import annotations

import configparser
import importlib
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from helpers.small_data import write_images

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (built,) = folder.glob("camaudit-*.whl")
    return built


def test_the_wheel_holds_settings_templates_and_the_demo(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    conf = {f"pipeline/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert conf <= names
    assert "pipeline/demo/checkpoint.pt" in names
    assert any(name.startswith("pipeline/report/templates/") for name in names)
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)


def test_the_commands_of_the_wheel_are_there(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (listed,) = [name for name in archive.namelist() if name.endswith("/entry_points.txt")]
        entries = configparser.ConfigParser()
        entries.read_string(archive.read(listed).decode())
        names = set(archive.namelist())
    commands = dict(entries["console_scripts"])
    wanted = {"camaudit", "camaudit-explain", "camaudit-export", "camaudit-show", "camaudit-status"}
    assert commands.keys() == wanted
    for entry in commands.values():
        module, function = entry.split(":")
        assert f"{module.replace('.', '/')}.py" in names
        assert callable(getattr(importlib.import_module(module), function))


def test_the_wheel_audits_a_folder(
    wheel: Path, tmp_path: Path, small_model: list[str], model_file: Path
) -> None:
    """Dependencies are lent by path, which leaves this checkout's own entry behind."""
    write_images(tmp_path / "photos", 3)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")}))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True)
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = str(tmp_path / "env" / "bin" / "python")
    where = [python, "-c", "import pipeline; print(pipeline.__file__)"]
    shown = subprocess.run(where, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == str(site / "pipeline" / "__init__.py")
    command = [python, "-m", "pipeline", "dataset.root=photos", *small_model]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "outputs" / "audit" / "report" / "index.html").is_file()
