"""A report saved from the page, opened by itself, and verified."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from app.reports.reading import read_report
from app.reports.verify import verify_report
from index.layout import DataFolder
from tests.browser.conftest import Site, Watch, give
from tests.browser.test_page import until
from tests.fakes import FakeEmbedder

Images = Callable[[str], Path]

# RFC 8785 says that numbers and texts are spelled as JavaScript does, and keys sorted by UTF-16.
CANONICAL_HASH = """async (text) => {
    const {sha256, signature, ...rest} = JSON.parse(text);
    const sorted = (value) => Array.isArray(value) ? value.map(sorted)
        : value && typeof value === "object"
        ? Object.fromEntries(Object.keys(value).sort().map((name) => [name, sorted(value[name])]))
        : value;
    const bytes = new TextEncoder().encode(JSON.stringify(sorted(rest)));
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}"""


# Keeps what a frame would print, in place of the browser's dialog.
PRINTED = """window.print = () => {
    window.top.printed = {
        text: document.body.innerText,
        title: document.title,
        display: getComputedStyle(document.querySelector(".pair")).display,
        pictures: [...document.images].filter((image) => image.naturalWidth > 0).length,
    };
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
        "[...document.querySelectorAll('.hit')].length >= 3 && "
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
    expect(reader.get_by_role("heading", level=1)).to_have_text("Closest match: Amber Vale")
    assert reader.evaluate(
        "[...document.images].every((image) => image.complete && image.naturalWidth > 0)"
    )
    assert reader.evaluate("getComputedStyle(document.querySelector('.pair')).display") == "grid"
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    reader.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_every_format_and_the_print_have_one_time_and_hash(
    page: Page, images: Images, tmp_path: Path
) -> None:
    page.add_init_script(PRINTED)  # before the page is loaded, and in its frames
    page.reload()
    give(page, images("known.png"))
    html = save(page, "Save evidence report", tmp_path).read_text(encoding="utf-8")
    told = json.loads(save(page, "as JSON", tmp_path).read_text(encoding="utf-8"))
    page.get_by_role("button", name="Print").click()
    until(page, "window.printed !== undefined")
    printed = page.evaluate("window.printed")
    assert told["answer"]["id"] in printed["text"]
    assert "Evidence report" in printed["text"]
    assert printed["title"].endswith(told["sha256"][:12])
    assert printed["display"] == "grid"
    assert printed["pictures"] == 1 + len(told["exemplars"])
    identity = page.locator(".identity")
    expect(identity).to_contain_text(told["sha256"])
    expect(identity).to_contain_text(told["answer"]["id"])
    assert told["sha256"] in html
    assert read_report(html)[1] == told


def test_an_answer_that_the_server_forgot_is_asked_again(
    page: Page, site: Site, images: Images, watch: Watch
) -> None:
    watch.errors_expected = True
    give(page, images("known.png"))
    page.route(
        "**/attribute/report?*",
        lambda route: route.fulfill(
            status=404,
            content_type="application/problem+json",
            json={
                "type": "urn:whence:problem:answer-gone",
                "title": "The answer is no longer kept",
                "status": 404,
                "detail": "ask again",
            },
        ),
    )
    before = page.url
    page.get_by_role("button", name="as JSON").click()
    expect(page.get_by_role("alert")).to_contain_text("The server no longer keeps this answer")
    page.get_by_role("button", name="Ask about this image again").click()
    until(page, f"location.href !== {json.dumps(before)} && document.querySelector('.verdict')")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")


def test_after_a_reload_the_report_wants_the_same_file(
    page: Page, images: Images, tmp_path: Path, watch: Watch
) -> None:
    watch.errors_expected = True
    give(page, images("known.png"))
    answer = page.url.rpartition("/")[2]
    page.get_by_label("when the page is reloaded").check()
    until(page, "JSON.parse(sessionStorage.getItem('whence-answers')).length === 1")
    page.reload()
    expect(page.get_by_text("choose the same files again")).to_be_visible()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="as JSON").click()
    chooser.value.set_files(images("strange.png"))
    expect(page.get_by_role("alert")).to_contain_text("The answer is on another image")
    with page.expect_file_chooser() as chooser, page.expect_download() as download:
        page.get_by_role("button", name="as JSON").click()
        chooser.value.set_files(images("known.png"))
    download.value.save_as(tmp_path / "report.json")
    told = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert told["answer"]["id"] == answer
