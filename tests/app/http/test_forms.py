import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from starlette.types import Message, Receive, Scope, Send

from app.errors import QueueFullError
from app.http.body_limit import BodyLimit, UploadMemory
from app.main import OTHER_BODY, create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.app.conftest import BYTES, CheckProblem
from tests.pictures import encode, noise, png_bomb

Post = Callable[..., httpx.Response]
BOUNDARY = {"content-type": "multipart/form-data; boundary=x"}
HEAD = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
TAIL = b"\r\n--x--\r\n"


@pytest.mark.parametrize(
    ("name", "status", "kind", "says"),
    [
        ("nothing", 422, "invalid-request", "is empty"),
        ("text", 415, "unsupported-image-type", "JPEG, PNG, WEBP"),
        ("truncated JPEG", 400, "undecodable-image", "cut short"),
        ("truncated header", 400, "undecodable-image", "header"),
        ("one pixel", 422, "image-too-small", "1 x 1 pixels; at least 16"),
        ("bomb", 413, "image-too-large", "50,000,000 pixels"),
        ("smaller bomb", 413, "image-too-large", "7500 x 7500 pixels"),
    ],
)
def test_bad_images_are_refused(
    post: Post, check_problem: CheckProblem, name: str, status: int, kind: str, says: str
) -> None:
    jpeg = encode(noise(), "JPEG")
    data = {
        "nothing": b"",
        "text": b"I only look like a picture.\n",
        "truncated JPEG": jpeg[: len(jpeg) // 2],
        "truncated header": jpeg[:20],
        "one pixel": encode(Image.new("RGB", (1, 1))),
        "bomb": png_bomb(20_000),
        "smaller bomb": png_bomb(7_500),
    }[name]
    assert says in check_problem(post(data), status, kind)["detail"]


def test_an_empty_body_is_a_missing_image(client: TestClient, check_problem: CheckProblem) -> None:
    problem = check_problem(client.post("/attribute"), 422, "invalid-request")
    assert problem["errors"][0]["name"] == "image"
    empty_form = client.post("/attribute", headers=BOUNDARY, content=b"--x--\r\n")
    check_problem(empty_form, 422, "invalid-request")


def test_a_missing_field_is_named(
    client: TestClient, check_problem: CheckProblem, query: bytes
) -> None:
    problem = check_problem(
        client.post("/attribute", files={"picture": query}), 422, "invalid-request"
    )
    assert "'picture'" in problem["detail"]
    assert "'image'" in problem["detail"]


def test_two_images_are_one_too_many(
    client: TestClient, check_problem: CheckProblem, query: bytes
) -> None:
    files = [("image", ("a.png", query)), ("image", ("b.png", query))]
    problem = check_problem(client.post("/attribute", files=files), 422, "invalid-request")
    assert "one image a request" in problem["detail"]
    many = client.post("/attribute", files=[("image", query)] * 100)
    check_problem(many, 400, "malformed-form")


def test_parameters_do_not_go_into_the_form(
    client: TestClient, check_problem: CheckProblem, query: bytes
) -> None:
    response = client.post("/attribute", files={"image": query}, data={"top_k": "3"})
    problem = check_problem(response, 422, "invalid-request")
    assert "'top_k'" in problem["detail"]
    assert "URL" in problem["detail"]


def test_an_image_without_a_filename_is_text(
    client: TestClient, check_problem: CheckProblem
) -> None:
    body = HEAD.replace(b'; filename="a.png"', b"") + b"data" + TAIL
    response = client.post("/attribute", headers=BOUNDARY, content=body)
    assert "as a file" in check_problem(response, 422, "invalid-request")["detail"]


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/pdf", "application/x-www-form-urlencoded"]
)
def test_other_bodies_are_unsupported(
    client: TestClient, check_problem: CheckProblem, query: bytes, content_type: str
) -> None:
    response = client.post("/attribute", content=query, headers={"content-type": content_type})
    problem = check_problem(response, 415, "not-a-form")
    assert content_type in problem["detail"]
    assert "multipart/form-data" in problem["detail"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", HEAD + b"data" + TAIL),  # no boundary
        ("multipart/form-data; boundary=x", b"no boundary in here"),
        ("multipart/form-data; boundary=x", HEAD + b"data, and then nothing"),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data\r\n\r\n" + TAIL,
        ),
        ("multipart/form-data; boundary=x", b"--x\r\nX-Long: " + b"a" * 10_000 + TAIL),
    ],
)
def test_broken_forms_are_refused(
    client: TestClient, check_problem: CheckProblem, content_type: str, body: bytes
) -> None:
    response = client.post("/attribute", headers={"content-type": content_type}, content=body)
    check_problem(response, 400, "malformed-form")


# The byte limit


PREAMBLES = [
    b"\r\n",
    b"This is a message in MIME format\r\n",
    b"--y\r\n--\r\n" + b"-" * 9000 + b"\r\n",
]


NAMES = [
    b'filename="a.png"',
    b"filename*=utf-8''%E5%86%99.png",
    b"FileName*=utf-8''%E5%86%99.png",
    b"filename*0*=utf-8''%E5%86; filename*1*=%99.png",
]


@pytest.mark.parametrize("preamble", [b"", *PREAMBLES])
@pytest.mark.parametrize("name", NAMES)
def test_a_preamble_means_nothing_and_a_coded_name_makes_a_file(
    client: TestClient, query: bytes, preamble: bytes, name: bytes
) -> None:
    body = preamble + HEAD.replace(b'filename="a.png"', name) + query + TAIL
    assert client.post("/attribute", headers=BOUNDARY, content=body).status_code == 200


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b'filename="a.png"', "a.png"),
        ('filename="写 \u202etxt.png"'.encode(), "写 txt.png"),  # no change of direction
        (b"filename*=utf-8''%E5%86%99.png", "写.png"),
        (b"filename*0*=utf-8''%E5%86; filename*1*=%99.png", "写.png"),
        (b"filename*=utf-8''%22%5C..%2Fb%22.png", 'b".png'),
        (rb'filename="C:\pictures\a.png"', "a.png"),
        (b'filename="../../etc/passwd"', "passwd"),
        (b'filename="a\x1b[2J\x00.png"', "a[2J.png"),
        (b'filename="%s.png"' % (b"n" * 300), "n" * 200),
        (b'filename="/"', None),
        (b'filename="blob"', None),  # of browsers and clients that know no name
        (b"filename*=utf-8''%00", None),
    ],
)
def test_a_report_has_the_files_name_as_text(
    client: TestClient, query: bytes, name: bytes, expected: str | None
) -> None:
    body = HEAD.replace(b'filename="a.png"', name) + query + TAIL
    report = client.post("/attribute/report?format=json", headers=BOUNDARY, content=body)
    assert report.status_code == 200, report.text
    assert report.json()["query"]["name"] == expected


@pytest.mark.parametrize("size", [1, 3, 7, 64])
@pytest.mark.parametrize("name", NAMES)
def test_the_head_of_a_form_may_come_in_any_pieces(
    settings: Settings, attributor: Attributor, query: bytes, name: bytes, size: int
) -> None:
    head = PREAMBLES[1] + HEAD.replace(b'filename="a.png"', name)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(head), size):
            yield head[start : start + size]
        yield query + TAIL

    assert post_raw(settings, attributor, pieces(), **BOUNDARY).status_code == 200


def test_a_star_in_a_name_makes_no_file(
    client: TestClient, check_problem: CheckProblem, query: bytes
) -> None:
    for name in (b'name="image"; x="filename*=a"', b'name="image"; filenames*=a'):
        body = b"--x\r\nContent-Disposition: form-data; " + name + b"\r\n\r\n" + query + TAIL
        problem = check_problem(
            client.post("/attribute", headers=BOUNDARY, content=body), 422, "invalid-request"
        )
        assert "is text" in problem["detail"]


def test_an_image_can_be_the_whole_body(
    client: TestClient, check_problem: CheckProblem, query: bytes
) -> None:
    form = client.post("/attribute", files={"image": query})
    assert form.status_code == 200, form.text
    for kind in ("image/png", "image/jpeg", "IMAGE/X; a=b"):
        raw = client.post("/attribute", headers={"content-type": kind}, content=query)
        assert raw.status_code == 200, raw.text
        assert raw.json()["concepts"] == form.json()["concepts"]
    report = client.post("/attribute/report", headers={"content-type": "image/png"}, content=query)
    assert report.status_code == 200, report.text
    empty = client.post("/attribute", headers={"content-type": "image/png"}, content=b"")
    assert "is empty" in check_problem(empty, 422, "invalid-request")["detail"]
    text = client.post("/attribute", headers={"content-type": "image/png"}, content=b"text")
    check_problem(text, 415, "unsupported-image-type")


def test_the_description_has_each_type_of_body(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    form = "multipart/form-data"
    for path, kinds in {
        "/attribute": {form, "image/*"},
        "/attribute/report": {form, "image/*"},
        "/attribute/batch": {form},
    }.items():
        assert set(paths[path]["post"]["requestBody"]["content"]) == kinds


def post_raw(
    settings: Settings, attributor: Attributor, content: AsyncIterator[bytes], **headers: str
) -> httpx.Response:
    """Posts a form chunk by chunk, as a server would hand it over."""
    return post_to(create_app(settings, attributor), content, **headers)


def post_to(app: FastAPI, content: AsyncIterator[bytes], **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            return await client.post("/attribute", content=content, headers={**BOUNDARY, **headers})

    return asyncio.run(ask())


class Chunks:
    """A form of one file, ``length`` bytes in all; counts the bytes that were asked for."""

    def __init__(self, length: int, size: int = 10_000) -> None:
        self.length, self.size, self.taken = length, size, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body = HEAD + bytes(self.length - len(HEAD) - len(TAIL)) + TAIL
        for start in range(0, self.length, self.size):
            chunk = body[start : start + self.size]
            self.taken += len(chunk)
            yield chunk


def test_a_body_announced_too_large_is_not_read(
    settings: Settings, attributor: Attributor, check_problem: CheckProblem
) -> None:
    chunks = Chunks(BYTES + 1)
    headers = {"content-length": str(chunks.length)}
    response = post_raw(settings, attributor, aiter(chunks), **headers)
    assert f"{BYTES:,} bytes" in check_problem(response, 413, "body-too-large")["detail"]
    assert response.headers["connection"] == "close"
    assert chunks.taken == 0


def test_a_body_of_unknown_length_is_read_up_to_the_limit(
    settings: Settings, attributor: Attributor, check_problem: CheckProblem
) -> None:
    chunks = Chunks(10 * BYTES)
    response = post_raw(settings, attributor, aiter(chunks))
    check_problem(response, 413, "body-too-large")
    assert chunks.taken <= BYTES + chunks.size


def test_a_false_content_length_does_not_help(
    settings: Settings, attributor: Attributor, check_problem: CheckProblem
) -> None:
    chunks = Chunks(10 * BYTES)
    response = post_raw(settings, attributor, aiter(chunks), **{"content-length": "100"})
    check_problem(response, 413, "body-too-large")
    assert chunks.taken <= BYTES + chunks.size


def test_a_body_of_exactly_the_limit_is_read(
    settings: Settings, attributor: Attributor, check_problem: CheckProblem
) -> None:
    response = post_raw(settings, attributor, aiter(Chunks(BYTES)))
    check_problem(response, 415, "unsupported-image-type")  # for what it holds: zeros


def test_nothing_is_read_for_a_request_that_is_wrong_already(
    client: TestClient, check_problem: CheckProblem
) -> None:
    response = client.post("/attribute?topk=1", files={"image": bytes(2 * BYTES)})
    check_problem(response, 422, "invalid-request")


def test_a_client_that_hangs_up_gets_no_answer(settings: Settings, attributor: Attributor) -> None:
    chunks = iter(
        [
            {"type": "http.request", "body": HEAD, "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    scope = {
        "type": "http", "method": "POST", "path": "/attribute", "query_string": b"",
        "headers": [(b"content-type", BOUNDARY["content-type"].encode())],
    }  # fmt: skip
    sent: list[Message] = []

    async def receive() -> Message:
        return next(chunks)

    async def send(message: Message) -> None:
        sent.append(message)

    async def ask() -> None:
        app = create_app(settings, attributor)
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)  # and raises nothing, which would be logged as ours

    asyncio.run(ask())
    assert sent[0]["status"] == 400


def test_uploads_stay_in_memory(
    attributor: Attributor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no place for temporary files, an upload of several megabytes is still answered."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    data = encode(noise(1200, 1200))
    assert len(data) > 4_000_000
    with TestClient(create_app(Settings(data=tmp_path), attributor)) as client:
        response = client.post("/attribute", files={"image": data})
    assert response.status_code == 200


# The time limit


class Slow(Chunks):
    """Rests before each chunk."""

    rest = 0.05

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in super().__aiter__():
            await asyncio.sleep(self.rest)
            yield chunk


def test_a_body_that_is_not_here_in_time_is_not_waited_for(
    attributor: Attributor, tmp_path: Path, check_problem: CheckProblem
) -> None:
    settings = Settings(data=tmp_path, upload_seconds=0.2)
    chunks = Slow(BYTES)
    response = post_raw(settings, attributor, aiter(chunks))
    problem = check_problem(response, 408, "body-too-slow")
    assert "0.2 seconds" in problem["detail"]
    assert response.headers["connection"] == "close"
    assert chunks.taken < BYTES


def test_a_slow_body_that_is_here_in_time_is_read(
    attributor: Attributor, tmp_path: Path, check_problem: CheckProblem
) -> None:
    settings = Settings(data=tmp_path, upload_seconds=30)
    response = post_raw(settings, attributor, aiter(Slow(BYTES)))
    check_problem(response, 415, "unsupported-image-type")


def test_an_answer_may_take_longer_than_its_upload() -> None:
    """The body is here at once, and whoever works on it then waits for the client to leave."""
    seen: list[str] = []

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((await receive())["type"])
        seen.append((await receive())["type"])

    async def receive() -> Message:
        if not seen:
            return {"type": "http.request", "body": b"abc"}
        await asyncio.sleep(0.1)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    limit = BodyLimit(work, UploadMemory(100, 100), 100, {}, seconds=0.01)
    scope = {"type": "http", "path": "/attribute", "headers": [(b"content-length", b"3")]}
    asyncio.run(limit(scope, receive, send))
    assert seen == ["http.request", "http.disconnect"]


def test_a_body_in_several_messages_counts_once() -> None:
    memory = UploadMemory(100, 100)
    taken: list[int] = []

    async def read(_scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive()).get("more_body"):
            taken.append(memory.taken)

    messages = [{"type": "http.request", "body": b"abc", "more_body": more} for more in (1, 1, 0)]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "path": "/attribute", "headers": [(b"content-length", b"9")]}
    asyncio.run(BodyLimit(read, memory, 100, {}, seconds=1)(scope, receive, send))
    assert taken == [9, 9]
    assert memory.taken == 0


def test_bytes_of_a_body_in_chunks_count_as_the_most_it_may_have(
    attributor: Attributor, tmp_path: Path, check_problem: CheckProblem
) -> None:
    settings = Settings(
        data=tmp_path, upload_memory=2 * BYTES, max_upload_bytes=BYTES, max_batch_bytes=BYTES
    )
    app = create_app(settings, attributor)
    [middleware] = [m for m in app.user_middleware if m.cls is BodyLimit]
    with middleware.kwargs["memory"].hold(None, BYTES + 1):
        response = post_to(app, aiter(Chunks(100 + len(HEAD) + len(TAIL))))
    check_problem(response, 429, "queue-full")


@pytest.mark.parametrize("header", ["X-Long: " + "a" * 10_000, "\r\n".join(["X: a"] * 50)])
def test_long_and_many_headers_of_a_part_are_refused(
    client: TestClient, check_problem: CheckProblem, header: str
) -> None:
    body = HEAD.replace(b"\r\n\r\n", b"\r\n" + header.encode() + b"\r\n\r\n") + b"data" + TAIL
    response = client.post("/attribute", headers=BOUNDARY, content=body)
    check_problem(response, 400, "malformed-form")


def test_other_bodies_are_small(client: TestClient, check_problem: CheckProblem) -> None:
    headers = {"content-type": "application/json"}
    assert OTHER_BODY < BYTES
    response = client.post("/takedowns", headers=headers, content=b"[" * (OTHER_BODY + 1))
    check_problem(response, 413, "body-too-large")
    assert response.headers["connection"] == "close"


# Memory of all bodies


def test_bodies_have_so_many_bytes_together() -> None:
    memory = UploadMemory(limit=1000, largest=500)
    with memory.hold(None, 500):
        with memory.hold(None, 400):
            with pytest.raises(QueueFullError, match="of 1,000 bytes of uploads 900 are taken"):
                memory.hold(None, 101).__enter__()
            assert memory.taken == 900  # the refused one has left
        with memory.hold(None, 500):
            assert memory.taken == 1000
    assert memory.taken == 0


def test_one_caller_has_a_part_of_the_bytes() -> None:
    memory = UploadMemory(limit=4000, largest=100)
    with memory.hold("key a", 996):
        with pytest.raises(QueueFullError, match="one caller may upload 1,000 bytes"):
            memory.hold("key a", 5).__enter__()
        with memory.hold("key a", 4), memory.hold("key b", 1000):
            pass
        with memory.hold(None, 3004):  # on this machine it may be a proxy of many
            assert memory.taken == 4000
    with memory.hold("key a", 1000):  # its bytes were given back
        assert memory.taken == 1000


def test_one_caller_may_always_send_the_largest_body() -> None:
    with UploadMemory(limit=1000, largest=500).hold("key a", 500):
        pass


def test_a_body_for_which_there_is_no_room_is_not_read(
    attributor: Attributor, tmp_path: Path, check_problem: CheckProblem
) -> None:
    settings = Settings(
        data=tmp_path, upload_memory=BYTES, max_upload_bytes=BYTES, max_batch_bytes=BYTES
    )
    app = create_app(settings, attributor)
    [middleware] = [m for m in app.user_middleware if m.cls is BodyLimit]
    memory = middleware.kwargs["memory"]
    with TestClient(app) as client, memory.hold(None, BYTES - 100):
        response = client.post("/attribute", files={"image": bytes(1000)})
        problem = check_problem(response, 429, "queue-full")
        assert "199,900 are taken" in problem["detail"]
        assert response.headers["retry-after"] == "1"
        body = {"kind": "concept", "id": "x", "reason": "r"}
        assert client.get("/concepts").status_code == 200
        check_problem(client.post("/takedowns", json={**body, "x": "a" * 100}), 429, "queue-full")
    assert memory.taken == 0


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_is_not_read_while_the_queue_is_full(
    attributor: Attributor, tmp_path: Path, check_problem: CheckProblem, announced: bool
) -> None:
    settings = Settings(data=tmp_path, max_queue=1)
    app = create_app(settings, attributor)
    large, small = Chunks(2**21, size=2**16), Chunks(2**19, size=2**16)

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            with app.state.service.pipeline.queue.hold(1):
                return [
                    await client.post(
                        "/attribute",
                        content=aiter(chunks),
                        headers=BOUNDARY
                        | ({"content-length": str(chunks.length)} if announced else {}),
                    )
                    for chunks in (large, small)
                ]

    for response in asyncio.run(ask()):
        check_problem(response, 429, "queue-full")
    assert large.taken == small.taken == 0
