"""The run: can it be trusted? Its outcome in one line, what was checked, how it was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.report import charts
from pipeline.report.aggregates import Aggregates
from pipeline.report.images import PictureFile
from pipeline.report.words import NONE, percent, plural
from pipeline.storage.run_record import GateResult
from pipeline.storage.run_setup import Setup
from pipeline.storage.schema import Row

GOOD, LOOK, NOTE = "good", "look", "note"
"""States of a check: as it should be, to be looked at, for information."""


@dataclass(frozen=True)
class RunFacts:
    """What the run says of itself beside its tables: run.json and the settings of this report.

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
    """What was checked, its state and the outcome in words."""

    state: str
    name: str
    words: str


@dataclass(frozen=True)
class OverviewSection:
    """All that the first section shows."""

    told: RunFacts
    verdict: str
    counts: dict[str, int]
    accuracy: float | None
    checks: list[TrustCheck]
    facts: dict[str, str]
    chart: PictureFile | None
    chart_words: str


def overview(
    told: RunFacts,
    setup: Setup,
    survey: Aggregates,
    findings: Sequence[Row],
    n_suspects: int,
    folder: Path,
) -> OverviewSection:
    """The first section.

    Args:
        told: by the run itself.
        setup: of its plan.
        survey: of its rows.
        findings: rows of FINDINGS.
        n_suspects: in the table.
        folder: where the chart is drawn.
    """
    n_errors = sum(survey.reasons.values())
    counts = {"planned": setup.n_images, "ok": survey.n_images, "error": n_errors}
    labelled, correct = int((survey.right + survey.wrong).sum()), int(survey.right.sum())
    accuracy = correct / labelled if labelled else None
    chart = (
        charts.confidences(folder, "confidence", survey.right, survey.wrong) if labelled else None
    )
    return OverviewSection(
        told=told,
        verdict=verdict(counts, findings, n_suspects),
        counts=counts,
        accuracy=accuracy,
        checks=list(_checks(told, setup, survey, accuracy, labelled)),
        facts=_facts(told, setup),
        chart=chart,
        chart_words=_in_words(survey, accuracy, labelled),
    )


def verdict(counts: dict[str, int], findings: Sequence[Row], n_suspects: int) -> str:
    """The outcome in one line: shortcuts, suspects, images without a result."""
    if counts["planned"] == counts["error"]:
        return "No image could be audited"
    found = Counter(finding["verdict"] for finding in findings)
    parts = [plural(number, f"{name} shortcut") for name, number in sorted(found.items())]
    parts = parts or ["No shortcut found"]
    parts.append(plural(n_suspects, "suspect") if n_suspects else "no suspects")
    if counts["error"]:
        parts.append(f"{plural(counts['error'], 'image')} could not be audited")
    return ", ".join(parts)


def _checks(
    told: RunFacts, setup: Setup, survey: Aggregates, accuracy: float | None, labelled: int
) -> Iterator[TrustCheck]:
    n_errors = sum(survey.reasons.values())
    yield TrustCheck(
        LOOK if n_errors else GOOD,
        "Every image has a result",
        f"{survey.n_images:,} of {setup.n_images:,} were explained"
        + (f", {plural(n_errors, 'image')} could not be read" if n_errors else ""),
    )
    if accuracy is not None:
        confidence = survey.confidence / labelled
        yield TrustCheck(
            NOTE,
            "Accuracy and confidence",
            f"{accuracy:.1%} of {plural(labelled, 'labelled image')} are right, at a mean "
            f"confidence of {confidence:.1%}",
        )
    alike = told.verification.get("map_similarity_random_head")
    if alike is not None:
        hardly = any("hardly depend" in warning for warning in told.warnings)
        yield TrustCheck(
            LOOK if hardly else GOOD,
            "The heatmaps depend on the model",
            f"with a random head they are others: rank correlation {alike:.2f}",
        )
    false = told.verification.get("false_findings")
    if false:
        confirmed = told.verification.get("pseudo_classes_confirmed", 0)
        yield TrustCheck(LOOK if confirmed else GOOD, "Findings can be trusted", false)
    if told.gate:
        broken = [result.line for result in told.gate if result.broken]
        words = "; ".join(broken) or f"no limit is broken of {len(told.gate)} that are set"
        yield TrustCheck(LOOK if broken else GOOD, "The gate", words)
    for name, agreement in told.engine.items():
        if isinstance(agreement, dict) and "top1" in agreement:
            yield TrustCheck(
                GOOD if told.engine.get("precision") == name else NOTE,
                f"{name} beside float32",
                f"{agreement['top1']:.1%} of the predictions and {agreement['cosine']:.4f} of the "
                f"heatmaps (cosine) are the same on {agreement['images']} images",
            )


def _facts(told: RunFacts, setup: Setup) -> dict[str, str]:
    """How the audit was made: name and value."""
    settings, resolved = setup.settings, setup.resolved
    dataset = [settings.get(f"dataset.{key}") for key in ("name", "path", "root", "factory")]
    speed = told.images_per_second
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
        "Seed": str(told.seed),
    }
    if setup.ignored:
        ignored = (f"{count:,} {suffix}" for suffix, count in setup.ignored.items())
        facts["Files left out"] = f"{', '.join(ignored)} (no images)"
    return facts


def _in_words(survey: Aggregates, accuracy: float | None, labelled: int) -> str:
    """The chart of confidences for who cannot see it."""
    if accuracy is None:
        return ""
    half = len(survey.right) // 2
    sure = int((survey.right + survey.wrong)[half:].sum())
    wrong = int(survey.wrong[half:].sum())
    return (
        f"Confidence of {labelled:,} predictions, right and wrong: {sure:,} have a confidence of "
        f"50% or more, of which {percent(wrong / sure if sure else None)} are wrong."
    )
