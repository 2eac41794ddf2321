"""Templates to files: HTML pages, and data files that a page loads from disk or any web server.

Everything that a template shows is escaped; names come from the dataset. A data file is a script
that hands over one JSON value, as a page opened from disk may load nothing else.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.report import words

ASSETS = ("data.js", "tables.js", "suspects.js", "viewer.js", "review.js")


@cache
def _templates() -> Environment:
    """Compiled once in a process."""
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    told = (words.percent, words.count, words.number, words.place, words.words, words.duration)
    environment.filters |= {function.__name__: function for function in told}
    environment.globals |= {
        "plural": words.plural,
        "NONE": words.NONE,
        "KINDS": words.KINDS,
        "MARKS": words.MARKS,
        "FOCUS": words.FOCUS,
        "VERDICTS": words.VERDICTS,
    }
    return environment


class Pages:
    """The folder of a report, and how its files are written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rendered(self, template: str, **values: object) -> str:
        """A template filled in."""
        return _templates().get_template(f"{template}.html.j2").render(values)

    def write(self, path: str, template: str, **values: object) -> None:
        """Write a page.

        Raises:
            OSError: disk full, folder gone.
        """
        up = "../" * path.count("/")
        self._file(path).write_text(
            self.rendered(template, up=up, **values), encoding="utf-8", errors="replace"
        )

    def write_data(self, name: str, value: object) -> None:
        """Write data/NAME.js, which hands `value` to the page; ASCII, whatever the value holds."""
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        path = self._file(f"data/{name}.js")
        path.write_text(f"camaudit.receive({json.dumps(name)},{text});\n", encoding="ascii")

    def write_assets(self, alpha: float) -> None:
        """Write style and scripts; alpha is the opacity that heat begins with."""
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
