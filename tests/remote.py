"""Servers of this machine that hold sources: an S3 API, and HTTP without ranges; with faults."""

import contextlib
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
    remote._block.cache_clear()
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
