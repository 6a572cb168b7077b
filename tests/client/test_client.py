"""The typed client, against the app itself and against servers that are busy, broken or away."""

import asyncio
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from app.auth.keys import KeyFile
from app.main import create_app
from app.reports.reading import read_report
from app.reports.report import content_hash
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.app.conftest import shade
from tests.fakes import FakeEmbedder, build_snapshot
from tests.pictures import encode
from whence_client import AsyncWhence, ImageInput, ServerError, Whence
from whence_client import client as client_module
from whence_client.models import Area, BatchAnswer
from whence_client.retries import Retries, retry_after

URL = "http://whence.test"
PROBLEM = {
    "type": "urn:whence:problem:queue-full",
    "title": "full",
    "status": 429,
    "detail": "there is no room",
    "instance": "urn:uuid:0",
}


class Bridge(httpx.BaseTransport):
    """Hands a blocking client's requests to an app in this process."""

    def __init__(self, app: TestClient) -> None:
        self.app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = self.app.request(
            request.method,
            str(request.url),
            headers=list(request.headers.multi_items()),
            content=request.read(),
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[FastAPI, str]]:
    """An app with keys and takedowns of its own, and an admin's key."""
    names = ("Crimson", "Emerald", "Navy blue")
    pictures = {name: [shade(name, n) for n in range(3)] for name in names}
    snapshot = build_snapshot(tmp_path, pictures)
    key = KeyFile(tmp_path / "keys.json").add("boss", scope="admin")
    yield create_app(Settings(data=tmp_path), Attributor(FakeEmbedder(), snapshot)), key
    snapshot.close()


@pytest.fixture
def whence(served: tuple[FastAPI, str]) -> Iterator[Whence]:
    app, key = served
    with TestClient(app) as inner, Whence(URL, key=key, transport=Bridge(inner)) as whence:
        yield whence


def test_answers_are_typed(whence: Whence) -> None:
    answer = whence.attribute(encode(shade("Emerald", 1)), top_k=2, exemplars=1)
    assert answer.concepts[0].id == "emerald"
    assert [len(answer.concepts), len(answer.concepts[0].exemplars)] == [2, 1]
    assert answer.evidence.created_at.tzinfo
    found = whence.concepts("nav")
    assert (found.total, found.concepts[0].name) == (1, "Navy blue")
    assert whence.concepts(limit=1, offset=2).offset == 2
    exemplar = whence.concept("emerald").exemplars[0]
    picture = Image.open(io.BytesIO(whence.exemplar_image(exemplar.id)))
    assert picture.format == "JPEG"
    assert whence.ready().concepts == 3
    assert whence.take_down_exemplar(exemplar.id, reason="asked for").target == exemplar.id
    assert whence.take_down_concept("crimson", reason="asked for").kind == "concept"
    assert whence.concepts().total == 2
    assert whence.reload().index_version == answer.evidence.index_version


def test_a_part_of_an_image_can_be_asked_about(whence: Whence) -> None:
    canvas = Image.new("RGB", (200, 60), "white")
    canvas.paste(shade("Emerald", 1), (120, 10))
    answer = whence.attribute(canvas, region=(120, 10, 64, 48))
    assert answer.concepts[0].id == "emerald"
    assert answer.region == answer.compared[0] == Area(x=120, y=10, width=64, height=48)
    with pytest.raises(ServerError, match="beyond the image") as error:
        whence.attribute(canvas, region=(180, 10, 64, 48))
    assert error.value.problem
    assert error.value.problem.type == "urn:whence:problem:region-outside-image"


def test_an_image_can_be_a_path_bytes_or_pixels(whence: Whence, tmp_path: Path) -> None:
    picture = shade("Emerald", 1)
    path = tmp_path / "picture.png"
    picture.save(path)
    images: list[ImageInput] = [path, str(path), path.read_bytes(), picture]
    answers = [whence.attribute(image) for image in images]
    assert len({answer.concepts[0].score for answer in answers}) == 1
    with pytest.raises(FileNotFoundError):
        whence.attribute(tmp_path / "none.png")


def test_one_image_that_cannot_be_read_is_one_problem_in_its_place(
    whence: Whence, tmp_path: Path
) -> None:
    good = encode(shade("Emerald", 1))
    some = [good, tmp_path / "none.png", 17, b"no picture", good]
    expected = ["", "No such file", "not int", "not an image", ""]
    for batch in (1, 2, 16):
        answers = list(whence.attribute_many(iter(some), batch=batch))  # type: ignore[arg-type]
        assert [answer.attribution is not None for answer in answers] == [
            True, False, False, False, True,
        ]  # fmt: skip
        for answer, words in zip(answers, expected, strict=True):
            assert words in (answer.problem.detail if answer.problem else "")


def test_a_refusal_is_an_error_with_its_problem(whence: Whence, served) -> None:
    with pytest.raises(ServerError, match="emeralds") as caught:
        whence.concept("emeralds/and?more")
    assert caught.value.status == 404
    assert caught.value.problem
    assert caught.value.problem.type == "urn:whence:problem:not-found"
    with pytest.raises(ServerError, match="not an image"):
        whence.attribute(b"no picture")
    with TestClient(served[0]) as inner, Whence(URL, transport=Bridge(inner)) as stranger:
        with pytest.raises(ServerError) as caught:
            stranger.concepts()
        assert caught.value.status == 401
        assert stranger.ready().status == "ready"


def test_the_asynchronous_client_does_the_same(served) -> None:
    app, key = served

    async def ask() -> None:
        async with (
            app.router.lifespan_context(app),
            AsyncWhence(URL, key=key, transport=httpx.ASGITransport(app)) as whence,
        ):
            picture = encode(shade("Emerald", 1))
            answers = await asyncio.gather(*(whence.attribute(picture) for _ in range(3)))
            assert {answer.concepts[0].id for answer in answers} == {"emerald"}
            assert (await whence.concepts("nav")).total == 1
            exemplar = (await whence.concept("emerald")).exemplars[0]
            assert await whence.exemplar_image(exemplar.id)
            assert (await whence.ready()).concepts == 3
            await whence.take_down_exemplar(exemplar.id, reason="asked for")
            await whence.take_down_concept("crimson", reason="asked for")
            assert (await whence.concepts()).total == 2
            assert (await whence.reload()).index_version
            with pytest.raises(ServerError, match="404"):
                await whence.concept("nobody")

    asyncio.run(ask())


def test_reports_are_files_on_the_answers_that_were_given(served, tmp_path: Path) -> None:
    app, key = served
    works = [tmp_path / "first.png", tmp_path / "zweites Bild ü.png"]
    for number, path in enumerate(works):
        shade("Emerald", number).save(path)

    def check(content: bytes, answer: Any, names: list[str | None]) -> None:
        report, record = read_report(content.decode())
        assert content_hash(record) == report.sha256
        assert report.answer.id == answer.id
        assert [file.name for file in report.files] == names

    with TestClient(app) as inner, Whence(URL, key=key, transport=Bridge(inner)) as whence:
        answer = whence.attribute(works[0], keep=True, region=(4, 4, 32, 32))
        check(whence.report(works[0], answer=answer.id), answer, ["first.png"])
        whole = whence.report(works[0].read_bytes(), form="json", top_k=2, region=(0, 0, 32, 32))
        told = json.loads(whole)
        assert (told["parameters"]["top_k"], told["query"]["name"]) == (2, None)
        assert told["answer"]["region"]["width"] == 32
        group = whence.attribute_together(works, keep=True)
        html = whence.report_together(works[::-1], answer=group.id)
        check(html, group, ["first.png", "zweites Bild ü.png"])
        assert b'lang="en"' in html
        assert b'lang="de"' in whence.report_together(works, answer=group.id, language="de")
        with pytest.raises(ServerError, match="other files") as refused:
            whence.report_together([works[0], works[0]], answer=group.id)
        assert refused.value.status == 409
        named = Image.open(works[0])
        unnamed = whence.attribute_together([named, works[1].read_bytes()], control=works)
        assert [image.width for image in unnamed.seen] == [named.width] * 2
        assert unnamed.control

    async def ask() -> None:
        async with (
            app.router.lifespan_context(app),
            AsyncWhence(URL, key=key, transport=httpx.ASGITransport(app)) as whence,
        ):
            answer = await whence.attribute(works[1], keep=True)
            html = await whence.report(works[1], answer=answer.id)
            check(html, answer, ["zweites Bild ü.png"])
            group = await whence.attribute_together(works, keep=True)
            data = await whence.report_together(works, answer=group.id, form="json")
            check(data, group, ["first.png", "zweites Bild ü.png"])

    asyncio.run(ask())


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("__")}

    assert methods(Whence) == methods(AsyncWhence)


# Batches


def batch_server(request: httpx.Request) -> httpx.Response:
    """Answers each image with a problem that repeats it."""
    assert request.url.path == "/attribute/batch"
    parts = request.read().split(b'; name="image"')[1:]
    images = [part.split(b"\r\n\r\n")[1].split(b"\r\n")[0].decode() for part in parts]
    answers = [{"attribution": None, "problem": {**PROBLEM, "detail": i}} for i in images]
    return httpx.Response(200, json={"answers": answers})


def test_many_images_are_asked_in_batches_and_answered_in_order() -> None:
    images = [str(number).encode() for number in range(7)]
    seen: list[int] = []

    def serve(request: httpx.Request) -> httpx.Response:
        response = batch_server(request)
        seen.append(len(response.json()["answers"]))
        assert request.url.params["top_k"] == "2"
        return response

    with Whence(URL, transport=httpx.MockTransport(serve)) as whence:
        answers = list(whence.attribute_many(images, batch=3, top_k=2))
        assert list(whence.attribute_many([])) == []
    assert seen == [3, 3, 1]
    assert [answer.problem.detail for answer in answers if answer.problem] == list("0123456")

    async def ask() -> list[str]:
        async with AsyncWhence(URL, transport=httpx.MockTransport(serve)) as client:
            found = [one async for one in client.attribute_many(images, batch=3, top_k=2)]
        return [answer.problem.detail for answer in found if answer.problem]

    assert asyncio.run(ask()) == list("0123456")


def test_a_request_has_no_more_bytes_than_a_server_takes(tmp_path: Path) -> None:
    """16 images of 4.5 MB each are permitted one by one, and too large together."""
    large = tmp_path / "large.png"
    large.write_bytes(b"1\r\n" + bytes(4_500_000))
    sizes: list[tuple[int, int]] = []

    def serve(request: httpx.Request) -> httpx.Response:
        response = batch_server(request)
        sizes.append((len(response.json()["answers"]), len(request.content)))
        return response

    with Whence(URL, transport=httpx.MockTransport(serve)) as whence:
        assert len(list(whence.attribute_many([large] * 16))) == 16
        assert [count for count, _ in sizes] == [13, 3]
        assert all(size <= Settings().max_batch_bytes for _, size in sizes)
        sizes.clear()
        assert len(list(whence.attribute_many([b"12345", b"1", b"23", b"4"], batch_bytes=3))) == 4
        assert [count for count, _ in sizes] == [1, 2, 1]


def test_a_file_that_cannot_be_read_loses_no_answer_before_it(tmp_path: Path) -> None:
    with Whence(URL, transport=httpx.MockTransport(batch_server)) as whence:
        answers = whence.attribute_many([b"1", b"2", tmp_path / "none.png"])
        assert [next(answers).problem.detail for _ in range(2)] == ["1", "2"]  # type: ignore[union-attr]
        assert "No such file" in next(answers).problem.detail  # type: ignore[union-attr]


def test_answers_are_not_lost_when_a_later_request_fails() -> None:
    asked = 0

    def serve(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        if asked % 2 == 0:
            return refusal(413)
        answers = [{"attribution": None, "problem": {**PROBLEM, "detail": "1"}}]
        return httpx.Response(200, json={"answers": answers})

    found: list[BatchAnswer] = []
    with Whence(URL, transport=httpx.MockTransport(serve)) as whence:
        answers = whence.attribute_many([b"1", b"2"], batch=1)
        with pytest.raises(ServerError, match="413"):
            found.extend(answers)

    async def ask() -> None:
        async with AsyncWhence(URL, transport=httpx.MockTransport(serve)) as client:
            async for answer in client.attribute_many([b"1", b"2"], batch=1):
                found.append(answer)  # noqa: PERF401

    with pytest.raises(ServerError, match="413"):
        asyncio.run(ask())
    assert [answer.problem.detail for answer in found if answer.problem] == ["1", "1"]


# Asking again


READY = {
    "status": "ready", "model_id": "m", "index_version": "v", "concepts": 1, "exemplars": 1,
    "index_created_at": "2026-01-01T00:00:00Z", "taken_down": 0, "reload_error": None,
}  # fmt: skip


class Moody:
    """Gives the outcomes it was made with, one after the other, then is ready."""

    def __init__(self, *outcomes: httpx.Response | Exception) -> None:
        self.outcomes = list(outcomes)
        self.asked = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if not self.outcomes:
            return httpx.Response(200, json=READY)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was slept, without sleeping it."""
    slept: list[float] = []

    async def nap(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(client_module, "time", SimpleNamespace(sleep=slept.append))
    rest = {"timeout": asyncio.timeout, "to_thread": asyncio.to_thread}
    monkeypatch.setattr(client_module, "asyncio", SimpleNamespace(sleep=nap, **rest))
    return slept


def refusal(status: int, **headers: str) -> httpx.Response:
    problem = {**PROBLEM, "status": status}
    return httpx.Response(status, json=problem, headers=headers)


def way_to(serve: Moody | str) -> dict[str, Any]:
    """What a client is given to ask a server in this process, or one at an address."""
    if isinstance(serve, str):
        return {"url": serve}
    return {"url": URL, "transport": httpx.MockTransport(serve)}


def sync_ready(serve: Moody | str, **options: Any) -> str:
    with Whence(**way_to(serve), **options) as whence:
        return whence.ready().index_version


def async_ready(serve: Moody | str, **options: Any) -> str:
    async def ask() -> str:
        async with AsyncWhence(**way_to(serve), **options) as whence:
            return (await whence.ready()).index_version

    return asyncio.run(ask())


BOTH = pytest.mark.parametrize("ready", [sync_ready, async_ready])
Ready = Callable[..., str]


@BOTH
def test_a_busy_server_is_asked_again_not_before_it_says(ready: Ready, naps: list[float]) -> None:
    serve = Moody(refusal(429, **{"retry-after": "3"}), refusal(503, **{"retry-after": "5"}))
    assert ready(serve) == "v"
    assert serve.asked == 3
    assert 3 <= naps[0] <= 3.25
    assert 5 <= naps[1] <= 5.5


@BOTH
def test_pauses_grow_and_are_random(ready: Ready, naps: list[float]) -> None:
    for _ in range(20):
        assert ready(Moody(*[httpx.ConnectError("away")] * 4)) == "v"
    rounds = [naps[i : i + 4] for i in range(0, len(naps), 4)]
    for place, most in enumerate((0.25, 0.5, 1.0, 2.0)):
        pauses = [nap[place] for nap in rounds]
        assert max(pauses) <= most
        assert max(pauses) > most / 2
        assert len(set(pauses)) == 20


@BOTH
def test_attempts_are_bounded(ready: Ready, naps: list[float]) -> None:
    serve = Moody(*[httpx.ReadError("gone")] * 9)
    with pytest.raises(ServerError, match="no answer from http://whence"):
        ready(serve, retries=2)
    assert serve.asked == 3
    serve = Moody(*[refusal(429)] * 9)
    with pytest.raises(ServerError, match="there is no room") as caught:
        ready(serve, retries=2)
    assert serve.asked == 3
    assert caught.value.problem
    assert caught.value.problem.type == "urn:whence:problem:queue-full"


@BOTH
def test_what_would_end_after_the_deadline_is_not_waited_for(
    ready: Ready, naps: list[float]
) -> None:
    serve = Moody(refusal(503, **{"retry-after": "30"}))
    with pytest.raises(ServerError, match="503"):
        ready(serve, timeout=10)
    assert serve.asked == 1
    assert naps == []


@BOTH
@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 422, 500, 502])
def test_what_another_attempt_cannot_mend_is_asked_once(
    ready: Ready, naps: list[float], status: int
) -> None:
    serve = Moody(refusal(status))
    with pytest.raises(ServerError, match=str(status)):
        ready(serve)
    assert serve.asked == 1


@pytest.mark.parametrize(
    ("outcome", "again"),
    [
        (httpx.ConnectError("x"), True),
        (httpx.ConnectTimeout("x"), True),
        (httpx.ReadError("x"), False),
        (httpx.RemoteProtocolError("x"), False),
        (httpx.Response(429), True),
        (httpx.Response(503), False),
    ],
)
def test_a_takedown_is_sent_again_only_if_it_was_not_carried_out(outcome: Any, again: bool) -> None:
    assert (Retries(retries=1, seconds=60, repeatable=False).pause(outcome) is not None) == again
    assert Retries(retries=1, seconds=60).pause(outcome) is not None
    assert Retries(retries=0, seconds=60).pause(outcome) is None


def test_no_step_waits_beyond_the_deadline() -> None:
    seen: list[dict[str, float]] = []

    def serve(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"])
        return httpx.Response(200, json=READY)

    with Whence(URL, timeout=2, transport=httpx.MockTransport(serve)) as whence:
        whence.ready()
    assert all(0 < seconds <= 2 for seconds in seen[0].values())


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


@pytest.fixture
def trickling() -> Iterator[tuple[str, threading.Event]]:
    """Address of a server whose answer comes a byte at a time; whether its client left."""
    left, over = threading.Event(), threading.Event()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            try:
                connection.sendall(HEAD)
                for _ in range(40):
                    if over.wait(0.05):
                        break
                    connection.sendall(b" ")
            except OSError:
                left.set()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", left
        over.set()
        thread.join()


@BOTH
def test_an_answer_that_trickles_in_is_given_up_in_time(
    ready: Ready, trickling: tuple[str, threading.Event]
) -> None:
    url, left = trickling
    with pytest.raises(ServerError, match=r"no answer from .*too long"):
        ready(url, timeout=0.3)
    assert left.wait(1)  # before the server has said all


def test_a_file_is_read_once_a_call_and_never_by_the_event_loop(
    naps: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"the image")
    readers: list[int] = []
    sent: list[bytes] = []

    def read(path: Path) -> bytes:
        readers.append(threading.get_ident())
        with path.open("rb") as file:
            return file.read()

    def serve(request: httpx.Request) -> httpx.Response:
        sent.append(request.read())
        return refusal(429)

    monkeypatch.setattr(Path, "read_bytes", read)
    transport = httpx.MockTransport(serve)

    async def ask() -> None:
        async with AsyncWhence(URL, transport=transport) as client:
            await client.attribute(path)

    with Whence(URL, transport=transport) as whence, pytest.raises(ServerError, match="429"):
        whence.attribute(path)
    with pytest.raises(ServerError, match="429"):
        asyncio.run(ask())
    assert [b"the image" in body for body in sent] == [True] * 10
    assert len(readers) == 2
    assert readers[0] == threading.get_ident() != readers[1]


def test_retry_after_may_be_a_number_or_a_date() -> None:
    def told(value: str) -> float | None:
        return retry_after(httpx.Response(429, headers={"retry-after": value}))

    assert told("7") == 7
    assert told("") is None
    assert told("soon") is None
    assert told("-3") is None
    later = told(format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True))
    assert later is not None
    assert 28 < later <= 30
    assert told("Mon, 01 Jan 2024 00:00:00 GMT") == 0


# What may go wrong


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"[]", b'{"status": "ready"}', b"\xff" * 10, b"null"]
)
def test_another_kind_of_server_is_told(content: bytes) -> None:
    serve = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    with Whence(URL, transport=serve) as whence, pytest.raises(ServerError, match="not as Whence"):
        whence.ready()


@pytest.mark.parametrize("content", [b"", b"<html>Bad gateway", b'{"detail": "x"}'])
def test_a_refusal_that_is_no_problem_is_told(content: bytes) -> None:
    serve = httpx.MockTransport(lambda _: httpx.Response(502, content=content))
    with Whence(URL, transport=serve) as whence, pytest.raises(ServerError, match="502") as caught:
        whence.ready()
    assert caught.value.problem is None


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://127.0.0.1", "http://", "http://:80"])
@pytest.mark.parametrize("kind", [Whence, AsyncWhence])
def test_an_address_that_is_none_is_told(url: str, kind: type) -> None:
    with pytest.raises(ServerError, match="is no address"):
        kind(url)


@pytest.mark.parametrize("key", ["key\n", "ké", "a\r\nX: b"])
def test_a_key_that_is_none_is_told_and_not_shown(key: str) -> None:
    with pytest.raises(ServerError, match="the key") as caught:
        Whence(URL, key=key)
    assert key not in str(caught.value)


def test_the_key_goes_to_the_server_and_nowhere_else() -> None:
    seen: list[httpx.Request] = []

    def serve(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(302, headers={"location": "http://evil.test/"})

    with (
        Whence(URL, key="secret", transport=httpx.MockTransport(serve)) as whence,
        pytest.raises(ServerError, match="302"),
    ):
        whence.ready()
    [request] = seen
    assert request.headers["authorization"] == "Bearer secret"
    assert "secret" not in str(request.url)


def test_one_client_serves_several_threads(whence: Whence) -> None:
    found: list[str] = []

    def ask() -> None:
        found.append(whence.attribute(encode(shade("Emerald", 1))).concepts[0].id)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["emerald"] * 8


def test_a_real_pause_is_slept() -> None:
    began = time.monotonic()
    assert sync_ready(Moody(refusal(429, **{"retry-after": "1"}))) == "v"
    assert time.monotonic() - began >= 1
