"""HTTP as the server speaks it: uvicorn's, with bounded headers, and problems for refusals."""

import asyncio
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.errors import MALFORMED_REQUEST, problem_response
from app.headers import security_headers

HEADER_SECONDS = 20.0  # until the headers of a request must be here, from its first byte
HEADER_BYTES = 16 * 2**10  # of a request, and of a chunk's framing
LINGER_SECONDS = 5.0  # for the rest of a body whose request is answered already


class Protocol(H11Protocol):
    """One connection.

    Uvicorn bounds how long a connection may rest between two requests, but neither how long it may
    be open before the first one, nor how slowly headers may come: a thousand such connections cost
    an attacker nothing. Nor does it bound how long the rest of a body may take to which the answer
    was given before it was here; `app.uploads` bounds the time of all others.
    """

    _deadline: asyncio.TimerHandle | None = None
    _linger: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request."""
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop_waiting()
        self._stop_lingering()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; the headers that have begun must end in time."""
        while data and not self.transport.is_closing():
            # h11 bounds what it holds of unfinished headers, but takes any that come in one piece.
            size = HEADER_BYTES if self.conn.their_state is h11.IDLE else len(data)
            super().data_received(data[:size])
            data = data[size:]
        if not self._answered_early:
            self._stop_lingering()
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._deadline is None and not self.transport.is_closing():
            self._expect_headers()

    def on_response_complete(self) -> None:
        """Read on for a while where the body is not here: who still sends gets to see the answer.

        Closing at once would reset the connection, and the answer with it.
        """
        super().on_response_complete()
        if self._answered_early and not self.transport.is_closing():
            self._stop_lingering()
            self._linger = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def shutdown(self) -> None:
        """Stop: what was taken is answered, but a body that is still arriving is not waited for."""
        cycle = self.cycle
        if cycle is not None and cycle.more_body and not cycle.response_started:
            self.transport.close()
        else:
            super().shutdown()

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

    @property
    def _answered_early(self) -> bool:
        """Whether a request is answered whose body is not here yet."""
        return self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY

    def _expect_headers(self) -> None:
        self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_lingering(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
