"""The service under a sub-path, with the prefix stripped by a proxy or not."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from app.http.paths import route_path
from app.main import OTHER_BODY, create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.pictures import encode, noise

ROOT = "/whence"
Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module", params=["stripped", "kept"])
def ask(
    request: pytest.FixtureRequest, attributor: Attributor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ask]:
    """Asks as a client that knows the public path, through a proxy that strips it or does not."""
    data: Path = tmp_path_factory.mktemp("data")
    settings = Settings(data=data, root_path="whence/", device="cpu", max_queue=64)
    with TestClient(create_app(settings, attributor)) as client:

        def ask(method: str, url: str, **rest: object) -> httpx.Response:
            assert url.startswith(ROOT), url
            path = url.removeprefix(ROOT) if request.param == "stripped" else url
            return client.request(method, path, **rest)  # type: ignore[arg-type]

        ask.client = client  # type: ignore[attr-defined]
        yield ask


def test_answers_name_addresses_that_lead_back(ask: Ask, query: bytes) -> None:
    answer = ask("POST", f"{ROOT}/attribute?explain=true", files={"image": query}).json()
    exemplar = answer["concepts"][0]["exemplars"][0]
    assert ask("GET", exemplar["image_url"]).headers["content-type"] == "image/jpeg"
    heatmaps = exemplar["heatmaps"]
    for name in ("query_url", "exemplar_url"):
        assert ask("GET", heatmaps[name]).headers["content-type"] == "image/png"
    [concept, *_] = ask("GET", f"{ROOT}/concepts").json()["concepts"]
    assert ask("GET", concept["image_url"]).status_code == 200
    [exemplar, *_] = ask("GET", f"{ROOT}/concepts/{concept['id']}").json()["exemplars"]
    assert ask("GET", exemplar["image_url"]).status_code == 200


def test_a_batch_names_them_too(ask: Ask, query: bytes) -> None:
    response = ask("POST", f"{ROOT}/attribute/batch", files={"image": query})
    [answer] = response.json()["answers"]
    url = answer["attribution"]["concepts"][0]["exemplars"][0]["image_url"]
    assert ask("GET", url).status_code == 200


@pytest.mark.parametrize("page", ["/", "/docs"])
def test_all_that_a_page_uses_is_there(ask: Ask, page: str) -> None:
    text = ask("GET", ROOT + page).text
    used = re.findall(r"""(?:src|href|url)(?:=|: )["']([^"'#]+)["']""", text)
    assert len(used) > 3
    for reference in used:
        assert ask("GET", urljoin(ROOT + page, reference)).status_code == 200, reference
    policy = ask("GET", ROOT + page).headers["content-security-policy"]
    assert "script-src 'self'" in policy


def test_the_description_names_the_server(ask: Ask) -> None:
    assert ask("GET", f"{ROOT}/openapi.json").json()["servers"] == [{"url": ROOT}]


def test_large_images_pass_and_other_bodies_do_not(ask: Ask) -> None:
    image = encode(noise(300, 300))
    assert len(image) > OTHER_BODY
    assert ask("POST", f"{ROOT}/attribute", files={"image": image}).status_code == 200
    large = ask("POST", f"{ROOT}/takedowns", content=bytes(OTHER_BODY + 1))
    assert large.status_code == 413


def test_uploads_are_shed(ask: Ask, query: bytes) -> None:
    queue = ask.client.app.state.service.pipeline.queue  # type: ignore[attr-defined]
    with queue.hold(queue.capacity):
        response = ask("POST", f"{ROOT}/attribute", files={"image": query})
    assert response.status_code == 429
    counted = 'whence_http_requests_total{method="POST",route="/attribute",status="429"}'
    assert counted in ask("GET", f"{ROOT}/metrics").text


def test_routes_are_counted_without_the_prefix(ask: Ask) -> None:
    for path in ("/concepts", "/static/page.css", "/health/live", "/docs", "/nothing"):
        ask("GET", ROOT + path)
    text = ask("GET", f"{ROOT}/metrics").text
    routes = set(re.findall(r'route="([^"]+)"', text))
    assert {"/concepts", "/static", "/health/live", "/docs", "unmatched"} <= routes
    assert not [route for route in routes if ROOT in route]


def test_the_bare_prefix_leads_to_the_page(ask: Ask) -> None:
    response = ask("GET", f"{ROOT}/")
    assert "<title>Whence</title>" in response.text


def test_other_paths_that_begin_alike_are_not_under_it() -> None:
    for path, expected in {
        "/whence/attribute": "/attribute", "/whence": "", "/whenceforth": "/whenceforth",
        "/attribute": "/attribute",
    }.items():  # fmt: skip
        assert route_path({"path": path, "root_path": ROOT}) == expected
    assert route_path({"path": "/attribute"}) == "/attribute"


@pytest.mark.parametrize(
    ("given", "meant"), [("/a/b/", "/a/b"), ("a", "/a"), ("/", ""), ("", ""), (" /a ", "/a")]
)
def test_the_setting_is_a_path(given: str, meant: str) -> None:
    assert Settings(root_path=given).root_path == meant


@pytest.mark.parametrize("given", ["//a", "/a//b", "/a?b", "/a b", "http://a/b", "/ä"])
def test_what_is_no_path_is_refused(given: str) -> None:
    if given == "//a":
        assert Settings(root_path=given).root_path == "/a"
        return
    with pytest.raises(ValidationError):
        Settings(root_path=given)


def test_the_prefix_without_its_slash_is_led_to_the_page(
    attributor: Attributor, tmp_path: Path
) -> None:
    settings = Settings(data=tmp_path, root_path=ROOT)
    with TestClient(create_app(settings, attributor)) as client:
        response = client.get(ROOT)
    assert response.url.path == f"{ROOT}/"
    assert "<title>Whence</title>" in response.text
