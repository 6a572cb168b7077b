"""Permits: a request holds one while its images are worked on."""

import asyncio
import math
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self, TypeVar

from starlette.requests import Request

from app.errors import QueueFullError
from app.inference.deadline import Deadline
from index.answering.attribution import Attributor

Result = TypeVar("Result")


class Queue:
    """Counts the places of images that are taken in and not answered yet, on the event loop alone.

    Args:
        capacity: places there are.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0
        self.seconds = 0.0  # of work a place, lately

    def require(self, places: int = 1) -> None:
        """Return if so many places are free.

        Raises:
            QueueFullError: they are not.
        """
        if self.taken + places > self.capacity:
            seconds = math.ceil(max(1.0, self.taken * self.seconds))
            raise QueueFullError(
                f"of the queue's {self.capacity} places {self.taken} are taken and this needs "
                f"{places}; try again in {seconds} seconds",
                retry_after=seconds,
            )

    @contextmanager
    def hold(self, places: int) -> Iterator[None]:
        """Take places for the block.

        Raises:
            QueueFullError: not as many are free.
        """
        self.require(places)
        self.taken += places
        try:
            yield
        finally:
            self.taken -= places

    def worked(self, seconds: float) -> None:
        """Note how long a place was worked on."""
        self.seconds += (seconds - self.seconds) / 8 if self.seconds else seconds


class Permit:
    """Holds places in the queue, the lease of an index version and a deadline for one request.

    The context manager watches the connection, and releases what is held at its end or, where work
    goes on after the request was answered, at the end of that work.

    Args:
        request: its body was read.
        attributor: answers for the index version that is leased.
        deadline: of the request.
        at_once: images of the request that may be worked on at the same time.
        held: closed to release the places and the lease.
    """

    def __init__(
        self,
        request: Request,
        attributor: Attributor,
        deadline: Deadline,
        at_once: int,
        held: ExitStack,
    ) -> None:
        self.attributor = attributor
        self.deadline = deadline
        self.at_once = at_once
        self._request = request
        self._held = held
        self._work: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Self:
        """Watch the connection."""
        self._watch = asyncio.create_task(self._watch_connection())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Release what is held, now or when the work has ended."""
        self._watch.cancel()
        if self._work and not self._work.done():
            self._work.add_done_callback(self._release)
        else:
            self._held.close()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return the result of ``work``, which no deadline and no client that leaves interrupts.

        Raises:
            DeadlineError: the deadline passed first.
            Exception: of the work.
        """
        self._work = asyncio.create_task(work)
        return await self.deadline.wait_for(self._work)

    def _release(self, work: "asyncio.Task[Any]") -> None:
        self._held.close()
        if not work.cancelled():
            work.exception()  # asyncio logs an exception that nobody has looked at

    async def _watch_connection(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self.deadline.give_up()
