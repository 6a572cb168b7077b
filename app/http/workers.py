"""Refuses a second worker process, as of `uvicorn --workers 2`.

Heatmaps, metrics, rates and the queue are in the memory of one process, and inference uses every
core from there. Several servers behind a proxy share a load (docs/scale.md).
"""

import logging
import multiprocessing
import os
import socket
import sys
from functools import lru_cache

NOT_STARTED = 3  # the exit status with which uvicorn and gunicorn do not start a worker again

logger = logging.getLogger(__name__)


def require_only_worker() -> None:
    """End the process with one line in the log if its supervisor has another worker of this app."""
    if (supervisor := _supervisor()) is None or sys.platform != "linux":
        return
    try:
        _hold(supervisor)
    except OSError:
        logger.error(  # noqa: TRY400
            "not started: this is a second worker process, and heatmaps, metrics and limits are in "
            "one process's memory: start one worker, and for more load several servers behind a "
            "proxy (docs/scale.md)"
        )
        sys.exit(NOT_STARTED)


def _supervisor() -> int | None:
    """Return the id of the process that started this one as a worker, or None."""
    if parent := multiprocessing.parent_process():  # of uvicorn, hypercorn or granian
        return parent.pid
    return os.getppid() if os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn/") else None


@lru_cache(maxsize=1)
def _hold(supervisor: int) -> socket.socket:
    """Take a name that only one process may have, until this process ends.

    Raises:
        OSError: another process has it.
    """
    name = socket.socket(socket.AF_UNIX)
    name.bind(f"\0whence-worker-of-{supervisor}")  # in Linux's abstract namespace: no file
    return name
