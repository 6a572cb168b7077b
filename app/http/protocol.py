"""Uvicorn's protocol of HTTP/1.1, with bounds on what a connection may cost before its request.

Uvicorn and h11 limit the bytes of headers and trailers. They do not limit the time in which headers
arrive, the number of idle connections, or how many chunks a body is made of: chunks of one byte
keep the event loop busy for seconds.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LINES = 2_000  # of a request, and one more for each `LINE_BYTES`
LINE_BYTES = 256
MALFORMED = "Invalid HTTP request received."  # uvicorn's own words


class Waiting:
    """The connections that have no request in hand, the longest waiting first.

    Args:
        connections: limit of all connections; above it the one that waits longest is closed.
        seconds: in which the headers of a request must arrive.
    """

    def __init__(self, connections: int, seconds: float) -> None:
        self.connections = connections
        self.seconds = seconds
        self._waiting: dict[BoundedProtocol, None] = {}

    def __iter__(self) -> "Iterator[BoundedProtocol]":
        return iter(self._waiting)

    def add(self, connection: "BoundedProtocol") -> None:
        """Put a connection at the end."""
        self._waiting.setdefault(connection)

    def discard(self, connection: "BoundedProtocol") -> None:
        """Take a connection out, if it waits."""
        self._waiting.pop(connection, None)


class BoundedProtocol(H11Protocol):
    """Closes connections whose headers are late, or whose body has too many chunks.

    A connection above the limit replaces the one that has waited longest for a request.
    """

    waiting: Waiting  # of a server; see `bounded_protocol`

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bytes = self._lines = 0  # of the present request
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, and close another one if there are too many."""
        super().connection_made(transport)
        if len(self.connections) >= self.waiting.connections:
            for longest in self.waiting:
                longest.transport.abort()
                self.waiting.discard(longest)
                self.connections.discard(longest)  # it is lost some turns of the loop later
                break
        self._wait()
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a request, unless its headers or chunks have too many lines for their size."""
        if not self._is_busy():
            end = data.find(b"\r\n\r\n") + 4
            if 4 <= end < len(data):  # the framing of the rest follows from the headers
                self._read(data[:end])
                data = data[end:]
        if not self.transport.is_closing():
            self._read(data)

    def _read(self, data: bytes) -> None:
        if not self._is_busy() or any(name == b"transfer-encoding" for name, _ in self.headers):
            self._bytes += len(data)
            self._lines += data.count(b"\r\n")
            if self._lines > LINES + self._bytes // LINE_BYTES:
                with suppress(h11.LocalProtocolError):  # its answer has begun
                    self.send_400_response(MALFORMED)
                self.transport.close()
                return
        super().data_received(data)
        if self._is_busy():
            self._stop_waiting()
        else:
            self._expect_headers()

    def _is_busy(self) -> bool:
        """Return True from the end of a request's headers to the end of its answer."""
        return self.cycle is not None and not self.cycle.response_complete

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._bytes = self._lines = 0
        self._wait()
        super().on_response_complete()
        if self._is_busy():  # it was here already
            self._stop_waiting()

    def _wait(self) -> None:
        self.waiting.add(self)

    def _expect_headers(self) -> None:
        """Close the connection unless a whole request is here in time."""
        if self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(self.waiting.seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        self.waiting.discard(self)
        if self._late is not None:
            self._late.cancel()
            self._late = None


def bounded_protocol(connections: int, header_seconds: float) -> type[BoundedProtocol]:
    """Return the protocol of one server, for uvicorn's setting ``http``.

    Args:
        connections: limit of open connections.
        header_seconds: in which the headers of a request must arrive, from the connection's begin
            or the first byte of a further request.
    """
    waiting = Waiting(connections, header_seconds)
    return type("ServerProtocol", (BoundedProtocol,), {"waiting": waiting})
