"""How long somebody waits for an answer: until a deadline, or until they hang up."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from app.errors import ClientGoneError, DeadlineError


class Patience:
    """Asked before each step whether its outcome is still wanted; from any thread.

    Args:
        seconds: from now until the deadline.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._gone = False

    def check(self) -> None:
        """Go on only for somebody who still waits.

        Raises:
            ClientGoneError: the connection was closed.
            DeadlineError: the deadline has passed.
        """
        if self._gone:
            raise ClientGoneError("the connection was closed before there was an answer")
        if time.monotonic() > self._until:
            raise DeadlineError(
                f"the answer would have taken longer than {self._seconds:g} seconds, the most that "
                "a request may take here; try again later"
            )

    def give_up(self) -> None:
        """Nobody waits any more."""
        self._gone = True

    @asynccontextmanager
    async def while_connected(self, request: Request) -> AsyncIterator[None]:
        """Watch the connection of a request whose body was read."""
        watch = asyncio.create_task(self._watch(request))
        try:
            yield
        finally:
            watch.cancel()

    async def _watch(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.give_up()
