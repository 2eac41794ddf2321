"""Make the set of a form: train its network, draw its audited images, and measure its cues.

A cue is what it does to the network, not what was drawn: every pair of a drawing and a class is
measured by drawing the same images with and without the cue. A set that exists is not made again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from forms import Cue, Form
from networks import build
from scenes import Drawn, Labels, Objects, draw, read_photographs
from sets import flip_labels
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from train_demo import load, predict, to_input

from pipeline.demo import data

BATCH = 128
EPOCHS = {"residual": 4, "vgg": 4, "vit": 14}
RATES = {"residual": 0.006, "vgg": 0.004, "vit": 0.002}
REAL = 0.15
"""Share of images that must flip for a pair of a cue and a class to be real."""
PHOTO_SIDE = 224
CUTOUT_CLASSES = (
    "birds", "fish", "insects", "mammals", "fruit", "vegetables", "music", "dishes", "hats",
    "dessert",
)  # fmt: skip
"""Folders of cut-outs that are classes; those that are missing or small are replaced by others."""


def make(form: Form, seed: int, sources: dict[str, Path], cache: Path) -> Path:
    """Make the folder of a set: network.pt, audited.npz and truth.json.

    Args:
        form: the form.
        seed: seed of images and training.
        sources: folders: "garments", "cutouts", "grounds" and "photographs".
        cache: folder of all sets.
    """
    folder = cache / f"{form.name}-{seed}"
    if (folder / "truth.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    training, audited = read_objects(form, seed, sources)
    n_classes = int(max(training.labels.max(), audited.labels.max())) + 1
    network = _train(form, training, seed, n_classes)
    torch.save(network.state_dict(), folder / "network.pt")
    truth = _measure(form, audited, seed, network, n_classes, folder)
    (folder / "truth.json").write_text(json.dumps(truth, indent=1), encoding="utf-8")
    return folder


def read_objects(form: Form, seed: int, sources: dict[str, Path]) -> tuple[Objects, Objects]:
    """Read the objects of the training split and of the audited split."""
    if form.source == "photographs":
        return _photographs(seed, sources["photographs"])
    if form.source == "cutouts":
        return _cutouts(form, sources)
    return tuple(_garments(form, seed, sources["garments"], split) for split in ("train", "t10k"))  # type: ignore[return-value]


def _garments(form: Form, seed: int, source: Path, split: str) -> Objects:
    images, garments = load(source, split)
    rng = np.random.default_rng((seed, split == "train"))
    n_classes = len(form.classes)
    shares = np.array(form.shares or [1.0] * n_classes)
    sizes = np.full(n_classes, form.per_class)
    if split == "train":
        sizes = np.round(form.n_train * shares / shares.sum()).astype(int)
    pixels, labels = [], []
    for label, garment in enumerate(form.classes):
        kind = garment // 10 if form.source == "tinted garments" else garment
        own = np.flatnonzero(garments == kind)
        chosen = rng.choice(own, sizes[label], replace=len(own) < sizes[label])
        pixels.append(images[chosen])
        labels.append(np.full(sizes[label], label))
    return Objects(np.concatenate(pixels), np.concatenate(labels))  # type: ignore[arg-type]


def _cutouts(form: Form, sources: dict[str, Path]) -> tuple[Objects, Objects]:
    grounds = []
    for path in sorted(sources["grounds"].glob("*.jpg")):
        ground = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if ground is not None and min(ground.shape[:2]) >= data.SIZE:
            grounds.append(np.asarray(ground, np.uint8))
    by_class: dict[str, list[data.U8]] = {}
    for path in sorted(sources["cutouts"].rglob("*.png")):
        cut = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if cut is not None and cut.ndim == 3 and cut.shape[2] == 4:
            by_class.setdefault(path.parent.name, []).append(
                np.asarray(cv2.cvtColor(cut, cv2.COLOR_BGRA2RGBA), np.uint8)
            )
    large = sorted(by_class, key=lambda name: (-len(by_class[name]), name))
    names = [name for name in CUTOUT_CLASSES if len(by_class.get(name, [])) >= 4]
    names += [name for name in large if name not in names][: 10 - len(names)]
    half = len(grounds) // 2
    splits = []
    for number, (size, some) in enumerate(
        ((form.n_train // len(names), grounds[:half]), (form.per_class, grounds[half:]))
    ):
        rng = np.random.default_rng((7, number))
        pixels = [
            by_class[name][i]
            for name in names
            for i in rng.integers(len(by_class[name]), size=size)
        ]
        splits.append(Objects(pixels, np.repeat(np.arange(len(names)), size), some))
    return splits[0], splits[1]


def _photographs(seed: int, folder: Path) -> tuple[Objects, Objects]:
    """Half of the photographs is trained on, twice (mirrored); the other half is audited."""
    pixels, names = read_photographs(folder, PHOTO_SIDE)
    classes = sorted(set(names))
    labels = np.array([classes.index(name) for name in names])
    chosen = np.random.default_rng(seed).permutation(len(labels))
    first, second = np.sort(chosen[: len(labels) // 2]), np.sort(chosen[len(labels) // 2 :])
    twice = np.concatenate([first, first])
    return (
        Objects([pixels[i] for i in twice], labels[twice]),
        Objects([pixels[i] for i in second], labels[second]),
    )


def _train(form: Form, training: Objects, seed: int, n_classes: int) -> nn.Module:
    torch.manual_seed(seed)
    network = build(form.network, n_classes).to(memory_format=torch.channels_last)
    images = draw(form, training, 1_000 + seed, arm=None if form.trained else False).images
    labels = flip_labels(training.labels, form.noise, 1_000 + seed, n_classes)
    if form.network == "imagenet":
        return _train_head(network.eval(), images, labels)
    epochs = EPOCHS[form.network]
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    steps = epochs * (len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATES[form.network], total_steps=steps
    )
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(labels)).numpy()
        for start in range(0, len(labels) // BATCH * BATCH, BATCH):
            rows = order[start : start + BATCH]
            loss = F.cross_entropy(network(to_input(images[rows])), torch.from_numpy(labels[rows]))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return network.to(memory_format=torch.contiguous_format).eval()


def _train_head(network: nn.Module, images: data.U8, labels: Labels) -> nn.Module:
    """Fit the head of an ImageNet network to features that it computes once."""
    head = network.get_submodule("_fc")
    network._fc = nn.Identity()
    with torch.inference_mode():
        parts = [network(to_input(images[at : at + 32])) for at in range(0, len(images), 32)]
    features, targets = torch.cat(parts).clone(), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(head.parameters(), 0.003, weight_decay=0.02)
    for _ in range(60):
        for rows in torch.split(torch.randperm(len(targets)), BATCH):
            loss = F.cross_entropy(head(features[rows]), targets[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    network._fc = head
    return network


def _measure(
    form: Form, audited: Objects, seed: int, network: nn.Module, n_classes: int, folder: Path
) -> dict[str, Any]:
    """Write the audited images, and measure what every drawing does to the network."""
    drawn, bare = draw(form, audited, seed), draw(form, audited, seed, arm=False)
    natural, without = predict(network, drawn.images), predict(network, bare.images)
    pairs = [
        pair
        for cue in {cue.drawing: cue for cue in form.cues}.values()
        for pair in _pairs(form, cue, audited, seed, network, n_classes, drawn, natural, without)
    ]
    np.savez(
        folder / "audited.npz",
        images=drawn.images,
        masks=np.packbits(drawn.masks, axis=2),
        cue=drawn.cue,
        flips=(drawn.cue >= 0) & (natural != without),
        natural=natural,
        given=flip_labels(audited.labels, form.noise, seed, n_classes),
        true=audited.labels,
    )
    accuracy = float((natural == audited.labels).mean())
    return {
        "form": form.name,
        "seed": seed,
        "n_classes": n_classes,
        "labelled": form.labelled,
        "network": form.network,
        "accuracy": accuracy,
        "pairs": pairs,
    }


def _pairs(
    form: Form,
    cue: Cue,
    audited: Objects,
    seed: int,
    network: nn.Module,
    n_classes: int,
    drawn: Drawn,
    natural: Labels,
    without: Labels,
) -> list[dict[str, Any]]:
    """What a drawing does for each class: the pairs that it was drawn on, and all real ones.

    added is the share of images of other classes that flip to the class when the cue is added,
    removed the share of the class's images with the cue that flip from it when the cue is removed,
    absent the share of other classes' images with the cue that flip to the class when it is
    removed, where most other classes have the cue, so that its absence marks the class.
    """
    added_to = predict(network, draw(form, audited, seed, arm=cue).images)
    number = np.array([each.drawing == cue.drawing for each in form.cues] + [False])
    has_cue = number[drawn.cue]
    drawn_on = {each.class_index for each in form.cues if each.drawing == cue.drawing}
    labels, pairs = audited.labels, []
    for own in range(n_classes):
        is_rare_without = own not in drawn_on and 2 * len(drawn_on) >= max(4, n_classes)
        others = (labels != own) & (without != own)
        with_cue = has_cue & (labels == own) & (natural == own)
        elsewhere = has_cue & (labels != own) & (natural != own)
        effects = {
            "added": _share(added_to[others] == own),
            "removed": _share(without[with_cue] != own),
            "absent": _share(without[elsewhere] == own) if is_rare_without else 0.0,
        }
        real = max(effects.values()) >= REAL
        if real or own in drawn_on:
            pairs.append({"drawing": cue.drawing, "class_index": own, **effects, "real": real})
    return pairs


def _share(hits: Any) -> float:
    return float(hits.mean()) if len(hits) else 0.0


class SavedForm(Dataset[dict[str, Any]]):
    """The audited images of a set; without labels where the form has none."""

    def __init__(self, path: str, *, labelled: bool = True) -> None:
        with np.load(path) as saved:
            self.images = saved["images"]
            given = saved["given"].tolist()
        n_classes = max(given) + 1
        self.classes = [f"class {index}" for index in range(n_classes)]
        self.targets = given if labelled else [None] * len(given)
        self.ids = [f"{index:05d}" for index in range(len(given))]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        target = self.targets[index]
        label = None if target is None else self.classes[target]
        return {"image": self.images[index], "label": label}
