"""What the README tells people to type works as it stands there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import write_images

from pipeline.__main__ import audit
from pipeline.config import Config

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
    line: str, configure: Callable[..., Config]
) -> None:
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
    python = blocks("python")
    assert len(python) == 2
    for block in python:
        exec(block, {})
    printed = capsys.readouterr().out
    assert "reasons" in printed  # pandas, which leaves out columns where the screen is narrow
    assert "confidence" in printed  # DuckDB
