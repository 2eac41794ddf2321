"""Grad-CAM against a second implementation in float64, and what it leaves behind: nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import reference
from pipeline import config as settings
from pipeline.cam import graph, methods
from pipeline.cam.graph import CHANNELS_FIRST, CHANNELS_LAST, TOKENS, LayerError, Layout

Array = NDArray[np.float64]

CLASSES = 10
# Single precision rounds to 6e-8; some hundred layers and the sum over channels make that 1e-6.
SINGLE = 1e-5
DOUBLE = 1e-12
MAP = Layout(CHANNELS_FIRST, 1, 1)

NETWORKS = {
    "resnet18": ("layer4", 64),
    "vgg11": ("features.18", 64),  # a convolution that an in-place ReLU follows
    "densenet121": ("features", 96),  # an in-place ReLU follows, as a function
    "efficientnet_b0": ("features", 96),
    "convnext_tiny": ("features", 96),
}
MODES: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "grad": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}


def network(name: str) -> nn.Module:
    """A network in which nothing is trivially zero or one."""
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=CLASSES)
    if name == "vgg11":  # its own has 120 million weights
        model.classifier = nn.Sequential(
            nn.Linear(512 * 49, 64), nn.ReLU(inplace=True), nn.Linear(64, CLASSES)
        )
    reference.enliven(model)
    return model.eval()


def heatmaps(model: nn.Module, layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """(T, N, h, w) as the pipeline makes them."""
    with graph.cut_graph(model, model.get_submodule(layer), MAP) as forward:
        logits, activations = forward(images)
        gradients = graph.compute_gradients(logits, activations, targets)
        return torch.stack([methods.gradcam(activations.detach(), slope) for slope in gradients])


def state(model: nn.Module) -> list[object]:
    """All that explaining a model may not change."""
    return [
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.grad for parameter in model.parameters()],
        [len(module._forward_hooks) for module in model.modules()],
        [len(module._forward_pre_hooks) for module in model.modules()],
        {key: value.tolist() for key, value in model.state_dict().items()},
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    ]


class Small(nn.Module):
    """A backbone, the layer, and a head that writes in place; some parameters are frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.layer = nn.Conv2d(8, 6, 3)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 4)
        self.unused = nn.Conv2d(3, 6, 3)
        for parameter in self.backbone.parameters():
            parameter.requires_grad = False
        self.train()
        self.backbone.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 4)."""
        if not images.isfinite().all():
            raise ValueError("in the model")
        self.unused(images)
        maps = self.act(self.layer(self.backbone(images)))
        logits: Tensor = self.head(self.drop(maps.mean(dim=(2, 3))))
        return logits


IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))
TARGETS = torch.tensor([[0, 1], [2, 2], [3, 0], [1, 3]])


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_equal_a_float64_reference_with_the_whole_graph(name: str) -> None:
    layer, side = NETWORKS[name]
    model = network(name)
    images = torch.randn(3, 3, side, side)
    every_class = reference.heatmaps(
        model, layer, MAP, images, torch.arange(CLASSES).repeat(3, 1)
    ).swapaxes(0, 1)
    predicted = model(images).argmax(dim=1)
    peaks = torch.from_numpy(every_class.max(axis=(2, 3)))
    # Beside the prediction, the two labels for which there is most to see.
    others = peaks.scatter(1, predicted[:, None], -1.0).topk(2, dim=1).indices
    targets = torch.cat([predicted[:, None], others], dim=1)
    wanted = np.stack([every_class[range(3), column] for column in targets.T])
    peak = wanted.max(axis=(2, 3), keepdims=True)
    assert (peak > 0).all()
    single = heatmaps(model, layer, images, targets).numpy()
    assert (np.abs(single - wanted) / peak).max() < SINGLE
    double = heatmaps(model.double(), layer, images.double(), targets).numpy()
    assert (np.abs(double - wanted) / peak).max() < DOUBLE


def test_map_of_a_linear_head_is_the_class_activation_map() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    images = torch.randn(2, 5, 4, 6)
    maps = heatmaps(model, "0", images, torch.tensor([[2], [0]]))
    weights = next(model.parameters()).detach()[[2, 0]] / 24
    wanted = (weights[:, :, None, None] * images).sum(dim=1).clamp(min=0)
    torch.testing.assert_close(maps[0], wanted)


def test_a_batch_is_its_images_one_by_one() -> None:
    model, images = Small().double(), IMAGES.double()
    alone = [
        heatmaps(model, "layer", images[i : i + 1], TARGETS[i : i + 1]) for i in range(len(images))
    ]
    together = heatmaps(model, "layer", images, TARGETS)
    torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=DOUBLE, atol=DOUBLE)


def test_several_targets_of_one_forward_are_those_of_several() -> None:
    model = Small()
    both = heatmaps(model, "layer", IMAGES, TARGETS)
    for column in range(2):
        one = heatmaps(model, "layer", IMAGES, TARGETS[:, column : column + 1])
        assert torch.equal(both[column], one[0])
    assert not torch.equal(both[0], both[1])


@pytest.mark.parametrize("mode", MODES)
def test_the_callers_grad_mode_changes_nothing(mode: str) -> None:
    model = Small()
    wanted = heatmaps(model, "layer", IMAGES, TARGETS)
    with MODES[mode]():
        images = IMAGES * 1  # an inference tensor in inference mode
        before = state(model)
        assert torch.equal(heatmaps(model, "layer", images, TARGETS * 1), wanted)
        assert state(model) == before


def test_images_that_feed_the_head_may_be_inference_tensors() -> None:
    class Bypass(Small):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * images[:, 0, 0, :1]

    model = Bypass()
    wanted = heatmaps(model, "layer", IMAGES, TARGETS)
    with torch.inference_mode():
        assert torch.equal(heatmaps(model, "layer", IMAGES * 1, TARGETS), wanted)


def test_a_model_in_training_mode_is_explained_in_evaluation_mode_and_goes_on_training() -> None:
    model = Small()
    model.backbone.train()
    before = state(model)
    maps = heatmaps(model, "layer", IMAGES, TARGETS)
    assert state(model) == before
    assert torch.equal(maps, heatmaps(model.eval(), "layer", IMAGES, TARGETS))


@pytest.mark.parametrize(
    ("images", "message"), [(IMAGES, "in the body"), (IMAGES * torch.nan, "in the model")]
)
def test_an_exception_leaves_the_model_as_it_came(images: Tensor, message: str) -> None:
    model = Small()
    before = state(model)
    with (
        pytest.raises(ValueError, match=message),
        graph.cut_graph(model, model.layer, MAP) as forward,
    ):
        forward(images)
        raise ValueError("in the body")
    assert state(model) == before


def test_the_head_may_fail_and_grad_mode_is_still_the_callers() -> None:
    model = Small()
    model.head = nn.Linear(5, 4)
    with torch.no_grad(), graph.cut_graph(model, model.layer, MAP) as forward:
        with pytest.raises(RuntimeError, match="shapes"):
            forward(IMAGES)
        assert not torch.is_grad_enabled()


def test_inside_the_context_no_parameter_needs_a_gradient() -> None:
    model = Small()
    with graph.cut_graph(model, model.layer, MAP) as forward:
        logits, activations = forward(IMAGES)
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not any(module.training for module in model.modules())
        graph.compute_gradients(logits, activations, TARGETS)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert activations.grad is None


def test_the_trunk_builds_no_graph() -> None:
    model = Small()
    backbone: list[Tensor] = []
    saved: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        backbone.append(output)

    def save(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    for module in (*model.backbone, model.layer):
        module.register_forward_hook(keep)
    images = IMAGES.clone().requires_grad_()
    hooks = torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor)
    with hooks, graph.cut_graph(model, model.layer, MAP) as forward:
        _, activations = forward(images)
    assert len(backbone) == 4
    assert not any(output.requires_grad for output in backbone)
    assert activations.is_leaf
    assert saved, "the head builds one"
    tensors = (images, *backbone, *model.backbone.parameters())
    below = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    assert not below & {tensor.untyped_storage().data_ptr() for tensor in saved}


def test_what_shares_the_layers_memory_does_not_overwrite_its_activations() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, images: Tensor) -> Tensor:
            maps = images * 2
            seen: Tensor = self.layer(maps)
            maps.mul_(100)
            return seen.relu_().mean(dim=(2, 3))

    model = Shared()
    with graph.cut_graph(model, model.layer, MAP) as forward:
        logits, activations = forward(IMAGES)
    assert torch.equal(activations, IMAGES * 2)
    assert torch.equal(logits, (IMAGES * 2).relu().mean(dim=(2, 3)))


@pytest.mark.parametrize("mode", MODES)
def test_a_trunk_that_the_model_itself_runs_without_gradients_is_explained(mode: str) -> None:
    class Frozen(Small):
        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                maps = F.relu(self.layer(self.backbone(images)), inplace=True)
            logits: Tensor = self.head(maps.mean(dim=(2, 3)))
            return logits

    wanted = heatmaps(Small(), "layer", IMAGES, TARGETS)
    model = Frozen()
    with MODES[mode]():
        assert torch.equal(heatmaps(model, "layer", IMAGES, TARGETS), wanted)


def test_an_input_of_the_model_gets_no_gradient() -> None:
    images = IMAGES.clone().requires_grad_()
    heatmaps(Small(), "layer", images, TARGETS)
    assert images.grad is None


class Odd(nn.Module):
    """Gives its layer's output in a way that cannot be explained."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.layer = nn.Identity()
        self.tuple = nn.MaxPool2d(2, return_indices=True)
        self.flat = nn.Flatten(2)
        self.weight = nn.Parameter(torch.ones(3, 4))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 4)."""
        maps = images
        if self.fault == "never":
            return maps.mean(dim=(2, 3)) @ self.weight
        maps = self.layer(maps)
        if self.fault == "twice":
            maps = self.layer(maps)
        if self.fault == "no path":
            maps = images
        if self.fault == "detached":
            maps = maps.detach()
        if self.fault == "another way":
            images.requires_grad_()
            maps = images * 1
        self.tuple(maps)
        self.flat(maps)
        return maps.mean(dim=(2, 3)) @ self.weight


@pytest.mark.parametrize(
    ("fault", "layer", "message"),
    [
        ("never", "layer", "goes through it 0 times, not once"),
        ("twice", "layer", "goes through it 2 times, not once"),
        ("none", "tuple", "its output is a tuple, not one tensor"),
        ("none", "flat", r"its output has shape \(4, 3, 144\), which is not Layout"),
        ("no path", "layer", "does not feed the model's output"),
        ("detached", "layer", "does not feed the model's output"),
        ("another way", "layer", "does not feed the model's output"),
    ],
)
def test_a_layer_that_cannot_be_explained_is_refused(fault: str, layer: str, message: str) -> None:
    model = Odd(fault)
    before = state(model)
    with pytest.raises(graph.LayerError, match=message):
        heatmaps(model, layer, IMAGES, TARGETS)
    assert state(model) == before


def test_after_a_refused_forward_the_next_one_starts_afresh() -> None:
    model = Odd("twice")
    with graph.cut_graph(model, model.layer, MAP) as forward:
        with pytest.raises(graph.LayerError):
            forward(IMAGES)
        model.fault = "none"
        logits, _ = forward(IMAGES)
    assert logits.requires_grad


def test_normalise_divides_by_the_maximum_and_leaves_dead_maps_dead() -> None:
    maps = torch.tensor([[[0.0, 2.0], [8.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    scaled, peak = methods.normalise_maps(maps)
    assert peak.tolist() == [8.0, 0.0]
    assert scaled.tolist() == [[[0.0, 0.25], [1.0, 0.5]], [[0.0, 0.0], [0.0, 0.0]]]


def test_normalise_takes_maps_of_any_scale() -> None:
    scaled, peak = methods.normalise_maps(torch.tensor([[[1e-38, 5e-39]], [[3e38, 1.5e38]]]))
    torch.testing.assert_close(scaled, torch.tensor([[[1.0, 0.5]], [[1.0, 0.5]]]))
    assert (peak > 0).all()


def test_pooled_features_are_those_of_the_cells_that_were_looked_at() -> None:
    activations = torch.randn(3, 5, 2, 4, generator=torch.Generator().manual_seed(0))
    maps = torch.zeros(3, 2, 4)
    maps[0, 1, 2] = 0.7
    maps[1, 0, 0] = maps[1, 1, 3] = 1.0
    features = methods.pool_features(activations, maps, None)
    cell = activations[0, :, 1, 2]
    torch.testing.assert_close(features[0], cell / cell.norm())
    two = activations[1, :, 0, 0] + activations[1, :, 1, 3]
    torch.testing.assert_close(features[1], two / two.norm())
    assert features[2].tolist() == [0.0] * 5


def test_pooled_features_are_projected_before_they_get_unit_length() -> None:
    activations = torch.full((1, 3, 2, 2), 1e5)  # would overflow float16
    projection = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 3.0]])
    features = methods.pool_features(activations, torch.ones(1, 2, 2), projection)
    torch.testing.assert_close(features, torch.tensor([[0.5**0.5, 0.5**0.5]]))


def test_a_layout_leads_to_the_map_and_back() -> None:
    maps = torch.randn(2, 5, 3, 4)
    outputs = {
        Layout(CHANNELS_FIRST, 3, 4): maps,
        Layout(CHANNELS_LAST, 3, 4): maps.permute(0, 2, 3, 1),
        Layout(TOKENS, 3, 4): maps.flatten(2).mT,
        Layout(TOKENS, 3, 4, prefix=2): torch.cat([torch.randn(2, 2, 5), maps.flatten(2).mT], 1),
    }
    for layout, output in outputs.items():
        assert torch.equal(layout.to_map(output), maps), layout
        assert torch.equal(layout.from_map(maps, output), output), layout
        with pytest.raises(LayerError, match="which is not"):
            layout.to_map(torch.randn(2, 5))
    with pytest.raises(LayerError, match=r"\(2, 13, 5\), which is not Layout"):
        Layout(TOKENS, 3, 4).to_map(torch.randn(2, 13, 5))


@pytest.mark.parametrize("layout", [Layout(CHANNELS_LAST, 10, 10), Layout(TOKENS, 10, 10, 1)])
def test_maps_do_not_hang_on_the_layout(layout: Layout) -> None:
    """The same network, its map handed round in another order of dimensions."""

    class There(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            shape = (len(maps), 101, maps.shape[1]) if layout.prefix else (len(maps), 10, 10, 8)
            return layout.from_map(maps, torch.ones(shape))

    class Back(nn.Module):
        def forward(self, output: Tensor) -> Tensor:
            return layout.to_map(output)

    model = Small()
    wanted = heatmaps(model, "backbone", IMAGES, TARGETS)
    model.backbone = nn.Sequential(model.backbone, There(), Back())
    with graph.cut_graph(model, model.backbone[1], layout) as forward:
        logits, activations = forward(IMAGES)
        gradients = graph.compute_gradients(logits, activations, TARGETS)
    found = [methods.gradcam(activations.detach(), slope) for slope in gradients]
    torch.testing.assert_close(torch.stack(found), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_fast_trunk_has_a_head_in_single_precision(dtype: torch.dtype) -> None:
    model = Small()
    seen: dict[str, torch.dtype] = {}

    def note(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            seen[name] = output.dtype

        return hook

    for name in ("backbone", "act", "head"):
        model.get_submodule(name).register_forward_hook(note(name))
    with graph.cut_graph(model, model.layer, MAP, dtype) as forward:
        logits, activations = forward(IMAGES)
        gradients = graph.compute_gradients(logits, activations, TARGETS)
    assert seen == {"backbone": dtype, "act": torch.float32, "head": torch.float32}
    dtypes = {each.dtype for each in (logits, activations, *gradients)}
    assert dtypes == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")
    exact = heatmaps(model, "layer", IMAGES, TARGETS)
    near = torch.stack([methods.gradcam(activations.detach(), slope) for slope in gradients])
    assert F.cosine_similarity(exact.flatten(2), near.flatten(2), dim=2).min() > 0.99


# One image by the papers' equations, cell by cell, from activations and gradients (C, h, w).
def positive(total: Any) -> Array:
    return np.asarray(np.maximum(total, 0))


def gradcam_pp(a: Array, g: Array) -> Array:
    # Equation 19 with S = exp(y): dS = exp(y) g, d2S = exp(y) g^2, d3S = exp(y) g^3; exp(y) = 2.
    weights = np.zeros(len(a))
    for k in range(len(a)):
        for i, j in np.ndindex(a[k].shape):
            below = 2 * 2 * g[k, i, j] ** 2 + a[k].sum() * 2 * g[k, i, j] ** 3
            alpha = 2 * g[k, i, j] ** 2 / below if below else 0.0
            weights[k] += alpha * max(2 * g[k, i, j], 0)
    return positive(np.einsum("k,kij->ij", weights, a) / 2)


def xgradcam(a: Array, g: Array) -> Array:
    weights = [sum(g[k].flat * a[k].flatten() / a[k].sum()) for k in range(len(a))]
    return positive(sum(weight * layer for weight, layer in zip(weights, a, strict=True)))


def hirescam(a: Array, g: Array) -> Array:
    return positive(sum(g[k] * a[k] for k in range(len(a))))


def layercam(a: Array, g: Array) -> Array:
    return positive(sum(np.maximum(g[k], 0) * a[k] for k in range(len(a))))


def eigencam(a: Array, _g: Array) -> Array:
    matrix = a.reshape(len(a), -1).T
    _, _, right = np.linalg.svd(matrix, full_matrices=False)
    projected = (matrix @ right[0]).reshape(a.shape[1:])
    return positive(projected * np.sign(projected.sum()))


FAMILY: dict[str, Callable[[Array, Array], Array]] = {
    "gradcam": lambda a, g: positive(np.einsum("k,kij->ij", g.mean(axis=(1, 2)), a)),
    "gradcam_pp": gradcam_pp,
    "xgradcam": xgradcam,
    "hirescam": hirescam,
    "layercam": layercam,
    "eigencam": eigencam,
}


def test_the_settings_offer_the_whole_family() -> None:
    assert tuple(methods.METHODS) == tuple(FAMILY) == settings.METHODS
    offered = {path.stem for path in (settings.conf_dir() / "cam").glob("*.yaml")}
    assert offered == set(FAMILY)


@pytest.mark.parametrize("channels", [3, 40])  # fewer and more than cells
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("method", FAMILY)
def test_the_family_follows_its_papers(method: str, signed: bool, channels: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    activations = torch.randn(4, channels, 4, 5, generator=generator, dtype=torch.float64)
    gradients = torch.randn(4, channels, 4, 5, generator=generator, dtype=torch.float64)
    if not signed:
        activations.relu_()
    pairs = zip(activations.numpy(), gradients.numpy(), strict=True)
    wanted = np.stack([FAMILY[method](a, g) for a, g in pairs])
    assert (wanted.max(axis=(1, 2)) > 0).sum() >= 2
    found = methods.METHODS[method](activations, gradients)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-10 * wanted.max())
    single = methods.METHODS[method](activations.float(), gradients.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), wanted, atol=1e-4 * wanted.max())


@pytest.mark.parametrize("method", FAMILY)
def test_without_activation_or_gradient_there_is_no_evidence(method: str) -> None:
    nothing, something = torch.zeros(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    assert not methods.METHODS[method](nothing, something).any()
    if method != "eigencam":  # which does not look at gradients
        assert not methods.METHODS[method](something, nothing).any()


@pytest.mark.parametrize("method", FAMILY)
def test_tiny_gradients_have_the_map_of_larger_ones(method: str) -> None:
    activations, gradients = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    if method == "gradcam_pp":  # whose weights hang on the size of the gradient
        activations, gradients = activations * 1e-3, gradients * 1e-6
    tiny, _ = methods.normalise_maps(methods.METHODS[method](activations, gradients * 1e-15))
    larger, _ = methods.normalise_maps(methods.METHODS[method](activations, gradients))
    torch.testing.assert_close(tiny, larger, rtol=1e-3, atol=1e-4)
