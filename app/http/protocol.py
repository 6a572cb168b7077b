"""Bounds on what a connection may cost before and beside the application's work on its requests.

Uvicorn and h11 limit the bytes of headers and trailers. They do not limit the time in which headers
arrive, the number of idle connections, how many chunks a body is made of, or how long a client may
take to read: chunks of one byte keep the event loop busy for seconds. `BoundedConnection` stands
between the transport and uvicorn's protocol, as one asyncio.Protocol before another, and
`BoundedRequests` tells it what the server's parser found in a request.
"""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.errors import RETRY_AFTER, MalformedRequestError, UnavailableError
from app.http.lingering import LingeringClose
from app.http.problems import problem_response

LINES = 2_000  # of a request, and one more for each `LINE_BYTES`; a body of known length has none
LINE_BYTES = 256
SURPLUS = 50  # connections above the limit that are told so; more are closed without a word
WRITE_SECONDS = 30.0  # in which a client reads `READ_BYTES` of an answer, or the rest of it
READ_BYTES = 2**18
_BLANK = re.compile(rb"\n\r?\n")  # ends a head; a line may end without \r, as h11 reads them
_SEAM = 2  # bytes of a blank line that may have come before the rest of it

_current: ContextVar["BoundedConnection | None"] = ContextVar("connection", default=None)


class Connections:
    """The open connections of a server.

    Args:
        most: limit of all connections.
        head_seconds: in which a request's line and headers must arrive, from the connection's begin
            or the first byte of a further request.
    """

    def __init__(self, most: int, head_seconds: float) -> None:
        self.most = most
        self.head_seconds = head_seconds
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

    A connection above the limit replaces the one that has waited longest for a request, or whose
    request is answered and whose client goes on sending. If there is none, `BoundedRequests`
    refuses its request.

    Args:
        inner: the server's protocol.
        connections: of the server.
    """

    def __init__(self, inner: asyncio.Protocol, connections: Connections) -> None:
        self._inner = inner
        self._connections = connections
        self._requests = 0  # that the application works on
        self._answering = False  # an answer has begun
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._seam = b""  # the last bytes that were passed on
        self._held = bytearray()  # bytes behind a head, until the application begins
        self._known = 0  # bytes to come of a body of known length
        self._ahead = 0  # other bytes that were passed on since the last head
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
        """Pass bytes on, unless they have too many lines for their size.

        The bytes behind a head wait for the next turn of the event loop. The application has begun
        by then, so that it is known whether they are a body of known length.
        """
        if self._held:
            self._held += data
            return
        if not self._requests:
            self._expect_head()
            place = _end_of_head(self._seam, data)
            if place:
                self._held += data[place:]
                self._pass_on(data[:place])  # this starts the application's task
                self._ahead = 0
                if self._held:
                    asyncio.get_running_loop().call_soon(self._release)
                return
        self._pass_on(data)

    def eof_received(self) -> bool | None:
        """Pass on that the client sends no more."""
        self._release()
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Close the connection once the client reads under `READ_BYTES` in `WRITE_SECONDS`."""
        self._watch_reading()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Go on, since the client reads."""
        if self._unread is not None:
            self._unread.cancel()
        self._inner.resume_writing()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()
        self._forget()

    @contextmanager
    def request(self, body: int) -> "Iterator[None]":
        """Mark the connection as busy while the application works on a request.

        Args:
            body: length in bytes that the request's head tells, 0 if it tells none.
        """
        self._requests += 1
        self._answering = False
        self._known = max(0, body - self._ahead)  # of it, what came ahead is passed on already
        self._stop_waiting()
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._bytes = self._lines = self._known = 0
                if self in self._connections.open:
                    self._wait()

    def answer(self, *, lingers: bool) -> None:
        """Record that an answer has begun; a lingering one is followed by unwanted bytes only."""
        self._answering = True
        if lingers and self in self._connections.open:
            self._wait()

    def _release(self) -> None:
        """Pass on what was held."""
        held = bytes(self._held)
        self._held.clear()
        if held and not self._transport.is_closing():
            self._pass_on(held)

    def _pass_on(self, data: bytes) -> None:
        known = min(self._known, len(data))
        self._known -= known
        self._ahead += len(data) - known
        self._bytes += len(data) - known
        self._lines += data.count(b"\n", known)
        if self._lines > LINES + self._bytes // LINE_BYTES:
            self._refuse()
            return
        self._seam = (self._seam + data)[-_SEAM:]
        _current.set(self)
        self._inner.data_received(data)

    def _refuse(self) -> None:
        """Answer 400, unless an answer has begun, and close the connection."""
        if self._requests and self._answering:
            self.abort()
            return
        response = problem_response(
            MalformedRequestError("the request has too many lines or chunks for its size")
        )
        headers = [*response.raw_headers, (b"connection", b"close")]
        lines = [b"HTTP/1.1 400 Bad Request", *(b"%s: %s" % header for header in headers)]
        self._transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body))
        self._transport.close()

    def _watch_reading(self, before: int | None = None) -> None:
        unread = self._transport.get_write_buffer_size()
        if before is not None and unread > max(0, before - READ_BYTES):
            self.abort()
            return
        loop = asyncio.get_running_loop()
        self._unread = loop.call_later(WRITE_SECONDS, self._watch_reading, unread)

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
        self._held.clear()
        if self._unread is not None:
            self._unread.cancel()
        self._connections.open.discard(self)


def _end_of_head(seam: bytes, data: bytes) -> int:
    """Return the place in ``data`` behind the first blank line that ends in it, 0 if none does."""
    for blank in _BLANK.finditer(seam + data):
        if blank.end() > len(seam):
            return blank.end() - len(seam)
    return 0


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
        headers = Headers(scope=scope)
        known = "transfer-encoding" not in headers
        closing = False

        async def tell(message: Message) -> None:
            nonlocal closing
            if message["type"] == "http.response.start":
                closing = Headers(raw=message["headers"]).get("connection") == "close"
                connection.answer(lingers=False)
            else:
                connection.answer(lingers=closing)
            await send(message)

        with connection.request(int(headers.get("content-length", 0)) if known else 0):
            app = self._refusal if connection.surplus else self._app
            await app(scope, receive, tell)


async def _too_many_connections(scope: Scope, receive: Receive, send: Send) -> None:
    response = problem_response(
        UnavailableError("the server has too many connections: try again later")
    )
    response.headers.update({"Retry-After": str(RETRY_AFTER), "Connection": "close"})
    await response(scope, receive, send)
