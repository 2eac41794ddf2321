"""Whatever a classifier returns, as logits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError

MULTICLASS, BINARY, MULTILABEL = "multiclass", "binary", "multilabel"


class Network(nn.Module):
    """A classifier whose forward gives logits (N, K), whatever its own gives.

    Its own may give them as they are, as `.logits`, in a mapping under "logits" or as its only
    entry of the right shape, or first in a tuple. Of a binary classifier, z becomes (-z/2, z/2),
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
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    if isinstance(output, Mapping):
        found = [value for value in output.values() if isinstance(value, Tensor) and value.ndim < 3]
        if isinstance(output.get("logits"), Tensor) or len(found) == 1:
            logits = output.get("logits", *found)
            assert isinstance(logits, Tensor)
            return logits
        raise ConfigError(
            f"the model's output is a mapping of {', '.join(map(str, output))}: none is called "
            "logits, and more than one could be, or none"
        )
    raise ConfigError(f"the model's output is a {type(output).__name__}, which holds no logits")
