"""Admission to the pipeline: the queue's places, and the permit that a request holds."""

import asyncio
import math
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self, TypeVar

from starlette.requests import Request

from app.auth.holdings import Holdings
from app.errors import QueueFullError
from app.inference.deadline import Deadline
from index.answering.attribution import Attributor

Result = TypeVar("Result")


class Queue:
    """Counts the places of accepted, unanswered images.

    One caller may take half of the places, so that others find some; this machine may take all,
    since a proxy here stands for many callers. Places are taken and given back on the event loop;
    any thread may record times.

    Args:
        capacity: number of places.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.longest_wait = math.inf  # seconds
        self.taken = 0
        self._by_caller = Holdings()
        self.seconds = 0.0  # of work per place, a moving average

    @property
    def places(self) -> int:
        """Return how many places may be taken.

        That is all of them, or, while working them off would take longer than `longest_wait`, as
        many as are worked off in that time, and at least a third. Work takes longer than usual
        beside other processes, and beside many refusals.
        """
        if self.capacity * self.seconds <= self.longest_wait:
            return self.capacity
        return max(math.ceil(self.capacity / 3), int(self.longest_wait / self.seconds))

    def share(self, images: int, places: int, caller: str | None = None) -> int:
        """Return how many images of one request may be processed at the same time.

        They and the caller's other requests take at most half of the places that may be taken, so
        that other callers find some; one image may always be processed.

        Args:
            images: of the request.
            places: that each of them takes.
            caller: who sent the request; None for this machine.
        """
        left = self.places // 2 - (self._by_caller[caller] if caller else 0)
        return max(1, min(images, left // places))

    def require(self, places: int = 1) -> None:
        """Raise an error unless so many places are free.

        Raises:
            QueueFullError: fewer places are free.
        """
        if self.taken + places > max(self.places, places):
            raise self._full(
                f"of the queue's {self.places} places {self.taken} are taken and this needs "
                f"{places}",
                self.taken,
            )

    @contextmanager
    def hold(self, places: int, caller: str | None = None) -> Iterator[None]:
        """Take places for the block.

        Args:
            places: number of places.
            caller: who takes them; None for this machine.

        Raises:
            QueueFullError: fewer places are free, or the caller would take more than half of them.
        """
        self.require(places)
        if caller:
            self._require_share(places, caller)
        self._add(caller, places)
        try:
            yield
        finally:
            self._add(caller, -places)

    def _add(self, caller: str | None, places: int) -> None:
        self.taken += places
        self._by_caller.add(caller, places)

    def _require_share(self, places: int, caller: str) -> None:
        taken, share = self._by_caller[caller], self.places // 2
        if taken + places > max(share, places):
            raise self._full(
                f"one caller may take {share} of the queue's places; this caller has {taken} and "
                f"needs {places} more",
                taken,
            )

    def _full(self, reason: str, ahead: int) -> QueueFullError:
        seconds = math.ceil(max(1.0, ahead * self.seconds))
        return QueueFullError(
            f"{reason}; try again in {seconds} second{'s' * (seconds > 1)}", retry_after=seconds
        )

    def record(self, seconds: float, *, full: bool) -> None:
        """Record the seconds of work on a place.

        A full queue is worked off in full batches. The images of a smaller batch take longer each:
        it counts only if they took less time than the average says.

        Args:
            seconds: of a batch, for each of its places.
            full: whether the batch was full.
        """
        if full or seconds < self.seconds:
            self.seconds += (seconds - self.seconds) / 8 if self.seconds else seconds


class Permit:
    """Holds a request's places in the queue, its lease of an index version and its deadline.

    The context manager watches the connection. It releases places and lease at its end, or, if work
    continues after the deadline, at the end of that work.

    Args:
        request: a request whose body has been read.
        attributor: of the leased index version.
        deadline: of the request.
        at_once: number of the request's images that may be processed at the same time.
        caller: who sent the request; None for this machine.
        resources: the places and the lease, released by closing it.
    """

    def __init__(
        self,
        request: Request,
        attributor: Attributor,
        deadline: Deadline,
        at_once: int,
        caller: str | None,
        resources: ExitStack,
    ) -> None:
        self.caller = caller
        self.attributor = attributor
        self.deadline = deadline
        self.at_once = at_once
        self._request = request
        self._resources = resources
        self._work: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Self:
        """Watch the connection."""
        self._watch = asyncio.create_task(self._watch_connection())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Release the resources, now or at the end of the work."""
        self._watch.cancel()
        if self._work and not self._work.done():
            self._work.add_done_callback(self._release)
        else:
            self._resources.close()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return the result of ``work``; it continues even if the deadline passes.

        Raises:
            DeadlineError: the deadline passed first.
            Exception: raised by the work.
        """
        self._work = asyncio.create_task(work)
        return await self.deadline.wait_for(self._work)

    def _release(self, work: "asyncio.Task[Any]") -> None:
        self._resources.close()
        if not work.cancelled():
            work.exception()  # else asyncio logs it as never retrieved

    async def _watch_connection(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self.deadline.give_up()
