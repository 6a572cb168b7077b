"""HTTP as the server speaks it: uvicorn's, with bounded headers, and problems for refusals."""

import asyncio
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.errors import MALFORMED_REQUEST, problem_response
from app.headers import security_headers

HEADER_SECONDS = 20.0  # until the headers of a request must be here, from its first byte
HEADER_BYTES = 16 * 2**10  # of a request, and of a chunk's framing


class Protocol(H11Protocol):
    """One connection.

    Uvicorn bounds how long a connection may rest between two requests, but neither how long it may
    be open before the first one, nor how slowly headers may come: a thousand such connections cost
    an attacker nothing. `app.uploads` bounds the time of bodies.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request."""
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; the headers that have begun must end in time."""
        while data and not self.transport.is_closing():
            # h11 bounds what it holds of unfinished headers, but takes any that come in one piece.
            size = HEADER_BYTES if self.conn.their_state is h11.IDLE else len(data)
            super().data_received(data[:size])
            data = data[size:]
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._deadline is None and not self.transport.is_closing():
            self._expect_headers()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, or beyond `HEADER_BYTES`, and close the connection."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            detail = f"{msg} It is no HTTP/1.1, or its headers are longer than {HEADER_BYTES} bytes"
            response = problem_response(MALFORMED_REQUEST, detail)
            response.headers.update(security_headers(""))
            response.headers["Connection"] = "close"
            head = h11.Response(
                status_code=response.status_code,
                headers=response.raw_headers,
                reason=HTTPStatus(response.status_code).phrase,
            )
            for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _expect_headers(self) -> None:
        self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
