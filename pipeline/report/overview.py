"""The first section: the outcome of the run in one line, checks of the run, and its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.report import charts
from pipeline.report.aggregates import Totals
from pipeline.report.images import PictureFile
from pipeline.report.words import NONE, percent, plural
from pipeline.storage.run_record import GateResult
from pipeline.storage.run_setup import Setup
from pipeline.storage.schema import Row
from pipeline.storage.values import Verdict

GOOD, LOOK, NOTE = "good", "look", "note"
"""States of a check: passed, to be reviewed, for information."""


VERDICT_NOUNS = {Verdict.PROPERTY: "object-property finding"}
"""Nouns of the verdicts that are not called shortcuts."""
ENOUGH_RANDOM_DIVISIONS = 59
"""Random divisions of which none is claimed that bound the rate of false findings below 5 %."""


@dataclass(frozen=True)
class RunFacts:
    """Facts about the run from its run record and the settings.

    seconds are per stage over all attempts; verification, engine and gate are those of run.json.
    """

    run_id: str
    date: str
    warnings: Sequence[str]
    seconds: dict[str, float]
    images_per_second: float | None
    verification: Row
    engine: Row
    versions: dict[str, str]
    seed: int
    gate: Sequence[GateResult] = ()


@dataclass(frozen=True)
class TrustCheck:
    """A check of the run: its state, its name and the outcome in words."""

    state: str
    name: str
    words: str


@dataclass(frozen=True)
class OverviewSection:
    """The content of the first section; settings is a table of names and values."""

    run: RunFacts
    verdict: str
    counts: dict[str, int]
    accuracy: float | None
    checks: list[TrustCheck]
    settings: dict[str, str]
    chart: PictureFile | None
    chart_words: str


def overview_section(
    run: RunFacts,
    setup: Setup,
    totals: Totals,
    findings: Sequence[Row],
    n_suspects: int,
    folder: Path,
) -> OverviewSection:
    """Make the first section.

    Args:
        run: facts about the run.
        setup: the setup of the plan.
        totals: totals over all rows.
        findings: rows of FINDINGS.
        n_suspects: number of suspects in the table.
        folder: the report's folder, in which the chart is written.
    """
    n_errors = sum(totals.reasons.values())
    counts = {"planned": setup.n_images, "ok": totals.n_images, "error": n_errors}
    labelled, correct = int((totals.right + totals.wrong).sum()), int(totals.right.sum())
    accuracy = correct / labelled if labelled else None
    chart = (
        charts.confidences(folder, "confidence", totals.right, totals.wrong) if labelled else None
    )
    return OverviewSection(
        run=run,
        verdict=verdict(counts, findings, n_suspects),
        counts=counts,
        accuracy=accuracy,
        checks=list(_checks(run, setup, totals, accuracy, labelled)),
        settings=_settings(run, setup),
        chart=chart,
        chart_words=_describe_confidences(totals, accuracy, labelled),
    )


def verdict(counts: dict[str, int], findings: Sequence[Row], n_suspects: int) -> str:
    """The outcome in one line: numbers of shortcuts, suspects and images without a result."""
    if counts["planned"] == counts["error"]:
        return "No image could be audited"
    found = Counter(finding["verdict"] for finding in findings)
    parts = [
        plural(number, VERDICT_NOUNS.get(name, f"{name} shortcut"))
        for name, number in sorted(found.items())
    ]
    parts = parts or ["No shortcut found"]
    parts.append(plural(n_suspects, "suspect") if n_suspects else "no suspects")
    if counts["error"]:
        parts.append(f"{plural(counts['error'], 'image')} could not be audited")
    return ", ".join(parts)


def _checks(
    run: RunFacts, setup: Setup, totals: Totals, accuracy: float | None, labelled: int
) -> Iterator[TrustCheck]:
    n_errors = sum(totals.reasons.values())
    yield TrustCheck(
        LOOK if n_errors else GOOD,
        "Every image has a result",
        f"{totals.n_images:,} of {setup.n_images:,} images were explained"
        + (f", {plural(n_errors, 'image')} could not be read" if n_errors else ""),
    )
    if accuracy is not None:
        confidence = totals.confidence / labelled
        yield TrustCheck(
            NOTE,
            "Accuracy and confidence",
            f"{accuracy:.1%} of {plural(labelled, 'labelled image')} are right, at a mean "
            f"confidence of {confidence:.1%}",
        )
    similarity = run.verification.get("map_similarity_random_head")
    if similarity is not None:
        hardly = any("hardly depend" in warning for warning in run.warnings)
        yield TrustCheck(
            LOOK if hardly else GOOD,
            "The heatmaps depend on the model",
            "the rank correlation with the heatmaps of a model with a random head is "
            f"{similarity:.2f}",
        )
    false = run.verification.get("false_findings")
    if false:
        yield TrustCheck(_rate_of_false_findings(run), "The rate of false findings", false)
    if run.gate:
        broken = [result.line for result in run.gate if result.broken]
        words = "; ".join(broken) or f"no limit is broken ({plural(len(run.gate), 'limit')} set)"
        yield TrustCheck(LOOK if broken else GOOD, "The gate", words)
    for name, agreement in run.engine.items():
        if isinstance(agreement, dict) and "top1" in agreement:
            yield TrustCheck(
                GOOD if run.engine.get("precision") == name else NOTE,
                f"{name} compared with float32",
                f"{agreement['top1']:.1%} of the predictions on {agreement['images']} images are "
                f"the same; the mean cosine of the heatmaps is {agreement['cosine']:.4f}",
            )


def _rate_of_false_findings(run: RunFacts) -> str:
    """The state of the check: good only if enough random divisions were tested to tell."""
    tested = run.verification.get("pseudo_classes", 0)
    if run.verification.get("pseudo_classes_confirmed", 0):
        return LOOK
    return GOOD if tested >= ENOUGH_RANDOM_DIVISIONS else NOTE


def _settings(run: RunFacts, setup: Setup) -> dict[str, str]:
    """The main settings of the run: name and value."""
    settings, resolved = setup.settings, setup.resolved
    dataset = [settings.get(f"dataset.{key}") for key in ("name", "path", "root", "factory")]
    speed = run.images_per_second
    height, width = setup.crop
    facts = {
        "Dataset": ", ".join([settings["dataset.kind"], *(str(d) for d in dataset if d)]),
        "Model": f"{settings['model.kind']}, "
        + str(settings.get("model.name") or settings.get("model.factory")),
        "Checkpoint": str(settings.get("model.checkpoint") or "the model's own weights"),
        "Target layer": resolved.target_layer,
        "Method": str(settings["cam.method"]),
        "Precision": resolved.precision,
        "Model input": f"{width} × {height} pixels",
        "Heatmap grid": f"{setup.grid[1]} × {setup.grid[0]} cells",
        "Device": resolved.device,
        "Batch size": str(resolved.batch_size),
        "Images per second": NONE if speed is None else f"{speed:,.1f}",
        "Seed": str(run.seed),
    }
    if setup.ignored:
        ignored = (f"{count:,} {suffix}" for suffix, count in setup.ignored.items())
        facts["Files ignored"] = f"{', '.join(ignored)} (no images)"
    return facts


def _describe_confidences(totals: Totals, accuracy: float | None, labelled: int) -> str:
    """The text alternative of the chart of confidences."""
    if accuracy is None:
        return ""
    half = len(totals.right) // 2
    sure = int((totals.right + totals.wrong)[half:].sum())
    wrong = int(totals.wrong[half:].sum())
    return (
        f"Confidence of {labelled:,} predictions, right and wrong: {sure:,} have a confidence of "
        f"50% or more, of which {percent(wrong / sure if sure else None)} are wrong."
    )
