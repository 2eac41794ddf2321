"""explain, overlay and panels from Python: the textbook's map, colours, models left alone."""

from __future__ import annotations

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models

import pipeline
from pipeline import explain, overlay, panels
from pipeline.config import ZooModel
from pipeline.errors import ConfigError
from pipeline.model.classifier import load_classifier
from pipeline.model.preprocess import Preprocess
from pipeline.report.overlay import apply_colormap, draw_layer, resize_heatmap

mpl.use("agg")


def walk_through(model: models.VGG, images: Tensor, target: int) -> np.ndarray:
    """Grad-CAM of VGG16 as it is taught: a hook on the last feature layer, a backward pass from
    the class, pooled gradients, a weighted sum, a ReLU, and the division by the maximum.
    """
    kept: dict[str, Tensor] = {}

    def keep(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        kept["maps"] = output
        output.retain_grad()

    with model.features[29].register_forward_hook(keep):
        logits = model(images)
    model.zero_grad()
    logits[:, target].sum().backward()
    slope = kept["maps"].grad
    assert slope is not None
    weights = slope.mean(dim=(2, 3), keepdim=True)
    heat = (weights * kept["maps"]).sum(dim=1).clamp_min(0).detach()
    return np.asarray(heat / heat.amax(dim=(1, 2), keepdim=True))


@pytest.fixture(scope="module")
def vgg16() -> models.VGG:
    """With a small head: its own has a hundred million weights."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = models.vgg16(weights=None)
    model.features = models.vgg.make_layers(models.vgg.cfgs["D"])
    model.classifier = nn.Sequential(nn.Linear(25088, 64), nn.ReLU(), nn.Linear(64, 10))
    for each in model.modules():
        if isinstance(each, nn.Conv2d):
            nn.init.kaiming_normal_(each.weight, nonlinearity="relu")
        if isinstance(each, nn.ReLU):
            each.inplace = False  # a backward hook on what is then overwritten sees nothing
    return model.eval()


def test_the_walk_through_with_vgg16_is_reproduced(vgg16: models.VGG) -> None:
    images = torch.randn(2, 3, 80, 96, generator=torch.Generator().manual_seed(1))
    for target in (3, 7):
        wanted = walk_through(vgg16, images, target)
        assert 0 < (wanted > 0).mean() < 1
        found = explain(vgg16, images, target)
        assert found.shape == (2, 5, 6)
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


def test_each_picture_has_its_own_target_and_the_prediction_is_the_default() -> None:
    torch.manual_seed(0)
    model = models.resnet18(weights=None, num_classes=10).eval()
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        predicted = model(images).argmax(dim=1)
    assert torch.equal(explain(model, images), explain(model, images, predicted))
    together = explain(model, images, [1, 2, 1])
    assert not torch.allclose(together[1], explain(model, images, 1)[1])
    for row, target in enumerate((1, 2, 1)):
        torch.testing.assert_close(together[row], explain(model, images, target)[row])


def test_the_result_names_class_probability_and_layer_and_is_the_tensor_of_heatmaps() -> None:
    torch.manual_seed(0)
    model = models.resnet18(weights=None, num_classes=3).eval()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        probs = model(images).softmax(dim=1)
    found = explain(model, images, class_names=["cat", "dog", "cat"])
    assert torch.equal(found.class_index, probs.argmax(dim=1))
    names = ["cat (0)", "dog", "cat (2)"]  # names that occur twice are told apart
    assert found.class_name == [names[index] for index in found.class_index.tolist()]
    torch.testing.assert_close(found.probability, probs.amax(dim=1))
    assert found.layer == "layer4"
    assert found.seen == [(0.0, 0.0, 1.0, 1.0)] * 4
    assert f"{found.class_name[0]} {found.probability[0]:.1%}" in repr(found)
    assert isinstance(found, Tensor)
    assert {type(each) for each in (found[0], found.heatmaps, found + 0)} == {Tensor}
    assert torch.equal(found.heatmaps, torch.as_tensor(np.asarray(found)))
    assert explain(model, images, 1).class_name == ["1"] * 4
    with pytest.raises(ValueError, match="2 class names for a model with 3 classes"):
        explain(model, images, class_names=["cat", "dog"])


def test_a_classifier_explains_images_of_any_size_and_says_what_it_sees_of_each() -> None:
    config = ZooModel(kind="torchvision", name="resnet18", weights=None)
    classifier = load_classifier(config, torch.device("cpu"), seed=0)
    generator = np.random.default_rng(0)
    shapes = [(300, 400, 3), (260, 256, 3)]
    given = [generator.integers(0, 256, shape, np.uint8) for shape in shapes]
    found = explain(classifier, given, 5)
    assert found.seen == [classifier.preprocess.seen(shape) for shape in shapes]
    fitted = torch.stack([classifier.preprocess.fit(image) for image in given])
    assert torch.equal(found.heatmaps, explain(classifier, fitted, 5).heatmaps)
    assert found.layer == classifier.layer_name
    with pytest.raises(TypeError, match="need a Classifier"):
        explain(nn.Linear(3, 2), given)


def test_the_model_is_left_as_it_came(vgg16: models.VGG) -> None:
    model = vgg16.train()
    model.zero_grad(set_to_none=True)
    model.features[0].weight.requires_grad = False
    try:
        explain(model, torch.randn(1, 3, 64, 64), 0, target_layer="features.21")
        assert model.training
        assert model.features[3].training
        assert not model.features[0].weight.requires_grad
        assert model.features[2].weight.requires_grad
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(len(m._forward_hooks) for m in model.modules())
    finally:
        model.eval()
        model.features[0].weight.requires_grad = True


@pytest.mark.parametrize("target", [10, -1])
def test_a_target_that_is_no_class_is_refused(vgg16: models.VGG, target: int) -> None:
    with pytest.raises(IndexError, match=f"target {target} is no class of a model with 10"):
        explain(vgg16, torch.randn(1, 3, 64, 64), target)


def test_a_layer_that_is_none_is_refused_with_close_names(vgg16: models.VGG) -> None:
    with pytest.raises(ConfigError, match=r"'feature.29'; close names: features"):
        explain(vgg16, torch.randn(1, 3, 64, 64), 0, target_layer="feature.29")


def test_overlay_takes_what_people_have_and_keeps_the_order_of_colours() -> None:
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 0] = 200
    heatmap = torch.zeros(4, 6)
    heatmap[0, 0] = 1
    wanted = overlay(red, heatmap.numpy(), 0.5, colormap="viridis")
    assert wanted.shape == red.shape
    np.testing.assert_array_equal(overlay(Image.fromarray(red), heatmap), wanted)
    np.testing.assert_array_equal(overlay(torch.from_numpy(red).permute(2, 0, 1), heatmap), wanted)
    np.testing.assert_array_equal(wanted[-1, -1], [200, 0, 0])  # cold: as it was
    # viridis ends in yellow, (253, 231, 37)
    np.testing.assert_allclose(wanted[0, 0], [226, 116, 18], atol=2)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_maps_are_no_division_by_zero(value: float) -> None:
    grey = np.full((20, 20, 3), 100, np.uint8)
    heat = np.full((7, 7), value)
    drawn = overlay(grey, heat)
    assert (drawn == drawn[0, 0]).all()
    assert (drawn == grey).all() == (value == 0)


def test_the_layer_laid_over_the_picture_is_the_overlay() -> None:
    """What a browser does with an opacity of alpha."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (50, 70, 3), np.uint8)
    heatmap = rng.random((5, 7)) ** 2
    rgba = draw_layer(resize_heatmap(heatmap, picture.shape), "inferno").astype(float)
    weight = 0.7 * rgba[..., 3:] / 255
    mixed = picture * (1 - weight) + rgba[..., :3] * weight
    drawn = overlay(picture, heatmap, 0.7, colormap="inferno")
    np.testing.assert_allclose(mixed, drawn, atol=1.5)


def test_heat_is_spread_over_what_the_model_saw_and_bilinear_between_cells() -> None:
    heat = resize_heatmap(np.array([[0.0, 1.0]]), (10, 40), (0.25, 0.2, 0.75, 0.8))
    inside = np.zeros((10, 40), bool)
    inside[2:8, 10:30] = True
    assert (heat[~inside] == 0).all()
    # centres of the two cells lie a quarter and three quarters of the way across
    x = (np.arange(20) + 0.5) / 20
    wanted = np.interp(x, [0.25, 0.75], [0, 1])
    np.testing.assert_allclose(heat[2:8, 10:30], np.broadcast_to(wanted, (6, 20)), atol=1e-6)


@pytest.mark.parametrize(
    ("resize", "crop", "size"),
    [
        (64, (56, 56), (75, 100)),
        (64, (56, 56), (100, 75)),
        (232, (224, 224), (333, 1001)),
        ((100, 200), (80, 150), (133, 144)),
        (50, (50, 80), (100, 120)),
        (50, (50, 80), (120, 100)),
        (30, (30, 30), (30, 30)),
    ],
)
def test_what_the_model_sees_is_where_its_pixels_come_from(
    resize: int | tuple[int, int], crop: tuple[int, int], size: tuple[int, int]
) -> None:
    """Pixels that tell their own place, looked up at the corners of what the model gets."""
    height, width = size
    preprocess = Preprocess(resize, crop, (0.5,) * 3, (0.5,) * 3)
    x0, y0, x1, y1 = preprocess.seen(size)
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.rint(np.linspace(1, 255, width))[None]
    ramp[..., 1] = np.rint(np.linspace(1, 255, height))[:, None]
    fitted = preprocess.fit(ramp).numpy()
    rows = (np.arange(crop[0]) + 0.5) / crop[0] * (y1 - y0) + y0
    columns = (np.arange(crop[1]) + 0.5) / crop[1] * (x1 - x0) + x0
    in_y, in_x = ((v > 0) & (v < 1) for v in (rows, columns))
    assert (fitted[:, ~in_y] == 0).all()
    assert (fitted[:, :, ~in_x] == 0).all()
    wanted_x = 1 + 254 * (columns[in_x] * width - 0.5) / (width - 1)
    wanted_y = 1 + 254 * (rows[in_y] * height - 0.5) / (height - 1)
    middle_x, middle_y = np.flatnonzero(in_x)[len(wanted_x) // 2], np.flatnonzero(in_y)[0] + 3
    got_x, got_y = fitted[0, middle_y, in_x], fitted[1, in_y, middle_x]
    inner = slice(2, -2)  # an antialiased resize mixes the edges with what is beyond
    np.testing.assert_allclose(got_x[inner], wanted_x[inner], atol=2.5)
    np.testing.assert_allclose(got_y[inner], wanted_y[inner], atol=2.5)


def test_panels_show_original_heatmap_and_overlay_with_a_colour_bar() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    heatmap = np.eye(3, 4)
    figure = panels(picture, heatmap, ["cat 9%"], alpha=0.3, colormap="jet")
    first, second, third, bar = figure.axes
    assert second.get_title() == "heatmap: cat 9%"
    np.testing.assert_array_equal(first.images[0].get_array(), picture)
    np.testing.assert_array_equal(
        second.images[0].get_array(), apply_colormap(resize_heatmap(heatmap, picture.shape), "jet")
    )
    np.testing.assert_array_equal(
        third.images[0].get_array(), overlay(picture, heatmap, 0.3, colormap="jet")
    )
    assert "evidence" in bar.get_ylabel()


def test_panels_of_several_classes_stand_side_by_side() -> None:
    picture = np.zeros((30, 40, 3), np.uint8)
    figure = panels(picture, torch.rand(3, 2, 2), ["a", "b", "$x_1$\n\x1b"])
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:4] == ["original", "a", "b", r"\$x_1\$��"]
    with pytest.raises(ValueError, match="zip"):
        panels(picture, torch.rand(3, 2, 2), ["a", "b"])


def test_what_the_model_did_not_see_is_grey_in_the_heatmap() -> None:
    figure = panels(
        np.zeros((20, 20, 3), np.uint8), np.ones((2, 2)), ["a"], seen=(0.25, 0, 0.75, 1)
    )
    drawn = figure.axes[1].images[0].get_array()
    assert drawn is not None
    assert (drawn[:, :5] == 190).all()
    assert (drawn[:, 5:15] != 190).all()
    assert len(figure.axes[0].patches) == 2


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, pipeline; print('torch' in sys.modules, callable(pipeline.overlay))"
    told = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert told.split() == ["False", "True"]
    with pytest.raises(AttributeError):
        pipeline.nothing  # noqa: B018
