"""What the model sees: the weights' own transforms, bit by bit, and settings refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.data.decode import DecodeError
from pipeline.errors import ConfigError
from pipeline.model import preprocess
from pipeline.model.preprocess import IMAGENET_MEAN, IMAGENET_STD, MAX_RESIZED, Preprocess

WEIGHTS = (
    "ResNet18_Weights.IMAGENET1K_V1",  # 256, 224
    "ResNet50_Weights.IMAGENET1K_V2",  # 232, 224
    "EfficientNet_B0_Weights.IMAGENET1K_V1",  # bicubic
    "ConvNeXt_Tiny_Weights.IMAGENET1K_V1",  # 236, 224
    "Inception_V3_Weights.IMAGENET1K_V1",  # 342, 299
    "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1",  # 384, no crop
)
SIZES = ((300, 300), (240, 427), (427, 240), (64, 64), (1, 1), (3, 500), (2, 1), (900, 30))
GOOD: dict[str, Any] = {
    "resize": 64,
    "crop": 56,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
    "interpolation": "bilinear",
}


def picture(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(height + width).integers(
        0, 256, (height, width, channels), dtype=np.uint8
    )


@pytest.mark.parametrize("weights", WEIGHTS)
def test_equals_the_transforms_of_the_weights(weights: str) -> None:
    transforms = torchvision.models.get_weight(weights).transforms()
    own = preprocess.check_preprocess(
        transforms.resize_size[0],
        transforms.crop_size[0],
        list(transforms.mean),
        list(transforms.std),
        transforms.interpolation.value,
    )
    std = torch.tensor(own.std)[:, None, None]
    for size in SIZES:
        pixels = picture(*size)
        # Weights are trained and evaluated on what Pillow reads and resizes. torch's resize of
        # bytes rounds some pixels in a hundred differently, once or twice (rows, columns).
        wanted = transforms(Image.fromarray(pixels))
        levels = ((own.normalise(own.fit(pixels)[None])[0] - wanted) * std * 255).abs()
        assert levels.max() < 2.01, size
        assert levels.mean() < 0.03, size
    pixels = picture(transforms.resize_size[0], transforms.resize_size[0] + 33)  # not resized
    wanted = transforms(Image.fromarray(pixels))
    assert torch.equal(own.normalise(own.fit(pixels)[None])[0], wanted)


def test_height_and_width_may_be_given() -> None:
    own = preprocess.check_preprocess(**GOOD | {"resize": [20, 60], "crop": [10, 40]})
    fitted = own.fit(picture(100, 100))
    assert fitted.shape == (3, 10, 40)
    assert fitted.permute(1, 2, 0).is_contiguous()  # as decoders give it and models like it
    squashed = Image.fromarray(picture(100, 100)).resize((60, 20), Image.Resampling.BILINEAR)
    wanted = np.array(squashed.crop((10, 5, 50, 15))).transpose(2, 0, 1)
    assert (fitted.int() - torch.from_numpy(wanted).int()).abs().max() <= 1


def test_without_a_crop_the_whole_square_is_seen() -> None:
    assert preprocess.check_preprocess(**GOOD | {"crop": None}) == Preprocess(
        64, (64, 64), (0.5,) * 3, (0.2,) * 3
    )


def test_a_mask_is_fitted_like_its_picture() -> None:
    own = Preprocess(32, (32, 32))
    pixels = picture(50, 80)
    alone = own.fit(np.ascontiguousarray(pixels[..., 1:2]))
    assert torch.equal(alone[0], own.fit(pixels)[1])


@pytest.mark.parametrize("narrow", [False, True])
def test_a_sliver_that_would_fill_the_memory_is_an_error_in_words(narrow: bool) -> None:
    own = Preprocess(256, (224, 224))
    long = MAX_RESIZED // 256**2 + narrow
    pixels = np.zeros((long, 1, 3), np.uint8)
    if not narrow:
        assert own.fit(pixels).shape == (3, 224, 224)
        return
    with pytest.raises(DecodeError, match="too narrow to be resized: 1 x 1025 pixels"):
        own.fit(pixels)


def test_a_sliver_of_a_given_size_is_none() -> None:
    assert Preprocess((32, 32), (32, 32)).fit(np.zeros((70000, 1, 3), np.uint8)).shape[1:] == (
        32,
        32,
    )


def test_colours_are_scaled_and_standardised() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    own = Preprocess(1, (1, 1), mean=(0.0, 0.5, 0.5), std=(1.0, 0.1, 2.0))
    assert own.channels == 3
    assert own.normalise(images).dtype == torch.float32
    torch.testing.assert_close(own.normalise(images).flatten(), torch.tensor([0.0, -3.0, 0.25]))


def test_grey_is_that_of_pillow_and_grey_stays_grey() -> None:
    own = Preprocess(1, (1, 1), mean=(0.5,), std=(0.25,))
    assert own.channels == 1
    pixels = picture(100, 100)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    wanted = torch.from_numpy(np.array(Image.fromarray(pixels).convert("L")))
    assert torch.equal(own.colours(images), wanted[None, None])
    assert own.normalise(images).shape == (1, 1, 100, 100)
    ramp = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    assert torch.equal(own.colours(ramp), ramp[:, :1])
    torch.testing.assert_close(own.normalise(ramp)[0, 0, 0, [0, 255]], torch.tensor([-2.0, 2.0]))


def test_colour_is_left_alone() -> None:
    images = torch.from_numpy(picture(4, 4)).permute(2, 0, 1)[None]
    assert torch.equal(Preprocess(4, (4, 4)).colours(images), images)


def test_without_words_the_numbers_are_those_of_imagenet() -> None:
    own = Preprocess(4, (4, 4))
    assert (own.mean, own.std, own.interpolation) == (IMAGENET_MEAN, IMAGENET_STD, "bilinear")
    zero: Tensor = own.normalise(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
    assert zero.flatten().tolist() == pytest.approx(
        [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"resize": 0}, "preprocess.resize: 0 is neither pixels nor"),
        ({"resize": -5}, "preprocess.resize: -5"),
        ({"resize": True}, "preprocess.resize: True"),
        ({"resize": "big"}, "preprocess.resize: 'big'"),
        ({"resize": 64.0}, "preprocess.resize: 64.0"),
        ({"resize": [64]}, r"preprocess.resize: \[64\]"),
        ({"resize": [64, 0]}, r"preprocess.resize: \[64, 0\]"),
        ({"resize": None}, "preprocess.resize: None"),
        ({"crop": 0}, "preprocess.crop: 0"),
        ({"crop": [1, 2, 3]}, r"preprocess.crop: \[1, 2, 3\]"),
        ({"crop": 65}, "preprocess.crop: 65 is larger than resize 64"),
        ({"resize": [64, 32]}, r"preprocess.crop: 56 is larger than resize \[64, 32\]"),
        ({"mean": [0.5, 0.5]}, r"preprocess.mean: \[0.5, 0.5\] needs one number per channel"),
        ({"std": []}, r"preprocess.std: \[\]"),
        ({"std": [0.1]}, r"mean \[0.5, 0.5, 0.5\] and std \[0.1\] need the same number"),
        ({"std": [0.1, 0.1, 0.0]}, "a std above 0"),
        ({"std": [0.1, 0.1, float("nan")]}, "a std above 0"),
        ({"interpolation": "lanczos"}, "'lanczos' is none of nearest, bilinear, bicubic"),
    ],
)
def test_settings_that_cannot_be_used_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preprocess.check_preprocess(**GOOD | changed)


def test_a_wide_crop_beside_a_shorter_side_is_for_wide_pictures() -> None:
    own = preprocess.check_preprocess(**GOOD | {"resize": 64, "crop": [64, 128]})
    assert own.fit(picture(32, 64)).shape == (3, 64, 128)
