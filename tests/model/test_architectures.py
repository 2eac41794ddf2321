"""Models of today without a line of user code: the layer that auto finds, and its maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from helpers import reference
from pipeline.cam import graph, methods
from pipeline.cam.graph import CHANNELS_FIRST, CHANNELS_LAST, TOKENS, Layout
from pipeline.config import PreprocessConfig, ZooModel
from pipeline.model.classifier import Classifier, load_classifier

# In double precision two right implementations agree to rounding; in single precision the random
# networks of this test amplify it a thousandfold and more, layer by layer.
DOUBLE = 1e-9
FIRST, LAST = CHANNELS_FIRST, CHANNELS_LAST


@dataclass(frozen=True)
class Known:
    """A model, the side of its pictures, and what is known of it from its papers and code."""

    library: str
    name: str
    side: int
    layer: str
    channels: int
    layout: Layout


def square(kind: str, side: int, prefix: int = 0) -> Layout:
    return Layout(kind, side, side, prefix)


TV, TIMM = "torchvision", "timm"
TABLE = [
    Known(TV, "resnet18", 64, "layer4", 512, square(FIRST, 2)),
    Known(TV, "densenet121", 64, "features", 1024, square(FIRST, 2)),
    Known(TV, "efficientnet_b0", 64, "features", 1280, square(FIRST, 2)),
    Known(TV, "mobilenet_v3_small", 64, "features", 576, square(FIRST, 2)),
    Known(TV, "convnext_tiny", 64, "features", 768, square(FIRST, 2)),
    Known(TV, "squeezenet1_1", 64, "classifier.2", 1000, square(FIRST, 3)),
    Known(TV, "swin_t", 64, "permute", 768, square(FIRST, 2)),
    Known(TIMM, "convnextv2_atto", 64, "stages", 320, square(FIRST, 2)),
    Known(TIMM, "vit_tiny_patch16_224", 224, "blocks.11.norm1", 192, square(TOKENS, 14, 1)),
    Known(
        TIMM,
        "deit_tiny_distilled_patch16_224",  # a class token and one of the teacher
        *(224, "blocks.11.norm1", 192, square(TOKENS, 14, 2)),
    ),
    Known(  # averages its patches, without class token, and has a register
        TIMM,
        "vit_wee_patch16_reg1_gap_256",
        *(256, "blocks", 256, square(TOKENS, 16, 1)),
    ),
    Known(TIMM, "swin_tiny_patch4_window7_224", 224, "norm", 768, square(LAST, 7)),
    Known(TIMM, "maxvit_rmlp_pico_rw_256", 256, "norm", 256, square(FIRST, 8)),
    Known(TIMM, "levit_128s", 224, "stages", 384, square(TOKENS, 4)),
    Known(
        TIMM,
        "cait_xxs24_224",
        *(224, "blocks_token_only.1.norm1", 192, square(TOKENS, 14, 1)),
    ),
]
MORE = [  # relatives of those, for scripts/test -m zoo
    Known(TV, "resnext50_32x4d", 64, "layer4", 2048, square(FIRST, 2)),
    Known(TV, "mobilenet_v2", 64, "features", 1280, square(FIRST, 2)),
    Known(TV, "regnet_y_400mf", 64, "trunk_output", 440, square(FIRST, 2)),
    Known(TV, "shufflenet_v2_x0_5", 64, "conv5", 1024, square(FIRST, 2)),
    Known(TV, "vit_b_32", 224, "encoder.layers.encoder_layer_11.ln_1", 768, square(TOKENS, 7, 1)),
    Known(TV, "swin_v2_t", 64, "permute", 768, square(FIRST, 2)),
    Known(TV, "maxvit_t", 224, "blocks.3", 512, square(FIRST, 7)),
    Known(TIMM, "resnet18", 64, "layer4", 512, square(FIRST, 2)),
    Known(TIMM, "densenet121", 64, "features", 1024, square(FIRST, 2)),
    Known(TIMM, "efficientnet_b0", 64, "bn2", 1280, square(FIRST, 2)),
    Known(TIMM, "mobilenetv3_small_050", 64, "blocks", 288, square(FIRST, 2)),
    Known(TIMM, "convnext_atto", 64, "stages", 320, square(FIRST, 2)),
    Known(TIMM, "regnety_002", 64, "s4", 368, square(FIRST, 2)),
    Known(TIMM, "deit_tiny_patch16_224", 224, "blocks.11.norm1", 192, square(TOKENS, 14, 1)),
    Known(TIMM, "swinv2_cr_tiny_ns_224", 224, "stages", 768, square(FIRST, 7)),
    Known(TIMM, "mixer_s16_224", 224, "norm", 512, square(TOKENS, 14)),
]


@pytest.mark.parametrize(
    "known",
    [*TABLE, *(pytest.param(known, marks=pytest.mark.zoo) for known in MORE)],
    ids=lambda known: f"{known.library}-{known.name}",
)
def test_auto_finds_the_layer_and_its_maps_are_right(known: Known) -> None:
    preprocess = PreprocessConfig(resize=known.side)
    config = ZooModel(known.library, name=known.name, weights=None, preprocess=preprocess)
    found = load_classifier(config, torch.device("cpu"), seed=0)
    assert (found.layer_name, found.channels, found.layout) == (
        known.layer,
        known.channels,
        known.layout,
    )
    network = found.module.network
    reference.enliven(network)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, known.side, known.side, generator=generator)
    targets = found.module(images).argsort(dim=1, descending=True)[:, :3]
    wanted = reference.heatmaps(network, known.layer, known.layout, images, targets)
    peak = wanted.max(axis=(2, 3), keepdims=True)
    assert (peak.max(axis=0) > 0).all(), "an image has evidence for none of its first classes"
    scale = np.where(peak > 0, peak, peak.max(axis=0))
    found.module.double()
    assert (np.abs(heatmaps(found, images.double(), targets) - wanted) / scale).max() < DOUBLE


def heatmaps(found: Classifier, images: Tensor, targets: Tensor) -> NDArray[np.float64]:
    """(T, N, h, w) as the pipeline makes them."""
    with found.cut_graph() as forward:
        logits, activations = forward(images)
        gradients = graph.compute_gradients(logits, activations, targets)
    return np.stack([methods.gradcam(activations.detach(), slope).numpy() for slope in gradients])
