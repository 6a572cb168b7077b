"""Threads that work for the event loop, and give way to it."""

import os
import sys
import threading
from contextlib import suppress


def give_way() -> None:
    """Run this thread, and those it starts, only where the event loop need not.

    Accepting, refusing and saying that all is well take microseconds, but every one of them would
    wait behind threads that decode and embed; and while the event loop is kept from running it
    holds the interpreter's lock, so that these wait as well. Only Linux knows this of threads.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may not know of it
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
