"""The summary sentence of a finding."""

from __future__ import annotations

from pipeline.analysis.verification.tested_candidate import TestedCandidate
from pipeline.storage.schema import Row
from pipeline.storage.values import Verdict

NAMES = {
    "background": ("the background", "the background"),
    "moving": ("something that changes its place from image to image", "this part"),
    "colour": ("the colours of the whole image", "these colours"),
    "lighting": ("the layout of light and dark areas", "this lighting"),
    "texture": ("the fine structure (noise, compression) of the whole image", "this structure"),
    "sharpness": ("the sharpness of the whole image", "this sharpness"),
    "frame": ("the border all around the image", "the border"),
}
"""Names of the kinds of cues without a box: in full, and short for the second mention."""
LOCAL_NAMES = {
    "texture": ("the fine structure (noise, compression)", "this structure"),
    "sharpness": ("the sharpness of the image", "this sharpness"),
}
"""Names of the statistics that are transferred inside a box."""


def name_cue(candidate: Row) -> tuple[str, str]:
    """Name the cue of a candidate, a row of CANDIDATES, in full and for the second mention."""
    kind, place = candidate["kind"], candidate["place"]
    if kind == "edge":
        return f"something along the {place}", "this strip"
    if kind in LOCAL_NAMES and candidate["region"]:
        name, short = LOCAL_NAMES[kind]
        return f"{name}, {place}", short
    return NAMES.get(kind, (f"a {kind}, {place}", f"the {kind}"))


def summarise(tested: TestedCandidate, verdict: Verdict, q_value: float, n_with_cue: int) -> str:
    """Word a finding: the class, the cue, and the evidence.

    Args:
        tested: the candidate; its cue was added to other images.
        verdict: of the finding.
        q_value: of the finding.
        n_with_cue: images of the class with the cue.
    """
    assert tested.adding is not None
    adding, removing = tested.adding.effect, tested.removing.effect
    class_name = tested.candidate["class_name"]
    cue, short = name_cue(tested.candidate)
    relies = "relies on" if verdict == Verdict.CONFIRMED else "may rely on"
    evidence = [
        f"adding {short} flips {_percent(adding.flip_rate)} of other images to {class_name} "
        f"(control {_percent(adding.control_rate)})",
        "q < 0.001" if q_value < 0.001 else f"q = {q_value:.3f}",
        f"{n_with_cue} images with the cue",
    ]
    if tested.removing.reliance:
        evidence.insert(
            0,
            f"removing {short} flips {_percent(removing.flip_rate)} of the images of {class_name} "
            f"to other classes (control {_percent(removing.control_rate)})",
        )
    return f"{class_name} {relies} {cue}: {'; '.join(evidence)}."


def _percent(share: float) -> str:
    return f"{share:.0%}"
