"""Request ids, and the line that each request leaves in the log."""

import asyncio
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import Request
from fastapi.testclient import TestClient
from starlette.types import Message

from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.app.conftest import CheckProblem
from tests.app.test_errors import BrokenEmbedder

ID = "X-Request-ID"


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """What the log says of each request."""
    return [vars(record) for record in caplog.records if record.name == "app.telemetry.requests"]


@pytest.fixture(autouse=True)
def _log_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="app")


# Ids


@pytest.mark.parametrize(
    "given", ["abcdefgh", "f7ae3e61-13fe-49f3-8959-0eba22f74202", "1-5759e988-bd862e3f", "a" * 64]
)
def test_a_caller_s_id_is_kept(client: TestClient, given: str) -> None:
    response = client.get("/health/live", headers={ID: given})
    assert response.headers[ID] == given


@pytest.mark.parametrize(
    "given", ["", "short", "a" * 65, "abcdefgh\tx", "abcdefgh;x", "é" * 10, "whence_" + "a" * 43]
)
def test_an_id_that_is_none_is_replaced(client: TestClient, given: str) -> None:
    response = client.get("/health/live", headers={ID: given.encode()})
    assert uuid.UUID(response.headers[ID])


def test_each_request_has_its_own_id(client: TestClient) -> None:
    assert client.get("/health/live").headers[ID] != client.get("/health/live").headers[ID]


def test_a_problem_bears_the_request_s_id(client: TestClient, check_problem: CheckProblem) -> None:
    response = client.get("/nowhere", headers={ID: "from-the-caller"})
    problem = check_problem(response, 404, "not-found")
    assert problem["instance"] == "urn:whence:request:from-the-caller"
    assert response.headers.get_list(ID) == ["from-the-caller"]


@pytest.fixture
def broken(attributor: Attributor, tmp_path: Path) -> Iterator[TestClient]:
    app = create_app(Settings(data=tmp_path), Attributor(BrokenEmbedder(), attributor.snapshot))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_an_unexpected_error_bears_it_and_is_logged_as_500(
    broken: TestClient, query: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    response = broken.post("/attribute", files={"image": query})
    assert response.status_code == 500
    assert response.json()["instance"] == f"urn:whence:request:{response.headers[ID]}"
    [line] = lines(caplog)
    assert (line["status"], line["route"]) == (500, "/attribute")
    assert line["problem"] == "internal-error"
    counted = broken.get("/metrics").text
    assert 'requests_total{method="POST",route="/attribute",status="500"} 1.0' in counted


# The log


def test_a_request_is_one_line(
    client: TestClient, query: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client.post("/attribute", files={"image": query})
    [line] = lines(caplog)
    assert (line["method"], line["route"], line["status"]) == ("POST", "/attribute", 200)
    assert 0 < float(str(line["ms"])) < 60_000
    assert "problem" not in line


def test_a_refusal_is_named(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/concepts/nobody")
    [line] = lines(caplog)
    assert (line["status"], line["problem"]) == (404, "not-found")


def test_of_a_flood_of_refusals_a_line_a_second_is_logged_and_the_others_counted(
    attributor: Attributor,
    tmp_path: Path,
    query: bytes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(data=tmp_path, rate_limit="2/hour")
    monkeypatch.setattr("app.telemetry.requests.SPARSE_SECONDS", 3600.0)
    app = create_app(settings, attributor)
    with TestClient(app) as client:
        for _ in range(6):
            last = client.post("/attribute", files={"image": query})
        client.get("/concepts")  # another route has a line of its own
        monkeypatch.setattr("app.telemetry.requests.SPARSE_SECONDS", 0.0)
        client.post("/attribute", files={"image": query})
    assert last.status_code == 429
    assert [(line["route"], line["status"], line.get("unlogged")) for line in lines(caplog)] == [
        ("/attribute", 200, None),
        ("/attribute", 200, None),
        ("/attribute", 429, None),
        ("/concepts", 429, None),
        ("/attribute", 429, 3),
    ]
    labels = {"method": "POST", "route": "/attribute", "status": "429"}
    assert app.state.metrics.registry.get_sample_value("whence_http_requests_total", labels) == 5


def test_nothing_of_query_headers_or_file_is_logged(
    client: TestClient, query: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="app")
    secret = "s3cret"
    for content in (query, f"{secret} is no image".encode()):
        client.post(
            f"/attribute?top_k=1&{secret}={secret}",
            files={"image": (f"{secret}.png", content)},
            headers={"Authorization": f"Bearer {secret}", "Cookie": secret, "User-Agent": secret},
        )
        client.post("/attribute", files={"image": (f"{secret}.png", content)})
    client.post("/attribute", files={secret: (secret, query, secret)})
    client.post("/attribute", content=secret, headers={"Content-Type": secret})
    client.get(f"/concepts?q={secret}")
    client.get(f"/{secret}")
    client.request(secret, "/concepts")
    assert len(lines(caplog)) == 9
    assert secret not in "".join(
        str(value) for record in caplog.records if record.name.startswith("app")
        for value in (record.getMessage(), *vars(record).values())
    )  # fmt: skip


def test_the_key_s_name_is_logged_where_one_was_given(
    attributor: Attributor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(Settings(data=tmp_path), attributor)

    @app.get("/named")
    def named(request: Request) -> None:
        request.state.key_name = "gallery"

    with TestClient(app) as client:
        client.get("/named")
        client.get("/health/live")
    first, second = lines(caplog)
    assert first["key"] == "gallery"
    assert "key" not in second


def test_a_caller_that_left_is_told_from_an_answer(
    attributor: Attributor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A client that waits for no answer, over bare ASGI: the app gives up without one.
    app = create_app(Settings(data=tmp_path), attributor)

    @app.get("/gone")
    async def gone() -> None:
        raise asyncio.CancelledError

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    scope = {
        "type": "http", "method": "GET", "path": "/gone", "raw_path": b"/gone", "headers": [],
        "query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "",
        "client": None, "server": None,
    }  # fmt: skip
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(app(scope, receive, send))
    [line] = lines(caplog)
    assert (line["route"], line["status"]) == ("/gone", 499)
