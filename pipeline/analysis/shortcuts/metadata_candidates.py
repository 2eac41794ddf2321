"""Candidates from metadata columns that are associated with a prediction, or equal to a label."""

from __future__ import annotations

from pipeline.analysis.shortcuts import candidate_rows
from pipeline.analysis.shortcuts.metadata import Association, Confounder
from pipeline.storage.schema import Row


def candidate_of_association(found: Association, n_tests: int, name: str) -> Row:
    """Make a row of CANDIDATES from a metadata column associated with a prediction.

    Args:
        found: the test of a value of the column.
        n_tests: tests of the run; the row's p-value is corrected for all of them (Bonferroni).
        name: of the predicted class.
    """
    evidence = (
        f"{found.share_with:.0%} of the images with {found.column} = {found.value} are "
        f"predicted as {name}, but {found.share_without:.0%} of the images without it, "
        f"compared within each label ({found.column} and label: Cramer's V "
        f"{found.confounding:.2f})"
    )
    effect = found.share_with - found.share_without
    return _metadata_row(found, name, evidence, effect, min(1.0, found.p_value * n_tests))


def candidate_of_confounder(found: Confounder, name: str) -> Row:
    """Make a row of CANDIDATES from a value of a metadata column that says the same as a label.

    Args:
        found: the value and the label.
        name: of the class of the label.
    """
    evidence = (
        f"{found.share_of_label:.0%} of the images labelled {name} have {found.column} = "
        f"{found.value}, and {found.share_of_value:.0%} of the images with it are labelled "
        f"{name}, so that no test can tell which of the two the model relies on"
    )
    return _metadata_row(found, name, evidence, found.share_of_label, found.p_value)


def _metadata_row(
    found: Association | Confounder, name: str, evidence: str, statistic: float, p_value: float
) -> Row:
    return candidate_rows.complete(
        {
            "class_index": found.class_index,
            "class_name": name,
            "kind": candidate_rows.METADATA,
            "place": f"{found.column} = {found.value}",
            "raised_by": evidence,
            "statistic": statistic,
            "p_value": p_value,
        }
    )
