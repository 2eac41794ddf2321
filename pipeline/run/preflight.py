"""What an unattended run needs: one run at a time, signals, run.json, progress, versions."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from pipeline.config import load
from pipeline.errors import AuditError, ConfigError, NotFinished
from pipeline.storage import paths

log = logging.getLogger(__name__)


LEAST_SPACE = 2**17
"""Bytes that the settings and the log of an attempt may need."""


class Preflight(Callback):
    """Checks the settings before Hydra makes a folder, whose failure would be a traceback."""

    def on_run_start(self, config: DictConfig, **_kwargs: Any) -> None:
        """Exit with 1 and a plain message where a setting cannot be used."""
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        try:
            settings = load(own)
            make_folder(settings.folder)
            check_space(settings.folder)
        except AuditError as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(error.exit_code)


def make_folder(folder: Path) -> None:
    """Make the folder of a run.

    Raises:
        ConfigError: where it cannot be made or written.
    """
    if paths.is_remote(folder):
        return  # a bucket has no folders; whether it can be written, the lock finds out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output_dir: {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"output_dir: {folder} cannot be written")


def check_space(folder: Path) -> None:
    """See that a run can at least be begun.

    Raises:
        NotFinished: where the disk is full.
    """
    if not paths.is_remote(folder) and shutil.disk_usage(folder).free < LEAST_SPACE:
        raise NotFinished(f"{folder}: the disk is full; make space and run the same command again")
