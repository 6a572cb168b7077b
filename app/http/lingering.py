"""Lets clients see an answer that is given before their whole body has arrived.

Closing a connection while its client still sends resets it, and the answer may be lost. Uvicorn
closes at once; reverse proxies linger, as this module does for servers without one.
"""

import asyncio
from contextlib import suppress
from typing import Any

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        whole = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
        asked_for = "expect" not in headers  # else reading invites the client to send its body

        async def receive_noting() -> Message:
            nonlocal whole, asked_for
            asked_for = True
            message = await receive()
            whole = whole or not message.get("more_body", False)
            return message

        async def discard(seconds: float, silence: float) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while not whole:
                        async with asyncio.timeout(silence):
                            await receive_noting()

        async def deliver(message: Message) -> None:
            # Refused where the client broke the protocol and uvicorn has answered 400 and closed.
            with suppress(h11.LocalProtocolError):
                await send(message)

        async def send_lingering(message: Message) -> None:
            if not whole and message["type"] == "http.response.start":
                if asked_for:
                    await discard(PROMPT_SECONDS, PROMPT_SECONDS)
                if not whole:
                    MutableHeaders(scope=message)["Connection"] = "close"
            elif not whole and not message.get("more_body", False):
                await deliver({**message, "more_body": True})
                await discard(LINGER_SECONDS, SILENCE_SECONDS)
                message = {"type": "http.response.body"}
            await deliver(message)

        await self.app(scope, receive_noting, send_lingering)


def ignore_protocol_errors() -> None:
    """Close connections that break HTTP after their answer began without a traceback in the log.

    Uvicorn tries to answer 400 then, which h11 refuses by an error of the event loop's callback.
    """

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), h11.LocalProtocolError):
            loop.default_exception_handler(context)

    asyncio.get_running_loop().set_exception_handler(handle)
