"""Write HTML pages from templates, and data files that a page loads on demand.

Everything that a template shows is escaped, because names come from the dataset. A data file is a
script that passes one JSON value to the page: a page opened from disk cannot load other files.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.analysis.ranking.decisions import STATES
from pipeline.report import words

ASSETS = ("data.js", "tables.js", "suspects.js", "viewer.js", "review.js")


@cache
def _templates() -> Environment:
    """The template environment; templates are compiled once in a process."""
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (words.percent, words.count, words.number, words.place, words.words, words.duration)
    environment.filters |= {function.__name__: function for function in filters}
    environment.globals |= {
        "plural": words.plural,
        "NONE": words.NONE,
        "KINDS": words.KINDS,
        "MARKS": words.MARKS,
        "STATES": STATES,
        "FOCUS": words.FOCUS,
        "VERDICTS": words.VERDICTS,
        "TITLES": words.VERDICT_TITLES,
    }
    return environment


class Pages:
    """Writes the files of a report into its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def render(self, template: str, **values: object) -> str:
        """Render a template with values."""
        return _templates().get_template(f"{template}.html.j2").render(values)

    def write(self, path: str, template: str, **values: object) -> None:
        """Write a page.

        Raises:
            OSError: the disk is full, or the folder is gone.
        """
        up = "../" * path.count("/")
        self._file(path).write_text(
            self.render(template, up=up, **values), encoding="utf-8", errors="replace"
        )

    def write_data(self, name: str, value: object) -> None:
        """Write data/NAME.js, which passes `value` to the page; the file is pure ASCII."""
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        path = self._file(f"data/{name}.js")
        path.write_text(f"camaudit.receive({json.dumps(name)},{text});\n", encoding="ascii")

    def write_assets(self, alpha: float) -> None:
        """Write style and scripts; alpha is the initial opacity of heatmaps, in [0, 1]."""
        assets = resources.files("pipeline.report").joinpath("assets")
        for name in ASSETS:
            (self.folder / name).write_bytes(assets.joinpath(name).read_bytes())
        style = assets.joinpath("style.css").read_text(encoding="utf-8")
        text = f"{style}\n:root {{ --alpha: {alpha:g}; }}\n"
        (self.folder / "style.css").write_text(text, encoding="utf-8")

    def _file(self, path: str) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        return file
