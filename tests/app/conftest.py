"""An index over drawn pictures, an app that answers from it, and a client that asks."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from app.auth.keys import Scope
from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.fakes import FakeEmbedder, build_snapshot
from tests.pictures import encode, noise

COLOURS = {
    "Crimson": (200, 20, 40),
    "Emerald": (20, 180, 80),
    "Navy blue": (20, 30, 140),
    "100% chalk": (245, 245, 240),
    "Étude in ochre": (200, 140, 30),
}
BYTES = 200_000  # of an upload, at most

CheckProblem = Callable[[httpx.Response, int, str], dict[str, Any]]


def shade(name: str, number: int) -> Image.Image:
    """One of a concept's pictures: its colour, with a patch that differs from one to the next."""
    image = Image.new("RGB", (64, 48), COLOURS[name])
    image.paste(noise(16, 16, seed=number), (8 * number, 8))
    return image


def write_keys(data: Path, tokens: Mapping[str, Scope]) -> None:
    """Keys of a data folder whose text a test knows, each with its scope."""
    made_at = "2026-01-01T00:00:00Z"
    keys = [
        {
            "name": f"key-{number}",
            "sha256": hashlib.sha256(token.encode()).hexdigest(),
            "scope": scope,
            "created_at": made_at,
        }
        for number, (token, scope) in enumerate(tokens.items())
    ]
    (data / "keys.json").write_text(json.dumps({"keys": keys}))


@pytest.fixture(scope="session")
def attributor(tmp_path_factory: pytest.TempPathFactory) -> Attributor:
    pictures = {name: [shade(name, number) for number in range(3)] for name in COLOURS}
    snapshot = build_snapshot(tmp_path_factory.mktemp("data"), pictures)
    return Attributor(FakeEmbedder(), snapshot)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        data=tmp_path_factory.mktemp("nothing"),
        max_upload_bytes=BYTES,
        max_top_k=20,
        max_exemplars=10,
        device="cpu",
    )


@pytest.fixture(scope="session")
def app(settings: Settings, attributor: Attributor) -> FastAPI:
    return create_app(settings, attributor)


@pytest.fixture(scope="session")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def query() -> bytes:
    """A picture that is in the index."""
    return encode(shade("Emerald", 1))


@pytest.fixture
def post(client: TestClient) -> Callable[..., httpx.Response]:
    """Posts the bytes of one image to ``/attribute``."""

    def send(data: bytes, **parameters: Any) -> httpx.Response:
        return client.post("/attribute", files={"image": ("a.png", data)}, params=parameters)

    return send


@pytest.fixture
def check_problem(app: FastAPI) -> CheckProblem:
    """Checks that a response is a problem of one status and kind; gives its body."""

    def check(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        problem: dict[str, Any] = json.loads(response.content)
        assert problem["type"] == f"urn:whence:problem:{kind}"
        assert problem["status"] == status
        assert problem["title"]
        assert problem["detail"]
        assert problem["instance"].startswith("urn:whence:request:")
        assert set(problem) <= {"type", "title", "status", "detail", "instance", "errors"}
        assert "Traceback" not in response.text
        return problem

    return check
