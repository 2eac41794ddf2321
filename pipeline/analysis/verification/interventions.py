"""The kinds of cue that are tried: how each is carried from one picture to another, and removed.

Every probe is given by the data: by where a picture's own heat lies, by where the class's heat is
unusual, by an edge, or by statistics of the whole picture. None knows what a cue looks like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import Tensor

from pipeline.analysis.shortcuts import regions
from pipeline.analysis.shortcuts.regions import Cells
from pipeline.analysis.verification import segment, transfers

OBJECT, CONTEXT = 0.9, 0.5
"""Share of a map's heat on what is left untouched: of the host, and of the donor's runner-up."""
MARGIN = 1 / 32
EDGE = 8
"""An edge is the outer 1/EDGE of the picture."""
LARGE, SMALL = 3 / 8, 1 / 4
"""Sides of the windows that are moved, as fractions of the picture's."""


@dataclass(frozen=True)
class ImageBatch:
    """Pictures (n, C, H, W) uint8 with the heat (n, h, w) of the predicted class and its runner-up.

    classes (n,) are the predicted ones, index (n,) the plan positions. A cue that speaks for one
    class only is not hot for the runner-up, the object usually is: so the two are told apart.
    energy (n, h, w) is how active the explained layer is, whatever the class; object (n, 1, H, W)
    is where the object was marked, empty where it was not.
    """

    index: Tensor
    classes: Tensor
    pictures: Tensor
    heat: Tensor
    runner_up: Tensor
    energy: Tensor
    object: Tensor

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pictures.shape[2], self.pictures.shape[3]

    def at(self, rows: Tensor) -> ImageBatch:
        """Some of the scenes, by position."""
        return ImageBatch(*(values[rows] for values in vars(self).values()))


Intervene = Callable[[ImageBatch, ImageBatch], Tensor]
Where = Callable[[ImageBatch], Tensor]


@dataclass(frozen=True)
class Intervention:
    """How a cue is carried over: transplant(hosts, donors) -> pictures.

    remove(members, fillers) takes it out of members; where(members) are the masks (n, 1, H, W) or
    (H, W) of what is then replaced, None where that is everything. erase, where given, takes out
    all that the probe may have been about, more than it carries over. pixels tells whether pixels
    are carried over, or statistics of them.
    """

    kind: str
    transplant: Intervene
    remove: Intervene
    where: Where | None = None
    erase: Intervene | None = None
    pixels: bool = True


def inside(cells: Cells, scenes: ImageBatch) -> Tensor:
    """Cells (h, w) as a mask (H, W) of the scenes' pictures, on their device."""
    return transfers.pixels(cells, *scenes.size).to(scenes.pictures.device)


def objects(donors: ImageBatch) -> Tensor:
    """Masks (n, 1, H, W) of what may be the donors' objects, and is not carried over.

    It is where the runner-up is hot: a class that looks alike sees the same object, but not a cue
    of another class.
    """
    return transfers.hot(donors.runner_up, CONTEXT, *donors.size)


def outlined(scenes: ImageBatch) -> ImageBatch:
    """The scenes with every object outlined, from where it was marked or the layer is active."""
    found = segment.objects(scenes.pictures, scenes.energy, scenes.object)
    return replace(scenes, object=found)


def cleared(scenes: ImageBatch) -> ImageBatch:
    """Outlined scenes without their objects: what is around them is drawn into their place."""
    margin = round(MARGIN * min(scenes.size))
    around = transfers.wider(scenes.object, margin)
    return replace(scenes, pictures=transfers.inpainted(scenes.pictures, around))


def fixed(kind: str, cells: Cells, extent: Cells | None = None) -> Intervention:
    """What lies in cells (h, w) of the picture, in place, but for the donors' objects.

    A cue that does not stand still reaches over the cells that all have in common: what is removed
    is its extent, where that is known, or else wider by MARGIN.
    """

    def transplant(hosts: ImageBatch, donors: ImageBatch) -> Tensor:
        mask = inside(cells, hosts) & ~objects(donors)
        return transfers.paste(hosts.pictures, donors.pictures, mask)

    def where(members: ImageBatch) -> Tensor:
        if extent is not None:
            return inside(extent, members)
        margin = round(MARGIN * min(members.size))
        return transfers.wider(inside(cells, members), margin)

    def remove(members: ImageBatch, fillers: ImageBatch) -> Tensor:
        return transfers.paste(members.pictures, fillers.pictures, where(members))

    return Intervention(kind, transplant, remove, where)


def moving(scale: float, *, stays: bool) -> Intervention:
    """What is hot for the class but not for its runner-up, in a square window.

    Pasted at its own place, or moved to where the host is looked at least. What is removed is the
    small window, so that the object beside it stays.
    """

    def where(scenes: ImageBatch) -> Tensor:
        corners = transfers.window(scenes.heat - scenes.runner_up, SMALL)
        return transfers.squares(corners, SMALL, *scenes.size)

    def transplant(hosts: ImageBatch, donors: ImageBatch) -> Tensor:
        source = transfers.window(donors.heat - donors.runner_up, scale)
        target = source if stays else transfers.window(-hosts.heat, scale)
        moved = transfers.shifted(donors.pictures, source, target)
        mask = transfers.squares(target, scale, *hosts.size)
        return transfers.paste(hosts.pictures, moved, mask)

    def remove(members: ImageBatch, fillers: ImageBatch) -> Tensor:
        return transfers.paste(members.pictures, fillers.pictures, where(members))

    def erase(members: ImageBatch, fillers: ImageBatch) -> Tensor:
        contrast = (members.heat - members.runner_up).relu()
        mask = transfers.hot(contrast, OBJECT, *members.size)
        return transfers.paste(members.pictures, fillers.pictures, mask)

    return Intervention("moving", transplant, remove, where, erase)


def background(cells: Cells | None = None) -> Intervention:
    """Everything but the objects: the host's, and what may be the donor's; only in cells, if given.

    Of what is known to lie in cells (h, w), all is removed.
    """

    def transplant(hosts: ImageBatch, donors: ImageBatch) -> Tensor:
        kept = transfers.hot(hosts.heat, OBJECT, *hosts.size)
        kept |= objects(donors)
        pasted = ~kept if cells is None else ~kept & inside(cells, hosts)
        return transfers.paste(hosts.pictures, donors.pictures, pasted)

    def remove(members: ImageBatch, fillers: ImageBatch) -> Tensor:
        around = ~transfers.hot(members.runner_up, OBJECT, *members.size)
        return transfers.paste(members.pictures, fillers.pictures, around)

    if cells is None:
        return Intervention("background", transplant, remove)
    whole_place = fixed("background", cells)
    return replace(whole_place, transplant=transplant)


def surroundings() -> Intervention:
    """The background to the pixel: of outlined scenes, from scenes that were cleared."""

    def exchange(hosts: ImageBatch, donors: ImageBatch) -> Tensor:
        return transfers.paste(hosts.pictures, donors.pictures, ~hosts.object)

    return Intervention("background", exchange, exchange)


def whole(kind: str, transfer: Callable[[Tensor, Tensor], Tensor]) -> Intervention:
    """A statistic of the whole picture."""

    def apply(hosts: ImageBatch, donors: ImageBatch) -> Tensor:
        return transfer(hosts.pictures, donors.pictures)

    return Intervention(kind, apply, apply, pixels=False)


def local(kind: str, transfer: Callable[[Tensor, Tensor], Tensor], cells: Cells) -> Intervention:
    """A statistic of the box around cells (h, w); no object is carried over."""
    x0, y0, x1, y1 = regions.bounds(cells).values()

    def apply(hosts: ImageBatch, donors: ImageBatch) -> Tensor:
        height, width = hosts.size
        rows = slice(round(y0 * height), round(y1 * height))
        columns = slice(round(x0 * width), round(x1 * width))
        box = (..., rows, columns)
        changed = hosts.pictures.clone()
        changed[box] = transfer(changed[box], donors.pictures[box])
        return changed

    return Intervention(kind, apply, apply, partial(inside, cells), pixels=False)


def edge_cells() -> dict[str, Cells]:
    """Cells (EDGE, EDGE) along each edge of the picture, and all around."""
    names = ("top edge", "bottom edge", "left edge", "right edge")
    cells = {name: np.zeros((EDGE, EDGE), bool) for name in names}
    cells["top edge"][0] = cells["bottom edge"][-1] = True
    cells["left edge"][:, 0] = cells["right edge"][:, -1] = True
    return {**cells, "all edges": np.logical_or.reduce(list(cells.values()))}


GENERAL: dict[str, Intervention] = {
    "background": background(),
    "moving": moving(LARGE, stays=False),
    "moving, small": moving(SMALL, stays=False),
    "in place, small": moving(SMALL, stays=True),
    "colour": whole("colour", transfers.colour),
    "lighting": whole("lighting", transfers.lighting),
    "texture": whole("texture", transfers.texture),
    "sharpness": whole("sharpness", transfers.sharpness),
}
"""Probes that need no region and are tried for every class."""
