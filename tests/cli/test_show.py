"""camaudit-show: what people see, what scripts read, and that no name steers the terminal."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import pty
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.cells import cell_len

from helpers.small_run import NASTY, make_run
from pipeline.cli import parser, show, text_tables
from pipeline.config import Config
from pipeline.run.state import Journal
from pipeline.storage import parquet
from pipeline.storage.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "pipeline.cli.show"]
HOSTILE = [
    "\x1b]0;owned\x07 \x1b[31mred",
    "line\rfeed\tand a \u202egnp",
    "[bold red]x[/] [link=http://a] :smile:",
    '\x9b2J \u2067 "two\nlines", comma; semicolon',
]
EXPECTED = "expect fewer than 14 false findings per 100 classes"
TABLES = ("findings", "suspects", "classes")


def finish(config: Config, *, state: str | None = "complete") -> RunFolder:
    """Write run.json as a run does that ends so, or that has not ended (None)."""
    journal = Journal(config)
    journal.counts = {"planned": 9, "ok": 7, "error": 2, "labelled": 7, "correct": 4}
    journal.verification = {"false_findings": EXPECTED, "map_similarity_random_head": math.nan}
    journal.warnings = ["half of the maps are empty"]
    journal.attempt.seconds = {"explain": 90.25, "verify": 4.5}
    journal.attempt.images_per_second = 12.34
    journal.write()
    if state:
        journal.end(state, 0 if state == "complete" else 3)
    return RunFolder(config.folder)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run of nine images, two of them broken; seven suspects, one finding."""
    return finish(make_run(tmp_path, names=["cat", "dog", "owl", "emu"]))


@pytest.fixture
def hostile(tmp_path: Path) -> RunFolder:
    """A finished run whose names and image ids try to steer a terminal."""
    return finish(make_run(tmp_path, names=HOSTILE))


@pytest.fixture
def shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """main() with the code it must return; gives what it wrote, to stderr where it fails."""

    def call(*arguments: str | Path, code: int = 0, columns: int | None = None) -> str:
        monkeypatch.setenv("COLUMNS", str(columns or ""))
        assert show.main([str(argument) for argument in arguments]) == code
        written = capsys.readouterr()
        assert not (written.out if code else written.err)
        return written.err if code else written.out

    return call


def rewrite(run: RunFolder, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Put a table of the analysis in another form."""
    parquet.write(change(parquet.read(run.analysis(name))), run.analysis(name))


def on_terminal(*arguments: str | Path, **environment: str) -> str:
    """What the command sends to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    variables = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "CI")}
    variables |= {"TERM": "xterm", "COLUMNS": "100", **environment}
    child = subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, stdout=theirs, env=variables)
    os.close(theirs)
    sent = b""
    try:
        while piece := os.read(ours, 4096):
            sent += piece
    except OSError:  # Linux tells the end of a terminal like this
        pass
    os.close(ours)
    assert child.wait(60) == 0
    return sent.decode().replace("\r\n", "\n")


def in_words(text: str) -> str:
    """Text without line breaks and runs of spaces."""
    return " ".join(text.split())


def test_a_finished_run_is_told_from_top_to_bottom(
    run: RunFolder, shown: Callable[..., str]
) -> None:
    text = in_words(shown(run.path))
    parts = [
        "audit: complete",
        "last attempt started",
        "9 planned, 7 explained, 2 errors",
        "accuracy 57.1% of 7 labelled images",
        "model torchvision, resnet18",
        "layer layer4",
        "ran on cpu, fp32, 12.3 images/s",
        "duration 1m 35s: explain 1m 30s, verify 4.5s",
        "Warnings ! half of the maps are empty",
        "Findings: 1",
        EXPECTED,
        "confirmed cat region 80.0% 10.0% 60.0% to 80.0% < 0.001 3 cat: a region.",
        "Suspects: 7",
        "1 1.000 ambiguous cat 75.0% cat 0 cat.png because of cat",
        "7 0.143 ambiguous cat 75.0% emu 7 emu.png because of cat",
    ]
    places = [text.find(part) for part in parts]
    assert -1 not in places, parts[places.index(-1)]
    assert places == sorted(places)


def test_each_row_is_one_line_in_a_pipe(run: RunFolder, shown: Callable[..., str]) -> None:
    lines = shown(run.path).splitlines()
    assert [len(re.findall("because of", line)) for line in lines].count(1) == 7
    assert not [line for line in lines if line != line.rstrip()]


@pytest.mark.parametrize("columns", [10, 40, 80, 119, 120, 200])
def test_long_names_are_wrapped_and_never_cut(
    tmp_path: Path, shown: Callable[..., str], columns: int
) -> None:
    path = finish(make_run(tmp_path, names=["ж" * 300, "ü 猫" * 40, "dog", "s"])).path
    whole, wrapped = shown(path), shown(path, columns=columns)
    for char in "жü猫":
        assert whole.count(char) > 200
        assert wrapped.count(char) == whole.count(char)
    assert "…" not in wrapped
    assert max(cell_len(line) for line in wrapped.splitlines()) <= max(
        columns, text_tables.MIN_WIDTH
    )


@pytest.mark.parametrize("columns", [None, 80, 160])
def test_no_name_steers_the_terminal(
    hostile: RunFolder, shown: Callable[..., str], columns: int | None
) -> None:
    text = shown(hostile.path, columns=columns)
    assert not [char for char in text if char != "\n" and not char.isprintable()]
    for told in (
        "\\x1b]0;owned\\x07",
        "\\u202egnp",
        "line\\rfeed\\tand",
        "\\x9b2J",
        "two\\nlines",
        "[bold red]x[/]",
    ):
        assert told in text
    assert ":smile:" in text


def test_what_is_escaped_and_what_is_left_alone() -> None:
    fine = "Größe 猫 'a\\b' \u0645\u06cc\u200c\u062e \U0001f469\u200d\U0001f52c"
    assert parser.escaped(fine) == fine
    steering = [*"\x00\x07\b\t\n\r\x1b\x7f\x85\x9b\u061c\u200b\u200e\u2028\ufeff\udcff"]
    steering += [chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))]
    for char in steering:
        written = parser.escaped(f"a{char}b")
        assert re.fullmatch(r"a\\[xu0-9a-fnrt]+b", written)
        assert written.encode("ascii").decode("unicode_escape") == f"a{char}b"


def test_a_terminal_gets_colours_unless_it_asks_for_none(hostile: RunFolder) -> None:
    coloured = on_terminal(hostile.path)
    plain = on_terminal(hostile.path, NO_COLOR="1")
    assert "\x1b[1;32mcomplete" in coloured
    assert "\x1b[1;31mconfirmed" in coloured
    assert "\x1b[1mcomplete" in plain
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", plain)
    for sent in (coloured, plain):
        unstyled = re.sub(r"\x1b\[[0-9;]*m", "", sent)
        assert not [char for char in unstyled if char != "\n" and not char.isprintable()]


def test_csv_on_a_terminal_is_escaped(hostile: RunFolder) -> None:
    sent = on_terminal(hostile.path, "--csv", "--top", "1")
    assert "\\x1b]0;owned\\x07" in sent
    assert "\x1b" not in sent


@pytest.mark.parametrize("table", TABLES)
def test_csv_is_the_table(hostile: RunFolder, shown: Callable[..., str], table: str) -> None:
    arguments = [] if table == "suspects" else ["--table", table]
    text = shown(hostile.path, "--csv", *arguments, columns=40)
    read = list(csv.DictReader(io.StringIO(text, newline="")))
    stored = parquet.read(hostile.analysis(table)).flatten()
    assert len(read) == stored.num_rows > 0
    assert "\r\n" not in text
    for field in stored.schema:
        values = stored[field.name].to_pylist()
        assert [as_stored(row[field.name], field.type) for row in read] == values, field.name


def as_stored(text: str, kind: pa.DataType) -> Any:
    """A field of the CSV as the value that Arrow holds; the names of these runs are not empty."""
    if not text:
        return None
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        parts = [text] if pa.types.is_string(kind.value_type) else text.split("; ")
        return [as_stored(part, kind.value_type) for part in parts]
    if pa.types.is_floating(kind):
        return float(text)
    return int(text) if pa.types.is_integer(kind) else text


def test_lists_are_joined_in_csv_and_only_there(run: RunFolder, shown: Callable[..., str]) -> None:
    reasons = [["odd light", "and, a comma"]] + [["one"]] * 6
    place = parquet.read(run.analysis("suspects")).schema.get_field_index("reasons")
    rewrite(run, "suspects", lambda table: table.set_column(place, "reasons", [reasons]))
    first = next(csv.DictReader(io.StringIO(shown(run.path, "--csv"))))
    assert first["reasons"] == "odd light; and, a comma"
    assert json.loads(shown(run.path, "--json"))["suspects"][0]["reasons"] == reasons[0]
    assert "odd light (and 1 more)\n" in shown(run.path)


def test_json_holds_the_run_and_its_tables(hostile: RunFolder, shown: Callable[..., str]) -> None:
    text = shown(hostile.path, "--json", columns=40)
    assert text.isascii()
    assert text.count("\n") == 1
    told = json.loads(text)
    for table in ("findings", "suspects"):
        assert told[table] == parquet.read(hostile.analysis(table)).to_pylist()
    about = told["run"]
    assert (about["run_id"], about["state"], about["exit_code"]) == ("audit", "complete", 0)
    assert about["counts"] == {"planned": 9, "ok": 7, "error": 2, "labelled": 7, "correct": 4}
    assert about["accuracy"] == 4 / 7
    assert about["parts"] == {"committed": 3, "planned": 3}
    assert (about["layer"], about["false_findings"]) == ("layer4", EXPECTED)
    assert (about["seconds"], about["duration"]) == ({"explain": 90.25, "verify": 4.5}, 94.75)
    assert about["missing"] == {}


def test_json_has_null_where_a_number_is_none(run: RunFolder, shown: Callable[..., str]) -> None:
    place = parquet.read(run.analysis("findings")).schema.get_field_index("effect")
    effect = pa.array([math.nan], pa.float32())
    rewrite(run, "findings", lambda table: table.set_column(place, "effect", effect))
    text = shown(run.path, "--json")
    assert "NaN" not in text
    assert json.loads(text)["findings"][0]["effect"] is None


@pytest.mark.parametrize(
    ("arguments", "ranks"),
    [
        (["--top", "2"], [1, 2]),
        (["--kind", "label_error"], [2, 4, 6]),
        (["--class", "dog"], [2, 5]),  # predicted, and labelled
        (["--kind", "label_error", "--class", "emu", "--top", "1"], [4]),
    ],
)
def test_suspects_are_chosen_alike_for_people_and_scripts(
    run: RunFolder, shown: Callable[..., str], arguments: list[str], ranks: list[int]
) -> None:
    rows = csv.DictReader(io.StringIO(shown(run.path, "--csv", *arguments)))
    assert [int(row["rank"]) for row in rows] == ranks
    told = json.loads(shown(run.path, "--json", *arguments))["suspects"]
    assert [row["rank"] for row in told] == ranks
    lines = shown(run.path, *arguments).splitlines()
    assert [int(line.split()[0]) for line in lines if "because of" in line] == ranks


def test_people_see_the_first_twenty_and_how_many_there_are(
    run: RunFolder, shown: Callable[..., str]
) -> None:
    rewrite(run, "suspects", lambda table: pa.concat_tables([table] * 4))
    text = shown(run.path)
    assert "Suspects: the first 20 of 28" in text
    assert text.count("because of") == 20
    assert shown(run.path, "--csv").count("because of") == 28


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--kind", "label-error"],
            "no suspect is of kind label-error; the kinds are: ambiguous, label",
        ),
        (["--class", "dogs"], "no suspect is labelled or predicted dogs; close names: dog"),
        (
            ["--kind", "ambiguous", "--class", "dog\x1b"],
            "no suspect is labelled or predicted dog\\x1b; close names: dog",
        ),
    ],
)
def test_a_filter_that_leaves_nothing_says_what_there_is(
    run: RunFolder,
    shown: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    assert words in shown(run.path, *arguments)
    assert show.main([str(run.path), "--csv", *arguments]) == 0
    written = capsys.readouterr()
    assert words in written.err
    assert written.out.startswith("rank,")
    assert written.out.count("\n") == 1


def test_decisions_of_a_review_are_shown_where_there_are_any(
    run: RunFolder, shown: Callable[..., str]
) -> None:
    for columns in (None, 80):
        table = shown(run.path, columns=columns).split("Suspects:")[1]
        assert "decision" not in table
    decisions = ["relabel", *[None] * 5, "keep\x1b"]
    rewrite(
        run,
        "suspects",
        lambda table: (
            table.drop_columns(["decision", "note"])
            .append_column("decision", [decisions])
            .append_column("note", pa.array(["seen"] + [None] * 6, pa.string()))
        ),
    )
    assert "1 1.000 ambiguous relabel cat" in in_words(shown(run.path))
    assert "2 0.500 label_error - dog" in in_words(shown(run.path))
    narrow = shown(run.path, columns=80)
    assert narrow.count("decision relabel") == narrow.count("decision keep\\x1b") == 1
    rows = list(csv.DictReader(io.StringIO(shown(run.path, "--csv"))))
    assert [row["decision"] or None for row in rows] == decisions
    assert [row["note"] for row in rows] == ["seen"] + [""] * 6


def test_a_run_without_labels_has_no_accuracy(tmp_path: Path, shown: Callable[..., str]) -> None:
    config = make_run(tmp_path, names=["cat", "dog", "owl", "emu"], labelled=False)
    journal = Journal(config)
    journal.counts = {"planned": 9, "ok": 7, "error": 2, "labelled": 0, "correct": 0}
    journal.end("complete", 0)
    text = shown(config.folder)
    assert "accuracy      no explained image has a label" in text
    assert "1  1.000  ambiguous    cat 75.0%   -      0 cat.png" in text
    assert json.loads(shown(config.folder, "--json"))["run"]["accuracy"] is None
    rows = csv.DictReader(io.StringIO(shown(config.folder, "--csv", "--class", "dog")))
    assert [(row["label"], row["pred"]) for row in rows] == [("", "dog")]


def test_nothing_found_is_said(tmp_path: Path, shown: Callable[..., str]) -> None:
    run = finish(make_run(tmp_path, found=False))
    text = shown(run.path, "--kind", "ambiguous")
    assert "Findings: 0" in text
    assert "none: no candidate was confirmed or suspected" in text
    assert text.endswith("Suspects: 0\nnone\n")


def test_a_run_in_its_first_stage_is_shown_as_far_as_it_goes(
    tmp_path: Path, shown: Callable[..., str]
) -> None:
    config = make_run(tmp_path)
    Journal(config)
    run = RunFolder(config.folder)
    for path in run.analysis("").parent.iterdir():
        path.unlink()
    run.part(1).unlink()
    (run.part(0).parent / ".part-00001.parquet.1.tmp").touch()  # half-written
    run.part(3).touch()  # of no shard
    run.part(1).with_name("part-00001.parquet.copy.parquet").touch()
    text = in_words(shown(run.path))
    for words in (
        "audit: running last attempt started",
        "has not ended",
        "a killed run has the state running too",
        "images 9 planned",
        "2 of 3 parts are committed (5 of 9 images): the explain stage is not finished",
        "model torchvision, resnet18",
        "no findings yet: the verify stage has not run",
        "no suspects yet: the rank stage has not run",
    ):
        assert words in text
    told = json.loads(shown(run.path, "--json"))
    assert told["findings"] is told["suspects"] is None
    assert told["run"]["missing"].keys() == {"parts", "findings", "suspects"}
    for table in TABLES:
        error = shown(run.path, "--csv", "--table", table, code=75)
        assert f"{table}.parquet is not there yet" in error


def test_findings_are_shown_before_suspects_are_ranked(
    run: RunFolder, shown: Callable[..., str]
) -> None:
    run.analysis("suspects").unlink()
    text = shown(run.path)
    assert "cat: a region." in text
    assert text.endswith("Suspects\nno suspects yet: the rank stage has not run\n")


def test_a_run_that_failed_says_why(tmp_path: Path, shown: Callable[..., str]) -> None:
    config = make_run(tmp_path)
    Journal(config).end("aborted", 143, "stopped\nby signal 15")
    Journal(config).end("failed", 3, "too many \x1b[31m errors")
    text = shown(config.folder)
    assert text.startswith("audit: failed\n")
    assert "too many \\x1b[31m errors (exit code 3)" in text
    assert "(attempt 2)" in text


def test_a_run_without_run_json_or_without_plan_is_shown(
    run: RunFolder, shown: Callable[..., str]
) -> None:
    record = run.path / "run.json"
    held = record.read_bytes()
    record.unlink()
    text = shown(run.path)
    assert "audit: unknown\nthere is no run.json\n" in text
    assert "layer    layer4" in text
    record.write_bytes(held)
    run.plan.unlink()
    text = shown(run.path)
    assert "no plan yet: the images have not been listed" in text
    assert "57.1%" in text
    assert "layer4" not in text


def test_a_plan_of_another_version_hides_nothing_else(
    run: RunFolder, shown: Callable[..., str]
) -> None:
    parquet.write(parquet.read(run.plan).replace_schema_metadata(), run.plan)
    text = shown(run.path)
    assert "the plan was written by another version of camaudit" in text
    assert "Suspects: 7" in text


def test_the_rows_of_the_parts_are_never_read(run: RunFolder, shown: Callable[..., str]) -> None:
    before = shown(run.path)
    for shard in range(3):
        run.part(shard).write_bytes(b"")
    assert shown(run.path) == before


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("analysis/suspects.parquet", b"PAR1", "suspects.parquet is damaged"),
        ("analysis/findings.parquet", b"", "findings.parquet is damaged"),
        ("plan.parquet", b"nothing", "plan.parquet is damaged"),
        ("run.json", b'{"state": ', "run.json is damaged"),
        ("run.json", b"[]", "run.json is damaged: it holds no object"),
        ("run.json", b"\xff\xfe", "run.json is damaged"),
    ],
)
def test_what_is_damaged_is_named(
    run: RunFolder, shown: Callable[..., str], file: str, content: bytes, words: str
) -> None:
    (run.path / file).write_bytes(content)
    assert words in shown(run.path, code=3)
    assert words in shown(run.path, "--json", code=3)


def test_a_table_of_another_version_is_named(run: RunFolder, shown: Callable[..., str]) -> None:
    rewrite(run, "suspects", lambda table: table.drop_columns(["reasons", "score"]))
    words = "suspects.parquet was written by another version: it lacks score, reasons"
    assert words in shown(run.path, code=1)


def test_a_path_that_is_no_run_is_named_with_the_runs_in_it(
    run: RunFolder, tmp_path: Path, shown: Callable[..., str]
) -> None:
    assert f"{tmp_path}/out is no run" in shown(tmp_path / "out", code=1)
    assert "; runs in it: audit" in shown(tmp_path / "out", code=1)
    assert "runs in it" not in shown(tmp_path, code=1)
    assert "no\\x1b[2J is no run" in shown(tmp_path / "no\x1b[2J", code=1)
    assert "run.json is no run" in shown(run.path / "run.json", code=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: RUN"),
        (["run", "--top", "0"], "'0' is no positive number"),
        (["run", "--top", "-3"], "--top"),
        (["run", "--csv", "--json"], "not allowed with"),
        (["run", "--table", "findings"], "--table goes with --csv"),
        (["run", "--csv", "--table", "classes", "--class", "dog"], "go with suspects"),
        (["run", "--csv", "--table", "members"], "'members'"),
        (["run", "--no\x1b"], "--no\\x1b"),
    ],
)
def test_wrong_options_end_with_1(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        show.main(arguments)
    assert ended.value.code == 1  # 2 is the gate's
    assert words in capsys.readouterr().err


def test_the_examples_of_help_and_readme_work(
    run: RunFolder,
    shown: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SystemExit) as ended:
        show.main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out + (ROOT / "README.md").read_text(encoding="utf-8")
    examples = re.findall("^ *(camaudit-show .*)", told, re.MULTILINE)
    assert Counter(line.split()[1] for line in examples)["outputs/audit"] >= 7
    run.path.parent.rename(run.path.parent.parent / "outputs")
    monkeypatch.chdir(run.path.parent.parent)
    rewrite(RunFolder(Path("outputs/audit")), "suspects", with_shirts)
    for line in examples:
        assert shown(*shlex.split(re.split("[|>#]", line)[0])[1:])


def with_shirts(suspects: pa.Table) -> pa.Table:
    """The same suspects, all labelled Shirt."""
    place = suspects.schema.get_field_index("label")
    return suspects.set_column(place, "label", [["Shirt"] * suspects.num_rows])


def test_the_command_imports_nothing_heavy(run: RunFolder) -> None:
    command = [sys.executable, "-X", "importtime", *COMMAND[1:], str(run.path)]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "Suspects: 7" in ended.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in ended.stderr.splitlines()}
    assert {"pyarrow", "rich"} <= imported
    heavy = {"torch", "hydra", "omegaconf", "cv2", "scipy", "sklearn", "jinja2", "matplotlib"}
    assert not imported & heavy


@pytest.mark.parametrize("arguments", [[], ["--csv"], ["--json"]])
def test_a_reader_that_has_gone_is_no_fault(run: RunFolder, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [*COMMAND, run.path, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": ""},  # what is left in the buffer counts
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert ended.returncode == 141  # as a shell tells SIGPIPE
    assert ended.stderr == b""


def test_what_the_locale_cannot_write_is_escaped_and_csv_is_utf_8(tmp_path: Path) -> None:
    path = finish(make_run(tmp_path, names=NASTY)).path
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    told = subprocess.run([*COMMAND, path], cwd=ROOT, capture_output=True, check=True, env=latin)
    assert "Größe \\u732b" in told.stdout.decode("latin-1")
    table = subprocess.run(
        [*COMMAND, path, "--csv"], cwd=ROOT, capture_output=True, check=True, env=latin
    )
    assert NASTY[2] in table.stdout.decode("utf-8")
