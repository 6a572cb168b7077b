"""A report saved from the page, opened by itself, and verified."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from app.reports.verify import verify_report
from index.layout import DataFolder
from tests.browser.conftest import Site, give
from tests.browser.test_page import until
from tests.fakes import FakeEmbedder

Images = Callable[[str], Path]

# RFC 8785 says that numbers and texts are spelled as JavaScript does, and keys sorted by UTF-16.
CANONICAL_HASH = """async (text) => {
    const {sha256, ...rest} = JSON.parse(text);
    const sorted = (value) => Array.isArray(value) ? value.map(sorted)
        : value && typeof value === "object"
        ? Object.fromEntries(Object.keys(value).sort().map((name) => [name, sorted(value[name])]))
        : value;
    const bytes = new TextEncoder().encode(JSON.stringify(sorted(rest)));
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}"""


def save(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    expect(page.get_by_text(f"Saved as {file.name}")).to_be_visible()
    return file


@pytest.mark.parametrize("image", ["known.png", "shared.png", "strange.png"])
@pytest.mark.parametrize("button", ["Save evidence report", "as JSON"])
def test_a_saved_report_is_verified(
    page: Page, site: Site, images: Images, tmp_path: Path, image: str, button: str
) -> None:
    give(page, images(image))
    file = save(page, button, tmp_path)
    assert file.suffix == (".json" if button == "as JSON" else ".html")
    found = verify_report(file, DataFolder(site.data), embedder=FakeEmbedder())
    assert found.complete
    assert all(finding.passed for finding in found.findings), found


def test_the_focus_stays_where_a_report_was_saved(
    page: Page, images: Images, tmp_path: Path
) -> None:
    give(page, images("known.png"))
    expect(page.get_by_text("its metadata included")).to_be_visible()
    page.get_by_role("button", name="as JSON").focus()
    with page.expect_download():
        page.keyboard.press("Enter")
    expect(page.get_by_text("Saved as")).to_be_visible()
    expect(page.get_by_role("button", name="as JSON")).to_be_focused()
    expect(page.locator("[aria-disabled]")).to_have_count(0)


def test_an_answer_is_printed_with_all_its_pictures_in_light_colours(
    page: Page, images: Images
) -> None:
    page.set_viewport_size({"width": 600, "height": 400})
    page.emulate_media(color_scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    give(page, images("shared.png"))
    until(
        page,
        "[...document.querySelectorAll('.hit')].length > 3 && "
        "[...document.querySelectorAll('.hit')].every((hit) => hit.querySelector('img')"
        "?.naturalWidth > 0)",
    )
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(colour) != dark


def test_anyone_can_work_out_the_hash(page: Page, images: Images, tmp_path: Path) -> None:
    give(page, images("shared.png"))
    text = save(page, "as JSON", tmp_path).read_text(encoding="utf-8")
    # `page.evaluate` passes the text as it is: what is parsed is the file's own JSON.
    assert page.evaluate(CANONICAL_HASH, text) == json.loads(text)["sha256"]


def test_a_saved_page_stands_alone(
    page: Page, context: BrowserContext, images: Images, tmp_path: Path
) -> None:
    give(page, images("known.png"))
    file = save(page, "Save evidence report", tmp_path)
    reader = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    reader.on("console", lambda message: said.append(message.text))
    reader.on("request", lambda request: asked.append(request.url))
    reader.goto(file.as_uri())
    expect(reader.get_by_role("heading", level=1)).to_have_text("Most likely drawn from Amber Vale")
    assert reader.evaluate(
        "[...document.images].every((image) => image.complete && image.naturalWidth > 0)"
    )
    assert reader.evaluate("getComputedStyle(document.querySelector('header')).display") == "flex"
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    reader.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_a_report_of_a_renewed_collection_says_so(
    page: Page, images: Images, tmp_path: Path
) -> None:
    give(page, images("known.png"))
    page.evaluate("document.title")  # the answer is there; now its version is another one
    file = save(page, "as JSON", tmp_path)
    report = json.loads(file.read_text(encoding="utf-8"))
    report["index"]["version"] = "another"
    page.route(
        "**/attribute/report?*",
        lambda route: route.fulfill(
            json=report, headers={"Content-Disposition": 'attachment; filename="r.json"'}
        ),
    )
    save(page, "as JSON", tmp_path)
    expect(page.get_by_text("The collection was renewed since this answer")).to_be_visible()
