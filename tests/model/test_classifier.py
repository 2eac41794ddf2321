"""Models of every source: layer, outputs, preprocessing, names; what cannot be used, in words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from pipeline.cam import graph
from pipeline.cam.graph import CHANNELS_FIRST, CHANNELS_LAST, TOKENS, Layout
from pipeline.config import CustomModel, PreprocessConfig, ZooModel
from pipeline.errors import ConfigError
from pipeline.model.classifier import Classifier, fingerprint, load_classifier
from pipeline.model.loaded import timm_preprocess
from pipeline.model.preprocess import Preprocess

CPU = torch.device("cpu")


def zoo(kind: str, name: str, side: int | None = 64, **settings: Any) -> Classifier:
    """A model of torchvision or timm, with random weights where none are given."""
    config = ZooModel(
        **{"kind": kind, "name": name, "weights": None, **settings},
        preprocess=PreprocessConfig(resize=side),
    )
    return load_classifier(config, CPU, seed=0)


def custom(tmp_path: Path, source: str, **settings: Any) -> Classifier:
    """What the factory `build` in the source gives."""
    path = tmp_path / f"net{len(list(tmp_path.iterdir()))}.py"  # a file is loaded once
    path.write_text("import torch\nfrom torch import nn\n" + source)
    settings = {"preprocess": PreprocessConfig(resize=16), **settings}
    config = CustomModel(kind="custom", factory=f"{path}:build", **settings)
    return load_classifier(config, CPU, seed=0)


def body(forward: str, layers: str = "") -> str:
    """A factory of a module whose forward is the given lines, beside a convolution `conv`."""
    return f"""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 3)
        {layers}

    def head(self, maps):
        return self.fc(maps.mean(dim=(2, 3)))

    def forward(self, x):
        {forward}


def build(**arguments):
    return Net()
"""


PLAIN = body("return self.head(self.conv(x))")


@pytest.mark.parametrize(
    ("forward", "layers", "wanted"),
    [
        ("return self.head(self.drop(self.conv(x)))", "self.drop = nn.Dropout()", "conv"),
        ("return self.head(self.pool(self.conv(x)))", "self.pool = nn.MaxPool2d(2)", "conv"),
        (
            "return self.head(self.block(x))",
            "self.block = nn.Sequential(self.conv, nn.ReLU(), nn.AvgPool2d(2))",
            "block.1",
        ),
        # Called twice: the one before it.
        ("return self.head(self.act(self.act(self.conv(x))))", "self.act = nn.ReLU()", "conv"),
        # Beside another branch: the one before both.
        (
            "x = self.conv(x); return self.head(self.one(x)) + self.head(self.two(x))",
            "self.one = nn.Conv2d(4, 4, 3); self.two = nn.Conv2d(4, 4, 1)",
            "conv",
        ),
        # A gate of one cell is no map.
        (
            "x = self.conv(x); return self.head(x * self.gate(x.mean((2, 3), keepdim=True)))",
            "self.gate = nn.Conv2d(4, 4, 1)",
            "conv",
        ),
        # The model writes into its input.
        ("x -= 0.5; return self.head(self.conv(x.mul_(2)))", "", "conv"),
        # The model divides by the spread of each channel, which a blank picture has not.
        ("return self.head(self.conv(x / x.std((2, 3), keepdim=True)))", "", "conv"),
    ],
)
def test_auto_on_ones_own_model(forward: str, layers: str, wanted: str, tmp_path: Path) -> None:
    assert custom(tmp_path, body(forward, layers)).layer_name == wanted


@pytest.mark.parametrize(
    ("forward", "output"),
    [
        ("return {'logits': self.head(self.conv(x)), 'features': x}", "multiclass"),
        ("return {'scores': self.head(self.conv(x)), 'features': x}", "multiclass"),
        ("return self.head(self.conv(x)), x", "multiclass"),
        ("y = self.head(self.conv(x)); return [y, 2 * y, None]", "multiclass"),  # a second head
        ("y = self.head(self.conv(x)); return {'scores': y, 'loss': y.mean()}", "multiclass"),
        (
            "from types import SimpleNamespace as S; return S(logits=self.head(self.conv(x)))",
            "multiclass",
        ),
        ("return self.head(self.conv(x))", "multilabel"),
    ],
)
def test_logits_are_found_in_what_the_model_returns(
    forward: str, output: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    found = custom(tmp_path, body(forward), output=output)
    images = torch.randn(2, 3, 16, 16)
    network = found.module.network
    logits = network.head(network.conv(images))  # type: ignore[operator]
    assert torch.equal(found.module(images), logits)
    probabilities = found.probabilities(logits)
    wanted = logits.sigmoid() if output == "multilabel" else logits.softmax(dim=1)
    torch.testing.assert_close(probabilities, wanted)


@pytest.mark.parametrize("columns", [":1", "0"])
def test_one_logit_tells_two_classes_apart(columns: str, tmp_path: Path) -> None:
    found = custom(tmp_path, body(f"return self.head(self.conv(x))[:, {columns}]"), output="binary")
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    logit = found.module.network(images).flatten()
    assert found.n_outputs == 2
    torch.testing.assert_close(found.probabilities(found.module(images))[:, 1], logit.sigmoid())
    with found.cut_graph() as forward:
        logits, activations = forward(images)
        no, yes = graph.compute_gradients(logits, activations, torch.tensor([[0, 1]] * 4))
    assert yes.any()
    torch.testing.assert_close(no, -yes)


def test_more_logits_are_not_binary(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.output=binary: the model's output is \(1, 3\)"):
        custom(tmp_path, PLAIN, output="binary")


def test_auto_leaves_no_hook_and_no_training_mode_behind(tmp_path: Path) -> None:
    found = custom(tmp_path, PLAIN)
    assert not any(module._forward_hooks for module in found.module.modules())
    assert not any(module.training for module in found.module.modules())


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        ("return self.fc(x.mean(dim=(2, 3)) @ torch.ones(3, 4))", "auto finds no map that feeds"),
        ("return [x, self.head(self.conv(x))]", r"output is \(1, 3, 16, 16\), not \(batch, 2 or"),
        (
            "return {'a': self.conv(x)}",
            r"output is a dict of \['a'\], and it is not clear which part",
        ),
        ("y = self.head(self.conv(x)); return {'a': y, 'b': y}", r"dict of \['a', 'b'\]"),
        (
            "y = self.conv(x); return y.mean((2, 3)), self.head(y)",
            r"tuple of \[\(1, 4\), \(1, 3\)\]",
        ),
        ("return self.head(self.conv(x)), 'name', x.mean((2, 3))[:, :2]", "not clear"),
        ("return ()", r"output is a tuple of \[\], and it is not clear which part"),
        (
            "return str(self.head(self.conv(x)))",
            r"output is a str of \[\], and it is not clear which part",
        ),
        ("return self.head(self.conv(x))[:, :1]", "one logit per image; set model.output=binary"),
        ("return self.head(self.conv(x))[:, 0]", "one logit per image; set model.output=binary"),
        ("return self.conv(x)", r"output is \(1, 4, 14, 14\), not \(batch, 2 or more classes\)"),
        (
            "return self.head(self.conv(x[:, :2]))",
            "cannot process an image of shape .1, 3, 16, 16.:",
        ),
        ("return self.head(self.conv(x)) / 0", "the model's output is not finite"),
        ("raise KeyError('key')", "cannot process an image of shape .1, 3, 16, 16.: 'key'"),
        ("return self.head(self.conv(x).detach()).detach()", "auto finds no map that feeds"),
    ],
)
@pytest.mark.parametrize("layer", ["auto", "conv"])
def test_a_model_that_cannot_be_audited_is_refused_in_words(
    forward: str, message: str, layer: str, tmp_path: Path
) -> None:
    if layer == "conv":
        named = "goes through it 0 times" if "ones" in forward else "does not feed the model's"
        message = message.replace("auto finds no map that feeds", named)
    with pytest.raises(ConfigError, match=message):
        custom(tmp_path, body(forward), target_layer=layer)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("layer5", "the model has no 'layer5'; close names: layer4, layer3, layer2, layer1"),
        ("zzz", "the model has no 'zzz'; close names: layer4"),
        (
            "avgpool",
            r"'avgpool' cannot be explained: its output has shape \(2, 512, 1, 1\); a map of",
        ),
        ("fc", r"'fc' cannot be explained: its output has shape \(2, 1000\); a map of more"),
        ("layer1.0.relu", "'layer1.0.relu' cannot be explained: .* it 2 times, not once"),
    ],
)
def test_a_target_layer_that_cannot_be_used(layer: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"model.target_layer: .*" + message):
        zoo("torchvision", "resnet18", target_layer=layer)


def test_a_target_layer_may_be_any_that_gives_a_map() -> None:
    found = zoo("torchvision", "resnet18", target_layer="layer2.0.conv1")
    assert (found.channels, found.grid) == (128, (8, 8))
    assert found.layer is found.module.network.get_submodule("layer2.0.conv1")


@pytest.mark.parametrize(("layer", "side"), [("layers.3", 7), ("norm", 7), ("layers.0", 56)])
def test_channels_last_are_not_taken_for_columns(layer: str, side: int) -> None:
    found = zoo("timm", "swin_tiny_patch4_window7_224", 224, target_layer=layer)
    assert found.layout == Layout(CHANNELS_LAST, side, side)


def test_patches_that_the_class_token_does_not_see_are_no_layer() -> None:
    for layer in ("norm", "blocks.11", "blocks.11.mlp"):
        with pytest.raises(ConfigError, match=r"does not depend on its patch tokens"):
            zoo("timm", "vit_tiny_patch16_224", 224, target_layer=layer)
    found = zoo("timm", "vit_tiny_patch16_224", 224, target_layer="blocks.10")
    assert found.layout == Layout(TOKENS, 14, 14, prefix=1)


TOKENISED = """
class Net(nn.Module):
    def __init__(self, n_class_tokens=1, at_the_end=False, n_channels=12):
        super().__init__()
        self.conv = nn.Conv2d(3, n_channels, 4, 4)
        self.token = nn.Parameter(torch.randn(1, n_class_tokens, n_channels))
        self.enter = nn.LayerNorm(n_channels)
        self.norm = nn.LayerNorm(n_channels)
        self.attend = nn.MultiheadAttention(n_channels, 2, batch_first=True)
        self.fc = nn.Linear(n_channels, 3)
        self.at_the_end = at_the_end

    def forward(self, x):
        tokens = [self.token.expand(len(x), -1, -1), self.conv(x).flatten(2).mT]
        x = self.enter(torch.cat(tokens[::-1] if self.at_the_end else tokens, dim=1))
        y = self.norm(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        return self.fc(x[:, -1] if self.at_the_end else x[:, 0])


def build(**arguments):
    return Net(**arguments)
"""


@pytest.mark.parametrize(
    ("resize", "n_tokens", "layout"),
    [
        ([16, 16], 1, Layout(TOKENS, 4, 4, 1)),
        ([16, 24], 3, Layout(TOKENS, 4, 6, 3)),
        ([40, 16], 2, Layout(TOKENS, 10, 4, 2)),
        ([22, 18], 5, Layout(TOKENS, 5, 4, 5)),  # the last pixels are in no patch
    ],
)
def test_class_and_register_tokens_are_told_from_patches(
    resize: list[int], n_tokens: int, layout: Layout, tmp_path: Path
) -> None:
    found = custom(
        tmp_path,
        TOKENISED,
        preprocess=PreprocessConfig(resize=resize),
        factory_args={"n_class_tokens": n_tokens},
    )
    assert (found.layer_name, found.layout) == ("norm", layout)


def test_class_tokens_behind_the_patches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(batch, tokens, channels\) with class tokens first"):
        custom(tmp_path, TOKENISED, target_layer="norm", factory_args={"at_the_end": True})


def test_a_flattened_map_is_not_taken_for_tokens(tmp_path: Path) -> None:
    forward = "return self.fc(self.flat(self.conv(x)).mean(dim=2)[:, :4])"
    layers = "self.conv = nn.Conv2d(3, 16, 3); self.flat = nn.Flatten(2)"
    assert custom(tmp_path, body(forward, layers)).layer_name == "conv"


@pytest.mark.parametrize("crop", [[16, 16], [16, 32], [40, 16]])
def test_channels_last_are_seen_in_pictures_of_any_shape(crop: list[int], tmp_path: Path) -> None:
    source = body(
        "return self.head(self.back(self.last(self.conv(x))))",
        "self.last = Move(0, 2, 3, 1); self.back = Move(0, 3, 1, 2)",
    )
    source += """
class Move(nn.Module):
    def __init__(self, *order):
        super().__init__()
        self.order = order

    def forward(self, x):
        return x.permute(self.order)
"""
    settings = {"preprocess": PreprocessConfig(resize=crop)}
    found = custom(tmp_path, source, **settings)
    assert found.layer_name == "back"
    assert found.layout == Layout(CHANNELS_FIRST, crop[0] - 2, crop[1] - 2)
    found = custom(tmp_path, source, target_layer="last", **settings)
    assert found.layout == Layout(CHANNELS_LAST, crop[0] - 2, crop[1] - 2)


@pytest.mark.parametrize(
    ("side", "layers", "grid"),
    [
        (6, "", (4, 4)),  # as many channels as rows and columns
        (16, "self.conv.stride = (1, 3)", (14, 5)),  # other proportions than the picture's
    ],
)
def test_channels_first_are_not_taken_for_channels_last(
    side: int, layers: str, grid: tuple[int, int], tmp_path: Path
) -> None:
    source = body("return self.head(self.conv(x))", layers)
    found = custom(tmp_path, source, preprocess=PreprocessConfig(resize=side))
    assert (found.layer_name, found.channels, found.grid) == ("conv", 4, grid)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_a_checkpoint_tells_the_number_of_classes(prefix: str, tmp_path: Path) -> None:
    trained = torchvision.models.resnet18(weights=None, num_classes=7).eval()
    weights = {prefix + name: value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "w.pt")
    found = zoo("torchvision", "resnet18", checkpoint=str(tmp_path / "w.pt"))
    assert found.n_outputs == 7
    assert found.warnings == []
    assert found.class_names is None
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(found.module(images), trained(images))


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_050"])
def test_a_checkpoint_of_timm(name: str, tmp_path: Path) -> None:
    trained = timm.create_model(name, num_classes=5).eval()
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    found = zoo("timm", name, checkpoint=str(tmp_path / "w.pt"))
    assert (found.n_outputs, found.warnings) == (5, [])
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(found.module(images), trained(images))


@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_checkpoint_with_or_without_heads_for_training(
    name: str, aux: bool, tmp_path: Path
) -> None:
    with torch.device("meta"):
        trained = torchvision.models.get_model(
            name, weights=None, num_classes=4, aux_logits=aux, init_weights=False
        )
    weights = {key: torch.zeros(value.shape) for key, value in trained.state_dict().items()}
    torch.save(weights, tmp_path / "w.pt")
    found = zoo("torchvision", name, 128, checkpoint=str(tmp_path / "w.pt"))
    assert found.n_outputs == 4
    assert "transform_input" in found.warnings[0]


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "w.pt")
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), path)
    with pytest.raises(ConfigError, match=r"does not fit the model\n  96 keys unexpected: layer1"):
        zoo("torchvision", "resnet18", checkpoint=path)


def test_a_checkpoint_of_ones_own_model(tmp_path: Path) -> None:
    trained = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    source = (
        "def build():\n    return nn.Sequential("
        "nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    found = custom(tmp_path, source, checkpoint=str(tmp_path / "w.pt"))
    assert torch.equal(
        found.module.network.get_parameter("0.weight"), trained.get_parameter("0.weight")
    )
    assert (found.layer_name, found.n_outputs) == ("0", 4)


def test_a_checkpoint_that_would_run_code_needs_trust(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None, num_classes=3), tmp_path / "w.pt")
    path = str(tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"set model.trust_checkpoint=true"):
        zoo("torchvision", "resnet18", checkpoint=path)
    assert zoo("torchvision", "resnet18", checkpoint=path, trust_checkpoint=True).n_outputs == 3


def test_random_weights_are_the_same_at_each_load(tmp_path: Path) -> None:
    one, two = zoo("torchvision", "resnet18"), zoo("torchvision", "resnet18")
    config = ZooModel(
        kind="torchvision", name="resnet18", weights=None, preprocess=PreprocessConfig(resize=64)
    )
    other = load_classifier(config, CPU, seed=1)
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert len(one.fingerprint) == 32


def test_the_fingerprint_changes_with_weights_and_structure() -> None:
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    first = fingerprint(network())
    assert fingerprint(network()) == first
    weight, statistic, structure, precision = (network() for _ in range(4))
    with torch.no_grad():
        weight.get_parameter("0.weight")[3, 2, 1, 0] += 1e-7
    statistic.get_buffer("1.running_mean")[0] += 1e-7
    structure[2] = nn.GELU()
    changed = [weight, statistic, structure, precision.half()]
    found = {fingerprint(network) for network in changed}
    assert len(found | {first}) == 5
    shapes = [nn.ParameterList([torch.zeros(shape)]) for shape in ((2, 3), (3, 2))]
    shapes[1].extra_repr = shapes[0].extra_repr  # type: ignore[method-assign]
    assert fingerprint(shapes[0]) != fingerprint(shapes[1])


def test_the_fingerprint_does_not_hang_on_where_things_lie_in_memory() -> None:
    class Described(nn.Identity):
        def __init__(self) -> None:
            super().__init__()
            self.activation = lambda x: x

        def extra_repr(self) -> str:
            return f"activation={self.activation!r}"

    one, two = Described(), Described()
    assert repr(one) != repr(two)
    assert fingerprint(one) == fingerprint(two)


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        ("resnet18", Preprocess(256, (224, 224))),
        ("efficientnet_b0", Preprocess(256, (224, 224), interpolation="bicubic")),
    ],
)
def test_without_settings_the_weights_say_what_the_model_sees(
    weights: str, wanted: Preprocess
) -> None:
    assert zoo("torchvision", weights, None).preprocess == wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("resnet18.a1_in1k", Preprocess(235, (224, 224), interpolation="bicubic")),
        ("convnext_atto.d2_in1k", Preprocess(256, (224, 224), interpolation="bicubic")),
    ],
)
def test_timms_own_preprocessing(name: str, wanted: Preprocess) -> None:
    found = zoo("timm", name, None).preprocess
    assert found == wanted
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config({}, model=timm.create_model(name))
    )
    resize, crop = transform.transforms[:2]
    assert (resize.size, tuple(crop.size)) == (found.resize, found.crop)


@pytest.mark.parametrize(("mode", "wanted"), [("center", 44), ("squash", [44, 55])])
def test_timm_may_squash_the_picture(mode: str, wanted: object) -> None:
    data = {
        "input_size": (3, 40, 50),
        "crop_pct": 0.9,
        "crop_mode": mode,
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bicubic",
    }
    found = timm_preprocess(data)
    assert (found.resize, found.crop) == (wanted, [40, 50])


@pytest.mark.parametrize(
    ("settings", "resize", "crop"),
    [
        ({"resize": 40}, 40, (40, 40)),
        ({"crop": 40}, 40, (40, 40)),
        ({"resize": 50, "crop": 40}, 50, (40, 40)),
        ({"resize": [40, 50]}, (40, 50), (40, 50)),
        ({}, 256, (224, 224)),
    ],
)
def test_settings_of_size_go_before_what_the_weights_say(
    settings: dict[str, Any], resize: object, crop: object, tmp_path: Path
) -> None:
    found = custom(tmp_path, PLAIN, preprocess=PreprocessConfig(**settings)).preprocess
    assert (found.resize, found.crop) == (resize, crop)


def test_other_settings_of_preprocessing(tmp_path: Path) -> None:
    settings = PreprocessConfig(
        resize=16, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6], interpolation="nearest"
    )
    found = custom(tmp_path, PLAIN, preprocess=settings)
    assert found.preprocess == Preprocess(16, (16, 16), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "nearest")
    assert found.warnings == []
    with pytest.raises(ConfigError, match=r"preprocess.resize: 0 is neither"):
        custom(tmp_path, PLAIN, preprocess=PreprocessConfig(resize=0, crop=16))


def test_ones_own_model_is_told_what_was_taken(tmp_path: Path) -> None:
    assert custom(tmp_path, PLAIN).warnings == [
        "model.preprocess.{mean,std} is not given; the defaults are resize=256, crop=224, "
        "mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]"
    ]


def test_a_grey_model_is_seen_by_its_first_layer(tmp_path: Path) -> None:
    grey = PLAIN.replace("nn.Conv2d(3,", "nn.Conv2d(1,")
    assert custom(tmp_path, grey).preprocess.channels == 1
    colour = PreprocessConfig(resize=16, mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(ConfigError, match="to have 1 channels, but got 3 channels instead"):
        custom(tmp_path, grey, preprocess=colour)


def test_the_first_layer_that_is_named_need_not_be_the_first(tmp_path: Path) -> None:
    source = body("return self.fc(self.last(self.first(x)).mean(dim=(2, 3)))").replace(
        "self.conv = nn.Conv2d(3, 4, 3)",
        "self.last = nn.Conv2d(8, 4, 3); self.first = nn.Conv2d(3, 8, 3)",
    )
    assert custom(tmp_path, source).layer_name == "last"


def test_probabilities_instead_of_logits_are_told(tmp_path: Path) -> None:
    found = custom(tmp_path, body("return self.head(self.conv(x)).softmax(dim=1)"))
    assert "look like probabilities" in found.warnings[-1]
    sum_to_one = "x = self.head(self.conv(x)) * 10; return x - x.mean(dim=1, keepdim=True) + 1 / 3"
    for forward in ("return self.head(self.conv(x))", sum_to_one):
        told = custom(tmp_path, body(forward)).warnings
        assert not any("look like" in text for text in told), forward


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "def build():\n    raise OSError('no weights')",
            r"raised OSError: no weights \(net0.py, l",
        ),
        ("def build():\n    return 3", "returned a int, not a torch.nn.Module"),
        ("build = 3", "has no function 'build'"),
        ("def other(): pass", "has no function 'build'"),
        ("import nothing_of_this_name", "cannot be loaded: ModuleNotFoundError"),
        ("def build(:", "cannot be loaded: SyntaxError"),
    ],
)
def test_a_factory_that_fails_is_named(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^model.factory: .*" + message):
        custom(tmp_path, source)


def test_a_factory_that_is_not_there(tmp_path: Path) -> None:
    config = CustomModel(kind="custom", factory=f"{tmp_path}/none.py:build")
    with pytest.raises(ConfigError, match=r"none.py cannot be loaded"):
        load_classifier(config, CPU, seed=0)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("torchvision", {"name": "resnet81"}, "torchvision has no 'resnet81'; close names: resnet"),
        ("timm", {"name": "resnet81"}, "timm has no 'resnet81'; close names: resnet"),
        (
            "torchvision",
            {"name": "resnet18", "weights": "IMAGENET1K_V9"},
            r"model.weights: resnet18 has IMAGENET1K_V1.*, not 'IMAGENET1K_V9'",
        ),
        ("timm", {"name": "resnet18", "weights": "a1_in1k"}, "model.weights: timm has DEFAULT"),
    ],
)
def test_a_name_that_is_not_known_is_told_with_close_ones(
    kind: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        zoo(kind, **settings)


def test_timm_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r'pip install "camaudit\[timm\]"'):
        zoo("timm", "resnet18")


def test_weights_bring_their_class_names(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torchvision.models.resnet18(weights=None).state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *_, **__: weights
    )
    found = zoo("torchvision", "resnet18", weights="IMAGENET1K_V1")
    assert found.class_names is not None
    assert (len(found.class_names), found.class_names[0]) == (1000, "tench")
    assert found.warnings == []
    assert torch.equal(found.module.network.get_parameter("fc.weight"), weights["fc.weight"])


def test_weights_that_cannot_be_downloaded_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*_: object, **__: object) -> Tensor:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ConfigError, match=r"V1 cannot be downloaded: no route to host"):
        zoo("torchvision", "resnet18", weights="DEFAULT")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("names.txt", "cat\n\n dog \r\nowl\n"),
        ("names.txt", "\ufeffcat\ndog\nowl"),
        ("names.json", '["cat", "dog", "owl"]'),
        ("names.JSON", '{"0": "cat", "2": "owl", "1": "dog"}'),
    ],
)
def test_class_names_from_a_file(file: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.write_text(content, encoding="utf-8")
    assert custom(tmp_path, PLAIN, class_names=str(path)).class_names == ["cat", "dog", "owl"]


@pytest.mark.parametrize(
    ("given", "names"),
    [(None, None), (["cat", "dog", "owl"], ["cat", "dog", "owl"]), ([0, 1, 2], ["0", "1", "2"])],
)
def test_class_names_from_the_settings(
    given: object, names: list[str] | None, tmp_path: Path
) -> None:
    assert custom(tmp_path, PLAIN, class_names=given).class_names == names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "model.class_names: there are none"),
        (3, "3 is neither a list of names nor a file"),
        ([["n01440764", "tench"]], "is neither a list of names nor a file"),
        (["cat", "dog", "cat"], "given more than once: cat"),
    ],
)
def test_class_names_that_cannot_be_used(given: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        custom(tmp_path, PLAIN, class_names=given)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("none.txt", None, "none.txt cannot be read: .*No such file"),
        ("bad.json", b"{", "bad.json cannot be read: "),
        ("bad.txt", b"\xff\xfe\xff", "bad.txt cannot be read: .*utf-8"),
        ("empty.txt", b"\n\n", "there are none"),
        ("map.json", json.dumps({"cat": 0, "dog": 1}).encode(), 'needs the keys "0" to "1"'),
        ("map.json", json.dumps({"1": "cat", "2": "dog"}).encode(), 'needs the keys "0" to "1"'),
        ("number.json", b"3", "3 is neither a list of names nor a file"),
    ],
)
def test_class_files_that_cannot_be_used(
    file: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ConfigError, match=r"^model.class_names: .*" + message):
        custom(tmp_path, PLAIN, class_names=str(tmp_path / file))
