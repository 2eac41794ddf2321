"""The notebook of scripts/ runs from its first cell to its last, on a small run."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import pipeline
from helpers.small_data import MODEL, network, write_images

NOTEBOOK = Path(__file__).parents[1] / "scripts" / "notebook.ipynb"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_cell_runs_and_a_figure_is_shown(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 6)
    (tmp_path / "net.py").write_text(MODEL)
    pipeline.audit(
        f"dataset.root={tmp_path}/photos",
        f"output_dir={tmp_path}/outputs",
        "run_id=demo",
        "stages=[explain,discover,verify,rank]",
        "loader.num_workers=0",
        *network(f"{tmp_path}/net.py:build"),
    )
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [each for each in outputs if "image/png" in each.get("data", {})]
    assert len(pictures) == 2
    assert not [each for each in outputs if each.output_type == "error"]
