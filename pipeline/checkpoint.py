"""Weights from files that nobody vouches for: read without running code, fitted key by key."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import ConfigError

Weights = dict[str, Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")


def read(path: str, *, trust: bool) -> Weights:
    """The state_dict in a file of safetensors or torch.save.

    Args:
        path: the file.
        trust: unpickle whatever the file holds; it can then run any code.

    Raises:
        ConfigError: no such file, not a checkpoint, or one that would have to run code.
    """
    if not Path(path).is_file():
        raise ConfigError(f"model.checkpoint: there is no file {path}")
    if path.endswith(".safetensors"):
        return _read_safetensors(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        raise ConfigError(_unpickling(path, error)) from error
    except Exception as error:
        raise ConfigError(
            f"model.checkpoint: {path} is no checkpoint that torch can read: {_first_line(error)}"
        ) from error
    return _state_dict(loaded, path)


def fill(module: nn.Module, weights: Weights, path: str) -> None:
    """Load weights into a module, every key of them.

    Raises:
        ConfigError: naming keys that are missing, unexpected, or of another shape.
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
        told = [f"{len(k)} keys {what}: {_some(k)}" for what, k in problems.items() if k]
        raise ConfigError(
            f"model.checkpoint: {path} does not fit the model\n  " + "\n  ".join(told)
        )
    module.load_state_dict(weights, strict=False)


def n_outputs(weights: Weights, skeleton: nn.Module, default: int) -> int:
    """Number of classes a checkpoint was trained for, told by where it differs from `default`."""
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
        raise ConfigError(f"model.checkpoint: {path}: {_first_line(error)}") from error


def _state_dict(loaded: Any, path: str) -> Weights:
    """The tensors by name, wherever training scripts usually put them."""
    if isinstance(loaded, nn.Module):
        return dict(loaded.state_dict())
    while isinstance(loaded, Mapping):
        inner = next(
            (loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None
        )
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping) or not loaded:
        raise ConfigError(
            f"model.checkpoint: {path} holds a {type(loaded).__name__}, no state_dict"
        )
    others = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    if others:
        raise ConfigError(
            f"model.checkpoint: {path} is no state_dict; not tensors: {_some(others)}"
        )
    return {str(key): value for key, value in loaded.items()}


def _without_prefix(weights: Weights, own: set[str]) -> Weights:
    """Names without what DataParallel, torch.compile or a training wrapper put before them."""
    for _ in PREFIXES:
        for prefix in PREFIXES:
            if weights.keys() & own or not all(key.startswith(prefix) for key in weights):
                continue
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def _unpickling(path: str, error: Exception) -> str:
    reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), "")
    return (
        f"model.checkpoint: {path} is refused: it is not a plain state_dict, and unpickling it can "
        f"run code. {reason.strip()}\n  save model.state_dict() or safetensors; if you trust where "
        "the file comes from, set model.trust_checkpoint=true"
    )


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
