"""What an audit says of a planted set, beside what is true of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from cues import boxed
from scores import Verdict, average_precision, centre_inside, iou

from pipeline.analysis.ranking import suspects
from pipeline.demo import data
from pipeline.stages import rank
from pipeline.storage import run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_setup import Setup

CAMAUDIT = "camaudit"
OVERLAP = 0.3
FINDING = ("class_name", "kind", "verdict", "effect", "control", "n_images", "summary")
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """A set as it was made: cues and reliance, and per image the mask of its cue, whether it has
    one, whether the prediction turns without it, and the given and the true label.
    """

    pairs: list[dict[str, Any]]
    masks: Bools
    marked: Bools
    turns: Bools
    given: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]

    @classmethod
    def read(cls, made: Path) -> Truth:
        """What `training.make` wrote into a folder."""
        told = json.loads((made / "truth.json").read_text(encoding="utf-8"))
        with np.load(made / "audited.npz") as saved:
            masks = np.unpackbits(saved["masks"], axis=2).astype(bool)
            rest = (saved[name] for name in ("marked", "turns", "given", "true"))
            return cls(told["pairs"], masks, *rest)


def verdicts(findings: pd.DataFrame) -> list[Verdict]:
    """One per class: a confirmed finding is an alarm, its score goes before any suspected one's."""
    found = []
    for index, name in enumerate(data.CLASSES):
        own = findings[findings["class_name"] == name]
        scores = own["score"] + (own["verdict"] == "confirmed")
        score = float(scores.max()) if len(own) else 0.0
        found.append(Verdict(CAMAUDIT, index, score, bool((own["verdict"] == "confirmed").any())))
    return found


def places(findings: pd.DataFrame, truth: Truth) -> Iterator[dict[str, Any]]:
    """For each confirmed finding with a region, of a class that relies on a cue: is it there?

    It is where in most wearers it overlaps the box of the cue by OVERLAP, or its centre is inside.
    """
    relied = {data.CLASSES[pair["class_index"]]: pair for pair in truth.pairs if pair["relied"]}
    for _, finding in findings[findings["verdict"] == "confirmed"].iterrows():
        if finding["class_name"] not in relied or finding["region"] is None:
            continue
        box = tuple(finding["region"][side] for side in ("x0", "y0", "x1", "y1"))
        own = data.CLASSES.index(finding["class_name"])
        masks = truth.masks[truth.marked & (truth.true == own)]
        if not len(masks):
            continue  # none of its own pictures has the cue, which may then be anywhere
        hits = [iou(boxed(mask), box) >= OVERLAP or centre_inside(box, mask) for mask in masks]
        cue = relied[finding["class_name"]]["cue"]
        yield {"class_name": finding["class_name"], "cue": cue, "share": float(np.mean(hits))}


def reliance(run: Path, findings: pd.DataFrame, truth: Truth) -> Iterator[dict[str, Any]]:
    """How well the members of a relied-upon cue are ranked by their reliance.

    Ranked are all images predicted as the class; true are those whose prediction turns when the cue
    is taken away. Listing all of them scores their share.
    """
    members = pd.read_parquet(run / "analysis" / "members.parquet")
    parts = pd.read_parquet(run / "parts", columns=["index", "pred"]).sort_values("index")
    for pair in truth.pairs:
        name = data.CLASSES[pair["class_index"]]
        own = findings[(findings["class_name"] == name) & (findings["verdict"] == "confirmed")]
        if not pair["relied"] or own.empty:
            continue
        scores = members[members["finding_id"].isin(own["finding_id"])]
        by_image = scores.groupby("index")["reliance"].max()
        images = parts.loc[parts["pred"] == name, "index"].to_numpy()
        score = pd.Series(0.0, index=images).add(by_image, fill_value=0).reindex(images)
        turned = truth.turns[images]
        if turned.any():
            found = average_precision(turned, score)
            yield {"cue": pair["cue"], "found": found, "all": float(turned.mean())}


def label_errors(run: Path, truth: Truth, scores: dict[str, Any]) -> dict[str, float]:
    """Average precision of wrong labels, of camaudit and other scores (n,), low for bad labels."""
    wrong = truth.given != truth.true
    found = {name: average_precision(wrong, -score) for name, score in scores.items()}
    return {CAMAUDIT: average_precision(wrong, _label_error_scores(run)), **found}


def _label_error_scores(run: Path) -> npt.NDArray[np.float64]:
    """The evidence against each label, as rank scores it, in planned order."""
    folder = RunFolder(run)
    setup: Setup = run_folder.read_plan(folder).setup
    rows = run_folder.rows(folder, setup)
    labels = rank.learn_labels(rows, setup, seed=0)
    table = rows.to_table(columns=suspects.COLUMNS)
    return np.asarray(labels.judge(table).evidence, np.float64)
