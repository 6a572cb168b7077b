"""deploy/nginx in a real nginx, in front of a real server."""

import contextlib
import json
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

from app.http.server import HEADER_BYTES
from app.main import OTHER_BODY
from app.settings import Settings
from tests.app.http.test_endless import ENDLESS
from tests.app.http.test_server import CLOSE, H2C, form, listening, post, talk
from tests.ports import free_port
from tests.problems import KINDS
from tests.proxy import (
    CONFIG,
    NGINX,
    NGINX_FILES,
    command,
    configure,
    needs_nginx,
    proxy,
    running,
    write_changed,
)
from tests.waiting import wait_until
from whence_client.models import Problem

ROOT = Path(__file__).parents[1]
TEXT = CONFIG.read_text(encoding="utf-8")
SERVERS = [NGINX_FILES / name for name in ("compose.conf", "kubernetes.conf")]
BODY = re.compile(r"location = /problem/(\d+) \{(.*?)return (\d+) '(.*?)';", re.DOTALL)
UNITS = {"k": 2**10, "m": 2**20, "s": 1}


def values(name: str) -> list[float]:
    """Return the numbers that a directive sets, in bytes or seconds."""
    found = re.findall(rf"^ +{name} (\d+)([kms]?);", TEXT, re.MULTILINE)
    assert found, name
    return [int(number) * UNITS.get(unit, 1) for number, unit in found]


def value(name: str) -> float:
    """Return the first number that a directive sets, in bytes or seconds."""
    return values(name)[0]


def default(name: str) -> Any:
    return Settings.model_fields[name].default


def test_its_problems_are_those_of_the_api() -> None:
    found = BODY.findall(TEXT)
    assert len(found) == 5
    for place, headers, status, body in found:
        problem = Problem.model_validate_json(body)
        kind = KINDS[problem.type.removeprefix("urn:whence:problem:")]
        assert (problem.status, problem.title) == (kind.status, kind.title)
        assert place == status == str(problem.status)
        assert "nosniff" in headers
        assert ("Retry-After" in headers) == (problem.status in {429, 503})


def test_limits_fit_those_of_the_server() -> None:
    other, image, several = values("client_max_body_size")
    assert several > default("max_batch_bytes") > image > default("max_upload_bytes")
    assert image > other > OTHER_BODY
    assert value("proxy_read_timeout") > default("deadline_seconds")
    [count, size] = re.findall(r"large_client_header_buffers (\d) (\d)k;", TEXT)[0]
    assert value("client_header_buffer_size") + int(count) * int(size) * 2**10 < HEADER_BYTES - 1000
    for servers in SERVERS:
        [rest] = re.findall(r"keepalive_timeout (\d+)s;", servers.read_text(encoding="utf-8"))
        assert int(rest) < default("keep_alive_seconds")


def test_uploads_of_one_address_fit_into_the_proxys_memory() -> None:
    counts = values(r"limit_conn \w+")
    bodies = values("client_max_body_size")
    assert len(counts) == len(bodies) == 3
    held = sum(count * size for count, size in zip(counts, bodies, strict=True))
    for where, pattern in [
        ("docker-compose.yml", r"/tmp:size=(\d+)g"),
        ("deploy/kubernetes/base/proxy.yaml", r"sizeLimit: (\d+)Gi"),
    ]:
        [gigabytes] = re.findall(pattern, (ROOT / where).read_text(encoding="utf-8"))
        assert held < int(gigabytes) * 2**30


@needs_nginx
def test_nginx_accepts_it(tmp_path: Path) -> None:
    configure(tmp_path, "127.0.0.1:1")
    # With as few open files as a shell's or systemd's usual limit.
    limited = ["sh", "-c", 'ulimit -S -n 1024; exec "$@"', "sh", *command(tmp_path), "-t"]
    done = subprocess.run(limited, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"warn" not in done.stderr


@needs_nginx
def test_nginx_writes_its_log_to_a_socket_such_as_the_journal(tmp_path: Path) -> None:
    configure(tmp_path, "127.0.0.1:1")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run([*command(tmp_path), "-t"], stderr=theirs, check=False)
        told = ours.recv(10_000)
    assert done.returncode == 0, told
    assert b"test is successful" in told


# Behaviour


class Echo:
    """A server that tells what reaches it, and how often."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.app = FastAPI()
        self.asked: list[str] = []
        self.app.add_api_route(
            "/{path:path}", self.answer, methods=["GET", "HEAD", "POST", "DELETE"]
        )

    async def answer(self, request: Request, status: int = 200, held_by: str = "") -> JSONResponse:
        if held_by not in {"", self.name}:
            status = 404
        self.asked.append(f"{request.method} {request.url.path}")
        told = {"headers": dict(request.headers), "bytes": len(await request.body())}
        return JSONResponse(told, status)


@pytest.fixture(scope="module")
def echoes() -> tuple[Echo, Echo, Echo]:
    return Echo("a"), Echo("b"), Echo("c")


@pytest.fixture
def asked(echoes: tuple[Echo, Echo, Echo]) -> list[str]:
    """Every request that reached a server in this test, once it has run."""
    every: list[str] = []
    for echo in echoes:
        echo.asked = every
    return every


@pytest.fixture(scope="module")
def url(echoes: tuple[Echo, Echo, Echo], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a proxy before three servers, as in the profile scale, with short times."""
    settings = Settings(data=tmp_path_factory.mktemp("data"))
    changes = {"client_header_timeout 10s": "client_header_timeout 1s"}
    changes |= {"client_body_timeout 20s": "client_body_timeout 1s"}
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(listening(echo.app, settings)) for echo in echoes]
        servers = [f"127.0.0.1:{port}" for port in ports]
        folder = tmp_path_factory.mktemp("nginx")
        url, _ = stack.enter_context(proxy(folder, *servers, changes=changes))
        yield url


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def check_problem(received: bytes, status: int) -> None:
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), received[:300]
    assert b"content-type: application/problem+json" in head.lower()
    assert b"x-content-type-options: nosniff" in head.lower()
    assert json.loads(body)["status"] == status


@needs_nginx
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: %s\r\n\r\n" % (b"a" * 7_000), 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n%s\r\n" % (b"X: a\r\n" * 3_000), 400),
        (b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * 7_000), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405),
        (post(b"", length=21 * 2**20 + 1, more=CLOSE), 413),
        (post(b"", target=b"/attribute/batch", length=80 * 2**20 + 1, more=CLOSE), 413),
        (post(b"", length=10**18, more=CLOSE), 413),
        (post(b"abc", more=b"Content-Length: 4\r\n"), 400),
        (post(b"abc", more=b"Transfer-Encoding: chunked\r\n"), 400),
        (post(b"abc", more=CLOSE).replace(b"Content-Length: 3", b"Transfer-Encoding: gzip"), 400),
    ],
)
def test_its_own_refusals_are_problems(
    url: str, asked: list[str], request_: bytes, status: int
) -> None:
    check_problem(talk(port_of(url), request_), status)
    assert asked == []


@needs_nginx
@pytest.mark.parametrize("begun", [b"", b"GET / HT", post(b"abc", length=1000)])
def test_slow_clients_cost_the_server_nothing(url: str, asked: list[str], begun: bytes) -> None:
    received = talk(port_of(url), begun)  # until nginx closes
    assert received == b"" or received.startswith(b"HTTP/1.1 408 ")
    assert asked == []


@needs_nginx
@pytest.mark.parametrize("kind", ENDLESS)
def test_endless_requests_do_not_reach_the_server(url: str, asked: list[str], kind: str) -> None:
    begin, more = ENDLESS[kind]
    with socket.create_connection(("127.0.0.1", port_of(url))) as connection:
        with contextlib.suppress(OSError):  # nginx closes it, or takes the rest
            connection.sendall(begin)
            for _ in range(20):
                connection.sendall(more)
        assert httpx.get(f"{url}/answers").status_code == 200
    assert asked == ["GET /answers"]


@needs_nginx
def test_idle_connections_cost_the_server_nothing(url: str, asked: list[str]) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", port_of(url))))
        assert httpx.get(f"{url}/answers").status_code == 200
    assert asked == ["GET /answers"]


@needs_nginx
@pytest.mark.parametrize(
    ("target", "size"),
    [
        (b"/attribute", 20 * 2**20),
        (b"/attribute/report", 20 * 2**20),
        (b"/attribute/batch", 64 * 2**20),
        (b"/attribute/together", 64 * 2**20),
        (b"/attribute/together/report", 64 * 2**20),
    ],
)
def test_bodies_that_the_server_takes_pass(url: str, target: bytes, size: int) -> None:
    received = talk(port_of(url), post(bytes(size), target=target, more=CLOSE))
    assert received.startswith(b"HTTP/1.1 200 ")


@needs_nginx
@pytest.mark.parametrize(
    ("zone", "target"),
    [
        ("addresses 100", b"/"),
        ("images 20", b"/attribute"),
        ("batches 5", b"/attribute/together/report"),
    ],
)
def test_an_address_has_so_many_requests_in_hand(tmp_path: Path, zone: str, target: bytes) -> None:
    changes = {f"limit_conn {zone};": f"limit_conn {zone.split()[0]} 4;"}
    with proxy(tmp_path, f"127.0.0.1:{free_port()}", changes=changes) as (url, _):
        address = ("127.0.0.1", port_of(url))
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                held = stack.enter_context(socket.create_connection(address))
                held.sendall(post(b"abc", target=target, length=1000))

            def answer() -> bytes:
                head = b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n"
                return talk(address[1], head + CLOSE + b"\r\n")

            wait_until(lambda: answer().startswith(b"HTTP/1.1 429 "))
            refused = answer()
    check_problem(refused, 429)
    assert f"{zone.split()[1]} requests of this address" in refused.decode()
    assert b"retry-after: 1\r\n" in refused.lower()


@needs_nginx
def test_headers_that_reach_the_server(url: str) -> None:
    lies = {"X-Forwarded-For": "6.6.6.6", "Forwarded": "for=6.6.6.6", "Host": "whence.example"}
    told = httpx.get(url, headers=lies).json()["headers"]
    assert told["x-forwarded-for"] == "127.0.0.1"
    assert told["x-forwarded-proto"] == "http"
    assert told["host"] == "whence.example"
    assert "forwarded" not in told


@needs_nginx
def test_an_offer_of_another_protocol_ends_at_the_proxy(url: str) -> None:
    body = form(b"a" * 1000)
    chunked = post(body, more=H2C).replace(
        b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked"
    )
    chunked = chunked.replace(body, b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    received = talk(port_of(url), post(body, more=H2C), chunked, post(body, more=CLOSE))
    assert received.count(b'"bytes":%d' % len(body)) == 3
    assert b'"upgrade"' not in received


@needs_nginx
@pytest.mark.parametrize(
    ("method", "path", "times"),
    [
        ("POST", "/attribute?status=503", 3),
        ("POST", "/attribute/batch?status=429", 3),
        ("POST", "/attribute?status=400", 1),
        ("POST", "/attribute/report?answer=a&status=404", 3),
        ("GET", "/heatmaps/a.png?status=404", 3),
        ("GET", "/concepts?status=503", 3),
        ("GET", "/concepts/a?status=404", 1),  # one that this server hides
        ("POST", "/takedowns?status=503", 1),
        ("DELETE", "/concepts/a?status=503", 1),
        ("DELETE", "/concepts/a?status=404", 1),
        ("HEAD", "/concepts?status=503", 3),
        ("POST", "/admin/reload?status=503", 1),
    ],
)
def test_another_server_is_asked_where_that_changes_nothing(
    url: str, asked: list[str], method: str, path: str, times: int
) -> None:
    response = httpx.request(method, url + path)
    assert response.status_code == int(path[-3:])
    assert len(asked) == times


@needs_nginx
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/heatmaps/a.png?"), ("POST", "/attribute/report?answer=a&")],
)
def test_the_one_server_that_holds_it_is_found(url: str, method: str, path: str) -> None:
    asks = [f"{url}{path}held_by={name}" for name in "aaabbbccc"]
    assert [httpx.request(method, ask).status_code for ask in asks] == [200] * 9


@needs_nginx
def test_a_server_that_is_gone_is_a_problem_to_try_again_later(tmp_path: Path) -> None:
    with proxy(tmp_path, f"127.0.0.1:{free_port()}") as (url, _):
        response = httpx.post(f"{url}/attribute", files={"image": b"a"})
    assert response.status_code == 503
    assert response.headers["retry-after"].isdecimal()
    assert response.json()["type"] == "urn:whence:problem:unavailable"


@needs_nginx
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/takedowns"), ("DELETE", "/concepts/a"), ("GET", "/concepts")]
)
def test_requests_of_every_kind_get_the_problem(tmp_path: Path, method: str, path: str) -> None:
    with proxy(tmp_path, f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}") as (url, _):
        response = httpx.request(method, url + path)
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"


# TLS


CERTIFICATE = """
openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost
-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout privkey.pem -out fullchain.pem
"""


@needs_nginx
@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl on this machine")
def test_tls_of_the_example_with_a_certificate(
    tmp_path: Path, echoes: tuple[Echo, Echo, Echo]
) -> None:
    subprocess.run(CERTIFICATE.split(), cwd=tmp_path, check=True, capture_output=True)
    settings = Settings(data=tmp_path / "data")
    with listening(echoes[0].app, settings) as port:
        plain = configure(tmp_path, f"127.0.0.1:{port}")
        secure = free_port()
        changes = {
            "listen 8080;": f"listen {plain.removeprefix('http://')};",
            "listen 8443 ssl;": f"listen 127.0.0.1:{secure} ssl;",
            "/etc/nginx/tls/": f"{tmp_path}/",
        }
        if version() < (1, 25):  # which has no directive http2
            changes["http2 on;"] = ""
        write_changed(NGINX_FILES / "tls.conf", tmp_path / "whence/listen.conf", changes)
        with running(tmp_path, plain):
            trusted = ssl.create_default_context(cafile=str(tmp_path / "fullchain.pem"))
            with httpx.Client(verify=trusted, trust_env=False) as client:
                told = client.post(f"https://localhost:{secure}/attribute", content=b"a").json()
                moved = client.post(f"{plain}/attribute?top_k=3", content=b"a")
                wrong = client.get(f"http://127.0.0.1:{secure}/concepts")
    assert told["headers"]["x-forwarded-proto"] == "https"
    assert told["headers"]["host"] == f"localhost:{secure}"
    assert moved.status_code == 308
    assert moved.headers["location"] == "https://127.0.0.1/attribute?top_k=3"
    assert wrong.status_code == 308
    assert wrong.headers["location"] == "https://127.0.0.1/concepts"


def version() -> tuple[int, int]:
    told = subprocess.run([str(NGINX), "-v"], capture_output=True, text=True, check=True).stderr
    [(major, minor)] = re.findall(r"nginx/(\d+)\.(\d+)", told)
    return int(major), int(minor)
