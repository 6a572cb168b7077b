"""Waits for other threads and processes, however busy the machine is."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

NEVER = 120.0  # seconds after which a test gives up

Found = TypeVar("Found")


def wait_until(condition: Callable[[], Found]) -> Found:
    """Call ``condition`` until it returns something true, and return that."""
    until = time.monotonic() + NEVER
    while not (found := condition()):
        assert time.monotonic() < until, f"it did not happen within {NEVER:g} seconds"
        time.sleep(0.01)
    return found


async def wait_in_loop_until(condition: Callable[[], Found]) -> Found:
    """Do as `wait_until` does, and let the event loop run meanwhile."""
    async with asyncio.timeout(NEVER):
        while not (found := condition()):
            await asyncio.sleep(0.001)
    return found
