"""Lingering close: after an early answer, the rest of the request's body is read and discarded.

Closing a connection while its client still sends resets it, and the client may lose the answer.
Uvicorn closes at once. Reverse proxies linger, and this module does so for servers without one.
"""

import asyncio
from contextlib import suppress
from typing import Any

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import RETRY_AFTER, UnavailableError
from app.http.problems import problem_response

PROMPT_SECONDS = 1.0  # before the answer; a body that ends within them keeps the connection open
SILENCE_SECONDS = 5.0  # after the answer, without any data
LINGER_SECONDS = 30.0  # after the answer, in all


class LingeringClose:
    """ASGI wrapper that reads and discards the rest of a body whose request is answered.

    If the rest arrives within `PROMPT_SECONDS`, the connection stays open. Otherwise the answer
    has ``Connection: close``, and the connection is closed at the end of the body, after
    `SILENCE_SECONDS` without data, or after `LINGER_SECONDS`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            ignore_protocol_errors()  # at startup, on the server's event loop
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(Headers(scope=scope), receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:  # the server stops without waiting for this answer
            if not exchange.started:
                response = problem_response(
                    UnavailableError("the server is stopping: try again later")
                )
                response.headers["Retry-After"] = str(RETRY_AFTER)
                await response(scope, receive, send)


class _Exchange:
    """The messages of one request and its answer."""

    def __init__(self, headers: Headers, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.started = False  # of the answer
        self._whole = (
            "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
        )
        # Reading asks a client that sent Expect: 100-continue for its body.
        self._may_read = "expect" not in headers

    async def receive(self) -> Message:
        """Return the next message: a part of the body, or a disconnect."""
        self._may_read = True
        message = await self._receive()
        self._whole = self._whole or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer; the last one after the rest of the body is discarded."""
        starts = message["type"] == "http.response.start"
        if starts and not self._whole:
            if self._may_read:
                await self._discard(PROMPT_SECONDS, PROMPT_SECONDS)
            if not self._whole:
                MutableHeaders(scope=message)["Connection"] = "close"
        elif not self._whole and not message.get("more_body", False):
            await self._deliver({**message, "more_body": True})
            await self._discard(LINGER_SECONDS, SILENCE_SECONDS)
            message = {"type": "http.response.body"}
        await self._deliver(message)

    async def _discard(self, seconds: float, silence: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._whole:
                    async with asyncio.timeout(silence):
                        await self.receive()

    async def _deliver(self, message: Message) -> None:
        self.started = True
        # Raised if the client broke the protocol: uvicorn has answered 400 and closed.
        with suppress(h11.LocalProtocolError):
            await self._send(message)


def ignore_protocol_errors() -> None:
    """Keep tracebacks out of the log for clients that break HTTP after their answer began.

    Uvicorn tries to answer 400 then, and h11 raises an error in the event loop's callback.
    """

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), h11.LocalProtocolError):
            loop.default_exception_handler(context)

    asyncio.get_running_loop().set_exception_handler(handle)
