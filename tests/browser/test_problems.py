"""What goes wrong is said in words, where it happened."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from app.auth.keys import KeyFile
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.browser.conftest import Site, Watch, give, ready, serving

Images = Callable[[str], Path]


@pytest.fixture
def watch(watch: Watch) -> Watch:
    watch.errors_expected = True
    return watch


def problem(status: int, title: str, detail: str, **headers: str) -> Callable[[Route], None]:
    def answer(route: Route) -> None:
        route.fulfill(
            status=status,
            headers=headers,
            content_type="application/problem+json",
            json={"type": "urn:x", "title": title, "status": status, "detail": detail},
        )

    return answer


BUSY = problem(429, "Too many requests", "ask again later", **{"Retry-After": "2"})
ATTRIBUTE = re.compile(r"/attribute\?")
REPORT = re.compile(r"/attribute/report\?")


@pytest.mark.parametrize(
    ("image", "title", "detail"),
    [
        ("words.png", "This is not an image that can be compared", "It holds text"),
        ("page.pdf", "This is not an image that can be compared", "Export its page as PNG"),
        ("empty.png", "The file is empty", "0 bytes"),
        ("tiny.png", "The image has too few pixels", "8 \u00d7 8 pixels"),
        ("wide.png", "The image has too many pixels", "6,000 \u00d7 20 pixels"),
        ("heavy.bmp", "The file is too large", "at most 1 MB"),
    ],
)
def test_faults_that_the_page_can_see_are_told_before_the_upload(
    page: Page, images: Images, image: str, title: str, detail: str
) -> None:
    sent: list[str] = []
    page.on("request", lambda request: request.method == "POST" and sent.append(request.url))
    give(page, images(image))
    alert = page.get_by_role("alert")
    expect(alert.get_by_role("heading")).to_have_text(title)
    expect(alert).to_contain_text(detail)
    expect(alert.get_by_role("button", name="Try again")).to_have_count(0)
    assert page.title() == f"{title} · Whence"
    assert sent == []
    alert.get_by_role("link", name="Ask about another image").click()
    give(page, images("known.png"))
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")


def test_what_the_server_refuses(page: Page, images: Images) -> None:
    give(page, images("damaged.png"))
    alert = page.get_by_role("alert")
    expect(alert.get_by_role("heading")).to_have_text("The image cannot be decoded")
    expect(alert).to_contain_text("may be cut short or damaged")
    expect(alert).to_contain_text("save it anew")
    expect(alert.get_by_role("button", name="Try again")).to_have_count(0)


def test_a_type_that_the_server_does_not_read_has_a_hint(page: Page, images: Images) -> None:
    body = {
        "type": "urn:whence:problem:unsupported-image-type",
        "title": "The image is of no accepted type",
        "status": 415,
        "detail": "they are of type HEIC",
    }
    kind = "application/problem+json"
    page.route(ATTRIBUTE, lambda route: route.fulfill(status=415, content_type=kind, json=body))
    give(page, images("known.png"))
    expect(page.get_by_role("alert")).to_contain_text("export it as JPEG or PNG")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)


def test_parameters_that_the_server_does_not_take(page: Page, images: Images) -> None:
    wrong = problem(422, "The request is not valid", "query parameter 'top_k': less than 5")
    page.route(ATTRIBUTE, wrong)
    give(page, images("known.png"))
    expect(page.get_by_role("alert")).to_contain_text("Query parameter 'top_k': less than 5.")


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_in_trouble_is_asked_again(page: Page, images: Images, status: int) -> None:
    page.route(ATTRIBUTE, problem(status, "Something went wrong here", "run `whence verify`"))
    give(page, images("known.png"))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Something went wrong here")
    expect(alert.locator("code")).to_have_text("whence verify")
    page.unroute(ATTRIBUTE)
    alert.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")


def test_what_is_not_from_whence_is_told_in_general(page: Page, images: Images) -> None:
    page.route(ATTRIBUTE, lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
    give(page, images("known.png"))
    expect(page.get_by_role("alert")).to_contain_text("The server answered 502")


def test_a_server_out_of_reach(page: Page, images: Images) -> None:
    page.route(ATTRIBUTE, lambda route: route.abort())
    give(page, images("known.png"))
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")


def test_a_busy_server_is_asked_once_more_by_itself(page: Page, images: Images) -> None:
    asked = []

    def answer(route: Route) -> None:
        asked.append(route)
        BUSY(route) if len(asked) == 1 else route.continue_()

    page.route(ATTRIBUTE, answer)
    page.set_input_files("#file", images("known.png"))
    expect(page.get_by_text("Trying again in 2 seconds")).to_be_visible()
    expect(page.get_by_text("Trying again in 1 second…")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")
    assert len(asked) == 2


def test_a_server_that_stays_busy_is_left_alone(page: Page, images: Images) -> None:
    asked = []
    page.route(ATTRIBUTE, lambda route: (asked.append(route), BUSY(route)))
    page.set_input_files("#file", images("known.png"))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Too many requests")
    expect(alert).to_contain_text("asks to wait 2 seconds")
    assert len(asked) == 2


def test_asking_can_be_stopped(page: Page, images: Images) -> None:
    page.route(ATTRIBUTE, lambda route: None)  # never answered
    page.set_input_files("#file", images("known.png"))
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("alert")).to_contain_text("The image was not compared")
    page.unroute(ATTRIBUTE)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")


def test_a_report_that_fails_says_so_beside_its_button(page: Page, images: Images) -> None:
    give(page, images("known.png"))
    page.route(REPORT, problem(503, "The server hangs", "restart the server"))
    page.get_by_role("button", name="Save evidence report").click()
    expect(page.locator(".reports").get_by_role("alert")).to_contain_text("The server hangs")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")
    expect(page.get_by_role("button", name="Save evidence report")).to_be_enabled()


def test_a_collection_that_cannot_be_listed_says_so_in_its_place(page: Page) -> None:
    page.route(re.compile(r"/concepts\?"), problem(503, "The server hangs", "restart it"))
    page.get_by_role("link", name="Collection").click()
    expect(page.locator(".found").get_by_role("alert")).to_contain_text("Restart it.")
    page.unroute(re.compile(r"/concepts\?"))
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".tile")).to_have_count(48)


def test_a_concept_that_is_not_there(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/#/concepts/no-body")
    expect(page.get_by_role("heading", level=1)).to_have_text("No such concept")
    expect(page.get_by_role("alert")).to_contain_text("no concept with the id “no-body”")
    assert page.title() == "No such concept · Whence"
    page.get_by_role("link", name="Search for “no body”").click()
    expect(page.get_by_text("No concept has “no body” in its name.")).to_be_visible()


def test_pictures_that_are_not_to_be_had(page: Page, images: Images) -> None:
    page.route(re.compile("/exemplars/"), lambda route: route.fulfill(status=404))
    give(page, images("known.png"))
    expect(page.get_by_text("No longer in the collection").first).to_be_visible()


# Without an index, and with keys


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(Settings(data=tmp_path_factory.mktemp("bare"), device="cpu"), None) as site:
        yield site


def test_without_an_index_the_page_says_what_is_missing(
    context: BrowserContext, bare: Site, images: Images
) -> None:
    page = context.new_page()
    page.goto(bare.url)
    expect(page.locator("#index")).to_contain_text("There is no index to answer from")
    give(page, images("known.png"))
    expect(page.get_by_role("alert")).to_contain_text("There is no index")
    expect(page.get_by_role("alert")).to_contain_text("whence rebuild")
    expect(page.get_by_role("alert").locator("code").first).to_be_visible()
    page.get_by_role("link", name="Collection").click()
    expect(page.locator(".found").get_by_role("alert")).to_contain_text("There is no index")


@pytest.fixture(scope="module")
def locked(
    data: Path, attributor: Attributor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, str]]:
    """A server that wants a key, and one that it takes."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    token = KeyFile(file).add("reader")
    with serving(Settings(data=data, device="cpu", keys_file=file), attributor) as site:
        yield site, token


def test_a_key_is_asked_for_and_kept_for_the_tab(
    context: BrowserContext, locked: tuple[Site, str], images: Images
) -> None:
    site, token = locked
    page = context.new_page()
    page.goto(site.url)
    expect(page.locator("#index")).to_contain_text("1,000 concepts")
    drawer = page.get_by_role("dialog", name="Settings")
    ready(page)
    page.set_input_files("#file", images("known.png"))
    expect(drawer.get_by_role("alert")).to_contain_text("This server needs a key")
    field = drawer.get_by_label("Key", exact=True)
    expect(field).to_be_focused()
    assert field.get_attribute("type") == "password"
    field.fill("whence_wrong")
    field.press("Enter")
    expect(drawer.get_by_role("alert")).to_contain_text("This key is not accepted")
    field.fill(token)
    field.press("Enter")
    expect(drawer).to_be_hidden()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Amber Vale")
    page.locator(".hits img").first.wait_for()  # pictures come with the key, too
    page.get_by_role("link", name="Collection").click()
    expect(page.locator(".tile img").first).to_be_visible()
    kept = page.evaluate("[JSON.stringify(localStorage), document.cookie, location.href]")
    assert not any(token in place for place in kept)
    page.reload()
    expect(page.locator(".tile")).to_have_count(48)
    other = context.new_page()
    other.goto(f"{site.url}/#/concepts")
    expect(other.get_by_role("dialog").get_by_role("alert")).to_contain_text("needs a key")


def test_a_table_without_a_key_waits_for_it_and_goes_on_one_by_one(
    context: BrowserContext, locked: tuple[Site, str], images: Images
) -> None:
    site, token = locked
    page = context.new_page()
    page.add_init_script(
        """(() => {
            const send = XMLHttpRequest.prototype.send;
            Object.assign(window, { sent: 0, open: 0, most: 0 });
            XMLHttpRequest.prototype.send = function (...body) {
                window.sent += 1;
                window.most = Math.max(window.most, (window.open += 1));
                this.addEventListener("load", () => (window.open -= 1));
                send.apply(this, body);
            };
        })()"""
    )
    page.goto(site.url)
    give(page, images("known.png"), images("strange.png"), images("shared.png"))
    page.get_by_role("button", name="Ask one by one").click()
    drawer = page.get_by_role("dialog", name="Settings")
    field = drawer.get_by_label("Key", exact=True)
    for key, said in (("whence_wrong", "needs a key"), (token, "is not accepted")):
        expect(drawer.get_by_role("alert")).to_contain_text(said)
        expect(page.locator("tbody tr.failed")).to_have_count(1)
        expect(page.locator("tbody tr.new")).to_have_count(2)
        field.fill(key)
        field.press("Enter")
    expect(page.get_by_text("3 of 3 answered.")).to_be_visible()
    assert page.evaluate("[window.sent, window.most]") == [5, 1]


@pytest.mark.parametrize("status", [None, 403, 503])
def test_a_problem_of_every_image_stops_a_table(
    page: Page, images: Images, status: int | None
) -> None:
    asked: list[Route] = []
    fail = problem(status, "Not now", "ask later") if status else Route.abort

    def answer(route: Route) -> None:
        asked.append(route)
        fail(route)

    page.route(ATTRIBUTE, answer)
    give(page, images("known.png"), images("strange.png"), images("shared.png"))
    page.get_by_role("button", name="Ask one by one").click()
    said = "Not now" if status else "The server does not answer"
    expect(page.get_by_text(f"0 of 3 answered, 1 failed. {said}.")).to_be_visible()
    expect(page.locator("tbody tr").last).to_contain_text("Not asked yet")
    assert len(asked) == 1
    page.unroute(ATTRIBUTE)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("3 of 3 answered.")).to_be_visible()


def test_nothing_is_asked_for_before_it_is_needed(
    context: BrowserContext, locked: tuple[Site, str]
) -> None:
    page = context.new_page()
    page.goto(locked[0].url, wait_until="networkidle")
    expect(page.get_by_role("dialog", name="Settings")).to_be_hidden()
