"""How long somebody waits for an answer: until a deadline, or until they hang up.

The answer itself is worked on in a task of its own, which goes on when nobody waits: what a thread
has begun cannot be stopped, and what it uses must stay open until it ends.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import Request

from app.errors import ClientGoneError, DeadlineError

Answer = TypeVar("Answer")


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
        if time.monotonic() >= self._until:
            raise DeadlineError(
                f"the answer would have taken longer than {self._seconds:g} seconds, the most that "
                "a request may take here; try again later"
            )

    def give_up(self) -> None:
        """Nobody waits any more."""
        self._gone = True

    async def wait_for(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """What ``work`` returns, which goes on to its end whatever becomes of this.

        Raises:
            DeadlineError: it did not end in time.
            Exception: whatever ``work`` raises.
        """
        task = asyncio.create_task(work)
        task.add_done_callback(_retrieve)
        try:
            async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                return await asyncio.shield(task)
        except TimeoutError:
            if not task.done():
                self._until = 0.0  # it has passed, though a timer may be early by a millisecond
                self.check()
            raise
        except asyncio.CancelledError:
            self.give_up()
            raise

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


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """Look at how a task ended that nobody may have waited for, or asyncio complains."""
    if not task.cancelled():
        task.exception()
