"""The deadline of a request: it ends the wait for the answer, and work that is not needed."""

import asyncio
import time
from typing import TypeVar

from app.errors import ClientGoneError, DeadlineError

Result = TypeVar("Result")


class Deadline:
    """Ends a request's work when its time is over or its client has left. Thread-safe.

    Args:
        seconds: until the deadline.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self.gone = False  # whether the client has left

    def check(self) -> None:
        """Raise an error if the answer is no longer needed.

        Raises:
            ClientGoneError: the client closed the connection.
            DeadlineError: the deadline has passed.
        """
        if self.gone:
            raise ClientGoneError("the connection was closed before there was an answer")
        if time.monotonic() >= self._until:
            raise DeadlineError(
                f"the answer would have taken longer than {self._seconds:g} seconds, the limit of "
                "a request; try again later"
            )

    def give_up(self) -> None:
        """Note that the client has left."""
        self.gone = True

    async def wait_for(self, task: "asyncio.Task[Result]") -> Result:
        """Return the result of ``task``; at the deadline the task continues without a waiter.

        Raises:
            DeadlineError: the task did not end in time.
            Exception: the task's own.
        """
        try:
            async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                return await asyncio.shield(task)
        except TimeoutError:
            if not task.done():
                self._until = 0.0  # timers may be early by a millisecond
                self.check()
            raise
        except asyncio.CancelledError:
            self.give_up()
            raise
