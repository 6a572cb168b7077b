"""Micro-batching: jobs that arrive one by one are worked on several at a time, on one thread."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.patience import Patience
from model.errors import WhenceError

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass
class _Waiting(Generic[Job, Result]):
    job: Job
    patience: Patience
    future: "asyncio.Future[Result]"
    loop: asyncio.AbstractEventLoop

    def settle(self, outcome: Result | Exception) -> None:
        """Answer from the working thread."""
        self.loop.call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: Result | Exception) -> None:
        if self.future.cancelled():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


@dataclass
class Batcher(Generic[Job, Result]):
    """Collects jobs into batches for ``work``, which one thread runs.

    A batch starts as soon as the thread is free and a job is there. It waits for others only while
    some are `expected`, and then for ``wait`` seconds at most; so a lone request never waits. Jobs
    that nobody waits for any more are dropped unworked. A batch that fails is worked on once more,
    job by job, so that one job cannot spoil the others; not so where no job is to blame.

    Args:
        work: gives one result a job, in order.
        size: jobs in a batch, at most.
        wait: seconds.
        blameless: errors that every job of the batch would meet.
    """

    work: Callable[[list[Job]], Sequence[Result]]
    size: int
    wait: float
    blameless: tuple[type[Exception], ...] = ()
    busy_since: float | None = None  # `time.monotonic` when the batch in hand began
    _queue: deque[_Waiting[Job, Result]] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _expected: int = 0
    _closing: bool = False
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def close(self, seconds: float) -> None:
        """Finish what was submitted; blocks until that is done, or for so long."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread:
            self._thread.join(seconds)

    @property
    def waiting(self) -> int:
        """Jobs that no batch has taken yet."""
        return len(self._queue)

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Announce a job that is being made ready and will be submitted right after the block."""
        self._expect(1)
        try:
            yield
        finally:
            self._expect(-1)

    async def submit(self, job: Job, patience: Patience) -> Result:
        """The result of one job.

        Raises:
            ImpatientError: nobody waits for it any more, or it has waited for too long.
            Exception: whatever ``work`` raised for it.
        """
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Job, Result] = _Waiting(job, patience, loop.create_future(), loop)
        with self._changed:
            self._queue.append(waiting)
            self._changed.notify()
        return await waiting.future

    def _expect(self, change: int) -> None:
        with self._changed:
            self._expected += change
            self._changed.notify()

    def _run(self) -> None:
        while batch := self._next_batch():
            self.busy_since = time.monotonic()
            outcomes = self._outcomes(batch)
            self.busy_since = None
            for waiting, outcome in zip(batch, outcomes, strict=True):
                waiting.settle(outcome)

    def _outcomes(self, batch: list[_Waiting[Job, Result]]) -> Sequence[Result | Exception]:
        try:
            return self.work([waiting.job for waiting in batch])
        except Exception as error:
            if len(batch) == 1 or isinstance(error, self.blameless):
                return [error] * len(batch)
            return [outcome for waiting in batch for outcome in self._outcomes([waiting])]

    def _next_batch(self) -> list[_Waiting[Job, Result]]:
        """Jobs that are still wanted; none only when there will be no more."""
        batch: list[_Waiting[Job, Result]] = []
        while not batch:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return []
                until = time.monotonic() + self.wait
                while self._expected and len(self._queue) < self.size and not self._closing:
                    if not self._changed.wait(max(0.0, until - time.monotonic())):
                        break
                taken = [self._queue.popleft() for _ in range(min(self.size, len(self._queue)))]
            for waiting in taken:
                try:
                    waiting.patience.check()
                except WhenceError as error:
                    waiting.settle(error)
                else:
                    batch.append(waiting)
        return batch
