"""What a user names as FILE.py:function or module:function, loaded and called."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from pipeline.errors import ConfigError


def build(key: str, spec: str, arguments: dict[str, object]) -> object:
    """Call the factory that `spec` names.

    Raises:
        ConfigError: naming `key`, where the factory cannot be found or raises.
    """
    factory = _load(key, spec)
    try:
        return factory(**arguments)
    except (Exception, SystemExit) as error:  # SystemExit: a script that reads sys.argv
        raise ConfigError(f"{key}: {spec} raised {_describe(error)}") from error


def _load(key: str, spec: str) -> Callable[..., object]:
    where, separator, name = spec.rpartition(":")
    if not separator or not where or not name:
        raise ConfigError(f"{key}: {spec!r} is neither FILE.py:function nor module:function")
    try:
        module = _from_file(Path(where)) if where.endswith(".py") else _from_module(where)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{key}: {where} cannot be loaded: {_describe(error)}") from error
    function: object = getattr(module, name, None)
    if not callable(function):
        own = [
            n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__
        ]
        has = f", only {', '.join(own)}" if own else ""
        raise ConfigError(f"{key}: {where} has no function {name!r}{has}")
    return function


def _from_module(name: str) -> ModuleType:
    """An installed module, or else one of the working directory."""
    if str(Path.cwd()) not in sys.path:  # the console script leaves it out
        sys.path.append(str(Path.cwd()))
    return importlib.import_module(name)


def _from_file(path: Path) -> ModuleType:
    """The module of a file, run once; it may import its neighbours."""
    path = path.resolve()
    if not path.is_file():
        raise FileNotFoundError("no such file")
    # Files of the same name in two folders are two modules.
    name = f"{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[name] = module  # its dataclasses and pickles look themselves up in there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _describe(error: BaseException) -> str:
    """The error and the line it came from, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if f.filename != __file__ and "importlib" not in f.filename]
    place = f" ({Path(theirs[-1].filename).name}, line {theirs[-1].lineno})" if theirs else ""
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return text + place
