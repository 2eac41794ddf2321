"""The columns of a batch against softmax by hand, and rows that must not touch each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.cam import graph, methods
from pipeline.cam.graph import CHANNELS_FIRST, Layout
from pipeline.engine import inference
from pipeline.engine.inference import NO_LABEL
from pipeline.model.classifier import Classifier
from pipeline.model.outputs import LogitsModule
from pipeline.model.preprocess import Preprocess
from pipeline.storage.schema import part_schema

SIDE = 12
GRID = (4, 5)
NOT_FROM_TENSORS = {
    *("index", "image_id", "label_index", "label", "pred"),
    *("image_width", "image_height", "status", "error"),
}


OF_OBJECTS = {"focus_object_mass", "focus_pointing_hit"}


class Net(nn.Module):
    """Maps of a convolution, and a head; a white picture has no finite logits."""

    def __init__(self, n_classes: int, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maps = nn.Conv2d(channels, 6, 3, stride=3)
        self.pool = nn.AdaptiveMaxPool2d(GRID)
        self.head = nn.Linear(6, n_classes)
        nn.init.normal_(self.head.weight, std=20)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes)."""
        maps = self.pool(self.maps(images)).relu()
        white = (images.amin(dim=(1, 2, 3)) > 0.99)[:, None]
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits.masked_fill(white, torch.nan)


def classifier(
    n_classes: int = 7, *, grey: bool = False, layer: str = "pool", output: str = "multiclass"
) -> Classifier:
    channels = 1 if grey else 3
    return Classifier(
        module=LogitsModule(Net(n_classes, channels).eval(), output),
        layer_name=layer,
        layout=Layout(CHANNELS_FIRST, *GRID),
        preprocess=Preprocess(SIDE, (SIDE, SIDE), (0.5,) * channels, (0.5,) * channels),
        class_names=None,
        n_outputs=n_classes,
        channels=6,
        fingerprint="",
        warnings=[],
    )


def pictures(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, 200, (n, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def explain(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    projection: Tensor | None = None,
    objects: Tensor | None = None,
) -> dict[str, Tensor]:
    with model.cut_graph() as forward:
        return inference.statistics(
            inference.explain(
                forward, model, images, labels, objects, method="gradcam", projection=projection
            )
        )


def maps_of(model: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM of one class per image, (N, h, w)."""
    with model.cut_graph() as forward:
        logits, activations = forward(model.input(images))
        (gradients,) = graph.compute_gradients(logits, activations, classes[:, None])
        return methods.gradcam(activations.detach(), gradients)


def test_predictions_are_softmax_by_hand() -> None:
    model, images = classifier(7), pictures(9)
    labels = torch.arange(9) % 7
    columns = {name: value.numpy() for name, value in explain(model, images, labels).items()}
    with torch.no_grad():
        logits = model.module((images.float() / 255 - 0.5) / 0.5).double().numpy()
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    order = np.argsort(-probs, axis=1)
    rows = np.arange(9)
    given = probs[rows, labels.numpy()]
    assert len(set(order[:, 0])) > 1
    assert columns["pred_index"].tolist() == order[:, 0].tolist()
    assert columns["top_index"].tolist() == order[:, :5].tolist()
    wanted = {
        "top_prob": np.take_along_axis(probs, order[:, :5], axis=1),
        "confidence": probs.max(axis=1),
        "margin": probs[rows, order[:, 0]] - probs[rows, order[:, 1]],
        "label_prob": given,
        "loss": -np.log(given),
        "entropy": -(probs * np.log(probs)).sum(axis=1),
    }
    for name, values in wanted.items():
        # Logits of some 10 in single precision have errors of some 1e-6, and so have ratios.
        np.testing.assert_allclose(columns[name], values, rtol=1e-5, atol=1e-7, err_msg=name)
    assert columns["valid"].all()


def test_heatmaps_are_those_of_the_prediction_and_of_another_label() -> None:
    model, images = classifier(3), pictures(12)
    with torch.no_grad():
        predicted = model.module(model.input(images)).argmax(dim=1)
    labels = predicted.clone()
    labels[::2] = (predicted[::2] + 1) % 3
    labels[3] = NO_LABEL
    columns = explain(model, images, labels)
    raw = maps_of(model, images, predicted)
    scaled, peak = methods.normalise_maps(raw)
    torch.testing.assert_close(columns["heatmap"], scaled.flatten(1))
    alive = peak > 0
    torch.testing.assert_close(columns["focus_mean"][alive], raw.mean(dim=(1, 2))[alive])
    torch.testing.assert_close(columns["heatmap_max"], peak)
    other = torch.arange(12) % 2 == 0
    assert (peak[other] > 0).any()
    scaled, peak = methods.normalise_maps(maps_of(model, images[other], labels[other]))
    torch.testing.assert_close(columns["heatmap_label"][other], scaled.flatten(1))
    torch.testing.assert_close(columns["heatmap_label_max"][other], peak)
    assert (peak > 0).any()
    for name in ("heatmap_label", "heatmap_label_max", "focus_label_similarity"):
        assert columns[name][~other].isnan().all(), name
    assert columns["focus_label_similarity"][other].isfinite().any()


def test_a_picture_without_a_label_has_no_label_columns() -> None:
    columns = explain(classifier(), pictures(3), torch.tensor([2, NO_LABEL, 4]))
    names = ("label_prob", "loss", "heatmap_label", "heatmap_label_max", "focus_label_similarity")
    for name in names:
        assert columns[name][1].isnan().all(), name
    for name in ("label_prob", "loss"):
        assert columns[name][[0, 2]].isfinite().all(), name
    for name in columns.keys() - {*names, *OF_OBJECTS, "valid"}:
        assert columns[name][1].isfinite().all(), name
    assert columns["valid"].all()


@pytest.mark.parametrize(("shift", "n_maps"), [(0, 1), (1, 2)])
def test_maps_of_labels_are_made_only_where_one_differs(
    shift: int, n_maps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = classifier(3), pictures(4)
    predicted = explain(model, images, torch.full((4,), NO_LABEL))["pred_index"]
    labels = predicted.clone()
    labels[2] = (labels[2] + shift) % 3
    made: list[int] = []
    make = methods.METHODS["gradcam"]

    def count(activations: Tensor, gradients: Tensor) -> Tensor:
        made.append(len(gradients))  # of as many images
        return make(activations, gradients)

    monkeypatch.setitem(methods.METHODS, "gradcam", count)
    columns = explain(model, images, labels)
    assert made == [4] * n_maps
    alive = columns["heatmap_label"].isfinite().all(dim=1)
    assert alive.tolist() == [False, False, bool(shift), False]


def test_a_picture_without_finite_logits_is_not_valid_and_spoils_no_other() -> None:
    model, images = classifier(), pictures(4)
    labels = torch.tensor([0, 1, NO_LABEL, 3])
    images[1] = 255
    columns = explain(model, images, labels)
    assert columns["valid"].tolist() == [True, False, True, True]
    rest = torch.tensor([0, 2, 3])
    for name, wanted in explain(model, images[rest], labels[rest]).items():
        torch.testing.assert_close(columns[name][rest], wanted, equal_nan=True, msg=name)


def test_a_map_that_is_not_finite_is_not_valid() -> None:
    class Overflow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveMaxPool2d(GRID)

        def forward(self, images: Tensor) -> Tensor:
            """Finite logits of infinite maps."""
            maps: Tensor = self.pool(images * 1e38 * 1e38)
            return maps.clamp(-1, 1).mean(dim=(2, 3))

    model = classifier()
    model.module = LogitsModule(Overflow(), "multiclass")
    columns = explain(model, pictures(2), torch.tensor([0, 1]))
    assert columns["confidence"].isfinite().all()
    assert not columns["valid"].any()


def test_rows_do_not_depend_on_their_batch() -> None:
    model, images, labels = classifier(), pictures(5), torch.arange(5)
    matrix = inference.projection(6, 2, torch.device("cpu"))
    together = explain(model, images, labels, matrix)
    for i in range(5):
        alone = explain(model, images[i : i + 1], labels[i : i + 1], matrix)
        for name, value in together.items():
            torch.testing.assert_close(alone[name][0], value[i], equal_nan=True, msg=name)


def test_two_classes_have_a_margin_and_a_short_top_list() -> None:
    columns = explain(classifier(2), pictures(3), torch.tensor([0, 1, 1]))
    assert columns["top_index"].shape == columns["top_prob"].shape == (3, 2)
    assert columns["top_index"].sort(dim=1).values.tolist() == [[0, 1]] * 3
    torch.testing.assert_close(columns["margin"], 2 * columns["confidence"] - 1)


def test_of_equally_probable_classes_the_explained_one_leads() -> None:
    model = classifier(40)
    head = model.module.network.get_submodule("head")
    nn.init.zeros_(head.get_parameter("weight"))
    nn.init.zeros_(head.get_parameter("bias"))
    columns = explain(model, pictures(2), torch.tensor([NO_LABEL, NO_LABEL]))
    assert columns["pred_index"].tolist() == [0, 0]
    assert columns["top_index"][:, 0].tolist() == [0, 0]
    assert all(len(set(row)) == 5 for row in columns["top_index"].tolist())
    torch.testing.assert_close(columns["top_prob"], torch.full((2, 5), 1 / 40))
    assert columns["margin"].tolist() == [0, 0]


def test_columns_are_those_of_the_table() -> None:
    model, images = classifier(), pictures(2)
    labels, objects = torch.tensor([0, 1]), torch.ones(2, SIDE, SIDE)
    wanted = set(part_schema(GRID, 6).names) - NOT_FROM_TENSORS | {"valid"}
    columns = explain(model, images, labels, objects=objects)
    assert set(columns) == wanted
    unmarked = explain(model, images, labels)
    assert set(unmarked) == wanted
    assert all(unmarked[name].isnan().all() for name in OF_OBJECTS)
    assert all(len(value) == 2 and not value.requires_grad for value in columns.values())
    assert columns["heatmap"].shape == columns["heatmap_label"].shape == (2, GRID[0] * GRID[1])


def test_a_grey_model_sees_one_channel() -> None:
    images = pictures(3)
    model = classifier(grey=True)
    columns = explain(model, images, torch.tensor([0, 1, 2]))
    assert columns["valid"].all()
    luma = (images.double() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1)
    with torch.no_grad():
        logits = model.module.network((luma.round()[:, None].float() / 255 - 0.5) / 0.5)
    torch.testing.assert_close(columns["confidence"], logits.softmax(dim=1).amax(dim=1))
    torch.testing.assert_close(columns["image_mean_r"], images[:, 0].float().mean(dim=(1, 2)) / 255)


def test_probabilities_are_those_of_the_explanation() -> None:
    model, images = classifier(), pictures(4)
    with model.cut_graph() as forward:
        probs = inference.probabilities(forward, model, images)
    columns = explain(model, images, torch.full((4,), NO_LABEL))
    torch.testing.assert_close(probs.amax(dim=1), columns["confidence"])
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(4))
    assert probs.argmax(dim=1).tolist() == columns["pred_index"].tolist()


def test_features_are_the_mean_activations_scaled_to_bytes() -> None:
    torch.manual_seed(0)
    activations, matrix = torch.rand(3, 6, 4, 4), torch.randn(6, 2)
    activations[2] = 0
    for projection in (None, matrix):
        mean = activations.flatten(2).mean(2)
        expected = mean if projection is None else mean @ projection
        found = methods.average_features(activations, projection)
        assert found.dtype == torch.int8
        assert found[2].abs().max() == 0
        assert (found[:2].abs().amax(1) == 127).all()
        scale = expected[:2].abs().amax(1, keepdim=True)
        torch.testing.assert_close(found[:2] / 127 * scale, expected[:2], atol=0.01, rtol=0)


def test_the_embedding_is_projected() -> None:
    model, images, labels = classifier(), pictures(3), torch.tensor([0, 1, 2])
    matrix = inference.projection(6, 2, torch.device("cpu"))
    assert matrix is not None
    whole = explain(model, images, labels)["embedding"]
    assert whole.shape == (3, 6)
    short = explain(model, images, labels, matrix)["embedding"]
    torch.testing.assert_close(short, nn.functional.normalize(whole @ matrix))


def test_the_projection_is_the_same_in_every_version() -> None:
    matrix = inference.projection(300, 128, torch.device("cpu"))
    assert matrix is not None
    assert matrix.shape == (300, 128)
    assert matrix.dtype == torch.float32
    known = {(0, 0): 0.11525552, (0, 1): 0.02570995, (150, 64): 0.07332067, (299, 127): 0.04951017}
    assert {place: matrix[place].item() for place in known} == pytest.approx(known, rel=1e-6)
    again = inference.projection(300, 128, torch.device("cpu"))
    assert again is not None
    assert torch.equal(matrix, again)


def test_the_projection_keeps_angles() -> None:
    matrix = inference.projection(2048, 128, torch.device("cpu"))
    assert matrix is not None
    points = torch.randn(40, 2048, generator=torch.Generator().manual_seed(0)) + 0.5
    before, after = (
        nn.functional.normalize(x) @ nn.functional.normalize(x).T for x in (points, points @ matrix)
    )
    # A cosine of 128 random directions has a standard deviation of 1 / sqrt(128), 0.09.
    assert (before - after).abs().max() < 5 * 128**-0.5
    assert (before - after).square().mean().sqrt() < 128**-0.5


@pytest.mark.parametrize("channels", [1, 127, 128])
def test_few_channels_are_not_projected(channels: int) -> None:
    assert inference.projection(channels, 128, torch.device("cpu")) is None


def test_labels_that_do_not_exclude_each_other_have_sigmoid_probabilities() -> None:
    model, images = classifier(7, output="multilabel"), pictures(9)
    labels = torch.arange(9) % 7
    columns = {name: value.numpy() for name, value in explain(model, images, labels).items()}
    with torch.no_grad():
        logits = model.module(model.input(images)).double().numpy()
    probs = 1 / (1 + np.exp(-logits))
    ordered = -np.sort(-probs, axis=1)
    given = probs[np.arange(9), labels.numpy()]
    wanted = {
        "confidence": ordered[:, 0],
        "margin": ordered[:, 0] - ordered[:, 1],
        "label_prob": given,
        "loss": -np.log(given),
        "entropy": -(probs * np.log(probs) + (1 - probs) * np.log(1 - probs)).sum(axis=1),
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(columns[name], values, rtol=2e-4, atol=1e-6, err_msg=name)
    assert columns["pred_index"].tolist() == probs.argmax(axis=1).tolist()


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what would make this thread wait for a GPU: asking for a value or for a shape that
    hangs on values, and a tensor made of Python numbers, which is copied to the device."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "lift_fresh")

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ):
        name = func.name().removeprefix("aten::").split(".")[0]
        assert not name.startswith(self.WAITING), name
        return func(*args, **(kwargs or {}))


def test_no_step_of_a_batch_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, labels = classifier(), pictures(4), torch.tensor([0, 1, NO_LABEL, 3])
    matrix = inference.projection(6, 2, torch.device("cpu"))
    explain(model, images, labels, matrix)  # constants are made once
    # On the CPU asking is free, and done; here the mode stands for a GPU.
    monkeypatch.setattr(inference, "_needs_label_maps", lambda _differs: True)
    with model.cut_graph() as forward, Waits():  # type: ignore[no-untyped-call]
        inference.explain(forward, model, images, labels, method="gradcam", projection=matrix)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            images.sum().item()


class Linear(nn.Module):
    """A linear classifier of the pixels; under no_grad it lets no gradient through."""

    def __init__(self, *, lets_gradients: bool) -> None:
        super().__init__()
        self.lets_gradients = lets_gradients
        torch.manual_seed(0)
        self.head = nn.Linear(3 * SIDE * SIDE, 4)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 4)."""
        with torch.set_grad_enabled(self.lets_gradients and torch.is_grad_enabled()):
            logits: Tensor = self.head(images.flatten(1))
        return logits


@pytest.mark.parametrize("lets_gradients", [True, False])
def test_the_saliency_of_a_linear_model_is_known(lets_gradients: bool) -> None:
    """Weights times the pixels without their mean, by numpy in cells of 3 x 4 pixels."""
    network = Linear(lets_gradients=lets_gradients).train()
    model = replace(
        classifier(4),
        module=LogitsModule(network, "multiclass"),
        layout=Layout(CHANNELS_FIRST, 4, 3),
    )
    images = pictures(5)
    found = inference.saliency(model, images)
    assert found.shape == (5, 4, 3)
    assert network.training
    assert all(each.grad is None and each.requires_grad for each in network.parameters())
    if not lets_gradients:
        assert not found.any()
        return
    weights = network.head.weight.detach().double().numpy()
    values = images.double().numpy() / 127.5 - 1
    predicted = (values.reshape(5, -1) @ weights.T + network.head.bias.detach().numpy()).argmax(1)
    slopes = np.stack([weights[c] - np.delete(weights, c, 0).mean(0) for c in predicted])
    centred = values - values.mean(axis=(2, 3), keepdims=True)
    products = np.abs(slopes.reshape(values.shape) * centred).sum(axis=1)
    wanted = np.sqrt(products.reshape(5, 4, 3, 3, 4).mean(axis=(2, 4)))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4)
