"""Checks before Hydra writes its first file, whose failure would be a traceback."""

from __future__ import annotations

import sys
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from pipeline.config import load
from pipeline.errors import AuditError, NotFinished
from pipeline.storage import files

MIN_FREE_BYTES = 2**17
"""Free bytes that the settings and the log of an attempt may need."""


class Preflight(Callback):
    """Hydra callback that checks all settings, the run folder and the free space."""

    def on_run_start(self, config: DictConfig, **_kwargs: object) -> None:
        """Exit with the error's code, and its message on stderr, where a check fails."""
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        try:
            settings = load(own)
            files.make_folder(settings.folder)
            check_space(settings.folder)
        except AuditError as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(error.exit_code)


def check_space(folder: Path) -> None:
    """Check that a run can begin to write.

    Raises:
        NotFinished: the disk is full.
    """
    free = files.free_bytes(folder)
    if free is not None and free < MIN_FREE_BYTES:
        raise NotFinished(f"{folder}: the disk is full; make space and run the same command again")
