"""Convert the output of any classifier to logits (N, K), and logits to probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError

MULTICLASS, BINARY, MULTILABEL = "multiclass", "binary", "multilabel"


class LogitsModule(nn.Module):
    """A classifier whose forward returns logits (N, K).

    The wrapped network may return a tensor, an object with `.logits`, a mapping with the key
    "logits" or with only one entry of the shape of logits, or a tuple that begins with the logits.
    The logit z of a binary classifier becomes (-z/2, z/2), whose softmax is (1 - sigmoid(z),
    sigmoid(z)), so that both classes can be explained.
    """

    def __init__(self, network: nn.Module, output: str) -> None:
        super().__init__()
        self.network, self.output = network, output

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, K) of the model's input (N, C, H, W).

        Raises:
            ConfigError: the output contains no logits; the message describes the output.
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
    """Convert logits (N, K) to probabilities (N, K): softmax, or a sigmoid for multilabel."""
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
    shapes = [tuple(part.shape) if isinstance(part, Tensor) else part for part in parts]
    raise ConfigError(
        f"the model's output is a {type(output).__name__} of {shapes}, and it is not clear which "
        "part holds the logits; write a factory whose model returns the logits alone (model=custom)"
    )


def _only(values: list[object]) -> Tensor | None:
    """The only tensor with the shape of logits, (N,) or (N, K); None if there are several."""
    found = [value for value in values if isinstance(value, Tensor) and value.ndim in (1, 2)]
    return found[0] if len(found) == 1 else None


def _first(values: Sequence[object]) -> Tensor | None:
    """The first value, unless another value of as many dimensions has another width.

    A second head, used in training, has as many classes as the first; features do not.
    """
    first = next(iter(values), None)
    if not isinstance(first, Tensor):
        return None
    widths = {v.shape[1:] for v in values if isinstance(v, Tensor) and v.ndim == first.ndim}
    return first if len(widths) == 1 else None
