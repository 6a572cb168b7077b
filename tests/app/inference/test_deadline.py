"""Deadlines as the event loops keep them."""

import asyncio
import math
from collections.abc import Callable

import pytest

from app.errors import DeadlineError
from app.inference.deadline import Deadline


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_deadline_is_told_even_by_a_timer_that_is_early(loop: str) -> None:
    new_loop: Callable[[], asyncio.AbstractEventLoop]
    new_loop = pytest.importorskip(loop).new_event_loop  # uvloop's clock has whole milliseconds

    async def wait() -> None:
        for number in range(50):
            work = asyncio.create_task(asyncio.Event().wait())
            with pytest.raises(DeadlineError):
                await Deadline(0.002 + number / 1e5).wait_for(work)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(wait())


def test_a_timeout_of_the_work_is_its_own() -> None:
    async def work() -> None:
        raise TimeoutError("its own")

    async def wait() -> None:
        await Deadline(math.inf).wait_for(asyncio.create_task(work()))

    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(wait())
