"""The benchmark: one command measures, and what it says of agreement is so. Never how fast."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

SMALL = ["--model", "small", "--size", "32", "--batch", "8", "--rounds", "1", "--workers", "0"]
SMALL += ["--device", "cpu"]


def measured(folder: Path, *options: str) -> dict[str, Any]:
    """What the benchmark writes as JSON."""
    import measure_speed

    path = folder / "benchmark.json"
    measure_speed.main([*SMALL, *options, "--json", str(path)])
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("precisions", [["fp32"], ["fp32", "bf16"]])
def test_measures_what_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], precisions: list[str]
) -> None:
    found = measured(
        tmp_path, "--sides", "camaudit,forward", "--images", "24", "--precision", *precisions
    )
    sides = found["sides"]
    assert [(side["side"], side["precision"]) for side in sides] == [
        (name, precision) for precision in precisions for name in ("forward", "camaudit")
    ]
    for side in sides:
        assert side["error"] is None
        assert len(side["images_per_second"]) == 1
        assert 0 < side["min"] <= side["median"] <= side["max"]
        assert side["ratio_to_forward"] > 0
        assert side["ratio_to_pytorch_grad_cam"] is None
        stored = side["stored_per_image"], side["stored_without_embedding"]
        if side["side"] == "camaudit":
            assert stored[0] > stored[1] > 0
        else:
            assert stored == (None, None)
    pairs = [(each["first"], each["second"]) for each in found["agreement"]]
    expected = [("camaudit fp32", "forward fp32"), ("camaudit fp32", "camaudit bf16")]
    assert pairs == expected[: len(precisions)]
    assert found["agreement"][0]["same_class"] == 1
    assert found["hardware"]["threads"] > 0
    assert "images/s" in capsys.readouterr().out


def test_takes_given_jpegs(tmp_path: Path) -> None:
    import jpegs

    jpegs.make_images(tmp_path / "mine", 5, 32, None)
    options = [
        "--sides",
        "camaudit",
        "--precision",
        "fp32",
        "--images-from",
        str(tmp_path / "mine"),
    ]
    found = measured(tmp_path, *options, "--images", "4")
    assert found["sides"][0]["median"] > 0
    with pytest.raises(SystemExit, match="has 5 JPEGs, not 6"):
        measured(tmp_path, *options, "--images", "6")


@pytest.mark.parametrize("peer", ["torchcam", "captum", "pytorch-grad-cam"])
def test_peers_get_the_same_maps(tmp_path: Path, peer: str) -> None:
    found = measured(
        tmp_path, "--sides", f"camaudit,{peer}", "--images", "24", "--precision", "fp32"
    )
    (agreement,) = found["agreement"]
    assert agreement["second"] == f"{peer} fp32"
    assert agreement["n_images"] == agreement["n_maps"] + agreement["n_dead"] == 24
    assert agreement["n_maps"] > 12
    assert agreement["same_class"] == 1
    assert agreement["min_cosine"] > 0.999


def test_a_peer_that_fails_has_its_reason_in_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)  # as if it were not installed
    found = measured(tmp_path, "--sides", "forward,captum", "--images", "4", "--precision", "fp32")
    forward, captum = found["sides"]
    assert forward["median"] > 0
    assert captum["median"] is None
    assert "captum.attr" in captum["error"]
    assert captum["error"] in capsys.readouterr().out


def test_other_classes_and_dead_maps_are_not_compared() -> None:
    import agreement

    maps = np.ones((4, 2, 2), np.float32)
    dead = np.where(np.arange(4)[:, None, None] == 1, np.float32(0), maps)
    ours = agreement.Maps(np.arange(4), np.array([0, 1, 2, 3]), maps)
    theirs = agreement.Maps(np.arange(4), np.array([0, 1, 2, 0]), dead)
    found = agreement.compare("a", "b", [(ours, theirs)], agreement.unchanged)
    assert (found.n_images, found.same_class) == (4, 0.75)
    assert (found.n_maps, found.n_dead) == (2, 1)
    assert found.mean_cosine == found.min_cosine == pytest.approx(1)


def test_memory_is_measured_for_a_tenth_and_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import measure_speed

    def here(command: list[str], **_kwargs: object) -> SimpleNamespace:
        """The child's work without a process of its own, whose imports would take seconds."""
        assert command[:2] == [sys.executable, measure_speed.__file__]
        with redirect_stdout(StringIO()) as told:
            measure_speed.main(command[2:])
        return SimpleNamespace(stdout=told.getvalue())

    monkeypatch.setattr("subprocess.run", here)
    found = measured(tmp_path, "--memory", "--images", "20", "--precision", "fp32")
    few, many = found["peak_memory"]["2"], found["peak_memory"]["20"]
    assert min(few, many) > 50 * 2**20
    assert found["ratio"] == pytest.approx(many / few)
    assert "ratio" in capsys.readouterr().out
