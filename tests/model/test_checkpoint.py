"""Weights from files: every usual form is read, no code is run, what does not fit is named."""

from __future__ import annotations

import argparse
import os
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.model import checkpoint

pytestmark = [  # torch.jit is on its way out, but its files are there
    pytest.mark.filterwarnings("ignore:.*torch.jit.*"),
    pytest.mark.filterwarnings("ignore:.*TorchScript.*"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),
]


def network(n_outputs: int = 7) -> nn.Sequential:
    torch.manual_seed(n_outputs)
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), head=nn.Linear(4, n_outputs))
    )


WEIGHTS: dict[str, Tensor] = network().state_dict()
WRAPPED: dict[str, Any] = {
    "plain": WEIGHTS,
    "state_dict": {"epoch": 3, "state_dict": WEIGHTS, "optimizer": {"lr": 0.1}},
    "model_state_dict": {"model_state_dict": WEIGHTS, "loss": 0.5},
    "model": {"model": WEIGHTS},
    "nested": {"model": {"state_dict": WEIGHTS}},
    "net": {"net": WEIGHTS, "acc": 93.1},
    "module": {"module": WEIGHTS},
    "weights": {"weights": WEIGHTS},
}
PREFIXES = ("", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "_orig_mod.module.")


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def saved(what: object, path: Path) -> str:
    torch.save(what, path)
    return str(path)


def filled(weights: dict[str, Tensor], module: nn.Module | None = None) -> nn.Module:
    module = module or network(7).requires_grad_()
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    checkpoint.load_weights(module, weights, "FILE")
    return module


def assert_same(module: nn.Module) -> None:
    for name, value in module.state_dict().items():
        assert torch.equal(value, WEIGHTS[name]), name


@pytest.mark.parametrize("form", WRAPPED)
def test_weights_are_found_in_their_wrapper(form: str, tmp_path: Path) -> None:
    weights = checkpoint.read_weights(saved(WRAPPED[form], tmp_path / "w.pt"), trust=False)
    assert_same(filled(weights))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers_are_taken_off(prefix: str, tmp_path: Path) -> None:
    named = {prefix + name: value for name, value in WEIGHTS.items()}
    weights = checkpoint.read_weights(saved({"state_dict": named}, tmp_path / "w.pt"), trust=False)
    assert checkpoint.n_outputs(weights, network(1000), 1000) == 7
    assert_same(filled(weights))


def test_a_prefix_that_the_model_itself_has_stays(tmp_path: Path) -> None:
    module = nn.ModuleDict({"model": network(7)})
    weights = {f"model.{name}": value for name, value in WEIGHTS.items()}
    filled(weights, module)
    assert_same(module["model"])
    filled({f"module.{name}": value for name, value in weights.items()}, module)
    assert_same(module["model"])


def test_safetensors(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert_same(filled(checkpoint.read_weights(str(tmp_path / "w.safetensors"), trust=False)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_precision_take_that_of_the_model(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    other = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in WEIGHTS.items()
    }
    module = filled(checkpoint.read_weights(saved(other, tmp_path / "w.pt"), trust=False))
    for name, value in module.state_dict().items():
        assert value.dtype == WEIGHTS[name].dtype
        assert torch.equal(value, other[name].to(value.dtype)), name


def test_the_counters_of_batch_norm_may_be_missing() -> None:
    weights = {name: value for name, value in WEIGHTS.items() if "num_batches" not in name}
    assert len(weights) < len(WEIGHTS)
    assert torch.equal(filled(weights).get_parameter("head.weight"), WEIGHTS["head.weight"])


def test_every_key_that_does_not_fit_is_named() -> None:
    weights = dict(WEIGHTS)
    weights["head.weight"] = torch.zeros(9, 4)
    del weights["conv.bias"], weights["norm.running_mean"]
    weights["fc.weight"] = torch.zeros(2)
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        checkpoint.load_weights(module, weights, "FILE")
    assert str(caught.value).splitlines() == [
        "model.checkpoint: FILE does not fit the model",
        "  2 keys missing: conv.bias, norm.running_mean",
        "  1 keys unexpected: fc.weight",
        "  1 keys of another shape: head.weight is (9, 4), the model has (7, 4)",
    ]
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_of_many_keys_some_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        checkpoint.load_weights(network(), {f"x{i}": torch.zeros(1) for i in range(20)}, "FILE")
    assert "20 keys unexpected: x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, ... (20 in all)" in str(
        caught.value
    )


@pytest.mark.parametrize(("n", "found"), [(7, 7), (1000, 1000), (1, 1)])
def test_number_of_outputs_is_that_of_the_checkpoint(n: int, found: int) -> None:
    assert checkpoint.n_outputs(network(n).state_dict(), network(1000), 1000) == found


def test_number_of_outputs_is_that_of_the_head() -> None:
    weights = {**WEIGHTS, "conv.weight": torch.zeros(5, 3, 3, 3)}
    assert checkpoint.n_outputs(weights, network(1000), 1000) == 7


def test_number_of_outputs_of_unrelated_weights_is_the_models() -> None:
    assert checkpoint.n_outputs({"x": torch.zeros(3)}, network(1000), 1000) == 1000


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("how", ["torch.save", "pickle"])
def test_code_in_a_pickle_is_not_run(how: str, protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = {"state_dict": WEIGHTS, "extra": Bomb(trace)}
    path = tmp_path / "w.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Bomb(trace), protocol=protocol))
    else:
        torch.save(content, path, pickle_protocol=protocol)
    with pytest.raises(ConfigError, match=r"is refused: .*\n.*set model.trust_checkpoint=true"):
        checkpoint.read_weights(str(path), trust=False)
    assert not trace.exists()


def test_code_in_a_pickle_is_run_for_an_operator_who_trusts_it(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = saved({"state_dict": WEIGHTS, "extra": Bomb(trace)}, tmp_path / "w.pt")
    assert_same(filled(checkpoint.read_weights(path, trust=True)))
    assert trace.exists()


@pytest.mark.parametrize("form", ["whole", "under a key", "with a namespace", "numpy"])
def test_what_is_more_than_tensors_needs_trust(form: str, tmp_path: Path) -> None:
    module = network()
    content, named = {
        "whole": (module, "torch.nn.modules.container.Sequential"),
        "under a key": ({"epoch": 1, "model": module}, "torch.nn.modules.container.Sequential"),
        "with a namespace": ({"state_dict": WEIGHTS, "args": argparse.Namespace()}, "Namespace"),
        "numpy": ({"state_dict": WEIGHTS, "best": np.float64(0.5)}, r"numpy\S*scalar"),
    }[form]
    path = saved(content, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=rf"it holds \S*{named}, and unpickling that can run"):
        checkpoint.read_weights(path, trust=False)
    assert_same(filled(checkpoint.read_weights(path, trust=True)))


def test_a_torchscript_archive_needs_trust(tmp_path: Path) -> None:
    path = str(tmp_path / "w.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network()), path)
    with pytest.raises(ConfigError, match="is refused: it is a TorchScript archive"):
        checkpoint.read_weights(path, trust=False)
    assert_same(filled(checkpoint.read_weights(path, trust=True)))


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pt", b"", "cannot be read as a checkpoint: EOFError"),
        ("text.pt", b"hello world\n" * 10, "cannot be read as a checkpoint: "),
        ("zip.pt", b"PK\x03\x04 and no more", "cannot be read as a checkpoint: "),
        ("w.safetensors", b"hello world", "is no safetensors file that can be read: "),
        ("empty.safetensors", b"", "is no safetensors file that can be read: "),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(
    name: str, content: bytes, message: str, trust: bool, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        checkpoint.read_weights(str(path), trust=trust)
    assert str(caught.value).startswith(f"model.checkpoint: {path} {message}")
    assert "trust_checkpoint" not in str(caught.value)


def test_a_picture_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(ConfigError, match="a pickle of more than tensors, or no checkpoint at all"):
        checkpoint.read_weights(str(path), trust=False)


def test_half_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ConfigError, match="cannot be read as a checkpoint: RuntimeError: "):
        checkpoint.read_weights(str(path), trust=False)


@pytest.mark.parametrize("path", ["missing.pt", "missing.safetensors", "."])
def test_a_file_that_is_not_there(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.checkpoint: there is no file"):
        checkpoint.read_weights(str(tmp_path / path), trust=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, no state_dict"),
        (torch.zeros(2), "holds a Tensor, no state_dict"),
        ({}, "holds a dict, no state_dict"),
        ({"state_dict": {}}, "holds a dict, no state_dict"),
        ({"epoch": 3, "params": WEIGHTS}, "is no state_dict; not tensors: epoch, params"),
        ({"state_dict": {"a": torch.zeros(1), "b": 3}}, "is no state_dict; not tensors: b"),
    ],
)
def test_a_checkpoint_of_something_else_is_named(
    content: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        checkpoint.read_weights(saved(content, tmp_path / "w.pt"), trust=False)
