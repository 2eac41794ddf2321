"""Whatever a classifier returns, as logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError

MULTICLASS, BINARY, MULTILABEL = "multiclass", "binary", "multilabel"


class LogitsModule(nn.Module):
    """A classifier whose forward gives logits (N, K), whatever its own gives.

    Its own may give them as they are, as `.logits`, in a mapping under "logits" or as its only
    entry of their shape, or first in a tuple. Of a binary classifier, z becomes (-z/2, z/2),
    whose softmax is (1 - sigmoid(z), sigmoid(z)), so that both classes can be explained.
    """

    def __init__(self, network: nn.Module, output: str) -> None:
        super().__init__()
        self.network, self.output = network, output

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of the model's input (N, C, H, W).

        Raises:
            ConfigError: where the output holds none, saying what it is.
        """
        logits = _logits(self.network(images))
        if self.output != BINARY:
            return logits
        if logits.ndim == 1:
            logits = logits[:, None]
        if logits.shape[1:] != (1,):
            raise ConfigError(
                f"model.output=binary: the model's output is {tuple(logits.shape)}, not one logit "
                "per image; with two or more set model.output=multiclass"
            )
        return torch.cat([-logits, logits], dim=1) / 2


def probabilities(logits: Tensor, output: str) -> Tensor:
    """Probabilities (N, K): softmax over the classes, or of each label by itself (multilabel)."""
    return logits.sigmoid() if output == MULTILABEL else logits.softmax(dim=1)


def _logits(output: object) -> Tensor:
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(output, Mapping):
        logits = output.get("logits", _only(list(output.values())))
    elif isinstance(output, tuple | list):
        logits = _first(output)
    if isinstance(logits, Tensor):
        return logits
    parts = list(output) if isinstance(output, Mapping | tuple | list) else []
    told = [tuple(part.shape) if isinstance(part, Tensor) else part for part in parts]
    raise ConfigError(
        f"the model's output is a {type(output).__name__} of {told}: what of it are the logits is "
        "not clear; let a factory of your own return them alone (model=custom)"
    )


def _only(values: list[object]) -> Tensor | None:
    """The only tensor that may be logits, (N,) or (N, K)."""
    found = [value for value in values if isinstance(value, Tensor) and value.ndim in (1, 2)]
    return found[0] if len(found) == 1 else None


def _first(values: Sequence[object]) -> Tensor | None:
    """The first value, if no other of as many dimensions has another width.

    A second head, for training, has the classes of the first; features beside the logits do not.
    """
    first = next(iter(values), None)
    if not isinstance(first, Tensor):
        return None
    widths = {v.shape[1:] for v in values if isinstance(v, Tensor) and v.ndim == first.ndim}
    return first if len(widths) == 1 else None
