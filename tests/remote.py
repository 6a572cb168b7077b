"""Servers of this machine that hold sources: an S3 API, and HTTP without ranges; with faults."""

import contextlib
import hashlib
import http.server
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
import s3fs
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from model.sources import parquet, remote

BUCKET = "pictures"
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
REFUSED = (
    b"<?xml version='1.0'?><Error><Code>InvalidAccessKeyId</Code><Message>The AWS Access Key Id "
    b"you provided does not exist in our records.</Message></Error>"
)
BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Slow down</Message></Error>"

Answer = Iterable[bytes]
Start = Callable[..., Any]
Fault = Callable[[dict[str, Any], Start, Callable[[], Answer]], Answer]


class ObjectStore:
    """An S3 API with one bucket.

    Attributes:
        fault: answers instead of the API; None lets it answer.
        asked: methods and paths of all requests.
    """

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.asked: list[str] = []
        api = DomainDispatcherApplication(create_backend_app)

        def answer(environ: dict[str, Any], start: Start) -> Answer:
            self.asked.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
            if self.fault:
                return self.fault(environ, start, lambda: api(environ, start))
            return api(environ, start)

        self._server = make_server("127.0.0.1", 0, answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self._client = boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id="a", aws_secret_access_key="b",
            region_name="us-east-1",
        )  # fmt: skip
        self._client.create_bucket(Bucket=BUCKET)

    def put(self, folder: Path, prefix: str = "") -> str:
        """Upload a folder; return its URL."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}{path.relative_to(folder).as_posix()}"
                self._client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        return f"s3://{BUCKET}/{prefix}".rstrip("/")

    def write(self, key: str, data: bytes) -> str:
        """Upload one object; return its URL."""
        self._client.put_object(Bucket=BUCKET, Key=key, Body=data)
        return f"s3://{BUCKET}/{key}"

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def times(count: int, status: str, body: bytes = b"") -> Fault:
    """Answer some requests with an error, then let the API answer."""
    left = [count]

    def fault(environ: dict[str, Any], start: Start, api: Callable[[], Answer]) -> Answer:
        if left[0] <= 0:
            return api()
        left[0] -= 1
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    fault.left = left  # type: ignore[attr-defined]
    return fault


def cut_off(count: int) -> Fault:
    """Break some answers off in the middle of an object."""
    left = [count]

    def fault(environ: dict[str, Any], _: Start, api: Callable[[], Answer]) -> Answer:
        body = b"".join(api())
        if environ["REQUEST_METHOD"] == "GET" and len(body) > 1000 and left[0] > 0:
            left[0] -= 1
            return [body[: len(body) // 2]]
        return [body]

    fault.left = left  # type: ignore[attr-defined]
    return fault


@contextlib.contextmanager
def object_store(patch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """Start an S3 API that the drivers use, with no wait between two tries."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = ObjectStore()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": store.url, "NO_PROXY": "127.0.0.1"}.items():
        patch.setenv(name, value)
    patch.setattr(remote, "_sleep", lambda _: None)
    forget()
    try:
        yield store
    finally:
        forget()
        store.close()


def forget() -> None:
    """Let the next read connect anew."""
    remote._driver.cache_clear()
    remote.forget()
    parquet._column.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


@contextlib.contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """Serve a folder by the standard library's server, which knows no ranges."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class RangeServer:
    """Serves files from memory by HTTP with ranges.

    Attributes:
        files: content by path; the hash of a file is its ETag.
        ranges: answer ranges, not whole files.
        etags: tell the ETags.
        fault: changes the body of each answer.
        asked: path and range of each GET.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = self.etags = True
        self.fault: Callable[[bytes], bytes] | None = None
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                outer.asked.append(f"{self.path} {self.headers.get('Range', '')}".strip())
                self._answer(body=True)

            def _answer(self, *, body: bool) -> None:
                data = outer.files.get(self.path)
                if data is None:
                    self.send_response(404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                own, asked = data, self.headers.get("Range")
                if asked and outer.ranges:
                    first, _, last = asked.removeprefix("bytes=").partition("-")
                    data = data[int(first) : int(last) + 1 if last else None]
                    self.send_response(206)
                    end = int(first) + len(data) - 1
                    self.send_header("Content-Range", f"bytes {first}-{end}/{len(own)}")
                else:
                    self.send_response(200)
                if body and outer.fault:
                    data = outer.fault(data)
                if outer.etags:
                    self.send_header("ETag", f'"{hashlib.sha256(own).hexdigest()}"')
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
