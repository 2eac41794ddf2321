"""The command camaudit: compose the settings, run the audit, exit with the code of its outcome."""

from __future__ import annotations

import gc
import logging
import sys

import hydra
from omegaconf import DictConfig

from pipeline.cli.help import print_help
from pipeline.config import conf_dir, load
from pipeline.errors import AuditError, Stopped

log = logging.getLogger("camaudit")


def main() -> None:
    """Run the command of sys.argv and exit."""
    gc.disable()  # the objects of imports and settings stay: a collection costs time and frees none
    if not print_help("config", sys.argv[1:]):
        _run()


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def _run(composed: DictConfig) -> None:
    """Run the audit and exit; Hydra drops return values."""
    from pipeline.run.signals import stop_on_signals  # noqa: PLC0415 - --help needs none
    from pipeline.stages.audit import run_audit  # noqa: PLC0415

    try:
        config = load(composed)
        gc.freeze()
        gc.enable()
        with stop_on_signals():
            run_audit(config)
    except (AuditError, Stopped) as error:
        for line in str(error).splitlines():
            log.error("%s", line)
        sys.exit(error.exit_code)
    sys.exit(0)


if __name__ == "__main__":
    main()
