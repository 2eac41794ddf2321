"""Log an attempt in MLflow: settings, figures, tables and report, if a server is set."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from pipeline.config import Config, leaves
from pipeline.errors import one_line
from pipeline.run.monitoring import prometheus
from pipeline.run.state import Journal
from pipeline.storage.files import fetched, has_files
from pipeline.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

MAX_PARAMS = 100
"""Most settings in one request to MLflow's REST API."""
MAX_PARAM_LENGTH = 500
"""Most characters of a setting; older servers refuse longer values."""


def write(config: Config, journal: Journal) -> None:
    """Log the attempt; a failure of the server is a warning and changes no exit code."""
    if config.mlflow.tracking_uri is None:
        return
    try:
        from mlflow import MlflowClient  # noqa: PLC0415 - an extra, and slow
    except ImportError:
        log.warning("mlflow is not installed; pip install 'camaudit[mlflow]'")
        return
    try:
        _write(MlflowClient(config.mlflow.tracking_uri), config, journal)
    except Exception as error:  # noqa: BLE001 - the audit itself is complete
        log.warning("mlflow: the run could not be logged: %s", one_line(error, with_type=False))


def _write(client: MlflowClient, config: Config, journal: Journal) -> None:
    from mlflow.entities import Metric, Param  # noqa: PLC0415 - as above

    name, code = config.mlflow.experiment, journal.attempt.exit_code
    experiment = client.get_experiment_by_name(name)
    where = experiment.experiment_id if experiment else client.create_experiment(name)
    tags = {"camaudit.run": config.run_id, "camaudit.state": journal.attempt.state}
    run = client.create_run(where, run_name=config.run_id, tags=tags).info
    params = [Param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in leaves(asdict(config))]
    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(run.run_id, params=params[start : start + MAX_PARAMS])
    metrics = [Metric(key, value, run.start_time, 0) for key, value in _figures(config, journal)]
    client.log_batch(run.run_id, metrics=metrics)
    _write_files(client, run.run_id, RunFolder(config.folder))
    client.set_terminated(run.run_id, "FINISHED" if code in prometheus.COMPLETE_CODES else "FAILED")


def _figures(config: Config, journal: Journal) -> Iterator[tuple[str, float]]:
    """The figures of metrics.prom; a label is part of the name, such as images.error."""
    for figure in prometheus.figures(config, journal, None):
        yield ".".join([figure.name, *figure.labels.values()]), float(figure.value)


def _write_files(client: MlflowClient, run_id: str, folder: RunFolder) -> None:
    for path, place in ((folder.analysis("").parent, "analysis"), (folder.report, "report")):
        if has_files(path):
            with fetched(path) as copy:
                client.log_artifacts(run_id, str(copy), place)
    with fetched(folder.record) as copy:
        client.log_artifact(run_id, str(copy))
