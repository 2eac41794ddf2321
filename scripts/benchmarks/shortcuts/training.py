"""Networks of the planted sets, and what their cues do to them.

What is trained and drawn is kept in a folder; a set that is there already is not made again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import networks
import numpy as np
import numpy.typing as npt
import torch
from cues import Planted
from sets import Labels, Recipe, draw, flip_labels, garments
from torch import nn
from torch.nn import functional as F
from train_demo import predict, to_input

from pipeline.demo import data

PICTURES = 12_000
"""Scenes that a network is trained on, garments of the train split."""
EPOCHS = 4
EPOCHS_SEEN = 12
"""Until a network knows most of the wrong labels of the audited pictures by heart."""
ALTERNATIVES = 5
"""Backgrounds that a picture is tried on without the one that is a cue; most of them decide."""
PER_CLASS = 300
"""Audited pictures, garments of the test split."""
BATCH = 128
RELIED = 0.2
"""Share of other classes' pictures that a cue must turn, or of its own that must turn without it,
for the network to be said to rely on it."""


def build(network: str) -> nn.Module:
    """The network with random weights; what `model.factory` names."""
    return networks.build(network, len(data.CLASSES))


def make(recipe: Recipe, seed: int, source: Path, cache: Path) -> Path:
    """A folder with network.pt, audited.npz and truth.json of a set."""
    folder = cache / f"{recipe.name}-{seed}"
    if (folder / "truth.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    network = _trained(recipe, seed, source, cache)
    torch.save(network.state_dict(), folder / "network.pt")
    truth = _audited(recipe, seed, network, source, folder)
    (folder / "truth.json").write_text(json.dumps(truth, indent=1), encoding="utf-8")
    return folder


def _trained(recipe: Recipe, seed: int, source: Path, cache: Path) -> nn.Module:
    """A network that was trained on the set, or on clean scenes where the set says so."""
    if not recipe.trained or not (recipe.planted or recipe.corner or recipe.trained_noise):
        recipe = Recipe("clean", network=recipe.network)
    recipe = replace(recipe, stray=0.0)
    file = cache / f"{recipe.same_as or recipe.name}-{recipe.network}-{seed}.pt"
    torch.manual_seed(seed)
    network = build(recipe.network)
    if file.is_file():
        network.load_state_dict(torch.load(file, weights_only=True))
        return network.eval()
    images, labels = garments(source, "train", PICTURES // len(data.CLASSES))
    scenes = draw(recipe, images, labels, 1_000 + seed).pictures
    given = flip_labels(labels, recipe.trained_noise, seed)
    if recipe.seen:
        audited, true = garments(source, "t10k", PER_CLASS)
        scenes = np.concatenate([draw(recipe, audited, true, seed).pictures, scenes])[:PICTURES]
        given = np.concatenate([flip_labels(true, recipe.noise, seed), given])[:PICTURES]
    fit(network, scenes, given, EPOCHS_SEEN if recipe.seen else EPOCHS, 0.006)
    torch.save(network.state_dict(), file)
    return network


def fit(network: nn.Module, scenes: data.U8, labels: Labels, epochs: int, rate: float) -> nn.Module:
    """Train on scenes (n, 64, 64, 3); the network in evaluation mode."""
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    steps = len(labels) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    for _ in range(epochs):
        order = torch.randperm(len(labels))
        for start in range(0, steps * BATCH, BATCH):
            chosen = order[start : start + BATCH].numpy()
            pictures = to_input(scenes[chosen]).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(pictures)
            loss = F.cross_entropy(logits.float(), torch.from_numpy(labels[chosen]))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return network.to(memory_format=torch.contiguous_format).eval()


def _audited(
    recipe: Recipe, seed: int, network: nn.Module, source: Path, folder: Path
) -> dict[str, Any]:
    """Write the audited pictures; return what the cues do to the network on them."""
    images, labels = garments(source, "t10k", PER_CLASS)
    drawn = draw(recipe, images, labels, seed)
    draws = ALTERNATIVES if recipe.has_background else 1
    without = np.stack(
        [
            predict(network, draw(recipe, images, labels, seed, arm=False, again=again).pictures)
            for again in range(draws)
        ]
    )
    given = flip_labels(labels, recipe.noise, seed)
    natural = predict(network, drawn.pictures)
    turns = np.zeros(len(labels), bool)
    pairs = []
    for planted in recipe.planted:
        added = predict(network, draw(recipe, images, labels, seed, arm=planted).pictures)
        # Only a stray cue is on pictures of classes that it was not planted on.
        worn = drawn.marked & ((labels == planted.class_index) | (recipe.stray > 0))
        pairs.append(_pair(planted, labels, worn, natural, without, added, turns))
        pairs += _elsewhere(planted, without[0], added)
    np.savez(
        folder / "audited.npz",
        pictures=drawn.pictures,
        masks=np.packbits(drawn.masks, axis=2),
        marked=drawn.marked,
        turns=turns,
        given=given,
        true=labels,
        boxes=np.array(drawn.boxes),
    )
    accuracy = float((natural == labels).mean())
    return {"recipe": recipe.name, "seed": seed, "accuracy": accuracy, "pairs": pairs}


def _pair(
    planted: Planted,
    labels: Labels,
    worn: npt.NDArray[np.bool_],
    natural: Labels,
    without: Labels,
    added: Labels,
    turns: npt.NDArray[np.bool_],
) -> dict[str, Any]:
    """What a cue does when it is added and taken away; `turns` is filled in for its wearers.

    worn (n,): which pictures have it; without (draws, n): predictions without it, of which most
    decide.
    """
    own = planted.class_index
    turned = (without != own).mean(axis=0)
    others = (labels != own) & (without[0] != own)
    wearers = worn & (natural == own)
    turns |= wearers & (turned > 0.5)
    adds = float((added == own)[others].mean())
    removes = float(turned[wearers].mean()) if wearers.any() else 0.0
    relied = max(adds, removes) >= RELIED
    effect = {"added": adds, "removed": removes, "wearers": int(wearers.sum()), "relied": relied}
    return asdict(planted) | effect


def _elsewhere(planted: Planted, without: Labels, added: Labels) -> list[dict[str, Any]]:
    """Other classes that the cue turns pictures into; a network may take it for what it knows."""
    found = []
    for own in set(range(len(data.CLASSES))) - {planted.class_index}:
        adds = float((added == own)[without != own].mean())
        if adds >= RELIED:
            effect = {"added": adds, "removed": 0.0, "wearers": 0, "relied": True}
            found.append({**asdict(planted), "class_index": own, **effect})
    return found
