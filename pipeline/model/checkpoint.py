"""Read weights from untrusted files without running code, and load them into a model."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import ConfigError, one_line, shorten_list

Weights = dict[str, Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def read_weights(path: str, *, trust: bool) -> Weights:
    """Read the state_dict of a file of safetensors or torch.save.

    Args:
        path: the file.
        trust: unpickle any object of the file, which can run any code.

    Raises:
        ConfigError: the file does not exist, is no checkpoint, or could run code.
    """
    if not Path(path).is_file():
        raise ConfigError(f"model.checkpoint: there is no file {path}")
    if path.endswith(".safetensors"):
        return _read_safetensors(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:
        reason = None if trust else _refusal(error)
        if reason is None:
            reason = f"cannot be read as a checkpoint: {one_line(error, first_line_only=True)}"
        raise ConfigError(f"model.checkpoint: {path} {reason}") from error
    return _state_dict(loaded, path)


def load_weights(module: nn.Module, weights: Weights, path: str) -> None:
    """Load all weights into a module.

    Raises:
        ConfigError: keys are missing, unexpected or of another shape; the message names them.
    """
    own = module.state_dict()
    weights = _without_prefix(weights, set(own))
    shared = own.keys() & weights.keys()
    shapes = [
        f"{key} is {tuple(weights[key].shape)}, the model has {tuple(own[key].shape)}"
        for key in own
        if key in shared and own[key].shape != weights[key].shape
    ]
    # Old checkpoints lack the batch counters of BatchNorm, which evaluation does not use.
    missing = [k for k in own if k not in shared and not k.endswith("num_batches_tracked")]
    unexpected = [key for key in weights if key not in shared]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(problems.values()):
        lines = [f"{len(k)} keys {what}: {shorten_list(k)}" for what, k in problems.items() if k]
        raise ConfigError(
            f"model.checkpoint: {path} does not fit the model\n  " + "\n  ".join(lines)
        )
    module.load_state_dict(weights, strict=False)


def n_outputs(weights: Weights, skeleton: nn.Module, default: int) -> int:
    """Number of classes of a checkpoint: the width of its head where that is not `default`."""
    own = skeleton.state_dict()
    weights = _without_prefix(weights, set(own))
    for key, tensor in own.items():
        other = weights.get(key)
        if other is not None and tensor.shape[:1] == (default,) and other.shape != tensor.shape:
            return int(other.shape[0])
    return default


def _read_safetensors(path: str) -> Weights:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"model.checkpoint: {path} is no safetensors file that can be read: {error}"
        ) from error


def _state_dict(loaded: Any, path: str) -> Weights:
    """The tensors by name, found under the keys that training scripts commonly use."""
    while isinstance(loaded, Mapping):
        found = [loaded[key] for key in WRAPPERS if key in loaded]
        inner = next((each for each in found if isinstance(each, Mapping | nn.Module)), None)
        if inner is None:
            break
        loaded = inner
    if isinstance(loaded, nn.Module):
        loaded = loaded.state_dict()
    if not isinstance(loaded, Mapping) or not loaded:
        raise ConfigError(
            f"model.checkpoint: {path} holds a {type(loaded).__name__}, no state_dict"
        )
    others = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    if others:
        raise ConfigError(
            f"model.checkpoint: {path} is no state_dict; not tensors: {shorten_list(others)}"
        )
    return {str(key): value for key, value in loaded.items()}


def _without_prefix(weights: Weights, own: set[str]) -> Weights:
    """Names without the prefixes of DataParallel, torch.compile and training wrappers."""
    for _ in PREFIXES:
        for prefix in PREFIXES:
            if weights.keys() & own or not all(key.startswith(prefix) for key in weights):
                continue
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def _refusal(error: Exception) -> str | None:
    """Why torch refuses a file that might run code; None if torch failed for another reason."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named:
        reason = f"it holds {named[1]}, and unpickling that can run code"
    elif "TorchScript" in str(error):
        reason = "it is a TorchScript archive, which brings its own code"
    elif isinstance(error, pickle.UnpicklingError):
        reason = "it is a pickle of more than tensors, or no checkpoint at all"
    else:
        return None
    return (
        f"is refused: {reason}\n  save model.state_dict() or safetensors; if you trust the file's "
        "source, set model.trust_checkpoint=true"
    )
