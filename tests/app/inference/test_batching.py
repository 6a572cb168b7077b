"""The batcher alone: what is worked on together, what is dropped, what failure spoils."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from app.errors import ClientGoneError, DeadlineError
from app.inference.batching import Batcher
from app.inference.deadline import Patience

ENDLESS = Patience(math.inf)
Numbers = Batcher[int, list[int], int]


class Work:
    """Doubles numbers, keeps the batches it saw, and can be held back; 13 is bad luck."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, jobs: list[int]) -> list[int]:
        self.began.set()
        assert self.go_on.wait(30)
        self.batches.append(jobs)
        if 13 in jobs:
            raise ValueError("13")
        return [2 * job for job in jobs]


def run(
    work: Work,
    scenario: Callable[[Numbers], Coroutine[Any, Any, None]],
    *,
    size: int = 4,
    wait: float = 0.0,
    finish: Callable[[list[int]], list[int]] = list,
) -> None:
    batcher: Numbers = Batcher(work, finish, size=size, wait=wait)
    batcher.start()
    try:
        asyncio.run(scenario(batcher))
    finally:
        work.go_on.set()
        batcher.close(30)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def test_what_no_job_is_to_blame_for_is_not_tried_job_by_job() -> None:
    work = Work()
    batcher: Numbers = Batcher(work, list, size=4, wait=0, blameless=(ValueError,))

    async def ask() -> list[int | BaseException]:
        work.go_on.clear()
        first = asyncio.create_task(batcher.submit(1, ENDLESS))
        await until(work.began.is_set)
        others = [asyncio.create_task(batcher.submit(job, ENDLESS)) for job in (2, 13, 3)]
        await until(lambda: batcher.waiting == 3)
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
        first = asyncio.create_task(batcher.submit(0, ENDLESS))
        await until(work.began.is_set)
        others = [asyncio.create_task(batcher.submit(n, ENDLESS)) for n in range(1, 8)]
        await until(lambda: batcher.waiting == 7)
        work.go_on.set()
        assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10, 12, 14]

    run(work, scenario)
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_a_lone_job_does_not_wait_for_company() -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        async with asyncio.timeout(10):
            assert await batcher.submit(1, ENDLESS) == 2

    run(work, scenario, wait=3600)


def test_a_job_waits_for_one_that_is_expected() -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        with batcher.expected():
            first = asyncio.create_task(batcher.submit(1, ENDLESS))
            await asyncio.sleep(0.05)
            assert not work.batches
        assert await asyncio.gather(first, batcher.submit(2, ENDLESS)) == [2, 4]

    run(work, scenario, size=2, wait=3600)


def test_it_does_not_wait_for_longer_than_it_may() -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        with batcher.expected():
            async with asyncio.timeout(30):
                assert await batcher.submit(1, ENDLESS) == 2

    run(work, scenario, wait=0.01)


def test_the_next_batch_begins_while_one_is_finished() -> None:
    work, let_first_end = Work(), threading.Event()

    def finish(numbers: list[int]) -> list[int]:
        assert numbers != [2] or let_first_end.wait(30)
        return numbers

    async def scenario(batcher: Numbers) -> None:
        first = asyncio.create_task(batcher.submit(1, ENDLESS))
        await until(lambda: work.batches == [[1]])
        assert await batcher.submit(2, ENDLESS) == 4
        assert not first.done()
        let_first_end.set()
        assert await first == 2

    try:
        run(work, scenario, finish=finish)
    finally:
        let_first_end.set()


def test_no_two_batches_begin_at_the_same_time() -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        work.go_on.clear()
        jobs = [asyncio.create_task(batcher.submit(number, ENDLESS)) for number in (1, 2)]
        await until(lambda: batcher.waiting == 1)
        await asyncio.sleep(0.05)
        assert batcher.waiting == 1
        work.go_on.set()
        assert await asyncio.gather(*jobs) == [2, 4]

    run(work, scenario, size=1)


def no_fourteen(numbers: list[int]) -> list[int]:
    if 14 in numbers:
        raise ValueError("14")
    return numbers


@pytest.mark.parametrize(
    ("finish", "jobs"),
    [(list, (0, 1, 13, 2)), (no_fourteen, (1, 2, 7, 3))],
    ids=["begin", "finish"],
)
def test_one_bad_job_does_not_spoil_the_others(
    finish: Callable[[list[int]], list[int]], jobs: tuple[int, ...]
) -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        work.go_on.clear()
        first = asyncio.create_task(batcher.submit(jobs[0], ENDLESS))
        await until(work.began.is_set)
        others = [asyncio.create_task(batcher.submit(job, ENDLESS)) for job in jobs[1:]]
        await until(lambda: batcher.waiting == 3)
        work.go_on.set()
        outcomes = await asyncio.gather(first, *others, return_exceptions=True)
        assert [outcomes[i] for i in (0, 1, 3)] == [2 * jobs[i] for i in (0, 1, 3)]
        assert isinstance(outcomes[2], ValueError)
        assert batcher.busy_since is None

    run(work, scenario, finish=finish)


def test_after_a_failed_batch_only_what_is_still_wanted_is_worked_on() -> None:
    work = Work()
    gone = Patience(math.inf)

    def finish(numbers: list[int]) -> list[int]:
        if 14 in numbers:
            gone.give_up()
        return no_fourteen(numbers)

    async def scenario(batcher: Numbers) -> None:
        work.go_on.clear()
        first = asyncio.create_task(batcher.submit(0, ENDLESS))
        await until(work.began.is_set)
        others = [
            asyncio.create_task(batcher.submit(job, patience))
            for job, patience in ((7, ENDLESS), (1, gone), (2, ENDLESS))
        ]
        await until(lambda: batcher.waiting == 3)
        work.go_on.set()
        outcomes = await asyncio.gather(first, *others, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [int, ValueError, ClientGoneError, int]

    run(work, scenario, finish=finish)
    assert work.batches == [[0], [7, 1, 2], [7], [2]]


def test_what_nobody_waits_for_is_not_worked_on() -> None:
    work = Work()

    async def scenario(batcher: Numbers) -> None:
        work.go_on.clear()
        first = asyncio.create_task(batcher.submit(0, ENDLESS))
        await until(work.began.is_set)
        gone = Patience(math.inf)
        left = asyncio.create_task(batcher.submit(1, gone))
        late = asyncio.create_task(batcher.submit(2, Patience(-1)))
        wanted = asyncio.create_task(batcher.submit(3, ENDLESS))
        await until(lambda: batcher.waiting == 3)
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
        first = asyncio.create_task(batcher.submit(0, ENDLESS))
        await until(work.began.is_set)
        second = asyncio.create_task(batcher.submit(1, ENDLESS))
        await until(lambda: batcher.waiting == 1)
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
        job = asyncio.create_task(batcher.submit(0, ENDLESS))
        await until(work.began.is_set)
        assert batcher.busy_since is not None
        assert batcher.busy_since <= time.monotonic()
        work.go_on.set()
        await job
        assert batcher.busy_since is None

    run(work, scenario)
