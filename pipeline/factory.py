"""What a user names as FILE.py:function or module:function, loaded and called."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError


def build(key: str, spec: str, arguments: dict[str, Any]) -> Any:
    """Call the factory that `spec` names.

    Raises:
        ConfigError: naming `key`, where the factory cannot be found or raises.
    """
    factory = _load(key, spec)
    try:
        return factory(**arguments)
    except Exception as error:
        raise ConfigError(f"{key}: {spec} raised {_describe(error)}") from error


def _load(key: str, spec: str) -> Callable[..., Any]:
    where, separator, name = spec.rpartition(":")
    if not separator or not where or not name:
        raise ConfigError(f"{key}: {spec!r} is neither FILE.py:function nor module:function")
    try:
        module = (
            _from_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        )
    except Exception as error:
        raise ConfigError(f"{key}: {where} cannot be loaded: {_describe(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{key}: {where} has no function {name!r}")
    return function  # type: ignore[no-any-return]


def _from_file(path: Path) -> Any:
    """The module of a file; it may import its neighbours, and its classes can be pickled."""
    if not path.is_file():
        raise FileNotFoundError("no such file")
    name = f"camaudit_factory_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent.resolve()) not in sys.path:
        sys.path.insert(0, str(path.parent.resolve()))
    spec.loader.exec_module(module)
    return module


def _describe(error: Exception) -> str:
    """The error and the line it came from, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    place = f" ({Path(last.filename).name}, line {last.lineno})" if last else ""
    return f"{type(error).__name__}: {error}{place}"
