"""Bounds on what a connection may cost before its request reaches the application.

Uvicorn and h11 limit the bytes of headers and trailers. They do not limit the time in which headers
arrive, the number of idle connections, or how many chunks a body is made of: chunks of one byte
keep the event loop busy for seconds. `BoundedConnection` stands between the transport and uvicorn's
protocol, as one asyncio.Protocol before another, and `BoundedRequests` tells it when the
application works on its request.
"""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.errors import RETRY_AFTER, MalformedRequestError, UnavailableError
from app.http.lingering import LingeringClose
from app.http.problems import problem_response

LINES = 2_000  # of a request, and one more for each `LINE_BYTES`; a body of known length has none
LINE_BYTES = 256
SURPLUS = 50  # connections above the limit that are told so; more are closed without a word
HEAD_END = b"\r\n\r\n"
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.I)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n", re.I)

_current: ContextVar["BoundedConnection | None"] = ContextVar("connection", default=None)


class Connections:
    """The open connections of a server.

    Args:
        most: limit of all connections.
        head_seconds: in which a request's line and headers must arrive, from the connection's begin
            or the first byte of a further request.
        head_bytes: limit of their size, which the server's protocol applies.
    """

    def __init__(self, most: int, head_seconds: float, head_bytes: int) -> None:
        self.most = most
        self.head_seconds = head_seconds
        self.head_bytes = head_bytes
        self.open: set[BoundedConnection] = set()
        self.waiting: dict[BoundedConnection, None] = {}  # for a request; the longest first

    def protocol(self) -> type[asyncio.Protocol]:
        """Return uvicorn's protocol within these bounds, for its setting ``http``."""
        connections = self

        class ServerProtocol(BoundedConnection):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(H11Protocol(*args, **options), connections)

        return ServerProtocol


class BoundedConnection(asyncio.Protocol):
    """A connection that closes if its headers are late, or if its body has too many chunks.

    A connection above the limit replaces the one that has waited longest for a request. If none
    waits, `BoundedRequests` refuses its request.

    Args:
        inner: the server's protocol.
        connections: of the server.
    """

    def __init__(self, inner: asyncio.Protocol, connections: Connections) -> None:
        self._inner = inner
        self._connections = connections
        self._busy = False  # the application works on a request
        self._late: asyncio.TimerHandle | None = None
        self._head = bytearray()  # of the request that is expected
        self._known = 0  # bytes to come of a body of known length
        self._counts = False  # every line, since it is not known where a request ends
        self._bytes = self._lines = 0  # of the present request, without a body of known length
        self.surplus = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, and close another one if there are too many."""
        self._transport = transport
        everyone = self._connections
        if len(everyone.open) >= everyone.most:
            for longest in everyone.waiting:
                longest.abort()
                break
            else:
                self.surplus = True
        everyone.open.add(self)
        self._inner.connection_made(transport)
        self._wait()
        self._expect_head()
        if len(everyone.open) > everyone.most + SURPLUS:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forget()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on, unless they have too many lines for their size."""
        self._count(data)
        if self._lines > LINES + self._bytes // LINE_BYTES:
            self._refuse()
            return
        _current.set(self)
        if not self._busy:
            self._expect_head()
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on that the client sends no more."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Pass on that the client does not read."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client reads again."""
        self._inner.resume_writing()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()
        self._forget()

    @contextmanager
    def request(self) -> "Iterator[None]":
        """Mark the connection as busy while the application works on a request."""
        self._busy = True
        self._stop_waiting()
        try:
            yield
        finally:
            self._busy = False
            self._bytes = self._lines = self._known = 0
            self._head.clear()
            if self in self._connections.open:
                self._wait()

    def _count(self, data: bytes) -> None:
        """Count bytes and lines, except those of a body whose length the headers tell."""
        if not (self._counts or self._busy or self._known):
            begun = len(self._head)
            self._head += data
            end = self._head.find(HEAD_END, max(0, begun - len(HEAD_END)))
            if end >= 0:
                head = bytes(self._head[: end + len(HEAD_END)])
                self._head.clear()
                length = _LENGTH.search(head)
                # A request that follows a chunked one at once cannot be told from its chunks.
                self._counts = _CHUNKED.search(head) is not None
                self._known = int(length[1]) if length and not self._counts else 0
                beyond = data[len(head) - begun :]
                self._add(data[: len(head) - begun])
                data = beyond
            elif len(self._head) > self._connections.head_bytes:
                self._head.clear()  # the server's protocol refuses it
        known = min(self._known, len(data))
        self._known -= known
        data = data[known:]
        if data and self._busy:
            self._counts = True
        self._add(data)

    def _add(self, data: bytes) -> None:
        self._bytes += len(data)
        self._lines += data.count(b"\r\n")

    def _refuse(self) -> None:
        """Answer 400, unless an answer may have begun, and close the connection."""
        if self._busy:
            self.abort()
            return
        response = problem_response(
            MalformedRequestError("the request has too many lines or chunks for its size")
        )
        headers = [*response.raw_headers, (b"connection", b"close")]
        lines = [b"HTTP/1.1 400 Bad Request", *(b"%s: %s" % header for header in headers)]
        self._transport.write(b"\r\n".join(lines) + HEAD_END + bytes(response.body))
        self._transport.close()

    def _wait(self) -> None:
        self._connections.waiting.setdefault(self)

    def _expect_head(self) -> None:
        """Close the connection unless a request's headers are here in time."""
        if self._late is None and not self._transport.is_closing():
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(self._connections.head_seconds, self._transport.close)

    def _stop_waiting(self) -> None:
        self._connections.waiting.pop(self, None)
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _forget(self) -> None:
        self._stop_waiting()
        self._connections.open.discard(self)


class BoundedRequests:
    """ASGI wrapper that tells a `BoundedConnection` of its requests, and refuses those too many."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = LingeringClose(app)
        self._refusal = LingeringClose(_too_many_connections)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        connection = _current.get() if scope["type"] == "http" else None
        if connection is None:
            await self._app(scope, receive, send)
            return
        with connection.request():
            app = self._refusal if connection.surplus else self._app
            await app(scope, receive, send)


async def _too_many_connections(scope: Scope, receive: Receive, send: Send) -> None:
    response = problem_response(
        UnavailableError("the server has too many connections: try again later")
    )
    response.headers.update({"Retry-After": str(RETRY_AFTER), "Connection": "close"})
    await response(scope, receive, send)
