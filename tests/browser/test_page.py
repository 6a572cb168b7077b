"""The page in a real browser: giving images, reading answers, finding one's way."""

import base64
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect

from app.reports.verify import verify_report
from index.layout import DataFolder
from tests.browser.conftest import CONCEPTS, SIDE, Site, Watch, give, ready
from tests.fakes import FakeEmbedder

Images = Callable[[str], Path]
AMBER = re.compile(r"^Closest match: Amber Vale, [a-z ]+ support$")
WEIGHT = 180_000  # bytes, without pictures


def shows(picture: Locator) -> None:
    """Wait until a picture is drawn."""
    picture.first.wait_for()
    for _ in range(600):
        if picture.first.evaluate("image => image.complete && image.naturalWidth > 0"):
            return
        picture.page.wait_for_timeout(50)
    raise AssertionError("the picture was not drawn")


def until(page: Page, condition: str) -> None:
    """Wait; playwright's own way would need the page to allow `eval`."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


# Ways to give an image


def test_an_image_is_chosen(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    expect(page.get_by_role("heading", level=1)).to_have_text(AMBER)
    expect(page.locator(".query figcaption")).to_contain_text("known.png")
    expect(page.locator(".query figcaption")).to_contain_text(re.compile(f"{SIDE} . {SIDE}"))
    shows(page.locator(".query img"))


def test_an_image_is_dropped(page: Page, context: BrowserContext, images: Images) -> None:
    pointer = context.new_cdp_session(page)
    dragged = {"items": [], "files": [str(images("known.png"))], "dragOperationsMask": 1}
    at = {"x": 600, "y": 400, "data": dragged}
    pointer.send("Input.dispatchDragEvent", {"type": "dragEnter", **at})
    expect(page.get_by_text("Drop the image to ask about it")).to_be_visible()
    pointer.send("Input.dispatchDragEvent", {"type": "dragOver", **at})
    pointer.send("Input.dispatchDragEvent", {"type": "drop", **at})
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")
    expect(page.get_by_text("Drop the image to ask about it")).to_be_hidden()


def test_a_link_that_is_dropped_is_not_followed(page: Page, context: BrowserContext) -> None:
    pointer = context.new_cdp_session(page)
    item = {"mimeType": "text/uri-list", "data": "https://museum.example/1.png"}
    at = {"x": 600, "y": 400, "data": {"items": [item], "dragOperationsMask": 1}}
    for kind in ("dragEnter", "dragOver", "drop"):
        pointer.send("Input.dispatchDragEvent", {"type": kind, **at})
    expect(page.get_by_role("alert")).to_contain_text("a link, not a file")


def copy(page: Page, image: Path) -> None:
    """Put an image into the clipboard, as copying it elsewhere would."""
    page.evaluate(
        """async (data) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const blob = new Blob([bytes], {type: "image/png"});
            await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
        }""",
        base64.b64encode(image.read_bytes()).decode(),
    )


@pytest.mark.parametrize("way", ["keys", "button"])
def test_an_image_is_pasted(page: Page, context: BrowserContext, images: Images, way: str) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    copy(page, images("known.png"))
    page.evaluate(
        """() => {
            const append = FormData.prototype.append;
            FormData.prototype.append = function (...part) {
                window.sent = part[2];
                append.apply(this, part);
            };
        }"""
    )
    if way == "keys":
        page.keyboard.press("Control+V")
    else:
        page.get_by_role("button", name="Paste").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")
    expect(page.locator(".query .file")).to_have_text("Pasted image")
    assert page.evaluate("window.sent") == "blob"  # it has no name


def test_a_paste_without_an_image_says_so(page: Page, context: BrowserContext) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("navigator.clipboard.writeText('words')")
    page.keyboard.press("Control+V")
    expect(page.get_by_role("alert")).to_contain_text("The clipboard holds no image")


def test_a_sample_is_tried(page: Page) -> None:
    samples = page.get_by_role("button", name=re.compile("Ask about Sample"))
    expect(samples).to_have_count(2)
    shows(page.locator(".sample img"))
    samples.first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")


def test_what_the_browser_cannot_show_comes_as_a_preview(page: Page, images: Images) -> None:
    give(page, images("known.tiff"))
    expect(page.get_by_role("heading", level=1)).to_have_text(AMBER)
    shows(page.locator(".query .frame > img"))
    expect(page.locator(".query figcaption")).to_contain_text(re.compile(f"{SIDE} . {SIDE}"))
    page.locator(".hit").first.click()
    shows(page.locator(".pair .frame > img"))


# Answers


@pytest.mark.parametrize(
    ("image", "title", "text"),
    [
        ("known.png", AMBER, re.compile(r"[Tt]est images|unrelated")),
        (
            "shared.png",
            re.compile(
                "^Closest matches: Painter 0003, Painter 0004 and Painter 0005, .* support$"
            ),
            "share this evidence",
        ),
        (
            "strange.png",
            re.compile("^No match in this collection$"),
            "they are no evidence of a source",
        ),
    ],
)
def test_every_verdict_is_said_in_words(
    page: Page, images: Images, image: str, title: re.Pattern[str], text: str | re.Pattern[str]
) -> None:
    give(page, images(image))
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_text(title)
    expect(page.locator(".verdict")).to_contain_text(text)
    said = heading.text_content()
    assert page.title() == f"{said} · Whence"
    expect(page.locator("#spoken")).to_have_text(title)
    focused = page.evaluate("document.activeElement.textContent")
    assert focused == said  # a screen reader goes on from there


def test_a_card_tells_what_speaks_for_a_concept(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    card = page.locator(".card").first
    expect(card.locator(".support")).to_contain_text("support")
    expect(card.locator(".why")).to_contain_text(
        re.compile("Resembles in (what is shown|how it is made)")
    )
    expect(card.locator(".why")).to_contain_text(re.compile("None of|unrelated test images"))
    hits = card.locator(".hits li")
    expect(hits).to_have_count(3)
    shows(card.locator(".hits img"))
    expect(hits.filter(has_text="CC0-1.0")).to_have_count(1)
    unstated = "Licence not stated in the collection's records"
    expect(hits.filter(has_text=unstated)).to_have_count(2)
    hosts = [link.get_attribute("href") for link in card.locator(".rights a").all()]
    assert sorted(map(str, hosts)) == ["https://museum.example/0/0", "https://museum.example/0/1"]
    expect(card.locator(".rights", has_text="javascript:alert(1)")).to_be_visible()
    card.get_by_text("Figures").click()
    expect(card.locator("dl")).to_contain_text("Likelihood ratio")


def test_the_statement_is_the_server_s(page: Page, images: Images) -> None:
    for image in ("known.png", "shared.png", "strange.png"):
        with page.expect_response(re.compile("/attribute")) as answered:
            page.set_input_files("#file", images(image))
        expect(page.locator(".verdict .lead")).to_contain_text(answered.value.json()["statement"])
        page.get_by_role("link", name="Ask about another image").click()


def test_bystanders_are_a_closed_row_without_pictures(page: Page, images: Images) -> None:
    give(page, images("strange.png"))
    expect(page.locator(".card")).to_have_count(0)
    row = page.locator(".bystanders")
    expect(row.locator("summary")).to_have_text("5 concepts came near without support")
    expect(row.locator("li").first).to_be_hidden()
    row.locator("summary").click()
    expect(row.locator("li")).to_have_count(5)
    expect(row).to_contain_text("no evidence of a source")
    expect(row.locator("img, whence-picture")).to_have_count(0)


def test_the_weights_drawn_are_the_weights_told(page: Page, images: Images) -> None:
    with page.expect_response(re.compile("/attribute")) as answered:
        page.set_input_files("#file", images("shared.png"))
    answer = answered.value.json()
    page.wait_for_selector(".verdict")
    stack = page.locator(".stack").bounding_box()
    absent = page.locator(".stack .absent").bounding_box()
    assert stack
    assert absent
    assert absent["width"] / stack["width"] == pytest.approx(answer["no_source_share"], abs=0.03)
    name = re.compile("Relative weight among candidates: Painter 0003")
    expect(page.get_by_role("img", name=name)).to_be_visible()


def test_words_open_their_definitions(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    word = page.get_by_role("button", name="test images").first
    word.focus()
    page.keyboard.press("Enter")
    definition = page.get_by_text("asked with its own source removed").first
    expect(definition).to_be_visible()
    box = definition.bounding_box()
    assert box
    assert box["x"] >= 0
    page.keyboard.press("Escape")
    expect(definition).to_be_hidden()
    expect(word).to_be_focused()
    page.locator(".support .term").first.click()
    expect(page.get_by_text("ENFSI guideline").first).to_be_visible()


def test_what_the_answer_does_not_say_is_on_the_page(page: Page, images: Images) -> None:
    give(page, images("strange.png"))
    expect(page.get_by_role("heading", name="What this does not say")).to_be_visible()
    expect(page.get_by_text("Likeness is not proof")).to_be_visible()


def test_a_name_is_never_markup(page: Page, site: Site, images: Images) -> None:
    hostile = '<img src=x onerror="document.title=1">'

    upload = {"name": "a.png", "mimeType": "image/png", "buffer": images("known.png").read_bytes()}
    body = page.request.post(f"{site.url}/attribute", multipart={"image": upload}).json()
    body["concepts"][0]["name"] = hostile
    body["concepts"][0]["exemplars"][0]["license"] = hostile
    page.route(re.compile("/attribute"), lambda route: route.fulfill(json=body))
    give(page, images("known.png"))
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"Closest match: {hostile}")
    expect(page.locator(".rights").first).to_contain_text(hostile)


# Regions


def test_regions_are_shown_on_both_images(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    hit = page.locator(".hit").first
    layers = page.locator(".heat")
    expect(layers).to_have_count(0)
    hit.hover()
    expect(layers).to_have_count(2)
    shows(page.locator(".query .heat"))
    shows(hit.locator(".heat"))
    for frame in (page.locator(".query .frame"), hit.locator(".frame")):
        whole, layer = frame.bounding_box(), frame.locator(".heat").bounding_box()
        assert whole == layer  # laid over the whole picture
    page.mouse.move(0, 0)
    expect(layers).to_have_count(0)


def test_regions_are_shown_to_the_keyboard(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    hit = page.locator(".hit").first
    for _ in range(20):
        page.keyboard.press("Tab")
        if hit.evaluate("element => element === document.activeElement"):
            break
    expect(page.locator(".heat")).to_have_count(2)
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Amber Vale")
    expect(dialog).to_be_visible()
    expect(dialog.locator(".heat")).to_have_count(2)
    slider = dialog.get_by_role("slider", name="Corresponding regions")
    slider.press("Home")
    expect(dialog.locator(".heat")).to_have_count(0)
    slider.press("End")
    expect(dialog.locator(".heat")).to_have_count(2)
    dialog.get_by_role("button", name="Next").press("Enter")
    expect(dialog.get_by_role("status").filter(has_text="2 of")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert hit.evaluate("element => element === document.activeElement")


def test_both_pictures_are_zoomed_and_moved_in_step(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    page.locator(".hit").first.click()
    dialog = page.get_by_role("dialog")
    shows(dialog.locator("whence-picture img"))
    places = dialog.locator(".stage .frame")

    def transforms() -> list[str]:
        return [str(place.evaluate("frame => frame.style.transform")) for place in places.all()]

    page.keyboard.press("+")
    first, second = transforms()
    assert first == second
    assert "scale(1.5)" in first
    page.keyboard.press("ArrowRight")
    assert transforms()[0] == transforms()[1] != first
    expect(dialog.get_by_role("status").filter(has_text="1 of")).to_be_visible()  # still the first
    dialog.get_by_role("button", name="Fit").click()
    assert "scale(1)" in transforms()[0]
    stage = dialog.locator(".stage").first
    stage.dblclick()
    stage.hover()
    page.mouse.down()
    page.mouse.move(300, 300, steps=3)
    page.mouse.up()
    assert transforms()[0] == transforms()[1]
    assert dialog.locator(".rights a").first.get_attribute("href")
    dialog.get_by_label("as outlines").check()
    assert "heat-outline" in str(dialog.locator(".heat").first.get_attribute("style"))


def test_back_and_a_new_image_close_the_comparison(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    address = page.url
    page.locator(".hit").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.go_back()
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("heading", level=1)).to_have_text(AMBER)
    assert page.url == address
    page.locator(".hit").first.click()
    expect(dialog).to_be_visible()
    page.set_input_files("#file", images("strange.png"))
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("heading", level=1)).to_have_text("No match in this collection")
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text(AMBER)


def test_regions_are_shown_by_touch(browser: object, site: Site, images: Images) -> None:
    context = browser.new_context(  # type: ignore[attr-defined]
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(site.url)
    ready(page)
    page.set_input_files("#file", images("tall.png"))
    page.locator(".hit").first.tap()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(dialog.locator(".heat")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # Two fingers zoom, one moves; before that, one scrolls the dialog.
    stage = dialog.locator(".stage").first
    assert stage.evaluate("one => getComputedStyle(one).touchAction") == "pan-y"
    at = stage.bounding_box()
    assert at
    middle = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2
    fingers = context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        touched = [
            {"x": middle[0] + x, "y": middle[1] + y, "id": number}
            for number, (x, y) in enumerate(points)
        ]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touched})

    touch("touchStart", (-20, 0), (20, 0))
    for apart in (25, 30, 40):
        touch("touchMove", (-apart, 0), (apart, 0))
    touch("touchEnd")
    expect(dialog.locator("[data-part=zoom]")).to_have_text(re.compile("^2"))
    assert stage.evaluate("one => getComputedStyle(one).touchAction") == "none"
    before = dialog.locator(".stage .frame").first.get_attribute("style")
    touch("touchStart", (0, 0))
    touch("touchMove", (-15, 0))
    touch("touchMove", (-30, 0))
    touch("touchEnd")
    frames = dialog.locator(".stage .frame")
    assert frames.first.get_attribute("style") != before
    moved = [frames.nth(n).evaluate("one => one.style.transform") for n in range(2)]
    assert moved[0] == moved[1]
    context.close()


def test_regions_that_are_gone_are_said_to_be(page: Page, images: Images, watch: object) -> None:
    watch.errors_expected = True  # type: ignore[attr-defined]
    page.route("**/heatmaps/*", lambda route: route.fulfill(status=404))
    give(page, images("known.png"))
    page.locator(".hit").first.click()
    expect(page.get_by_role("dialog")).to_contain_text("Ask again to see them")


# Finding one's way


def test_back_and_forward(page: Page, images: Images) -> None:
    heading = page.get_by_role("heading", level=1)
    give(page, images("known.png"))
    page.locator(".hits img").first.wait_for()
    page.mouse.wheel(0, 300)
    until(page, "scrollY > 100")
    down = page.evaluate("scrollY")
    page.get_by_role("link", name="Amber Vale", exact=True).click()
    expect(heading).to_have_text("Amber Vale")
    assert page.url.endswith("#/concepts/c0")
    assert page.title() == "Amber Vale · Whence"
    expect(page.locator(".wall li")).to_have_count(3)
    assert page.evaluate("scrollY") == 0
    page.go_back()
    expect(heading).to_have_text(AMBER)
    until(page, f"Math.abs(scrollY - {down}) < 40")
    shows(page.locator(".hits img"))
    page.get_by_role("link", name="Ask about another image").click()
    expect(heading).to_have_text("Where does this image come from?")
    give(page, images("strange.png"))
    for title in ("Where does this image", "Closest match", "Where does this image"):
        page.go_back()
        expect(heading).to_contain_text(title)
    page.go_forward()
    expect(heading).to_have_text(AMBER)
    page.go_forward()
    page.go_forward()
    expect(heading).to_have_text("No match in this collection")


def test_an_answer_that_is_gone_is_said_to_be(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("That answer is no longer in this tab")
    expect(page.get_by_role("button", name="Choose images")).to_be_visible()
    assert page.url.endswith("#/")


def test_an_address_never_shows_another_answer(
    page: Page, context: BrowserContext, site: Site, images: Images
) -> None:
    with page.expect_response(re.compile("/attribute")) as answered:
        page.set_input_files("#file", images("known.png"))
    page.wait_for_selector(".verdict")
    answer = answered.value.json()["id"]
    assert page.url.endswith(f"#/answers/{answer}")
    expect(page.locator(".identity")).to_contain_text(answer)
    other = context.new_page()
    other.goto(site.url)
    give(other, images("strange.png"))
    other.goto(page.url)
    expect(other.get_by_role("alert")).to_contain_text("no longer in this tab")


def test_answers_of_the_tab_are_kept_if_wanted(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    page.get_by_role("link", name="Ask about another image").click()
    give(page, images("shared.png"))
    strip = page.locator(".strip a")
    expect(strip).to_have_count(2)
    keep = page.get_by_label("when the page is reloaded")
    assert not keep.is_checked()
    assert page.evaluate("sessionStorage.length") == 0
    keep.check()
    until(page, "JSON.parse(sessionStorage.getItem('whence-answers')).length === 2")
    address = page.url
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Closest matches: Painter 0003")
    assert page.url == address
    strip.last.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(AMBER)
    shows(page.locator(".query .frame > img"))
    clear = page.get_by_role("button", name="Clear", exact=True)
    clear.click()
    page.get_by_role("button", name="Cancel").click()
    expect(clear).to_be_focused()
    expect(page.get_by_role("heading", level=1)).to_have_text(AMBER)
    clear.click()
    page.get_by_role("button", name="Clear them").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Where does this image come from?")
    expect(page.locator("#history")).to_be_hidden()
    assert page.evaluate("sessionStorage.length") == 0


def test_an_answer_leaves_the_question_whether_to_clear_open(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    page.get_by_role("link", name="Ask about another image").click()
    held: list[Route] = []
    page.route(re.compile(r"/attribute\?"), lambda route: held.append(route))
    page.set_input_files("#file", images("shared.png"))
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.get_by_role("button", name="Clear", exact=True).click()
    sure = page.get_by_role("button", name="Clear them")
    expect(sure).to_be_focused()
    held[0].continue_()
    expect(page.locator(".strip a")).to_have_count(2)
    expect(page.locator(".verdict")).to_be_visible()
    expect(sure).to_be_focused()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Latest answers in this tab")).to_be_visible()


def test_a_thousand_concepts_are_browsed(page: Page) -> None:
    page.get_by_role("link", name="Collection").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The collection")
    expect(page.get_by_text(f"1 to 48 of {CONCEPTS:,} concepts")).to_be_visible()
    expect(page.locator(".tile")).to_have_count(48)
    shows(page.locator(".tile img"))
    page.get_by_role("link", name="Next").click()
    expect(page.get_by_text("49 to 96 of")).to_be_visible()
    assert page.url.endswith("#/concepts?page=2")
    page.locator(".tile").nth(3).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Painter")
    page.go_back()
    expect(page.get_by_text("49 to 96 of")).to_be_visible()
    page.go_back()
    expect(page.get_by_text("1 to 48 of")).to_be_visible()


def test_pages_are_jumped_to(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/#/concepts")
    page.get_by_role("link", name="Page 3", exact=True).click()
    expect(page.get_by_text("97 to 144 of")).to_be_visible()
    expect(page.get_by_role("link", name="Page 3", exact=True)).to_have_attribute(
        "aria-current", "page"
    )
    field = page.get_by_role("spinbutton", name="Page number")
    field.fill("99")
    field.press("Enter")
    expect(field).to_have_attribute("aria-invalid", "true")
    field.fill("12")
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_text("529 to 576 of")).to_be_visible()
    page.get_by_role("link", name="Page 21", exact=True).click()
    expect(page.get_by_text(f"961 to {CONCEPTS:,} of")).to_be_visible()
    page.goto(f"{site.url}/#/concepts?page=22")
    expect(page.get_by_text("There are only 21 pages.")).to_be_visible()
    page.get_by_role("link", name="Go to the first page").click()
    expect(page.get_by_text("1 to 48 of")).to_be_visible()


def test_the_collection_is_searched_filtered_and_ordered(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/#/concepts")
    box = page.get_by_role("searchbox", name="Search by name")
    box.fill("night STARRY")
    expect(page.locator(".tile")).to_have_count(1)
    expect(page.locator(".tile")).to_contain_text("style_starry_night")
    box.fill("OCHRE")
    expect(page.locator(".tile")).to_contain_text("Étude in ochre")
    expect(page.locator(".tile")).to_have_count(1)
    assert parse_qs(urlsplit(page.url).fragment.partition("?")[2]) == {"q": ["OCHRE"]}
    page.locator(".tile").click()
    expect(page.locator(".wall li")).to_have_count(3)
    page.go_back()
    expect(box).to_have_value("OCHRE")
    page.get_by_label("Kind").select_option("style")
    expect(page.get_by_text("No concept that fits the filters has “OCHRE”")).to_be_visible()
    page.get_by_role("link", name="Search without filters").click()
    expect(page.locator(".tile")).to_have_count(1)
    box.fill("nobody at all")
    expect(page.get_by_text("No concept has “nobody at all” in its name.")).to_be_visible()
    expect(page.get_by_text("Try fewer or shorter words")).to_be_visible()
    page.get_by_role("link", name="Show all concepts").click()
    expect(page.locator(".tile")).to_have_count(48)
    page.get_by_label("Order").select_option("exemplars")
    expect(page.locator(".tile").first).to_contain_text("3 exemplars")
    page.get_by_label("Kind").select_option("style")
    expect(page.locator(".tile")).to_have_count(1)
    page.reload()
    expect(page.locator(".tile")).to_have_count(1)


def test_the_index_is_named(page: Page) -> None:
    line = page.locator("#index")
    expect(line).to_contain_text(f"{CONCEPTS:,} concepts, 1,006 exemplars")
    expect(line).to_contain_text(re.compile(r"index \d{8}T\d+-\w+, built \d+ \w+ \d{4}"))


def test_the_settings_are_kept(page: Page, images: Images) -> None:
    page.get_by_role("button", name="Settings").click()
    drawer = page.get_by_role("dialog", name="Settings")
    drawer.get_by_label("Concepts to list").fill("7")
    drawer.get_by_label("Exemplars of each").fill("1")
    drawer.get_by_label("Find the regions").uncheck()
    drawer.get_by_role("button", name="Done").click()
    expect(drawer).to_be_hidden()
    page.reload()
    ready(page)
    with page.expect_request(re.compile("/attribute")) as asked:
        page.set_input_files("#file", images("shared.png"))
    parameters = parse_qs(urlsplit(asked.value.url).query)
    expected = {"top_k": ["7"], "exemplars": ["1"], "explain": ["false"], "keep": ["true"]}
    assert parameters == expected
    expect(page.locator(".card, .bystanders li")).to_have_count(7)
    page.locator(".hit").first.hover()
    expect(page.locator(".heat")).to_have_count(0)


def test_settings_that_cannot_be_are_refused_in_place(page: Page) -> None:
    page.get_by_role("button", name="Settings").click()
    drawer = page.get_by_role("dialog", name="Settings")
    field = drawer.get_by_label("Concepts to list")
    field.fill("1001")
    expect(drawer.get_by_role("alert").first).to_have_text("Choose a whole number from 1 to 1,000.")
    drawer.get_by_role("button", name="Done").click()
    expect(drawer).to_be_visible()
    expect(field).to_be_focused()
    field.fill("8")
    exemplars = drawer.get_by_label("Exemplars of each")
    exemplars.fill("50")
    field.fill("11")  # 550 together
    expect(drawer.get_by_role("alert").first).to_contain_text("a report holds at most 500")
    exemplars.fill("3")
    expect(field).to_have_attribute("aria-invalid", "false")
    field.fill("8")
    drawer.get_by_role("button", name="Done").click()
    expect(drawer).to_be_hidden()
    page.get_by_role("button", name="Settings").click()
    expect(field).to_have_value("8")


def test_the_facet_never_hides_what_the_headline_names(page: Page, images: Images) -> None:
    with page.expect_response(re.compile("/attribute")) as answered:
        page.set_input_files("#file", images("known.png"))
    body = answered.value.json()
    body["concepts"][0]["found_by"] = ["subject"]
    page.route(re.compile(r"/attribute\?"), lambda route: route.fulfill(json=body))
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Style: how it is made").check()
    page.get_by_role("button", name="Done").click()
    page.set_input_files("#file", images("strange.png"))
    expect(page.get_by_role("heading", level=1)).to_have_text(AMBER)
    expect(page.locator(".card h3").first).to_contain_text("Amber Vale")
    first, second = body["concepts"][:2]
    second["found_by"] = ["subject"]
    body |= {"verdict": "uncertain", "candidates": [first["id"], second["id"]]}
    page.set_input_files("#file", images("strange.png"))
    expect(page.locator(".card h3")).to_have_count(2)


def test_the_page_and_its_report_speak_another_language(
    page: Page, site: Site, images: Images, tmp_path: Path
) -> None:
    give(page, images("known.png"))
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Language").select_option("de")
    expect(page.get_by_role("dialog", name="Einstellungen")).to_be_visible()
    page.get_by_role("button", name="Fertig").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Nächste Übereinstimmung: Amber")
    expect(page.locator(".verdict .lead")).to_contain_text("-mal wahrscheinlicher")
    page.locator(".card summary").first.click()
    figures = page.locator(".card dl").first.inner_text()
    assert re.search(r"\d,\d", figures)
    assert not re.search(r"\d\.\d", figures)
    assert page.evaluate("document.documentElement.lang") == "de"
    with page.expect_download() as download:
        page.get_by_role("button", name="Bericht speichern").click()
    assert download.value.suggested_filename.endswith(".de.html")
    file = tmp_path / "report.html"
    download.value.save_as(file)
    assert "Belegbericht" in file.read_text(encoding="utf-8")
    assert verify_report(file, DataFolder(site.data), embedder=FakeEmbedder()).complete
    page.reload()
    expect(page.get_by_role("link", name="Sammlung")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("nicht mehr in diesem Tab")


def test_what_the_server_says_in_english_is_marked_as_such(
    page: Page, images: Images, watch: Watch
) -> None:
    watch.errors_expected = True
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Language").select_option("de")
    page.get_by_role("button", name="Fertig").click()
    page.set_input_files("#file", images("damaged.png"))
    heading = page.locator("#view h1")
    expect(heading).to_contain_text("cannot be decoded")
    expect(heading.locator("[lang=en]")).to_have_count(1)


def test_texts_that_cannot_be_fetched_are_said_to_be_missing(
    page: Page, site: Site, watch: Watch
) -> None:
    watch.errors_expected = True
    page.route("**/static/texts/de.json", lambda route: route.fulfill(status=503))
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Language").select_option("de")
    expect(page.get_by_text("The texts in this language could not be loaded")).to_be_visible()
    expect(page.get_by_label("Language")).to_have_value("en")
    page.route("**/static/texts/en.json", lambda route: route.fulfill(status=503))
    page.goto("about:blank")
    page.goto(site.url)
    expect(page.get_by_role("alert")).to_contain_text("The page could not be loaded whole")
    watch.faults.clear()  # the error that says so


def test_the_page_begins_in_the_browser_s_language(browser: Browser, site: Site) -> None:
    for locale, title in (("de-CH", "Woher kommt"), ("fr", "Where does"), ("en-GB", "Where does")):
        context = browser.new_context(locale=locale)
        page = context.new_page()
        page.goto(site.url)
        expect(page.get_by_role("heading", level=1)).to_contain_text(title)
        context.close()


def test_the_keyboard_skips_to_the_content(page: Page) -> None:
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_nothing_scrolls_sideways_on_a_phone(page: Page, site: Site, images: Images) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    give(page, images("tall.png"))
    for fragment in (None, "#/", "#/concepts", "#/concepts/c0"):
        if fragment:
            page.goto(f"{site.url}/{fragment}")
            page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_paper_gets_the_answer_and_no_buttons(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    page.emulate_media(media="print")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator(".card").first).to_be_visible()
    expect(page.get_by_role("button", name="Save evidence report")).to_be_hidden()
    expect(page.locator(".bar")).to_be_hidden()


# The files


def test_the_page_is_light(context: BrowserContext, site: Site) -> None:
    page = context.new_page()
    sizes: dict[str, int] = {}
    page.on(
        "response",
        lambda response: sizes.__setitem__(
            urlsplit(response.url).path,
            0 if "image/" in response.headers.get("content-type", "") else len(response.body()),
        ),
    )
    page.goto(site.url, wait_until="networkidle")
    assert {"/", "/static/main.js", "/static/page.css"} <= set(sizes)
    assert sum(sizes.values()) <= WEIGHT, sizes


def test_the_policy_holds_against_what_is_slipped_in(page: Page, watch: object) -> None:
    policy = page.request.get(page.url).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.slipped = true";
            document.body.append(script);
        }"""
    )
    assert page.evaluate("window.slipped") is None
    watch.faults.clear()  # type: ignore[attr-defined]  # the refusal is what was asked for


def test_figures_are_the_same_on_the_page_and_in_the_report(page: Page) -> None:
    from app.reports.texts import LANGUAGES, texts

    say = "async ([name, values]) => values.map((await import('/static/words.js'))[name])"
    for language in LANGUAGES:
        speak = "async (code) => (await import('/static/texts.js')).speakIn(code)"
        page.evaluate(speak, language)
        shares = [0, 0.001, 0.005, 0.125, 0.5, 0.985, 0.9949, 0.996, 1]
        own = texts(language)
        assert page.evaluate(say, ["percent", shares]) == [own.percent(one) for one in shares]
        ratios = [1 / 1500, 0.4, 1, 2, 9.94, 9.96, 42.4, 1499, 123456]
        assert page.evaluate(say, ["ratio", ratios]) == [own.ratio(one) for one in ratios]
        times = ["2026-03-05T07:08:09Z", "2026-12-31T23:59:59.999Z"]
        moments = [datetime.fromisoformat(one) for one in times]
        said = page.evaluate(say, ["utc", times])
        assert [re.sub(" (at|um) ", ", ", one) for one in said] == [
            own.moment(one) for one in moments
        ]


def test_several_are_named_only_if_they_are_all(page: Page) -> None:
    """An answer may list fewer concepts than share the evidence; the report says the same."""
    from app.reports.finding import named_concepts
    from whence_client.models import GroupAnswer

    def answer(shares: list[float], candidates: int) -> dict[str, object]:
        concepts = [{"id": str(n), "share": share} for n, share in enumerate(shares)]
        ids = [str(n) for n in range(candidates)]
        return {
            "verdict": "uncertain",
            "concepts": concepts,
            "candidates": ids,
            "no_source_share": 0.1,
        }

    cases = [
        (answer([0.3], 1), 0),  # one of many, since only one was asked for
        (answer([0.3, 0.2], 2), 0),  # two of more
        (answer([0.45, 0.44], 2), 2),  # the others have next to nothing
        (answer([0.4, 0.3, 0.01], 2), 2),
        (answer([0.2] * 4, 4), 0),  # too many to be named
        ({**answer([0.2] * 4, 0), "verdict": "attributed"}, 1),  # at a high rate, without support
    ]
    for told, count in cases:
        script = "async (answer) => (await import('/static/words.js')).named(answer).length"
        assert page.evaluate(script, told) == count
        concepts = [SimpleNamespace(**one) for one in told["concepts"]]  # type: ignore[attr-defined]
        reported = GroupAnswer.model_construct(**{**told, "concepts": concepts})  # type: ignore[arg-type]
        assert len(named_concepts(reported)) == count


# What the source says of a work


def test_details_of_an_exemplar_are_what_its_source_says(page: Page, images: Images) -> None:
    page.goto(page.url.partition("#")[0] + "#/concepts/c0")
    record = page.locator(".wall li").first.locator("details")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(urlsplit(request.url).path))
    record.locator("summary").click()
    expect(record.locator("dt")).to_have_text(["year", "accession"])
    expect(record.locator("dd")).to_have_text(["c. 1900", "<b>12345678901234567890</b>"])
    record.locator("summary").click()
    record.locator("summary").click()
    assert len([path for path in asked if re.fullmatch(r"/exemplars/[0-9a-f]+", path)]) == 1
    page.goto(page.url.partition("#")[0] + "#/concepts/c5")
    page.locator(".wall li").first.locator("summary").click()
    expect(page.locator(".wall li").first).to_contain_text("The source says no more of this work.")
    page.goto(page.url.partition("#")[0] + "#/")
    give(page, images("known.png"))
    page.locator("button.hit").first.click()
    page.locator("dialog summary").click()
    expect(page.locator("dialog dd")).to_have_text(["c. 1900", "<b>12345678901234567890</b>"])


def test_details_keep_numbers_as_they_are_written(page: Page) -> None:
    """The answer stands in for a manifest of JSON lines, whose numbers a browser would round."""
    body = (
        '{"metadata": {"id": 12345678901234567890, "weight": 1.50, "list": [1, null, {"a": 0.10}],'
        ' "flag": true}}'
    )
    page.route(
        "**/exemplars/*", lambda route: route.fulfill(content_type="application/json", body=body)
    )
    page.goto(page.url.partition("#")[0] + "#/concepts/c1")
    record = page.locator(".wall li").first.locator("details")
    record.locator("summary").click()
    expect(record.locator("dd")).to_have_text(
        ["12345678901234567890", "1.50", '[1, null, {"a": 0.10}]', "true"]
    )
