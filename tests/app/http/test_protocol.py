"""What a socket meets: the real server, in a thread of this process."""

import asyncio
import contextlib
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from app.http import protocol
from app.http.protocol import Protocol
from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from tests.app.cli.test_main import free_port

GET = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
FORM = (
    b"POST /attribute HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
)


@contextlib.contextmanager
def listening(app: ASGIApp) -> Iterator[int]:
    """Where a server listens that gives headers half a second."""
    config = uvicorn.Config(
        app, port=free_port(), log_level="warning", log_config=None, http=Protocol
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "HEADER_SECONDS", 0.5)
        patch.setattr(protocol, "LINGER_SECONDS", 0.5)
        patch.setattr(protocol, "UNREAD_SECONDS", 0.5)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield config.port
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def port(attributor: Attributor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where a server listens that gives headers and bodies half a second."""
    data: Path = tmp_path_factory.mktemp("data")
    with listening(create_app(Settings(data=data, upload_seconds=0.5), attributor)) as port:
        yield port


async def tell_headers(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body, takes a second, and tells which headers there are."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(1)
    names = b" ".join(name for name, _ in scope["headers"])
    length = str(len(names)).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
    )
    await send({"type": "http.response.body", "body": names})


def talk(port: int, *pieces: bytes | float) -> tuple[bytes, float]:
    """All that comes back, and how long the connection lasted."""
    began = time.monotonic()
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        with contextlib.suppress(ConnectionError):  # the server may close while this still sends
            for piece in pieces:
                if isinstance(piece, float):
                    time.sleep(piece)
                else:
                    connection.sendall(piece)
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(2**16):
                received += chunk
    return bytes(received), time.monotonic() - began


def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    received, seconds = talk(port)
    assert received == b""
    assert 0.4 < seconds < 3


def test_headers_that_drip_are_not_waited_for(port: int) -> None:
    drops = [piece for byte in GET[:15] for piece in (bytes([byte]), 0.02)]
    received, seconds = talk(port, *drops)
    assert received == b""
    assert 0.4 < seconds < 3


def test_a_connection_is_used_again_and_waits_for_each_request_anew(port: int) -> None:
    received, _ = talk(port, GET[:10], 0.3, GET[10:], 0.4, GET[:10], 0.3, GET[10:], 0.4, GET)
    assert received.count(b"HTTP/1.1 200 OK") == 3


def test_an_answer_is_not_cut_by_the_deadline_of_headers(port: int) -> None:
    close = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    received, _ = talk(port, GET + close)
    assert received.count(b"HTTP/1.1 200 OK") == 2


def test_headers_that_come_while_a_request_is_answered_do_not_cut_its_answer() -> None:
    with listening(tell_headers) as port:
        received, seconds = talk(port, GET + GET[:10])
    assert received.count(b"HTTP/1.1 200 OK") == 1
    assert 1 < seconds < 4


async def say_much(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with more than any buffer between holds."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
        await send({"type": "http.response.body"})


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_who_does_not_read_an_answer_is_not_waited_for(seconds: float) -> None:
    with listening(say_much) as port:
        received, _ = talk(port, GET.replace(b"Host", b"Connection: close\r\nHost"), seconds)
    assert (len(received) > 2**26) == (seconds == 0.0)


def test_what_comes_after_a_body_in_chunks_is_no_header() -> None:
    chunked = (
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nAuthorization: Bearer b\r\n\r\n"
    )
    with listening(tell_headers) as port:
        received, _ = talk(port, chunked[:-40], 0.1, chunked[-40:])
    assert received.endswith(b"\r\n\r\nhost connection transfer-encoding")


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Content-Length: 3\r\nContent-Length: 4",
        b"Transfer-Encoding: chunked, x",
        b"Content-Length : 3",
        b"Content-Length: +3",
    ],
)
def test_where_a_body_ends_is_never_a_guess(port: int, headers: bytes) -> None:
    request = b"POST /nowhere HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n\r\nabc"
    received, _ = talk(port, request + GET)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1


def test_a_slow_body_is_refused_and_the_connection_closed(port: int) -> None:
    received, seconds = talk(port, FORM)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"urn:whence:problem:body-too-slow" in received
    assert b"\r\nconnection: close\r\n" in received.lower()
    assert 0.4 < seconds < 3


NOWHERE = FORM.replace(b"/attribute", b"/nowhere")
CHUNKED = NOWHERE.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked")


@pytest.mark.parametrize("request_", [NOWHERE, CHUNKED.removesuffix(b"--x\r\n")])
@pytest.mark.parametrize("more", [[], [0.1, b"1"], [0.1, b"1\r", 0.1, b"\n", 0.1, b"a"]])
def test_the_rest_of_a_body_that_is_answered_is_not_waited_for(
    port: int, request_: bytes, more: list[bytes | float]
) -> None:
    received, seconds = talk(port, request_, *more)
    assert received.startswith(b"HTTP/1.1 404 ")
    assert 0.4 < seconds < 3


def test_a_body_that_drips_after_its_answer_does_not_hold_the_connection(port: int) -> None:
    received, seconds = talk(port, NOWHERE, *[piece for _ in range(40) for piece in (0.05, b"a")])
    assert received.startswith(b"HTTP/1.1 404 ")
    assert seconds < 4  # the server's half second, and what this side goes on to send


def test_a_body_that_comes_after_its_answer_leaves_the_connection_of_use(port: int) -> None:
    rest = bytes(1000 - len(b"--x\r\n"))
    received, _ = talk(port, NOWHERE, 0.2, rest, 0.4, GET, 0.3, GET)
    assert received.count(b"HTTP/1.1 404 ") == 1
    assert received.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n",
        GET.replace(b"Host: a", b"Host: a\r\nX: " + b"a" * 100_000),
        GET.replace(b"/health/live", b"/" + b"a" * 100_000),
        GET.replace(b"Host: a", b"Host: a\r\n" + b"X: a\r\n" * 10_000),
        b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000,  # and no end
        FORM.replace(b"1000", b"-1"),
        FORM.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked") + b"zz\r\n",
    ],
)
def test_what_is_no_http_is_a_problem(port: int, request_: bytes) -> None:
    received, _ = talk(port, request_)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"content-type: application/problem+json" in head.lower()
    assert b"x-content-type-options: nosniff" in head.lower()
    assert b"malformed-request" in body
    if b"chunked" not in head:
        assert json.loads(body)["status"] == 400


def test_nonsense_after_an_answer_does_not_reach_the_log(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    chunked = FORM.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked")
    wrong = chunked.replace(b"/attribute", b"/attribute?nothing=1").removesuffix(b"--x\r\n")
    received, _ = talk(port, wrong, 0.2, b"zz\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 422 ")
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


class Slow:
    """Takes half a second, writes half of its answer, and in another half second the rest."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        name = scope["path"].encode()
        self.seen.append(f"begin {scope['path']}")
        while (await receive()).get("more_body"):
            pass
        try:
            async with asyncio.timeout(0.5):
                await receive()
            self.seen.append(f"left {scope['path']}")
            return
        except TimeoutError:
            pass
        length = (b"content-length", b"%d" % (2 * len(name)))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": name, "more_body": True})
        await asyncio.sleep(0.5)
        await send({"type": "http.response.body", "body": name})


A, B = (GET.replace(b"/health/live", path) for path in (b"/a", b"/b"))
NONSENSE = b"nonsense\r\n\r\n"
ARRIVING = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def bodies(received: bytes) -> list[bytes]:
    """Those of all answers, which are whole."""
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        assert len(received) >= length
        found.append(received[:length])
        received = received[length:]
    return found


@pytest.mark.parametrize(
    ("pieces", "answers"),
    [
        ([A + NONSENSE], [b"/a/a"]),
        ([A + B + NONSENSE], [b"/a/a", b"/b/b"]),
        ([A, 0.7, NONSENSE], [b"/a/a"]),  # in the middle of the answer
        ([A + B, 0.7, NONSENSE, 0.1, NONSENSE + A], [b"/a/a", b"/b/b"]),
        ([A + ARRIVING, 0.1, b"zz\r\n\r\n"], [b"/a/a"]),
        ([A + A.replace(b"/a", b"http://")], [b"/a/a"]),
        ([A + A.replace(b"Host: a", b"X: " + b"a" * 40_000)], [b"/a/a"]),
    ],
)
def test_a_refusal_is_not_taken_for_the_answer_of_a_request_before_it(
    pieces: list[bytes | float], answers: list[bytes]
) -> None:
    with listening(Slow()) as port:
        received, _ = talk(port, *pieces)
    assert bodies(received) == answers


@pytest.mark.parametrize("pieces", [[A], [A + B], [A, 0.1, B]])
def test_a_request_learns_that_its_client_left_while_others_wait_behind_it(
    pieces: list[bytes | float],
) -> None:
    app = Slow()
    with listening(app) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for piece in pieces:
                if isinstance(piece, float):
                    time.sleep(piece)
                else:
                    connection.sendall(piece)
            time.sleep(0.1)
        time.sleep(0.8)
    assert app.seen == ["begin /a", "left /a"]


@pytest.mark.parametrize(
    ("request_", "answers"), [(A + B, [b"/a/a", b"/b/b"]), (A + ARRIVING, [b"/a/a"])]
)
def test_what_is_whole_is_answered_at_the_end(request_: bytes, answers: list[bytes]) -> None:
    with socket.socket() as connection:
        with listening(Slow()) as port:
            connection.connect(("127.0.0.1", port))
            connection.sendall(request_)
            time.sleep(0.2)
        received = b"".join(iter(lambda: connection.recv(2**16), b""))
    assert bodies(received) == answers


def test_what_is_no_http_is_counted_and_not_logged(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    def count() -> float:
        found = re.search(
            r'whence_refusals_total{problem="malformed-request"} (\S+)',
            httpx.get(f"http://127.0.0.1:{port}/metrics").text,
        )
        return float(found[1]) if found else 0.0

    before = count()
    upgrade = GET.replace(b"Host: a", b"Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket")
    for request in (NONSENSE, GET.replace(b"Host: a", b"X: " + b"a" * 20_000), upgrade):
        talk(port, request)
    assert count() == before + 2
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_long_headers_within_the_limit_are_read(port: int) -> None:
    long = GET.replace(b"Host: a", b"Host: a\r\nConnection: close\r\nX: " + b"a" * 10_000)
    assert talk(port, long)[0].startswith(b"HTTP/1.1 200 OK")


def test_what_is_told_back_is_not_long(port: int) -> None:
    path = b"/" + b"a" * 10_000
    long = GET.replace(b"/health/live", path).replace(b"Host: a", b"Host: a\r\nConnection: close")
    received, _ = talk(port, long)
    assert received.startswith(b"HTTP/1.1 404 ")
    assert len(received) < 2_000
