"""The hosts that a server answers to."""

import logging
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from app.http.names import host_name
from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.app.conftest import CheckProblem


def ask(
    asked: str,
    data: Path,
    attributor: Attributor,
    path: str = "/concepts",
    **settings: object,
) -> httpx.Response:
    """Ask a server that answers other machines without keys, in a container's network."""
    chosen = Settings(data=data, allow_anonymous=True, **settings)  # type: ignore[arg-type]
    app = create_app(chosen, attributor)
    with TestClient(app, base_url="http://172.17.0.2:8000") as client:
        request = client.build_request("GET", path)
        del request.headers["host"]
        request.headers["host"] = asked
        return client.send(request)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:80", "[::1]:8000", "172.17.0.2:8000"],
)
def test_this_machine_and_the_address_that_was_reached_are_answered(
    host: str, tmp_path: Path, attributor: Attributor
) -> None:
    assert ask(host, tmp_path, attributor).status_code == 200


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/concepts"])
def test_a_probe_by_any_address_is_answered(
    path: str, tmp_path: Path, attributor: Attributor
) -> None:
    assert ask("10.1.2.3:30080", tmp_path, attributor, path).status_code == 200


@pytest.mark.parametrize("path", ["/concepts", "/", "/health/ready", "/nothing"])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "xlocalhost",
        "localhost@evil.example",
        "evil.example/localhost",
        "[::1",
        "a b",
        "whence.example",
    ],
)
def test_another_host_is_refused_with_the_setting(
    host: str, path: str, tmp_path: Path, attributor: Attributor, check_problem: CheckProblem
) -> None:
    response = ask(host, tmp_path, attributor, path)
    assert "WHENCE_ALLOWED_HOSTS" in check_problem(response, 421, "host-refused")["detail"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("listed", "host", "status"),
    [
        ("whence.example, b.example", "Whence.Example:443", 200),
        ("whence.example", "a.whence.example", 421),
        ("*.whence.example", "a.whence.example", 200),
        ("*.whence.example", "a.b.whence.example", 200),
        ("*.whence.example", "whence.example", 421),
        ("*.whence.example", "evilwhence.example", 421),
        ("*", "evil.example", 200),
    ],
)
def test_the_operator_lists_further_names(
    listed: str, host: str, status: int, tmp_path: Path, attributor: Attributor
) -> None:
    assert ask(host, tmp_path, attributor, allowed_hosts=listed).status_code == status


def test_the_name_that_the_server_listens_on_is_answered(
    tmp_path: Path, attributor: Attributor
) -> None:
    assert ask("gallery.lan", tmp_path, attributor, host="Gallery.lan").status_code == 200


def test_a_request_without_a_host_is_answered(tmp_path: Path, attributor: Attributor) -> None:
    assert ask("", tmp_path, attributor).status_code == 200


def test_any_host_is_said_in_the_log(
    tmp_path: Path, attributor: Attributor, caplog: pytest.LogCaptureFixture
) -> None:
    create_app(Settings(data=tmp_path), attributor)
    assert "WHENCE_ALLOWED_HOSTS" not in caplog.text
    with caplog.at_level(logging.WARNING):
        create_app(Settings(data=tmp_path, allowed_hosts="*"), attributor)  # type: ignore[arg-type]
    assert "WHENCE_ALLOWED_HOSTS=*" in caplog.text


@pytest.mark.parametrize("listed", ["http://a.example", "a.example:80", "a b", "a.*", "**"])
def test_a_host_that_is_none_is_refused(listed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHENCE_ALLOWED_HOSTS", listed)
    with pytest.raises(ValidationError, match="is no host"):
        Settings()


def test_names_in_headers() -> None:
    assert host_name("[::1]:80") == "::1"
    assert host_name("A.example.:80") == "a.example"
    assert host_name("a:b:c") == ""
