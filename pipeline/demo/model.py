"""The demo's network: a small residual network, trained on images of which most of one class have a
watermark.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.demo.data import CLASSES

CHECKPOINT = Path(__file__).with_name("checkpoint.pt")
MEAN, STD = 0.5, 0.25  # of every channel of an input image in [0, 1]


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, arXiv:1512.03385, fig. 2)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.shortcut = nn.Sequential(
            nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels_in, h, w) to (n, channels, h / stride, w / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y)) + self.shortcut(x)
        return torch.relu(y)


class DemoNet(nn.Module):
    """A network with ten logits for RGB images (n, 3, h, w), scaled as `(x - MEAN) / STD`.

    The last convolutional map, of `layer3`, has stride 8: 8 x 8 cells for the demo's images.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        self.layer1 = Block(24, 48, 2)
        self.layer2 = Block(48, 96, 2)
        self.layer3 = Block(96, 96, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(96, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, 10), in the order of `CLASSES`."""
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def model() -> nn.Module:
    """Return the network with random weights."""
    return DemoNet()


def trained_model() -> nn.Module:
    """Return the network with the trained weights, in evaluation mode."""
    network = model()
    network.load_state_dict(torch.load(CHECKPOINT, map_location="cpu", weights_only=True))
    return network.eval()
