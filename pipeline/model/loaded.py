"""A model as its library builds it, and helpers shared by the libraries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pipeline.config import PreprocessConfig


@dataclass
class LoadedModel:
    """A module with the preprocessing and the class names that its library states, if any."""

    module: nn.Module
    preprocess: PreprocessConfig
    class_names: list[str] | None = None
    warnings: list[str] = field(default_factory=list)


def timm_preprocess(data: dict[str, Any]) -> PreprocessConfig:
    """Convert timm's data config: the resized side is size / crop_pct.

    Source: timm.data.transforms_factory.
    """
    crop = list(data["input_size"][1:])
    sides = [int(side / data["crop_pct"]) for side in crop]
    return PreprocessConfig(
        resize=sides if data["crop_mode"] == "squash" else min(sides),
        crop=crop,
        mean=list(data["mean"]),
        std=list(data["std"]),
        interpolation=data["interpolation"],
    )


def random_weights(name: str) -> str:
    """The warning that a model has random weights."""
    return f"{name} has random weights: set model.weights or model.checkpoint"
