"""Micro-batching: jobs that arrive one by one are worked on several at a time.

A batch takes two steps. Only one batch at a time is in its first step, the forward pass; the second
step, the search, goes on beside the next batch's forward pass.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from app.inference.deadline import Deadline
from model.errors import WhenceError

THREADS = 2  # one searches while the other is in the forward pass


class HasDeadline(Protocol):
    """A job as the batcher knows it."""

    @property
    def deadline(self) -> Deadline:
        """After which the job is not worked on."""


Job = TypeVar("Job", bound=HasDeadline)
Entry = tuple[Job, "Future[None]"]


class Batcher(Generic[Job]):
    """Collects jobs into batches and runs ``forward`` and then ``search`` on each batch.

    A batch begins as soon as the forward pass of the one before has ended and a job is there. It
    waits for others only while some are `expected`, and then for ``wait`` seconds at most: a lone
    request never waits. Jobs that nobody waits for any more are dropped. A batch that fails is
    tried once more, job by job, so that one job cannot spoil the others.

    Args:
        forward: works on a batch in place, under `forward_lock`.
        search: works on a batch in place, after ``forward``.
        size: jobs in a batch, at most.
        wait: seconds.
        shared_errors: met by every job of a batch alike, so that it is not tried again.
    """

    def __init__(
        self,
        forward: Callable[[list[Job]], None],
        search: Callable[[list[Job]], None],
        *,
        size: int,
        wait: float,
        shared_errors: tuple[type[Exception], ...] = (),
    ) -> None:
        self._forward, self._search = forward, search
        self._size, self._wait = size, wait
        self._shared_errors = shared_errors
        self.forward_lock = threading.Lock()
        self._queue: deque[Entry[Job]] = deque()
        self._changed = threading.Condition()  # guards the queue and the two below
        self._expected = 0
        self._closing = False
        self._busy: dict[int, float] = {}  # by thread, when it took its batch
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads."""
        for number in range(THREADS):
            name = f"inference_{number}"
            self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
            self._threads[-1].start()

    def close(self, seconds: float) -> None:
        """Finish the jobs that were submitted; block until then, for ``seconds`` at most."""
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
        """Announce a job that is submitted right after the block."""
        with self._changed:
            self._expected += 1
        try:
            yield
        finally:
            with self._changed:
                self._expected -= 1
                self._changed.notify_all()

    async def submit(self, job: Job) -> None:
        """Return when the job is done.

        Raises:
            ClientGoneError, DeadlineError: nobody waits for the job any more.
            Exception: of ``forward`` or ``search``.
        """
        done: Future[None] = Future()
        with self._changed:
            self._queue.append((job, done))
            self._changed.notify_all()
        await asyncio.wrap_future(done)

    def _run(self) -> None:
        me = threading.get_ident()
        while self._wait_for_jobs():
            with self.forward_lock:
                batch = self._next_batch()
                if not batch:  # the other thread took the jobs
                    continue
                self._busy[me] = time.monotonic()
                error = _error_of(self._forward, batch)
            error = error or _error_of(self._search, batch)
            if error and len(batch) > 1 and not isinstance(error, self._shared_errors):
                outcomes = [self._try_again(entry) for entry in batch]
            else:
                outcomes = [error] * len(batch)
            del self._busy[me]
            for (_, done), outcome in zip(batch, outcomes, strict=True):
                if outcome:
                    done.set_exception(outcome)
                else:
                    done.set_result(None)

    def _wait_for_jobs(self) -> bool:
        """Block until a job is there; return False when the batcher closes instead."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return bool(self._queue)

    def _next_batch(self) -> list[Entry[Job]]:
        """Take the next jobs, and fail those that nobody waits for."""
        with self._changed:
            until = time.monotonic() + self._wait
            while self._expected and len(self._queue) < self._size and not self._closing:
                if not self._changed.wait(max(0.0, until - time.monotonic())):
                    break
            taken = [self._queue.popleft() for _ in range(min(self._size, len(self._queue)))]
        batch: list[Entry[Job]] = []
        for job, done in taken:
            if not done.set_running_or_notify_cancel():
                continue
            try:
                job.deadline.check()
            except WhenceError as error:
                done.set_exception(error)
            else:
                batch.append((job, done))
        return batch

    def _try_again(self, entry: Entry[Job]) -> Exception | None:
        """Work on one job of a batch that failed."""
        try:
            entry[0].deadline.check()
        except WhenceError as error:
            return error
        with self.forward_lock:
            failure = _error_of(self._forward, [entry])
        return failure or _error_of(self._search, [entry])


def _error_of(step: Callable[[list[Job]], None], batch: list[Entry[Job]]) -> Exception | None:
    """Run a step and return what it raised."""
    try:
        step([job for job, _ in batch])
    except Exception as error:
        return error
    return None
