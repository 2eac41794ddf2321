"""Image classifiers of transformers: weights, names, preprocessing, and what is refused."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.config import PreprocessConfig, ZooModel
from pipeline.errors import ConfigError
from pipeline.model import checkpoint, huggingface, preprocess
from pipeline.model.loaded import LoadedModel
from pipeline.model.preprocess import IMAGENET_MEAN, IMAGENET_STD

VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "patch_size": 2}
TIMM: dict[str, Any] = {
    "input_size": [3, 32, 32],
    "crop_pct": 0.5,
    "crop_mode": "center",
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.2, 0.3],
    "interpolation": "bicubic",
}
HALF = [0.5, 0.5, 0.5]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def save(folder: Path, kind: str = "ViT", **settings: Any) -> Any:
    """A random classifier of a few thousand weights, saved to the folder."""
    if kind == "ViT":
        settings = VIT | settings
    config = getattr(transformers, f"{kind}Config")(**{"num_labels": 3, **settings})
    torch.manual_seed(0)
    module = transformers.AutoModelForImageClassification.from_config(config).eval()
    module.save_pretrained(folder)
    return module


def build(
    folder: Path | str, read: dict[str, Tensor] | None = None, **settings: Any
) -> LoadedModel:
    """What huggingface.build makes of the folder, and of a checkpoint that was read."""
    config = ZooModel(**{"kind": "huggingface", "name": str(folder), **settings})
    return huggingface.build(config, read)


def says(folder: Path, entries: dict[str, Any], **wanted: Any) -> PreprocessConfig:
    """The preprocessing of a classifier with this preprocessor_config.json."""
    if not (folder / "config.json").exists():
        save(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(entries))
    built = build(folder, preprocess=PreprocessConfig(**wanted))
    assert built.warnings == []
    return built.preprocess


def change(folder: Path, file: str = "config.json", **entries: Any) -> None:
    """Other entries in a JSON file."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def logits(module: nn.Module, side: int = 32) -> Tensor:
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = module(images).logits
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViT", VIT),
        ("DeiT", {**VIT, "architectures": ["DeiTForImageClassificationWithTeacher"]}),
        ("Dinov2WithRegisters", VIT),
        ("ConvNext", {"num_stages": 2, **STAGES}),
        ("ResNet", {"embedding_size": 8, "layer_type": "basic", **STAGES}),
        ("Swinv2", {"image_size": 32, **SWIN}),
        ("TimmWrapper", {"architecture": "resnet10t", "pretrained_cfg": TIMM}),
    ],
)
def test_a_saved_model_comes_back(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    saved = save(tmp_path, kind, **settings)
    module = build(tmp_path).module
    assert not module.training
    assert {value.dtype for value in module.parameters()} == {torch.float32}
    assert logits(module).shape == (2, 3)
    assert all(map(torch.equal, module.state_dict().values(), saved.state_dict().values()))
    torch.testing.assert_close(logits(module), logits(saved), rtol=1e-4, atol=1e-6)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    saved = save(tmp_path)
    saved.half().save_pretrained(tmp_path)
    for weights in ("DEFAULT", None):
        module = build(tmp_path, weights=weights).module
        assert {value.dtype for value in module.parameters()} == {torch.float32}
        assert logits(module).dtype == torch.float32


def test_random_weights_are_those_of_the_seed(tmp_path: Path) -> None:
    saved = save(tmp_path)
    torch.manual_seed(0)
    built = build(tmp_path, weights=None)
    random = f"{tmp_path} has random weights: set model.weights or model.checkpoint"
    assert built.warnings[0] == random
    assert torch.equal(logits(built.module), logits(saved))
    assert not torch.equal(logits(build(tmp_path, weights=None).module), logits(saved))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({2: "owl", 0: "cat", 1: "dog"}, ["cat", "dog", "owl"]),
        ({0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, None),
        ({0: "ill"}, None),  # one logit for two classes
        ({0: "LABEL_0", 1: "dog", 2: "LABEL_2"}, ["LABEL_0", "dog", "LABEL_2"]),
    ],
)
def test_class_names_are_those_of_the_config(
    labels: dict[int, str], names: list[str] | None, tmp_path: Path
) -> None:
    save(tmp_path, num_labels=len(labels))
    change(tmp_path, id2label=labels, label2id={})
    assert build(tmp_path).class_names == names


def test_outputs_of_other_kinds_are_doubted(tmp_path: Path) -> None:
    save(tmp_path, problem_type="multi_label_classification")
    assert "model.output=multilabel" in build(tmp_path).warnings[0]
    assert len(build(tmp_path, output="multilabel").warnings) == 1


def test_safe_pickles_are_read_and_others_refused(tmp_path: Path) -> None:
    saved = save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(saved.state_dict(), tmp_path / "pytorch_model.bin")
    assert torch.equal(logits(build(tmp_path).module), logits(saved))
    torch.save({"weights": Path("would run")}, tmp_path / "pytorch_model.bin")
    for trust in (False, True):
        with pytest.raises(ConfigError, match=r"cannot be loaded: .*a pickle that could run code"):
            build(tmp_path, trust_checkpoint=trust)


def test_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    save(tmp_path)
    code = "raise SystemExit('ran')"
    (tmp_path / "net.py").write_text(code)
    change(tmp_path, model_type="mine", auto_map={"AutoConfig": "net.Settings"})
    with pytest.raises(ConfigError, match=r"cannot be loaded: .*contains custom code"):
        build(tmp_path)


def test_missing_transformers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'pip install "camaudit\[huggingface\]"'):
        build("any/model")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("any/model", "any/model is no folder, and as an id on the Hub cannot be loaded: We could"),
        ("./no/such", "./no/such is no folder, and as an id on the Hub cannot be loaded: Repo id"),
    ],
)
def test_models_that_cannot_be_found(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^model.name: {message}"):
        build(name)


def test_folders_that_hold_no_image_classifier(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^model.name: {tmp_path} cannot be loaded: "):
        build(tmp_path)
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="is a bert; transformers has no image classif"):
        build(tmp_path)
    save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ConfigError, match="cannot be loaded: SafetensorError: "):
        build(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="cannot be loaded: Error no file named model"):
        build(tmp_path)


def test_weights_that_would_be_random_are_told(tmp_path: Path) -> None:
    save(tmp_path).vit.save_pretrained(tmp_path)
    wanted = r"lacks weights, .*\n  2 keys missing: classifier.bias, classifier.weight$"
    with pytest.raises(ConfigError, match=wanted):
        build(tmp_path)
    save(tmp_path)
    labels = {index: str(index) for index in range(5)}
    change(tmp_path, id2label=labels, label2id={})
    wanted = r"2 keys of another shape: classifier.bias is \(3,\), the model has \(5,\), class"
    with pytest.raises(ConfigError, match=wanted):
        build(tmp_path)
    names = {"missing_keys": ["bn.num_batches_tracked"], "mismatched_keys": ["head.bias"]}
    assert huggingface._problems(names) == ["1 keys of another shape: head.bias"]


def test_a_revision_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"has DEFAULT, not 'v2'; for a revision, download it"):
        build("any/model", weights="v2")


@pytest.mark.parametrize("stored", [False, True])
def test_a_checkpoint_tells_its_classes(stored: bool, tmp_path: Path) -> None:
    names = {0: "cat", 1: "dog", 2: "owl"}
    save(tmp_path, id2label=names, label2id={})
    tuned = save(tmp_path / "tuned", num_labels=5)
    file = tmp_path / "tuned" / "model.safetensors"
    weights = load_file(file) if stored else dict(tuned.state_dict())
    built = build(tmp_path, weights, checkpoint=str(file))
    checkpoint.load_weights(built.module, weights, str(file))
    assert torch.equal(logits(built.module), logits(tuned))
    assert built.class_names is None
    same = save(tmp_path / "same").state_dict()
    assert build(tmp_path, dict(same)).class_names == ["cat", "dog", "owl"]


def test_a_checkpoint_that_does_not_fit_is_told(tmp_path: Path) -> None:
    save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["head.bias"] = weights.pop("classifier.bias")
    message = r"^model.checkpoint: a.pt does not fit the model\n  1 keys missing: classifier.bias\n"
    with pytest.raises(ConfigError, match=message + "  1 keys unexpected: head.bias$"):
        build(tmp_path, weights, checkpoint="a.pt")


def test_a_checkpoint_of_a_training_wrapper_is_left_to_fill(tmp_path: Path) -> None:
    tuned = save(tmp_path)
    weights = {f"module.{key}": value for key, value in tuned.state_dict().items()}
    built = build(tmp_path, weights, checkpoint="a.pt")
    checkpoint.load_weights(built.module, weights, "a.pt")
    assert torch.equal(logits(built.module), logits(tuned))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViT", {}),
        ("ViT", {"size": 48}),
        ("ConvNext", {"size": {"shortest_edge": 224}}),
        ("ConvNext", {"size": {"shortest_edge": 56}, "crop_pct": 0.7, "resample": 2}),
        ("ConvNext", {}),
        ("Beit", {"do_center_crop": True, "size": 64, "crop_size": 48}),
        ("DeiT", {}),
        ("Bit", {}),
        ("CLIP", {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 32}}),
        ("PoolFormer", {"crop_pct": 0.875}),
        ("Levit", {}),
        ("EfficientNet", {}),
        ("EfficientNet", {"rescale_factor": 1 / 127.5, "rescale_offset": True}),
        ("EfficientNet", {"do_normalize": False, "include_top": False}),
        ("ViT", {"do_normalize": False, "do_rescale": False}),
    ],
)
@pytest.mark.parametrize("shape", [(300, 400), (120, 90)])
def test_pictures_come_out_as_of_the_image_processor(
    kind: str, settings: dict[str, Any], shape: tuple[int, int], tmp_path: Path
) -> None:
    processor = getattr(transformers, f"{kind}ImageProcessor")(**settings)
    processor.save_pretrained(tmp_path)
    found = says(tmp_path, json.loads((tmp_path / "preprocessor_config.json").read_text()))
    fitting = preprocess.check_preprocess(
        found.resize, found.crop, found.mean, found.std, found.interpolation
    )
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    ours = fitting.normalise(fitting.fit(picture)[None])
    theirs = processor(images=picture, return_tensors="pt")["pixel_values"]
    assert ours.shape == theirs.shape
    levels = (ours - theirs) * torch.tensor(found.std)[:, None, None] * 255
    assert levels.abs().max() <= 3


def test_old_entries_are_completed_by_the_class(tmp_path: Path) -> None:
    old = {"feature_extractor_type": "DeiTFeatureExtractor", "size": 40, "crop_size": 32}
    assert says(tmp_path, old) == PreprocessConfig([40, 40], [32, 32], HALF, HALF, "bicubic")
    fast = {"image_processor_type": "ConvNextImageProcessorFast", "size": 32, "crop_pct": 0.8}
    assert says(tmp_path, fast) == PreprocessConfig(40, [32, 32], HALF, HALF, "bicubic")
    bare = {"size": 32, "image_mean": [0.0, 0.1, 0.2], "image_std": HALF, "resample": 0}
    expected = PreprocessConfig([32, 32], [32, 32], [0.0, 0.1, 0.2], HALF, "nearest")
    assert says(tmp_path, bare) == expected


def test_a_model_of_timm_brings_its_own_preprocessing(tmp_path: Path) -> None:
    save(tmp_path, "TimmWrapper", architecture="resnet10t", pretrained_cfg=TIMM)
    expected = PreprocessConfig(64, [32, 32], TIMM["mean"], TIMM["std"], "bicubic")
    assert build(tmp_path).preprocess == expected


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.25]), (0.5, 0.25)])
def test_a_grey_model_gets_grey_pictures(mean: Any, std: Any, tmp_path: Path) -> None:
    save(tmp_path, num_channels=1)
    found = says(tmp_path, {"size": 32, "image_mean": mean, "image_std": std})
    assert (found.mean, found.std) == ([0.5], [0.25])


@pytest.mark.parametrize(
    ("entries", "wanted", "message"),
    [
        ({"resample": 1}, {"interpolation": "bicubic"}, "resample=1"),
        ({"do_resize": False}, {"resize": 32}, "do_resize=False"),
        ({"do_pad": True}, {"crop": 32}, "do_pad=True"),
        (
            {"size": {"shortest_edge": 32}},
            {"resize": 32},
            r"size=\{'shortest_edge': 32\} and no do_center_crop",
        ),
        (
            {"do_center_crop": True, "crop_size": {"shortest_edge": 32}},
            {"resize": 32, "mean": HALF, "std": HALF},
            r"crop_size=\{'shortest_edge': 32\}",
        ),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}}, {"resize": 32}, "'longest_edge': 64"),
        (
            {"image_mean": [0.5, 0.5]},
            {"mean": HALF, "std": HALF},
            r"image_mean=\(0.5, 0.5\) for 3 channels",
        ),
        (
            {"image_processor_type": "MobileViTImageProcessor", "crop_size": 32},
            {"mean": HALF, "std": HALF},
            "do_flip_channel_order=True",
        ),
    ],
)
def test_what_cannot_be_followed_can_be_given(
    entries: dict[str, Any], wanted: dict[str, Any], message: str, tmp_path: Path
) -> None:
    entries = {"image_processor_type": "ViTImageProcessor", "size": 32, **entries}
    with pytest.raises(ConfigError, match=rf"model.preprocess.*has .*{message}.*cannot reproduce"):
        says(tmp_path, entries)
    says(tmp_path, entries, **wanted)


@pytest.mark.parametrize(
    ("kind", "wanted", "keys"),
    [
        ("Perceiver", {}, "{resize,mean,std}"),  # crops before it resizes
        ("PPLCNet", {"crop": 32}, "{mean,std}"),  # turns the channels round
    ],
)
def test_rules_of_a_class_that_no_entry_tells(
    kind: str, wanted: dict[str, Any], keys: str, tmp_path: Path
) -> None:
    entries = {"image_processor_type": f"{kind}ImageProcessor", "resize_short": 64}
    message = f"model.preprocess.{keys}: .* {kind}ImageProcessor as its class"
    with pytest.raises(ConfigError, match=message):
        says(tmp_path, entries, **wanted)
    says(tmp_path, entries, resize=32, mean=HALF, std=HALF)


def test_an_image_processor_that_cannot_be_loaded(tmp_path: Path) -> None:
    entries = {"image_processor_type": "NoSuchProcessor", "size": "large"}
    with pytest.raises(ConfigError, match=r"the image processor of .* cannot be loaded, and"):
        says(tmp_path, entries)
    wanted: dict[str, Any] = {"crop": 32, "mean": HALF, "std": HALF, "interpolation": "nearest"}
    assert says(tmp_path, entries, **wanted) == PreprocessConfig(**wanted)


@pytest.mark.parametrize(
    ("settings", "wanted", "taken"),
    [
        ({}, {}, "resize=[32, 32], crop=[32, 32], mean=[0.485, 0.456, 0.406], std=[0.229, "),
        ({}, {"resize": 64}, "the defaults are mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0"),
        ({"num_channels": 1}, {"std": [1.0]}, "resize=[32, 32], crop=[32, 32], mean=[0.5]"),
    ],
)
def test_no_image_processor_is_said_aloud(
    settings: dict[str, Any], wanted: dict[str, Any], taken: str, tmp_path: Path
) -> None:
    save(tmp_path, **settings)
    built = build(tmp_path, preprocess=PreprocessConfig(**wanted))
    assert len(built.warnings) == 1
    assert f"{tmp_path} has no preprocessor_config.json, and model.prepr" in built.warnings[0]
    assert taken in built.warnings[0]


def test_no_image_processor_and_no_size(tmp_path: Path) -> None:
    save(tmp_path, "ResNet", embedding_size=8, layer_type="basic", **STAGES)
    found = build(tmp_path).preprocess
    assert found == PreprocessConfig(256, 224, list(IMAGENET_MEAN), list(IMAGENET_STD))
    wanted = PreprocessConfig(resize=32, mean=HALF, std=HALF)
    assert build(tmp_path, preprocess=wanted).warnings == []
