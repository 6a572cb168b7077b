"""The page under a sub-path, behind a real nginx that strips the prefix or leaves it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from app.settings import Settings
from index.answering.attribution import Attributor
from tests.browser.conftest import Watch, give, serving
from tests.browser.test_page import AMBER, shows
from tests.proxy import needs_nginx, proxy

ROOT = "/whence"

pytestmark = needs_nginx


@pytest.fixture(params=["kept", "stripped"])
def address(
    request: pytest.FixtureRequest, data: Path, attributor: Attributor, tmp_path: Path
) -> Iterator[str]:
    """Where the page is, behind a proxy that passes on nothing but the sub-path."""
    settings = Settings(data=data, device="cpu", root_path=ROOT)
    there = "" if request.param == "kept" else "/"
    changes = {
        "location / {": f"location {ROOT}/ {{",
        "proxy_pass http://whence;\n      proxy_next_upstream error timeout http_503;": (
            f"proxy_pass http://whence{there};"
        ),
        "location /heatmaps/ {\n      proxy_pass http://whence;": f"location {ROOT}/heatmaps/ {{\n"
        f"      proxy_pass http://whence{there}{'heatmaps/' if there else ''};",
        "location /attribute {": f"location {ROOT}/attribute {{",
        "limit_conn images 20;\n      proxy_pass http://whence;": "limit_conn images 20;\n"
        f"      proxy_pass http://whence{there}{'attribute' if there else ''};",
    }
    with (
        serving(settings, attributor) as site,
        proxy(tmp_path, urlsplit(site.url).netloc, changes=changes) as (url, _),
    ):
        yield f"{url}{ROOT}/"


@pytest.fixture
def page(context: BrowserContext, address: str) -> Iterator[Page]:
    """The page, opened; at the end it has had no error and asked nobody else."""
    watch = Watch(urlsplit(address).netloc)
    page = context.new_page()
    watch.on(page)
    page.goto(address)
    yield page
    assert watch.faults == []


def test_an_image_larger_than_other_bodies_is_answered_with_pictures(
    page: Page, images: Callable[[str], Path], tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    # What follows the end of a PNG is not looked at.
    large.write_bytes(images("known.png").read_bytes() + bytes(200_000))
    give(page, large)
    expect(page.get_by_role("heading", level=1)).to_have_text(AMBER)
    shows(page.locator(".frame img"))


def test_the_collection_and_its_pictures_are_shown(page: Page) -> None:
    page.get_by_role("link", name="Collection").click()
    shows(page.locator(".tile img"))
    page.locator(".tile").first.click()
    shows(page.locator(".frame img"))


def test_samples_and_regions_are_shown(page: Page, images: Callable[[str], Path]) -> None:
    shows(page.locator(".samples img"))
    give(page, images("known.png"))
    page.locator(".hit").first.hover()
    shows(page.locator(".query .heat"))


def test_the_description_of_the_api_is_shown(page: Page, address: str) -> None:
    page.get_by_role("link", name="API").click()
    expect(page).to_have_url(f"{address}docs")
    expect(page.locator(".swagger-ui .info")).to_contain_text("Whence")
    expect(page.locator(".servers option").first).to_have_attribute("value", ROOT)
