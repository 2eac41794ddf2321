"""explain: every planned image through the model, one row each, one Parquet part per shard."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import __version__, cam, dataset, engine, model, store, summary
from pipeline.config import AUTO, Config, fingerprint, result_settings
from pipeline.dataset import Batch
from pipeline.errors import ConfigError
from pipeline.model import Classifier
from pipeline.ops import Journal, pick_device, progress
from pipeline.schema import Setup, part_schema
from pipeline.sources import open_source
from pipeline.sources.source import Source
from pipeline.store import Plan, RunFolder

log = logging.getLogger(__name__)

BATCH_SIZES = {"cpu": 32, "cuda": 256}
NOT_FINITE = "the model's logits or heatmap for it are not finite (NaN or infinite)"


@dataclass(frozen=True)
class Job:
    """All that a worker needs to compute shards."""

    config: Config
    run: RunFolder
    plan: Plan
    source: Source
    classifier: Classifier
    device: torch.device


def run(config: Config, journal: Journal) -> None:
    """Plan the images, compute the shards that are missing, commit each as one part.

    Raises:
        ConfigError: settings that differ from those the run was begun with.
        DataError: a dataset that cannot be listed.
    """
    folder, device = RunFolder(config.folder), pick_device(config.device)
    journal.attempt.device = str(device)
    journal.warnings.clear()
    source = open_source(config.dataset, config.data.max_pixels)
    if source.ignored:
        files = ", ".join(f"{count} {suffix}" for suffix, count in source.ignored.items())
        log.info("files that are no images were left out: %s", files)
    classifier = model.load(config.model, device, config.seed)
    plan = make_plan(config, folder, source, classifier, device)
    for warning in plan.setup.warnings:
        journal.warn(warning)
    missing = store.missing_shards(folder, plan.setup)
    todo = sum(len(plan.setup.rows(shard)) for shard in missing)
    log.info("%d images to explain, %d are done", todo, plan.setup.n_images - todo)
    if missing:
        job = Job(config, folder, plan, source, classifier, device)
        execute = importlib.import_module(f"pipeline.executors.{config.executor.name}").run
        begun = time.perf_counter()
        with progress(plan.setup.n_images, plan.setup.n_images - todo) as advance:
            execute(partial(explain_shards, job), missing, advance)
        journal.attempt.images = todo
        journal.attempt.images_per_second = round(todo / (time.perf_counter() - begun), 2)
    summary.review(folder, plan.setup, journal)


def make_plan(
    config: Config, folder: RunFolder, source: Source, classifier: Classifier, device: torch.device
) -> Plan:
    """The plan of the run: the committed one where it still holds, else a new one.

    Raises:
        ConfigError: naming the settings or images that changed since the run was begun.
    """
    names, label_index, notes = dataset.match_classes(
        source.class_names, classifier.class_names, classifier.n_outputs
    )
    earlier = store.read_plan(folder) if folder.plan.is_file() else None
    settings = result_settings(config)
    decided = _decide(config, classifier, device, earlier)
    setup = Setup(
        fingerprint=fingerprint(settings | decided),
        settings=settings,
        decided=decided,
        class_names=names,
        grid=classifier.grid,
        embedding_dim=min(classifier.channels, config.cam.embedding_dim),
        preprocess=asdict(classifier.preprocess),
        n_images=len(source.image_ids),
        shard_size=config.loader.shard_size,
        warnings=classifier.warnings + notes,
    )
    table = dataset.make_plan(source, label_index, setup.shard_size)
    if earlier is not None:
        _check_unchanged(folder, earlier, Plan(table, setup))
        return earlier
    plan = Plan(table, setup)
    store.write_plan(folder, plan)
    return plan


def explain_shards(job: Job, shards: list[int], advance: Callable[[int], object]) -> None:
    """Compute shards in order and commit each when its last batch is done."""
    setup, classifier = job.plan.setup, job.classifier
    loader = dataset.make_loader(
        job.source.read,
        classifier.preprocess.fit,
        setup,
        shards,
        dataset.workers(job.config.loader.num_workers),
        pin=job.device.type == "cuda",
    )
    batches = iter(loader)
    matrix = engine.projection(classifier.channels, setup.embedding_dim, job.device)
    with cam.cut_graph(classifier.module, classifier.layer) as forward:
        explain = partial(
            engine.explain, forward, classifier, method=job.config.cam.method, projection=matrix
        )
        for shard in shards:
            tables = []
            for _ in range(-(-len(setup.rows(shard)) // setup.batch_size)):
                tables.append(_explain_batch(job, next(batches), explain))
                advance(len(tables[-1]))
            store.commit_part(job.run, setup, shard, pa.concat_tables(tables))


def _explain_batch(job: Job, batch: Batch, explain: Callable[..., dict[str, Tensor]]) -> pa.Table:
    """The rows of a batch, in planned order, errors included."""
    indices = sorted(batch.indices + [index for index, _ in batch.errors])
    planned = job.plan.table.slice(indices[0], len(indices))
    errors = dict(batch.errors)
    if not batch.indices:
        return _rows(planned, None, errors, job.plan.setup)
    labels = planned["label_index"].fill_null(engine.NO_LABEL).to_numpy()
    good = np.asarray(batch.indices) - indices[0]
    columns = explain(
        batch.images.to(job.device, non_blocking=True),
        torch.as_tensor(labels[good], dtype=torch.long, device=job.device),
        objects=None if batch.objects is None else batch.objects.to(job.device),
    )
    arrays = {name: values.cpu().numpy() for name, values in columns.items()}
    sizes = np.asarray(batch.sizes)
    arrays |= {"image_width": sizes[:, 0], "image_height": sizes[:, 1]}
    valid = arrays.pop("valid")
    errors |= {index: NOT_FINITE for index, ok in zip(batch.indices, valid, strict=True) if not ok}
    return _rows(planned, (good, arrays), errors, job.plan.setup)


def _rows(
    planned: pa.Table,
    found: tuple[NDArray[np.int64], dict[str, NDArray[Any]]] | None,
    errors: dict[int, str],
    setup: Setup,
) -> pa.Table:
    """Arrow rows for the planned images; `found` holds positions and columns of those explained."""
    schema = part_schema(setup.grid, setup.embedding_dim)
    texts = [errors.get(index) for index in planned["index"].to_pylist()]
    columns: dict[str, Any] = {name: planned[name] for name in schema.names[:4]}
    columns["status"] = pa.array("ok" if text is None else "error" for text in texts)
    columns["error"] = pa.array(texts, pa.string())
    failed = np.array([text is not None for text in texts])
    positions, arrays = found or (np.arange(0), {})
    for name, values in arrays.items():
        rows = np.full((len(texts), *values.shape[1:]), np.nan, np.float64)
        rows[positions] = values
        rows[failed] = np.nan
        columns[name] = _array(rows, schema.field(name).type)
    if "pred_index" in columns:
        columns["pred"] = pa.array(setup.class_names).take(columns["pred_index"])
    arrays_in_order = [
        columns[field.name] if field.name in columns else pa.nulls(len(texts), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays_in_order, schema=schema)


def _array(rows: NDArray[np.float64], kind: pa.DataType) -> pa.Array:
    """Numbers to Arrow, NaN to null; a row of a list that begins with NaN has no list."""
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(rows, kind, mask=np.isnan(rows), safe=False)
    if rows.shape[1] < kind.list_size:  # fewer classes than places in the top list
        rows = np.pad(rows, ((0, 0), (0, kind.list_size - rows.shape[1])), constant_values=np.nan)
    flat = rows.reshape(-1)
    to_numpy = kind.value_type.to_pandas_dtype()
    gaps = np.isnan(flat)
    values = pa.array(np.nan_to_num(flat).astype(to_numpy), kind.value_type, mask=gaps)
    return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=pa.array(np.isnan(rows[:, 0])))


def _decide(
    config: Config, classifier: Classifier, device: torch.device, earlier: Plan | None
) -> dict[str, Any]:
    """What decides numbers and may be found automatically; a resume keeps what was found."""
    batch_size = config.loader.batch_size
    if batch_size == AUTO:
        kept = earlier and earlier.setup.decided.get("loader.batch_size")
        batch_size = kept or BATCH_SIZES.get(device.type, BATCH_SIZES["cuda"])
    return {
        "camaudit": __version__,
        "device": device.type,
        "loader.batch_size": batch_size,
        "model.target_layer": classifier.layer_name,
        "model.fingerprint": classifier.fingerprint,
    }


def _check_unchanged(folder: RunFolder, earlier: Plan, now: Plan) -> None:
    before = earlier.setup.settings | earlier.setup.decided
    after = now.setup.settings | now.setup.decided
    changed = [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    if earlier.setup.class_names != now.setup.class_names:
        changed.append("class names")
    if not changed and not earlier.table.equals(now.table):
        old, new = (set(plan.table["image_id"].to_pylist()) for plan in (earlier, now))
        changed.append(
            f"dataset: {len(new - old)} images new, {len(old - new)} gone, or other labels"
        )
    if changed:
        raise ConfigError(
            f"{folder.path} was begun differently; set these back or choose another run_id:\n  "
            + "\n  ".join(changed)
        )
