import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from app import watchers
from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from index.layout import DataFolder
from index.snapshot import open_published
from model.config import Facet
from tests.app.conftest import CheckProblem, shade
from tests.fakes import FakeEmbedder, build_snapshot
from tests.waiting import wait_until


def test_live_and_ready_with_an_index(client: TestClient, attributor: Attributor) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    ready = client.get("/health/ready").json()
    assert ready.pop("index_created_at").endswith("Z")
    assert ready == {
        "status": "ready",
        "model_id": "fake-colours",
        "index_version": attributor.snapshot.version,
        "concepts": 5,
        "exemplars": 15,
        "taken_down": 0,
        "reload_error": None,
    }


def test_without_an_index_it_starts_and_says_what_to_do(
    tmp_path: Path, check_problem: CheckProblem, query: bytes
) -> None:
    with TestClient(create_app(Settings(data=tmp_path))) as client:
        assert client.get("/health/live").status_code == 200
        for response in (
            client.get("/health/ready"),
            client.post("/attribute", files={"image": query}),
            client.get("/concepts"),
            client.get("/exemplars/x/image"),
        ):
            problem = check_problem(response, 503, "no-index")
            assert "whence rebuild" in problem["detail"]
            assert int(response.headers["retry-after"]) > 0


def test_an_index_whose_model_is_gone_is_not_served(
    tmp_path: Path, check_problem: CheckProblem
) -> None:
    build_snapshot(tmp_path, {"Crimson": [shade("Crimson", 0)]})
    with TestClient(create_app(Settings(data=tmp_path))) as client:
        problem = check_problem(client.get("/health/ready"), 503, "no-index")
    assert "'fake-colours'" in problem["detail"]


def test_a_damaged_index_is_not_served(tmp_path: Path, check_problem: CheckProblem) -> None:
    snapshot = build_snapshot(tmp_path, {"Crimson": [shade("Crimson", 0)]})
    catalog = DataFolder(tmp_path).index / snapshot.version / "catalog.sqlite"
    catalog.write_bytes(catalog.read_bytes()[:-1])
    with TestClient(create_app(Settings(data=tmp_path))) as client:
        problem = check_problem(client.get("/health/ready"), 503, "no-index")
    assert "changed since it was written" in problem["detail"]


@pytest.mark.parametrize("place", ["index", "index/CURRENT", "models", "takedowns.jsonl"])
def test_a_server_starts_where_a_part_of_its_data_cannot_be_read(
    tmp_path: Path, place: str, check_problem: CheckProblem, caplog: pytest.LogCaptureFixture
) -> None:
    build_snapshot(tmp_path, {"Crimson": [shade("Crimson", 0)]}).close()
    path = tmp_path / place
    if path.is_file():
        path.unlink()
        path.mkdir()
    else:
        if path.is_dir():
            path.rename(tmp_path / "aside")
        path.write_text("no folder")  # as good as no permission, which root does not need
    with TestClient(create_app(Settings(data=tmp_path))) as client:
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 503
        lines = [line for line in caplog.records if line.name == "app.watchers"]
    assert len(lines) == 1
    assert not lines[0].exc_info


def test_an_index_that_appears_is_found(
    tmp_path: Path, check_problem: CheckProblem, query: bytes
) -> None:
    def load(settings: Settings, _embedder: object) -> Attributor:
        return Attributor(FakeEmbedder(), open_published(DataFolder(settings.data).index))

    with TestClient(create_app(Settings(data=tmp_path), load=load)) as client:
        check_problem(client.get("/health/ready"), 503, "no-index")
        build_snapshot(tmp_path, {name: [shade(name, 1)] for name in ("Emerald", "Crimson")})
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        response = client.post("/attribute", files={"image": query})
        assert response.json()["concepts"][0]["id"] == "emerald"


def test_loading_is_not_tried_more_than_once_a_second(tmp_path: Path) -> None:
    tries = []

    def load(settings: Settings, _embedder: object) -> Attributor:
        tries.append(time.monotonic())
        return Attributor(FakeEmbedder(), open_published(DataFolder(settings.data).index))

    with TestClient(create_app(Settings(data=tmp_path), load=load)) as client:
        for _ in range(20):
            assert client.get("/health/ready").status_code == 503
    assert len(tries) <= 1 + (time.monotonic() - tries[0]) // watchers.RETRY_SECONDS


# A hung embedding


class HangingEmbedder(FakeEmbedder):
    """Embeds only once it is released."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()

    def embed_pixels(self, pixels: Sequence[torch.Tensor]) -> dict[Facet, NDArray]:
        self.entered.set()
        assert self.released.wait(30)
        return super().embed_pixels(pixels)


@contextmanager
def in_background(client: TestClient, query: bytes, statuses: list[int]) -> Iterator[None]:
    def ask() -> None:
        statuses.append(client.post("/attribute", files={"image": query}).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_a_hung_embedding_is_noticed(
    attributor: Attributor, tmp_path: Path, check_problem: CheckProblem, query: bytes, path: str
) -> None:
    embedder = HangingEmbedder()
    settings = Settings(data=tmp_path, stall_seconds=0.05)
    statuses: list[int] = []
    with TestClient(create_app(settings, Attributor(embedder, attributor.snapshot))) as client:
        with in_background(client, query, statuses):
            try:
                assert embedder.entered.wait(30)
                wait_until(lambda: client.get(path).status_code == 503)
                response = client.get(path)
                assert "restart" in check_problem(response, 503, "stalled")["detail"]
                assert "retry-after" in response.headers
            finally:
                embedder.released.set()
        assert client.get(path).status_code == 200
    assert statuses == [200]


def test_embedding_that_fails_is_noticed_without_requests_and_forgiven(
    attributor: Attributor, tmp_path: Path, check_problem: CheckProblem
) -> None:
    class Failing(FakeEmbedder):
        fails = True

        def embed_pixels(self, pixels: Sequence[torch.Tensor]) -> dict[Facet, NDArray]:
            if self.fails:
                raise RuntimeError("secret")
            return super().embed_pixels(pixels)

    embedder = Failing()
    settings = Settings(data=tmp_path, watchdog_seconds=0.01)
    with TestClient(create_app(settings, Attributor(embedder, attributor.snapshot))) as client:
        response = wait_until(lambda: with_status(client, 503))
        detail = check_problem(response, 503, "stalled")["detail"]
        assert "RuntimeError" in detail
        assert "secret" not in detail
        embedder.fails = False
        wait_until(lambda: with_status(client, 200))


def with_status(client: TestClient, status: int) -> httpx.Response | None:
    response = client.get("/health/live")
    return response if response.status_code == status else None
