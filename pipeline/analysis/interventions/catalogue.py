"""Interventions: what is taken from a source image and put into a recipient.

Every intervention is applied twice to the same recipients: with images that have the possible cue
as sources, and with images of the same class that lack it. What the objects of the class do, both
do; the difference is the cue's. Interventions that leave the objects of both sources out can prove
a shortcut; the others prove a property of the object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.analysis.interventions import degradations, transfers
from pipeline.analysis.interventions.scenes import Scenes

MIN_PRESENCE, FULL_PRESENCE = 0.2, 0.4
"""Presence of the concepts from which a pixel is partly, and fully, transplanted."""
MIN_EVIDENCE, FULL_EVIDENCE = 0.6, 0.7
"""The same of the evidence, for the part that holds the strongest evidence."""

PLACE = "place"
"""Name of the intervention on the pixels of one place in the picture, for candidates of a place. No
object stands there, or the content of images without the cue would change predictions, too."""

MaskMaker = Callable[[Scenes, Scenes], Tensor]
"""From images with and without the cue to the share (n, 1, H, W) of each pixel that is changed."""
Change = Callable[[Scenes, Scenes, Tensor], Tensor]
"""From recipients, sources and that share to changed pixels (n, 3, H, W)."""
Trace = Callable[[Tensor], NDArray[np.bool_]]
"""From pixels (n, 3, H, W) to whether each image shows the trace of a change."""


@dataclass(frozen=True)
class Intervention:
    """A way to put a cue into recipients.

    Attributes:
        name: of the intervention.
        leaves_object_out: whether it transplants nothing of the sources' objects.
        mask: makes the share of each pixel that is changed.
        change: changes the recipients.
        trace: tells which images show a change that destroys information, such as compression, and
            cannot be undone; None for a change that can be.
    """

    name: str
    leaves_object_out: bool
    mask: MaskMaker
    change: Change
    trace: Trace | None = None

    def apply(
        self, recipients: Scenes, with_cue: Scenes, without_cue: Scenes
    ) -> tuple[Tensor, Tensor]:
        """Change recipients with content of images with the cue, and of images without it.

        The i-th images belong together; both changes concern the same pixels.

        Returns:
            Two batches (n, 3, H, W) uint8.
        """
        mask = self.mask(with_cue, without_cue)
        return (
            transfers.to_uint8(self.change(recipients, with_cue, mask)),
            transfers.to_uint8(self.change(recipients, without_cue, mask)),
        )

    def remove(self, with_cue: Scenes, without_cue: Scenes) -> Tensor:
        """Replace the cue by the content of images without it; pixels (n, 3, H, W) uint8."""
        mask = self.mask(with_cue, without_cue)
        return transfers.to_uint8(self.change(with_cue, without_cue, mask))


def _ramp(values: Tensor, low: float, high: float) -> Tensor:
    return ((values - low) / (high - low)).clamp(0, 1)


def _region(with_cue: Scenes, _without_cue: Scenes) -> Tensor:
    """Where the concepts are present, outside the object of the image with the cue."""
    presence = _ramp(with_cue.presence, MIN_PRESENCE, FULL_PRESENCE)
    return presence * (1 - with_cue.objects)


def _strongest_part(with_cue: Scenes, _without_cue: Scenes) -> Tensor:
    return _ramp(with_cue.evidence, MIN_EVIDENCE, FULL_EVIDENCE)


def _place(with_cue: Scenes, _without_cue: Scenes) -> Tensor:
    return with_cue.presence


def _everywhere(with_cue: Scenes, _without_cue: Scenes) -> Tensor:
    return torch.ones_like(with_cue.objects)


def _paste(recipients: Scenes, sources: Scenes, mask: Tensor) -> Tensor:
    return transfers.blend(recipients.pixels, sources.pixels, mask)


def _background(sources: Scenes) -> Tensor:
    """Pixels of the sources, whose objects are filled from around them."""
    return transfers.fill_holes(sources.pixels, sources.objects > 0)


def _paste_background(recipients: Scenes, sources: Scenes, mask: Tensor) -> Tensor:
    return transfers.blend(recipients.pixels, _background(sources), mask)


def _change_background(recipients: Scenes, sources: Scenes, _mask: Tensor) -> Tensor:
    """The recipient's object on the source's background."""
    return transfers.blend(_background(sources), recipients.pixels, recipients.objects)


def _transfer(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Change:
    def change(recipients: Scenes, sources: Scenes, _mask: Tensor) -> Tensor:
        outside = 1 - torch.maximum(sources.objects, sources.active)
        return function(recipients.pixels, sources.pixels, outside)

    return change


def _transfer_outside(function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Change:
    """A transfer that leaves the recipients' objects out, too."""

    def change(recipients: Scenes, sources: Scenes, _mask: Tensor) -> Tensor:
        outside = 1 - torch.maximum(sources.objects, sources.active)
        return function(recipients.pixels, sources.pixels, outside, 1 - recipients.objects)

    return change


def _recolour_object(recipients: Scenes, sources: Scenes, _mask: Tensor) -> Tensor:
    recoloured = transfers.transfer_colour(
        recipients.pixels, sources.pixels, sources.objects, recipients.objects
    )
    return transfers.blend(recipients.pixels, recoloured, recipients.objects)


INTERVENTIONS = {
    each.name: each
    for each in (
        Intervention("region", leaves_object_out=True, mask=_region, change=_paste_background),
        Intervention(PLACE, leaves_object_out=True, mask=_place, change=_paste),
        Intervention(
            "background", leaves_object_out=True, mask=_everywhere, change=_change_background
        ),
        *(
            Intervention(
                name,
                leaves_object_out=True,
                mask=_everywhere,
                change=change,
                trace=trace,
            )
            for name, change, trace in (
                ("colour", _transfer_outside(transfers.transfer_colour), None),
                (
                    "compression",
                    _transfer(degradations.transfer_compression),
                    degradations.are_compressed,
                ),
                (
                    "resolution",
                    _transfer(degradations.transfer_resolution),
                    degradations.are_enlarged,
                ),
                ("noise", _transfer(degradations.transfer_noise), degradations.are_noisy),
                ("texture", _transfer_outside(transfers.transfer_texture), None),
                ("sharpness", _transfer(transfers.transfer_sharpness), None),
                ("lighting", _transfer_outside(transfers.transfer_lighting), None),
            )
        ),
        Intervention("part", leaves_object_out=False, mask=_strongest_part, change=_paste),
        Intervention(
            "object colour", leaves_object_out=False, mask=_everywhere, change=_recolour_object
        ),
    )
}
"""All interventions by name; those that can prove a shortcut come first."""
SAME_PLACE = ("background", "part")
"""Names of the interventions that change pixels of a region, too: all of them or fewer."""
STATISTICS = ("colour", "compression", "resolution", "noise", "texture", "sharpness", "lighting")
"""Names of the interventions that transfer a statistic of the whole picture, the most specific
first: a layout of light and dark carries colours, too."""
