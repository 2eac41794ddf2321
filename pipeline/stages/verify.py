"""verify: each candidate put to the test by changing pictures and asking the model again.

Two interventions, each beside its control, on the same pictures:
remove - in member images, the region is filled with the same place of other classes' images;
  control: an equally large and shaped region elsewhere is filled in the same way;
transplant - the region of member images is pasted into images of every other class;
  control: the same place of yet other images that are no members is pasted.
A candidate is a finding when the transplant's gain (effect minus control) reaches
analysis.min_effect with Benjamini-Hochberg q below analysis.fdr; it is confirmed when that holds
in most of the target classes, else it stays suspected. Removing proves nothing either way, as it
also takes away parts of objects, and as a cue need not be the only reason; it tells how far each
member relies on the cue.

What this cannot tell apart: a part of the object that stands at one unusual place in the picture
in all of a class's images, and carries the class by itself, looks like a shortcut.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from pipeline import engine, model, precision, store
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.model import Classifier
from pipeline.ops import Journal, pick_device
from pipeline.schema import FINDINGS, MEMBERS, Setup
from pipeline.shortcuts import intervene, regions, sample
from pipeline.shortcuts.intervene import Bools, Effect
from pipeline.shortcuts.sample import Sample
from pipeline.sources import open_source
from pipeline.store import RunFolder

log = logging.getLogger(__name__)

EXAMPLES = 8
DONORS = 2
"""Pictures that the region of a member is filled from, to measure its reliance."""
BATCH = 64


@dataclass(frozen=True)
class Bench:
    """The model on its device, and the pictures it saw, fitted, by plan position."""

    classifier: Classifier
    device: torch.device
    read: Any
    setup: Setup

    def pictures(self, index: NDArray[np.int64]) -> Tensor:
        """Pictures (n, 3, H, W) uint8 at plan positions, as the model saw them."""
        fit = self.classifier.preprocess.fit
        return torch.stack([fit(self.read(int(i)).pixels) for i in index])

    def probability(self, images: Tensor) -> NDArray[np.float32]:
        """Softmax probabilities (n, K)."""
        with self.classifier.cut_graph() as forward:
            blocks = [
                engine.probabilities(forward, self.classifier, block.to(self.device)).cpu()
                for block in torch.split(images, BATCH)
            ]
        return np.asarray(torch.cat(blocks))

    def classes(self, images: Tensor) -> NDArray[np.int64]:
        """Predicted classes (n,)."""
        return np.asarray(self.probability(images).argmax(axis=1))


@dataclass(frozen=True)
class Trial:
    """A candidate and what was done with it; removing is not tried where adding does nothing."""

    candidate: dict[str, Any]
    members: NDArray[np.int64]
    transplant: Effect
    broad: bool
    remove: Effect = intervene.NO_EFFECT
    reliance: dict[int, float] = field(default_factory=dict)


def run(config: Config, _journal: Journal) -> None:
    """Write findings.parquet and members.parquet.

    Raises:
        NotFinished: where discover has not run.
    """
    folder = RunFolder(config.folder)
    candidates = store.read(folder.analysis("candidates")).to_pylist()
    findings, members = [], []
    if candidates:
        setup = store.read_plan(folder).setup
        rows = store.rows(folder, setup)
        bench = _bench(config, setup)
        pool = _pool(
            config, sample.draw(rows, setup, config.analysis.sample_per_class, config.seed)
        )
        pictures = bench.pictures(pool.index)
        trials = [_try(config, bench, rows, pool, pictures, candidate) for candidate in candidates]
        q_values = stats.false_discovery_control([trial.transplant.p_value for trial in trials])
        judged = [
            (trial, _finding(config, trial, float(q), rows))
            for trial, q in zip(trials, q_values, strict=True)
        ]
        kept = [(trial, finding) for trial, finding in judged if finding is not None]
        kept.sort(key=lambda pair: (pair[1]["verdict"] != "confirmed", -pair[1]["score"]))
        findings = [finding for _, finding in kept]
        members = [row for trial, finding in kept for row in _member_rows(rows, trial, finding)]
    store.write(pa.Table.from_pylist(findings, FINDINGS), folder.analysis("findings"))
    store.write(pa.Table.from_pylist(members, MEMBERS), folder.analysis("members"))


def _bench(config: Config, setup: Setup) -> Bench:
    device = pick_device(config.device)
    classifier = model.load(config.model, device, config.seed)
    if classifier.fingerprint != setup.decided["model.fingerprint"]:
        raise ConfigError(
            "the model is not the one that was explained; run the explain stage first"
        )
    source = open_source(config.dataset, config.data.max_pixels)
    ready = precision.as_decided(classifier, setup.decided)
    return Bench(ready, device, source.read, setup)


def _pool(config: Config, drawn: Sample) -> Sample:
    """The images that cues are pasted into: of every class alike, drawn from its surer half."""
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(len(drawn.index))
    rank = np.empty(len(order), np.int64)
    for class_index in np.unique(drawn.classes):
        own = order[drawn.classes[order] == class_index]
        sure = drawn.confidence[own] >= np.median(drawn.confidence[own])
        rank[own] = np.where(sure, np.cumsum(sure) - 1, len(order))
    chosen = np.argsort(rank, kind="stable")[: config.analysis.trials]
    return drawn.at(np.sort(chosen[rank[chosen] < len(order)]))


def _try(
    config: Config,
    bench: Bench,
    rows: ds.Dataset,
    pool: Sample,
    pool_pictures: Tensor,
    candidate: dict[str, Any],
) -> Trial:
    """Put one candidate through both interventions."""
    own_class = candidate["class_index"]
    rng = np.random.default_rng((config.seed, own_class))
    members = _members(rows, bench.setup, candidate)
    tried = rng.permutation(members)[: config.analysis.trials]
    others = pool_pictures[torch.from_numpy(pool.classes != own_class)]
    targets = pool.classes[pool.classes != own_class]
    if not (len(tried) and len(others)):
        return Trial(candidate, members, intervene.NO_EFFECT, broad=False)
    own = bench.pictures(tried)
    cells = np.asarray(candidate["cells"]).reshape(bench.setup.grid)
    mask = intervene.pixels(cells, *own.shape[2:])
    hit, control = _transplant(bench, others, own, mask, own_class, rng)
    transplant = intervene.compare(hit, control, rng)
    if transplant.gain < config.analysis.min_effect:
        return Trial(candidate, members, transplant, broad=False)
    broad = intervene.holds_broadly(hit, control, targets, config.analysis.min_effect)
    remove, reliance = _remove(bench, own, others, mask, own_class, rng)
    by_image = dict(zip(tried.tolist(), reliance.tolist(), strict=True))
    return Trial(candidate, members, transplant, broad, remove, by_image)


def _members(rows: ds.Dataset, setup: Setup, candidate: dict[str, Any]) -> NDArray[np.int64]:
    """Plan positions of all images predicted as the class whose heat lies in the region."""
    table = rows.to_table(
        columns=["index", "heatmap"],
        filter=sample.EXPLAINED & (ds.field("pred_index") == candidate["class_index"]),
    )
    heat = regions.mass(sample.heatmaps(table["heatmap"], setup))
    cells = np.asarray(candidate["cells"]).reshape(setup.grid)
    inside = regions.share(heat, cells) > candidate["threshold"]
    return np.asarray(table["index"].to_numpy()[inside])


def _remove(
    bench: Bench,
    own: Tensor,
    others: Tensor,
    mask: Tensor,
    own_class: int,
    rng: np.random.Generator,
) -> tuple[Effect, NDArray[np.float32]]:
    """The effect of filling the region of members, and how far each one's probability falls."""
    before = bench.probability(own)[:, own_class]
    after = np.zeros_like(before)
    turned = np.zeros(len(own), bool)
    for fill in range(DONORS):
        donors = others[_draw(rng, len(others), len(own))]
        probability = bench.probability(intervene.paste(own, donors, mask))
        after += probability[:, own_class] / DONORS
        if fill == 0:  # one fill is paired with one control
            turned = probability.argmax(axis=1) != own_class
            moved = intervene.elsewhere(mask, len(own), rng)
            control = bench.classes(intervene.paste(own, donors, moved)) != own_class
    return intervene.compare(turned, control, rng), np.clip(before - after, 0, 1)


def _transplant(
    bench: Bench,
    others: Tensor,
    own: Tensor,
    mask: Tensor,
    own_class: int,
    rng: np.random.Generator,
) -> tuple[Bools, Bools]:
    """Which images of other classes turn when the members' region, or another's, is pasted."""
    cues = own[_draw(rng, len(own), len(others))]
    plain = others[_draw(rng, len(others), len(others))]
    hit = bench.classes(intervene.paste(others, cues, mask)) == own_class
    control = bench.classes(intervene.paste(others, plain, mask)) == own_class
    return hit, control


def _draw(rng: np.random.Generator, size: int, n: int) -> Tensor:
    return torch.from_numpy(rng.integers(size, size=n))


def _finding(
    config: Config, trial: Trial, q_value: float, rows: ds.Dataset
) -> dict[str, Any] | None:
    """A row of FINDINGS, or None where adding the region does nothing that a control does not."""
    limits, candidate = config.analysis, trial.candidate
    if trial.transplant.gain < limits.min_effect or q_value >= limits.fdr:
        return None
    return {
        "finding_id": candidate["candidate_id"],
        "class_name": candidate["class_name"],
        "kind": candidate["kind"],
        "verdict": "confirmed" if trial.broad else "suspected",
        "score": max(0.0, (trial.transplant.gain + trial.remove.gain) / 2),
        "region": candidate["region"],
        "n_images": len(trial.members),
        "effect": trial.transplant.hit,
        "control": trial.transplant.control,
        "ci_low": trial.transplant.low,
        "ci_high": trial.transplant.high,
        "p_value": trial.transplant.p_value,
        "q_value": q_value,
        "example_ids": _examples(rows, trial),
        "summary": _sentence(trial, q_value),
    }


def _examples(rows: ds.Dataset, trial: Trial) -> list[str]:
    """Ids of the members whose prediction rests on the region most."""
    best = sorted(trial.reliance, key=lambda index: (-trial.reliance[index], index))[:EXAMPLES]
    table = rows.to_table(columns=["index", "image_id"], filter=ds.field("index").isin(best))
    names = dict(zip(table["index"].to_pylist(), table["image_id"].to_pylist(), strict=True))
    return [names[index] for index in best]


def _sentence(trial: Trial, q_value: float) -> str:
    name, where = trial.candidate["class_name"], trial.candidate["place"]
    what = (
        "the border"
        if trial.candidate["kind"] == "frame"
        else f"a {trial.candidate['kind']}, {where}"
    )
    q = "q < 0.001" if q_value < 0.001 else f"q = {q_value:.3f}"
    remove, add = trial.remove, trial.transplant
    return (
        f"{name}: {what}. Removing it turns {remove.hit:.0%} of its images away from {name} "
        f"(control {remove.control:.0%}), adding it turns {add.hit:.0%} of other images into "
        f"{name} (control {add.control:.0%}), {q}, {len(trial.members)} images."
    )


def _member_rows(rows: ds.Dataset, trial: Trial, finding: dict[str, Any]) -> list[dict[str, Any]]:
    table = rows.to_table(
        columns=["index", "image_id"], filter=ds.field("index").isin(trial.members.tolist())
    )
    return [
        {"finding_id": finding["finding_id"], **row, "reliance": trial.reliance.get(row["index"])}
        for row in table.to_pylist()
    ]
