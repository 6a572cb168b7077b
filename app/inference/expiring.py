"""A store that keeps bytes in memory for a limited time, under random identifiers."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

OVERHEAD = 512  # approximate bytes of an entry beside its content


def random_id() -> str:
    """Return an identifier of 192 random bits, safe in a URL."""
    return secrets.token_urlsafe(24)


class ExpiringStore:
    """Stores bytes under identifiers for a limited time. Thread-safe.

    Args:
        seconds: lifetime of each entry.
        max_bytes: of all; when it is exceeded, the oldest are dropped early.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, seconds: float, max_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = seconds
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._bytes = 0
        # All lifetimes are equal, so insertion order is the order of expiry.
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    def store(self, identifier: str, content: bytes) -> None:
        """Store bytes under a new identifier."""
        with self._lock:
            self._bytes += len(content) + OVERHEAD
            self._entries[identifier] = (content, self._clock() + self.seconds)
            self._drop_old()

    def find(self, identifier: str) -> tuple[bytes, float] | None:
        """Return an entry's bytes and its remaining lifetime in seconds; None without one."""
        with self._lock:
            self._drop_old()
            entry = self._entries.get(identifier)
            now = self._clock()
        return entry and (entry[0], entry[1] - now)

    def _drop_old(self) -> None:
        while self._entries:
            identifier, (content, expires) = next(iter(self._entries.items()))
            if expires > self._clock() and self._bytes <= self._max_bytes:
                break
            del self._entries[identifier]
            self._dropped(identifier)
            self._bytes -= len(content) + OVERHEAD

    def _dropped(self, identifier: str) -> None:
        """Forget further data of an entry that was dropped."""
