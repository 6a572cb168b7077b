"""The page in a real browser: giving images, reading answers, finding one's way."""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.browser.conftest import CONCEPTS, SIDE, Site, give

Images = Callable[[str], Path]
WEIGHT = 150_000  # bytes, without pictures


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
    expect(page.get_by_role("heading", level=1)).to_have_text("Most likely drawn from Amber Vale")
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
    if way == "keys":
        page.keyboard.press("Control+V")
    else:
        page.get_by_role("button", name="Paste").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")


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


def test_of_several_images_the_first_is_taken(page: Page, images: Images) -> None:
    page.locator("#file").evaluate("input => input.multiple = true")
    page.set_input_files("#file", [images("known.png"), images("strange.png")])
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")
    expect(page.get_by_text("the first of 2")).to_be_visible()


def test_what_the_browser_cannot_show_is_answered_all_the_same(page: Page, images: Images) -> None:
    give(page, images("known.tiff"))
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")
    expect(page.get_by_text("cannot show images of this type")).to_be_visible()


# Answers


@pytest.mark.parametrize(
    ("image", "title", "text"),
    [
        ("known.png", "Most likely drawn from Amber Vale", "appears by chance about once in"),
        (
            "shared.png",
            "Uncertain between Painter 0003, Painter 0004, and Painter 0005",
            "share this evidence",
        ),
        ("strange.png", "No match in this collection", "do not read them as sources"),
    ],
)
def test_every_verdict_is_said_in_words(
    page: Page, images: Images, image: str, title: str, text: str
) -> None:
    give(page, images(image))
    expect(page.get_by_role("heading", level=1)).to_have_text(title)
    expect(page.locator(".verdict")).to_contain_text(text)
    assert page.title() == f"{title} · Whence"
    expect(page.locator("#spoken")).to_have_text(title)
    focused = page.evaluate("document.activeElement.textContent")
    assert focused == title  # a screen reader goes on from there


def test_a_card_tells_what_speaks_for_a_concept(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    card = page.get_by_role("listitem", name="1 Amber Vale").or_(page.locator(".card").first).first
    expect(card.locator(".share")).to_contain_text(re.compile(r"\d+%"))
    expect(card.locator(".why")).to_contain_text(re.compile("Found by (style|subject)"))
    expect(card.locator(".why")).to_contain_text("by chance about once in")
    hits = card.locator(".hits li")
    expect(hits).to_have_count(3)
    shows(card.locator(".hits img"))
    expect(hits.filter(has_text="CC0-1.0")).to_have_count(1)
    expect(hits.filter(has_text="No licence recorded")).to_have_count(2)
    hosts = [link.get_attribute("href") for link in card.locator(".rights a").all()]
    assert sorted(map(str, hosts)) == ["https://museum.example/0/0", "https://museum.example/0/1"]
    expect(card.locator(".rights", has_text="javascript:alert(1)")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("How the answer divides: Amber Vale"))).to_be_visible()  # fmt: skip  # noqa: E501
    card.get_by_text("Figures").click()
    expect(card.locator("dl")).to_contain_text("p-value")


def test_the_shares_drawn_are_the_shares_told(page: Page, images: Images) -> None:
    with page.expect_response(re.compile("/attribute")) as answered:
        page.set_input_files("#file", images("shared.png"))
    answer = answered.value.json()
    page.wait_for_selector(".verdict")
    stack = page.locator(".stack").bounding_box()
    rest = page.locator(".stack .rest").bounding_box()
    assert stack
    assert rest
    assert rest["width"] / stack["width"] == pytest.approx(answer["unattributed_share"], abs=0.03)


def test_what_the_answer_does_not_say_is_on_the_page(page: Page, images: Images) -> None:
    give(page, images("strange.png"))
    expect(page.get_by_role("heading", name="What this does not say")).to_be_visible()
    expect(page.get_by_text("Similarity is not proof")).to_be_visible()


def test_a_name_is_never_markup(page: Page, site: Site, images: Images) -> None:
    hostile = '<img src=x onerror="document.title=1">'

    upload = {"name": "a.png", "mimeType": "image/png", "buffer": images("known.png").read_bytes()}
    body = page.request.post(f"{site.url}/attribute", multipart={"image": upload}).json()
    body["concepts"][0]["name"] = hostile
    body["concepts"][0]["exemplars"][0]["license"] = hostile
    page.route(re.compile("/attribute"), lambda route: route.fulfill(json=body))
    give(page, images("known.png"))
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Most likely drawn from {hostile}")
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
    dialog.get_by_role("checkbox", name="Show the regions").press("Space")
    expect(dialog.locator(".heat")).to_have_count(0)
    dialog.get_by_role("button", name="Next").press("Enter")
    expect(dialog.get_by_role("status").filter(has_text="2 of")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert hit.evaluate("element => element === document.activeElement")


def test_regions_are_shown_by_touch(browser: object, site: Site, images: Images) -> None:
    context = browser.new_context(  # type: ignore[attr-defined]
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(site.url)
    page.set_input_files("#file", images("tall.png"))
    page.locator(".hit").first.tap()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(dialog.locator(".heat")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
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
    page.get_by_role("link", name="Amber Vale").click()
    expect(heading).to_have_text("Amber Vale")
    assert page.url.endswith("#/concepts/c0")
    assert page.title() == "Amber Vale · Whence"
    expect(page.locator(".wall li")).to_have_count(3)
    assert page.evaluate("scrollY") == 0
    page.go_back()
    expect(heading).to_have_text("Most likely drawn from Amber Vale")
    until(page, f"Math.abs(scrollY - {down}) < 40")
    shows(page.locator(".hits img"))
    page.get_by_role("link", name="Ask about another image").click()
    expect(heading).to_have_text("Where does this image come from?")
    give(page, images("strange.png"))
    for title in ("Where does this image", "Most likely drawn from", "Where does this image"):
        page.go_back()
        expect(heading).to_contain_text(title)
    page.go_forward()
    expect(heading).to_have_text("Most likely drawn from Amber Vale")
    page.go_forward()
    page.go_forward()
    expect(heading).to_have_text("No match in this collection")


def test_an_answer_that_is_gone_is_said_to_be(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("That answer is gone")
    expect(page.get_by_role("button", name="Choose an image")).to_be_visible()
    assert page.url.endswith("#/")


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


def test_the_collection_is_searched(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/#/concepts")
    box = page.get_by_role("searchbox", name="Search by name")
    box.fill("OCHRE")
    expect(page.locator(".tile")).to_have_count(1)
    expect(page.locator(".tile")).to_contain_text("Étude in ochre")
    assert parse_qs(urlsplit(page.url).fragment.partition("?")[2]) == {"q": ["OCHRE"]}
    page.locator(".tile").click()
    expect(page.locator(".wall li")).to_have_count(3)
    page.go_back()
    expect(box).to_have_value("OCHRE")
    box.fill("nobody at all")
    expect(page.get_by_text("No concept has “nobody at all” in its name.")).to_be_visible()
    page.get_by_role("link", name="Show all concepts").click()
    expect(page.locator(".tile")).to_have_count(48)


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
    with page.expect_request(re.compile("/attribute")) as asked:
        page.set_input_files("#file", images("shared.png"))
    parameters = parse_qs(urlsplit(asked.value.url).query)
    assert parameters == {"top_k": ["7"], "exemplars": ["1"], "explain": ["false"]}
    expect(page.locator(".card")).to_have_count(7)
    page.locator(".hit").first.hover()
    expect(page.locator(".heat")).to_have_count(0)


def test_concepts_found_by_the_other_facet_can_be_hidden(page: Page, images: Images) -> None:
    with page.expect_response(re.compile("/attribute")) as answered:
        page.set_input_files("#file", images("strange.png"))
    found = [concept["found_by"] for concept in answered.value.json()["concepts"]]
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Style: how it is made").check()
    page.get_by_role("button", name="Done").click()
    by_style = sum("style" in facets for facets in found)
    expect(page.locator(".card")).to_have_count(by_style)
    if by_style < len(found):
        expect(page.get_by_text("not found by style")).to_be_visible()


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


def test_words_are_the_same_on_the_page_and_in_the_report(page: Page) -> None:
    from app.reports.report import percent

    shares = [0, 0.001, 0.005, 0.125, 0.5, 0.985, 0.9949, 0.996, 1]
    said = page.evaluate(
        "async (values) => values.map((await import('/static/words.js')).percent)", shares
    )
    assert said == [percent(share) for share in shares]


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
