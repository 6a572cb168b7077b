"""Retries of a request, limited in number and in time."""

import email.utils
import random
import time
from datetime import UTC, datetime

import httpx

RETRIED_STATUS = frozenset({429, 503})
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0  # seconds


class Retries:
    """The retries and the time left for one call.

    Args:
        retries: attempts after the first, at most.
        seconds: time limit of the call, pauses included.
        repeatable: True if the server may carry the request out twice.
    """

    def __init__(self, *, retries: int, seconds: float, repeatable: bool = True) -> None:
        self._retries = retries
        self._ends = time.monotonic() + seconds
        self._repeatable = repeatable
        self._pause = FIRST_PAUSE

    @property
    def left(self) -> float:
        """Return the seconds left for the next attempt."""
        return max(0.0, self._ends - time.monotonic())

    def pause(self, outcome: httpx.Response | httpx.RequestError) -> float | None:
        """Return the seconds to wait before the next attempt; None if there is to be none."""
        if not (self._retries and self._may_help(outcome)):
            return None
        self._retries -= 1
        asked = retry_after(outcome) if isinstance(outcome, httpx.Response) else None
        # Full jitter: clients that were refused together do not come back together.
        wait = (asked or 0.0) + random.uniform(0, self._pause)  # noqa: S311 no secret
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return wait if wait < self.left else None

    def _may_help(self, outcome: httpx.Response | httpx.RequestError) -> bool:
        if isinstance(outcome, httpx.Response):
            # The server sends 429 before it does anything, 503 possibly after it.
            return outcome.status_code in RETRIED_STATUS and (
                self._repeatable or outcome.status_code != httpx.codes.SERVICE_UNAVAILABLE
            )
        never_sent = isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout)
        return never_sent or (
            self._repeatable and isinstance(outcome, httpx.NetworkError | httpx.RemoteProtocolError)
        )


def retry_after(response: httpx.Response) -> float | None:
    """Return the seconds that Retry-After asks to wait; None if it is absent or invalid."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value[:9])
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(when.tzinfo or UTC)).total_seconds())
