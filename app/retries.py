"""When a client asks again: bounded in number and in time, and not before it is told to."""

import email.utils
import random
import time
from datetime import UTC, datetime

import httpx

AGAIN = frozenset({429, 503})
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0  # seconds


class Retries:
    """What is left of them for one call.

    Args:
        retries: attempts after the first, at most.
        seconds: that the call may take, pauses included.
        repeatable: whether a request that may have been carried out may be sent again.
    """

    def __init__(self, *, retries: int, seconds: float, repeatable: bool = True) -> None:
        self._retries = retries
        self._ends = time.monotonic() + seconds
        self._repeatable = repeatable
        self._pause = FIRST_PAUSE

    @property
    def left(self) -> float:
        """Seconds that the next attempt may take."""
        return max(0.0, self._ends - time.monotonic())

    def pause(self, outcome: httpx.Response | httpx.RequestError) -> float | None:
        """Seconds to wait before asking again; None when ``outcome`` is what remains."""
        if not (self._retries and self._worth_it(outcome)):
            return None
        self._retries -= 1
        told = retry_after(outcome) if isinstance(outcome, httpx.Response) else None
        # Full jitter, so that clients refused together do not come back together.
        wait = (told or 0.0) + random.uniform(0, self._pause)  # noqa: S311 no secret
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return wait if wait < self.left else None

    def _worth_it(self, outcome: httpx.Response | httpx.RequestError) -> bool:
        if isinstance(outcome, httpx.Response):
            # 429 refuses before anything is done; 503 may come after.
            return outcome.status_code in AGAIN and (
                self._repeatable or outcome.status_code != httpx.codes.SERVICE_UNAVAILABLE
            )
        never_sent = isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout)
        return never_sent or (
            self._repeatable and isinstance(outcome, httpx.NetworkError | httpx.RemoteProtocolError)
        )


def retry_after(response: httpx.Response) -> float | None:
    """Seconds that an answer asks to wait, as a number or a date; None if it says neither."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value[:9])
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(when.tzinfo or UTC)).total_seconds())
