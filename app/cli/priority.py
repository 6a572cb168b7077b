"""Priority, memory and threads of long commands."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from app.settings import read_settings
from model.memory import keep_freed_memory

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


def begin_long_work(niceness: int = 0) -> None:
    """Prepare this process for long work, before it imports PyTorch.

    It lowers the priority, keeps freed memory, lets threads sleep while they wait, and takes as
    many inference threads as WHENCE_THREADS or the cores allow.

    Raises:
        SettingsError: a setting in the environment is invalid.
    """
    threads = read_settings().threads
    lower_priority(niceness)
    keep_freed_memory()
    # Read when PyTorch is imported. Threads that spin take the cores from those that decode.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from model.engines import set_threads

    set_threads(threads)


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
