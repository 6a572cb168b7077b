"""What browsers are told of answers, and which pages of other origins may read them."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.http.headers import security_headers
from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.app.conftest import CheckProblem
from tests.app.test_errors import BrokenEmbedder

ORIGIN = "https://gallery.example"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/concepts", 200),
        ("GET", "/health/live", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/nothing", 404),
        ("PUT", "/concepts", 405),
        ("POST", "/attribute", 422),
        ("POST", "/admin/reload", 401),
    ],
)
def test_every_answer_bears_them(client: TestClient, method: str, path: str, status: int) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    policy = response.headers["content-security-policy"]
    assert policy == "default-src 'none'; frame-ancestors 'none'"


def test_an_image_bears_each_once(client: TestClient) -> None:
    [exemplar, *_] = client.get("/concepts/emerald").json()["exemplars"]
    headers = client.get(exemplar["image_url"]).headers
    for name in ("x-content-type-options", "referrer-policy", "content-security-policy"):
        assert len(headers.get_list(name)) == 1


def test_an_error_of_the_server_bears_them(
    attributor: Attributor, tmp_path: Path, query: bytes
) -> None:
    app = create_app(Settings(data=tmp_path), Attributor(BrokenEmbedder(), attributor.snapshot))
    with TestClient(app, raise_server_exceptions=False) as client:
        response = client.post("/attribute", files={"image": query})
    assert response.status_code == 500
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/static/page.js"])
def test_the_page_may_use_its_own_and_nothing_else(path: str) -> None:
    policy = security_headers(path)["Content-Security-Policy"]
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "connect-src": "'self'",
        "form-action": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }


# The docs page


def test_the_docs_page_needs_no_other_host(client: TestClient) -> None:
    page = client.get("/docs")
    assert "//" not in page.text.replace("</", "").replace("<!--", "").split("<script>")[0]
    assert "sha256-" in page.headers["content-security-policy"]
    assert "http" not in page.headers["content-security-policy"]
    for part in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f'"docs/static/{part}"' in page.text.replace("'", '"')
        assert client.get(f"/docs/static/{part}").status_code == 200


def test_beside_the_docs_files_there_is_nothing(
    client: TestClient, check_problem: CheckProblem
) -> None:
    for path in ("nothing.js", "../core.py", "%2e%2e/core.py", "..%2fcore.py", ""):
        check_problem(client.get(f"/docs/static/{path}"), 404, "not-found")
    check_problem(client.get("/redoc"), 404, "not-found")


# Other origins


@pytest.fixture
def open_app(attributor: Attributor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setenv("WHENCE_CORS_ORIGINS", f" {ORIGIN}, https://other.example,")
    return TestClient(create_app(Settings(data=tmp_path), attributor))


def test_by_default_no_other_origin_reads_anything(
    client: TestClient, check_problem: CheckProblem
) -> None:
    response = client.get("/health/live", headers={"Origin": ORIGIN})
    assert not [name for name in response.headers if name.startswith("access-control")]
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    check_problem(client.options("/attribute", headers=asked), 405, "method-not-allowed")


def test_the_origins_that_are_listed_read_answers(open_app: TestClient) -> None:
    with open_app as client:
        response = client.get("/concepts", headers={"Origin": ORIGIN})
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "Retry-After" in response.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in response.headers
        asked = {
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
        }
        for names in ("authorization", "sentry-trace,baggage", "x-requested-with, traceparent"):
            headers = {**asked, "Access-Control-Request-Headers": names}
            allowed = client.options("/attribute", headers=headers)
            assert allowed.status_code == 200
            assert allowed.headers["access-control-allow-origin"] == ORIGIN
            assert allowed.headers["access-control-allow-headers"] == names


def test_an_origin_that_is_not_listed_is_refused(
    open_app: TestClient, check_problem: CheckProblem
) -> None:
    with open_app as client:
        read = client.get("/concepts", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in read.headers
        asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        response = client.options("/attribute", headers=asked)
        assert "WHENCE_CORS_ORIGINS" in check_problem(response, 400, "origin-refused")["detail"]
