"""Class names, the plan and the loader: nothing dropped, nothing mixed up, whatever goes wrong."""

from __future__ import annotations

import datetime as dt
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory as pin

from helpers.setups import resolved
from helpers.small_data import write_images
from pipeline.config import CustomDataset, HuggingFaceDataset, ImageFolder
from pipeline.data.class_names import match_classes
from pipeline.data.datasets import open_source
from pipeline.data.decode import DecodeError
from pipeline.data.loader import (
    Batch,
    Fit,
    LoadedImage,
    collate,
    load_images,
    n_loader_processes,
    plan_batches,
)
from pipeline.data.source import DecodedImage, Source
from pipeline.errors import ConfigError, one_line
from pipeline.model.preprocess import Preprocess
from pipeline.run.plan_table import make_plan
from pipeline.storage.run_setup import Setup
from pipeline.storage.schema import plan_schema

IMAGENET = [f"class {index}" for index in range(1000)]


class TestMatchClasses:
    @pytest.mark.parametrize(
        ("dataset", "model", "expected"),
        [
            (["cat", "dog"], ["dog", "cat", "owl"], {"cat": 1, "dog": 0}),
            (["t_shirt", "ANKLE BOOT"], ["Ankle-boot", "T-Shirt"], {"t_shirt": 1, "ANKLE BOOT": 0}),
            (["straße"], ["x", "STRASSE"], {"straße": 1}),
            (["cat"], ["Cat", "cat", "CAT"], {"cat": 1}),  # as it stands goes first
            (["Cat", "cat"], ["cat", "Cat"], {"Cat": 1, "cat": 0}),
            (["1", "0"], ["0", "1"], {"1": 1, "0": 0}),
            (["2", "1"], ["1", "2"], {"2": 1, "1": 0}),  # names first, though numbers
            (None, ["a", "b"], {}),
            (["a"], ["a", "b"], {"a": 0}),
        ],
    )
    def test_by_name(
        self, dataset: list[str] | None, model: list[str], expected: dict[str, int]
    ) -> None:
        assert match_classes(dataset, model, len(model)) == (model, expected, [])

    def test_numbers_are_positions_where_the_model_has_names(self) -> None:
        names, outputs, notes = match_classes(["0", "2", "007"], ["c", *IMAGENET[:9]], 10)
        assert names[0] == "c"
        assert outputs == {"0": 0, "2": 2, "007": 7}
        assert "positions" in notes[0]

    @pytest.mark.parametrize("labels", [["0", "3"], ["0", "cat"], ["-1"], ["1.5"]])
    def test_numbers_that_are_no_positions(self, labels: list[str]) -> None:
        with pytest.raises(ConfigError, match="unknown to the model"):
            match_classes(labels, ["a", "b", "c"], 3)

    def test_what_is_unknown_is_shown_with_both_sides(self) -> None:
        with pytest.raises(ConfigError) as caught:
            match_classes(["cat", "wolf", "<b>"], ["cat", *IMAGENET[1:]], 1000)
        told = str(caught.value)
        assert "2 of the dataset's 3 labels" in told
        assert "wolf, <b>\n  dataset: cat, wolf, <b>\n  model:   cat, class 1" in told
        assert "(1000 in all)" in told
        assert "model.class_names" in told

    @pytest.mark.parametrize(
        ("dataset", "model", "said"),
        [
            (["Cat", "cat"], ["cat", "dog"], ("'Cat'", "'cat'", "both match")),
            (["a b", "a_b"], ["A-B", "c"], ("'a b'", "'a_b'", "'A-B'")),
            (["1", "01"], ["a", "b"], ("'1'", "'01'", "'b'")),
            (
                ["t shirt"],
                ["T-shirt", "t_shirt"],
                ("'t shirt'", "T-shirt, t_shirt", "matches several"),
            ),
        ],
    )
    def test_nothing_is_merged_in_silence(
        self, dataset: list[str], model: list[str], said: tuple[str, ...]
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            match_classes(dataset, model, 2)
        for part in said:
            assert part in str(caught.value)

    def test_model_names_that_occur_twice_are_told_apart(self) -> None:
        model = ["crane", "cat", "crane"]
        names, outputs, _ = match_classes(["crane (2)", "cat"], model, 3)
        assert names == ["crane (0)", "cat", "crane (2)"]
        assert outputs == {"crane (2)": 2, "cat": 1}
        with pytest.raises(ConfigError, match=r"crane \(0\), cat, crane \(2\)"):
            match_classes(["crane"], model, 3)

    def test_names_that_are_not_one_per_output(self) -> None:
        with pytest.raises(ConfigError, match="2 names for 3 outputs: a, b"):
            match_classes(["a"], ["a", "b"], 3)

    def test_a_model_without_names_takes_the_datasets_order(self) -> None:
        names, outputs, notes = match_classes(["b", "a"], None, 2)
        assert (names, outputs) == (["b", "a"], {"b": 0, "a": 1})
        assert notes == []
        assert match_classes(["cat", "dog", "owl"], None, 3)[2] == []

    def test_an_order_that_training_may_have_sorted_otherwise_is_told(self) -> None:
        numbers = [str(number) for number in range(12)]
        (note,) = match_classes(numbers, None, 12)[2]
        assert "in order: 0, 1, 2, 3" in note
        assert "ImageFolder sorts them as text: 0, 1, 10, 11, 2" in note
        assert match_classes(numbers[:10], None, 10)[2] == []
        (note,) = match_classes(["Zebra", "cat"], None, 2)[2]
        assert "timm sorts them without regard to case: cat, Zebra" in note
        (note,) = match_classes(["class1", "class10", "class2"], None, 3)[2]
        assert "timm sorts them without regard to case: class1, class2, class10" in note

    def test_numbers_of_a_part_of_the_classes(self) -> None:
        names, outputs, notes = match_classes(["0", "2"], None, 3)
        assert (names, outputs) == (["0", "1", "2"], {"0": 0, "2": 2})
        assert "used as output positions" in notes[0]
        with pytest.raises(ConfigError, match="3 outputs, the dataset 2 classes: 0, 3"):
            match_classes(["0", "3"], None, 3)

    @pytest.mark.parametrize("dataset", [["cat"], ["cat", "dog", "owl"]])
    def test_counts_that_differ(self, dataset: list[str]) -> None:
        with pytest.raises(ConfigError) as caught:
            match_classes(dataset, None, 2)
        assert f"the model has 2 outputs, the dataset {len(dataset)} classes" in str(caught.value)
        assert "cat" in str(caught.value)

    def test_neither_side_has_names(self) -> None:
        names, outputs, notes = match_classes(None, None, 3)
        assert (names, outputs) == (["0", "1", "2"], {})
        assert "named by number" in notes[0]

    @given(st.lists(st.text("aA_- b0", max_size=3), max_size=6, unique=True), st.data())
    def test_two_labels_never_share_an_output(self, labels: list[str], data: st.DataObject) -> None:
        model = data.draw(st.lists(st.sampled_from([*labels, "x", "y"]), min_size=1, max_size=6))
        try:
            names, outputs, _ = match_classes(labels or None, model, len(model))
        except ConfigError:
            return
        assert len(set(names)) == len(names) == len(model)
        assert set(outputs) == set(labels)
        assert len(set(outputs.values())) == len(outputs)


def unread(index: int) -> DecodedImage:
    """A source that is only listed."""
    raise AssertionError(index)


class TestPlan:
    def test_one_row_per_image_in_order(self) -> None:
        source = Source(["c", "a", "b"], ["x", None, "y"], unread, ["y", "x"])
        plan = make_plan(source, {"x": 5, "y": 3}, 2)
        assert plan.schema.equals(plan_schema())
        assert plan.to_pydict() == {
            "index": [0, 1, 2],
            "image_id": ["c", "a", "b"],
            "label_index": [5, None, 3],
            "label": ["x", None, "y"],
            "shard": [0, 0, 1],
            "version": [None] * 3,
        }

    def test_nothing_is_labelled(self) -> None:
        plan = make_plan(Source(["a"], [None], unread, None), {}, 10)
        assert plan.schema.equals(plan_schema())
        assert plan["label_index"].to_pylist() == [None]

    def test_metadata_keeps_its_types(self) -> None:
        metadata = pa.table(
            {
                "day": [dt.date(2024, 1, 2), None],
                "tags": [["a"], None],
                "": [1, 2],
                "none": pa.nulls(2),
            }
        )
        metadata = pa.concat_tables([metadata.slice(0, 1), metadata.slice(1, 1)])  # two chunks
        source = Source(["a", "b"], ["x", "x"], unread, ["x"], metadata)
        plan = make_plan(source, {"x": 0}, 1)
        assert plan.schema.equals(plan_schema(pa.struct(list(metadata.schema))))
        assert plan["metadata"].to_pylist() == metadata.to_pylist()


SIDE = 8


def setup(n_images: int, shard_size: int, batch_size: int) -> Setup:
    """What the loader asks of a setup."""
    return Setup("f", {}, resolved(batch_size), ["a"], (2, 2), 4, {}, n_images, shard_size)


def flat(index: int) -> DecodedImage:
    """DecodedImage `index` shows its number, is of a size of its own, and every fifth fails."""
    if index % 5 == 4:
        raise DecodeError(f"bad\n{index}") if index % 2 else KeyError("image")
    pixels = np.full((10 + index, 30 - index, 3), index, np.uint8)
    return DecodedImage(
        pixels, np.full(pixels.shape[:2], 255, np.uint8) if index % 3 == 0 else None
    )


FIT = Preprocess(resize=SIDE, crop=(SIDE, SIDE)).fit


def make_loader(
    read: Callable[[int], DecodedImage], fit: Fit, setup: Setup, shards: list[int], n_workers: int
) -> DataLoader[Batch]:
    """All images of some shards."""
    wanted = {shard: setup.rows(shard) for shard in shards}
    return load_images(read, fit, plan_batches(wanted, setup), n_workers)


def batches(setup: Setup, shards: list[int], n_workers: int = 0) -> list[Batch]:
    """All that the loader gives."""
    return list(make_loader(flat, FIT, setup, shards, n_workers))


class TestLoader:
    @given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
    def test_batches_keep_the_order_and_do_not_cross_shards(
        self, n_images: int, shard_size: int, batch_size: int
    ) -> None:
        plan = setup(n_images, shard_size, batch_size)
        loaded = batches(plan, list(range(plan.n_shards)))
        rows = [sorted([*b.indices, *(index for index, _ in b.errors)]) for b in loaded]
        assert list(itertools.chain(*rows)) == list(range(n_images))
        for row in rows:
            assert len({index // shard_size for index in row}) == 1
            assert len(row) <= batch_size
        assert len(rows) == sum(
            -(-len(plan.rows(shard)) // batch_size) for shard in range(plan.n_shards)
        )

    def test_only_the_given_shards(self) -> None:
        (first, second) = batches(setup(10, 2, 8), [3, 1])
        assert first.indices == [6, 7]
        assert (second.indices, second.errors) == ([2, 3], [])

    def test_pictures_of_many_sizes_objects_and_errors(self) -> None:
        (batch,) = batches(setup(10, 10, 10), [0])
        good = [0, 1, 2, 3, 5, 6, 7, 8]
        assert batch.indices == good
        assert batch.errors == [(4, "KeyError: 'image'"), (9, "bad 9")]
        assert batch.images.shape == (8, 3, SIDE, SIDE)
        assert batch.images.dtype == torch.uint8
        assert batch.images[:, 0, 0, 0].tolist() == good
        assert batch.sizes == [(30 - index, 10 + index) for index in good]
        assert batch.objects is not None
        assert batch.objects.shape == (8, SIDE, SIDE)
        assert batch.objects.mean(dim=(1, 2)).tolist() == [float(i % 3 == 0) for i in good]

    def test_without_objects_there_are_none(self) -> None:
        image = torch.zeros(3, 2, 2, dtype=torch.uint8)
        assert collate([LoadedImage(1, image), LoadedImage(2, error="x")]).objects is None

    def test_a_batch_of_nothing_but_errors(self) -> None:
        batch = collate([LoadedImage(3, error="x"), LoadedImage(4, error="y")])
        assert (batch.indices, batch.sizes, batch.objects) == ([], [], None)
        assert batch.errors == [(3, "x"), (4, "y")]
        assert isinstance(batch.images, Tensor)

    def test_a_batch_is_stacked_as_its_pictures_lie_in_memory(self) -> None:
        pictures = [FIT(np.full((9, 7, 3), i, np.uint8)) for i in range(3)]
        batch = collate([LoadedImage(i, picture) for i, picture in enumerate(pictures)])
        assert torch.equal(batch.images, torch.stack(pictures))
        assert batch.images.is_contiguous(memory_format=torch.channels_last)

    def test_the_loader_pins_a_batch_in_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a GPU nothing can be pinned; here a copy stands for it."""
        pinned: list[Tensor] = []

        def pin_memory(self: Tensor) -> Tensor:
            pinned.append(self)
            return self.clone()

        monkeypatch.setattr(Tensor, "pin_memory", pin_memory)
        image = torch.zeros(3, 2, 2, dtype=torch.uint8)
        for objects in (None, torch.ones(2, 2)):
            pinned.clear()
            batch = collate([LoadedImage(0, image, object=objects), LoadedImage(1, error="x")])
            found = pin(batch)  # type: ignore[no-untyped-call]
            assert isinstance(found, Batch)
            assert found is not batch
            assert torch.equal(found.images, batch.images)
            assert found.errors == batch.errors
            assert len(pinned) == (1 if objects is None else 2)

    def test_an_object_is_fitted_as_its_picture(self) -> None:
        marked = np.zeros((20, 20), np.uint8)
        marked[:10] = 255

        def read(_index: int) -> DecodedImage:
            return DecodedImage(np.dstack([marked] * 3), marked)

        (batch,) = make_loader(read, FIT, setup(1, 1, 1), [0], 0)
        assert batch.objects is not None
        assert torch.allclose(batch.objects[0], batch.images[0, 0] / 255)
        assert batch.objects[0, 0, 0] == 1

    def test_a_picture_that_cannot_be_fitted_is_an_error(self) -> None:
        def read(_index: int) -> DecodedImage:
            return DecodedImage(np.zeros((0, 5, 3), np.uint8))

        (batch,) = make_loader(read, FIT, setup(2, 2, 2), [0], 0)
        assert [index for index, _ in batch.errors] == [0, 1]

    def test_workers_change_nothing_and_leave_nothing(self) -> None:
        plan = setup(40, 15, 4)
        alone, together = (batches(plan, [0, 1, 2], n) for n in (0, 2))
        assert len(alone) == len(together) == 11
        for one, other in zip(alone, together, strict=True):
            assert torch.equal(one.images, other.images)
            assert (one.indices, one.sizes, one.errors) == (
                other.indices,
                other.sizes,
                other.errors,
            )
            assert (one.objects is None) == (other.objects is None)
            assert one.objects is None or torch.equal(one.objects, other.objects)  # type: ignore[arg-type]
        assert multiprocessing.active_children() == []

    def test_workers_are_gone_when_the_reader_stops_early(self) -> None:
        loader = iter(make_loader(flat, FIT, setup(40, 40, 4), [0], 2))
        next(loader)
        assert len(multiprocessing.active_children()) == 2
        del loader
        assert multiprocessing.active_children() == []

    def test_workers_leave_threads_and_signals_to_the_main_process(self) -> None:
        def read(_index: int) -> DecodedImage:
            seen = (
                cv2.getNumThreads() == 1,
                signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
                signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
            )
            return DecodedImage(np.full((SIDE, SIDE, 3), seen, np.uint8))

        before = cv2.getNumThreads(), signal.signal(signal.SIGTERM, lambda *_: None)
        cv2.setNumThreads(2)
        try:
            (batch,) = make_loader(read, FIT, setup(1, 1, 1), [0], 1)
        finally:
            cv2.setNumThreads(before[0])
            signal.signal(signal.SIGTERM, before[1])
        assert batch.images[0, :, 0, 0].tolist() == [1, 1, 1]

    def test_an_empty_list_of_shards(self) -> None:
        assert batches(setup(4, 2, 2), []) == []


def pixels_of(source: Source, n_workers: int) -> dict[int, NDArray[np.uint8]]:
    """Pictures by position, through the loader."""
    plan = setup(len(source.image_ids), 7, 3)
    loader = make_loader(source.read, FIT, plan, list(range(plan.n_shards)), n_workers)
    return {i: image.numpy() for b in loader for i, image in zip(b.indices, b.images, strict=True)}


@pytest.fixture
def spawning() -> Iterator[None]:
    """A default way to start processes in which a child imports all anew, as from Python 3.14."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


class TestSourcesInWorkers:
    """Every kind of source reads the same in other processes."""

    def check(self, config: Any, count: int) -> None:
        alone, together = (pixels_of(open_source(config, 10**6), n) for n in (0, 2))
        assert list(alone) == list(together) == list(range(count))
        assert len({image.tobytes() for image in alone.values()}) == count
        for index, image in alone.items():
            assert np.array_equal(image, together[index])

    def test_files(self, tmp_path: Path) -> None:
        write_images(tmp_path, 5)
        self.check(ImageFolder(root=str(tmp_path)), 15)

    def test_parquet(self, tmp_path: Path) -> None:
        write_images(tmp_path / "x", 5)
        files = sorted((tmp_path / "x").rglob("*.png"))
        table = pa.table({"image": [file.read_bytes() for file in files]})
        pa.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=4)
        config = HuggingFaceDataset(path=str(tmp_path / "x.parquet"), label_column=None)
        self.check(config, 15)

    def test_a_class_of_a_factory_file(self, tmp_path: Path, spawning: None) -> None:
        (tmp_path / "made.py").write_text(
            "import numpy as np\n"
            "class Made:\n"
            "    targets = [0] * 15\n"
            "    def __len__(self): return 15\n"
            "    def __getitem__(self, i): return np.full((9, 9), i, np.uint8)\n"
        )
        self.check(CustomDataset(factory=f"{tmp_path}/made.py:Made"), 15)


class TestSmallThings:
    def test_workers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert (n_loader_processes(0), n_loader_processes(3)) == (0, 3)
        for cores, expected in ((1, 1), (2, 1), (8, 7), (64, 16)):
            allowed = set(range(cores))
            monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, a=allowed: a, raising=False)
            assert n_loader_processes("auto") == expected

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (DecodeError("in words"), "in words"),
            (DecodeError(), "DecodeError"),
            (ValueError("two\n  lines\t"), "ValueError: two lines"),
            (KeyError("image"), "KeyError: 'image'"),
            (MemoryError(), "MemoryError"),
            (OSError("a\udcff"), "OSError: a\\udcff"),
            (ConfigError("x"), "x"),
        ],
    )
    def test_describe(self, error: Exception, text: str) -> None:
        assert one_line(error) == text
        pa.array([one_line(error)])
