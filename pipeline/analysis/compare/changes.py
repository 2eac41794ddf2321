"""Changes between two runs: findings, suspects, accuracy of classes, and images.

A finding is identified by its id, a suspect and an image by the image id, a class by its name. A
finding is worse or better if its verdict changed, or if the confidence interval of its gain lies
entirely above or below the earlier one. A class is worse or better if its accuracy differs
significantly, at a false discovery rate over all classes. An image changed if its version did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import stats

from pipeline.storage.scan import Rows
from pipeline.storage.schema import CHANGES, Row
from pipeline.storage.values import Verdict

NEW, GONE, WORSE, BETTER, CHANGED = "new", "gone", "worse", "better", "changed"
SEVERITY = {Verdict.PROPERTY: 0, Verdict.SUSPECTED: 1, Verdict.CONFIRMED: 2}
NOT_FOUND = -1


@dataclass(frozen=True)
class ComparedTables:
    """The tables of one run that are compared: FINDINGS, SUSPECTS and classes_schema."""

    findings: pa.Table
    suspects: pa.Table
    classes: pa.Table


def compare(before: ComparedTables, now: ComparedTables, fdr: float) -> pa.Table:
    """List the changes (CHANGES) of the run's accuracy, of findings, classes and suspects.

    Args:
        before: the tables of the earlier run.
        now: the tables of the later run.
        fdr: false discovery rate of the classes whose accuracy changed.
    """
    rows = [
        *_accuracy(before.classes, now.classes),
        *_findings(_by(before.findings, "finding_id"), _by(now.findings, "finding_id")),
        *_classes(_by(before.classes, "class_name"), _by(now.classes, "class_name"), fdr),
        *_suspects(_by(before.suspects, "image_id"), _by(now.suspects, "image_id")),
    ]
    return pa.Table.from_pylist(rows, CHANGES)


def images(before: Rows, now: Rows) -> pa.Table:
    """List the images that are new, changed or gone (CHANGES), in the order of the plans.

    Ids and versions of the earlier plan are held in memory, about 100 bytes per image; the later
    plan is read in batches.

    Args:
        before: the plan of the earlier run; image ids are unique.
        now: the plan of the later run; image ids are unique.

    Raises:
        DataError: a plan is damaged.
    """
    earlier = _EarlierPlan(before)
    new, changed = [], []
    for batch in now.to_batches(columns=["image_id", "label", "version"]):
        planned = pa.Table.from_batches([batch])
        place = earlier.find(batch["image_id"])
        new.append(planned.filter(place == NOT_FOUND))
        changed.append(planned.filter(earlier.differs(place, batch["version"])))
    gone = before.at(np.flatnonzero(~earlier.found), ["image_id", "label"])
    changes = [(NEW, pa.concat_tables(new)), (CHANGED, pa.concat_tables(changed)), (GONE, gone)]
    return pa.concat_tables([_image_rows(change, planned) for change, planned in changes])


class _EarlierPlan:
    """Image ids and versions of an earlier plan, with a search by id.

    The search compares hashes first, and ids where the hashes are equal. A hash table of the ids
    themselves, such as pyarrow's, would need several times the memory.
    """

    def __init__(self, plan: Rows) -> None:
        names = [name for name in ("image_id", "version") if name in plan.schema.names]  # as of 0.3
        table = plan.to_table(columns=names)
        hashes = [_hashes(chunk) for chunk in table["image_id"].chunks]
        hashed = np.concatenate([np.zeros(0, np.int64), *hashes])
        self.order = np.argsort(hashed)
        self.hashes = hashed[self.order]
        self.ids = _one(table["image_id"])
        self.versions = _one(table["version"]) if "version" in names else None
        self.found = np.zeros(len(self.ids), bool)

    def find(self, ids: pa.Array) -> NDArray[np.int64]:
        """The positions (n,) of image ids in the earlier plan; NOT_FOUND if an id is new."""
        place = np.full(len(ids), NOT_FOUND)
        if not len(self.ids):
            return place
        hashes = _hashes(ids)
        at, order = np.zeros_like(place), np.argsort(hashes)
        at[order] = np.searchsorted(self.hashes, hashes[order])  # sorted queries are cache-friendly
        at = np.minimum(at, len(self.hashes) - 1)
        alike = np.flatnonzero(self.hashes[at] == hashes)
        place[alike] = self.order[at[alike]]
        same = pc.equal(self.ids.take(pa.array(place[alike])), ids.take(pa.array(alike)))
        for row in alike[~same.to_numpy(zero_copy_only=False)].tolist():  # two ids of one hash
            place[row] = pc.index(self.ids, ids[row]).as_py()
        self.found[place[place != NOT_FOUND]] = True
        return place

    def differs(self, place: NDArray[np.int64], versions: pa.Array) -> NDArray[np.bool_]:
        """Whether images at positions (n,) had another version; False if a version is unknown."""
        differs = np.zeros(len(place), bool)
        there = np.flatnonzero(place != NOT_FOUND)
        if self.versions is not None:
            old = self.versions.take(pa.array(place[there]))
            other = pc.not_equal(old, versions.take(pa.array(there)))
            differs[there] = other.fill_null(False).to_numpy(zero_copy_only=False)  # noqa: FBT003
        return differs


def _hashes(ids: pa.Array) -> NDArray[np.int64]:
    return np.fromiter(map(hash, ids.to_pylist()), np.int64, len(ids))


def _one(column: pa.ChunkedArray) -> pa.Array:
    """A column of texts as one array, also if it is larger than 2 GiB."""
    return column.cast(pa.large_string()).combine_chunks()


def _image_rows(change: str, planned: pa.Table) -> pa.Table:
    n = planned.num_rows
    known = {
        "subject": pa.array(["image"] * n, pa.string()),
        "change": pa.array([change] * n, pa.string()),
        "key": planned["image_id"],
        "class_name": planned["label"],
        "summary": planned["image_id"],
    }
    columns = [known.get(field.name, pa.nulls(n, field.type)) for field in CHANGES]
    return pa.Table.from_arrays(columns, schema=CHANGES)


def _by(table: pa.Table, key: str) -> dict[str, Row]:
    return {row[key]: row for row in table.to_pylist()}


def _accuracy(before: pa.Table, now: pa.Table) -> Iterator[Row]:
    """The accuracy over all labelled images, if both runs have one."""
    counts = [
        {name: sum(table[name].to_pylist()) for name in ("n_correct", "n_label")}
        for table in (before, now)
    ]
    if counts[0]["n_label"] and counts[1]["n_label"]:
        row = _changed_accuracy("run", "accuracy", *counts)
        yield {**row, "q_value": row["p_value"]}


def _classes(before: dict[str, Row], now: dict[str, Row], fdr: float) -> Iterator[Row]:
    """Classes whose accuracy changed, in ascending order of the q-value."""
    rows = [
        _changed_accuracy("class", name, before[name], now[name])
        for name in now
        if name in before and before[name]["n_label"] and now[name]["n_label"]
    ]
    if not rows:
        return
    q_values = stats.false_discovery_control([row["p_value"] for row in rows])
    for row, q_value in sorted(zip(rows, q_values, strict=True), key=lambda pair: pair[1]):
        if q_value < fdr and row["change"]:
            yield {**row, "class_name": row["key"], "q_value": float(q_value)}


def _changed_accuracy(subject: str, key: str, before: Row, now: Row) -> Row:
    """A row of CHANGES with Fisher's exact test of right and wrong predictions, before and now."""
    table = [[row["n_correct"], row["n_label"] - row["n_correct"]] for row in (before, now)]
    old, new = (right / (right + wrong) for right, wrong in table)
    return {
        "subject": subject,
        "change": WORSE if new < old else BETTER if new > old else None,
        "key": key,
        "before": old,
        "after": new,
        "p_value": float(stats.fisher_exact(table).pvalue),
        "summary": f"{'Accuracy' if subject == 'run' else key}: {old:.1%} before, {new:.1%} now",
    }


def _findings(before: dict[str, Row], now: dict[str, Row]) -> Iterator[Row]:
    """Findings that are new, worse, better or gone, in this order; the strongest come first."""
    changes = [
        *(_finding(NEW, None, row) for key, row in now.items() if key not in before),
        *(_finding(_trend(before[key], row), before[key], row) for key, row in now.items()
          if key in before),
        *(_finding(GONE, row, None) for key, row in before.items() if key not in now),
    ]  # fmt: skip
    for change in (NEW, WORSE, BETTER, GONE):
        yield from (row for row in changes if row["change"] == change)


def _finding(change: str | None, before: Row | None, now: Row | None) -> Row:
    row = now or before
    assert row is not None
    return {
        "subject": "finding",
        "change": change,
        "key": row["finding_id"],
        "class_name": row["class_name"],
        "kind": row["kind"],
        "before": before and before["score"],
        "after": now and now["score"],
        "summary": _summarise(before, row) if change in (WORSE, BETTER) else row["summary"],
    }


def _summarise(before: Row | None, now: Row) -> str:
    assert before is not None
    gains = [_gain(row) for row in (before, now)]
    words = f"{now['class_name']}, {now['kind']}: {before['verdict']} before, {now['verdict']} now"
    if None in gains:
        return words
    return f"{words}; the gain (effect minus control) was {gains[0]:.0%} and is {gains[1]:.0%}"


def _gain(row: Row) -> float | None:
    if row["effect"] is None or row["control"] is None:
        return None
    return float(row["effect"] - row["control"])


def _trend(before: Row, now: Row) -> str | None:
    """WORSE, BETTER, or None without a significant change."""
    step = SEVERITY.get(now["verdict"], 0) - SEVERITY.get(before["verdict"], 0)
    if not step and None not in (before["ci_low"], now["ci_low"]):
        step = (now["ci_low"] > before["ci_high"]) - (now["ci_high"] < before["ci_low"])
    return None if not step else WORSE if step > 0 else BETTER


def _suspects(before: dict[str, Row], now: dict[str, Row]) -> Iterator[Row]:
    """Suspects that are new, and those that are gone, in the order of their tables."""
    for change, rows, others in ((NEW, now, before), (GONE, before, now)):
        for key, row in rows.items():
            if key not in others:
                yield {
                    "subject": "suspect",
                    "change": change,
                    "key": key,
                    "class_name": row["label"] or row["pred"],
                    "kind": row["kind"],
                    "before": row["score"] if change == GONE else None,
                    "after": row["score"] if change == NEW else None,
                    "summary": next(iter(row["reasons"] or ()), None),
                }
