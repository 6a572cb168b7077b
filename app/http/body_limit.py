"""Limits the size, time and memory of request bodies."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth.holdings import Holdings
from app.auth.security import caller_of
from app.errors import BodyTooLargeError, BodyTooSlowError, QueueFullError
from app.http.paths import route_path


class UploadMemory:
    """Counts the bytes of all bodies, from the first read to the end of the request.

    One caller may use a quarter, so that a slow sender cannot exclude all others. This machine has
    no such limit, since a proxy here stands for many callers.

    Args:
        limit: bytes of all bodies.
        largest: bytes of the largest body; one caller may always send one.
    """

    def __init__(self, limit: int, largest: int) -> None:
        self.taken = 0
        self._limit, self._caller_limit = limit, max(limit // 4, largest)
        self._by_caller = Holdings()

    @contextmanager
    def hold(self, caller: str | None, size: int) -> Iterator[None]:
        """Take ``size`` bytes for the block.

        Raises:
            QueueFullError: a limit would be exceeded.
        """
        reason = ""
        if self.taken + size > self._limit:
            reason = f"of {self._limit:,} bytes of uploads {self.taken:,} are taken"
        elif caller and self._by_caller[caller] + size > self._caller_limit:
            reason = f"one caller may upload {self._caller_limit:,} bytes at the same time"
        if reason:
            raise QueueFullError(f"{reason}; try again in 1 second", retry_after=1)
        self._add(caller, size)
        try:
            yield
        finally:
            self._add(caller, -size)

    def _add(self, caller: str | None, size: int) -> None:
        self.taken += size
        self._by_caller.add(caller, size)


class BodyLimit:
    """Middleware that refuses bodies that are too large or too slow, or exceed the memory.

    A body reserves the memory of its Content-Length, or, if sent in chunks, of the largest body.

    Args:
        app: the application; it reads the bodies.
        memory: of all bodies together.
        max_bytes: of a body.
        exceptions: other limits, by path.
        seconds: from the end of the headers to the end of the body.
    """

    def __init__(
        self,
        app: ASGIApp,
        memory: UploadMemory,
        max_bytes: int,
        exceptions: Mapping[str, int],
        seconds: float,
    ) -> None:
        self.app = app
        self.memory = memory
        self.max_bytes = max_bytes
        self.exceptions = exceptions
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on.

        Reading it raises `BodyTooLargeError`, `BodyTooSlowError` or `QueueFullError`.
        """
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_bytes = self.exceptions.get(route_path(scope), self.max_bytes)
        size = _announced(Headers(scope=scope), max_bytes)
        deadline = asyncio.get_running_loop().time() + self.seconds
        received, begun, whole = 0, size == 0, False

        async def receive_within_limits() -> Message:
            nonlocal received, begun, whole
            if whole:  # the caller waits for a disconnect
                return await receive()
            if size > max_bytes:
                raise _too_large(max_bytes)
            if not begun:
                begun = True
                held.enter_context(self.memory.hold(caller_of(scope), size))
            message = await self._receive_before(deadline, receive)
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise _too_large(max_bytes)
            whole = not message.get("more_body", False)
            return message

        with ExitStack() as held:
            await self.app(scope, receive_within_limits, send)

    async def _receive_before(self, deadline: float, receive: Receive) -> Message:
        try:
            async with asyncio.timeout_at(deadline):
                return await receive()
        except TimeoutError:
            raise BodyTooSlowError(
                f"the body did not arrive within {self.seconds:g} seconds: send a smaller image, "
                "or use a faster connection"
            ) from None


def _announced(headers: Headers, max_bytes: int) -> int:
    """Return a body's Content-Length, or ``max_bytes`` if it is sent in chunks."""
    length = headers.get("content-length", "")
    if length.isdecimal():
        return int(length[:20])
    return max_bytes if "transfer-encoding" in headers else 0


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body is larger than {limit:,} bytes, the limit: send less")
