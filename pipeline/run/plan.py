"""Before the first image: what is left open is decided, and written into the plan with the images.

What was found automatically is found once. A resume keeps it, and refuses by name what changed.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline import __version__
from pipeline.config import AUTO, Config, fingerprint, result_settings
from pipeline.data import class_names
from pipeline.data.loader import load_images, n_loader_processes
from pipeline.data.source import Source
from pipeline.engine import batch_size, inference, precision
from pipeline.errors import ConfigError
from pipeline.model.classifier import Classifier
from pipeline.run.plan_table import make_plan
from pipeline.storage import run_folder
from pipeline.storage.files import is_file
from pipeline.storage.paths import to_path
from pipeline.storage.run_folder import Plan, RunFolder
from pipeline.storage.run_setup import Setup

log = logging.getLogger(__name__)

COMPARED = 128
"""Images on which a faster precision is held against float32."""
WORTH = 16
"""A dataset so many times larger is worth the comparison; a smaller one runs in float32."""


def make(
    config: Config, run: RunFolder, source: Source, classifier: Classifier, device: torch.device
) -> tuple[Plan, Classifier]:
    """The plan of the run, and the classifier made ready as it says.

    The committed plan where it still holds, else a new one, which is then committed.

    Raises:
        ConfigError: class names that do not match; the settings or images that changed since the
            run was begun.
    """
    names, label_index, notes = class_names.match_classes(
        source.class_names, classifier.class_names, classifier.n_outputs
    )
    earlier = run_folder.read_plan(run) if is_file(run.plan) else None
    kept = earlier.setup if earlier else _of_baseline(config, classifier, device)
    ready, decided, measured = _decide(config, source, classifier, device, kept)
    settings = result_settings(config)
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
        measured=measured,
    )
    table = make_plan(source, label_index, setup.shard_size, content=config.data.hash)
    now = Plan(table, setup)
    if earlier is not None:
        _check_unchanged(run, earlier, now)
        return earlier, ready
    run_folder.write_plan(run, now)
    return now, ready


def _decide(
    config: Config,
    source: Source,
    classifier: Classifier,
    device: torch.device,
    earlier: Setup | None,
) -> tuple[Classifier, dict[str, Any], dict[str, Any]]:
    """The classifier made ready, what decides numbers, and the measurements that decided it.

    What was decided earlier is kept: by this run, or by a baseline whose rows could then be taken.
    """
    kept: dict[str, Any] = earlier.decided if earlier else {}
    measured: dict[str, Any] = earlier.measured if earlier else {}
    decided: dict[str, Any] = {
        "camaudit": __version__,
        "device": device.type,
        "model.target_layer": classifier.layer_name,
        "model.fingerprint": classifier.fingerprint,
        "compile": config.compile,
        "channels_last": config.channels_last and precision.takes_channels_last(classifier),
        "precision": config.precision,
        "loader.batch_size": config.loader.batch_size,
    }
    if decided["precision"] == AUTO and earlier:
        decided["precision"] = kept.get("precision")
    elif decided["precision"] == AUTO:
        decided["precision"], measured = _choose(config, source, classifier, decided, device)
    ready = precision.as_decided(classifier, decided)
    if decided["loader.batch_size"] == AUTO and earlier:
        decided["loader.batch_size"] = kept.get("loader.batch_size")
    elif decided["loader.batch_size"] == AUTO:
        with inference.explaining(ready, config.cam.method, config.cam.embedding_dim) as explain:
            size = batch_size.fitting(explain, device, classifier.preprocess.crop)
        decided["loader.batch_size"] = size
    return ready, decided, measured


def _of_baseline(config: Config, classifier: Classifier, device: torch.device) -> Setup | None:
    """What the baseline decided, where it had the same model on the same kind of device."""
    if config.baseline is None:
        return None
    setup = run_folder.read_plan(RunFolder(to_path(config.baseline)), []).setup
    same = (device.type, classifier.fingerprint)
    found = (setup.decided.get("device"), setup.decided.get("model.fingerprint"))
    return setup if found == same else None


def _choose(
    config: Config,
    source: Source,
    classifier: Classifier,
    decided: dict[str, Any],
    device: torch.device,
) -> tuple[str, dict[str, Any]]:
    """The fastest precision that says the same as float32 on images of the dataset."""
    fastest, n_images = precision.fastest(device), len(source.image_ids)
    if fastest == "fp32" or n_images < WORTH * COMPARED:
        return "fp32", {}
    images = _pictures(config, source, classifier, device)
    if not images:
        return "fp32", {}
    exact, fast = (
        precision.as_decided(classifier, decided | {"precision": name, "compile": False})
        for name in ("fp32", fastest)
    )
    try:
        found = precision.agreement(exact, fast, images, config.cam.method)
    except RuntimeError as error:  # an operation that is not there in these numbers
        log.info("%s cannot run this model, which stays in fp32: %s", fastest, error)
        return "fp32", {}
    log.info(
        "%s on %d images: %.1f %% of the predictions and %.4f of the heatmaps (cosine) as in fp32",
        *(fastest, found.images, 100 * found.top1, found.cosine),
    )
    return fastest if found.holds else "fp32", {fastest: asdict(found)}


def _pictures(
    config: Config, source: Source, classifier: Classifier, device: torch.device
) -> list[Tensor]:
    """COMPARED images (N, 3, H, W) uint8 from all over the dataset, in batches."""
    spread = np.linspace(0, len(source.image_ids) - 1, COMPARED).round().astype(int).tolist()
    batches = [spread[at : at + 16] for at in range(0, COMPARED, 16)]
    loader = load_images(
        source.read,
        classifier.preprocess.fit,
        batches,
        n_loader_processes(config.loader.num_workers),
        timeout=config.data.timeout,
    )
    return [batch.images.to(device) for batch in loader if batch.indices]


def _check_unchanged(run: RunFolder, earlier: Plan, now: Plan) -> None:
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
        changed.append(f"dataset: {_changed_images(earlier.table, now.table)}")
    if changed:
        raise ConfigError(
            f"{run.path} was begun differently; set these back or choose another run_id:\n  "
            + "\n  ".join(changed)
        )


def _changed_images(before: pa.Table, now: pa.Table) -> str:
    """How the images of two plans differ, in words."""
    old, new = (
        dict(zip(plan["image_id"].to_pylist(), plan["version"].to_pylist(), strict=True))
        for plan in (before, now)
    )
    changed = [name for name in new if name in old and old[name] != new[name]]
    told = f"{len(new.keys() - old.keys())} images new, {len(old.keys() - new.keys())} gone"
    if changed:
        return f"{told}, {len(changed)} written since (first: {changed[0]})"
    return f"{told}, or other labels"
