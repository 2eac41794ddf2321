"""A table is committed whole or not at all, and what is damaged or of another run never counts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from helpers.setups import resolved
from pipeline.errors import ConfigError, DataError, NotFinished
from pipeline.storage import atomic, parquet, run_folder, scan
from pipeline.storage.run_folder import Plan, RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.schema import plan_schema

SETUP = Setup(
    fingerprint="f" * 32,
    settings={"seed": 0, "dataset.root": "ü <b>"},
    resolved=resolved(4),
    class_names=["cat", "dog"],
    grid=(2, 3),
    embedding_dim=4,
    preprocess={"resize": 8, "crop": [8, 8]},
    n_images=10,
    shard_size=4,
    ignored={".txt": 2},
    warnings=["none"],
)


def part(setup: Setup, shard: int) -> pa.Table:
    """Rows as a shard has them, enough of them to fill a page."""
    rows = setup.rows(shard)
    x = np.random.default_rng(shard).random(len(rows))
    return pa.table({"index": list(rows), "image_id": [f"{i}.png" for i in rows], "x": x})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with all its parts."""
    folder = RunFolder(tmp_path / "run")
    for shard in range(SETUP.n_shards):
        run_folder.commit_part(folder, SETUP, shard, part(SETUP, shard))
    return folder


def files(folder: Path) -> list[str]:
    """Names of everything below a folder, hidden files too."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def page(path: Path, column: int) -> int:
    """Position of a byte amid the pages of a column."""
    found = pq.read_metadata(path).row_group(0).column(column)
    start = found.dictionary_page_offset or found.data_page_offset
    return int(start + found.total_compressed_size - 3)


def flip(path: Path, position: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


OLD, NEW = pa.table({"a": [1], "b": ["old"]}), pa.table({"a": [2, 3], "b": ["new", "newer"]})


class TestWrite:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "er" / "x.parquet"
        for table in (OLD, NEW):
            parquet.write(table, path)
            assert parquet.read(path).equals(table)
            assert files(tmp_path) == ["deep/er/x.parquet"]
        assert parquet.read(path, ["b"]).column_names == ["b"]

    def test_a_table_made_in_parts_is_read_by_a_column(self, tmp_path: Path) -> None:
        path = tmp_path / "x.parquet"
        parts = [pa.table({"a": [name] * 2, "b": [1, 2]}) for name in ("one", "two", "one")]
        parquet.write_groups(iter(parts), parts[0].schema, path)
        assert parquet.read(path).equals(pa.concat_tables(parts))
        groups = parquet.RowGroups.open(path, "a")
        assert groups.file.num_row_groups == 3
        assert groups.rows("two").equals(parts[1])
        assert groups.rows("one").equals(pa.concat_tables([parts[0], parts[2]]))
        parquet.write(pa.concat_tables(parts), path)  # in one group
        assert parquet.RowGroups.open(path, "a").rows("two").equals(parts[1])

    def test_a_table_without_parts_is_empty(self, tmp_path: Path) -> None:
        parquet.write_groups([], NEW.schema, tmp_path / "x.parquet")
        assert parquet.read(tmp_path / "x.parquet").equals(NEW.slice(0, 0))

    def test_damage_is_noticed_before_rows_are_read(self, tmp_path: Path) -> None:
        path = tmp_path / "x.parquet"
        with pytest.raises(NotFinished):
            parquet.RowGroups.open(path, "b")
        parquet.write(NEW, path)
        flip(path, page(path, 0))
        with pytest.raises(DataError, match=r"x\.parquet is damaged"):
            parquet.RowGroups.open(path, "b")

    def test_an_empty_table_and_metadata(self, tmp_path: Path) -> None:
        table = NEW.slice(0, 0).replace_schema_metadata({"k": "v"})
        parquet.write(table, tmp_path / "x.parquet")
        assert parquet.read(tmp_path / "x.parquet").schema.equals(table.schema, check_metadata=True)

    def test_a_folder_that_looks_like_a_partition(self, tmp_path: Path) -> None:
        path = tmp_path / "lr=3" / "x.parquet"
        parquet.write(NEW, path)
        assert parquet.read(path).equals(NEW)

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
    @pytest.mark.parametrize("step", ["open", "write", "read back", "flush", "rename"])
    def test_whatever_fails_the_old_file_stays(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
    ) -> None:
        path = tmp_path / "x.parquet"
        parquet.write(OLD, path)
        write_file = parquet._write_parquet

        def fail(*_args: Any, **_options: Any) -> Any:
            raise error

        def fail_halfway(tables: list[pa.Table], schema: pa.Schema, where: Path) -> None:
            write_file(tables, schema, where)
            where.write_bytes(where.read_bytes()[:50])
            raise error

        target: dict[str, tuple[Any, str, Callable[..., Any]]] = {
            "open": (parquet, "_write_parquet", fail),
            "write": (parquet, "_write_parquet", fail_halfway),
            "read back": (parquet, "read", fail),
            "flush": (os, "fsync", fail),
            "rename": (Path, "replace", fail),
        }
        with monkeypatch.context() as patch:
            patch.setattr(*target[step])
            with pytest.raises(type(error)) as caught:
                parquet.write(NEW, path)
        assert caught.value is error
        assert files(tmp_path) == ["x.parquet"]
        assert parquet.read(path).equals(OLD)

    @pytest.mark.parametrize("damage", ["page", "cut", "other"])
    def test_what_reads_back_otherwise_is_not_committed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
    ) -> None:
        path = tmp_path / "x.parquet"
        parquet.write(OLD, path)
        write_file = parquet._write_parquet

        def spoil(tables: list[pa.Table], schema: pa.Schema, where: Path) -> pa.Table:
            kept = [table.slice(1) if damage == "other" else table for table in tables]
            write_file(kept, schema, where)
            if damage == "page":
                flip(where, page(where, 1))
            elif damage == "cut":
                where.write_bytes(where.read_bytes()[:-1])
            return pa.concat_tables(tables)

        monkeypatch.setattr(parquet, "_write_parquet", spoil)
        with pytest.raises(DataError, match=r"x\.parquet"):
            parquet.write(NEW, path)
        assert files(tmp_path) == ["x.parquet"]
        assert parquet.read(path).equals(OLD)

    def test_nothing_is_seen_before_it_is_flushed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "x.parquet"
        steps: list[tuple[str, bool]] = []
        rename = Path.replace

        def noted_rename(source: Path, target: Path) -> Path:
            steps.append(("rename", path.exists()))
            return rename(source, target)

        monkeypatch.setattr(atomic, "sync", lambda p: steps.append((p.name, path.exists())))
        monkeypatch.setattr(Path, "replace", noted_rename)
        parquet.write(NEW, path)
        draft = f".x.parquet.{os.getpid()}.tmp"
        assert steps == [(draft, False), ("rename", False), (tmp_path.name, True)]

    def test_a_killed_writer_leaves_a_draft_that_is_swept(self, run: RunFolder) -> None:
        code = (
            "import os, sys; from pathlib import Path; import pyarrow as pa\n"
            "from pipeline.storage import atomic, parquet\n"
            "atomic.sync = lambda path: os.kill(os.getpid(), 9)\n"
            "parquet.write(pa.table({'a': [1]}), Path(sys.argv[1]))"
        )
        before, path = files(run.path), run.part(0)
        old = path.read_bytes()
        for target in (path, run.plan, run.analysis("findings")):
            assert (
                subprocess.run([sys.executable, "-c", code, target], check=False).returncode == -9
            )
        assert path.read_bytes() == old
        drafts = set(files(run.path)) - set(before)
        assert sorted(Path(draft).name.rsplit(".", 2)[0] for draft in drafts) == [
            ".findings.parquet",
            ".part-00000.parquet",
            ".plan.parquet",
        ]
        assert run_folder.missing_shards(run, SETUP) == []
        assert run_folder.rows(run, SETUP).to_table().num_rows == 10
        run_folder.sweep(run)
        assert files(run.path) == before


class TestRead:
    def test_not_there_yet(self, tmp_path: Path) -> None:
        with pytest.raises(NotFinished, match=r"x\.parquet is not there yet"):
            parquet.read(tmp_path / "x.parquet")

    @pytest.mark.parametrize("column", [0, 1, 2])
    def test_a_flipped_bit_is_noticed(self, run: RunFolder, column: int) -> None:
        flip(run.part(1), page(run.part(1), column))
        with pytest.raises(DataError, match=r"part-00001\.parquet is damaged: its bytes are not"):
            parquet.read(run.part(1))

    def test_a_file_cut_anywhere_is_noticed(self, run: RunFolder) -> None:
        data = run.part(0).read_bytes()
        for length in range(0, len(data), 61):
            run.part(0).write_bytes(data[:length])
            with pytest.raises(DataError, match=r"part-00000\.parquet is damaged"):
                parquet.read(run.part(0))

    def test_a_damaged_footer_raises_nothing_else(self, run: RunFolder) -> None:
        data = run.part(0).read_bytes()
        footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        for position in range(footer, len(data), 7):
            run.part(0).write_bytes(data)
            flip(run.part(0), position)
            try:  # the footer has no checksum: what still makes sense is taken
                parquet.read(run.part(0))
            except DataError as error:
                assert "part-00000.parquet" in str(error)
            run_folder.is_committed(run, SETUP, 0)


class TestPlan:
    TABLE = pa.Table.from_pylist(
        [{"index": 0, "image_id": "a", "label_index": 1, "label": "dog", "shard": 0}],
        plan_schema(),
    )

    def test_the_setup_comes_back(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path)
        run_folder.write_plan(run, Plan(self.TABLE, SETUP))
        plan = run_folder.read_plan(run)
        assert plan.setup == SETUP
        assert plan.table.equals(self.TABLE)
        footer = run_folder.read_plan(run, columns=[])
        assert (footer.setup, footer.table.column_names) == (SETUP, [])
        assert SETUP.n_shards == 3
        assert SETUP.resolved.batch_size == 4
        assert [list(SETUP.rows(shard)) for shard in (0, 2)] == [[0, 1, 2, 3], [8, 9]]

    @pytest.mark.parametrize(
        "metadata",
        [None, {"camaudit": "no json"}, {"camaudit": "[1]"}, {"camaudit": '{"grid": [1, 2]}'}],
    )
    def test_a_plan_of_another_version(
        self, tmp_path: Path, metadata: dict[str, str] | None
    ) -> None:
        run = RunFolder(tmp_path)
        parquet.write(self.TABLE.replace_schema_metadata(metadata), run.plan)
        with pytest.raises(ConfigError, match=r"plan\.parquet .*start a new run_id"):
            run_folder.read_plan(run)

    def test_no_plan(self, tmp_path: Path) -> None:
        with pytest.raises(NotFinished, match="plan"):
            run_folder.read_plan(RunFolder(tmp_path))


class TestParts:
    def test_a_finished_run(self, run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
        assert files(run.path) == [f"parts/part-0000{shard}.parquet" for shard in range(3)]
        assert run_folder.missing_shards(run, SETUP) == []
        table = run_folder.rows(run, SETUP).to_table()
        assert table["index"].to_pylist() == list(range(10))
        assert Setup.from_metadata(pq.read_schema(run.part(2)).metadata) == SETUP
        assert caplog.text == ""

    @pytest.mark.parametrize(
        "rows",
        [[0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 3, 2], [4, 5, 6, 7], [0, 1, 1, 3], [], [None] * 4],
    )
    def test_rows_that_are_not_planned_are_refused(
        self, tmp_path: Path, rows: list[int | None]
    ) -> None:
        run = RunFolder(tmp_path)
        with pytest.raises(DataError, match="shard 0"):
            run_folder.commit_part(run, SETUP, 0, pa.table({"index": pa.array(rows, pa.int64())}))
        assert files(tmp_path) == []

    def test_a_part_that_is_missing(self, run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
        run.part(1).unlink()
        assert run_folder.missing_shards(run, SETUP) == [1]
        assert caplog.text == ""  # nothing is wrong with it
        with pytest.raises(NotFinished, match=r"1 of 3 parts .*part-00001.*explain"):
            run_folder.rows(run, SETUP)

    def test_a_part_of_another_run(self, run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
        other = replace(SETUP, fingerprint="0" * 32)
        run_folder.commit_part(run, other, 1, part(other, 1))
        assert run_folder.missing_shards(run, SETUP) == [1]
        assert run_folder.missing_shards(run, other) == [0, 2]
        assert "part-00001.parquet does not belong" in caplog.text

    def test_a_part_of_another_place_or_length(self, run: RunFolder) -> None:
        run.part(1).write_bytes(run.part(0).read_bytes())
        assert run_folder.missing_shards(run, SETUP) == [1]
        for shard_size in (3, 5):
            other = replace(SETUP, shard_size=shard_size)
            assert run_folder.missing_shards(run, other) == list(range(other.n_shards))

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda path: path.write_bytes(path.read_bytes()[:-9]),
            lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(b"PAR1" * 9),
            lambda path: pq.write_table(part(SETUP, 1), path),  # no setup
            lambda path: pq.write_table(
                part(SETUP, 1).replace_schema_metadata(SETUP.to_metadata()),
                path,
                write_statistics=False,
            ),
        ],
    )
    def test_a_part_that_is_damaged_is_computed_again(
        self, run: RunFolder, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
    ) -> None:
        spoil(run.part(1))
        assert not run_folder.is_committed(run, SETUP, 1)
        assert "part-00001.parquet" in caplog.text
        assert run_folder.missing_shards(run, SETUP) == [1]
        run_folder.commit_part(run, SETUP, 1, part(SETUP, 1))
        assert run_folder.missing_shards(run, SETUP) == []

    def test_a_folder_in_the_place_of_a_part(self, run: RunFolder) -> None:
        run.part(1).unlink()
        run.part(1).mkdir()
        assert run_folder.missing_shards(run, SETUP) == [1]

    @pytest.mark.parametrize("scan", ["to_table", "to_batches"])
    def test_a_damaged_page_is_named_by_its_part(self, run: RunFolder, scan: str) -> None:
        column = part(SETUP, 1).column_names.index("x")
        flip(run.part(1), page(run.part(1), column))
        rows = run_folder.rows(run, SETUP)  # footers alone do not tell
        with pytest.raises(DataError, match=r"part-00001\.parquet is damaged"):
            list(getattr(rows, scan)(columns=["x"]))
        assert rows.to_table(columns=["index"]).num_rows == 10

    def test_a_scan_that_fails_though_no_part_is_damaged(self, run: RunFolder) -> None:
        with pytest.raises(DataError, match=r"parts cannot be read: .*nope"):
            run_folder.rows(run, SETUP).to_table(columns=["nope"])

    def test_rows_are_filtered_and_selected(self, run: RunFolder) -> None:
        rows = run_folder.rows(run, SETUP)
        wanted = ds.field("index") >= 7
        assert rows.to_table(columns=["index"], filter=wanted).to_pydict() == {"index": [7, 8, 9]}
        batches = rows.to_batches(columns=["image_id"], filter=wanted)
        names = [name for batch in batches for name in batch["image_id"].to_pylist()]
        assert names == ["7.png", "8.png", "9.png"]

    @pytest.mark.parametrize("ahead", [1, 2, 16])
    def test_rows_at_positions_come_from_their_parts_alone(
        self, run: RunFolder, ahead: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scan, "PARTS_AHEAD", ahead)
        rows = run_folder.rows(run, SETUP)
        assert rows.to_table(columns=["index"])["index"].to_pylist() == list(range(10))
        for wanted in ([], [5], [9, 0, 4, 3], list(range(10))):
            found = rows.at(np.array(wanted, np.int64), ["index", "x"])
            there = [part(SETUP, i // 4)["x"][i % 4].as_py() for i in sorted(wanted)]
            assert found.to_pydict() == {"index": sorted(wanted), "x": there}
        run.part(1).unlink()
        assert rows.at(np.array([9, 0]), ["index"])["index"].to_pylist() == [0, 9]

    def test_a_plan_is_scanned_as_parts_are(self, run: RunFolder) -> None:
        table = pa.table({"index": list(range(5)), "image_id": list("abcde")})
        run_folder.write_plan(run, Plan(table, SETUP))
        plan = run_folder.planned(run)
        assert plan.schema.names == ["index", "image_id"]
        assert plan.at(np.array([4, 1]), ["image_id"])["image_id"].to_pylist() == ["b", "e"]


class TestSweep:
    def test_nothing_but_drafts_goes(self, run: RunFolder) -> None:
        kept = [
            "run.json",
            ".lock",
            "parts/.keep",
            "x.tmp",
            "parts/part-00009.parquet.tmp",
            "report/.x.tmp",
            "report/deep/.y.tmp",
            "attempts/1/.z.tmp",
            ".hidden/.a.tmp",
        ]
        gone = [".run.json.7.tmp", "parts/.part-00001.parquet.7.tmp", "analysis/.x.parquet.1.tmp"]
        for name in [*kept, *gone]:
            path = run.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        before = files(run.path)
        run_folder.sweep(run)
        assert files(run.path) == sorted(set(before) - set(gone))

    def test_a_folder_without_a_run(self, tmp_path: Path) -> None:
        run_folder.sweep(RunFolder(tmp_path / "no"))
        assert files(tmp_path) == []
