"""A model as its library gives it, and what libraries have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pipeline.config import PreprocessConfig


@dataclass
class LoadedModel:
    """A module as its library gives it, with its own preprocessing and class names, if any."""

    module: nn.Module
    preprocess: PreprocessConfig
    class_names: list[str] | None = None
    warnings: list[str] = field(default_factory=list)


def timm_preprocess(data: dict[str, Any]) -> PreprocessConfig:
    """timm resizes to size / crop_pct before it crops (timm.data.transforms_factory)."""
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
    """The warning that a model was not trained."""
    return f"{name} has random weights: set model.weights or model.checkpoint"
