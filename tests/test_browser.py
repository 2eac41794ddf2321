"""The report in a real Chromium: opened from disk, asking for nothing outside its folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright
from test_report import NASTY, make_report, make_run

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


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
    """A report full of hostile names."""
    return make_report(make_run(tmp_path_factory.mktemp("run"))).folder


class Watched:
    """A page on its way through the browser: what it asked for, and what it complained of."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page, self.folder = page, folder
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda request: self.complaints.append(request.url))
        page.goto((folder / "index.html").as_uri())


@pytest.fixture
def watched(browser: Browser, folder: Path) -> Iterator[Watched]:
    """The report, opened from disk."""
    page = browser.new_page()
    yield Watched(page, folder)
    page.close()


def scroll_through(page: Page) -> None:
    """Bring every image into view, one after the other."""
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()
    page.wait_for_function("[...document.images].every((image) => image.complete)")


def shown(page: Page) -> int:
    """Number of suspects that the filter leaves."""
    return page.locator(".suspect:visible").count()


def test_every_image_loads_and_nothing_else_is_asked_for(watched: Watched) -> None:
    scroll_through(watched.page)
    widths = watched.page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert widths
    assert min(widths) > 0
    assert watched.complaints == []
    assert all(url.startswith(watched.folder.as_uri() + "/") for url in watched.requests)


def test_names_run_nothing(watched: Watched) -> None:
    scroll_through(watched.page)
    assert watched.page.title() == "audit – camaudit"
    assert watched.page.locator("script").count() == 1
    names = watched.page.locator("#classes ~ .scroll tbody th").all_text_contents()
    assert sorted(names) == sorted(NASTY)


def test_the_filter_narrows_the_suspects(watched: Watched) -> None:
    page, total = watched.page, shown(watched.page)
    page.get_by_role("combobox", name="Kind").select_option("ambiguous")
    of_kind = shown(page)
    assert 0 < of_kind < total
    page.get_by_role("combobox", name="Kind").select_option("")
    page.get_by_role("combobox", name="Class").select_option(NASTY[1])
    of_class = shown(page)
    assert 0 < of_class < total
    page.get_by_role("combobox", name="Class").select_option("")
    page.get_by_role("searchbox", name="Text").fill("BECAUSE OF " + NASTY[0].upper())
    assert 0 < shown(page) < total
    assert page.locator("#filter output").text_content() == f"{shown(page)} of {total} shown"
    page.get_by_role("searchbox", name="Text").fill("no such text")
    assert shown(page) == 0


def test_without_scripts_everything_is_shown(browser: Browser, folder: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto((folder / "index.html").as_uri())
    assert shown(page) == page.locator(".suspect").count() > 0
    assert not page.locator("#filter").is_visible()
    page.close()


def test_the_classes_sort_by_what_is_clicked(watched: Watched) -> None:
    page = watched.page
    names = page.locator("table.sortable tbody th")
    heading = page.get_by_role("columnheader", name="Class")
    page.get_by_role("button", name="Class").click()
    rising = names.all_text_contents()
    assert heading.get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="Class").click()
    assert names.all_text_contents() == rising[::-1]
    assert heading.get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_layout_holds_long_names(
    browser: Browser, folder: Path, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto((folder / "index.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 128")
    assert dark == (scheme == "dark")
    page.close()


def test_a_thousand_classes_load_their_maps_only_when_seen(
    browser: Browser, tmp_path: Path
) -> None:
    names = [f"class {i}" for i in range(1000)]
    folder = make_report(make_run(tmp_path, names=names)).folder
    page = browser.new_page()
    watched = Watched(page, folder)
    page.wait_for_load_state("networkidle")
    assert sum("class-" in url for url in watched.requests) < 100
    last = page.get_by_alt_text("Mean heatmap of class 999", exact=True)
    last.scroll_into_view_if_needed()
    page.wait_for_function("(image) => image.complete", arg=last.element_handle())
    assert last.evaluate("image => image.naturalWidth") > 0
    page.close()


def test_the_region_is_drawn_where_the_finding_has_it(watched: Watched) -> None:
    image = watched.page.locator(".marked img").first.bounding_box()
    frame = watched.page.locator(".marked rect.line").first.bounding_box()
    assert image is not None
    assert frame is not None
    assert frame["x"] == pytest.approx(image["x"] + image["width"] / 2, abs=2)
    assert frame["y"] == pytest.approx(image["y"] + image["height"] / 2, abs=2)
    assert frame["width"] == pytest.approx(image["width"] / 2, abs=3)
