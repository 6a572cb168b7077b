"""Clients of the real server over sockets: it runs in a thread of this process."""

import contextlib
import hashlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp

from app.http import lingering
from app.http.server import HEADER_BYTES, make_server
from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.ports import free_port
from tests.waiting import NEVER, wait_until

GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSE = b"Connection: close\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAA\r\n"
ROOT = Path(__file__).parents[3]
BYTES = 100_000  # of an upload, at most


@contextlib.contextmanager
def listening(app: ASGIApp, settings: Settings) -> Iterator[int]:
    """Run the server until the block ends; give its port."""
    settings = settings.model_copy(update={"port": free_port()})
    server = make_server(app, settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    assert server.started
    yield settings.port
    server.should_exit = True
    thread.join(60)


@pytest.fixture(scope="module")
def app_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    data: Path = tmp_path_factory.mktemp("data")
    return Settings(
        data=data, max_upload_bytes=BYTES, max_batch_bytes=BYTES, upload_seconds=1, device="cpu"
    )


@pytest.fixture(scope="module")
def app(app_settings: Settings, attributor: Attributor) -> FastAPI:
    return create_app(app_settings, attributor)


@pytest.fixture(scope="module")
def port(app: FastAPI, app_settings: Settings) -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lingering, "PROMPT_SECONDS", 0.2)
        patch.setattr(lingering, "SILENCE_SECONDS", 0.5)
        with listening(app, app_settings) as port:
            yield port


def form(image: bytes) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    return head + image + b"\r\n--x--\r\n"


def post(
    body: bytes, *, target: bytes = b"/attribute", more: bytes = b"", length: int | None = None
) -> bytes:
    size = len(body) if length is None else length
    return (
        b"POST " + target + b" HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: %d\r\n%s\r\n%s" % (size, more, body)
    )


def talk(port: int, *pieces: bytes | float) -> bytes:
    """Send and rest in turn, then return all that comes until the server closes."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for piece in pieces:
            if isinstance(piece, float):
                time.sleep(piece)
            else:
                connection.sendall(piece)
        while chunk := connection.recv(2**16):
            received += chunk
    return bytes(received)


# Upgrade


@pytest.mark.parametrize(
    "upgrade", [H2C, H2C.replace(b"h2c", b"TLS/1.0"), H2C.replace(b"h2c", b"websocket")]
)
def test_an_upgrade_is_ignored_and_the_body_read(port: int, query: bytes, upgrade: bytes) -> None:
    body = form(query)
    whole = post(body, more=upgrade)
    chunked = whole.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
    chunked = chunked.replace(body, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    received = talk(port, whole, chunked, post(body, more=CLOSE))
    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert received.count(hashlib.sha256(query).hexdigest().encode()) == 3


# Answers that are given before the body is here


@pytest.mark.parametrize(
    ("target", "more", "status"),
    [(b"/attribute", b"", b"413"), (b"/attribute", CLOSE, b"413"), (b"/nowhere", CLOSE, b"404")],
)
def test_a_client_that_still_sends_sees_the_refusal(
    port: int, target: bytes, more: bytes, status: bytes
) -> None:
    """All 30 MB can be sent, and then the answer is there to be read."""
    received = talk(port, post(bytes(30_000_000), target=target, more=more))
    assert received.startswith(b"HTTP/1.1 " + status)
    assert b"application/problem+json" in received


def test_a_connection_is_used_again_if_the_rest_of_the_body_comes_at_once(port: int) -> None:
    last = GET.replace(b"\r\n\r\n", b"\r\n" + CLOSE + b"\r\n")
    received = talk(port, post(bytes(50_000), target=b"/nowhere"), GET, last)
    assert received.count(b"HTTP/1.1 404 ") == 1
    assert received.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("drops", [0, 1])
def test_the_rest_of_a_body_is_not_waited_for_for_ever(port: int, drops: int) -> None:
    received = talk(port, post(b"", target=b"/nowhere", length=1000), *[0.1, b"a"] * drops)
    assert received.startswith(b"HTTP/1.1 404 ")
    assert b"connection: close\r\n" in received.lower()


def test_a_body_that_nobody_wants_is_not_asked_for(port: int) -> None:
    expecting = post(b"", length=BYTES + 1, more=b"Expect: 100-continue\r\n" + CLOSE)
    received = talk(port, expecting)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in received


def test_a_body_that_is_wanted_is_asked_for(port: int, query: bytes) -> None:
    body = form(query)
    received = talk(port, post(body, more=b"Expect: 100-continue\r\n" + CLOSE))
    assert received.startswith(b"HTTP/1.1 100 ")
    assert b"HTTP/1.1 200 OK" in received


def test_a_slow_body_is_refused_and_the_connection_closed(port: int) -> None:
    received = talk(port, post(b"--x\r\n", length=1000))
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"urn:whence:problem:body-too-slow" in received


# Malformed HTTP


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * (HEADER_BYTES + 1),  # and no end
        post(b"abc", more=b"Content-Length: 4\r\n"),
        post(b"abc", more=b"Transfer-Encoding: chunked, x\r\n"),
        post(b"abc").replace(b"Content-Length: 3", b"Content-Length : 3"),
        post(b"abc").replace(b"Content-Length: 3", b"Content-Length: -1"),
    ],
)
def test_malformed_requests_are_refused(port: int, request_: bytes) -> None:
    received = talk(port, request_)
    assert received.startswith(b"HTTP/1.1 400 Bad Request")
    assert received.count(b"HTTP/1.1 ") == 1


CHUNKED = post(b"", target=b"/nowhere").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    "pieces",
    [
        (CHUNKED, 0.1, b"zz\r\n\r\n"),
        (CHUNKED, 0.4, b"zz\r\n\r\n"),
        (CHUNKED + b"3\r\nabc\r\n", 0.4, b"zz\r\n\r\n"),
        (GET + b"nonsense\r\n\r\n",),
        (CHUNKED + b"zz\r\n\r\n",),
    ],
)
def test_nonsense_in_a_body_or_after_an_answer_leaves_no_traceback(
    port: int, caplog: pytest.LogCaptureFixture, pieces: tuple[bytes | float, ...]
) -> None:
    talk(port, *pieces)
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


# Connections


def test_an_idle_connection_stays_open_as_long_as_is_set(
    app: FastAPI, app_settings: Settings
) -> None:
    def connect(keep_alive: int) -> socket.socket:
        settings = app_settings.model_copy(update={"keep_alive_seconds": keep_alive})
        port = stack.enter_context(listening(app, settings))
        address = ("127.0.0.1", port)
        connection = stack.enter_context(socket.create_connection(address, timeout=NEVER))
        assert answers(connection)
        return connection

    def answers(connection: socket.socket) -> bool:
        connection.sendall(GET)
        return connection.recv(2**16).startswith(b"HTTP/1.1 200 OK")

    assert Settings.model_fields["keep_alive_seconds"].default > 60
    with contextlib.ExitStack() as stack:
        long, short = connect(75), connect(1)
        while short.recv(2**16):
            pass  # the rest of its answer, until the server closes
        assert answers(long)


def test_a_connection_above_the_limit_replaces_the_one_that_waits_longest(
    app: FastAPI, app_settings: Settings
) -> None:
    settings = app_settings.model_copy(update={"max_connections": 3})
    last = GET.replace(b"\r\n\r\n", b"\r\n" + CLOSE + b"\r\n")
    with listening(app, settings) as port, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", port)
        idle = [
            stack.enter_context(socket.create_connection(address, timeout=NEVER)) for _ in range(3)
        ]
        assert talk(port, last).startswith(b"HTTP/1.1 200 OK")
        with contextlib.suppress(ConnectionResetError):
            assert idle[0].recv(1) == b""


SLOW = """
import asyncio, sys
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from app.http.server import run_server
from app.settings import Settings

app = FastAPI()

@app.post("/")
async def answer(request: Request):
    print("begun", flush=True)
    await request.body()

    async def halves():
        yield "one "
        await asyncio.to_thread(sys.stdin.read)
        yield "two"

    return StreamingResponse(halves())

run_server(app, Settings(port=int(sys.argv[1]), data="nothing"))
"""


def test_answers_in_flight_are_completed_at_sigterm() -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(port)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        wait_until(lambda: _listens(port))
        address, stops = ("127.0.0.1", port), CLOSE.join([b"\r\n", b"\r\n"])
        whole = post(b"abc", target=b"/").replace(b"\r\n\r\n", stops)
        with socket.create_connection(address) as first, socket.create_connection(address) as late:
            late.sendall(whole[:-1])
            first.sendall(whole)
            assert process.stdin
            assert process.stdout
            assert [process.stdout.readline() for _ in range(2)] == [b"begun\n"] * 2
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: not _listens(port))
            late.sendall(whole[-1:])
            process.stdin.close()
            for connection in (first, late):
                received = b"".join(iter(lambda c=connection: c.recv(2**16), b""))
                assert b"one" in received
                assert received.endswith(b"3\r\ntwo\r\n0\r\n\r\n")
        assert process.wait(NEVER) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
