"""Several images at once, and parts of an image."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from app.reports.reading import read_report
from app.reports.verify import verify_report
from index.layout import DataFolder
from tests.browser.conftest import SIDE, Site, Watch, give
from tests.browser.test_page import AMBER, shows, until
from tests.browser.test_saved_report import save
from tests.fakes import FakeEmbedder

Images = Callable[[str], Path]


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        return list(csv.DictReader(opened))


def test_several_images_become_a_table_and_a_csv(
    page: Page, images: Images, tmp_path: Path
) -> None:
    give(
        page, images("known.tiff"), images("words.png"), images("shared.png"), images("strange.png")
    )
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_text("4 images")
    expect(page.get_by_text("one by one, or as one body of work?")).to_be_visible()
    page.get_by_role("button", name="Ask one by one").click()
    expect(page.get_by_text("3 of 4 answered, 1 failed.")).to_be_visible()
    expect(page).to_have_title("3 of 4 answered, 1 failed · Whence")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(4)
    expect(rows.nth(0)).to_contain_text("Amber Vale")
    shows(rows.nth(0).locator("img"))  # the preview
    expect(rows.nth(1)).to_contain_text("This is not an image that can be compared")
    expect(rows.nth(2)).to_contain_text("Painter 0003, Painter 0004, Painter 0005")
    expect(rows.nth(3)).to_contain_text("No match in this collection")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    download.value.save_as(tmp_path / "answers.csv")
    found = rows_of(tmp_path / "answers.csv")
    assert [row["file"] for row in found] == [
        "known.tiff",
        "words.png",
        "shared.png",
        "strange.png",
    ]
    assert [row["verdict"] for row in found] == ["attributed", "", "uncertain", "no_match"]
    assert [row["status"] for row in found] == ["answered", "failed", "answered", "answered"]
    assert found[0]["closest"] == "Amber Vale"
    assert found[2]["closest"] == "Painter 0003; Painter 0004; Painter 0005"
    assert found[3]["closest"] == ""  # the nearest concept is no match
    assert found[2]["figures_of"] == "Painter 0003"
    assert found[3]["figures_of"]  # so that the figures have their name
    assert [row["squares"] for row in found] == ["1", "", "1", "1"]
    assert re.fullmatch(r"[0-9a-f]{64}", found[0]["sha256"])
    assert "It holds text" in found[1]["error"]
    rows.nth(0).get_by_role("link").click()
    expect(heading).to_have_text(AMBER)
    assert page.url.endswith(found[0]["answer"])
    page.go_back()
    expect(rows).to_have_count(4)
    page.get_by_role("link", name="Ask about another image").click()
    page.get_by_role("link", name="4 images: 3 of 4 answered, 1 failed").click()
    expect(rows).to_have_count(4)


def test_a_cell_that_a_spreadsheet_would_compute_is_text(
    page: Page, images: Images, tmp_path: Path
) -> None:
    names = ["=1+1.png", '"quoted", name.png', "\uff1d1+1.png", "\n=1.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"no image: it fails on the page")
    give(page, *[tmp_path / name for name in names])
    page.get_by_role("button", name="Ask one by one").click()
    expect(page.get_by_text("0 of 4 answered, 4 failed.")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    download.value.save_as(tmp_path / "answers.csv")
    found = [row["file"] for row in rows_of(tmp_path / "answers.csv")]
    assert found == ["'=1+1.png", '"quoted", name.png', "'\uff1d1+1.png", "'\n=1.png"]


def answer_below_the_level(page: Page) -> None:
    """Let answers be as those of a server with a lower rate: support, and no match all the same."""
    page.evaluate(
        """() => {
            const parse = JSON.parse;
            JSON.parse = (text) => {
                const answer = parse(text);
                if (!answer.verdict) return answer;
                const [best] = answer.concepts;
                best.p_value = 0.012345;
                return { ...answer, verdict: "no_match", candidates: [best.id] };
            };
        }"""
    )


NEAREST = "No match; nearest with some support: Amber Vale"


def test_support_below_the_level_is_no_closest_match_in_a_table(
    page: Page, images: Images, tmp_path: Path
) -> None:
    answer_below_the_level(page)
    give(page, images("known.png"), images("words.png"))
    page.get_by_role("button", name="Ask one by one").click()
    row = page.locator("tbody tr").first
    expect(row.get_by_role("link")).to_have_text(NEAREST)
    expect(row.locator("td").nth(1)).to_contain_text("support")
    expect(page.get_by_text("1 of 2 answered, 1 failed.")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    download.value.save_as(tmp_path / "answers.csv")
    found = rows_of(tmp_path / "answers.csv")[0]
    assert (found["verdict"], found["closest"]) == ("no_match", "")
    assert found["figures_of"] == "Amber Vale"
    row.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(NEAREST)


def test_support_below_the_level_is_no_closest_match_of_a_body_of_work(
    page: Page, images: Images
) -> None:
    answer_below_the_level(page)
    give(page, images("known.png"), images("known.tiff"))
    page.get_by_role("button", name="Ask as one body of work").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(NEAREST)
    expect(page.locator(".verdict .lead")).to_contain_text("p = 0.0123,")


def test_asking_one_by_one_can_be_stopped_and_continued(page: Page, images: Images) -> None:
    held: list[Route] = []
    page.route(re.compile(r"/attribute\?"), lambda route: held.append(route))
    give(page, images("known.png"), images("strange.png"))
    page.get_by_role("button", name="Ask one by one").click()
    expect(page.get_by_text("0 of 2 answered…")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("tbody tr").first).to_contain_text("Stopped")
    expect(page.get_by_text("0 of 2 answered.")).to_be_visible()
    page.unroute(re.compile(r"/attribute\?"))
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("2 of 2 answered.")).to_be_visible()
    expect(page.locator("tbody tr").first).to_contain_text("Amber Vale")


def test_a_stopped_image_is_asked_once_when_continued(page: Page, images: Images) -> None:
    """Files whose reading takes long are held before anything is sent."""
    sent: list[str] = []
    page.on("request", lambda request: request.method == "POST" and sent.append(request.url))
    page.evaluate(
        """() => {
            const real = Blob.prototype.arrayBuffer;
            window.held = [];
            Blob.prototype.arrayBuffer = function () {
                if (!window.held) return real.call(this);
                return new Promise((go) => window.held.push(go)).then(() => real.call(this));
            };
        }"""
    )
    give(page, images("known.png"), images("strange.png"))
    page.get_by_role("button", name="Ask one by one").click()
    until(page, "window.held.length === 1")
    page.get_by_role("button", name="Stop").click()
    first = page.locator("tbody tr").first
    expect(first).to_contain_text("Stopped")
    page.get_by_role("button", name="Continue").click()
    until(page, "window.held.length === 2")
    page.evaluate("() => { const held = window.held; window.held = null; held.map((go) => go()); }")
    expect(page.get_by_text("2 of 2 answered.")).to_be_visible()
    assert len(sent) == 2
    first.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(AMBER)


def test_several_images_have_one_answer_together(
    page: Page, site: Site, images: Images, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(images("known.png").read_bytes())
    give(page, images("known.png"), copy)
    with page.expect_response(re.compile("/attribute/together")) as answered:
        page.get_by_role("button", name="Ask as one body of work").click()
    answer = answered.value.json()
    expect(page.locator(".verdict .lead")).to_contain_text(answer["statement"])
    expect(page.get_by_role("heading", level=1)).to_contain_text(NEAREST)
    card = page.locator(".card").first
    expect(card.locator("tbody tr")).to_have_count(2)
    expect(card.locator("tbody")).to_contain_text("copy.png")
    card.locator(".hit").first.click()
    dialog = page.get_by_role("dialog")
    shows(dialog.locator(".stage img"))
    page.keyboard.press("Escape")
    expect(page).to_have_title(re.compile(f"^{NEAREST}"))
    assert page.url.endswith(f"#/several/{answer['id']}")
    html = save(page, "Save evidence report", tmp_path)
    told = json.loads(save(page, "as JSON", tmp_path).read_text(encoding="utf-8"))
    assert read_report(html.read_text(encoding="utf-8"))[1] == told
    assert [image["name"] for image in told["images"]] == ["known.png", "copy.png"]
    assert told["answer"]["id"] == answer["id"]
    expect(page.locator(".identity")).to_contain_text(told["sha256"])
    found = verify_report(html, DataFolder(site.data), embedder=FakeEmbedder())
    assert found.complete
    assert all(finding.passed for finding in found.findings), found
    # It stands in the tab's history, and there is no other report after a reload.
    page.get_by_label("when the page is reloaded").check()
    until(page, "JSON.parse(sessionStorage.getItem('whence-answers')).length === 1")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_contain_text(NEAREST)
    expect(page.locator("#history .badge")).to_have_text("2")
    expect(page.get_by_text("choose the same files again")).to_be_visible()
    with page.expect_file_chooser() as chooser, page.expect_download() as download:
        page.get_by_role("button", name="as JSON").click()
        chooser.value.set_files([copy, images("known.png")])
    download.value.save_as(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text(encoding="utf-8")) == told


def test_a_body_of_work_is_shown_with_what_was_compared(page: Page, images: Images) -> None:
    """A TIFF, which browsers cannot show, and a long picture, which is read in squares."""
    give(page, images("known.png"), images("known.tiff"), images("long.png"))
    expect(page.locator(".strip .missing")).to_have_count(1)
    with page.expect_response(re.compile("/attribute/together")) as answered:
        page.get_by_role("button", name="Ask as one body of work").click()
    assert parse_qs(urlsplit(answered.value.url).query)["previews"] == ["2"]
    seen = answered.value.json()["seen"]
    assert [bool(one["preview"]) for one in seen] == [False, True, False]
    strip = page.locator(".several > .strip")
    expect(strip.locator(".missing")).to_have_count(0)
    shows(strip.locator("img").nth(1))
    expect(page.get_by_text("Only what is outlined was compared")).to_be_visible()
    expect(strip.locator(".outlines")).to_have_count(1)  # of the others all was compared
    drawn = strip.locator("li").nth(2)
    path = drawn.locator(".edge").get_attribute("d") or ""
    assert path.count("M") == len(seen[2]["compared"]) > 1
    assert drawn.locator(".outlines").bounding_box() == drawn.locator("img").bounding_box()
    page.get_by_label("when the page is reloaded").check()
    until(page, "JSON.parse(sessionStorage.getItem('whence-answers')).length === 1")
    page.reload()
    expect(strip.locator(".outlines")).to_have_count(1)
    shows(strip.locator("img").nth(1))


def test_what_was_compared_of_a_body_of_work_is_drawn_in_the_viewer(
    page: Page, images: Images
) -> None:
    """The model of the tests sees whole squares: the kept answer says that it saw less."""
    give(page, images("known.tiff"), images("known.png"))
    page.get_by_role("button", name="Ask as one body of work").click()
    shows(page.locator(".card tbody img").first)  # the preview
    page.get_by_label("when the page is reloaded").check()
    until(page, "JSON.parse(sessionStorage.getItem('whence-answers')).length === 1")
    page.evaluate(
        """() => {
            const kept = JSON.parse(sessionStorage.getItem("whence-answers"));
            kept[0].answer.seen[0].compared = [{x: 8, y: 8, width: 80, height: 80}];
            sessionStorage.setItem("whence-answers", JSON.stringify(kept));
        }"""
    )
    page.reload()
    page.locator(".hit").first.click()  # as near to both: the first is shown
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("figcaption").first).to_have_text("known.tiff")
    shows(dialog.locator(".stage img").first)
    expect(dialog.locator(".outlines .edge")).to_have_attribute("d", "M8 8h80v80h-80z")
    expect(dialog.locator(".outlines .best")).to_have_count(0)  # of several their mean counts


def test_hundreds_of_files_are_a_table_and_lose_no_answer(page: Page, images: Images) -> None:
    """Empty files fail on the page, so that few requests are sent."""
    real = [images("known.png"), images("strange.png"), images("shared.png")]
    give(page, real[0], *[images("empty.png")] * 247, *real[1:])
    expect(page.locator(".strip img, .strip .missing")).to_have_count(24)
    expect(page.get_by_text("and 226 more")).to_be_visible()
    page.get_by_role("button", name="Ask one by one").click()
    expect(page.get_by_text("3 of 250 answered, 247 failed.")).to_be_visible(timeout=60_000)
    expect(page.locator("tbody tr")).to_have_count(250)
    expect(page.get_by_role("button", name="Continue")).to_be_hidden()  # all would fail again
    page.locator("tbody tr").first.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(AMBER)
    shows(page.locator(".query img").first)


def test_too_many_files_are_refused_before_anything_is_sent(
    page: Page, site: Site, images: Images
) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    page.set_input_files("#file", [images("known.png")] * 1001)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("These are 1,001 files, and this page asks about at most 1,000")
    expect(alert.locator("code")).to_have_text(
        f"whence attribute FOLDER --url {site.url}/ --csv answers.csv"
    )
    assert page.url.endswith(("#/", "/"))
    assert not [url for url in sent if "/attribute" in url]


def test_a_file_that_is_gone_is_said_to_be_unreadable(
    page: Page, images: Images, tmp_path: Path, watch: Watch
) -> None:
    watch.errors_expected = True
    gone = tmp_path / "gone.png"
    gone.write_bytes(images("known.png").read_bytes())
    give(page, gone, images("known.png"))
    gone.unlink()
    page.get_by_role("button", name="Ask one by one").click()
    expect(page.get_by_text("1 of 2 answered, 1 failed.")).to_be_visible()
    expect(page.locator("tbody tr").first).to_contain_text("The file cannot be read")


def test_a_focus_in_the_table_stays_while_answers_come(page: Page, images: Images) -> None:
    held: list[Route] = []

    def hold_all_but_one(route: Route) -> None:
        if held or first:
            held.append(route)
        else:
            first.append(route)
            route.continue_()

    first: list[Route] = []
    page.route(re.compile(r"/attribute\?"), hold_all_but_one)
    give(page, images("known.png"), images("strange.png"), images("shared.png"))
    page.get_by_role("button", name="Ask one by one").click()
    link = page.locator("tbody tr").first.get_by_role("link")
    link.focus()
    until_held(page, held, 1)
    held[0].continue_()
    expect(page.get_by_text("2 of 3 answered…")).to_be_visible()
    expect(link).to_be_focused()
    stop = page.get_by_role("button", name="Stop")
    stop.focus()
    until_held(page, held, 2)
    held[1].continue_()
    expect(page.get_by_text("3 of 3 answered.")).to_be_visible()
    expect(stop).to_be_hidden()
    expect(page.get_by_role("button", name="Save as CSV")).to_be_focused()


def until_held(page: Page, held: list[Route], count: int) -> None:
    for _ in range(600):
        if len(held) >= count:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{len(held)} requests came, not {count}")


def test_a_body_of_work_is_checked_before_it_is_sent(
    page: Page, site: Site, images: Images
) -> None:
    sent: list[str] = []
    page.on(
        "request", lambda request: sent.append(request.url) if "/attribute" in request.url else None
    )
    give(page, images("known.png"), images("words.png"))
    page.get_by_role("button", name="Ask as one body of work").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("words.png: It holds text, not a picture")
    expect(page).to_have_title(re.compile("^This is not an image that can be compared"))
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    page.get_by_role("button", name="Choose again").click()
    expect(page).to_have_title(re.compile("^2 images"))
    page.goto(f"{site.url}/#/")
    give(page, *[images("known.png")] * 65)
    expect(page.get_by_text("a body of work has at most 64")).to_be_visible()
    expect(page.get_by_role("button", name="Ask as one body of work")).to_have_count(0)
    assert sent == []


def test_images_that_cannot_be_answered_together_can_be_chosen_again(
    page: Page, images: Images, watch: Watch
) -> None:
    watch.errors_expected = True
    give(page, images("known.png"), images("damaged.png"))
    page.get_by_role("button", name="Ask as one body of work").click()
    expect(page.get_by_role("alert")).to_contain_text("cannot be decoded")
    page.get_by_role("button", name="Choose again").click()
    expect(page.get_by_text("one by one, or as one body of work?")).to_be_visible()


# Parts of an image


def test_the_compared_squares_are_drawn_on_a_long_picture(page: Page, images: Images) -> None:
    with page.expect_response(re.compile("/attribute")) as answered:
        page.set_input_files("#file", images("double.png"))
    squares = answered.value.json()["compared"]
    assert len(squares) > 1
    expect(page.get_by_text(f"Compared in the {len(squares)} outlined squares")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")
    whole = page.locator(".query .frame > img").bounding_box()
    assert page.locator(".query .outlines").bounding_box() == whole
    expect(page.locator(".query-tools")).not_to_contain_text("What lies between")
    path = page.locator(".query .outlines .edge").get_attribute("d")
    assert str(path).count("M") == len(squares)
    expect(page.locator(".query .outlines .best")).to_have_attribute("d", re.compile("^M0 0"))
    expect(page.get_by_text("The bold yellow one gave the evidence for Amber Vale")).to_be_visible()
    said = f"compared in one square, matched as strongly as the best of the {len(squares)} squares"
    expect(page.locator(".verdict .lead")).to_contain_text(said)
    page.locator(".hit").first.click()
    expect(page.get_by_role("dialog").locator(".outlines")).to_have_count(1)


def test_gaps_between_the_compared_squares_are_told(
    page: Page, images: Images, tmp_path: Path
) -> None:
    with Image.open(images("known.png")) as image:
        image.resize((960, 96)).save(tmp_path / "banner.png")
    give(page, tmp_path / "banner.png")
    expect(page.get_by_text("What lies between the squares was not compared")).to_be_visible()


def test_a_whole_picture_has_no_outlines(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    expect(page.get_by_role("button", name="Select a part")).to_be_visible()
    expect(page.locator(".outlines")).to_have_count(0)


@pytest.mark.parametrize("way", ["keys", "fields", "pointer"])
def test_a_part_is_asked_about(page: Page, images: Images, way: str) -> None:
    give(page, images("long.png"))
    page.get_by_role("button", name="Select a part").click()
    box = page.locator(".part-box")
    expect(box).to_be_focused()
    label = re.compile("Selected part: 192 by 48 pixels, 96 from the left and 24 from the top")
    expect(box).to_have_attribute("aria-label", label)
    if way == "keys":
        for _ in range(30):
            page.keyboard.press("ArrowLeft")
        for _ in range(12):
            page.keyboard.press("Shift+ArrowLeft")
        for _ in range(30):
            page.keyboard.press("ArrowUp")
            page.keyboard.press("Shift+ArrowDown")
        page.keyboard.press("Enter")
    elif way == "fields":
        for name, value in (("Left", 0), ("Top", 0), ("Width", SIDE), ("Height", SIDE)):
            page.get_by_label(name, exact=True).fill(str(value))
            page.get_by_label(name, exact=True).press("Tab")
        page.get_by_role("button", name="Ask about this part").click()
    else:
        at = page.locator(".part-layer").bounding_box()
        assert at
        page.mouse.move(at["x"] + 1, at["y"] + 1)
        page.mouse.down()
        page.mouse.move(at["x"] + at["width"] / 4, at["y"] + at["height"] - 1, steps=4)
        page.mouse.up()
        page.get_by_role("button", name="Ask about this part").click()
    page.wait_for_selector("text=About a part of the image")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")
    expect(page.locator(".query .outlines")).to_have_count(1)
    drawn = page.locator(".query .outlines .asked").get_attribute("d") or ""
    sides = [int(number) for number in re.findall(r"\d+", drawn)[:4]]
    assert sides == pytest.approx([0, 0, SIDE, SIDE], abs=3)  # a pointer is a pixel or two inside


def test_a_change_of_settings_leaves_an_open_selection_whole(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    page.get_by_role("button", name="Select a part").click()
    page.get_by_label("Left", exact=True).fill("3")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Subject: what is shown").check()
    page.get_by_role("button", name="Done").click()
    expect(page.locator(".part-box")).to_have_count(1)
    expect(page.get_by_label("Left", exact=True)).to_have_value("3")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".part-layer")).to_have_count(0)
    expect(page.get_by_role("button", name="Select a part")).to_be_visible()


def test_the_part_is_sent_in_pixels_and_escape_cancels(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    page.get_by_role("button", name="Select a part").click()
    page.keyboard.press("Escape")
    expect(page.locator(".part-box")).to_have_count(0)
    page.get_by_role("button", name="Select a part").click()
    with page.expect_request(re.compile("/attribute")) as asked:
        page.get_by_role("button", name="Ask about this part").click()
    query = parse_qs(urlsplit(asked.value.url).query)
    assert query["region"] == [f"{SIDE // 4},{SIDE // 4},{SIDE // 2},{SIDE // 2}"]
