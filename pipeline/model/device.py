"""Where a model runs."""

from __future__ import annotations

import os

import torch

from pipeline.config import AUTO
from pipeline.errors import ConfigError, one_line


def pick_device(wanted: str) -> torch.device:
    """The device of the settings; auto takes a GPU where there is one.

    On a GPU float32 means float32, not TF32, and the same input gives the same numbers.

    Raises:
        ConfigError: one that is not there.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    if wanted == AUTO:
        return _of_this_process() if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device: {wanted!r} cannot be used: {one_line(error, with_type=False)}"
        ) from error
    return device


def _of_this_process() -> torch.device:
    """The GPU that torchrun means for a process, the first one where nobody says."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is None:
        return torch.device("cuda")
    return torch.device("cuda", int(rank) % torch.cuda.device_count())
