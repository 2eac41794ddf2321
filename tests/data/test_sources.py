"""Every kind of dataset becomes the same thing, and whatever is wrong with one is said by name."""

from __future__ import annotations

import datetime as dt
import io
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image

from helpers.bad_files import BAD_KINDS, CHART, GOOD_KINDS
from pipeline.config import (
    CustomDataset,
    HuggingFaceDataset,
    ImageFolder,
    Manifest,
    TorchvisionDataset,
)
from pipeline.data import huggingface
from pipeline.data.datasets import open_source
from pipeline.data.decode import DecodeError
from pipeline.data.source import (
    Source,
    box_mask,
    class_labels,
    distinct_labels,
    number_duplicates,
    object_mask,
    printable,
)
from pipeline.errors import ConfigError, DataError

PIXELS = 10**6
SHAPE = (3, 4)  # of every picture, rows and columns, unless a test says otherwise


def encoded(level: int) -> bytes:
    """A flat grey PNG that is known again by its level."""
    stream = io.BytesIO()
    Image.new("L", SHAPE[::-1], level).save(stream, "PNG")
    return stream.getvalue()


def put(path: Path, level: int = 0) -> Path:
    """Write such a picture, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(level))
    return path


def levels(source: Source) -> list[int]:
    """The levels of a source's pictures, in order."""
    return [int(source.read(index).pixels[0, 0, 0]) for index in range(len(source.image_ids))]


def refused(config: Any, kind: type[Exception], *parts: str) -> str:
    """The message of an error that names all of the parts, in no more than a line each."""
    with pytest.raises(kind) as caught:
        open_source(config, PIXELS)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    return str(caught.value)


class TestImageFolder:
    def test_first_level_is_the_label(self, tmp_path: Path) -> None:
        for level, name in enumerate(
            ("b/2.png", "b/10.png", "a/deep/er/1.JPG", "0.png", "a b/1.Tif")
        ):
            put(tmp_path / name, level)
        source = open_source(ImageFolder(root=str(tmp_path)), PIXELS)
        assert source.image_ids == ["0.png", "a b/1.Tif", "a/deep/er/1.JPG", "b/10.png", "b/2.png"]
        assert source.labels == [None, "a b", "a", "b", "b"]
        assert source.class_names == ["a", "a b", "b"]
        assert levels(source) == [3, 4, 2, 1, 0]
        assert source.ignored == {}
        assert source.warnings == []
        assert source.metadata is None

    def test_without_folders_nothing_is_labelled(self, tmp_path: Path) -> None:
        put(tmp_path / "1.png")
        source = open_source(ImageFolder(root=str(tmp_path)), PIXELS)
        assert (source.labels, source.class_names) == ([None], None)

    def test_order_does_not_depend_on_the_file_system(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("b/1.png", "a/2.png", "a/1.png", "c.png", "x.txt", "y.md"):
            put(tmp_path / name)
        there = open_source(ImageFolder(root=str(tmp_path)), PIXELS)
        scandir = os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: reversed(list(scandir(path))))
        back = open_source(ImageFolder(root=str(tmp_path)), PIXELS)
        assert there.image_ids == back.image_ids == ["a/1.png", "a/2.png", "b/1.png", "c.png"]
        assert list(there.ignored) == list(back.ignored)

    def test_odd_names(self, tmp_path: Path) -> None:
        names = ["a b.png", "ünï ⚠.png", '<b>&".png', "new\nline.png", "'$(x)`.png", "-.png"]
        for level, name in enumerate(names):
            put(tmp_path / "<i>k" / name, level)
        source = open_source(ImageFolder(root=str(tmp_path)), PIXELS)
        assert source.labels == ["<i>k"] * len(names)
        assert dict(zip(source.image_ids, levels(source), strict=True)) == {
            f"<i>k/{name}": level for level, name in enumerate(names)
        }

    def test_names_that_are_no_utf8(self, tmp_path: Path) -> None:
        folder = os.fsencode(tmp_path) + b"/k\xff"
        os.mkdir(folder)  # noqa: PTH102 - bytes
        with open(folder + b"/\xfe.png", "wb") as file:  # noqa: PTH123
            file.write(encoded(7))
        with open(folder + b"/x.\xfd", "wb"):  # noqa: PTH123
            pass
        source = open_source(ImageFolder(root=str(tmp_path)), PIXELS)
        assert source.image_ids == ["k\\udcff/\\udcfe.png"]
        assert source.labels == ["k\\udcff"]
        assert levels(source) == [7]
        pa.array([*source.image_ids, *source.ignored])  # Arrow takes nothing but UTF-8

    def test_links_are_followed_but_not_in_circles(self, tmp_path: Path) -> None:
        put(tmp_path / "far" / "1.png", 1)
        put(tmp_path / "root" / "a" / "2.png", 2)
        root = tmp_path / "root"
        (root / "a" / "up").symlink_to(root)
        (root / "a" / "self").symlink_to(".")
        (root / "b").symlink_to(tmp_path / "far")
        (root / "c").symlink_to("a")  # a second name for a folder is a second class
        (root / "d.png").symlink_to(tmp_path / "far" / "1.png")
        (root / "e.png").symlink_to("nothing")
        (root / "f.png").symlink_to("f.png")
        source = open_source(ImageFolder(root=str(root)), PIXELS)
        assert source.image_ids == ["a/2.png", "b/1.png", "c/2.png", "d.png", "e.png", "f.png"]
        for index in (4, 5):
            with pytest.raises(DecodeError, match="cannot be read"):
                source.read(index)

    def test_what_is_no_image_is_counted(self, tmp_path: Path) -> None:
        for name in ("a/1.png", "a/x.txt", "y.TXT", "README", "a/.hidden.png", ".git/1.png"):
            put(tmp_path / name)
        source = open_source(ImageFolder(root=str(tmp_path)), PIXELS)
        assert source.image_ids == ["a/1.png"]
        assert source.ignored == {".txt": 2, "without suffix": 1}

    def test_a_folder_without_images_is_told_and_is_no_class(self, tmp_path: Path) -> None:
        put(tmp_path / "a" / "1.png")
        (tmp_path / "empty" / "deep").mkdir(parents=True)
        put(tmp_path / "<notes>" / "x.txt")
        (tmp_path / ".hidden").mkdir()
        source = open_source(ImageFolder(root=str(tmp_path)), PIXELS)
        assert source.class_names == ["a"]
        assert source.warnings == ["2 folders without an image are no classes: <notes>, empty"]
        for number in range(10, 20):
            (tmp_path / str(number)).mkdir()
        (note,) = open_source(ImageFolder(root=str(tmp_path)), PIXELS).warnings
        assert note.startswith("12 folders")
        assert note.endswith(": 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, ...")

    def test_nothing_to_audit(self, tmp_path: Path) -> None:
        refused(ImageFolder(root=str(tmp_path)), DataError, f"no images in {tmp_path}")
        put(tmp_path / "a" / "x.txt")
        put(tmp_path / "b" / "y.txt")
        put(tmp_path / "c" / "z")
        told = refused(ImageFolder(root=str(tmp_path)), DataError, str(tmp_path))
        assert told.endswith("(ignored: 2 .txt, 1 without suffix)")

    @pytest.mark.parametrize("name", ["missing", "file.png"])
    def test_root_is_no_folder(self, tmp_path: Path, name: str) -> None:
        put(tmp_path / "file.png")
        refused(ImageFolder(root=str(tmp_path / name)), ConfigError, "dataset.root", name)

    def test_a_folder_that_cannot_be_listed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(tmp_path / "a" / "1.png")
        scandir = os.scandir

        def guarded(path: Path) -> Any:
            if path == tmp_path / "a":
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", guarded)
        refused(
            ImageFolder(root=str(tmp_path)), DataError, str(tmp_path / "a"), "Permission denied"
        )

    def test_every_kind_of_file_is_read_or_says_why_not(self, tmp_path: Path) -> None:
        bad = {k: w for k, w in BAD_KINDS.items() if k != "link_to_folder"}
        for folder, kinds in (("bad", bad), ("good", GOOD_KINDS)):
            (tmp_path / folder).mkdir()
            for kind, write in kinds.items():
                write(tmp_path / folder / f"{kind}.jpg")
        source = open_source(ImageFolder(root=str(tmp_path)), PIXELS)
        assert source.labels == ["bad"] * len(bad) + ["good"] * len(GOOD_KINDS)
        for index, label in enumerate(source.labels):
            if label == "good":
                assert source.read(index).pixels.shape == CHART.shape
            else:
                with pytest.raises(DecodeError):
                    source.read(index)


class TestManifest:
    @staticmethod
    def csv(tmp_path: Path, text: str | bytes, **settings: Any) -> Manifest:
        path = tmp_path / "list.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Manifest(path=str(path), **settings)

    @staticmethod
    def parquet(tmp_path: Path, columns: dict[str, Any], **settings: Any) -> Manifest:
        path = tmp_path / "list.parquet"
        pq.write_table(pa.table(columns), path)
        return Manifest(path=str(path), **settings)

    def test_csv(self, tmp_path: Path) -> None:
        put(tmp_path / "x 1.png", 1)
        put(tmp_path / "sub" / "ü.png", 2)
        absolute = put(tmp_path / "far" / "3.png", 3)
        config = self.csv(tmp_path, f"label,path\n007, x 1.png\nNA,sub/ü.png\n,{absolute}\n")
        config.root = str(tmp_path)
        source = open_source(config, PIXELS)
        assert source.image_ids == [" x 1.png", "sub/ü.png", str(absolute)]
        assert source.labels == ["007", "NA", None]
        assert source.class_names == ["007", "NA"]
        with pytest.raises(DecodeError):  # a name is taken as it stands
            source.read(0)
        assert [int(source.read(i).pixels[0, 0, 0]) for i in (1, 2)] == [2, 3]

    def test_root_is_the_manifests_folder_unless_given(self, tmp_path: Path) -> None:
        put(tmp_path / "1.png", 1)
        put(tmp_path / "other" / "1.png", 2)
        config = self.csv(tmp_path, "path,label\n1.png,a\n")
        assert levels(open_source(config, PIXELS)) == [1]
        config.root = str(tmp_path / "other")
        assert levels(open_source(config, PIXELS)) == [2]
        config.root = str(tmp_path / "nowhere")
        refused(config, ConfigError, "dataset.root", "nowhere")

    @pytest.mark.parametrize(
        "text",
        [
            "path,label\na,b\n",
            "\ufeffpath,label\r\na,b\r\n",
            "path;label\na;b\n",
            "path\tlabel\na\tb\n",
            '"path","label"\n"a","b"',
        ],
    )
    def test_ways_to_write_a_csv(self, tmp_path: Path, text: str) -> None:
        source = open_source(self.csv(tmp_path, text), PIXELS)
        assert (source.image_ids, source.labels) == (["a"], ["b"])

    def test_cells_with_quotes_separators_and_lines(self, tmp_path: Path) -> None:
        text = 'path,label\n"a,b.png","say ""hi"""\n"c\nd.png",x\n'
        source = open_source(self.csv(tmp_path, text), PIXELS)
        assert source.image_ids == ["a,b.png", "c\nd.png"]
        assert source.labels == ['say "hi"', "x"]

    def test_csv_columns_travel_with_the_type_of_all_their_rows(self, tmp_path: Path) -> None:
        rows = [f"{i}.png,a,{i},{i / 2},2024-01-{1 + i % 28:02d},true,," for i in range(100_000)]
        text = "path,label,n,x,day,flag,empty,late\n" + "\n".join(rows) + "\nlast,a,,,,,,word\n"
        assert len(text) > 3 << 20  # pyarrow would tell types from the first MiB
        metadata = open_source(self.csv(tmp_path, text), PIXELS).metadata
        assert metadata is not None
        assert metadata.schema == pa.schema(
            {
                "n": pa.int64(),
                "x": pa.float64(),
                "day": pa.date32(),
                "flag": pa.bool_(),
                "empty": pa.null(),
                "late": pa.string(),
            }
        )
        assert metadata.slice(99_999).to_pylist() == [
            {"n": 99_999, "x": 49999.5, "day": dt.date(2024, 1, 12), "flag": True}
            | {"empty": None, "late": ""},
            {"n": None, "x": None, "day": None, "flag": None, "empty": None, "late": "word"},
        ]

    def test_the_index_that_pandas_writes(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"path": ["a", "b"], "label": [1, 2]})
        frame.to_csv(tmp_path / "list.csv")
        source = open_source(Manifest(path=str(tmp_path / "list.csv")), PIXELS)
        assert source.metadata is not None
        assert source.metadata.to_pydict() == {"": [0, 1]}

    @pytest.mark.parametrize(
        ("labels", "expected"),
        [
            (["007", "7", ""], ["007", "7", None]),
            ([3, None, -1], ["3", None, "-1"]),
            ([3.0, None, float("nan")], ["3", None, None]),
            ([3.5, 10.0, 0.0], ["3.5", "10", "0"]),
            ([True, False, None], ["True", "False", None]),
            ([" cat", "dog ", " "], ["cat", "dog", None]),
            (pa.array(["a", None, "b"]).dictionary_encode(), ["a", None, "b"]),
            (pa.array([3, None, 4]).dictionary_encode(), ["3", None, "4"]),
            (pa.array([b"a", b"\xff", None]), ["a", "\\xff", None]),
            (pa.array(["a", "b", None], pa.large_string()), ["a", "b", None]),
            (pa.nulls(3), [None, None, None]),
        ],
    )
    def test_labels(self, tmp_path: Path, labels: Any, expected: list[str | None]) -> None:
        config = self.parquet(tmp_path, {"path": ["a", "b", "c"], "label": labels})
        source = open_source(config, PIXELS)
        assert source.labels == expected
        assert set(source.class_names or []) == set(expected) - {None}

    def test_categories_of_pandas(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"p": pd.Categorical(["x", "y"]), "l": pd.Categorical([2.0, None])})
        frame.to_parquet(tmp_path / "list.parquet")
        config = Manifest(path=str(tmp_path / "list.parquet"), path_column="p", label_column="l")
        source = open_source(config, PIXELS)
        assert (source.image_ids, source.labels) == (["x", "y"], ["2", None])

    def test_parquet_columns_travel_as_they_are(self, tmp_path: Path) -> None:
        extra = pa.table(
            {
                "when": pa.array([dt.datetime(2024, 1, 2, 3), None], pa.timestamp("us", "UTC")),
                "tags": [["a", "b"], None],
                "where": [{"lat": 1.5}, {"lat": None}],
                "kind": pa.array(["x", "y"]).dictionary_encode(),
                "none": pa.nulls(2),
            }
        )
        columns = dict(zip(extra.column_names, extra.columns, strict=True))
        config = self.parquet(tmp_path, {"path": ["a", "b"], "label": ["c", "d"], **columns})
        assert open_source(config, PIXELS).metadata == extra

    def test_a_folder_that_looks_like_a_partition(self, tmp_path: Path) -> None:
        (tmp_path / "lr=3").mkdir()
        config = self.parquet(tmp_path / "lr=3", {"path": ["a"], "label": ["b"]})
        assert open_source(config, PIXELS).metadata is None

    def test_without_labels(self, tmp_path: Path) -> None:
        config = self.csv(tmp_path, "path,label\na,b\n", label_column=None)
        source = open_source(config, PIXELS)
        assert (source.labels, source.class_names) == ([None], None)
        assert source.metadata is not None
        assert source.metadata.column_names == ["label"]
        source = open_source(self.csv(tmp_path, "path\na\n", label_column=None), PIXELS)
        assert source.metadata is None

    @pytest.mark.parametrize("key", ["path_column", "label_column", "mask_column"])
    def test_a_column_that_is_not_there(self, tmp_path: Path, key: str) -> None:
        config = self.csv(tmp_path, "path,label\na,b\n", **{key: "nope"})
        told = refused(config, ConfigError, f"dataset.{key}", "list.csv", "'nope'", "path, label")
        assert ("null if there are no labels" in told) == (key == "label_column")

    @pytest.mark.parametrize(
        ("columns", "key"),
        [
            ({"path": [["a"]], "label": ["x"]}, "dataset.path_column: 'path' holds list"),
            ({"path": ["a"], "label": [["x", "y"]]}, "dataset.label_column: 'label' holds list"),
            ({"path": ["a"], "label": [{"x": 1}]}, "dataset.label_column: 'label' holds struct"),
            (
                {"path": ["a"], "label": [dt.date(2024, 1, 1)]},
                "dataset.label_column: 'label' holds",
            ),
        ],
    )
    def test_a_column_of_no_use(self, tmp_path: Path, columns: dict[str, Any], key: str) -> None:
        refused(self.parquet(tmp_path, columns), ConfigError, key)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (b"", "Empty CSV file"),
            (b"path,label\na,b,c\n", "Expected 2 columns, got 3"),
            (b"path,label\n\xff,b\n", "invalid UTF8"),
            ("path,label\na,b\n".encode("utf-16"), "cannot be read"),
            (b"path,label,x,x\na,b,c,d\n", "columns of the same name: x"),
            (b'path,label\n"a,b\n', "cannot be read"),
        ],
    )
    def test_a_broken_csv(self, tmp_path: Path, text: bytes, said: str) -> None:
        refused(self.csv(tmp_path, text), ConfigError, "dataset.path", "list.csv", said)

    def test_a_table_that_is_not_there_or_not_what_its_name_says(self, tmp_path: Path) -> None:
        refused(Manifest(path=str(tmp_path / "no.csv")), ConfigError, "dataset.path", "no.csv")
        refused(Manifest(path=str(tmp_path)), ConfigError, "dataset.path", str(tmp_path))
        put(tmp_path / "x.parquet")
        refused(Manifest(path=str(tmp_path / "x.parquet")), ConfigError, "x.parquet cannot be read")

    def test_rows_that_cannot_be_planned(self, tmp_path: Path) -> None:
        twice = self.csv(tmp_path, "path,label\na,1\nb,2\na,3\nc,4\nc,4\n")
        told = refused(twice, DataError, "'a', 'c'")
        assert told.startswith("2 image ids")
        refused(
            self.csv(tmp_path, "path,label\na,1\n,2\n"), DataError, "list.csv: row 2 has no path"
        )
        gap = self.parquet(tmp_path, {"path": ["a", "b", None], "label": [1, 2, 3]})
        refused(gap, DataError, "list.parquet: row 3 has no path")
        refused(self.csv(tmp_path, "path,label\n"), DataError, "no images in", "list.csv")

    def test_many_duplicates_are_not_all_named(self, tmp_path: Path) -> None:
        lines = "".join(f"{i},x\n{i},x\n" for i in range(100))
        told = refused(
            self.csv(tmp_path, "path,label\n" + lines), DataError, "100 image ids", "..."
        )
        assert len(told) < 150

    def test_boxes(self, tmp_path: Path) -> None:
        text = "path,label,l,t,r,b\n"
        boxes = [
            "1,0,3,2",
            ",,,",
            "-5,-5,99,99",
            "1,1,,",
            "3,0,1,2",
            "9,9,12,12",
            "nan,nan,nan,nan",
        ]
        for number, box in enumerate(boxes):
            put(tmp_path / f"{number}.png")
            text += f"{number}.png,x,{box}\n"
        config = self.csv(tmp_path, text, box_columns=["l", "t", "r", "b"])
        source = open_source(config, PIXELS)
        assert source.metadata is None
        expected = np.zeros(SHAPE, np.uint8)
        expected[0:2, 1:3] = 255
        marked = source.read(0).object
        assert marked is not None
        assert np.array_equal(marked, expected)
        assert source.read(1).object is None
        marked = source.read(2).object
        assert marked is not None
        assert marked.min() == 255
        for index, said in ((3, r"\(1, 1, null, null\)"), (4, "empty"), (5, "outside the 4 x 3")):
            with pytest.raises(DecodeError, match=f"its box .*{said}"):
                source.read(index)
        assert source.read(6).object is None

    @pytest.mark.parametrize(
        ("boxes", "said"),
        [(["x0", "y0", "x1"], "four columns"), (["x0", "y0", "x1", "no"], "no column 'no'")],
    )
    def test_box_columns_that_cannot_be_used(
        self, tmp_path: Path, boxes: list[str], said: str
    ) -> None:
        config = self.csv(tmp_path, "path,label,x0,y0,x1\na,b,1,2,3\n", box_columns=boxes)
        refused(config, ConfigError, "dataset.box_columns", said)

    def test_boxes_that_are_no_numbers(self, tmp_path: Path) -> None:
        text = "path,label,x0,y0,x1,y1\na,b,1,2,3,4\nc,d,1,2,3,four\n"
        config = self.csv(tmp_path, text, box_columns=["x0", "y0", "x1", "y1"])
        refused(config, ConfigError, "dataset.box_columns", "four")

    def test_masks(self, tmp_path: Path) -> None:
        marked = np.zeros(SHAPE, np.uint8)
        marked[1, 2] = 1
        Image.fromarray(marked).save(tmp_path / "m1.png")
        Image.fromarray(marked.T.copy()).save(tmp_path / "m2.png")
        text = "path,label,mask\n1.png,x,m1.png\n2.png,x,m2.png\n3.png,x,no.png\n4.png,x,\n"
        for number in range(1, 5):
            put(tmp_path / f"{number}.png")
        source = open_source(self.csv(tmp_path, text, mask_column="mask"), PIXELS)
        mask = source.read(0).object
        assert mask is not None
        assert np.array_equal(mask, marked * np.uint8(255))
        with pytest.raises(DecodeError, match=r"its mask has shape \(4, 3\), the image \(3, 4\)"):
            source.read(1)
        with pytest.raises(DecodeError, match=r"its mask .*no\.png: cannot be read"):
            source.read(2)
        assert source.read(3).object is None


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """The format of MNIST's files (http://yann.lecun.com/exdb/mnist)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """FashionMNIST's own files, with 12 images to train and 7 to test."""
    raw = tmp_path / "FashionMNIST" / "raw"
    for name, count in (("train", 12), ("t10k", 7)):
        images = np.repeat(np.arange(count, dtype=np.uint8), 28 * 28).reshape(count, 28, 28)
        write_idx(raw / f"{name}-images-idx3-ubyte", images)
        write_idx(raw / f"{name}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    return tmp_path


class Split(torchvision.datasets.VisionDataset):  # type: ignore[misc]
    """As STL10 and SVHN: a split, labels in an array, one image without a label."""

    classes = ("cat", "dog")

    def __init__(self, root: str, split: str = "train") -> None:
        super().__init__(root)
        if split not in ("train", "test"):
            raise ValueError(f"Unknown value '{split}' for argument split.")
        self.labels = np.array([1, -1, 0])

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("L", (4, 4), index), int(self.labels[index])


class Hidden(Split):
    """As Food101 and Flowers102: labels under a private name, and reading an image costs."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._labels = [0, 1, 1]
        del self.labels

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        assert index == 0, "labels were read from the items"
        return super().__getitem__(index)


class Fetched(Split):
    """As MNIST: train or not, and files that can be fetched."""

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        super().__init__(root)
        self.labels = np.array([int(train), int(download), 0])


class Segmentation(Split):
    """As VOCSegmentation: targets are the paths of the masks."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.targets = ["a.png", "b.png", "c.png"]

    def __getitem__(self, index: int) -> Any:
        return Image.new("L", (4, 4)), Image.new("L", (4, 4))


class Detection(Split):
    """As Kitti: a target is a list of boxes."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        del self.labels

    def __getitem__(self, index: int) -> Any:
        return Image.new("L", (4, 4)), [{"bbox": [0, 0, 1, 1]}]


class Attributes(Detection):
    """As CelebA: a target is forty answers."""

    def __getitem__(self, index: int) -> Any:
        return Image.new("L", (4, 4)), torch.zeros(40)


class TestTorchvision:
    def test_fashion_mnist_from_its_files(self, fashion: Path) -> None:
        for split, count in (("train", 12), ("test", 7)):
            config = TorchvisionDataset(name="FashionMNIST", root=str(fashion), split=split)
            source = open_source(config, PIXELS)
            assert source.image_ids == [f"{index:08d}" for index in range(count)]
            assert source.class_names is not None
            assert source.class_names[:2] == ["T-shirt/top", "Trouser"]
            assert len(source.class_names) == 10
            assert source.labels == [source.class_names[index % 10] for index in range(count)]
            assert levels(source) == list(range(count))
            assert source.read(0).pixels.shape == (28, 28, 3)

    def test_files_that_are_missing_or_damaged(self, fashion: Path) -> None:
        config = TorchvisionDataset(name="FashionMNIST", root=str(fashion / "no"))
        refused(
            config,
            DataError,
            "FashionMNIST",
            str(fashion / "no"),
            "not found",
            "dataset.download=true",
        )
        config.root = str(fashion)
        path = fashion / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte"
        path.write_bytes(path.read_bytes()[:1000])
        refused(config, DataError, "dataset.root", str(fashion), "invalid for input of size")
        path.write_bytes(b"")
        refused(config, DataError, "dataset.root", str(fashion))

    def test_a_split_that_is_not_there(
        self, fashion: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = TorchvisionDataset(name="FashionMNIST", root=str(fashion), split="val")
        refused(config, ConfigError, "dataset.split", "FashionMNIST", "train and test", "'val'")
        monkeypatch.setattr(torchvision.datasets, "Split", Split, raising=False)
        config = TorchvisionDataset(name="Split", root=".", split="val")
        refused(config, ConfigError, "dataset.split", "Split", "'val'")

    @pytest.mark.parametrize("name", ["FashonMNIST", "utils", "VisionDatset", "os"])
    def test_a_name_that_is_not_there(self, name: str) -> None:
        told = refused(TorchvisionDataset(name=name, root="."), ConfigError, "dataset.name", name)
        assert ("FashionMNIST" in told) == (name == "FashonMNIST")

    @pytest.mark.parametrize("name", ["CocoDetection", "FakeData", "DatasetFolder"])
    def test_a_dataset_that_needs_more(self, name: str) -> None:
        config = TorchvisionDataset(name=name, root=".")
        refused(config, ConfigError, "dataset.name", name, "dataset=custom")

    def test_splits_by_name_and_hidden_labels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torchvision.datasets, "Split", Split, raising=False)
        source = open_source(TorchvisionDataset(name="Split", root="."), PIXELS)
        assert source.labels == ["dog", None, "cat"]
        assert source.class_names == ["cat", "dog"]

    @pytest.mark.parametrize("download", [True, False])
    def test_train_and_download_are_handed_on(
        self, monkeypatch: pytest.MonkeyPatch, download: bool
    ) -> None:
        monkeypatch.setattr(torchvision.datasets, "Fetched", Fetched, raising=False)
        for split in ("train", "test"):
            config = TorchvisionDataset(name="Fetched", root=".", split=split, download=download)
            labels = [("cat", "dog")[flag] for flag in (split == "train", download, False)]
            assert open_source(config, PIXELS).labels == labels

    def test_private_labels_spare_reading_the_images(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torchvision.datasets, "Hidden", Hidden, raising=False)
        source = open_source(TorchvisionDataset(name="Hidden", root="."), PIXELS)
        assert source.labels == ["cat", "dog", "dog"]

    @pytest.mark.parametrize("kind", [Segmentation, Detection, Attributes])
    def test_targets_that_are_no_class(
        self, monkeypatch: pytest.MonkeyPatch, kind: type[Split]
    ) -> None:
        monkeypatch.setattr(torchvision.datasets, kind.__name__, kind, raising=False)
        config = TorchvisionDataset(name=kind.__name__, root="/data")
        told = refused(config, DataError, kind.__name__, "/data", "label of image 0")
        assert "not one class" in told or "40 elements" in told

    def test_cifar10_from_its_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        batch = {"data": np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072), "labels": [3, 9]}
        (folder / "test_batch").write_bytes(pickle.dumps(batch))
        names = [f"class {index}" for index in range(10)]
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
        monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
        source = open_source(TorchvisionDataset(name="CIFAR10", root=str(tmp_path)), PIXELS)
        assert source.labels == ["class 3", "class 9"]
        planes = np.arange(3072, dtype=np.uint8).reshape(3, 32, 32)
        assert np.array_equal(source.read(0).pixels, planes.transpose(1, 2, 0))


ENCODED = datasets.Features(
    {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
        "note": datasets.Value("string"),
        "boxes": datasets.Sequence(datasets.Value("int64")),
    }
)


def saved(count: int, names: list[str] | None = None) -> datasets.Dataset:
    """A dataset of the real library: picture i is of level i."""
    columns = {
        "image": [
            {"bytes": encoded(i), "path": names[i] if names else f"img_{i}.png"}
            for i in range(count)
        ],
        "label": [i % 3 - 1 for i in range(count)],
        "note": [f"note {i}" for i in range(count)],
        "boxes": [[i] for i in range(count)],
    }
    return datasets.Dataset.from_dict(columns, features=ENCODED)


def check_saved(source: Source, count: int) -> None:
    """The source shows what `saved` holds, in order, and travels to another process."""
    assert source.image_ids == [f"img_{i}.png" for i in range(count)]
    assert source.labels == [[None, "cat", "dog"][i % 3] for i in range(count)]
    assert source.class_names == ["cat", "dog"]
    assert source.metadata is not None
    assert source.metadata.to_pydict() == {"note": [f"note {i}" for i in range(count)]}
    read = pickle.loads(pickle.dumps(source.read))
    for index in np.random.default_rng(0).permutation(count).tolist():
        assert read(index).pixels[0, 0].tolist() == [index] * 3


class TestHuggingFace:
    @pytest.mark.parametrize("shards", [1, 3])
    def test_save_to_disk(self, tmp_path: Path, shards: int) -> None:
        saved(25).save_to_disk(tmp_path / "d", num_shards=shards)
        assert len(list((tmp_path / "d").glob("*.arrow"))) == shards
        check_saved(open_source(HuggingFaceDataset(path=str(tmp_path / "d")), PIXELS), 25)

    def test_splits_of_a_saved_dict(self, tmp_path: Path) -> None:
        splits = datasets.DatasetDict({"train": saved(3), "test": saved(5)})
        splits.save_to_disk(tmp_path / "d")
        config = HuggingFaceDataset(path=str(tmp_path / "d"), split="test")
        check_saved(open_source(config, PIXELS), 5)
        for split in (None, "val", "../d/test"):
            config.split = split
            refused(config, ConfigError, "dataset.split", "train, test", repr(split))

    def test_a_split_that_a_saved_dataset_is_not(self, tmp_path: Path) -> None:
        dataset = saved(3)
        dataset.info.splits = None
        dataset._split = datasets.NamedSplit("train")
        dataset.save_to_disk(tmp_path / "d")
        config = HuggingFaceDataset(path=str(tmp_path / "d"), split="train")
        check_saved(open_source(config, PIXELS), 3)
        config.split = "test"
        refused(config, ConfigError, "dataset.split", "train", "test")

    def test_exported_parquet(self, tmp_path: Path) -> None:
        saved(25).to_parquet(tmp_path / "d.parquet", batch_size=10)
        assert pq.read_metadata(tmp_path / "d.parquet").num_row_groups > 1
        check_saved(open_source(HuggingFaceDataset(path=str(tmp_path / "d.parquet")), PIXELS), 25)

    def test_a_folder_of_parquet_files_and_its_splits(self, tmp_path: Path) -> None:
        whole = saved(12)
        for number, start in enumerate((0, 4, 8)):
            name = f"test-{number:05d}-of-00003.parquet"
            (tmp_path / "data").mkdir(exist_ok=True)
            whole.select(range(start, start + 4)).to_parquet(tmp_path / "data" / name)
        config = HuggingFaceDataset(path=str(tmp_path))
        check_saved(open_source(config, PIXELS), 12)
        (tmp_path / ".cache").mkdir()
        (tmp_path / ".cache" / "x.parquet").write_bytes(b"no")
        saved(2, ["a", "b"]).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
        assert len(open_source(config, PIXELS).image_ids) == 14
        config.split = "test"
        check_saved(open_source(config, PIXELS), 12)
        config.split = "tes"
        refused(config, ConfigError, "dataset.split", "'tes'", "test-00000-of-00003.parquet")
        (tmp_path / "tes").mkdir()
        saved(3).to_parquet(tmp_path / "tes" / "0.parquet")
        check_saved(open_source(config, PIXELS), 3)

    @pytest.mark.parametrize("name", ["test.parquet", "test-00000-of-00001.parquet"])
    def test_a_single_file_and_its_split(self, tmp_path: Path, name: str) -> None:
        saved(4).to_parquet(tmp_path / name)
        config = HuggingFaceDataset(path=str(tmp_path / name), split="test")
        check_saved(open_source(config, PIXELS), 4)
        config.split = "train"
        refused(config, ConfigError, "dataset.split", "'train'", name)

    @pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
    def test_plain_bytes_and_names_as_labels(self, tmp_path: Path, kind: pa.DataType) -> None:
        table = pa.table(
            {
                "png": pa.array([encoded(i) for i in range(7)], kind),
                "what": pa.array(["b", "a", None, "b", "a", "b", ""], pa.large_string()),
                "n": list(range(7)),
                "raw": [b"x"] * 7,
            }
        )
        pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
        config = HuggingFaceDataset(
            path=str(tmp_path / "x.parquet"), image_column="png", label_column="what"
        )
        source = open_source(config, PIXELS)
        assert source.image_ids == [f"{i:08d}" for i in range(7)]
        assert source.labels == ["b", "a", None, "b", "a", "b", None]
        assert source.class_names == ["a", "b"]
        assert levels(source) == list(range(7))
        assert source.metadata is not None
        assert source.metadata.to_pydict() == {"n": list(range(7))}
        config.label_column = None
        source = open_source(config, PIXELS)
        assert (source.labels, source.class_names) == ([None] * 7, None)

    @pytest.mark.parametrize("names", [["a", "a", "b"], ["a", None, "b"]])
    def test_file_names_that_are_no_key(self, tmp_path: Path, names: list[str]) -> None:
        saved(3, names).to_parquet(tmp_path / "d.parquet")
        source = open_source(HuggingFaceDataset(path=str(tmp_path / "d.parquet")), PIXELS)
        assert source.image_ids == ["00000000", "00000001", "00000002"]

    def test_large_strings_and_missing_images(self, tmp_path: Path) -> None:
        kind = pa.struct({"bytes": pa.large_binary(), "path": pa.large_string()})
        cells = [{"bytes": encoded(5), "path": "a"}, {"bytes": None, "path": "b"}]
        cells += [{"bytes": b"", "path": "c"}, {"bytes": b"not a picture", "path": "d"}]
        table = pa.table({"image": pa.array(cells, kind), "label": [1, 2, 3, 4]})
        pq.write_table(table, tmp_path / "x.parquet")
        config = HuggingFaceDataset(path=str(tmp_path / "x.parquet"))
        source = open_source(config, PIXELS)
        assert source.image_ids == ["a", "b", "c", "d"]
        assert source.read(0).pixels[0, 0, 0] == 5
        for index in (1, 2):
            with pytest.raises(DecodeError, match="No such file"):
                source.read(index)
        with pytest.raises(DecodeError, match="none of JPEG"):
            source.read(3)
        table = pa.table({"image": pa.array([cells[0], None], kind), "label": [1, 2]})
        pq.write_table(table, tmp_path / "y.parquet")
        source = open_source(HuggingFaceDataset(path=str(tmp_path / "y.parquet")), PIXELS)
        assert source.image_ids == ["00000000", "00000001"]
        with pytest.raises(DecodeError, match="holds no bytes"):
            source.read(1)

    def test_paths_without_bytes_are_read_as_the_library_does(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(encoded(5))
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        columns = {"image": [str(tmp_path / "a.png")], "label": [1]}
        datasets.Dataset.from_dict(columns, features).save_to_disk(str(tmp_path / "saved"))
        source = open_source(HuggingFaceDataset(path=str(tmp_path / "saved")), PIXELS)
        assert source.read(0).pixels[0, 0, 0] == 5

    def test_files_of_one_dataset_may_differ_in_width_of_type(self, tmp_path: Path) -> None:
        for number, kind in enumerate((pa.int32(), pa.int64())):
            labels = pa.array([number], kind)
            table = pa.table({"image": [encoded(number)], "label": labels, "n": labels})
            pq.write_table(table, tmp_path / f"{number}.parquet")
        source = open_source(HuggingFaceDataset(path=str(tmp_path)), PIXELS)
        assert source.labels == ["0", "1"]
        assert levels(source) == [0, 1]

    def test_neighbours_are_read_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved(30).to_parquet(tmp_path / "d.parquet", batch_size=10)
        source = open_source(HuggingFaceDataset(path=str(tmp_path / "d.parquet")), PIXELS)
        count = []
        read = pq.ParquetFile.read_row_group

        def counted(self: pq.ParquetFile, group: int, **options: Any) -> pa.Table:
            count.append(group)
            return read(self, group, **options)

        monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
        assert levels(source) == list(range(30))
        assert count == [0, 1, 2]
        assert huggingface._cached_piece.cache_info().currsize <= 2  # memory stays bounded

    def test_the_bytes_stay_on_the_disk_when_listing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved(9).to_parquet(tmp_path / "d.parquet")
        asked: list[str] = []
        read = pq.ParquetFile.read

        def noted(self: pq.ParquetFile, columns: list[str]) -> pa.Table:
            asked.extend(columns)
            return read(self, columns=columns)

        monkeypatch.setattr(pq.ParquetFile, "read", noted)
        open_source(HuggingFaceDataset(path=str(tmp_path / "d.parquet")), PIXELS)
        assert asked == ["label", "image.path", "note"] or sorted(asked) == [
            "image.path",
            "label",
            "note",
        ]

    def test_paths_and_columns_that_are_not_there(self, tmp_path: Path) -> None:
        refused(HuggingFaceDataset(path=str(tmp_path / "no")), ConfigError, "dataset.path", "no")
        refused(HuggingFaceDataset(path=str(tmp_path)), ConfigError, str(tmp_path), "neither")
        saved(3).to_parquet(tmp_path / "d.parquet")
        for key in ("image_column", "label_column"):
            config = HuggingFaceDataset(path=str(tmp_path / "d.parquet"))
            setattr(config, key, "nope")
            refused(config, ConfigError, f"dataset.{key}", "'nope'", "image, label, note")
        for column in ("note", "boxes"):
            config = HuggingFaceDataset(path=str(tmp_path / "d.parquet"), image_column=column)
            refused(config, ConfigError, "dataset.image_column", column, "not encoded images")
        config = HuggingFaceDataset(path=str(tmp_path / "d.parquet"), label_column="boxes")
        refused(config, ConfigError, "dataset.label_column", "boxes", "not one class")

    def test_a_label_outside_the_names(self, tmp_path: Path) -> None:
        table = saved(3).with_format("arrow")[:]
        table = table.set_column(1, "label", pa.array([0, 2, 1]))
        table = table.replace_schema_metadata(
            {"huggingface": '{"info": {"features": {"label": {"names": ["a", "b"]}}}}'}
        )
        pq.write_table(table, tmp_path / "d.parquet")
        config = HuggingFaceDataset(path=str(tmp_path / "d.parquet"))
        refused(config, DataError, "d.parquet", "image 1", "2 is outside the dataset's 2 classes")

    def test_damaged_files(self, tmp_path: Path) -> None:
        path = tmp_path / "d.parquet"
        saved(3).to_parquet(path)
        path.write_bytes(path.read_bytes()[:-20])
        refused(HuggingFaceDataset(path=str(path)), DataError, "d.parquet cannot be read")
        folder = tmp_path / "s"
        saved(3).save_to_disk(folder)
        (folder / "state.json").write_text("{}")
        refused(HuggingFaceDataset(path=str(folder)), DataError, str(folder), "_data_files")
        (folder / "state.json").write_text("{")
        refused(HuggingFaceDataset(path=str(folder)), DataError, str(folder))
        (folder / "dataset_dict.json").write_text("[]")
        refused(HuggingFaceDataset(path=str(folder)), DataError, str(folder))

    def test_files_that_do_not_go_together(self, tmp_path: Path) -> None:
        saved(3).to_parquet(tmp_path / "a.parquet")
        saved(3).remove_columns("note").to_parquet(tmp_path / "b.parquet")
        refused(HuggingFaceDataset(path=str(tmp_path)), DataError, "b.parquet", "a.parquet")

    @pytest.mark.parametrize("stream", [True, False])
    def test_no_rows(self, tmp_path: Path, stream: bool) -> None:
        if stream:  # as the library saves no rows; its older versions cannot
            (tmp_path / "d").mkdir()
            (tmp_path / "d" / "state.json").write_text('{"_data_files": [], "_split": null}')
        else:
            saved(0).to_parquet(tmp_path / "d")
        refused(HuggingFaceDataset(path=str(tmp_path / "d")), DataError, "no images in", "d")


FACTORY = """
import dataclasses
import numpy as np
import torch
from PIL import Image

class Items:
    def __init__(self, items, **attributes):
        self.items = items
        vars(self).update(attributes)
    def __len__(self):
        return len(self.items)
    def __getitem__(self, index):
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item

def grey(level):
    return np.full((3, 4, 3), level, np.uint8)

def build():
    return {}
"""


@pytest.fixture
def custom(tmp_path: Path) -> Callable[[str], CustomDataset]:
    """A dataset from an expression, in a factory file of its own."""

    def make(expression: str) -> CustomDataset:
        path = tmp_path / f"f{len(list(tmp_path.iterdir()))}.py"
        path.write_text(FACTORY.replace("return {}", f"return {expression}"))
        return CustomDataset(factory=f"{path}:build")

    return make


Custom = Callable[[str], CustomDataset]


class TestCustom:
    @pytest.mark.parametrize(
        "item",
        [
            "grey(9)",
            "(grey(9),)",
            "(grey(9), 'a')",
            "[grey(9), 'a', 'more']",
            "{'image': grey(9), 'label': 'a'}",
            "(Image.fromarray(grey(9)), 'a')",
            "(torch.from_numpy(grey(9)).permute(2, 0, 1), 'a')",
            "(torch.full((3, 3, 4), 9 / 255), 'a')",
            "(np.full((3, 4), 9 / 255), 'a')",
        ],
    )
    def test_items_of_every_shape(self, custom: Custom, item: str) -> None:
        source = open_source(custom(f"Items([{item}])"), PIXELS)
        assert source.labels == ["a" if "'a'" in item else None]
        assert np.array_equal(source.read(0).pixels, np.full((3, 4, 3), 9))
        assert source.image_ids == ["00000000"]

    @pytest.mark.parametrize(
        "targets",
        [
            "targets=[1, 0, 1]",
            "targets=(1, 0, 1)",
            "targets=np.array([1, 0, 1])",
            "targets=np.array([1.0, 0.0, 1.0], np.float32)",
            "targets=torch.tensor([1, 0, 1])",
            "targets=[torch.tensor(1), np.int64(0), np.array([1])]",
            "targets=['cat', 'dog', 'cat']",
            "labels=[1, 0, 1]",
            "labels=[True, False, True]",
        ],
    )
    @pytest.mark.parametrize(
        "names",
        [
            "classes=['dog', 'cat']",
            "classes=('dog', 'cat')",
            "classes=np.array(['dog', 'cat'])",
            "classes=[('dog', 'hound'), ('cat',)]",
            "classes={'cat': 1, 'dog': 0}",
            "classes={0: 'dog', 1: 'cat'}",
            "class_to_idx={'cat': 1, 'dog': 0}",
        ],
    )
    def test_labels_and_names(self, custom: Custom, targets: str, names: str) -> None:
        failing = "Items([ValueError('not to be read')] * 3"
        source = open_source(custom(f"{failing}, {targets}, {names})"), PIXELS)
        assert source.labels == ["cat", "dog", "cat"]
        assert source.class_names == ["dog", "cat"]

    def test_labels_of_items(self, custom: Custom) -> None:
        items = "[(grey(1), 1), {'image': grey(2)}, OSError('gone'), (grey(4), torch.tensor(0))]"
        source = open_source(custom(f"Items({items}, classes=['a', 'b'])"), PIXELS)
        assert source.labels == ["b", None, None, "a"]
        with pytest.raises(OSError, match="gone"):
            source.read(2)
        assert source.read(3).pixels[0, 0, 0] == 4
        source = open_source(custom("Items([(grey(1), 10), (grey(2), 9.0)])"), PIXELS)
        assert (source.labels, source.class_names) == (["10", "9"], ["9", "10"])

    def test_targets_go_before_what_items_hold(self, custom: Custom) -> None:
        items = "[(grey(1), torch.tensor([0.1, 0.9])), (grey(2), 'soft')]"
        source = open_source(custom(f"Items({items}, targets=[1, 0])"), PIXELS)
        assert source.labels == ["1", "0"]

    def test_targets_that_belong_to_something_else_are_left(self, custom: Custom) -> None:
        items = "[(grey(1), 'a'), (grey(2), 'b')]"
        for targets in ("[1, 2, 3]", "max", "7", "'ab'", "{'x': 1}"):
            source = open_source(custom(f"Items({items}, targets={targets})"), PIXELS)
            assert source.labels == ["a", "b"]

    @pytest.mark.parametrize("label", ["None", "float('nan')", "''", "-1", "np.float64('nan')"])
    def test_no_label(self, custom: Custom, label: str) -> None:
        source = open_source(custom(f"Items([grey(0)], targets=[{label}], classes=['a'])"), PIXELS)
        assert (source.labels, source.class_names) == ([None], None)

    @pytest.mark.parametrize(
        ("label", "said"),
        [
            ("2", "2 is outside the dataset's 2 classes"),
            ("-2", "-2 is outside"),
            ("'owl'", "'owl' is no class of the dataset"),
            ("0.5", "'0.5' is no class"),
            ("[0, 1]", "a list is not one class"),
            ("{'a': 1}", "a dict is not one class"),
            ("Image.new('L', (4, 4))", "a Image is not one class"),
            ("torch.zeros(3)", "3 elements"),
            ("np.zeros(3)", "size 1"),
        ],
    )
    def test_a_label_that_is_no_class(self, custom: Custom, label: str, said: str) -> None:
        config = custom(f"Items([grey(0)] * 2, targets=[0, {label}], classes=['a', 'b'])")
        refused(config, DataError, config.factory, "label of image 1", said)

    @pytest.mark.parametrize(
        ("attributes", "said"),
        [
            ("ids=['a', 'b']", "2 ids for 3 items"),
            ("ids=5", "TypeError"),
            ("classes=7", "TypeError"),
            ("classes={'a': 0, 'b': 2}", "not numbered from 0"),
            ("class_to_idx={'a': 0, 'b': 0}", "not numbered from 0"),
        ],
    )
    def test_attributes_that_do_not_fit(self, custom: Custom, attributes: str, said: str) -> None:
        config = custom(f"Items([grey(0)] * 3, targets=[0, 0, 0], {attributes})")
        refused(config, DataError, config.factory, said)

    def test_ids(self, custom: Custom) -> None:
        for ids in ("['x/1', 'x/2']", "np.array(['x/1', 'x/2'])", "('x/1', 'x/2')"):
            source = open_source(custom(f"Items([grey(0)] * 2, ids={ids})"), PIXELS)
            assert source.image_ids == ["x/1", "x/2"]
        source = open_source(custom("Items([grey(0)] * 2, ids=torch.arange(2))"), PIXELS)
        assert source.image_ids == ["0", "1"]
        source = open_source(custom("Items([grey(0)], ids=['\\udcff'])"), PIXELS)
        assert source.image_ids == ["\\udcff"]
        pa.array(source.image_ids)
        refused(custom("Items([grey(0)] * 2, ids=['a', 'a'])"), DataError, "'a'")

    def test_classes_of_the_same_name_are_told_apart(self, custom: Custom) -> None:
        config = custom(
            "Items([grey(0)] * 3, targets=[0, 1, 2], classes=['crane', 'cat', 'crane'])"
        )
        source = open_source(config, PIXELS)
        assert source.labels == ["crane (0)", "cat", "crane (2)"]

    def test_boxes_and_masks(self, custom: Custom) -> None:
        mask = "np.eye(3, 4, dtype=bool)"
        marks = [f"'mask': {mask}", f"'mask': torch.from_numpy({mask}.astype('float32'))[None]"]
        marks += [f"'mask': Image.fromarray({mask})", "'mask': np.ones((4, 3))"]
        marks += ["'box': (1, 0, 2, 3)", "'box': torch.tensor([1.0, 0, 2, 3])", "'box': None"]
        marks += ["'box': (2, 0, 1, 3)", "'box': (1, 2)"]
        items = ", ".join(f"{{'image': grey(0), {mark}}}" for mark in marks)
        source = open_source(custom(f"Items([{items}], targets=[0] * {len(marks)})"), PIXELS)
        for index in range(3):
            assert np.array_equal(source.read(index).object, np.eye(3, 4) * 255)  # type: ignore[arg-type]
        column = np.zeros((3, 4))
        column[:, 1] = 255
        for index in (4, 5):
            assert np.array_equal(source.read(index).object, column)  # type: ignore[arg-type]
        assert source.read(6).object is None
        for index, said in ((3, r"its mask has shape \(4, 3\)"), (7, "empty"), (8, "four sides")):
            with pytest.raises(DecodeError, match=said):
                source.read(index)

    def test_a_picture_that_is_normalised_already(self, custom: Custom) -> None:
        source = open_source(custom("Items([torch.randn(3, 8, 8) * 3])"), PIXELS)
        with pytest.raises(DecodeError, match="normalised already"):
            source.read(0)

    @pytest.mark.parametrize(
        "nonsense",
        [
            "None",
            "5",
            "'text'",
            "{'a': 1}",
            "Items",
            "iter([])",
            "type('G', (), {'__getitem__': lambda self, index: grey(0)})()",
            "type('L', (), {'__len__': lambda self: 1})()",
            "type('I', (torch.utils.data.IterableDataset,), {'__iter__': iter, '__len__': len})()",
        ],
    )
    def test_a_factory_that_returns_no_dataset(self, custom: Custom, nonsense: str) -> None:
        config = custom(nonsense)
        refused(config, ConfigError, "dataset.factory", config.factory, "__getitem__")

    def test_a_dataset_that_raises(self, custom: Custom) -> None:
        raising = "type('D', (Items,), {'__len__': lambda self: 1 // 0})([])"
        config = custom(raising)
        refused(config, DataError, config.factory, "ZeroDivisionError")
        config = custom("Items([])")
        refused(config, DataError, "no images in", config.factory)

    def test_a_list_is_a_dataset(self, custom: Custom) -> None:
        source = open_source(custom("[(grey(0), 'a'), (grey(1), 'b')]"), PIXELS)
        assert source.labels == ["a", "b"]
        assert levels(source) == [0, 1]


class TestHelpers:
    def test_numbers_are_sorted_by_value_ahead_of_names(self) -> None:
        assert distinct_labels(["10", "9", "b", None, "a", "007", "7"]) == [
            "007",
            "7",
            "9",
            "10",
            "a",
            "b",
        ]
        assert distinct_labels([None, None]) is None
        assert distinct_labels([]) is None

    def test_labels_name_the_image(self) -> None:
        assert class_labels([1, 0, -1, None, "b"], ["a", "b"]) == ["b", "a", None, None, "b"]
        assert class_labels([1, "-1", 2.5]) == ["1", "-1", "2.5"]
        with pytest.raises(DataError, match="label of image 2: 9 is outside"):
            class_labels([0, 0, 9], ["a"])

    def test_numbered(self) -> None:
        assert number_duplicates(["a", "b", "a"]) == ["a (0)", "b", "a (2)"]

    def test_a_box_takes_every_pixel_it_touches(self) -> None:
        mask = box_mask((4, 5), (1.2, 1.0, 1.4, 2.1))
        assert mask is not None
        assert np.argwhere(mask).tolist() == [[1, 1], [2, 1]]
        assert mask.max() == 255

    @pytest.mark.parametrize(
        "box",
        [
            (2, 0, 2, 1),
            (0, 3, 4, 2),
            (5, 0, 9, 4),
            (-4, 0, -1, 4),
            (0, -4, 4, -1),
            (1.5, 0, 1.5, 2),
            (0, 1.5, 2, 1.5),
        ],
    )
    def test_a_box_without_a_pixel(self, box: tuple[float, ...]) -> None:
        with pytest.raises(DecodeError, match="empty or outside the 5 x 4 image"):
            box_mask((4, 5, 3), box)

    def test_a_mask_with_a_channel_at_either_end(self) -> None:
        plane = np.eye(3, 4)
        for mask in (plane, plane[None], plane[..., None], np.dstack([plane, plane * 0])):
            assert np.array_equal(object_mask((3, 4, 3), mask), plane * 255)

    def test_printable(self) -> None:
        assert printable("ok ü\n") == "ok ü\n"
        assert printable("\udcff") == "\\udcff"
