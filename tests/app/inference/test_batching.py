"""The batcher alone: what is worked on together, what is dropped, what failure spoils."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.errors import ClientGoneError, DeadlineError
from app.inference.batching import Batcher
from app.inference.deadline import Deadline
from tests.waiting import NEVER, wait_in_loop_until


@dataclass
class Number:
    """A job: `Work` doubles it."""

    number: int
    deadline: Deadline = field(default_factory=lambda: Deadline(math.inf))
    caller: str | None = None
    doubled: int = 0


Numbers = Batcher[Number]
Search = Callable[[list[Number]], object]


class Work:
    """Doubles numbers, keeps the batches it saw, and can be held back; 13 fails."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, jobs: list[Number]) -> None:
        self.began.set()
        assert self.go_on.wait(NEVER)
        self.batches.append([job.number for job in jobs])
        if 13 in self.batches[-1]:
            raise ValueError("13")
        for job in jobs:
            job.doubled = 2 * job.number


async def double(
    batcher: Numbers, number: int, deadline: Deadline | None = None, caller: str | None = None
) -> int:
    job = Number(number, deadline or Deadline(math.inf), caller)
    await batcher.submit(job)
    return job.doubled


def run(
    work: Work,
    scenario: Callable[[Numbers], Coroutine[Any, Any, None]],
    *,
    size: int = 4,
    wait: float = 0.0,
    search: Search = list,
) -> None:
    batcher = Numbers(work, search, size=size, wait=wait)
    batcher.start()
    try:
        asyncio.run(scenario(batcher))
    finally:
        work.go_on.set()
        batcher.close(30)


def test_a_shared_error_is_not_tried_job_by_job() -> None:
    work = Work()
    batcher = Numbers(work, list, size=4, wait=0, shared_errors=(ValueError,))

    async def ask() -> list[int | BaseException]:
        work.go_on.clear()
        first = asyncio.create_task(double(batcher, 1))
        await wait_in_loop_until(work.began.is_set)
        others = [asyncio.create_task(double(batcher, job)) for job in (2, 13, 3)]
        await wait_in_loop_until(lambda: batcher.waiting == 3)
        work.go_on.set()
        assert await first == 2
        return await asyncio.gather(*others, return_exceptions=True)

    batcher.start()
    try:
        outcomes = asyncio.run(ask())
    finally:
        work.go_on.set()
        batcher.close(30)
    assert [str(outcome) for outcome in outcomes] == ["13"] * 3
    assert work.batches == [[1], [2, 13, 3]]


def test_what_waits_is_worked_on_together_and_in_order() -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        work.go_on.clear()
        first = asyncio.create_task(double(batcher, 0))
        await wait_in_loop_until(work.began.is_set)
        others = [asyncio.create_task(double(batcher, n)) for n in range(1, 8)]
        await wait_in_loop_until(lambda: batcher.waiting == 7)
        work.go_on.set()
        assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10, 12, 14]

    run(work, scenario)
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_many_jobs_of_one_caller_do_not_delay_another() -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        work.go_on.clear()
        first = asyncio.create_task(double(batcher, 0))
        await wait_in_loop_until(work.began.is_set)
        jobs = [(n, "many") for n in range(1, 8)] + [(100, "one")]
        others = [asyncio.create_task(double(batcher, n, caller=who)) for n, who in jobs]
        await wait_in_loop_until(lambda: batcher.waiting == 8)
        work.go_on.set()
        await asyncio.gather(first, *others)

    run(work, scenario)
    assert work.batches == [[0], [1, 100, 2, 3], [4, 5, 6, 7]]


def test_a_lone_job_does_not_wait_for_company() -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        async with asyncio.timeout(NEVER):
            assert await double(batcher, 1) == 2

    run(work, scenario, wait=3600)


def test_a_job_waits_for_one_that_is_expected() -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        with batcher.expected():
            first = asyncio.create_task(double(batcher, 1))
            await asyncio.sleep(0.05)
            assert not work.batches
        assert await asyncio.gather(first, double(batcher, 2)) == [2, 4]

    run(work, scenario, size=2, wait=3600)


def test_it_does_not_wait_for_longer_than_it_may() -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        with batcher.expected():
            async with asyncio.timeout(NEVER):
                assert await double(batcher, 1) == 2

    run(work, scenario, wait=0.01)


def test_the_next_batch_begins_while_one_is_finished() -> None:
    work, let_first_end = Work(), threading.Event()

    def search(jobs: list[Number]) -> None:
        assert jobs[0].number != 1 or let_first_end.wait(NEVER)

    async def scenario(batcher: Numbers) -> None:
        first = asyncio.create_task(double(batcher, 1))
        await wait_in_loop_until(lambda: work.batches == [[1]])
        assert await double(batcher, 2) == 4
        assert not first.done()
        let_first_end.set()
        assert await first == 2

    try:
        run(work, scenario, search=search)
    finally:
        let_first_end.set()


def test_no_two_batches_begin_at_the_same_time() -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        work.go_on.clear()
        jobs = [asyncio.create_task(double(batcher, number)) for number in (1, 2)]
        await wait_in_loop_until(lambda: batcher.waiting == 1)
        await asyncio.sleep(0.05)
        assert batcher.waiting == 1
        work.go_on.set()
        assert await asyncio.gather(*jobs) == [2, 4]

    run(work, scenario, size=1)


def no_seven(jobs: list[Number]) -> None:
    if 7 in [job.number for job in jobs]:
        raise ValueError("7")


@pytest.mark.parametrize(
    ("search", "jobs"),
    [(list, (0, 1, 13, 2)), (no_seven, (1, 2, 7, 3))],
    ids=["forward", "search"],
)
def test_one_bad_job_does_not_spoil_the_others(search: Search, jobs: tuple[int, ...]) -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        work.go_on.clear()
        first = asyncio.create_task(double(batcher, jobs[0]))
        await wait_in_loop_until(work.began.is_set)
        others = [asyncio.create_task(double(batcher, job)) for job in jobs[1:]]
        await wait_in_loop_until(lambda: batcher.waiting == 3)
        work.go_on.set()
        outcomes = await asyncio.gather(first, *others, return_exceptions=True)
        assert [outcomes[i] for i in (0, 1, 3)] == [2 * jobs[i] for i in (0, 1, 3)]
        assert isinstance(outcomes[2], ValueError)
        assert batcher.busy_since is None

    run(work, scenario, search=search)


def test_after_a_failed_batch_only_what_is_still_wanted_is_worked_on() -> None:
    work = Work()
    gone = Deadline(math.inf)

    def search(jobs: list[Number]) -> None:
        if 7 in [job.number for job in jobs]:
            gone.give_up()
        no_seven(jobs)

    async def scenario(batcher: Numbers) -> None:
        work.go_on.clear()
        first = asyncio.create_task(double(batcher, 0))
        await wait_in_loop_until(work.began.is_set)
        others = [
            asyncio.create_task(double(batcher, job, deadline))
            for job, deadline in ((7, None), (1, gone), (2, None))
        ]
        await wait_in_loop_until(lambda: batcher.waiting == 3)
        work.go_on.set()
        outcomes = await asyncio.gather(first, *others, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [int, ValueError, ClientGoneError, int]

    run(work, scenario, search=search)
    assert work.batches == [[0], [7, 1, 2], [7], [2]]


def test_what_nobody_waits_for_is_not_worked_on() -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        work.go_on.clear()
        first = asyncio.create_task(double(batcher, 0))
        await wait_in_loop_until(work.began.is_set)
        gone = Deadline(math.inf)
        left = asyncio.create_task(double(batcher, 1, gone))
        late = asyncio.create_task(double(batcher, 2, Deadline(-1)))
        wanted = asyncio.create_task(double(batcher, 3))
        await wait_in_loop_until(lambda: batcher.waiting == 3)
        gone.give_up()
        work.go_on.set()
        assert await asyncio.gather(first, wanted) == [0, 6]
        with pytest.raises(ClientGoneError):
            await left
        with pytest.raises(DeadlineError, match="later"):
            await late

    run(work, scenario)
    assert work.batches == [[0], [3]]


def test_closing_finishes_what_was_taken() -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        work.go_on.clear()
        first = asyncio.create_task(double(batcher, 0))
        await wait_in_loop_until(work.began.is_set)
        second = asyncio.create_task(double(batcher, 1))
        await wait_in_loop_until(lambda: batcher.waiting == 1)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close, 30))
        work.go_on.set()
        assert await asyncio.gather(first, second) == [0, 2]
        await closing

    run(work, scenario)


def test_it_says_since_when_it_is_busy() -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        assert batcher.busy_since is None
        work.go_on.clear()
        job = asyncio.create_task(double(batcher, 0))
        await wait_in_loop_until(work.began.is_set)
        assert batcher.busy_since is not None
        assert batcher.busy_since <= time.monotonic()
        work.go_on.set()
        await job
        assert batcher.busy_since is None

    run(work, scenario)
