"""Deadlines as the event loops keep them."""

import asyncio
from collections.abc import Callable

import pytest

from app.errors import DeadlineError
from app.inference.deadline import Patience


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_deadline_is_told_even_by_a_timer_that_is_early(loop: str) -> None:
    new_loop: Callable[[], asyncio.AbstractEventLoop]
    new_loop = pytest.importorskip(loop).new_event_loop  # uvloop's clock has whole milliseconds

    async def wait() -> None:
        for number in range(50):
            with pytest.raises(DeadlineError):
                await Patience(0.002 + number / 1e5).wait_for(asyncio.sleep(1))

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(wait())


def test_a_timeout_of_the_work_is_its_own() -> None:
    async def work() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(Patience(60).wait_for(work()))
