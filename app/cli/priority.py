"""CPU priority of long commands, lower than that of a server on the same machine."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

NICENESS = 10  # the default of `nice`

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
    """Raise the niceness of this process and its future children to ``niceness``.

    Linux has a niceness per thread, and libraries start threads at import, so each thread is set. A
    higher niceness is kept. Windows has no niceness.
    """
    if sys.platform == "win32":
        return
    tasks = Path("/proc/self/task")
    threads = [int(task.name) for task in tasks.iterdir()] if tasks.is_dir() else [0]
    for thread in threads:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            if os.getpriority(os.PRIO_PROCESS, thread) < niceness:
                os.setpriority(os.PRIO_PROCESS, thread, niceness)
