"""What a user names as FILE.py:function is called, or said by name why not."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import factory
from pipeline.errors import ConfigError

KEY = "dataset.factory"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test makes importable is gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, text: str) -> Path:
    """Write a file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(spec: str, **arguments: object) -> str:
    """The message of the error, one line that names the key and the factory."""
    with pytest.raises(ConfigError) as caught:
        factory.build(KEY, spec, arguments)
    told = str(caught.value)
    assert told.startswith(f"{KEY}: ")
    assert spec.rpartition(":")[0] in told
    assert "\n" not in told
    return told


def test_a_function_of_a_file_with_arguments(tmp_path: Path) -> None:
    path = write(tmp_path / "my data.py", "def build(a, b=2): return [a, b]")
    assert factory.build(KEY, f"{path}:build", {"a": 1}) == [1, 2]


def test_a_class_is_a_factory(tmp_path: Path) -> None:
    path = write(tmp_path / "f.py", "class Thing:\n    def __init__(self, n): self.n = n")
    thing: Any = factory.build(KEY, f"{path}:Thing", {"n": 5})
    assert thing.n == 5


def test_an_installed_module() -> None:
    assert factory.build(KEY, "fractions:Fraction", {"numerator": 3}) == 3


def test_a_module_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine" / "inner.py", "def build(): return 7")
    monkeypatch.chdir(tmp_path)
    assert factory.build(KEY, "mine.inner:build", {}) == 7
    assert factory.build(KEY, "mine/inner.py:build", {}) == 7


def test_an_installed_module_goes_before_one_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "pyclbr.py", "def readmodule(): return 'not this'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "pyclbr", raising=False)
    with pytest.raises(ConfigError, match="raised TypeError"):
        factory.build(KEY, "pyclbr:readmodule", {})


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "neighbour_of_f.py", "VALUE = 3")
    path = write(
        tmp_path / "f.py",
        "import neighbour_of_f\ndef build():\n    import neighbour_of_f as n\n    return n.VALUE",
    )
    assert factory.build(KEY, f"{path}:build", {}) == 3


def test_files_of_one_name_in_two_folders(tmp_path: Path) -> None:
    text = "class Thing:\n    where = '{}'"
    paths = [write(tmp_path / name / "f.py", text.format(name)) for name in "ab"]
    things: list[Any] = [factory.build(KEY, f"{path}:Thing", {}) for path in paths]
    assert [thing.where for thing in things] == ["a", "b"]
    assert [pickle.loads(pickle.dumps(thing)).where for thing in things] == ["a", "b"]


def test_a_file_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "f.py", "def build(): return Thing()\nclass Thing: pass")
    first = factory.build(KEY, f"{path}:build", {})
    monkeypatch.chdir(tmp_path)
    second = factory.build(KEY, "f.py:build", {})
    assert type(first) is type(second)
    assert type(pickle.loads(pickle.dumps(first))) is type(first)


def test_a_name_like_an_installed_modules_does_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path / "torch.py", "def build(): import torch; return torch.__name__")
    torch = sys.modules["torch"]
    assert factory.build(KEY, f"{path}:build", {}) == "torch"
    assert sys.modules["torch"] is torch


@pytest.mark.parametrize("spec", ["build", "f.py", ":build", "f.py:", ""])
def test_neither_file_nor_module(spec: str) -> None:
    with pytest.raises(ConfigError, match=f"{KEY}: '{spec}' is neither FILE.py:function nor"):
        factory.build(KEY, spec, {})


def test_nothing_there(tmp_path: Path) -> None:
    assert "no such file" in refused(f"{tmp_path}/no.py:build")
    assert "No module named 'no_such_module'" in refused("no_such_module:build")
    (tmp_path / "folder.py").mkdir()
    assert "no such file" in refused(f"{tmp_path}/folder.py:build")


def test_no_such_function_lists_those_there(tmp_path: Path) -> None:
    path = write(
        tmp_path / "f.py", "import os\nfrom json import loads\ndef make(): pass\nvalue = 1"
    )
    told = refused(f"{path}:build")
    assert told.endswith("has no function 'build', only make")
    assert "no function 'value'" in refused(f"{path}:value")
    assert refused(f"{write(tmp_path / 'g.py', '')}:build").endswith("no function 'build'")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero (f.py, line 1)"),
        ("x = (", "SyntaxError: '(' was never closed (f.py, line 1)"),
        ("import no_such_module", "No module named 'no_such_module' (f.py, line 1)"),
        ("import sys\nsys.exit('usage:\\n  f.py')", "SystemExit: usage: f.py (f.py, line 2)"),
    ],
)
def test_a_file_that_cannot_be_run(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path / "f.py", text)
    for _ in range(2):  # half a module must not be left behind
        told = refused(f"{path}:build")
        assert "cannot be loaded" in told
        assert told.endswith(said)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('two\\nlines')", "ValueError: two lines (f.py, line 2)"),
        ("raise SystemExit(2)", "SystemExit: 2 (f.py, line 2)"),
        ("raise MemoryError", "MemoryError (f.py, line 2)"),
        ("import json; json.loads('{')", "JSONDecodeError: Expecting property name"),
    ],
)
def test_a_factory_that_raises(tmp_path: Path, body: str, said: str) -> None:
    path = write(tmp_path / "f.py", f"def build():\n    {body}")
    told = refused(f"{path}:build")
    assert " raised " in told
    assert said in told


def test_arguments_that_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "f.py", "def build(size): pass")
    told = refused(f"{path}:build", width=3)
    assert told.endswith("TypeError: build() got an unexpected keyword argument 'width'")


def test_an_interrupt_goes_through(tmp_path: Path) -> None:
    path = write(tmp_path / "f.py", "def build(): raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        factory.build(KEY, f"{path}:build", {})
