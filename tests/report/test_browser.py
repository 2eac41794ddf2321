"""The report in a real Chromium: opened from disk, asking for nothing outside its folder."""

from __future__ import annotations

import functools
import http.server
import io
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from axe_playwright_python.sync_playwright import Axe
from hydra import compose, initialize_config_dir
from PIL import Image
from playwright.sync_api import Browser, Error, Page, Request, expect, sync_playwright
from test_report import make_report

from helpers.small_run import NASTY, make_run
from pipeline.analysis.ranking import decisions
from pipeline.config import Config, conf_dir, load
from pipeline.report import overlay
from pipeline.stages.audit import audit
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.schema import FINDINGS

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ARTEFACTS = Path(__file__).parents[2] / "outputs" / "test-artefacts" / "report"
"""Screenshots that are left to be looked at."""
N_IMAGES, N_SUSPECTS = 130, 128
WIDTHS = {"desktop": 1280, "phone": 390}
SECTIONS = ["run", "findings", "suspects", "classes", "confusion", "errors", "changes"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium, or Playwright's own."""
    path = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        except Error as error:
            pytest.fail(f"no browser: install chromium, or `playwright install chromium`: {error}")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report full of hostile names, with more suspects than a page shows at once."""
    return make_report(make_run(tmp_path_factory.mktemp("run"), n_images=N_IMAGES)).folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick audit of the demo, with a report against a made-up baseline; its run folder."""
    output = tmp_path_factory.mktemp("demo")
    audit(demo_settings(output, "stages=[explain,discover,verify,rank]"))
    make_baseline(RunFolder(output / "now"), RunFolder(output / "before"))
    audit(demo_settings(output, f"baseline={output}/before", "stages=[compare,report]"))
    return output / "now"


def demo_settings(output: Path, *overrides: str) -> Config:
    """Settings of an audit of the demo on a small sample, run_id=now."""
    wanted = ["dataset=demo", "model=demo", f"output_dir={output}", "run_id=now", *overrides]
    quick = ["analysis.sample_per_class=100", "analysis.trials=40", "analysis.permutations=4"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = load(compose("config", [*quick, *wanted]))
    config.folder.mkdir(parents=True, exist_ok=True)
    return config


def make_baseline(now: RunFolder, before: RunFolder) -> None:
    """An earlier run without findings, with fewer suspects, and with one class that was better."""
    shutil.copytree(now.path, before.path)
    parquet.write(FINDINGS.empty_table(), before.analysis("findings"))
    suspects = parquet.read(now.analysis("suspects"))
    parquet.write(suspects.slice(10), before.analysis("suspects"))
    classes = parquet.read(now.analysis("classes")).to_pylist()
    classes[4]["n_correct"] = classes[4]["n_label"]
    schema = parquet.read(now.analysis("classes")).schema
    parquet.write(pa.Table.from_pylist(classes, schema), before.analysis("classes"))


class Watched:
    """A page on its way through the browser: what it asked for, and what it complained of."""

    def __init__(self, page: Page, folder: Path, path: str = "index.html") -> None:
        self.page, self.folder = page, folder
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", self._failed)
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        page.goto((folder / path).as_uri())

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # pictures that are not waited for
            self.complaints.append(f"{request.url}: {request.failure}")

    def check(self) -> None:
        """Nothing went wrong, and nothing outside of the folder was asked for."""
        assert self.complaints == []
        own = self.folder.as_uri() + "/"
        assert all(url.startswith((own, "blob:")) for url in self.requests)


@pytest.fixture
def watched(browser: Browser, folder: Path) -> Iterator[Watched]:
    """The report, opened from disk; whatever a test does, the page complains of nothing."""
    page = browser.new_page()
    seen = Watched(page, folder)
    page.wait_for_selector("#filter:not([hidden])")
    yield seen
    seen.check()
    page.close()


def cards(page: Page) -> list[int]:
    """Ranks of the suspects that are shown."""
    ranks = page.locator("#gallery .card").evaluate_all("nodes => nodes.map(n => n.dataset.rank)")
    return [int(rank) for rank in ranks]


def count(page: Page) -> str:
    return page.locator("#count").inner_text()


def choose(page: Page, name: str, value: str) -> None:
    page.locator(f"#filter [name={name}]").select_option(value)


def scroll_through(page: Page) -> None:
    """Bring every image into view, one after the other."""
    for image in page.locator("img:visible").all():
        image.scroll_into_view_if_needed()
    page.wait_for_function("[...document.images].every((image) => image.complete)")


def test_every_image_loads(watched: Watched) -> None:
    scroll_through(watched.page)
    widths = watched.page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert len(widths) > 24
    assert min(widths) > 0


def test_names_run_nothing_wherever_they_are_shown(watched: Watched) -> None:
    page = watched.page
    for rank in range(1, 9):
        page.locator(f".open[data-rank='{rank}']").click()
        expect(page.locator("#viewer-title .rank")).to_have_text(str(rank))
        page.keyboard.press("Escape")
    choose(page, "view", "table")
    expect(page.locator("#rows tr").first).to_be_visible()
    page.locator("#filter [name=class]").fill(NASTY[0])
    expect(page.locator("#count")).to_contain_text("in all")
    assert page.title() == "audit – camaudit"
    assert page.locator("#classes ~ .scroll").first.locator("tbody th").count() == len(NASTY)
    for name in NASTY:
        assert name in page.locator("#rows").inner_text() + page.locator("main").inner_text()


def test_the_filter_narrows_the_suspects(watched: Watched) -> None:
    page = watched.page
    assert count(page) == f"24 of {N_SUSPECTS} shown"
    choose(page, "kind", "ambiguous")
    expect(page.locator("#count")).to_have_text(f"48 of 64 shown, {N_SUSPECTS} in all")
    assert all(rank % 2 for rank in cards(page))
    choose(page, "finding", "f<1>")
    expect(page.locator("#count")).to_have_text(f"1 of 1 shown, {N_SUSPECTS} in all")
    assert cards(page) == [1]
    choose(page, "finding", "")
    choose(page, "kind", "")
    page.locator("#filter [name=class]").fill(NASTY[1])
    expect(page.locator("#count")).to_contain_text("in all")
    page.locator("#filter [name=class]").fill("")
    page.get_by_role("searchbox", name="Text").fill("BECAUSE OF " + NASTY[0].upper())
    expect(page.locator("#count")).to_contain_text("in all")
    assert 0 < len(cards(page)) < N_SUSPECTS
    page.get_by_role("searchbox", name="Text").fill("no such text")
    expect(page.locator("#count")).to_have_text(f"0 of 0 shown, {N_SUSPECTS} in all")
    assert page.locator("#more").is_hidden()


def test_more_suspects_are_fetched_when_asked_for(watched: Watched) -> None:
    page = watched.page
    assert sum("data/cards-" in url for url in watched.requests) == 0
    assert cards(page) == list(range(1, 25))
    for shown in (72, 120, 128):
        page.get_by_role("button", name="Show more").click()
        expect(page.locator("#count")).to_have_text(f"{shown} of {N_SUSPECTS} shown")
        assert cards(page) == list(range(1, shown + 1))
    assert page.locator("#more").is_hidden()


def test_the_order_is_the_one_asked_for(watched: Watched) -> None:
    page = watched.page
    choose(page, "view", "table")
    header = page.locator("#listing thead")
    expect(header.locator("th").first).to_have_attribute("aria-sort", "ascending")
    header.get_by_role("button", name="Rank").click()
    expect(page.locator("#rows tr").first).to_have_attribute("data-rank", str(N_SUSPECTS))
    expect(header.locator("th").first).to_have_attribute("aria-sort", "descending")
    header.get_by_role("button", name="Prediction").click()
    expect(header.locator("th").nth(3)).to_have_attribute("aria-sort", "ascending")
    names = page.locator("#rows tr td:nth-child(4)").all_inner_texts()
    in_order = page.evaluate("names => names.toSorted((a, b) => a.localeCompare(b))", names)
    assert names == in_order
    assert len(set(names)) > 1
    choose(page, "view", "gallery")
    choose(page, "order", "rank")
    expect(page.locator("#gallery .card").first).to_have_attribute("data-rank", "1")


def test_a_suspect_opens_and_the_keyboard_leads_on(watched: Watched) -> None:
    page = watched.page
    page.locator(".open[data-rank='3']").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(dialog.locator("#position")).to_have_text(f"3 of {N_SUSPECTS}")
    page.keyboard.press("ArrowRight")
    expect(dialog.locator("#position")).to_have_text(f"4 of {N_SUSPECTS}")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(dialog.locator("#position")).to_have_text(f"1 of {N_SUSPECTS}")
    assert dialog.get_by_role("button", name="Previous").is_disabled()
    assert page.url.endswith("#suspect-1")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator(".open[data-rank='1']")).to_be_focused()


def test_the_slider_lays_the_heatmap_over_the_picture(watched: Watched) -> None:
    page = watched.page
    page.locator(".open[data-rank='1']").click()
    layer = page.locator("#detail .large .layer.pred")
    expect(layer).to_have_css("opacity", "0.5")
    slider = page.get_by_role("slider", name="Heatmap")
    slider.focus()
    page.keyboard.press("Home")
    expect(layer).to_have_css("opacity", "0")
    slider.fill("0.8")
    expect(layer).to_have_css("opacity", "0.8")
    page.keyboard.press("Escape")
    page.locator(".open[data-rank='2']").click()
    expect(layer).to_have_css("opacity", "0.8")  # as it was left


def test_the_heatmap_of_the_label_can_be_laid_over_it_instead(watched: Watched) -> None:
    page = watched.page
    entry = next(
        rank for rank in range(1, 20)
        if page.locator(f"#suspect-{rank} .label").count()
    )  # fmt: skip
    page.locator(f".open[data-rank='{entry}']").click()
    layers = page.locator("#detail .large")
    expect(layers.locator(".layer.pred")).to_be_visible()
    expect(layers.locator(".layer.label")).to_be_hidden()
    page.locator("#detail [name=map][value=label]").check()
    expect(layers.locator(".layer.pred")).to_be_hidden()
    expect(layers.locator(".layer.label")).to_be_visible()
    assert page.locator("#detail .three figure").count() == 3


def test_what_the_browser_shows_is_the_overlay(browser: Browser, demo: Path) -> None:
    """The picture on the screen, beside the one that Python draws from the table."""
    row = parquet.read(RunFolder(demo).analysis("suspects"), ["index", "image_id"]).to_pylist()[0]
    setup = run_folder.read_plan(RunFolder(demo)).setup
    rows = run_folder.rows(RunFolder(demo), setup)
    heatmap = rows.at(np.array([row["index"]]), ["heatmap"])["heatmap"][0].as_py()
    picture = cv2.imread(str(demo / f"report/pictures/{row['index']}.webp"), cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto((demo / "report/index.html").as_uri())
    page.wait_for_selector("#filter:not([hidden])")
    page.locator(".open[data-rank='1']").click()
    stack = page.locator("#detail .large .stack")
    page.wait_for_load_state("networkidle")
    stack.evaluate("node => { node.style.borderRadius = 0; }")
    shot = np.asarray(Image.open(io.BytesIO(stack.screenshot())).convert("RGB"), float)
    large = cv2.resize(picture, shot.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    wanted = overlay.overlay(large, np.reshape(heatmap, setup.grid), 0.5).astype(float)
    off = np.abs(shot - wanted).max(axis=2)
    assert np.median(off) < 3
    assert np.quantile(off, 0.95) < 20  # edges of enlarged pixels may be one pixel off
    page.close()


class Reviewer:
    """A person with a browser of their own, and the report of a run in it."""

    def __init__(self, browser: Browser, run: Path) -> None:
        self.context = browser.new_context(accept_downloads=True)
        self.page = self.context.new_page()
        self.watched = Watched(self.page, run / "report")
        self.page.wait_for_selector("#filter:not([hidden])")
        self.dialog = self.page.get_by_role("dialog")

    def open(self, rank: int) -> None:
        self.page.locator(f".open[data-rank='{rank}']").click()
        expect(self.dialog).to_be_visible()

    def save(self, path: Path) -> dict[str, dict[str, Any]]:
        """Press the button, and what the file holds as the ranking reads it."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name="Save decisions.csv").click()
        assert download.value.suggested_filename == "decisions.csv"
        download.value.save_as(path)
        return decisions.read_decisions(str(path))

    def leave(self) -> None:
        self.watched.check()
        self.context.close()


def suspects_of(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read(RunFolder(run).analysis("suspects")).to_pylist()
    return found


def test_decisions_are_kept_in_the_browser(browser: Browser, demo: Path) -> None:
    reviewer = Reviewer(browser, demo)
    page, dialog, total = reviewer.page, reviewer.dialog, len(suspects_of(demo))
    reviewer.open(1)
    page.keyboard.press("3")
    expect(dialog.get_by_role("button", name="fine", pressed=True)).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(dialog.locator("#position")).to_contain_text("2 of")
    dialog.get_by_role("button", name="fix label").click()
    page.keyboard.press("ArrowRight")
    expect(dialog.locator("#position")).to_contain_text("3 of")
    page.keyboard.press("2")
    page.keyboard.press("2")  # pressed again, it is taken back
    expect(dialog.locator("[aria-pressed=true]")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.locator("#reviewed")).to_have_text(f"2 decided, {total - 2} open")
    expect(page.locator("#tile-open")).to_have_text(f"{total - 2}")
    page.reload()
    page.wait_for_selector("#filter:not([hidden])")
    expect(page.locator("#suspect-1 .mark")).to_have_text("fine")
    choose(page, "status", "fix_label")
    expect(page.locator("#count")).to_have_text(f"1 of 1 shown, {total} in all")
    assert cards(page) == [2]
    choose(page, "status", "open")
    expect(page.locator("#gallery .card").first).to_have_attribute("data-rank", "3")
    reviewer.leave()


def test_decisions_are_saved_read_by_the_next_run_and_kept_by_the_one_after(
    browser: Browser, demo: Path, tmp_path: Path
) -> None:
    run = tmp_path / "now"
    shutil.copytree(demo, run)
    before = suspects_of(run)
    reviewer = Reviewer(browser, run)
    reviewer.open(1)
    reviewer.page.keyboard.press("3")
    reviewer.page.keyboard.press("ArrowRight")
    expect(reviewer.dialog.locator("#position")).to_contain_text("2 of")
    reviewer.dialog.get_by_label("Note").fill('a "sandal", not\ta boot')
    reviewer.dialog.get_by_role("button", name="fix label").click()
    reviewer.page.keyboard.press("Escape")
    saved = reviewer.save(tmp_path / "decisions.csv")
    reviewer.leave()
    marks = {before[0]["image_id"]: "fine", before[1]["image_id"]: "fix_label"}
    assert {name: row["mark"] for name, row in saved.items()} == marks
    assert saved[before[1]["image_id"]]["note"] == 'a "sandal", not\ta boot'

    rank_again(run, tmp_path / "decisions.csv")
    after = suspects_of(run)
    assert before[0]["image_id"] not in {row["image_id"] for row in after}
    assert (after[0]["image_id"], after[0]["decision"]) == (before[1]["image_id"], "fix_label")

    # Saved by somebody who decides nothing, the file still keeps away what is no suspect any more.
    reviewer = Reviewer(browser, run)
    told = " ".join(reviewer.page.inner_text("main").split())
    assert "1 fine and left out, 1 not yet carried out" in told
    expect(reviewer.page.locator("#suspect-1 .mark")).to_have_text("fix label")
    again = reviewer.save(tmp_path / "again.csv")
    reviewer.leave()
    assert {name: row["mark"] for name, row in again.items()} == marks


def test_a_decision_does_not_outlive_what_it_was_taken_on(browser: Browser, folder: Path) -> None:
    """Kept in the browser on a row that says something else now, as after another run."""
    page = browser.new_page()
    page.goto((folder / "index.html").as_uri())
    page.wait_for_selector("#filter:not([hidden])")
    for rank in (1, 2):
        page.locator(f".open[data-rank='{rank}']").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("3")
        page.keyboard.press("Escape")
    page.evaluate(
        """() => {
            const key = Object.keys(localStorage)[0];
            const kept = JSON.parse(localStorage.getItem(key));
            Object.values(kept)[0].confidence -= 0.1;
            localStorage.setItem(key, JSON.stringify(kept));
        }"""
    )
    page.reload()
    page.wait_for_selector("#filter:not([hidden])")
    expect(page.locator("#suspect-2 .mark")).to_have_text("fine")
    expect(page.locator("#suspect-1 .mark")).to_be_hidden()
    page.close()


def rank_again(run: Path, path: Path) -> None:
    """The stages rank and report once more, with decisions."""
    audit(demo_settings(run.parent, f"rank.decisions={path}", "stages=[rank,report]"))


@pytest.mark.parametrize(
    ("address", "ranks"),
    [
        ("#suspects?kind=shortcut", []),
        ("#suspects?finding=f%3C1%3E", [1]),
        ("#suspects?kind=ambiguous&text=0%20", [1]),
    ],
)
def test_addresses_lead_to_what_they_name(
    browser: Browser, folder: Path, address: str, ranks: list[int]
) -> None:
    page = browser.new_page()
    page.goto((folder / "index.html").as_uri() + address)
    expect(page.locator("#count")).to_contain_text("in all")
    assert cards(page)[:1] == ranks[:1]
    page.close()


def test_an_address_of_one_suspect_opens_it(browser: Browser, folder: Path) -> None:
    page = browser.new_page()
    page.goto((folder / "index.html").as_uri() + "#suspect-77")
    expect(page.locator("#position")).to_have_text(f"77 of {N_SUSPECTS}")
    page.close()


def test_pages_of_classes_and_findings_lead_back(browser: Browser, folder: Path) -> None:
    page = browser.new_page()
    seen = Watched(page, folder, "classes/1.html")
    scroll_through(page)
    page.get_by_role("link", name="Review them in the report").click()
    expect(page.locator("#count")).to_contain_text("in all")
    assert page.locator("#filter [name=class]").input_value() == NASTY[1]
    page.goto((folder / "findings/1.html").as_uri())
    scroll_through(page)
    page.get_by_role("link", name="Show those that are suspects").click()
    expect(page.locator("#count")).to_have_text(f"1 of 1 shown, {N_SUSPECTS} in all")
    seen.check()
    page.close()


def test_without_scripts_the_first_suspects_are_shown(browser: Browser, folder: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto((folder / "index.html").as_uri())
    assert page.locator(".card:visible").count() == 24
    assert not page.locator("#filter").is_visible()
    assert page.get_by_role("link", name="exports/suspects.csv").is_visible()
    page.close()


def test_a_missing_file_is_told(browser: Browser, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "report")
    (tmp_path / "report/data/cards-2.js").unlink()
    page = browser.new_page()
    page.goto((tmp_path / "report/index.html").as_uri())
    page.wait_for_selector("#filter:not([hidden])")
    page.get_by_role("button", name="Show more").click()
    expect(page.get_by_role("alert")).to_contain_text("data/cards-2.js cannot be read")
    page.close()


def test_a_web_server_will_do(browser: Browser, folder: Path) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
    page.wait_for_selector("#filter:not([hidden])")
    page.locator(".open[data-rank='2']").click()
    expect(page.locator("#position")).to_have_text(f"2 of {N_SUSPECTS}")
    assert errors == []
    page.close()
    server.shutdown()


def test_the_classes_sort_by_what_is_clicked(watched: Watched) -> None:
    page = watched.page
    table = page.locator("table.sortable").first
    names = table.locator("tbody th")
    heading = table.locator("thead th").first
    heading.get_by_role("button").click()
    rising = names.all_text_contents()
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.get_by_role("button").click()
    assert names.all_text_contents() == rising[::-1]
    assert heading.get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("path", ["index.html", "classes/3.html", "findings/1.html"])
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_the_layout_holds_long_names(
    browser: Browser, folder: Path, path: str, width: int, scheme: Any
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto((folder / path).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    headings = page.locator("thead th:visible").evaluate_all("all => all.map(n => n.clientHeight)")
    assert max(headings, default=0) < 90  # their words stay whole
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 128")
    assert dark == (scheme == "dark")
    if path == "index.html":
        page.wait_for_selector("#filter:not([hidden])")
        page.locator(".open[data-rank='4']").click()
        assert page.locator("#viewer").evaluate("node => node.scrollWidth <= node.clientWidth")
    page.close()


def test_many_classes_have_a_page_whose_maps_load_when_they_are_seen(
    browser: Browser, tmp_path: Path
) -> None:
    names = [f"class {i}" for i in range(400)]
    folder = make_report(make_run(tmp_path, names=names)).folder
    page = browser.new_page()
    watched = Watched(page, folder)
    page.wait_for_selector("#filter:not([hidden])")
    assert page.locator("table.sortable").first.locator("tbody tr").count() == 200
    page.get_by_role("link", name="all classes").click()
    page.wait_for_load_state("networkidle")
    assert page.locator("tbody tr").count() == 400
    assert sum("pictures/class-" in url for url in watched.requests) < 150
    last = page.get_by_alt_text("Mean heatmap of class 399", exact=True)
    last.scroll_into_view_if_needed()
    page.wait_for_function("(image) => image.complete", arg=last.element_handle())
    assert last.evaluate("image => image.naturalWidth") > 0
    page.close()


def test_the_region_is_drawn_where_the_finding_has_it(watched: Watched) -> None:
    stack = watched.page.locator(".finding .examples .stack").first
    image, frame = stack.bounding_box(), stack.locator(".cue rect.line").bounding_box()
    assert image is not None
    assert frame is not None
    assert frame["x"] == pytest.approx(image["x"] + image["width"] / 2, abs=2)
    assert frame["y"] == pytest.approx(image["y"] + image["height"] / 2, abs=2)
    assert frame["width"] == pytest.approx(image["width"] / 2, abs=3)


def test_paper_has_no_buttons(watched: Watched) -> None:
    watched.page.emulate_media(media="print")
    for place in ("nav", "#filter", "#toolbar", "#more"):
        assert watched.page.locator(place).first.is_hidden()
    assert watched.page.locator(".card").first.is_visible()


def gallery(page: Page) -> None:
    page.locator("#suspects").scroll_into_view_if_needed()


def table(page: Page) -> None:
    choose(page, "view", "table")
    expect(page.locator("#rows tr").first).to_be_visible()


def viewer(page: Page) -> None:
    page.locator(".open[data-rank='2']").click()
    expect(page.locator("#viewer")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("path", "prepare"),
    [
        ("index.html", gallery),
        ("index.html", table),
        ("index.html", viewer),
        ("classes/6.html", None),
        ("findings/1.html", None),
    ],
)
def test_axe_finds_no_serious_violation(
    browser: Browser, demo: Path, path: str, prepare: Callable[[Page], None] | None, scheme: Any
) -> None:
    page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    page.goto((demo / "report" / path).as_uri())
    if prepare:
        page.wait_for_selector("#filter:not([hidden])")
        prepare(page)
    found = Axe().run(page).response
    serious = [
        (each["id"], each["help"], [node["html"][:200] for node in each["nodes"][:3]])
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert len(found["passes"]) > 10
    page.close()


@pytest.mark.parametrize(("kind", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_every_section_is_kept_as_a_picture(
    browser: Browser, demo: Path, kind: str, scheme: Any
) -> None:
    """For people to look at: outputs/test-artefacts/report."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    size: Any = {"width": WIDTHS[kind], "height": 900}
    page = browser.new_page(viewport=size, color_scheme=scheme)
    seen = Watched(page, demo / "report")
    page.wait_for_selector("#filter:not([hidden])")
    for section in SECTIONS:
        page.evaluate("id => document.getElementById(id).scrollIntoView()", section)
        page.wait_for_timeout(150)
        page.screenshot(path=ARTEFACTS / f"{section}-{scheme}-{kind}.png")
    viewer(page)
    page.wait_for_timeout(150)
    page.screenshot(path=ARTEFACTS / f"suspect-{scheme}-{kind}.png")
    for path, name in (("classes/6.html", "class"), ("findings/1.html", "finding")):
        page.goto((demo / "report" / path).as_uri())
        page.evaluate("[...document.images].forEach((image) => { image.loading = 'eager'; })")
        page.wait_for_function("[...document.images].every((image) => image.complete)")
        page.screenshot(path=ARTEFACTS / f"{name}-{scheme}-{kind}.png", full_page=True)
    seen.check()
    page.close()
