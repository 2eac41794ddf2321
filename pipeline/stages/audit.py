"""Run the stages of an audit in order, and note in run.json how the attempt ended."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from pipeline.config import Config, PartitionConfig
from pipeline.errors import AuditError, DataError, GateError, Held, Stopped
from pipeline.run import faults, partition
from pipeline.run.lock import lock
from pipeline.run.partition import Partition
from pipeline.run.state import Journal
from pipeline.stages.stage import BY_NAME
from pipeline.storage import run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_record import ABORTED, COMPLETE, FAILED, read_record

log = logging.getLogger(__name__)

LAST_PARTITION_ATTEMPTS = 100
"""Lock attempts, within five seconds, of a partition after which all parts are committed."""


def run_audit(config: Config) -> None:
    """Run an audit, or this process's partition of it; lock the run folder meanwhile.

    Raises:
        AuditError: the audit failed, or the gate is broken.
        Stopped: a signal ended the run.
    """
    mine = partition.partition_of(config.shard)
    if not mine.is_whole:
        _audit_partition(config, mine)
        return
    with lock(config.folder):
        audit(config)


def _audit_partition(config: Config, mine: Partition) -> None:
    """Explain a partition of the shards; the process that finishes last runs all other stages.

    Two processes that finish at the same time may both find all parts; the second of them to get
    the lock sees that the first ended an audit since.
    """
    n_complete = _count_complete(config)
    if "explain" in config.stages:
        with lock(config.folder, mine):
            journal = Journal(config)
            with _record_end(journal), faults.as_not_finished(), journal.stage("explain"):
                BY_NAME["explain"].run(config, journal)
        run = RunFolder(config.folder)
        missing = run_folder.missing_shards(run, run_folder.read_plan(run, []).setup)
        if missing:
            others = "%d parts of other partitions are missing (first: part-%05d)"
            log.info(f"partition %s is done; {others}", mine.name, len(missing), missing[0])
            return
    elif mine.index > 0:
        log.info(
            "partition %s has nothing to do; partition 0 runs the stages after explain", mine.name
        )
        return
    try:
        # Other partitions hold the lock for a moment while they test whether they are the last.
        with lock(config.folder, attempts=LAST_PARTITION_ATTEMPTS):
            if _count_complete(config) > n_complete:
                log.info("partition %s is done; another process ran the other stages", mine.name)
                return
            audit(replace(config, shard=PartitionConfig(0, 1), retry_errors=False))
    except Held:
        log.info("partition %s is done; another process runs the other stages", mine.name)


def _count_complete(config: Config) -> int:
    """Number of attempts of the whole run that ended; 0 without a readable record."""
    try:
        record = read_record(config.folder / "run.json")
    except (OSError, DataError):
        return 0
    return sum(attempt.state == COMPLETE for attempt in record.attempts)


def audit(config: Config) -> None:
    """Run the stages of the settings in order; write run.json and metrics, also on failure.

    The caller holds the lock of the run.

    Raises:
        AuditError: the audit failed, or the gate is broken.
    """
    with faults.as_not_finished():
        run_folder.sweep(RunFolder(config.folder))
        journal = Journal(config)
    try:
        with _record_end(journal):
            _run_stages(config, journal)
    finally:
        from pipeline.run.monitoring import mlflow, prometheus  # noqa: PLC0415 - needed at the end only

        prometheus.write(config, journal)
        mlflow.write(config, journal)


def _run_stages(config: Config, journal: Journal) -> None:
    with faults.as_not_finished():
        for name in config.stages:
            with journal.stage(name):
                BY_NAME[name].run(config, journal)
        from pipeline.run import checks  # noqa: PLC0415 - SciPy; the stages have imported it

        checks.log_results(config, journal)
    checks.check_errors(config, journal)
    checks.check_gate(config, journal)


@contextmanager
def _record_end(journal: Journal) -> Iterator[None]:
    """Record in run.json how the attempt ended, and raise the exception again."""
    try:
        yield
    except Stopped as error:
        journal.end(ABORTED, error.exit_code, str(error))
        raise
    except GateError as error:
        journal.end(COMPLETE, error.exit_code, str(error))
        raise
    except AuditError as error:
        journal.end(FAILED, error.exit_code, str(error))
        raise
    except BaseException as error:
        journal.end(FAILED, 1, f"{type(error).__name__}: {error}")
        raise
    else:
        journal.end(COMPLETE, 0)
