"""Planted sets: scenes of the demo's garments with cues, label noise or fixed places, and controls.

A set is drawn from a seed alone. `arm` draws the same scenes with every cue, with none, or as the
set has them; what the cue does to a network is measured between the arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from cues import CUES, Mask, Planted
from torch.utils.data import Dataset
from train_demo import load

from pipeline.demo import data

Labels = npt.NDArray[np.int64]
BACKGROUND = "background"
HARD = tuple(
    map(data.CLASSES.index, ("Shirt", "Pullover", "Coat", "T-shirt", "Dress", "Sneaker", "Bag"))
)
"""Classes that carry cues: a network needs none for the others, and relies on none."""
CHECKS = 2
"""Position in data.PATTERNS of the background that is a cue; where it is one, no other has it."""


@dataclass(frozen=True)
class Recipe:
    """What a set holds and what its network was trained on.

    planted: cues of the audited pictures; trained: whether the network saw them too; noise: share
    of wrong labels among the audited ones, and trained_noise among those trained on; corner: where
    the objects of class 0 stand, always; network: a key of networks.NETWORKS; boxed:
    whether the audit is told the boxes of the objects; seen: whether the network was trained on the
    audited pictures themselves, with the labels given to them, until it knew them; stray: share of
    the other classes' audited pictures that have the cue too, which the network never saw; same_as:
    name of the recipe whose network it shares.
    """

    name: str
    planted: Sequence[Planted] = ()
    trained: bool = True
    noise: float = 0.0
    trained_noise: float = 0.0
    corner: tuple[float, float] | None = None
    network: str = "residual"
    boxed: bool = False
    seen: bool = False
    stray: float = 0.0
    same_as: str | None = None

    @property
    def has_background(self) -> bool:
        """Whether a background is a cue in it."""
        return any(planted.cue == BACKGROUND for planted in self.planted)


def recipes(seed: int) -> list[Recipe]:
    """All sets of a seed; which class carries a cue changes with it."""

    def on(number: int, cue: str, prevalence: float = 0.9) -> Planted:
        return Planted(HARD[(number + seed) % len(HARD)], cue, prevalence)

    return [
        Recipe("patch", [on(0, "patch")]),
        Recipe("text", [on(1, "text")]),
        Recipe("frame", [on(2, "frame")]),
        Recipe("background", [on(3, BACKGROUND)]),
        Recipe("background_boxed", [on(3, BACKGROUND)], boxed=True, same_as="background"),
        Recipe("tint", [on(4, "tint")]),
        Recipe("ruler", [on(5, "ruler")], network="vgg"),
        Recipe("sticker", [on(6, "sticker")]),
        Recipe("two", [on(7, "patch"), on(8, "tint")]),
        Recipe("weak", [on(9, "patch", 0.3)]),
        Recipe("hair", [on(10, "hair")]),
        Recipe("blurred_zone", [on(11, "blurred_zone")]),
        Recipe("jpeg", [on(12, "jpeg")]),
        Recipe("ball", [on(13, "ball")]),
        Recipe("vignette", [on(14, "vignette")]),
        Recipe("all_of_them", [on(15, "ruler", 1.0)]),
        Recipe("noisy_patch", [on(16, "patch")], noise=0.08, trained_noise=0.08),
        Recipe("stray_patch", [on(0, "patch")], noise=0.08, stray=0.1, same_as="patch"),
        Recipe("clean"),
        Recipe("clean_vgg", network="vgg"),
        Recipe("noise", noise=0.08),
        Recipe("noise_trained", noise=0.08, trained_noise=0.08),
        Recipe("noise_seen", noise=0.08, trained_noise=0.08, seen=True),
        Recipe("fixed_place", corner=(0.0, 0.0)),
        Recipe("fixed_edge", corner=(1.0, 0.5)),
        Recipe("unused_patch", [on(17, "patch")], trained=False),
        Recipe("unused_frame", [on(18, "frame")], trained=False),
    ]


@dataclass(frozen=True)
class Drawn:
    """Pictures (n, 64, 64, 3) uint8, where their cues are (n, 64, 64), and which have one (n,)."""

    pictures: data.U8
    masks: Mask
    marked: npt.NDArray[np.bool_]
    boxes: list[data.Box] = field(default_factory=list)


def draw(
    recipe: Recipe,
    garments: data.U8,
    labels: Labels,
    seed: int,
    *,
    arm: Planted | bool | None = None,
    again: int = 0,
) -> Drawn:
    """The scenes of garments (n, 28, 28) with true labels (n,).

    arm: None as the recipe has it; False without any cue; a Planted: that cue on every picture.
    again: another draw of the backgrounds, of the same objects at the same places.
    """
    items = [
        _scene(recipe, garments[i], int(labels[i]), (seed, i), arm=arm, again=again)
        for i in range(len(labels))
    ]
    pictures, masks, marked, boxes = zip(*items, strict=True)
    return Drawn(np.stack(pictures), np.stack(masks), np.array(marked), list(boxes))


def _scene(
    recipe: Recipe,
    garment: data.U8,
    label: int,
    key: tuple[int, int],
    *,
    arm: Planted | bool | None,
    again: int,
) -> tuple[data.U8, Mask, bool, data.Box]:
    """One scene; background, object and cue have draws of their own, so that one may change."""
    cue = _cue(recipe, label, key, arm=arm)
    patterns = [i for i in range(len(data.PATTERNS)) if i != CHECKS or not recipe.has_background]
    if cue is not None and cue.cue == BACKGROUND:
        patterns = [CHECKS]
    another = (again,) if again else ()
    image = data.background(np.random.default_rng((*key, 0, *another)), patterns)
    corner = recipe.corner if label == 0 else None
    box = data.dress(image, garment, np.random.default_rng((*key, 1)), corner)
    rng = np.random.default_rng((*key, 2))
    image = (image + 0.012 * rng.standard_normal(image.shape)).clip(0, 1)
    mask: Mask | None = np.zeros(image.shape[:2], bool)
    if cue is not None and cue.cue == BACKGROUND:
        mask = None
    elif cue is not None:
        image, mask = CUES[cue.cue](image, box, rng)
    if mask is None:
        mask = np.ones(image.shape[:2], bool)
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8), mask, cue is not None, box


def _cue(
    recipe: Recipe, label: int, key: tuple[int, int], *, arm: Planted | bool | None
) -> Planted | None:
    if isinstance(arm, Planted):
        return arm
    for planted in recipe.planted if arm is None else ():
        share = planted.prevalence if planted.class_index == label else recipe.stray
        if np.random.default_rng((*key, 3)).random() < share:
            return planted
    return None


def flip_labels(
    labels: Labels, share: float, seed: int, n_classes: int = len(data.CLASSES)
) -> Labels:
    """Change exactly a share of the labels to another class."""
    rng = np.random.default_rng((seed, len(labels)))
    given = labels.copy()
    chosen = rng.choice(len(given), round(share * len(given)), replace=False)
    given[chosen] += rng.integers(1, n_classes, len(chosen))
    return np.asarray(given % n_classes)


def garments(source: Any, split: str, per_class: int) -> tuple[data.U8, Labels]:
    """The first garments of each class of a split, in the order they come."""
    images, labels = load(source, split)
    firsts = [np.flatnonzero(labels == index)[:per_class] for index in range(len(data.CLASSES))]
    chosen = np.sort(np.concatenate(firsts))
    return images[chosen], labels[chosen]


class SavedSet(Dataset[dict[str, Any]]):
    """The audited pictures of a set, from the file that `training` wrote; with the boxes
    of their objects, where these are to be known.
    """

    def __init__(self, path: str, *, boxed: bool = False) -> None:
        with np.load(path) as saved:
            self.pictures, self.targets = saved["pictures"], saved["given"].tolist()
            self.boxes = saved["boxes"] if boxed else None
        self.classes = list(data.CLASSES)
        self.ids = [f"{index:05d}" for index in range(len(self.targets))]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {"image": self.pictures[index], "label": self.classes[self.targets[index]]}
        return item if self.boxes is None else {**item, "box": self.boxes[index]}
