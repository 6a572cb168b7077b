"""Micro-batching: jobs that arrive one by one are processed in batches.

A batch takes two steps, the forward pass and the search. Forward passes run one at a time. A search
runs in parallel with the next batch's forward pass.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from app.inference.deadline import Deadline
from app.inference.turns import Turns
from model.errors import WhenceError

THREADS = 2  # one for the forward pass, one for the search of the batch before


class Asked(Protocol):
    """A job for the batcher."""

    @property
    def deadline(self) -> Deadline:
        """Return the job's deadline."""

    @property
    def caller(self) -> str | None:
        """Return the caller whose request the job belongs to."""


Job = TypeVar("Job", bound=Asked)
Entry = tuple[Job, "Future[None]"]


class Batcher(Generic[Job]):
    """Collects jobs into batches and runs ``forward`` and then ``search`` on each batch.

    A batch begins as soon as there is a job and the previous forward pass has ended. It takes jobs
    in turn of their callers, so that many jobs of one caller delay no other. It waits for more jobs
    only while some are `expected`, for at most ``wait`` seconds: a lone request never waits. Jobs
    past their deadline are dropped. If a batch fails, each of its jobs is retried alone, so that
    one job cannot make the others fail.

    Args:
        forward: processes a batch in place, under `forward_lock`.
        search: processes a batch in place, after ``forward``.
        size: largest number of jobs in a batch.
        wait: seconds.
        shared_errors: errors that every job would meet, so that a retry is useless.
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
        self._queue: Turns[Entry[Job]] = Turns()
        self._changed = threading.Condition()  # guards the queue and the two below
        self._expected = 0
        self._closing = False
        self._busy: dict[int, float] = {}  # by thread, the time when its batch began
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads."""
        for number in range(THREADS):
            name = f"inference_{number}"
            self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
            self._threads[-1].start()

    def close(self, seconds: float) -> None:
        """Finish the submitted jobs; block for at most ``seconds``."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    @property
    def busy_since(self) -> float | None:
        """Return the time, by `time.monotonic`, when the oldest unfinished batch began."""
        return min(self._busy.copy().values(), default=None)

    @property
    def waiting(self) -> int:
        """Return the number of jobs in no batch yet."""
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
            ClientGoneError, DeadlineError: the answer is no longer needed.
            Exception: of ``forward`` or ``search``.
        """
        done: Future[None] = Future()
        with self._changed:
            self._queue.append(job.caller, (job, done))
            self._changed.notify_all()
        await asyncio.wrap_future(done)

    def _run(self) -> None:
        thread = threading.get_ident()
        while self._wait_for_jobs():
            with self.forward_lock:
                batch = self._next_batch()
                if not batch:  # the other thread took the jobs
                    continue
                self._busy[thread] = time.monotonic()
                error = _error_of(self._forward, batch)
            error = error or _error_of(self._search, batch)
            if error and len(batch) > 1 and not isinstance(error, self._shared_errors):
                outcomes = [self._retry(entry) for entry in batch]
            else:
                outcomes = [error] * len(batch)
            del self._busy[thread]
            for (_, done), outcome in zip(batch, outcomes, strict=True):
                if outcome:
                    done.set_exception(outcome)
                else:
                    done.set_result(None)

    def _wait_for_jobs(self) -> bool:
        """Block until there is a job; return False if the batcher is closing instead."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._queue) or self._closing)
            return len(self._queue) > 0

    def _next_batch(self) -> list[Entry[Job]]:
        """Take the next jobs, and fail those past their deadline."""
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

    def _retry(self, entry: Entry[Job]) -> Exception | None:
        """Process one job of a failed batch alone; return its error."""
        try:
            entry[0].deadline.check()
        except WhenceError as error:
            return error
        with self.forward_lock:
            failure = _error_of(self._forward, [entry])
        return failure or _error_of(self._search, [entry])


def _error_of(step: Callable[[list[Job]], None], batch: list[Entry[Job]]) -> Exception | None:
    """Run a step and return its error."""
    try:
        step([job for job, _ in batch])
    except Exception as error:
        return error
    return None
