"""Versions of camaudit, Python and the libraries that decide the numbers."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

from pipeline import __version__

LIBRARIES = ("torch", "torchvision", "numpy", "pyarrow", "opencv-python-headless", "hydra-core")


@cache
def versions() -> dict[str, str]:
    """Version by name; "unknown" for a library that is not installed as a package."""
    found = {"camaudit": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found
