"""decisions.csv: read, brought to the suspects, kept as long as the row says what it said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_rank import write_run, wrong

from pipeline.analysis.ranking import decisions
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.run.state import Journal
from pipeline.stages import rank
from pipeline.storage import parquet
from pipeline.storage.schema import DECISIONS, SUSPECTS

HEAD = "image_id,mark,note,label,pred,kind,finding_id,confidence,image_width,image_height,"
HEAD += "image_brightness,decided"
PICTURE = {"image_width": 40, "image_height": 30, "image_brightness": 0.5}

Ranked = tuple[list[dict[str, Any]], dict[str, str]]


@pytest.fixture
def ranked(configure: Callable[..., Config], tmp_path: Path) -> Callable[..., Ranked]:
    """Suspects of a run of 30 good images and some wrong ones, and the states of decisions."""

    def go(rows: list[dict[str, Any]], text: str, limit: int = 100) -> Ranked:
        (tmp_path / "decisions.csv").write_text(text, encoding="utf-8")
        config = configure(
            "dataset.root=x",
            "model.name=x",
            f"analysis.max_suspects={limit}",
            f"rank.decisions={tmp_path}/decisions.csv",
        )
        run = write_run(config.folder, [{**PICTURE, **row} for row in [*rows, *[{}] * 30]])
        rank.run(config, Journal(config))
        suspects = parquet.read(run.analysis("suspects"))
        told = parquet.read(run.analysis("decisions"))
        assert suspects.schema.equals(SUSPECTS)
        assert told.schema.equals(DECISIONS)
        states = dict(zip(told["image_id"].to_pylist(), told["state"].to_pylist(), strict=True))
        return suspects.to_pylist(), states

    return go


def line(image_id: str, mark: str, **changed: object) -> str:
    """A decision as the report saves it, on a wrong label of `wrong(0.02, 0.98)`."""
    row = {
        "image_id": image_id, "mark": mark, "note": "", "label": "cat", "pred": "dog",
        "kind": "label_error", "finding_id": "", "confidence": 0.98, **PICTURE, "decided": "",
        **changed,
    }  # fmt: skip
    return ",".join(str(value) for value in row.values())


def test_what_was_judged_fine_does_not_come_back(ranked: Callable[..., Ranked]) -> None:
    suspects, states = ranked([wrong(0.02, 0.98)] * 3, f"{HEAD}\n{line('1.png', 'fine')}\n")
    assert [(s["rank"], s["image_id"]) for s in suspects] == [(1, "0.png"), (2, "2.png")]
    assert states == {"1.png": "left_out"}


def test_others_move_up_where_the_list_is_cut(ranked: Callable[..., Ranked]) -> None:
    rows = [wrong(0.02, 0.98)] * 4
    first, _ = ranked(rows, HEAD, limit=2)
    fine = "\n".join(line(s["image_id"], "fine") for s in first)
    suspects, _ = ranked(rows, f"{HEAD}\n{fine}\n", limit=2)
    assert len(suspects) == 2
    assert not {s["image_id"] for s in suspects} & {s["image_id"] for s in first}


@pytest.mark.parametrize("mark", ["fix_label", "exclude", "shortcut"])
def test_what_is_to_be_done_stays_with_its_mark_and_note(
    ranked: Callable[..., Ranked], mark: str
) -> None:
    text = f"{HEAD}\n{line('0.png', mark, note='a dog')}\n"
    (suspect,), states = ranked([wrong(0.02, 0.98)], text)
    assert (suspect["decision"], suspect["note"]) == (mark, "a dog")
    assert states == {"0.png": "waiting"}
    assert len(suspect["reasons"]) == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"label": "owl"}, "the label"),
        ({"pred": "cat"}, "the prediction"),
        ({"kind": "ambiguous"}, "the kind of suspicion"),
        ({"finding_id": "f"}, "the finding"),
        ({"confidence": 0.95}, "the confidence"),
        ({"image_width": 41}, "the image"),
        ({"image_brightness": 0.51, "label": "owl"}, "the label and the image"),
    ],
)
def test_a_row_that_changed_is_open_again_and_says_why(
    ranked: Callable[..., Ranked], changed: dict[str, object], words: str
) -> None:
    (suspect,), states = ranked(
        [wrong(0.02, 0.98)], f"{HEAD}\n{line('0.png', 'fine', note='ok', **changed)}\n"
    )
    assert suspect["decision"] is None
    assert suspect["note"] == "ok"
    assert suspect["reasons"][-1] == f"was marked “fine” before; since then {words} changed"
    assert states == {"0.png": "changed"}


@pytest.mark.parametrize(
    "moved", [{"confidence": 0.985}, {"confidence": 0.975}, {"image_brightness": 0.503}]
)
def test_what_other_hardware_does_is_no_change(
    ranked: Callable[..., Ranked], moved: dict[str, object]
) -> None:
    suspects, _ = ranked([wrong(0.02, 0.98)], f"{HEAD}\n{line('0.png', 'fine', **moved)}\n")
    assert suspects == []


def test_a_list_by_hand_needs_ids_and_marks_alone(ranked: Callable[..., Ranked]) -> None:
    text = "\ufeffmark,image_id\nfine,0.png\nfix_label,1.png\nexclude,30.png\nfine,gone.png\n"
    suspects, states = ranked([wrong(0.02, 0.98)] * 2, text)
    assert [(s["image_id"], s["decision"]) for s in suspects] == [("1.png", "fix_label")]
    assert states == {
        "0.png": "left_out",
        "1.png": "waiting",
        "30.png": "settled",
        "gone.png": "gone",
    }


def test_of_two_decisions_the_last_one_counts(ranked: Callable[..., Ranked]) -> None:
    text = "image_id,mark\n0.png,fine\n0.png,exclude\n"
    (suspect,), _ = ranked([wrong(0.02, 0.98)], text)
    assert suspect["decision"] == "exclude"


def test_ids_and_notes_hold_anything(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text('image_id,mark,note\n"a,""b""\nc\u202e",fine,"=1+1\n<script>"\n')
    (found,) = decisions.read_decisions(str(path)).values()
    assert found["image_id"] == 'a,"b"\nc\u202e'
    assert found["note"] == "=1+1\n<script>"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it has no column image_id and no column mark"),
        ("image_id,note\n", "it has no column mark"),
        ("image_id,mark\na.png,fine\nb.png,bad\n", "line 3: mark 'bad' is none of fix_label"),
        ("image_id,mark\na.png\n", "line 2 has not as many cells"),
        ("image_id,mark\na.png,fine,x\n", "line 2 has not as many cells"),
        ("image_id,mark,confidence\na.png,fine,high\n", "line 2: confidence 'high' is no number"),
        ('image_id,mark\n"a.png,fine\n', "unexpected end of data"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_by_its_line(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "d.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"rank.decisions: .*{words}"):
        decisions.read_decisions(str(path))


def test_a_file_that_is_not_there_is_told_before_any_work(
    configure: Callable[..., Config],
) -> None:
    with pytest.raises(ConfigError, match=r"rank.decisions: there is no file none\.csv"):
        configure("dataset.root=x", "model.name=x", "rank.decisions=none.csv")


def test_without_decisions_the_table_is_empty(ranked: Callable[..., Ranked]) -> None:
    suspects, states = ranked([wrong(0.02, 0.98)], "image_id,mark\n")
    assert states == {}
    assert suspects[0]["decision"] is suspects[0]["note"] is None
