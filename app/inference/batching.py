"""Micro-batching: jobs that arrive one by one are worked on several at a time.

Work has two steps. The first is one batch's alone, as a device is; the second goes on beside the
next batch's first, so that the device does not wait for it.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.inference.deadline import Patience
from model.errors import WhenceError

STEPS = 2  # threads: while one takes the second step, the other can take the first

Job = TypeVar("Job")
Begun = TypeVar("Begun")
Result = TypeVar("Result")


@dataclass
class _Waiting(Generic[Job, Result]):
    job: Job
    patience: Patience
    future: "asyncio.Future[Result]"
    loop: asyncio.AbstractEventLoop

    def given_up(self) -> WhenceError | None:
        """Why nobody waits for it any more; None while somebody does."""
        try:
            self.patience.check()
        except WhenceError as error:
            return error
        return None

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
class Batcher(Generic[Job, Begun, Result]):
    """Collects jobs into batches, which ``begin`` and then ``finish`` work on.

    A batch begins as soon as the one before has begun and a job is there. It waits for others only
    while some are `expected`, and then for ``wait`` seconds at most; so a lone request never waits.
    Jobs that nobody waits for any more are dropped unworked. A batch that fails is worked on once
    more, job by job, so that one job cannot spoil the others; not so where no job is to blame.

    Args:
        begin: works on a batch, never on two at the same time.
        finish: gives one result a job, in order, of what ``begin`` returned.
        size: jobs in a batch, at most.
        wait: seconds.
        blameless: errors that every job of the batch would meet.
    """

    begin: Callable[[list[Job]], Begun]
    finish: Callable[[Begun], Sequence[Result]]
    size: int
    wait: float
    blameless: tuple[type[Exception], ...] = ()
    _queue: deque[_Waiting[Job, Result]] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _beginning: bool = False  # a thread takes a batch, or begins it
    _busy: dict[int, float] = field(default_factory=dict)  # by thread, when its batch was taken
    _expected: int = 0
    _closing: bool = False
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Start the threads."""
        for number in range(STEPS):
            name = f"inference_{number}"
            self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
            self._threads[-1].start()

    def close(self, seconds: float) -> None:
        """Finish what was submitted; blocks until that is done, or for so long."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    @property
    def busy_since(self) -> float | None:
        """`time.monotonic` when the oldest batch in hand was taken."""
        return min(self._busy.copy().values(), default=None)

    @property
    def waiting(self) -> int:
        """Jobs that no batch has taken yet."""
        return len(self._queue)

    @contextmanager
    def expected(self) -> Iterator[None]:
        """Announce a job that is being made ready and will be submitted right after the block."""
        with self._changed:
            self._expected += 1
        try:
            yield
        finally:
            with self._changed:
                self._expected -= 1
                self._changed.notify_all()

    async def submit(self, job: Job, patience: Patience) -> Result:
        """The result of one job.

        Raises:
            ClientGoneError: the connection was closed.
            DeadlineError: it has waited for too long.
            Exception: whatever ``work`` raised for it.
        """
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Job, Result] = _Waiting(job, patience, loop.create_future(), loop)
        with self._changed:
            self._queue.append(waiting)
            self._changed.notify_all()
        return await waiting.future

    @contextmanager
    def turn(self, ready: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Alone, from when ``ready`` on: no batch begins meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: not self._beginning and ready())
            self._beginning = True
        try:
            yield
        finally:
            with self._changed:
                self._beginning = False
                self._changed.notify_all()

    def _run(self) -> None:
        me = threading.get_ident()
        while True:
            with self.turn(lambda: bool(self._queue) or self._closing):
                if not self._queue:
                    return
                batch = self._next_batch()
                if not batch:
                    continue
                self._busy[me] = time.monotonic()
                begun = self._begun(batch)
            outcomes = self._outcomes(batch, begun)
            del self._busy[me]
            for waiting, outcome in zip(batch, outcomes, strict=True):
                waiting.settle(outcome)

    def _begun(self, batch: list[_Waiting[Job, Result]]) -> Begun | Exception:
        try:
            return self.begin([waiting.job for waiting in batch])
        except Exception as error:
            return error

    def _finished(self, begun: Begun | Exception) -> Sequence[Result] | Exception:
        if isinstance(begun, Exception):
            return begun
        try:
            return self.finish(begun)
        except Exception as error:
            return error

    def _outcomes(
        self, batch: list[_Waiting[Job, Result]], begun: Begun | Exception
    ) -> Sequence[Result | Exception]:
        finished = self._finished(begun)
        if not isinstance(finished, Exception):
            return finished
        if len(batch) == 1 or isinstance(finished, self.blameless):
            return [finished] * len(batch)
        outcomes: list[Result | Exception] = []
        for waiting in batch:
            if error := waiting.given_up():
                outcomes.append(error)
                continue
            with self.turn():
                again = self._begun([waiting])
            outcomes += self._outcomes([waiting], again)
        return outcomes

    def _next_batch(self) -> list[_Waiting[Job, Result]]:
        """Those of the next jobs that are still wanted."""
        with self._changed:
            until = time.monotonic() + self.wait
            while self._expected and len(self._queue) < self.size and not self._closing:
                if not self._changed.wait(max(0.0, until - time.monotonic())):
                    break
            taken = [self._queue.popleft() for _ in range(min(self.size, len(self._queue)))]
        wanted: list[_Waiting[Job, Result]] = []
        for waiting in taken:
            if error := waiting.given_up():
                waiting.settle(error)
            else:
                wanted.append(waiting)
        return wanted
