"""Lets clients see every answer, also one that is given before their whole body has arrived.

Closing a connection while its client still sends resets it, and the answer may be lost. Uvicorn
closes at once; reverse proxies linger, as this module does for servers without one.
"""

import asyncio
from contextlib import suppress
from typing import Any

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import RETRY_AFTER, UnavailableError
from app.http.problems import problem_response

PROMPT_SECONDS = 1.0  # for the rest of a body, before the answer; then the connection is kept
SILENCE_SECONDS = 5.0  # without any of the rest, after the answer
LINGER_SECONDS = 30.0  # for the rest in all, after the answer


class LingeringClose:
    """ASGI wrapper that reads and discards the rest of a body whose request is answered.

    If the rest comes within `PROMPT_SECONDS` the connection can be used again. Otherwise the answer
    says ``Connection: close`` and is sent, and the connection is closed at the end of the body,
    after `SILENCE_SECONDS` without any of it, or after `LINGER_SECONDS`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            ignore_protocol_errors()  # of the loop that runs this, which starts now
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(Headers(scope=scope), receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:  # the server stops, and waits no longer for this answer
            if not exchange.started:
                response = problem_response(
                    UnavailableError("the server is stopping: try again later")
                )
                response.headers["Retry-After"] = str(RETRY_AFTER)
                await response(scope, receive, send)


class _Exchange:
    """One request and its answer."""

    def __init__(self, headers: Headers, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.started = False  # of the answer
        self._whole = (
            "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
        )
        # A client that sent Expect: 100-continue sends its body once somebody reads.
        self._may_read = "expect" not in headers

    async def receive(self) -> Message:
        """Return the next part of the body, or that the client has left."""
        self._may_read = True
        message = await self._receive()
        self._whole = self._whole or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer; the last one once the rest of the body is discarded."""
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
        # Refused where the client broke the protocol and uvicorn has answered 400 and closed.
        with suppress(h11.LocalProtocolError):
            await self._send(message)


def ignore_protocol_errors() -> None:
    """Close connections that break HTTP after their answer began without a traceback in the log.

    Uvicorn tries to answer 400 then, which h11 refuses by an error of the event loop's callback.
    """

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), h11.LocalProtocolError):
            loop.default_exception_handler(context)

    asyncio.get_running_loop().set_exception_handler(handle)
