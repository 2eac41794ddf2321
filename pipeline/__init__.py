"""camaudit: what an image classifier really looks at, over a whole dataset."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.engine.explain import explain
    from pipeline.report.overlay import overlay
    from pipeline.report.panels import panels

__version__ = "0.3.0.dev0"
__all__ = ["explain", "overlay", "panels"]

_PLACES = {"explain": "engine.explain", "overlay": "report.overlay", "panels": "report.panels"}


def __getattr__(name: str) -> Any:
    """The functions for notebooks, imported when they are asked for: torch takes seconds."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
