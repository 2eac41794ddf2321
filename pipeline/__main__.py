"""The command: compose the settings, run the stages, exit with a code that says how it went."""

from __future__ import annotations

import importlib
import logging
import sys

import hydra
from omegaconf import DictConfig

from pipeline import faults, metrics, ops, store, summary, tracking
from pipeline.config import Config, conf_dir, load
from pipeline.errors import AuditError, GateError, Stopped
from pipeline.store import RunFolder

log = logging.getLogger("camaudit")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def main(composed: DictConfig) -> None:
    """Run the audit and exit; Hydra drops return values."""
    try:
        config = load(composed)
        with ops.signals(), ops.lock(config.folder):
            audit(config)
    except (AuditError, Stopped) as error:
        for line in str(error).splitlines():
            log.error("%s", line)
        sys.exit(error.exit_code)
    sys.exit(0)


def audit(config: Config) -> None:
    """Run the stages in order and write run.json and metrics, whatever happens.

    Raises:
        AuditError: what ended the run.
    """
    with faults.told():
        store.sweep(RunFolder(config.folder))
        journal = ops.Journal(config)
    try:
        with faults.told():
            for name in config.stages:
                with journal.stage(name):
                    importlib.import_module(f"pipeline.stages.{name}").run(config, journal)
            summary.tell(config, journal)
        summary.check_errors(config, journal)
        summary.check_gate(config, journal)
    except Stopped as error:
        journal.end("aborted", error.exit_code, str(error))
        raise
    except GateError as error:
        journal.end("complete", error.exit_code, str(error))
        raise
    except AuditError as error:
        journal.end("failed", error.exit_code, str(error))
        raise
    except BaseException as error:
        journal.end("failed", 1, f"{type(error).__name__}: {error}")
        raise
    else:
        journal.end("complete", 0)
    finally:
        metrics.write(config, journal)
        tracking.write(config, journal)


if __name__ == "__main__":
    main()
