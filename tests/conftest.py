"""What several test files share: settings as from the command line, small data, a small model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from helpers.small_data import MODEL, network
from pipeline import config as settings
from pipeline.config import Config

os.environ["OMP_NUM_THREADS"] = "1"  # of commands that are started; two test at a time


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two processes test at a time, and the continuous integration has two cores."""
    torch.set_num_threads(1)


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Config]:
    """Settings from overrides, the run in a folder of the test."""

    def make(*overrides: str) -> Config:
        with initialize_config_dir(str(settings.conf_dir()), version_base="1.3"):
            composed = compose(
                "config", ["report.suspects=8", f"output_dir={tmp_path}/out", *overrides]
            )
        return settings.load(composed)

    return make


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A file with a factory of a small network for 16 x 16 pictures."""
    path = tmp_path / "net.py"
    path.write_text(MODEL)
    return path


@pytest.fixture
def small_model(model_file: Path) -> list[str]:
    """Overrides that audit the small network."""
    return [*network(f"{model_file}:build"), "loader.num_workers=0"]
