"""The priority of commands that compute for long: lower than that of a server beside them."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

NICENESS = 10  # as `nice` adds where no other is given

Niceness = Annotated[
    int,
    typer.Option(
        "--nice",
        min=0,
        max=19,
        help="Niceness to run at, so that a server on the same machine goes first; 0 changes "
        "nothing.",
    ),
]


def lower_priority(niceness: int) -> None:
    """Raise the niceness of this process, and of all that it starts, to ``niceness``.

    Linux keeps a niceness for each thread, and libraries start threads while they are imported, so
    each is set. A higher niceness than that stays; other systems than Linux and macOS have none.
    """
    if sys.platform == "win32":
        return
    tasks = Path("/proc/self/task")
    threads = [int(task.name) for task in tasks.iterdir()] if tasks.is_dir() else [0]
    for thread in threads:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            if os.getpriority(os.PRIO_PROCESS, thread) < niceness:
                os.setpriority(os.PRIO_PROCESS, thread, niceness)
