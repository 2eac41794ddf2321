"""Images that cues are transplanted into, and the split of images between screening and test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.analysis.shortcuts.class_sample import ClassSample
from pipeline.analysis.verification.image_batch import ImageBatch
from pipeline.analysis.verification.intervention_runner import InterventionRunner
from pipeline.storage.schema import Row

MIN_SOURCES = 4
"""Fewest images named by a candidate that are used as its only source images."""


@dataclass(frozen=True)
class ImagePool:
    """Confidently predicted images of all classes, in two sets.

    Attributes:
        screening: images for the screening of candidates, and for the search of a cue's place.
        test: images for the test of the candidates that pass the screening. The sets share no
            image, unless all classes together have too few.
    """

    screening: ImageBatch
    test: ImageBatch

    @classmethod
    def draw(
        cls,
        runner: InterventionRunner,
        sample: ClassSample,
        n_images: int,
        rng: np.random.Generator,
    ) -> ImagePool:
        """Draw from each class about as many images, from the more confident half of them.

        Args:
            runner: loads the images.
            sample: images to draw from.
            n_images: images of other classes that every class needs, in each of the two sets.
            rng: random generator of the draw.

        Raises:
            DataError: for an image that can no longer be read.
        """
        rank, side = np.full((2, len(sample.index)), len(sample.index))
        labels = np.unique(sample.classes)
        for label in labels:
            own = rng.permutation(np.flatnonzero(sample.classes == label))
            confident = own[sample.confidence[own] >= np.median(sample.confidence[own])]
            rank[confident] = np.arange(len(confident))
            # A class may have one image only, so the set that gets its first image is random.
            side[confident] = (rank[confident] + rng.integers(2)) % 2
        n_pool = 2 * n_images * len(labels) // max(1, len(labels) - 1)
        order = np.argsort(rank + rng.random(len(rank)) / 2)[:n_pool]
        chosen = order[rank[order] < len(rank)]
        halves = [np.sort(sample.index[chosen[side[chosen] == half]]) for half in (0, 1)]
        return cls(
            *(runner.load_images(half if len(half) else sample.index[chosen]) for half in halves)
        )


def of_other_classes(images: ImageBatch, class_index: int) -> ImageBatch:
    """Select the images that are not predicted as a class."""
    return images.select(images.classes != class_index)


def select_sources(own: ImageBatch, candidate: Row) -> ImageBatch:
    """Select the images of a class that a candidate names as sources of its cue.

    All images are returned if the candidate names fewer than MIN_SOURCES of them.
    """
    named = torch.as_tensor(
        candidate["donor_index"] or [], device=own.index.device, dtype=torch.int64
    )
    chosen = own.select(torch.isin(own.index, named))
    return chosen if len(chosen) >= MIN_SOURCES else own


def select_half(images: ImageBatch, half: int) -> ImageBatch:
    """Select one of two random halves, 0 or 1; the split depends on the number of images only.

    A single image is in both halves.
    """
    order: NDArray[np.int64] = np.random.default_rng(len(images)).permutation(len(images))
    return images.select(torch.from_numpy(np.sort(order[half::2] if len(order) > 1 else order)))
