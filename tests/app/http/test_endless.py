"""Requests that do not end cost other clients nothing, without a proxy."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from fastapi import FastAPI, Request, Response

from app.http import protocol, server
from app.http.protocol import LINES
from app.settings import Settings
from tests.app.http.test_server import CLOSE, GET, form, listening, post, talk
from tests.ports import free_port
from tests.waiting import NEVER, wait_until

ROOT = Path(__file__).parents[3]
CHUNKED = b"POST /attribute HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_GET = GET.replace(b"\r\n\r\n", b"\r\n" + CLOSE + b"\r\n")
CONNECTIONS = 20
LARGE = 32 * 2**20  # bytes of an answer
ENOUGH = 64 * 2**20  # bytes that no connection may send

LONG = b"a" * 2**18
ENDLESS = {
    "a trailer of one line": (CHUNKED + b"1\r\na\r\n0\r\nX: ", LONG),
    "a trailer of lines": (CHUNKED + b"1\r\na\r\n0\r\n", b"X: a\r\n" * 2**15),
    "chunks of a byte": (CHUNKED, b"1\r\na\r\n" * 2**15),
    "chunks after a line that ends otherwise": (
        CHUNKED.replace(b"Transfer", b"Content-Length: 999999999\r\nX: y\nTransfer"),
        b"1\r\na\r\n" * 2**15,
    ),
    "chunks after a head without carriage returns": (
        CHUNKED.replace(b"\r\n", b"\n").replace(b"Transfer", b"Content-Length: 9999999\nTransfer"),
        b"1\r\na\r\n" * 2**15,
    ),
    "a chunk's header": (CHUNKED, b"1" * 2**18),
    "a chunk's extension": (CHUNKED + b"1;", LONG),
    "a header": (b"GET / HTTP/1.1\r\nX: ", LONG),
    "headers": (b"GET / HTTP/1.1\r\n", b"X: a\r\n" * 2**15),
    "a first line": (b"GET /", LONG),
    "no HTTP": (b"", b"\0" * 2**18),
}


def small_app() -> FastAPI:
    app = FastAPI()

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.post("/attribute")
    async def attribute(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.get("/large")
    async def large() -> Response:
        return Response(bytes(LARGE))

    @app.post("/early")
    async def early() -> dict[str, str]:
        return {}

    return app


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    settings = Settings(
        data=tmp_path_factory.mktemp("data"), max_connections=CONNECTIONS, keep_alive_seconds=60
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "HEADER_SECONDS", 1.0)
        with listening(small_app(), settings) as port:
            yield port


def send_endlessly(port: int, begin: bytes, more: bytes) -> int:
    """Send until the server closes; return the number of bytes it took."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        try:
            connection.sendall(begin)
            while sent < ENOUGH:
                connection.sendall(more)
                sent += len(more)
        except OSError:
            return sent
    raise AssertionError(f"{sent} bytes were taken")


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("target", [b"/attribute", b"/early"])
def test_an_endless_request_is_closed(port: int, kind: str, target: bytes) -> None:
    begin, more = ENDLESS[kind]
    send_endlessly(port, begin.replace(b"/attribute", target), more)
    assert talk(port, LAST_GET).startswith(b"HTTP/1.1 200 ")


def test_chunks_after_a_body_that_came_ahead_are_counted(port: int) -> None:
    known = CHUNKED.replace(b"Transfer-Encoding: chunked", b"Content-Length: 200000")
    send_endlessly(port, GET + known + b"a" * 200_000 + CHUNKED, b"1\r\na\r\n" * 2**15)
    assert talk(port, LAST_GET).startswith(b"HTTP/1.1 200 ")


def test_many_endless_requests_leave_the_loop_free(port: int) -> None:
    begin, more = ENDLESS["chunks of a byte"]
    threads = [threading.Thread(target=send_endlessly, args=(port, begin, more)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        assert talk(port, LAST_GET).startswith(b"HTTP/1.1 200 ")
    for thread in threads:
        thread.join()


def test_usual_chunks_are_read_however_many(port: int) -> None:
    size, count = 4_096, 2 * LINES
    chunk = b"%x\r\n%s\r\n" % (size, b"a" * size)
    head = CHUNKED.replace(b"\r\n\r\n", b"\r\n" + CLOSE + b"\r\n")
    received = talk(port, head, chunk * count, b"0\r\n\r\n")
    assert b'{"bytes":%d}' % (count * size) in received


def test_the_lines_of_a_body_of_known_length_do_not_count(port: int) -> None:
    body = form(b"\r\n" * 500_000)
    for begin in (0, 10_000):
        whole = post(body, more=CLOSE)
        received = talk(port, whole[:begin], whole[begin:]) if begin else talk(port, whole)
        assert b'{"bytes":%d}' % len(body) in received


def test_a_connection_is_used_for_many_requests(port: int) -> None:
    received = talk(port, *[GET] * 300, LAST_GET)
    assert received.count(b"HTTP/1.1 200 ") == 301


@pytest.mark.parametrize("begun", [b"", b"GET /"])
def test_late_headers_close_the_connection(port: int, begun: bytes) -> None:
    assert talk(port, begun) == b""  # when the server closes


def test_idle_connections_give_way(port: int) -> None:
    with ExitStack() as stack:
        for _ in range(5 * CONNECTIONS):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert talk(port, LAST_GET).startswith(b"HTTP/1.1 200 ")
        idle.sendall(LAST_GET)  # the last is among those that are kept
        assert idle.recv(2**16).startswith(b"HTTP/1.1 200 ")


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit's meaning of open files")
def test_connections_leave_descriptors_for_other_files(tmp_path: Path) -> None:
    program = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
from pathlib import Path
from app.http.server import make_server
from app.settings import Settings
from tests.app.http.test_endless import small_app
make_server(small_app(), Settings(data=Path(sys.argv[2]), port=int(sys.argv[1]))).run()
"""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(port), str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE
    )
    try:

        def answers() -> bool:
            try:
                return talk(port, LAST_GET).startswith(b"HTTP/1.1 200 ")
            except OSError:
                return False

        wait_until(answers)
        with ExitStack() as stack:
            for _ in range(400):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            assert answers()
    finally:
        process.terminate()
        _, log = process.communicate()
    assert b"Too many open files" not in log


def test_too_many_busy_connections_are_refused_by_a_problem(tmp_path: Path) -> None:
    app, go_on = small_app(), threading.Event()
    begun: list[int] = []

    @app.get("/slow")
    def slow() -> dict[str, str]:
        begun.append(1)
        go_on.wait(NEVER)
        return {}

    settings = Settings(data=tmp_path, max_connections=3)
    with listening(app, settings) as port, ExitStack() as stack:
        stack.callback(go_on.set)
        busy = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=NEVER))
            for _ in range(3)
        ]
        for connection in busy:
            connection.sendall(LAST_GET.replace(b"/health/live", b"/slow"))
        wait_until(lambda: len(begun) == 3)
        answer = talk(port, LAST_GET)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after:" in answer.lower()
        assert b"application/problem+json" in answer
        go_on.set()
        for connection in busy:
            assert connection.recv(2**16).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: talk(port, LAST_GET).startswith(b"HTTP/1.1 200 "))


def test_too_many_chunks_are_refused_by_a_problem(port: int) -> None:
    received = talk(port, b"GET / HTTP/1.1\r\n", b"X: a\r\n" * (LINES + 100))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in received
    assert b"malformed-request" in received


def test_too_many_chunks_get_an_answer_while_none_has_begun(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=NEVER) as connection:
        connection.sendall(CHUNKED + b"1\r\na\r\n" * LINES)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 400 ")


def test_a_head_in_two_parts_of_which_one_came_ahead(port: int) -> None:
    begin = CHUNKED.replace(b"\r\n\r\n", b"\r\nX: a")
    with socket.create_connection(("127.0.0.1", port), timeout=NEVER) as connection:
        connection.sendall(GET + begin)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"\r\nContent-Length: 999999999\r\n\r\n")
        sent = 0
        with suppress(OSError):
            while sent < ENOUGH:
                connection.sendall(b"1\r\na\r\n" * 2**15)
                sent += 2**15
        assert sent < ENOUGH


def test_a_body_of_known_length_after_a_chunked_one(port: int) -> None:
    chunked = CHUNKED + b"1\r\na\r\n0\r\n\r\n"
    body = form(b"\r\n" * 100_000)
    with socket.create_connection(("127.0.0.1", port), timeout=NEVER) as connection:
        for request, size in ((chunked, 1), (post(body), len(body)), (chunked, 1)):
            connection.sendall(request)
            answer = b""
            while b"}" not in answer:
                answer += connection.recv(2**16)
            assert b'{"bytes":%d}' % size in answer


def test_heads_are_found_wherever_they_are_cut(port: int) -> None:
    body = form(b"\r\n" * 3_000)
    whole = post(body, more=CLOSE)
    head = whole.index(b"\r\n\r\n")
    for place in range(head - 1, head + 6):
        received = talk(port, whole[:place], 0.01, whole[place:])
        assert b'{"bytes":%d}' % len(body) in received


def test_a_connection_that_goes_on_after_its_answer_gives_way(port: int) -> None:
    early = post(b"", target=b"/early", length=1_000)
    with ExitStack() as stack:
        address = ("127.0.0.1", port)
        held = [
            stack.enter_context(socket.create_connection(address, NEVER))
            for _ in range(CONNECTIONS)
        ]
        for connection in held:
            connection.sendall(early)
        for connection in held:
            assert connection.recv(2**16).startswith(b"HTTP/1.1 200 ")
        assert talk(port, LAST_GET).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_does_not_read_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[protocol.BoundedConnection] = []
    monkeypatch.setattr(protocol, "WRITE_SECONDS", 0.1)
    monkeypatch.setattr(protocol.BoundedConnection, "abort", lambda one: closed.append(one))
    with socket.create_connection(("127.0.0.1", port), timeout=NEVER) as connection:
        connection.sendall(GET.replace(b"/health/live", b"/large"))
        wait_until(lambda: closed)
        monkeypatch.undo()
        received = 0
        while received < LARGE:
            received += len(connection.recv(2**20))
        assert len(set(closed)) == 1


def test_a_client_that_reads_slowly_gets_all(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WRITE_SECONDS", 0.2)
    received = 0
    with socket.create_connection(("127.0.0.1", port), timeout=NEVER) as connection:
        connection.sendall(GET.replace(b"/health/live", b"/large"))
        while received < LARGE:
            received += len(connection.recv(2**20))
            time.sleep(0.02)


def test_a_client_that_reads_next_to_nothing_is_closed(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "WRITE_SECONDS", 0.2)
    received = 0
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**12)
        connection.settimeout(NEVER)
        connection.connect(("127.0.0.1", port))
        connection.sendall(GET.replace(b"/health/live", b"/large"))
        with suppress(OSError):
            while part := connection.recv(2**10):
                received += len(part)
                time.sleep(0.01)
    assert received < LARGE
