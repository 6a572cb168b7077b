"""Rate limits: a moving window for each key, or for each address without keys."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Annotated

from limits import RateLimitItem, parse
from pydantic import AfterValidator

from app.errors import RateLimitedError

SWEEP = 10_000  # requests between two removals of inactive callers
MAX_REQUESTS = 10**9  # in a window
MAX_WINDOW = 366 * 86_400  # seconds


def _check(rate: str) -> str:
    try:
        limit = parse(rate)
    except ValueError as error:
        raise ValueError(f"{rate!r} is no rate; write it as 600/minute or 5/second") from error
    if not (1 <= limit.amount <= MAX_REQUESTS and 1 <= limit.get_expiry() <= MAX_WINDOW):
        raise ValueError(
            f"{rate!r} is out of range: a rate allows 1 to {MAX_REQUESTS:,} requests in at most a "
            "year"
        )
    return rate


Rate = Annotated[str, AfterValidator(_check)]


class RateLimiter:
    """Limits the rate of requests; counts are kept in this process's memory.

    The storage of `limits` reads the system's clock: set back by an hour, it would refuse callers
    for an hour. So the moving window is kept here, by a monotonic clock.

    Args:
        default: rate of callers without their own, such as ``600/minute``; None is no limit.
        clock: monotonic, in seconds.
    """

    def __init__(self, default: str | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._default = default
        self._clock = clock
        # Of each caller and rate: the times at which its requests leave the window, ascending.
        self._leaving: dict[tuple[str, str], deque[float]] = {}
        self._lock = threading.Lock()
        self._hits = 0

    def admit(self, caller: str, rate: str | None = None) -> None:
        """Count a request of a caller; ``rate`` overrides the default.

        Raises:
            RateLimitedError: the rate is exceeded; the request was not counted.
        """
        rate = rate or self._default
        if rate is None:
            return
        item = _parsed(rate)
        with self._lock:
            now = self._clock()
            self._sweep(now)
            window = self._leaving.setdefault((caller, rate), deque())
            while window and window[0] <= now:
                window.popleft()
            if len(window) < item.amount:
                window.append(now + item.get_expiry())
                return
            wait = max(1, math.ceil(window[0] - now))
        raise RateLimitedError(
            f"more than {rate} requests: wait {wait} seconds before the next", retry_after=wait
        )

    def _sweep(self, now: float) -> None:
        """Forget callers without a request in their window."""
        self._hits += 1
        if self._hits % SWEEP == 0:
            for key in [key for key, window in self._leaving.items() if window[-1] <= now]:
                del self._leaving[key]


@cache
def _parsed(rate: str) -> RateLimitItem:
    return parse(rate)
