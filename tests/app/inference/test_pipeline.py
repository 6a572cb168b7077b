"""The service under more requests than it can take: batches, refusals, deadlines, leaving."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from app.inference.deadline import Deadline
from app.inference.job import ImageJob
from app.main import create_app
from app.service import Service
from app.settings import Settings
from app.telemetry.metrics import Metrics
from index.answering.attribution import Attributor
from model.config import Facet
from tests.app.conftest import COLOURS, CheckProblem, shade
from tests.fakes import FakeEmbedder
from tests.pictures import encode, noise
from tests.waiting import wait_until


class Held(FakeEmbedder):
    """Embeds only while it is let, and counts the images of each batch."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let = threading.Event()
        self.batches: list[int] = []

    def embed_pixels(self, pixels: Sequence[torch.Tensor]) -> dict[Facet, NDArray]:
        self.entered.set()
        assert self.let.wait(30)
        self.batches.append(len(pixels))
        return super().embed_pixels(pixels)


@pytest.fixture
def embedder() -> Held:
    return Held()


@pytest.fixture
def serve(attributor: Attributor, embedder: Held, tmp_path: Path) -> Callable[..., TestClient]:
    def start(**settings: object) -> TestClient:
        chosen = Settings(data=tmp_path, watchdog_seconds=3600, **settings)  # type: ignore[arg-type]
        return TestClient(create_app(chosen, Attributor(embedder, attributor.snapshot)))

    return start


def held(client: TestClient) -> int:
    app = client.app
    assert isinstance(app, FastAPI)
    count: int = app.state.service.pipeline.queue.taken
    return count


def jobs_waiting(app: FastAPI) -> list[ImageJob]:
    """The jobs that no batch has taken yet, once there is one."""
    batcher = app.state.service.pipeline._batcher
    wait_until(lambda: batcher.waiting)
    return [job for jobs in batcher._queue._by_caller.values() for job, _ in jobs]


def ask(client: TestClient, data: bytes, **parameters: int) -> httpx.Response:
    return client.post("/attribute", files={"image": data}, params=parameters)


def test_requests_that_wait_are_embedded_together_and_answered_apart(
    serve: Callable[..., TestClient], embedder: Held
) -> None:
    pictures = [(name, encode(shade(name, 1))) for name in COLOURS]
    with serve(max_batch=8) as client, ThreadPoolExecutor(16) as pool:
        first = pool.submit(ask, client, pictures[0][1])
        assert embedder.entered.wait(30)
        others = [
            pool.submit(ask, client, data, top_k=1 + place % 2)
            for place, (_, data) in enumerate(pictures)
        ]
        wait_until(lambda: held(client) == 6)
        # The last of them may still be decoding; a batch waits for what is expected.
        embedder.let.set()
        assert first.result(30).json()["concepts"][0]["name"] == pictures[0][0]
        for place, ((name, _), answer) in enumerate(zip(pictures, others, strict=True)):
            concepts = answer.result(30).json()["concepts"]
            assert concepts[0]["name"] == name
            assert len(concepts) == 1 + place % 2
    assert sum(embedder.batches) == 6
    assert len(embedder.batches) < 6


def test_an_answer_does_not_depend_on_its_batch(
    serve: Callable[..., TestClient], embedder: Held
) -> None:
    pictures = [encode(shade(name, 1)) for name in COLOURS]
    embedder.let.set()
    with serve(max_queue=32) as client:
        alone = [ask(client, data).json()["concepts"] for data in pictures]
        files = [("image", data) for data in pictures]
        together = client.post("/attribute/batch", files=files).json()["answers"]
    for lone, answer in zip(alone, together, strict=True):
        for one, other in zip(lone, answer["attribution"]["concepts"], strict=True):
            assert one["id"] == other["id"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_beyond_the_queue_requests_are_refused_and_told_when_to_come_back(
    serve: Callable[..., TestClient],
    embedder: Held,
    query: bytes,
    check_problem: CheckProblem,
) -> None:
    with (
        serve(max_queue=2, max_batch_images=2) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        taken = [pool.submit(ask, client, query) for _ in range(2)]
        wait_until(lambda: held(client) == 2)
        refused = ask(client, query)
        assert "2 places" in check_problem(refused, 429, "queue-full")["detail"]
        assert int(refused.headers["retry-after"]) >= 1
        batch = client.post("/attribute/batch", files=[("image", query)])
        check_problem(batch, 429, "queue-full")
        assert client.get("/health/ready").status_code == 200
        embedder.let.set()
        assert [answer.result(30).status_code for answer in taken] == [200, 200]
        assert ask(client, query).status_code == 200
        assert held(client) == 0


def test_past_the_deadline_there_is_an_answer_and_nothing_more_is_begun(
    serve: Callable[..., TestClient],
    embedder: Held,
    query: bytes,
    check_problem: CheckProblem,
) -> None:
    with serve(deadline_seconds=0.5, max_batch=1) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, client, query)
        assert embedder.entered.wait(30)
        second = pool.submit(ask, client, query)
        for late in (first, second):  # while the first still hangs
            response = late.result(30)
            assert "0.5 seconds" in check_problem(response, 503, "deadline")["detail"]
            assert "retry-after" in response.headers
        assert held(client) == 2  # what has begun goes on, and takes its place until it ends
        check_problem(client.get("/health/ready"), 503, "stalled")
        assert client.get("/health/live").status_code == 200  # it may yet end
        embedder.let.set()
        wait_until(lambda: held(client) == 0)
    assert embedder.batches == [1]


def test_decoders_that_hang_are_noticed(
    serve: Callable[..., TestClient],
    attributor: Attributor,
    tmp_path: Path,
    check_problem: CheckProblem,
) -> None:
    let = threading.Event()

    class HangingDecoder(FakeEmbedder):
        def preprocess(self, image: Image.Image) -> torch.Tensor:
            assert let.wait(30)
            return super().preprocess(image)

    settings = Settings(data=tmp_path, watchdog_seconds=0.01, stall_seconds=0.2)
    with TestClient(
        create_app(settings, Attributor(HangingDecoder(), attributor.snapshot))
    ) as client:
        wait_until(lambda: client.get("/health/live").status_code == 503)
        check_problem(client.get("/health/ready"), 503, "stalled")
        let.set()
        wait_until(lambda: client.get("/health/live").status_code == 200)


def test_a_request_whose_client_left_is_not_computed(
    serve: Callable[..., TestClient], embedder: Held, query: bytes
) -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        + query
        + b"\r\n--b--\r\n"
    )
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/attribute",
        "raw_path": b"/attribute",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", b"multipart/form-data; boundary=b"),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    left = threading.Event()

    async def leave() -> None:
        arrived = False

        async def receive() -> dict[str, object]:
            nonlocal arrived
            if not arrived:
                arrived = True
                return {"type": "http.request", "body": body, "more_body": False}
            await asyncio.to_thread(left.wait, 30)
            return {"type": "http.disconnect"}

        async def send(message: object) -> None:
            pass

        await client.app(scope | {"state": {}}, receive, send)  # type: ignore[arg-type]

    with serve(max_batch=1) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, client, query)
        assert embedder.entered.wait(30)
        assert client.portal
        leaving = client.portal.start_task_soon(leave)
        wait_until(lambda: held(client) == 2)
        app = client.app
        assert isinstance(app, FastAPI)
        [job] = jobs_waiting(app)
        left.set()
        wait_until(lambda: job.deadline.gone)
        embedder.let.set()
        leaving.result(30)
        assert first.result(30).status_code == 200
        wait_until(lambda: held(client) == 0)
    assert embedder.batches == [1]


def test_stopping_answers_what_was_taken(
    attributor: Attributor, embedder: Held, tmp_path: Path, query: bytes
) -> None:
    async def scenario() -> None:
        held_back = Attributor(embedder, attributor.snapshot)
        async with Service(Settings(data=tmp_path), never, held_back, Metrics()) as service:
            job = ImageJob(held_back, Deadline(math.inf), top_k=1, exemplars=0)
            asked = asyncio.create_task(service.pipeline.process(job, query))
            await asyncio.to_thread(embedder.entered.wait, 30)
            asyncio.get_running_loop().call_later(0.2, embedder.let.set)
        await asked
        assert job.attribution.concepts[0].concept.name == "Emerald"

    asyncio.run(scenario())


def never(_settings: Settings, _embedder: object) -> Attributor:
    raise AssertionError


# The batch endpoint


def test_each_image_of_a_batch_has_its_answer_or_its_problem(client: TestClient) -> None:
    names = list(COLOURS)[:2]
    files = [
        ("image", encode(shade(names[0], 1))),
        ("image", b"this is no image"),
        ("image", b""),
        ("image", encode(shade(names[1], 1))),
    ]
    response = client.post("/attribute/batch", files=files, params={"top_k": 1, "exemplars": 2})
    assert response.status_code == 200
    first, text, empty, last = response.json()["answers"]
    for name, answer in zip(names, (first, last), strict=True):
        assert answer["problem"] is None
        [concept] = answer["attribution"]["concepts"]
        assert concept["name"] == name
        assert len(concept["exemplars"]) == 2
    assert text["attribution"] is None
    assert text["problem"]["type"] == "urn:whence:problem:unsupported-image-type"
    assert text["problem"]["status"] == 415
    assert empty["attribution"] is None
    assert empty["problem"]["status"] in {400, 415}


def test_an_image_that_breaks_something_spoils_no_other(
    attributor: Attributor, tmp_path: Path, query: bytes
) -> None:
    class Fragile(FakeEmbedder):
        def preprocess(self, image: Image.Image) -> torch.Tensor:
            if image.size == (17, 17):
                raise RuntimeError("secret")
            return super().preprocess(image)

    app = create_app(Settings(data=tmp_path), Attributor(Fragile(), attributor.snapshot))
    files = [("image", query), ("image", encode(noise(17, 17, seed=1))), ("image", query)]
    with TestClient(app) as client:
        response = client.post("/attribute/batch", files=files)
        first, broken, last = response.json()["answers"]
        assert held(client) == 0
    assert first["attribution"]["concepts"] == last["attribution"]["concepts"]
    assert broken["attribution"] is None
    assert broken["problem"]["status"] == 500
    assert "secret" not in response.text


def test_an_explained_image_takes_the_places_of_what_it_costs(
    serve: Callable[..., TestClient], embedder: Held, query: bytes, check_problem: CheckProblem
) -> None:
    with (
        serve(max_queue=7, max_explained=3) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(ask, client, query, explain=True)
        wait_until(lambda: held(client) == 4)
        files = [("image", query)] * 2
        explained = client.post("/attribute/batch", files=files, params={"explain": True})
        check_problem(explained, 429, "queue-full")
        embedder.let.set()
        assert first.result(30).status_code == 200
        many = client.post("/attribute/batch", files=files * 2, params={"explain": True})
        assert len(many.json()["answers"]) == 4


def test_a_batch_of_too_many_images_is_refused(
    client: TestClient, query: bytes, check_problem: CheckProblem
) -> None:
    files = [("image", query)] * 17
    response = client.post("/attribute/batch", files=files)
    assert "at most 16 images" in check_problem(response, 422, "invalid-request")["detail"]


def test_a_batch_of_none_is_refused(client: TestClient, check_problem: CheckProblem) -> None:
    response = client.post("/attribute/batch")
    assert "missing" in check_problem(response, 422, "invalid-request")["detail"]


def test_a_batch_has_a_limit_of_its_own(
    serve: Callable[..., TestClient], embedder: Held, query: bytes, check_problem: CheckProblem
) -> None:
    embedder.let.set()
    padded = query + bytes(1000)
    with serve(max_upload_bytes=2000, max_batch_bytes=5000) as client:
        files = [("image", padded)] * 2
        assert client.post("/attribute/batch", files=files).status_code == 200
        check_problem(client.post("/attribute/batch", files=files * 2), 413, "body-too-large")


def test_a_batch_takes_half_of_the_queue_at_most(
    serve: Callable[..., TestClient], embedder: Held, query: bytes
) -> None:
    with serve(max_queue=4) as client, ThreadPoolExecutor(1) as pool:
        batch = pool.submit(client.post, "/attribute/batch", files=[("image", query)] * 5)
        wait_until(lambda: held(client) == 2)
        embedder.let.set()
        assert len(batch.result(30).json()["answers"]) == 5
        assert max(embedder.batches) <= 2
        assert held(client) == 0


def test_by_default_five_batches_are_taken(
    serve: Callable[..., TestClient], embedder: Held, query: bytes, check_problem: CheckProblem
) -> None:
    embedder.let.set()
    with serve(max_batch=2) as client:
        app = client.app
        assert isinstance(app, FastAPI)
        queue = app.state.service.pipeline.queue
        with queue.hold(9):
            assert ask(client, query).status_code == 200
        with queue.hold(10):
            refused = check_problem(ask(client, query), 429, "queue-full")
    assert "10 places" in refused["detail"]


def test_nothing_is_embedded_beside_an_explanation(
    attributor: Attributor, tmp_path: Path, query: bytes
) -> None:
    class Alone(FakeEmbedder):
        """Embeds one batch at a time, or fails."""

        def __init__(self) -> None:
            self.lock = threading.Lock()

        def embed_pixels(self, pixels: Sequence[torch.Tensor]) -> dict[Facet, NDArray]:
            assert self.lock.acquire(blocking=False)
            time.sleep(0.01)  # so that others would come
            self.lock.release()
            return super().embed_pixels(pixels)

    settings = Settings(data=tmp_path, max_queue=99, max_batch=2, watchdog_seconds=3600)
    app = create_app(settings, Attributor(Alone(), attributor.snapshot))
    with TestClient(app) as client, ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, client, query, explain=place % 2) for place in range(12)]
        assert [one.result(30).status_code for one in asked] == [200] * 12
