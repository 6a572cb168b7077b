"""Wait for other threads and processes without timing assumptions."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

NEVER = 120.0  # seconds after which a test gives up

Found = TypeVar("Found")


def wait_until(condition: Callable[[], Found]) -> Found:
    """Call ``condition`` until it returns a true value, and return the value."""
    until = time.monotonic() + NEVER
    while not (found := condition()):
        assert time.monotonic() < until, f"it did not happen within {NEVER:g} seconds"
        time.sleep(0.01)
    return found


async def wait_in_loop_until(condition: Callable[[], Found]) -> Found:
    """Wait as `wait_until` does, while the event loop runs."""
    async with asyncio.timeout(NEVER):
        while not (found := condition()):
            await asyncio.sleep(0.001)
    return found
