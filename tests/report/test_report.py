"""The report's files: hostile names as text, every picture there, empty cases, an old one kept."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.small_run import FITTED, NASTY, SIZE, make_run
from pipeline.config import Config
from pipeline.data import pictures
from pipeline.errors import ConfigError, NotFinished, Stopped
from pipeline.report import aggregates, words
from pipeline.report.page import Pages
from pipeline.run.state import Journal
from pipeline.stages import report
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.sample import EXPLAINED
from pipeline.storage.schema import CHANGES, DECISIONS, part_schema

DATA = re.compile(r'camaudit\.receive\("([\w-]+)",(.*)\);\n', re.DOTALL)


class Seen(HTMLParser):
    """What a browser would find in HTML: its text, its elements with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += " "

    def handle_endtag(self, tag: str) -> None:
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, name: str) -> list[str]:
        """The values of an attribute."""
        return [str(attrs[name]) for each, attrs in self.elements if each == tag and name in attrs]

    @property
    def shape(self) -> list[tuple[str, list[str]]]:
        """Elements and names of attributes, without their values and texts."""
        return [(tag, sorted(attrs)) for tag, attrs in self.elements]


class Report:
    """A report on disk: its pages, and the fragments of HTML in its data files, by their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pages = {
            str(path.relative_to(folder)): Seen(path.read_text(encoding="utf-8"))
            for path in sorted(folder.rglob("*.html"))
        }
        self.cards, self.details = [], []
        for number in range(len(list(folder.glob("data/cards-*.js")))):
            for card, detail in self.data(f"cards-{number}"):
                self.cards.append(Seen(card))
                self.details.append(Seen(detail))

    def data(self, name: str) -> Any:
        """What a data file hands over."""
        text = (self.folder / f"data/{name}.js").read_text(encoding="ascii")
        found = DATA.fullmatch(text)
        assert found
        assert found[1] == name
        return json.loads(found[2])

    @property
    def index(self) -> Seen:
        """The first page."""
        return self.pages["index.html"]

    @property
    def text(self) -> str:
        """All that can be read on the first page."""
        return " ".join(self.index.text.split())

    def everything(self) -> dict[str, Seen]:
        """Pages and fragments, by the place that their addresses are relative to."""
        fragments = {f"fragment {i}": each for i, each in enumerate([*self.cards, *self.details])}
        return self.pages | fragments

    def files(self, kind: str) -> list[str]:
        """Files of a folder of the report, relative to it."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.glob(f"{kind}/*"))


def make_report(config: Config) -> Report:
    """Run the stage and look at its files."""
    report.run(config, Journal(config))
    return Report(RunFolder(config.folder).report)


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A report full of hostile names."""
    return make_report(make_run(tmp_path_factory.mktemp("nasty")))


def test_names_are_shown_as_text_and_make_no_elements(nasty: Report, tmp_path: Path) -> None:
    for name in NASTY:
        assert name in nasty.index.text
        assert any(f"because of {name}" in detail.text for detail in nasty.details)
    assert "broken <b>0</b>" in nasty.index.text
    # Whatever the names hold, the pages are made of the same elements and attributes.
    harmless = make_report(make_run(tmp_path, names=["w", "x", "y", "z"]))
    assert harmless.everything().keys() == nasty.everything().keys()
    for name, page in nasty.everything().items():
        assert page.shape == harmless.everything()[name].shape, name


def test_nothing_runs_or_loads_but_the_reports_own_files(nasty: Report) -> None:
    for name, page in nasty.everything().items():
        scripts = page.values("script", "src")
        assert len(scripts) == [tag for tag, _ in page.elements].count("script")
        assert all(re.fullmatch(r"(\.\./)?\w+\.js", source) for source in scripts), name
        attributes = {attribute for _, attrs in page.elements for attribute in attrs}
        assert not [each for each in attributes if each == "style" or each.startswith("on")], name
    for page in nasty.pages.values():
        (policy,) = [attrs["content"] for _, attrs in page.elements if "http-equiv" in attrs]
        assert str(policy).startswith("default-src 'none'; ")
        assert "unsafe" not in str(policy)


def test_data_files_hold_one_value_in_ascii(tmp_path: Path) -> None:
    value = [
        "</script><script>alert(1)</script>",
        "\u2028\u2029",
        "猫 \u202e",
        None,
        0.5,
        {"a": [1]},
    ]
    Pages(tmp_path).write_data("list-0", value)
    text = (tmp_path / "data/list-0.js").read_bytes().decode("ascii")
    found = DATA.fullmatch(text)
    assert found
    assert json.loads(found[2]) == value


def test_every_address_leads_to_a_file_and_every_picture_is_shown(nasty: Report) -> None:
    named = set()
    for name, page in nasty.everything().items():
        base = nasty.folder / (name if name in nasty.pages else "index.html")
        links = [
            *page.values("img", "src"),
            *page.values("a", "href"),
            *page.values("script", "src"),
        ]
        links += page.values("link", "href")
        for link in links:
            address = link.split("#")[0]
            if address:
                path = (base.parent / address).resolve()
                assert path.is_file(), (name, link)
                named.add(path)
    shown = {path for path in named if path.parent.name in ("pictures", "charts")}
    there = {
        path.resolve() for kind in ("pictures", "charts") for path in nasty.folder.glob(f"{kind}/*")
    }
    assert shown == there
    webp = [path for path in there if path.suffix == ".webp"]
    assert all(cv2.imread(str(path)) is not None for path in webp)


def test_links_within_a_page_lead_somewhere(nasty: Report) -> None:
    for page in nasty.pages.values():
        ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
        for link in page.values("a", "href"):
            if link.startswith("#"):
                assert link[1:] in ids, link
    all_ids = [attrs["id"] for _, attrs in nasty.index.elements if "id" in attrs]
    assert len(all_ids) == len(set(all_ids))


def test_a_label_map_is_drawn_where_the_label_differs(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    seen = make_report(config)
    rows = parquet.read(RunFolder(config.folder).part(0), ["label", "pred", "status"]).to_pylist()
    for index, row in enumerate(rows):
        differs = row["status"] == "ok" and row["label"] != row["pred"]
        assert (seen.folder / f"pictures/{index}-label.webp").exists() == differs


def test_a_picture_is_whole_and_its_layer_lies_where_the_model_looked(tmp_path: Path) -> None:
    """The model saw the middle 20 x 20 of 40 x 60 pixels; heat is in its upper left of 2 x 3."""
    seen = make_report(make_run(tmp_path, preprocess=FITTED | {"crop": [20, 20]}))
    picture = cv2.imread(str(seen.folder / "pictures/0.webp"), cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    assert picture.shape == (*SIZE, 3)
    np.testing.assert_array_equal(picture[20, 10], [255, 0, 0])
    np.testing.assert_array_equal(picture[20, 50], [0, 0, 255])
    layer = cv2.imread(str(seen.folder / "pictures/0-pred.webp"), cv2.IMREAD_UNCHANGED)
    assert layer is not None
    height, width = layer.shape[:2]
    assert width / height == pytest.approx(SIZE[1] / SIZE[0], rel=0.02)
    opaque = layer[..., 3] > 128
    rows, columns = np.nonzero(opaque)
    # from a quarter to a half of the height, and from a third to four ninths of the width
    assert rows.min() / height > 0.2
    assert rows.max() / height < 0.6
    assert columns.min() / width > 0.3
    assert columns.max() / width < 0.5
    frames = [
        attrs
        for tag, attrs in seen.details[0].elements
        if tag == "rect" and attrs["class"] == "line"
    ]
    assert [frames[0][side] for side in ("x", "y", "width", "height")] == [
        "0.3333", "0.25", "0.3333", "0.5",
    ]  # fmt: skip


def test_only_the_first_suspects_are_drawn_and_all_are_listed(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    config.report.suspects = 2
    config.report.examples = 0
    seen = make_report(config)
    assert len(seen.cards) == len(seen.details) == 2
    assert "2 of 7 suspects have pictures" in seen.text
    entries = seen.data("list-0")
    assert [entry[0] for entry in entries] == list(range(1, 8))
    drawn = {path for path in seen.files("pictures") if re.fullmatch(r"pictures/\d+\.webp", path)}
    assert drawn == {"pictures/0.webp", "pictures/1.webp"}


def test_the_list_holds_what_a_decision_is_taken_on(nasty: Report) -> None:
    first = nasty.data("list-0")[0]
    assert first[0] == 1
    assert first[1].startswith("0 ")
    assert first[2] == first[3] == NASTY[0]
    assert first[4:6] == ["ambiguous", "f<1>"]
    assert first[6] == 0.75
    assert first[10:13] == [60, 40, 0.25]
    assert first[13] == f"because of {NASTY[0]}"


def test_a_suspect_is_told_with_probabilities_and_focus_beside_its_class(tmp_path: Path) -> None:
    seen = make_report(make_run(tmp_path, names=["w", "x", "y", "z"]))
    place = next(i for i, entry in enumerate(seen.data("list-0")) if entry[2] != entry[3])
    detail = " ".join(seen.details[place].text.split())
    _, image_id, label, pred, *_ = seen.data("list-0")[place]
    assert f"{pred} 75.0%, labelled {label}" in detail
    assert f"{pred} 75.0%" in detail.split("Probabilities")[1]
    assert f"{label} (label) 6.2%" in detail
    of_class = [entry for entry in seen.data("list-0") if entry[3] == pred]
    borders = [0.1 * int(entry[1].split()[0]) for entry in of_class]
    own = 0.1 * int(image_id.split()[0])
    below = np.mean([value < own for value in borders])
    assert f"border {own:.2f} {np.median(borders):.2f} {100 * below:.0f}%" in detail


def test_a_finding_is_shown_with_its_proof(nasty: Report) -> None:
    for words_shown in (
        "Examples of the interventions",
        "12.5% for",
        "87.5% for",
        "loses 25.0% of its probability without the cue",
        "95% interval 60.0% to 80.0%",
    ):
        assert words_shown in nasty.text
    (alt,) = [words for words in nasty.index.values("img", "alt") if "Adding the cue" in words]
    assert "Adding the cue flips 80.0%" in alt
    assert "the control flips 10.0%" in alt
    assert "95% interval 60.0% to 80.0%" in alt
    assert nasty.pages["findings/1.html"].values("td", "data-value") == ["0.25"]


def test_the_region_is_told_in_the_frame_of_the_whole_picture(tmp_path: Path) -> None:
    """The model saw the middle 30 of 60 pixels across; its lower right quarter is the region."""
    seen = make_report(make_run(tmp_path, preprocess=FITTED | {"crop": [40, 30]}))
    rects = [
        attrs for tag, attrs in seen.index.elements if tag == "rect" and attrs["class"] == "line"
    ]
    sides = {tuple(rect[side] for side in ("x", "y", "width", "height")) for rect in rects}
    assert ("0.25", "0", "0.5", "1") in sides  # what was seen
    assert ("0.5", "0.5", "0.25", "0.5") in sides  # the cue, on a whole picture
    assert ("0.5", "0.5", "0.5", "0.5") in sides  # the cue, on the mean of what was seen


def test_the_mean_picture_is_the_mean_of_what_was_seen(tmp_path: Path) -> None:
    seen = make_report(make_run(tmp_path, preprocess=FITTED | {"crop": [40, 30]}))
    mean = cv2.imread(str(seen.folder / "pictures/mean-0.webp"), cv2.IMREAD_COLOR_RGB)
    assert mean is not None
    assert mean.shape == (192, 144, 3)
    np.testing.assert_allclose(mean[96, 10], [255, 0, 0], atol=8)
    np.testing.assert_allclose(mean[96, 134], [0, 0, 255], atol=8)


def test_classes_have_pages_with_their_confusions(tmp_path: Path) -> None:
    config = make_run(tmp_path, names=["w", "x", "y", "z"], failed=())
    seen = make_report(config)
    assert len([name for name in seen.pages if name.startswith("classes/")]) == 4 + 1
    rows = run_folder.rows(
        RunFolder(config.folder), run_folder.read_plan(RunFolder(config.folder)).setup
    ).to_table(columns=["label", "pred"])
    pairs = list(zip(rows["label"].to_pylist(), rows["pred"].to_pylist(), strict=True))
    wrong = [pair for pair in pairs if pair[0] != pair[1]]
    assert wrong
    for label, pred in set(wrong):
        number = "wxyz".index(label)
        text = " ".join(seen.pages[f"classes/{number}.html"].text.split())
        start, end = "Images with this label, predicted as", "Images predicted as this class"
        taken = text.split(start)[1].split(end)[0]
        assert f"{pred} {wrong.count((label, pred))} " in taken


def test_what_all_rows_say_is_counted(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    run = RunFolder(config.folder)
    setup = run_folder.read_plan(run).setup
    found = aggregates.count_rows(run_folder.rows(run, setup))
    rows = run_folder.rows(run, setup).to_table().to_pylist()
    good = [row for row in rows if row["status"] == "ok"]
    assert found.n_images == len(good) == 7
    assert sum(found.reasons.values()) == len(found.errors) == 2
    assert found.errors[0] == (rows[4]["image_id"], "broken <b>0</b>")
    right = sum(row["label"] == row["pred"] for row in good)
    assert found.right.sum() == found.right[15] == right  # all have a confidence of 0.75
    assert found.wrong.sum() == 7 - right
    pairs = {(row["label_index"], row["pred_index"]) for row in good}
    assert set(found.pairs) == pairs
    assert sum(found.pairs.values()) == 7


def test_focus_is_sampled_by_class_and_told_in_quantiles(tmp_path: Path) -> None:
    config = make_run(tmp_path, names=["w", "x", "y", "z"])
    run = RunFolder(config.folder)
    setup = run_folder.read_plan(run).setup
    rows = run_folder.rows(run, setup)
    column = aggregates.STATISTICS.index("focus_border")
    table = rows.to_table(columns=["index", "pred_index", "focus_border"], filter=EXPLAINED)
    by_class: dict[int, list[tuple[int, float]]] = {}
    for row in table.to_pylist():
        by_class.setdefault(row["pred_index"], []).append((row["index"], row["focus_border"]))
    whole = aggregates.sample_focus(rows, setup, 100, seed=0)
    for index in range(4):
        own = by_class.get(index, [])
        np.testing.assert_allclose(sorted(whole.of_class(index)[:, column]), [v for _, v in own])
        assert whole.examples(index, 100) == [i for i, _ in own]
        quantiles = whole.quantiles(index)[column]
        if own:
            np.testing.assert_allclose(
                quantiles, np.quantile([v for _, v in own], aggregates.QUANTILES)
            )
        else:
            assert np.isnan(quantiles).all()
    few = aggregates.sample_focus(rows, setup, 1, seed=0)
    assert [len(few.of_class(index)) for index in range(4)] == [
        bool(by_class.get(i)) for i in range(4)
    ]


@pytest.mark.parametrize(
    ("options", "sentences"),
    [
        (
            {"labelled": False},
            ["no labels", "1 confirmed shortcut, 7 suspects, 2 images could not"],
        ),
        ({"found": False}, ["No shortcut was found.", "There are no suspects.", "no suspects"]),
        ({"failed": ()}, ["Every planned image was read and explained."]),
        (
            {"failed": tuple(range(9))},
            ["No image could be audited", "9 images of 9", "broken <b>1</b>"],
        ),
    ],
)
def test_empty_cases_are_told_in_words(
    tmp_path: Path, options: dict[str, Any], sentences: list[str]
) -> None:
    seen = make_report(make_run(tmp_path, **options))
    for sentence in sentences:
        assert sentence in seen.text


def test_pictures_that_are_gone_become_their_reason(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    image_id = run_folder.read_plan(RunFolder(config.folder)).table["image_id"][0].as_py()
    (tmp_path / "data" / image_id).unlink()
    seen = make_report(config)
    assert seen.text.count("No picture.") == 2  # as a suspect and as an example
    assert "No picture." in seen.details[0].text
    assert "No picture." not in seen.details[1].text
    shutil.rmtree(tmp_path / "data")
    assert all("No picture." in detail.text for detail in make_report(config).details)


def test_a_signal_while_a_picture_is_read_ends_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_index: int, _image_id: str) -> pictures.Rgb:
        raise Stopped(15)

    monkeypatch.setattr(report, "open_reader", lambda *_: read)
    with pytest.raises(Stopped):
        make_report(make_run(tmp_path))


def test_another_image_in_its_place_is_not_shown(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    lines = Path(config.dataset.path).read_text(encoding="utf-8").splitlines(keepends=True)
    Path(config.dataset.path).write_text("".join([lines[0], *lines[:0:-1]]), encoding="utf-8")
    assert "the dataset has changed since it was audited" in make_report(config).text


def test_dark_and_small_pictures_can_be_seen_and_say_so(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    plan = run_folder.read_plan(RunFolder(config.folder)).table
    dark = np.full((*SIZE, 3), 4, np.uint8)
    (tmp_path / "data" / plan["image_id"][1].as_py()).write_bytes(
        cv2.imencode(".png", dark)[1].tobytes()
    )
    seen = make_report(config)
    shown = cv2.imread(str(seen.folder / "pictures/1.webp"))
    assert shown is not None
    assert shown.mean() == 64
    assert "is shown 16.0 times brighter" in seen.details[1].text
    assert "times brighter" not in seen.details[0].text
    stacks = [
        attrs["class"]
        for tag, attrs in seen.cards[0].elements
        if "stack" in str(attrs.get("class"))
    ]
    assert stacks == ["stack small"]  # its pixels stay sharp


def test_warnings_about_the_audit_come_first(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    journal = Journal(config)
    journal.warn("half of the maps <i>are empty</i>")
    journal.verification |= {"map_similarity_random_head": 0.12, "false_findings": "expect none"}
    journal.engine |= {
        "precision": "bf16",
        "bf16": {"top1": 0.995, "cosine": 0.9991, "images": 128},
    }
    report.run(config, journal)
    text = Report(RunFolder(config.folder).report).text
    assert 0 < text.index("half of the maps <i>are empty</i>") < text.index("passed")
    assert "is 0.12" in text
    assert "expect none" in text
    assert "the mean cosine of the heatmaps is 0.9991" in text


def test_changes_against_a_baseline_have_a_section(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    assert "What changed" not in make_report(config).text
    rows = [
        {"subject": "run", "change": "worse", "key": "accuracy", "before": 0.9, "after": 0.8,
         "p_value": 0.01, "q_value": 0.01},
        {"subject": "finding", "change": "new", "key": "f", "class_name": NASTY[0],
         "summary": f"{NASTY[0]}: a patch."},
        {"subject": "class", "change": "worse", "key": NASTY[1], "class_name": NASTY[1],
         "before": 0.9, "after": 0.5, "q_value": 0.001, "summary": "worse now"},
        {"subject": "suspect", "change": "gone", "key": "a.png", "kind": "shortcut"},
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, CHANGES)
    path = RunFolder(config.folder).analysis("changes")
    parquet.write(table.replace_schema_metadata({b"baseline": b"outputs/<b>last week</b>"}), path)
    seen = make_report(config)
    assert "Compared with the run in outputs/<b>last week</b>" in seen.text
    assert "1 new finding, 1 worse class, 1 gone suspect" in seen.text
    assert "Accuracy was 90.0% and is 80.0% (p 0.01)" in seen.text
    assert f"{NASTY[0]}: a patch." in seen.text
    assert "worse now (q 0.001)" in seen.text


def test_a_baseline_needs_its_comparison(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    config.baseline = "outputs/last"
    with pytest.raises(NotFinished, match=r"changes\.parquet"):
        make_report(config)


def test_earlier_decisions_are_counted_and_handed_to_the_page(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    rows = [
        {"image_id": f"{i}.png", "mark": "fine", "note": "a\n<b>", "state": state}
        for i, state in enumerate(("left_out", "left_out", "waiting"))
    ]
    parquet.write(
        pa.Table.from_pylist(rows, DECISIONS), RunFolder(config.folder).analysis("decisions")
    )
    seen = make_report(config)
    assert "2 fine and left out, 1 not yet carried out in the dataset" in seen.text
    assert [row["note"] for row in seen.data("decisions")] == ["a\n<b>"] * 3


def test_exports_lie_beside_the_page(nasty: Report) -> None:
    assert nasty.files("exports") == [
        "exports/label-studio.json",
        "exports/label-studio.xml",
        "exports/spotlight.parquet",
        "exports/suspects.csv",
    ]
    table = pq.read_table(nasty.folder / "exports/spotlight.parquet")
    assert table.num_rows == 7
    assert table["heatmap"].null_count == 0


def test_an_unknown_colour_map_is_refused_before_any_work(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    config.report.colormap = "mauve"
    with pytest.raises(ConfigError, match=r"'mauve' is none of .*viridis"):
        make_report(config)
    assert not RunFolder(config.folder).report.exists()


def test_the_look_is_the_one_that_was_set(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    config.report.colormap, config.report.alpha = "jet", 0.25
    seen = make_report(config)
    assert "--alpha: 0.25;" in (seen.folder / "style.css").read_text()
    alone = cv2.imread(str(seen.folder / "pictures/0-pred-alone.webp"), cv2.IMREAD_COLOR_RGB)
    assert alone is not None
    np.testing.assert_allclose(alone[-1, -1], [0, 0, 128], atol=12)  # cold, in jet


def test_an_old_report_stays_whole_until_the_new_one_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_run(tmp_path)
    folder = make_report(config).folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(Pages, "write_assets", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_report(config)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (folder / "pictures/stale.webp").touch()
    make_report(config)
    assert not (folder / "pictures/stale.webp").exists()
    assert not list(folder.parent.glob(".report*"))


def test_the_same_tables_give_the_same_report(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    journal = Journal(config)
    folder = RunFolder(config.folder).report
    contents = []
    for _ in range(2):
        report.run(config, journal)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        contents.append([(path, path.read_bytes()) for path in files])
    for one, other in zip(*contents, strict=True):
        assert one == other


def test_a_missing_table_names_the_way_on(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    RunFolder(config.folder).analysis("suspects").unlink()
    with pytest.raises(NotFinished, match=r"suspects.parquet is not there yet; run the stage"):
        make_report(config)


def test_a_run_of_an_earlier_version_has_no_interventions_or_decisions(tmp_path: Path) -> None:
    config = make_run(tmp_path)
    for name in ("interventions", "decisions"):
        RunFolder(config.folder).analysis(name).unlink()
    assert "Examples of the interventions" not in make_report(config).text


def test_statistics_that_are_shown_are_in_the_table() -> None:
    assert set(words.FOCUS) <= set(part_schema((1, 1), 1).names)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0, "< 0.001"), (0.0312345, "0.0312"), (-1.5, "-1.5")]
)
def test_numbers_are_told_in_three_digits(value: float | None, text: str) -> None:
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.24, "4.2 s"), (59.9, "59.9 s"), (200.4, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_are_told_in_their_units(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(1, "class", "1 class"), (2, "class", "2 classes"), (2000, "image", "2,000 images")],
)
def test_plurals(number: int, noun: str, text: str) -> None:
    assert words.plural(number, noun) == text


def test_of_many_findings_the_first_are_cards_and_all_have_pages(tmp_path: Path) -> None:
    config = make_run(tmp_path, names=["w", "x", "y", "z"])
    run = RunFolder(config.folder)
    (finding,) = parquet.read(run.analysis("findings")).to_pylist()
    ids = run_folder.read_plan(run).table["image_id"].to_pylist()
    rows = [
        {**finding, "finding_id": f"f{i}", "example_ids": [ids[i % 4]], "summary": f"number {i}."}
        for i in range(25)
    ]
    members = [
        {"finding_id": f"f{i}", "index": i % 4, "image_id": ids[i % 4], "reliance": None}
        for i in range(25)
    ]
    for name, made in (("findings", rows), ("members", members)):
        schema = parquet.read(run.analysis(name)).schema
        parquet.write(pa.Table.from_pylist(made, schema), run.analysis(name))
    config.report.suspects = config.report.examples = 0
    seen = make_report(config)
    articles = [tag for tag, _ in seen.index.elements].count("article")
    assert articles == 20
    assert "5 more findings" in seen.text
    assert "number 24." in seen.text
    for number in (1, 25):
        assert f"number {number - 1}." in seen.pages[f"findings/{number}.html"].text
        assert ids[(number - 1) % 4] in seen.pages[f"findings/{number}.html"].text
