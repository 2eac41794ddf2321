"""Faster numbers: what is cast and what is not, and whether they say what float32 says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pipeline import config as settings
from pipeline.cam.graph import CHANNELS_FIRST, Layout
from pipeline.engine import inference, precision
from pipeline.engine.precision import Agreement
from pipeline.model import outputs
from pipeline.model.classifier import Classifier
from pipeline.model.outputs import LogitsModule
from pipeline.model.preprocess import Preprocess

SIDE = 16


class Net(nn.Module):
    """A backbone, the explained layer, a head; `tied` is in both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tied = nn.Linear(SIDE, SIDE)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.maps = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 5)."""
        maps = self.maps(self.stem(self.tied(images))).relu()
        logits: Tensor = self.head(self.tied(maps).mean(dim=(2, 3)))
        return logits


def classifier(net: nn.Module | None = None) -> Classifier:
    return Classifier(
        module=LogitsModule((net or Net()).eval(), "multiclass"),
        layer_name="maps",
        layout=Layout(CHANNELS_FIRST, SIDE, SIDE),
        preprocess=Preprocess(SIDE, (SIDE, SIDE)),
        class_names=None,
        n_outputs=5,
        channels=8,
        fingerprint="",
        warnings=[],
    )


def pictures(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, 256, (n, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def prepared(name: str, model: Classifier | None = None, **how: bool) -> Classifier:
    how = {"channels_last": False, "compiled": False, **how}
    return precision.prepare(model or classifier(), name, **how)


def test_the_trunk_ends_with_the_explained_layer() -> None:
    assert precision.backbone_names(classifier()) == ["stem.0", "stem.1", "stem.2", "stem", "maps"]


def test_weights_of_the_trunk_alone_are_cast_and_the_model_stays_as_it_is() -> None:
    model = classifier()
    fast = prepared("bf16", model)
    dtypes = {name: p.dtype for name, p in fast.module.network.named_parameters()}
    cast = {name for name, dtype in dtypes.items() if dtype == torch.bfloat16}
    assert cast == {"stem.0.weight", "stem.0.bias", "maps.weight", "maps.bias"}
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    assert fast.backbone_dtype == torch.bfloat16
    assert model.backbone_dtype is None


@pytest.mark.parametrize("name", ["bf16", "fp16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_fast_maps_are_near_those_of_float32(name: str, channels_last: bool) -> None:
    exact, fast = classifier(), prepared(name, channels_last=channels_last)
    found = precision.agreement(exact, fast, [pictures(30), pictures(10)])
    assert found.images == 40
    assert found.top1 >= 0.95
    assert 0.99 < found.cosine < 1


def test_float32_is_exact_in_either_memory_format() -> None:
    found = precision.agreement(classifier(), prepared("fp32", channels_last=True), [pictures(20)])
    assert found.holds
    assert found.cosine == pytest.approx(1, abs=1e-6)


def test_batch_norms_of_the_trunk_are_folded_away() -> None:
    outputs = prepared("fp32", channels_last=True).module.network
    assert isinstance(outputs.get_submodule("stem.1"), nn.Identity)
    assert "stem.0.bias" in dict(outputs.named_parameters())


class Twice(Net):
    """What the convolution gives is used before the batch norm, too."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 5)."""
        first = self.stem[0](self.tied(images))
        maps = self.maps((self.stem[1](first) + first).relu())
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits


def test_a_batch_norm_that_cannot_be_folded_stays() -> None:
    for net, layer_name in ((Twice(), "maps"), (Net(), "stem.0")):  # stem.0 itself is explained
        nn.init.uniform_(net.get_parameter("stem.1.weight"), 1, 2)
        model = replace(classifier(net), layer_name=layer_name)
        fast = prepared("fp32", model, channels_last=True)
        assert isinstance(fast.module.network.get_submodule("stem.1"), nn.BatchNorm2d)
        assert precision.agreement(model, fast, [pictures(10)]).cosine > 0.999999


def test_agreement_counts_what_differs() -> None:
    model, images = classifier(), pictures(40)
    other = classifier()
    with torch.no_grad():
        other.module.network.get_parameter("head.weight").mul_(-1)
    maps, predicted = inference.heatmaps(model, images)
    others, changed = inference.heatmaps(other, images, predicted)
    alive = (maps.amax(dim=1) > 0) & (others.amax(dim=1) > 0)
    cosine = nn.functional.cosine_similarity(maps, others)[alive].mean()
    found = precision.agreement(model, other, [images[:16], images[16:]])
    assert found.top1 == pytest.approx(float((predicted == changed).float().mean()))
    assert found.cosine == pytest.approx(float(cosine), abs=1e-6)
    assert not found.holds


@pytest.mark.parametrize(
    ("top1", "cosine", "holds"),
    [(1, 1, True), (0.99, 0.99, True), (0.98, 1, False), (1, 0.98, False), (1, math.nan, False)],
)
def test_a_precision_is_taken_only_where_it_agrees(top1: float, cosine: float, holds: bool) -> None:
    assert Agreement(top1, cosine, 128).holds is holds


def test_a_model_that_calls_view_is_not_run_channels_last() -> None:
    class Views(Net):
        def forward(self, images: Tensor) -> Tensor:
            """Logits (N, 5)."""
            maps = self.stem(images)
            maps = maps.view(len(maps), -1).view(len(maps), 8, SIDE, SIDE)
            logits: Tensor = self.head(self.maps(maps).mean(dim=(2, 3)))
            return logits

    assert precision.takes_channels_last(classifier())
    assert not precision.takes_channels_last(classifier(Views()))


def test_pictures_come_in_the_memory_format_of_the_model() -> None:
    images = pictures(2)
    for channels_last in (False, True):
        model = replace(classifier(), channels_last=channels_last)
        wanted = torch.channels_last if channels_last else torch.contiguous_format
        assert model.input(images).is_contiguous(memory_format=wanted)


def test_a_compiled_trunk_says_the_same() -> None:
    found = precision.agreement(classifier(), prepared("fp32", compiled=True), [pictures(8)])
    assert found.top1 == 1
    assert found.cosine == pytest.approx(1, abs=1e-5)


def test_weights_that_are_computed_are_left_to_autocast() -> None:
    net = Net()
    nn.utils.parametrizations.weight_norm(net.maps)
    nn.utils.weight_norm(net.stem[0])
    net(torch.randn(1, 3, SIDE, SIDE))  # leaves a weight with a graph, which cannot be copied
    model = classifier(net)
    fast = prepared("bf16", model)
    maps = fast.module.network.get_submodule("maps")
    assert {parameter.dtype for parameter in maps.parameters()} == {torch.float32}
    found = precision.agreement(model, fast, [pictures(20)])
    assert found.cosine > 0.99


def test_hardware_without_fast_numbers_runs_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for tells, wanted in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda tells=tells: tells)
        assert precision.fastest(torch.device("cpu")) == wanted
    assert precision.fastest(torch.device("meta")) == "fp32"


def test_the_settings_offer_what_there_is() -> None:
    assert tuple(precision.DTYPES) == settings.PRECISIONS
    kinds = (outputs.MULTICLASS, outputs.BINARY, outputs.MULTILABEL)
    assert kinds == settings.OUTPUTS
