"""Plan a run: resolve settings that say "auto", list the images, commit the plan.

Automatic choices are made once. A resume keeps them, and refuses changed settings by name.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, replace

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
from pipeline.storage.run_setup import Resolved, Setup

log = logging.getLogger(__name__)

COMPARED = 128
"""Number of images on which a faster precision is compared with float32."""
MIN_DATASET_FACTOR = 16
"""A dataset of fewer than this times COMPARED images runs in float32 without a comparison."""

Measured = dict[str, dict[str, float]]
"""Agreement with float32 of a precision, by its name (asdict of engine.precision.Agreement)."""


def plan_run(
    config: Config, run: RunFolder, source: Source, classifier: Classifier, device: torch.device
) -> tuple[Plan, Classifier]:
    """Return the plan of the run, and the classifier prepared as the plan says.

    A committed plan is kept; without one, a new plan is made and committed.

    Raises:
        ConfigError: class names do not match; settings or images changed since the run began.
    """
    matched = class_names.match_classes(
        source.class_names, classifier.class_names, classifier.n_outputs
    )
    names, label_index, notes = matched
    earlier = run_folder.read_plan(run) if is_file(run.plan) else None
    kept = earlier.setup if earlier else _baseline_setup(config, classifier, device)
    ready, resolved, measured = _resolve(config, source, classifier, device, kept)
    settings = result_settings(config)
    setup = Setup(
        fingerprint=fingerprint(settings | resolved.to_json()),
        settings=settings,
        resolved=resolved,
        class_names=names,
        grid=classifier.grid,
        embedding_dim=min(classifier.channels, config.cam.embedding_dim),
        preprocess=asdict(classifier.preprocess),
        n_images=len(source.image_ids),
        shard_size=config.loader.shard_size,
        ignored=source.ignored,
        warnings=[*source.warnings, *classifier.warnings, *notes],
        measured=measured,
    )
    table = make_plan(source, label_index, setup.shard_size, content=config.data.hash)
    now = Plan(table, setup)
    if earlier is not None:
        _check_unchanged(run, earlier, now)
        return earlier, ready
    run_folder.write_plan(run, now)
    return now, ready


def _resolve(
    config: Config,
    source: Source,
    classifier: Classifier,
    device: torch.device,
    earlier: Setup | None,
) -> tuple[Classifier, Resolved, Measured]:
    """Resolve the settings: the prepared classifier, the resolved settings, the measurements.

    `earlier` is the setup of this run, or of a baseline whose rows may be reused; its automatic
    choices are kept.
    """
    measured: Measured = earlier.measured if earlier else {}
    resolved = Resolved(
        camaudit=__version__,
        device=device.type,
        target_layer=classifier.layer_name,
        model_fingerprint=classifier.fingerprint,
        compile=config.compile,
        channels_last=config.channels_last and precision.takes_channels_last(classifier),
        precision=config.precision,
        batch_size=0,
    )
    if config.precision == AUTO and earlier:
        resolved = replace(resolved, precision=earlier.resolved.precision)
    elif config.precision == AUTO:
        chosen, measured = _choose_precision(config, source, classifier, resolved, device)
        resolved = replace(resolved, precision=chosen)
    ready = precision.prepare_as_resolved(classifier, resolved)
    if isinstance(config.loader.batch_size, int):
        size = config.loader.batch_size
    elif earlier:
        size = earlier.resolved.batch_size
    else:
        with inference.explaining(ready, config.cam.method, config.cam.embedding_dim) as explain:
            size = batch_size.find_batch_size(explain, device, classifier.preprocess.crop)
    return ready, replace(resolved, batch_size=size), measured


def _baseline_setup(config: Config, classifier: Classifier, device: torch.device) -> Setup | None:
    """The setup of the baseline, if it explained the same model on the same kind of device."""
    if config.baseline is None:
        return None
    setup = run_folder.read_plan(RunFolder(to_path(config.baseline)), []).setup
    same = (device.type, classifier.fingerprint)
    return setup if (setup.resolved.device, setup.resolved.model_fingerprint) == same else None


def _choose_precision(
    config: Config,
    source: Source,
    classifier: Classifier,
    resolved: Resolved,
    device: torch.device,
) -> tuple[str, Measured]:
    """Choose the fastest precision that agrees with float32 on images of the dataset."""
    fastest, n_images = precision.fastest(device), len(source.image_ids)
    if fastest == "fp32" or n_images < MIN_DATASET_FACTOR * COMPARED:
        return "fp32", {}
    images = _sample_images(config, source, classifier, device)
    if not images:
        return "fp32", {}
    exact, fast = (
        precision.prepare_as_resolved(classifier, replace(resolved, precision=name, compile=False))
        for name in ("fp32", fastest)
    )
    try:
        found = precision.agreement(exact, fast, images, config.cam.method)
    except RuntimeError as error:  # the hardware lacks an operation in this precision
        log.info("the model cannot run in %s and stays in fp32: %s", fastest, error)
        return "fp32", {}
    log.info(
        "%s on %d images: %.1f %% of the predictions and %.4f of the heatmaps (cosine) as in fp32",
        *(fastest, found.images, 100 * found.top1, found.cosine),
    )
    return fastest if found.holds else "fp32", {fastest: asdict(found)}


def _sample_images(
    config: Config, source: Source, classifier: Classifier, device: torch.device
) -> list[Tensor]:
    """Read COMPARED images, evenly spaced in the dataset, in batches (16, 3, H, W) uint8."""
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
    """Compare the committed plan with the plan of the present settings and images.

    Raises:
        ConfigError: naming every setting that differs, or the images that changed.
    """
    before, after = earlier.setup.fixed, now.setup.fixed
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
    """Describe how the images of two plans differ."""
    old, new = (
        dict(zip(plan["image_id"].to_pylist(), plan["version"].to_pylist(), strict=True))
        for plan in (before, now)
    )
    changed = [name for name in new if name in old and old[name] != new[name]]
    counts = f"{len(new.keys() - old.keys())} images new, {len(old.keys() - new.keys())} gone"
    if changed:
        return f"{counts}, {len(changed)} written since (first: {changed[0]})"
    return f"{counts}, or other labels"
