"""Threads that work for the event loop, and give way to it."""

import os
import sys
import threading

NICENESS = 19  # the most that there is


def give_way() -> None:
    """Run this thread, and those it starts, only where the event loop need not.

    Accepting, refusing and saying that all is well take microseconds, but every one of them would
    wait behind threads that decode and embed; and while the event loop is kept from running it
    holds the interpreter's lock, so that these wait as well. Only Linux knows this of threads.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
