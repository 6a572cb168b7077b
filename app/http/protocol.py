"""HTTP as the server speaks it: uvicorn's, with bounded headers, and problems for refusals."""

import asyncio
import logging
from collections.abc import Callable

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app.errors import MALFORMED_REQUEST, problem_response
from app.http.headers import security_headers
from app.telemetry.metrics import Metrics

HEADER_SECONDS = 20.0  # until the headers of a request must be here, from its first byte
HEADER_BYTES = 16 * 2**10  # of a request
LINGER_SECONDS = 5.0  # for the rest of a body whose request is answered already
UNREAD_SECONDS = 30.0  # in which some of an answer must be read

logger = logging.getLogger(__name__)
# Uvicorn warns of each request that is no HTTP: a flood would fill the disk. The metrics count it.
logger.addFilter(lambda record: record.levelno >= logging.ERROR)


class _Alarm:
    """Something that happens later, unless it is stopped or set anew."""

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        """Whether it was set and not stopped since."""
        return self._handle is not None

    def set(self, seconds: float, action: Callable[..., object], *arguments: object) -> None:
        self.stop()
        loop = asyncio.get_running_loop()
        self._handle = loop.call_later(seconds, action, *arguments)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class Protocol(HttpToolsProtocol):
    """One connection.

    Uvicorn bounds how long a connection may rest between two requests, but neither how long it may
    be open before the first one, nor how slowly headers may come, nor how many: a thousand such
    connections cost an attacker nothing. Nor does it bound how long the rest of a body may take to
    which the answer was given before it was here (`app.http.uploads` bounds all others), nor how
    long an answer waits for who does not read it.

    Requests may come before those ahead of them are answered. Uvicorn keeps them in `pipeline`, the
    newest first, and `cycle` is the newest of all.
    """

    _head = 0  # bytes of headers that are not complete yet
    _in_head = True  # between the end of one request and the end of the next one's headers
    _answering: RequestResponseCycle | None = None  # the oldest that is not answered, or the last
    _refused = False  # what came was no HTTP: nothing more is read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request."""
        self._deadline, self._linger, self._unread = _Alarm(), _Alarm(), _Alarm()
        self.logger = logger
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        for alarm in (self._deadline, self._linger, self._unread):
            alarm.stop()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; the headers that have begun must end in time, and be few."""
        while data and not self._refused and not self.transport.is_closing():
            # The parser hands on every header as it comes, however many there are.
            size = len(data)
            if self._in_head:
                size = min(size, HEADER_BYTES - self._head)
                self._head += size
            super().data_received(data[:size])
            data = data[size:]
            if self._in_head and self._head >= HEADER_BYTES and not self._refused:
                self.send_400_response("Headers too long.")
        if not self._answered_early:
            self._linger.stop()
        if self._head and not self._deadline.is_set and not self.transport.is_closing():
            self._expect_headers()

    def on_message_begin(self) -> None:
        """Begin a request; it may come together with the end of the one before."""
        super().on_message_begin()
        self._head = self._head or 1

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes after a body in chunks is none that anybody asks for."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Answer the request, whose body begins."""
        super().on_headers_complete()  # raises an error if the address is none
        self._in_head, self._head = False, 0
        self._deadline.stop()
        if len(self.pipeline) == 1:  # Uvicorn reads no more, and would not see the client leave
            self.flow.resume_reading()

    def on_message_complete(self) -> None:
        """Note the end of the body, where the next request's headers may begin."""
        self._in_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Read on for a while where the body is not here: who still sends gets to see the answer.

        Closing at once would reset the connection, and the answer with it.
        """
        super().on_response_complete()
        if self._answered_early and not self.transport.is_closing():
            self._linger.set(LINGER_SECONDS, self.transport.close)

    def pause_writing(self) -> None:
        """Wait for the reader, as long as it goes on."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """Go on, as the reader does."""
        self._unread.stop()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection at rest, be its last answer read or not."""
        super().timeout_keep_alive_handler()
        self._expect_reading()

    def shutdown(self) -> None:
        """Stop: what was taken is answered, but a body that is still arriving is not waited for."""
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()
        last = self.pipeline[0][0] if self.pipeline else self._answering
        if last is None or last.response_complete or (last.more_body and not last.response_started):
            self.transport.close()
        else:
            last.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, or beyond `HEADER_BYTES`, and close the connection.

        Those before it are answered first, and who sent them is told no more than that: a refusal
        must not be taken for one of their answers.
        """
        self._refused = True
        metrics: Metrics | None = self.app_state.get("metrics")
        if metrics is not None:
            metrics.refused(MALFORMED_REQUEST.name)
        cycle = self.cycle
        if self._in_head:
            is_next = cycle is None or cycle.response_complete
        else:  # its body is no HTTP
            is_next = cycle is self._answering and not cycle.response_started
        if not is_next:
            self.shutdown()
            return
        detail = f"{msg} It is no HTTP/1.1, or its headers are longer than {HEADER_BYTES} bytes"
        response = problem_response(MALFORMED_REQUEST, detail)
        response.headers.update(security_headers(""))
        response.headers["Connection"] = "close"
        head = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
        line = STATUS_LINE[response.status_code]
        self.transport.write(line + head + b"\r\n" + bytes(response.body))
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    @property
    def _answered_early(self) -> bool:
        """Whether a request is answered whose body is not here yet."""
        return self.cycle is not None and self.cycle.response_complete and not self._in_head

    def _expect_headers(self) -> None:
        self._deadline.set(HEADER_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:  # a request came before these headers, and is being answered
            self._expect_headers()

    def _expect_reading(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._unread.set(UNREAD_SECONDS, self._require_reading, left)

    def _require_reading(self, left: int) -> None:
        if self.transport.get_write_buffer_size() < left:
            self._expect_reading()
        else:
            self.transport.abort()
