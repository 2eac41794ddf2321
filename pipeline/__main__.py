"""The command: compose the settings, run the stages, exit with a code that says how it went."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import hydra
from omegaconf import DictConfig

from pipeline.config import Config, PartitionConfig, conf_dir, load
from pipeline.errors import AuditError, GateError, Held, Stopped
from pipeline.run import checks, faults, lock, partition, state
from pipeline.run.monitoring import mlflow, prometheus
from pipeline.run.partition import Partition
from pipeline.run.signals import signals
from pipeline.storage import run_folder
from pipeline.storage.run_folder import RunFolder

log = logging.getLogger("camaudit")

LOOKS_OF_LAST = 100
"""At the lock, five seconds in all, by a share that finds all parts there."""


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def main(composed: DictConfig) -> None:
    """Run the audit and exit; Hydra drops return values."""
    try:
        config = load(composed)
        with signals():
            mine = partition.partition_of(config.shard)
            if mine.is_whole:
                with lock.lock(config.folder):
                    audit(config)
            else:
                audit_share(config, mine)
    except (AuditError, Stopped) as error:
        for line in str(error).splitlines():
            log.error("%s", line)
        sys.exit(error.exit_code)
    sys.exit(0)


def audit_share(config: Config, mine: Partition) -> None:
    """Compute a share of the images; whoever is the last to be done runs all other stages.

    Raises:
        AuditError: what ended the run.
    """
    if "explain" in config.stages:
        with lock.lock(config.folder, mine):
            journal = state.Journal(config)
            with _ended(journal), faults.told(), journal.stage("explain"):
                importlib.import_module("pipeline.stages.explain").run(config, journal)
        run = RunFolder(config.folder)
        missing = run_folder.missing_shards(run, run_folder.read_plan(run, []).setup)
        if missing:
            told = "%d parts of other shares are missing (first: part-%05d)"
            log.info(f"share %s is done; {told}", mine.name, len(missing), missing[0])
            return
    elif mine.index > 0:
        log.info("share %s has nothing to do; share 0 runs stages other than explain", mine.name)
        return
    try:
        # Others may look for a moment whether they are the last.
        with lock.lock(config.folder, looks=LOOKS_OF_LAST):
            audit(replace(config, shard=PartitionConfig(0, 1), retry_errors=False))
    except Held:
        log.info("share %s is done; another one goes on with the other stages", mine.name)


def audit(config: Config) -> None:
    """Run the stages in order and write run.json and metrics, whatever happens.

    Raises:
        AuditError: what ended the run.
    """
    with faults.told():
        run_folder.sweep(RunFolder(config.folder))
        journal = state.Journal(config)
    try:
        with _ended(journal):
            with faults.told():
                for name in config.stages:
                    with journal.stage(name):
                        importlib.import_module(f"pipeline.stages.{name}").run(config, journal)
                checks.tell(config, journal)
            checks.check_errors(config, journal)
            checks.check_gate(config, journal)
    finally:
        prometheus.write(config, journal)
        mlflow.write(config, journal)


@contextmanager
def _ended(journal: state.Journal) -> Iterator[None]:
    """Notes how the attempt ended, whatever happens."""
    try:
        yield
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


if __name__ == "__main__":
    main()
