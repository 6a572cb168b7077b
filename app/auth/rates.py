"""Rate limits: a moving window for each key, or for each address without keys."""

import math
import time
from typing import Annotated

from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
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

    Args:
        default: rate of callers without their own, such as ``600/minute``; None is no limit.
    """

    def __init__(self, default: str | None) -> None:
        self._default = default
        self._storage = MemoryStorage()
        self._limiter = MovingWindowRateLimiter(self._storage)
        self._hits = 0

    def admit(self, caller: str, rate: str | None = None) -> None:
        """Count a request of a caller; ``rate`` overrides the default.

        Raises:
            RateLimitedError: the rate is exceeded; the request was not counted.
        """
        rate = rate or self._default
        if rate is None:
            return
        self._sweep()
        item = parse(rate)
        if self._limiter.hit(item, caller):
            return
        # The window is full until its oldest request leaves it.
        free_at = self._limiter.get_window_stats(item, caller).reset_time
        wait = max(1, math.ceil(free_at - time.time()))
        raise RateLimitedError(
            f"more than {rate} requests: wait {wait} seconds before the next", retry_after=wait
        )

    def _sweep(self) -> None:
        """Remove callers without a request in their window, which the storage would keep."""
        self._hits += 1
        if self._hits % SWEEP == 0:
            for name in [name for name, events in self._storage.events.items() if not events]:
                self._storage.clear(name)
