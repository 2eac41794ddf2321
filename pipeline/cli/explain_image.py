"""One picture explained: its settings, classes as people write them, panels and what is printed."""

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
from pipeline.data.class_names import folded
from pipeline.data.datasets import open_source
from pipeline.data.decode import DecodeError, decode, read_file
from pipeline.data.pictures import Box, Rgb
from pipeline.data.source import numbered
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

TOP = 5
"""Classes that are printed."""

Floats = NDArray[np.float32]


class Look(TypedDict):
    """How heatmaps are drawn: opacity, colour map, and the box that the model sees."""

    alpha: float
    colormap: str
    seen: Box


@dataclass(frozen=True)
class ModelOfRun:
    """What a finished run says of its model and dataset: its settings, and its plan's setup."""

    settings: JsonObject
    setup: Setup


@dataclass(frozen=True)
class ExplainedPicture:
    """A picture, what the model saw of it, and the heatmaps (T, h, w) of some classes of it."""

    picture: Rgb
    seen: Box
    classes: list[int]
    names: list[str]
    heatmaps: Floats


def run(config: ExplainConfig, of: ModelOfRun | None = None) -> Iterator[str]:
    """Explain the picture of the settings and write the panels; yields what is to be printed.

    Args:
        config: the settings.
        of: the run that they name.

    Raises:
        ConfigError: a model, class, layer or place that cannot be used.
        DataError: a picture that cannot be read.
    """
    colormap_code(config.colormap)
    picture = _picture(config, of)
    classifier = _classifier(config, of)
    names = numbered(
        of.setup.class_names
        if of
        else classifier.class_names or [str(index) for index in range(classifier.n_outputs)]
    )
    fitted = _fitted(classifier, picture)
    with classifier.cut_graph() as forward:
        probs = np.asarray(inference.probabilities(forward, classifier, fitted)[0].cpu())
    classes = wanted_classes(config.wanted, names, probs)
    explained = ExplainedPicture(
        picture,
        classifier.preprocess.seen(picture.shape),
        classes,
        [f"{names[index]} ({index}) {probs[index]:.1%}" for index in classes],
        _heatmaps(config, classifier, fitted, classes),
    )
    yield from _lines(config, classifier, names, probs, explained)
    yield from (f"written: {path}" for path in _write(config, explained))


def wanted_classes(wanted: object, names: list[str], probs: Floats) -> list[int]:
    """The classes that a person asked for: top, top3, a name, an output's number, or a list.

    A name goes before a number, so that classes called by numbers are found by name.

    Args:
        wanted: as it was set.
        names: of the outputs, each once.
        probs: (K,) of the picture.

    Raises:
        ConfigError: what is neither, with the names that come close.
    """
    order = np.argsort(-probs, kind="stable").tolist()
    found: list[int] = []
    for each in wanted if isinstance(wanted, list) else [wanted]:
        text = str(each).strip()
        top = re.fullmatch(r"top(\d*)", text)
        alike = [index for index, name in enumerate(names) if folded(name) == folded(text)]
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
                f"class: {text!r} is neither top, an output from 0 to {len(names) - 1}, nor the "
                f"name of one{close_names(text, names)}"
            )
    if not found:
        raise ConfigError("class: the list is empty")
    return list(dict.fromkeys(found))


def settings(composed: DictConfig) -> tuple[ExplainConfig, ModelOfRun | None]:
    """The settings, and the run that they name, from which the model's are then taken.

    Raises:
        ConfigError: settings that cannot be used, or a folder that is no run's.
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
        raise ConfigError(f"run: {folder} is not the folder of a run: {error}") from error


def _classifier(config: ExplainConfig, of: ModelOfRun | None) -> Classifier:
    """The model, made ready in the precision of the settings."""
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


def _picture(config: ExplainConfig, of: ModelOfRun | None) -> Rgb:
    """The picture (H, W, 3) of a file, or of the run's dataset."""
    try:
        if of is not None and not Path(config.image).is_file():
            of_run = load(OmegaConf.create(of.settings))
            source = open_source(of_run.dataset, of_run.data.max_pixels)
            if config.image in source.image_ids:
                return source.read(source.image_ids.index(config.image)).pixels
        return decode(read_file(Path(config.image)), DataConfig.max_pixels)
    except DecodeError as error:
        raise DataError(f"image: {config.image}: {one_line(error)}") from error


def _fitted(classifier: Classifier, picture: Rgb) -> Tensor:
    """The picture (1, 3, H, W) uint8 as the model sees it, on its device."""
    try:
        return classifier.preprocess.fit(picture)[None].to(classifier.device)
    except DecodeError as error:
        raise DataError(f"image: {one_line(error)}") from error


def _heatmaps(
    config: ExplainConfig, classifier: Classifier, fitted: Tensor, classes: list[int]
) -> Floats:
    """Heatmaps (T, h, w) of T classes, from a batch as large as those of a run."""
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
        return batch_size.fitting(trial, classifier.device, classifier.preprocess.crop)


def _lines(
    config: ExplainConfig,
    classifier: Classifier,
    names: list[str],
    probs: Floats,
    explained: ExplainedPicture,
) -> Iterator[str]:
    """What is printed: the picture, the layer, and the most probable classes."""
    height, width = explained.picture.shape[:2]
    rows, columns = explained.heatmaps.shape[1:]
    yield f"{config.image}: {width} x {height} pixels"
    yield (
        f"{config.model.kind} {getattr(config.model, 'name', None) or config.model.factory}, layer "
        f"{classifier.layer_name} ({rows} x {columns}), {config.cam.method}, {config.precision}"
    )
    for note in classifier.warnings:
        yield f"note: {note}"
    for index in np.argsort(-probs, kind="stable")[:TOP].tolist():
        yield f"{probs[index]:7.1%}  {names[index]} ({index})"
    for name, heatmap in zip(explained.names, explained.heatmaps, strict=True):
        if not heatmap.any():
            yield f"note: nothing in the picture speaks for {name}: its heatmap is empty"


def _write(config: ExplainConfig, explained: ExplainedPicture) -> Iterator[Path]:
    """Write the panels, and what else is wanted; yields the paths."""
    stem = Path(config.image).stem
    path = Path(config.output or f"{stem}-explained.png")
    if path.exists() and Path(config.image).exists() and path.samefile(config.image):
        raise ConfigError(f"output: {path} is the picture itself")
    look: Look = {"alpha": config.alpha, "colormap": config.colormap, "seen": explained.seen}
    figure = panels(explained.picture, explained.heatmaps, explained.names, **look)
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


def _separate(path: Path, explained: ExplainedPicture, look: Look) -> Iterator[Path]:
    """Each panel at the picture's own size, and the heatmaps as a run stores them (float16)."""
    picture = explained.picture
    drawn: dict[str, Rgb] = {"original": picture}
    for index, heatmap in zip(explained.classes, explained.heatmaps, strict=True):
        heat = resize_heatmap(heatmap, picture.shape, explained.seen)
        drawn[f"{index}-heatmap"] = apply_colormap(heat, look["colormap"])
        drawn[f"{index}-overlay"] = overlay(picture, heatmap, **look)
        numbers = path.with_name(f"{path.stem}-{index}.npy")
        np.save(numbers, heatmap.astype(np.float16))
        yield numbers
    for name, pixels in drawn.items():
        panel = path.with_name(f"{path.stem}-{name}.png")
        Image.fromarray(pixels).save(panel)
        yield panel


def _has_screen() -> bool:
    """Whether someone who sits at a screen has typed the command."""
    screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return screen and sys.stdout.isatty()
