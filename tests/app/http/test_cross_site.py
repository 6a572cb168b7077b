"""Requests that pages of other origins send."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.app.conftest import CheckProblem

EVIL = "https://evil.example"


@pytest.fixture(scope="module")
def local(attributor: Attributor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server without keys on this machine."""
    app = create_app(Settings(data=tmp_path_factory.mktemp("data")), attributor)
    with TestClient(app, base_url="http://127.0.0.1:8000", client=("127.0.0.1", 1)) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": EVIL},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:9000"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9000"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://["},
        {"Origin": "ftp://127.0.0.1:8000"},
    ],
)
@pytest.mark.parametrize("path", ["/attribute", "/attribute/batch", "/attribute/report"])
def test_a_form_of_another_page_is_refused(
    path: str,
    headers: dict[str, str],
    local: TestClient,
    query: bytes,
    check_problem: CheckProblem,
) -> None:
    response = local.post(path, files={"image": query}, headers=headers)
    problem = check_problem(response, 403, "cross-site-refused")
    assert "WHENCE_CORS_ORIGINS" in problem["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:8000"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Origin": EVIL, "Sec-Fetch-Site": "cross-site", "Authorization": "Bearer key"},
        {"Origin": "https://localhost", "Host": "localhost:443"},
        {"Origin": "http://LOCALHOST:80", "Host": "localhost"},
    ],
)
def test_own_pages_programs_and_callers_with_a_key_are_answered(
    headers: dict[str, str], local: TestClient, query: bytes
) -> None:
    response = local.post("/attribute", files={"image": query}, headers=headers)
    assert response.status_code == 200, response.text


def test_reading_is_not_refused_but_cannot_be_embedded(local: TestClient) -> None:
    response = local.get("/concepts", headers={"Sec-Fetch-Site": "cross-site", "Origin": EVIL})
    assert response.status_code == 200
    assert response.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("origins", [EVIL, "*"])
def test_origins_that_cors_allows_may_ask(
    origins: str, attributor: Attributor, tmp_path: Path, query: bytes
) -> None:
    app = create_app(Settings(data=tmp_path, cors_origins=origins), attributor)  # type: ignore[arg-type]
    with TestClient(app) as client:
        headers = {"Sec-Fetch-Site": "cross-site", "Origin": EVIL}
        response = client.post("/attribute", files={"image": query}, headers=headers)
        assert response.status_code == 200
