"""Explain one image: read the settings, select the classes, draw the panels, print the result."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from pipeline.cam import graph
from pipeline.config import AUTO, DataConfig, ExplainConfig, load, to_settings
from pipeline.data.class_names import fold_name
from pipeline.data.datasets import open_source
from pipeline.data.decode import DecodeError, decode, read_file
from pipeline.data.pictures import Box, Rgb
from pipeline.data.source import number_duplicates
from pipeline.engine import batch_size, inference, precision
from pipeline.engine.explain import explain
from pipeline.errors import AuditError, ConfigError, DataError, close_names, one_line
from pipeline.model.classifier import Classifier, load_classifier
from pipeline.model.device import pick_device
from pipeline.report.overlay import apply_colormap, colormap_code, overlay, resize_heatmap
from pipeline.report.panels import panels
from pipeline.storage import run_folder
from pipeline.storage.paths import to_path
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_record import read_record
from pipeline.storage.run_setup import JsonObject, Setup

N_PRINTED = 5
"""Number of classes that are printed."""

Floats = NDArray[np.float32]


class Look(TypedDict):
    """Arguments of `overlay`: opacity, colour map, and the box that the model sees."""

    alpha: float
    colormap: str
    seen: Box


@dataclass(frozen=True)
class ModelOfRun:
    """The settings of a run and the setup of its plan, from which the model is loaded."""

    settings: JsonObject
    setup: Setup


@dataclass(frozen=True)
class ExplainedImage:
    """An image, the box that the model sees, and the heatmaps (T, h, w) of T classes."""

    image: Rgb
    seen: Box
    classes: list[int]
    names: list[str]
    heatmaps: Floats


def run(config: ExplainConfig, of: ModelOfRun | None = None) -> Iterator[str]:
    """Explain the image of the settings and write the panels; yields the lines to print.

    Args:
        config: the settings.
        of: the run that the settings name, if they do.

    Raises:
        ConfigError: a model, class, layer or output path cannot be used.
        DataError: the image cannot be read.
    """
    colormap_code(config.colormap)
    image = _read_image(config, of)
    classifier = _classifier(config, of)
    names = number_duplicates(
        of.setup.class_names
        if of
        else classifier.class_names or [str(index) for index in range(classifier.n_outputs)]
    )
    fitted = _fit(classifier, image)
    with classifier.cut_graph() as forward:
        probs = np.asarray(inference.probabilities(forward, classifier, fitted)[0].cpu())
    classes = select_classes(config.wanted, names, probs)
    explained = ExplainedImage(
        image,
        classifier.preprocess.seen(image.shape),
        classes,
        [f"{names[index]} ({index}) {probs[index]:.1%}" for index in classes],
        _heatmaps(config, classifier, fitted, classes),
    )
    yield from _lines(config, classifier, names, probs, explained)
    yield from (f"written: {path}" for path in _write(config, explained))


def select_classes(wanted: object, names: list[str], probs: Floats) -> list[int]:
    """Select classes by top, top3, a name, the number of an output, or a list of these.

    Names have priority over numbers, so that classes whose names are numbers are found by name.

    Args:
        wanted: the setting.
        names: unique names of the K outputs.
        probs: (K,) probabilities of the image.

    Raises:
        ConfigError: there is no such class; the message lists similar names.
    """
    order = np.argsort(-probs, kind="stable").tolist()
    found: list[int] = []
    for each in wanted if isinstance(wanted, list) else [wanted]:
        text = str(each).strip()
        top = re.fullmatch(r"top(\d*)", text)
        alike = [index for index, name in enumerate(names) if fold_name(name) == fold_name(text)]
        if text in names:
            found.append(names.index(text))
        elif top and int(top[1] or 1) > 0:
            found += order[: int(top[1] or 1)]
        elif text.isdecimal() and int(text) < len(names):
            found.append(int(text))
        elif len(alike) == 1:
            found += alike
        else:
            raise ConfigError(
                f"class: {text!r} is neither top, an output from 0 to {len(names) - 1}, nor a "
                f"class name{close_names(text, names)}"
            )
    if not found:
        raise ConfigError("class: the list is empty")
    return list(dict.fromkeys(found))


def settings(composed: DictConfig) -> tuple[ExplainConfig, ModelOfRun | None]:
    """Convert the composed settings; if they name a run, its model settings replace theirs.

    Raises:
        ConfigError: settings cannot be used, or the folder holds no run.
    """
    OmegaConf.set_struct(composed, False)  # noqa: FBT003 - has no keyword
    composed["wanted"] = composed.pop("class")
    if not composed.run:
        return to_settings(composed, ExplainConfig), None
    of = _model_of_run(to_path(composed.run))
    resolved = of.setup.resolved
    composed["model"] = of.settings["model"] | {"target_layer": resolved.target_layer}
    for key in ("cam", "seed"):
        composed[key] = of.settings[key]
    for key in ("precision", "channels_last"):
        composed[key] = getattr(resolved, key)
    if composed.batch_size == AUTO:
        composed["batch_size"] = resolved.batch_size
    return to_settings(composed, ExplainConfig), of


def _model_of_run(folder: Path) -> ModelOfRun:
    try:
        run = RunFolder(folder)
        config = read_record(run.record).config
        if not config:
            raise ConfigError("there is no run.json in it")
        return ModelOfRun(config, run_folder.read_plan(run).setup)
    except (OSError, AuditError) as error:
        raise ConfigError(f"run: {folder} is no run: {error}") from error


def _classifier(config: ExplainConfig, of: ModelOfRun | None) -> Classifier:
    """Load the model and prepare it in the precision of the settings."""
    device = pick_device(config.device)
    if of is None:
        loaded = load_classifier(config.model, device, config.seed)
    else:
        loaded = precision.load_audited(config.model, of.setup.resolved, device, config.seed)
    return precision.prepare(
        loaded,
        "fp32" if config.precision == AUTO else config.precision,
        channels_last=config.channels_last and precision.takes_channels_last(loaded),
        compiled=False,
    )


def _read_image(config: ExplainConfig, of: ModelOfRun | None) -> Rgb:
    """Read the image (H, W, 3) from a file, or by its id from the run's dataset."""
    try:
        if of is not None and not Path(config.image).is_file():
            of_run = load(OmegaConf.create(of.settings))
            source = open_source(of_run.dataset, of_run.data.max_pixels)
            if config.image in source.image_ids:
                return source.read(source.image_ids.index(config.image)).pixels
        return decode(read_file(Path(config.image)), DataConfig.max_pixels)
    except DecodeError as error:
        raise DataError(f"image: {config.image}: {one_line(error)}") from error


def _fit(classifier: Classifier, image: Rgb) -> Tensor:
    """Fit the image to the model's input size: (1, 3, H, W) uint8 on its device."""
    try:
        return classifier.preprocess.fit(image)[None].to(classifier.device)
    except DecodeError as error:
        raise DataError(f"image: {one_line(error)}") from error


def _heatmaps(
    config: ExplainConfig, classifier: Classifier, fitted: Tensor, classes: list[int]
) -> Floats:
    """Compute the heatmaps (T, h, w) of T classes, in a batch of the size that a run has."""
    copies = max(len(classes), _batch_size(config, classifier))
    targets = torch.tensor(classes, device=fitted.device).repeat(-(-copies // len(classes)))
    images = fitted.expand(copies, -1, -1, -1)
    try:
        maps = explain(classifier, images, targets[:copies], method=config.cam.method)
    except graph.LayerError as error:
        raise ConfigError(f"model.target_layer: {classifier.layer_name!r}: {error}") from error
    return np.asarray(maps[: len(classes)].cpu(), np.float32)


def _batch_size(config: ExplainConfig, classifier: Classifier) -> int:
    if isinstance(config.batch_size, int):
        return config.batch_size
    with inference.explaining(classifier, config.cam.method, config.cam.embedding_dim) as trial:
        return batch_size.find_batch_size(trial, classifier.device, classifier.preprocess.crop)


def _lines(
    config: ExplainConfig,
    classifier: Classifier,
    names: list[str],
    probs: Floats,
    explained: ExplainedImage,
) -> Iterator[str]:
    """The lines to print: the image, the layer, and the most probable classes."""
    height, width = explained.image.shape[:2]
    rows, columns = explained.heatmaps.shape[1:]
    yield f"{config.image}: {width} x {height} pixels"
    yield (
        f"{config.model.kind} {getattr(config.model, 'name', None) or config.model.factory}, layer "
        f"{classifier.layer_name} ({rows} x {columns}), {config.cam.method}, {config.precision}"
    )
    for note in classifier.warnings:
        yield f"note: {note}"
    for index in np.argsort(-probs, kind="stable")[:N_PRINTED].tolist():
        yield f"{probs[index]:7.1%}  {names[index]} ({index})"
    for name, heatmap in zip(explained.names, explained.heatmaps, strict=True):
        if not heatmap.any():
            yield f"note: the heatmap of {name} is empty: the image has no evidence for it"


def _write(config: ExplainConfig, explained: ExplainedImage) -> Iterator[Path]:
    """Write the panels and, if wanted, separate files; yields the paths."""
    stem = Path(config.image).stem
    path = Path(config.output or f"{stem}-explained.png")
    if path.exists() and Path(config.image).exists() and path.samefile(config.image):
        raise ConfigError(f"output: {path} is the image itself")
    look: Look = {"alpha": config.alpha, "colormap": config.colormap, "seen": explained.seen}
    figure = panels(explained.image, explained.heatmaps, explained.names, **look)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=120)
        yield path
        if config.separate:
            yield from _separate(path, explained, look)
    except OSError as error:
        raise ConfigError(f"output: {path} cannot be written: {error.strerror}") from error
    if config.show is True or (config.show == AUTO and _has_screen()):
        Image.open(path).show(title=stem)


def _separate(path: Path, explained: ExplainedImage, look: Look) -> Iterator[Path]:
    """Write each panel at the size of the image, and the heatmaps as float16, as a run does."""
    image = explained.image
    drawn: dict[str, Rgb] = {"original": image}
    for index, heatmap in zip(explained.classes, explained.heatmaps, strict=True):
        heat = resize_heatmap(heatmap, image.shape, explained.seen)
        drawn[f"{index}-heatmap"] = apply_colormap(heat, look["colormap"])
        drawn[f"{index}-overlay"] = overlay(image, heatmap, **look)
        numbers = path.with_name(f"{path.stem}-{index}.npy")
        np.save(numbers, heatmap.astype(np.float16))
        yield numbers
    for name, pixels in drawn.items():
        panel = path.with_name(f"{path.stem}-{name}.png")
        Image.fromarray(pixels).save(panel)
        yield panel


def _has_screen() -> bool:
    """Whether the command was typed in a terminal of a graphical session."""
    screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return screen and sys.stdout.isatty()
