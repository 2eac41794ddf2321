"""An ImageNet-trained network on real photographs: what it sees, and in which precision."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
import sklearn.datasets
import torch
from numpy.typing import NDArray
from torch import Tensor

from helpers import lite
from pipeline.data.decode import to_rgb
from pipeline.engine import inference, precision
from pipeline.model.classifier import Classifier, load_classifier

CPU = torch.device("cpu")
CATS = range(281, 286)
"""Tabby, tiger cat, Persian, Siamese and Egyptian cat among the classes of ImageNet-1k."""
HEAD = (0.28, 0.05, 0.85, 0.80)
"""Where the cat's head is in its photograph: x0, y0, x1, y1, as shares of the sides, by eye."""
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "camera", "retina", "motorcycle_left")
ARTEFACTS = Path(__file__).parents[2] / "outputs" / "test-artefacts"
"""Pictures that are left to be looked at."""
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def lite0() -> Classifier:
    return load_classifier(lite.config(), CPU, seed=0)


def photograph(name: str) -> Pixels:
    (path,) = (Path(skimage.__file__).parent / "data").glob(f"{name}.*")
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert pixels is not None
    return to_rgb(pixels)


def photographs() -> list[Pixels]:
    """Whole photographs."""
    whole = [photograph(name) for name in PHOTOGRAPHS]
    return [*whole, *sklearn.datasets.load_sample_images().images]


def mirrored(pictures: list[Pixels]) -> list[Pixels]:
    """Right and left changed over."""
    return [np.ascontiguousarray(pixels[:, ::-1]) for pixels in pictures]


def crops() -> list[Pixels]:
    """Four overlapping squares of each photograph, many without an object in the middle."""
    pictures = []
    for pixels in photographs():
        height, width = pixels.shape[:2]
        side = int(0.6 * min(height, width))
        for y in np.linspace(0, height - side, 2).astype(int):
            for x in np.linspace(0, width - side, 2).astype(int):
                pictures.append(np.ascontiguousarray(pixels[y : y + side, x : x + side]))
    return pictures


def fitted(model: Classifier, pictures: list[Pixels]) -> list[Tensor]:
    """Batches of uint8 pictures as the model sees them."""
    whole = torch.stack([model.preprocess.fit(pixels) for pixels in pictures])
    return [whole[at : at + 32] for at in range(0, len(whole), 32)]


def test_a_cat_is_seen_as_a_cat_by_its_head(lite0: Classifier) -> None:
    pixels = photograph("chelsea")
    seen = lite0.preprocess.fit(pixels)
    maps, classes = inference.heatmaps(lite0, seen[None])
    heatmap = maps.view(lite0.grid).numpy()
    draw(seen.permute(1, 2, 0).numpy(), heatmap, ARTEFACTS / "cat.png")
    assert int(classes) in CATS
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    x, y = in_photograph((column + 0.5) / lite0.grid[1], (row + 0.5) / lite0.grid[0], pixels)
    assert HEAD[0] < x < HEAD[2]
    assert HEAD[1] < y < HEAD[3]


@pytest.mark.parametrize("texture", ["grass", "brick", "gravel"])
@pytest.mark.parametrize("quarter", range(4))
def test_the_heat_follows_the_cat(lite0: Classifier, texture: str, quarter: int) -> None:
    cat = photograph("chelsea")[:, 75:375]
    canvas = cv2.resize(photograph(texture), (600, 600))
    y, x = divmod(quarter, 2)
    canvas[300 * y :, 300 * x :][:300, :300] = cat
    seen = lite0.preprocess.fit(np.asarray(canvas, np.uint8))
    # Of the tiger cat, whatever is predicted: a wall of bricks may be a crossword.
    maps, _ = inference.heatmaps(lite0, seen[None], torch.tensor([CATS[1]]))
    heatmap = maps.view(lite0.grid)
    ours = heatmap[3 * y : 3 * y + 4, 3 * x : 3 * x + 4]  # of seven cells the middle one is shared
    assert ours.max() == heatmap.max()
    assert ours.sum() > 2 / 3 * heatmap.sum()


def test_bfloat16_sees_what_float32_sees(lite0: Classifier) -> None:
    fast = precision.prepare(lite0, "bf16", channels_last=True, compiled=False)
    whole = photographs()
    found = precision.agreement(lite0, fast, fitted(lite0, whole + mirrored(whole)))
    assert found.images == 18
    assert found.holds, found


def test_bfloat16_decides_otherwise_only_where_float32_wavers(lite0: Classifier) -> None:
    exact, fast = (
        precision.prepare(lite0, name, channels_last=True, compiled=False)
        for name in ("fp32", "bf16")
    )
    batches = fitted(lite0, crops())
    with torch.no_grad():
        logits = torch.cat([exact.module(exact.input(images)) for images in batches])
    others = torch.cat([inference.heatmaps(fast, images)[1] for images in batches])
    first, second = logits.softmax(dim=1).topk(2, dim=1).values.unbind(dim=1)
    sure = first - second > 0.1
    assert sure.sum() > 12
    same = logits.argmax(dim=1) == others
    assert same[sure].float().mean() >= precision.MIN_TOP1


def in_photograph(x: float, y: float, pixels: Pixels) -> tuple[float, float]:
    """Shares of the photograph's sides, from shares of the centre crop of the resized picture."""
    height, width = pixels.shape[:2]
    crop = 224 / 256 * min(height, width)
    return ((width - crop) / 2 + x * crop) / width, ((height - crop) / 2 + y * crop) / height


def draw(seen: Pixels, heatmap: NDArray[np.float32], path: Path) -> None:
    """The picture, and beside it the heatmap laid over."""
    size = (seen.shape[1], seen.shape[0])
    levels = np.uint8(255 * cv2.resize(heatmap, size, interpolation=cv2.INTER_LINEAR))
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    overlay = cv2.addWeighted(seen, 0.5, np.ascontiguousarray(colours), 0.5, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.hstack([seen, overlay])[..., ::-1])
