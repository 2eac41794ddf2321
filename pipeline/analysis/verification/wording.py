"""The summary sentence of a finding."""

from __future__ import annotations

from pipeline.analysis.verification.description import Description
from pipeline.analysis.verification.effects import Effect
from pipeline.storage.values import Verdict

NAMES = {
    "background": ("the background", "the background"),
    "moving": ("something that changes its place from image to image", "this part"),
    "colour": ("the colours of the whole image", "these colours"),
    "lighting": ("the layout of light and dark areas", "this lighting"),
    "compression": ("the JPEG compression of the image", "this compression"),
    "resolution": ("the low resolution of the image", "this resolution"),
    "noise": ("the noise of the image", "this noise"),
    "texture": ("the fine structure of the whole image", "this structure"),
    "sharpness": ("the sharpness of the whole image", "this sharpness"),
    "frame": ("the border all around the image", "the border"),
    "object colour": ("the colour of the object", "this colour"),
    "object": ("a property of the whole object, such as its size or pattern", "such objects"),
}
"""Names of the kinds of cues without a box: in full, and short for the second mention."""


def name_cue(cue: Description) -> tuple[str, str]:
    """Name a cue in full and for the second mention."""
    if cue.kind == "edge":
        return f"something along the {cue.place}", "this strip"
    return NAMES.get(cue.kind, (f"a {cue.kind}, {cue.place}", f"the {cue.kind}"))


def summarise(
    class_name: str,
    cue: Description,
    verdict: Verdict,
    effect: Effect,
    q_value: float,
    n_with_cue: int,
    removed: float | None,
    sharing: list[str],
) -> str:
    """Word a finding: the class, the cue, and the evidence.

    Args:
        class_name: of the class.
        cue: the cue.
        verdict: of the finding.
        effect: of adding the cue to images of other classes.
        q_value: of the effect.
        n_with_cue: images of the class with the cue.
        removed: share of these images that flip to other classes without the cue; None if unknown.
        sharing: names of other classes that share the cue.
    """
    name, short = name_cue(cue)
    relies = {
        Verdict.CONFIRMED: "relies on",
        Verdict.PROPERTY: "relies on a property of the object:",
        Verdict.SUSPECTED: "may rely on",
    }[verdict]
    targets = class_name
    if sharing:
        targets += f" or to classes that share it ({', '.join(sharing)})"
    evidence = [
        f"adding {short} flips {effect.flip_rate:.0%} of other images to {targets} "
        f"(control {effect.control_rate:.0%})",
        "q < 0.001" if q_value < 0.001 else f"q = {q_value:.3f}",
        f"{n_with_cue} images with the cue",
    ]
    if removed is not None:
        evidence.insert(
            0, f"removing {short} flips {removed:.0%} of the images of {class_name} that have it"
        )
    return f"{class_name} {relies} {name}: {'; '.join(evidence)}."
