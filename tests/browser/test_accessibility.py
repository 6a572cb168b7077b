"""axe-core finds nothing to object to, in either theme, on a desk or on a phone."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Site, Watch, give

Images = Callable[[str], Path]
OPTIONS: dict[str, Any] = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
}


THEMES = ("light", "dark")
WIDTHS = (320, 390, 1024, 1600)


@pytest.fixture
def page(browser: Browser, site: Site, watch: Watch) -> Iterator[Page]:
    context = browser.new_context(
        viewport={"width": 1024, "height": 900}, reduced_motion="reduce", locale="en-GB"
    )
    page = context.new_page()
    watch.on(page)
    page.goto(site.url, wait_until="networkidle")
    yield page
    context.close()
    assert watch.faults == []


def check(page: Page) -> None:
    """Run axe-core on a page in every theme and width."""
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            found = Axe().run(page, options=OPTIONS).response
            assert [
                (theme, width, rule["id"], rule["help"], [n["html"][:200] for n in rule["nodes"]])
                for rule in found["violations"]
            ] == []
            assert "color-contrast" in {rule["id"] for rule in found["passes"]}
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_asking(page: Page) -> None:
    page.locator(".sample img").first.wait_for()
    check(page)


def test_answers(page: Page, images: Images) -> None:
    """One page after another, so that the browser is started and the page loaded once."""
    for image in ("known.png", "shared.png", "strange.png", "long.png"):
        page.set_input_files("#file", images(image))
        page.wait_for_selector(f"figcaption:has-text('{image}')")
        page.wait_for_selector(".verdict")
        for summary in page.locator(".result summary").all()[:2]:
            summary.click()
        page.locator(".term").first.click()
        check(page)
        page.keyboard.press("Escape")
    page.get_by_role("button", name="Select a part").click()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Language").select_option("de")
    page.get_by_role("button", name="Fertig").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Übereinstimmung")
    check(page)
    page.get_by_role("button", name="Ausschnitt wählen").click()
    check(page)


def test_several_images(page: Page, images: Images) -> None:
    give(page, images("known.png"), images("words.png"), images("strange.png"))
    check(page)
    page.get_by_role("button", name="Ask one by one").click()
    expect(page.get_by_text("2 of 3 answered, 1 failed.")).to_be_visible()
    check(page)
    page.get_by_role("link", name="Ask about another image").click()
    give(page, images("known.png"), images("shared.png"), images("long.png"))
    page.get_by_role("button", name="Ask as one body of work").click()
    page.locator(".verdict").wait_for()
    for summary in page.locator(".result summary, .bystanders summary").all()[:2]:
        summary.click()
    check(page)


def test_waiting(page: Page, images: Images) -> None:
    page.route(re.compile(r"/attribute\?"), lambda route: None)
    page.set_input_files("#file", images("known.png"))
    expect(page.get_by_role("progressbar")).to_be_visible()
    check(page)


def test_comparing(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    page.locator(".hit").first.click()
    page.locator(".pair whence-picture img").wait_for()
    check(page)


def test_problems(page: Page, images: Images, watch: Watch) -> None:
    watch.errors_expected = True
    give(page, images("words.png"))
    check(page)


def test_settings(page: Page) -> None:
    page.get_by_role("button", name="Settings").click()
    check(page)


def test_a_missing_key(page: Page, watch: Watch) -> None:
    watch.errors_expected = True
    page.route(re.compile(r"/concepts\?"), lambda route: route.fulfill(status=401, body="{}"))
    page.get_by_role("link", name="Collection").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    check(page)


def test_the_collection(page: Page) -> None:
    page.get_by_role("link", name="Collection").click()
    page.locator(".tile img").first.wait_for()
    check(page)
    page.locator(".tile").first.click()
    page.locator(".wall img").first.wait_for()
    check(page)


def test_nothing_found(page: Page) -> None:
    page.get_by_role("link", name="Collection").click()
    page.get_by_role("searchbox").fill("nobody at all")
    expect(page.get_by_text("No concept has")).to_be_visible()
    check(page)


def test_the_report(page: Page, images: Images, tmp_path: Path, watch: Watch) -> None:
    give(page, images("known.png"))
    with page.expect_download() as download:
        page.get_by_role("button", name="Save evidence report").click()
    download.value.save_as(tmp_path / "report.html")
    watch.host = ""  # it is a file from now on
    page.goto((tmp_path / "report.html").as_uri())
    watch.faults = [fault for fault in watch.faults if "file://" not in fault]
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")
    check(page)
