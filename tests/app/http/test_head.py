"""HEAD wherever there is GET."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings

PATHS = [
    "/", "/docs", "/docs/static/swagger-ui.css", "/openapi.json", "/static/page.css",
    "/health/live", "/health/ready", "/metrics", "/concepts", "/concepts/emerald", "/concepts/x",
    "/samples", "/nothing", "/heatmaps/x.png",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_head_has_the_status_and_headers_of_get_and_no_body(client: TestClient, path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert head.status_code == get.status_code
    assert head.content == b""
    own = {"x-request-id"}
    if path == "/metrics" or get.status_code == 404:  # counts, and the id in a problem, change
        own.add("content-length")
    assert {k: v for k, v in head.headers.items() if k not in own} == {
        k: v for k, v in get.headers.items() if k not in own
    }


def test_an_image_has_its_length(client: TestClient) -> None:
    [exemplar, *_] = client.get("/concepts/emerald").json()["exemplars"]
    url = exemplar["image_url"]
    assert client.head(url).headers["content-length"] == str(len(client.get(url).content))


def test_a_server_that_is_not_ready_says_so(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(data=tmp_path))) as client:
        head = client.head("/health/ready")
    assert (head.status_code, head.content) == (503, b"")
    assert head.headers["retry-after"].isdecimal()


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/concepts", "GET, HEAD"),
        ("PUT", "/static/page.css", "GET, HEAD"),
        ("HEAD", "/attribute", "POST"),
    ],
)
def test_other_methods_are_told_which_there_are(
    client: TestClient, method: str, path: str, allowed: str
) -> None:
    response = client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed


def test_the_log_and_the_metrics_say_head(client: TestClient) -> None:
    client.head("/concepts")
    assert 'method="HEAD",route="/concepts",status="200"' in client.get("/metrics").text


def test_the_description_does_not_list_it(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert not [path for path, operations in paths.items() if "head" in operations]
