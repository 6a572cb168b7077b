"""Threads that work for the event loop, and give way to it."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

Result = TypeVar("Result")


def give_way() -> None:
    """Run this thread, and those it starts, only where the event loop need not.

    Accepting, refusing and saying that all is well take microseconds, but every one of them would
    wait behind threads that decode and embed; and while the event loop is kept from running it
    holds the interpreter's lock, so that these wait as well. Only Linux knows this of threads.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may not know of it
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))


def run_giving_way(work: Callable[[], Result]) -> Result:
    """What ``work`` returns, on a thread of its own that gives way, as do those it starts.

    An inference engine starts its threads while it is loaded.
    """
    with ThreadPoolExecutor(1, "giving_way", initializer=give_way) as pool:
        return pool.submit(copy_context().run, work).result()
