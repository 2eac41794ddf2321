"""The device on which a model runs."""

from __future__ import annotations

import os

import torch

from pipeline.config import AUTO
from pipeline.errors import ConfigError, one_line


def pick_device(wanted: str) -> torch.device:
    """Pick the device of the settings; "auto" is a GPU if there is one, else the CPU.

    Also turns off TF32 and non-deterministic algorithms of cuDNN for this process.

    Raises:
        ConfigError: the device cannot be used.
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
    """The GPU of this process's LOCAL_RANK (set by torchrun); the first GPU without it."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is None:
        return torch.device("cuda")
    return torch.device("cuda", int(rank) % torch.cuda.device_count())
