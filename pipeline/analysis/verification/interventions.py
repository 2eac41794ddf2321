"""Interventions: how a cue of each kind is transplanted between images, and removed from them.

Every intervention is defined by the data: by an image's own heatmaps, by a region of unusual heat,
by an edge, or by statistics of the whole image. None assumes the appearance of a cue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import Tensor

from pipeline.analysis.shortcuts import candidates, regions
from pipeline.analysis.shortcuts.regions import Cells
from pipeline.analysis.verification import masks, segment, transfers
from pipeline.analysis.verification.image_batch import ImageBatch
from pipeline.storage.schema import Row

OBJECT_HEAT = 0.9
"""Share of a heatmap's heat on the hottest pixels that count as the object and stay unchanged."""
SOURCE_OBJECT_HEAT = 0.5
"""Share of the runner-up's heat on the pixels that may be a source image's object."""
MARGIN = 1 / 32
"""Width of the margin around a removed region or object, as a fraction of the image's side."""
LARGE_WINDOW, SMALL_WINDOW = 3 / 8, 1 / 4
"""Sides of the square windows that are transplanted, as fractions of the image's side."""

Transplant = Callable[[ImageBatch, ImageBatch], Tensor]
"""Changes the first images (n, 3, H, W) with content of the second; returns uint8 pixels."""
Transfer = Callable[[Tensor, Tensor], Tensor]
"""A function of transfers.py from images and source images (n, 3, H, W) to changed images."""


@dataclass(frozen=True)
class Intervention:
    """How one kind of cue is transplanted and removed.

    Attributes:
        kind: kind of the cue, such as "patch" or "colour".
        transplant: (recipients, sources) to the recipients' pixels with the sources' content.
        remove: (images, fillers) to the images' pixels with the cue replaced by the content of
            the fillers, images of other classes.
        removed_mask: images to the mask (n, 1, H, W) or (H, W) of the pixels that `remove`
            replaces; None where it replaces all pixels.
        erase: like `remove`, but of everything the cue may consist of, more than `transplant`
            carries; None where `remove` already does so.
        is_pixel_transplant: whether pixels are transplanted, or statistics of pixels only.
    """

    kind: str
    transplant: Transplant
    remove: Transplant
    removed_mask: Callable[[ImageBatch], Tensor] | None = None
    erase: Transplant | None = None
    is_pixel_transplant: bool = True


def mask_of_cells(cells: Cells, images: ImageBatch) -> Tensor:
    """Enlarge cells (h, w) to a mask (H, W) of the images' size, on their device."""
    return masks.mask_of_cells(cells, *images.size).to(images.pixels.device)


def possible_objects(sources: ImageBatch) -> Tensor:
    """Masks (n, 1, H, W) of the pixels that may be the sources' objects and are not transplanted.

    The mask covers the runner-up's hottest pixels: a class of similar objects has its evidence on
    the same object, but not on a cue of another class.
    """
    return masks.hottest_pixels(sources.runner_up_heat, SOURCE_OBJECT_HEAT, *sources.size)


def add_object_masks(images: ImageBatch) -> ImageBatch:
    """Outline the object of every image, from its annotation or from the layer's activity."""
    found = segment.outline_objects(images.pixels, images.activity, images.object_mask)
    return replace(images, object_mask=found)


def erase_objects(images: ImageBatch) -> ImageBatch:
    """Fill the object masks, widened by MARGIN, from the pixels around them (inpainting)."""
    margin = round(MARGIN * min(images.size))
    mask = masks.dilate(images.object_mask, margin)
    return replace(images, pixels=transfers.inpaint(images.pixels, mask))


def region_transplant(kind: str, cells: Cells, extent: Cells | None = None) -> Intervention:
    """Transplant the content of a region, in place, without the sources' objects.

    Args:
        kind: of the cue.
        cells: (h, w), the region that is transplanted.
        extent: (h, w), the region that is removed; by default `cells` widened by MARGIN, because a
            cue that varies in position reaches beyond the cells that all images have in common.
    """

    def transplant(recipients: ImageBatch, sources: ImageBatch) -> Tensor:
        mask = mask_of_cells(cells, recipients) & ~possible_objects(sources)
        return transfers.paste(recipients.pixels, sources.pixels, mask)

    def removed_mask(images: ImageBatch) -> Tensor:
        if extent is not None:
            return mask_of_cells(extent, images)
        margin = round(MARGIN * min(images.size))
        return masks.dilate(mask_of_cells(cells, images), margin)

    def remove(images: ImageBatch, fillers: ImageBatch) -> Tensor:
        return transfers.paste(images.pixels, fillers.pixels, removed_mask(images))

    return Intervention(kind, transplant, remove, removed_mask)


def window_transplant(scale: float, *, in_place: bool) -> Intervention:
    """Transplant the square window that is hot for the class but not for the runner-up.

    `remove` replaces a small window, so that an object beside the cue stays.

    Args:
        scale: side of the transplanted window, as a fraction of the image's side.
        in_place: whether the window keeps its place, or moves to the recipient's coldest place.
    """

    def removed_mask(images: ImageBatch) -> Tensor:
        corners = masks.hottest_windows(images.heat - images.runner_up_heat, SMALL_WINDOW)
        return masks.window_masks(corners, SMALL_WINDOW, *images.size)

    def transplant(recipients: ImageBatch, sources: ImageBatch) -> Tensor:
        start = masks.hottest_windows(sources.heat - sources.runner_up_heat, scale)
        target = start if in_place else masks.hottest_windows(-recipients.heat, scale)
        moved = transfers.shift(sources.pixels, start, target)
        mask = masks.window_masks(target, scale, *recipients.size)
        return transfers.paste(recipients.pixels, moved, mask)

    def remove(images: ImageBatch, fillers: ImageBatch) -> Tensor:
        return transfers.paste(images.pixels, fillers.pixels, removed_mask(images))

    def erase(images: ImageBatch, fillers: ImageBatch) -> Tensor:
        difference = (images.heat - images.runner_up_heat).relu()
        mask = masks.hottest_pixels(difference, OBJECT_HEAT, *images.size)
        return transfers.paste(images.pixels, fillers.pixels, mask)

    return Intervention("moving", transplant, remove, removed_mask, erase)


def background_transplant(cells: Cells | None = None) -> Intervention:
    """Transplant everything but the recipients' objects and the sources' possible objects.

    Args:
        cells: (h, w), the part of the background that is transplanted and removed; by default all.
    """

    def transplant(recipients: ImageBatch, sources: ImageBatch) -> Tensor:
        kept = masks.hottest_pixels(recipients.heat, OBJECT_HEAT, *recipients.size)
        kept |= possible_objects(sources)
        pasted = ~kept if cells is None else ~kept & mask_of_cells(cells, recipients)
        return transfers.paste(recipients.pixels, sources.pixels, pasted)

    def remove(images: ImageBatch, fillers: ImageBatch) -> Tensor:
        around = ~masks.hottest_pixels(images.runner_up_heat, OBJECT_HEAT, *images.size)
        return transfers.paste(images.pixels, fillers.pixels, around)

    if cells is None:
        return Intervention("background", transplant, remove)
    return replace(region_transplant("background", cells), transplant=transplant)


def outlined_background_transplant() -> Intervention:
    """Transplant and remove the background exactly up to the outline of the objects.

    The recipients need object masks (`add_object_masks`); the sources and fillers must be without
    their objects (`erase_objects`).
    """

    def exchange(recipients: ImageBatch, sources: ImageBatch) -> Tensor:
        return transfers.paste(recipients.pixels, sources.pixels, ~recipients.object_mask)

    return Intervention("background", exchange, exchange)


def statistic_transfer(kind: str, transfer: Transfer) -> Intervention:
    """Transfer a statistic of the whole image; `remove` transfers that of the fillers."""

    def apply(recipients: ImageBatch, sources: ImageBatch) -> Tensor:
        return transfer(recipients.pixels, sources.pixels)

    return Intervention(kind, apply, apply, is_pixel_transplant=False)


def local_statistic_transfer(kind: str, transfer: Transfer, cells: Cells) -> Intervention:
    """Transfer a statistic of the box around cells (h, w); no object is transplanted."""
    x0, y0, x1, y1 = regions.bounding_box(cells).values()

    def apply(recipients: ImageBatch, sources: ImageBatch) -> Tensor:
        height, width = recipients.size
        rows = slice(round(y0 * height), round(y1 * height))
        columns = slice(round(x0 * width), round(x1 * width))
        box = (..., rows, columns)
        changed = recipients.pixels.clone()
        changed[box] = transfer(changed[box], sources.pixels[box])
        return changed

    return Intervention(
        kind, apply, apply, partial(mask_of_cells, cells), is_pixel_transplant=False
    )


GENERAL: dict[str, Intervention] = {
    "background": background_transplant(),
    "moving": window_transplant(LARGE_WINDOW, in_place=False),
    "moving, small": window_transplant(SMALL_WINDOW, in_place=False),
    "in place, small": window_transplant(SMALL_WINDOW, in_place=True),
    "colour": statistic_transfer("colour", transfers.transfer_colour),
    "lighting": statistic_transfer("lighting", transfers.transfer_lighting),
    "texture": statistic_transfer("texture", transfers.transfer_texture),
    "sharpness": statistic_transfer("sharpness", transfers.transfer_sharpness),
}
"""Interventions that need no region, by their names in the column `probe` of CANDIDATES."""
LOCAL_TRANSFERS: dict[str, Transfer] = {
    "texture in place": transfers.transfer_texture,
    "sharpness in place": transfers.transfer_sharpness,
}
"""Transfers of a statistic inside a region, by their names in the column `probe`."""


def intervention_of(candidate: Row) -> Intervention:
    """Make the intervention that tests a candidate, a row of CANDIDATES with an intervention.

    Raises:
        KeyError: for a candidate without a region whose intervention is unknown.
    """
    name, kind = candidate["probe"], candidate["kind"]
    if candidate["cells"] is None:
        return GENERAL[name]
    cells = np.asarray(candidate["cells"], bool)
    if name == candidates.BACKGROUND:
        return background_transplant(cells)
    if name in LOCAL_TRANSFERS:
        return local_statistic_transfer(kind, LOCAL_TRANSFERS[name], cells)
    return region_transplant(kind, cells)
