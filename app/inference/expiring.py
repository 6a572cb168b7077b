"""A store that keeps bytes in memory for a limited time, under random identifiers."""

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

from app.auth.holdings import Holdings

OVERHEAD = 512  # approximate bytes of an entry beside its content
SHARE = 4  # one caller's entries take this part of the memory, one in so many


def random_id() -> str:
    """Return an identifier of 192 random bits, safe in a URL.

    It begins with a letter or digit, since tables take a text that begins with a sign for a
    formula.
    """
    identifier = secrets.token_urlsafe(24)
    return identifier if identifier[0].isalnum() else random_id()


class _Entry(NamedTuple):
    content: bytes
    expires: float
    caller: str | None


class ExpiringStore:
    """Stores bytes under identifiers for a limited time. Thread-safe.

    The entries of one caller take at most a part of the memory (`SHARE`), so that no caller drops
    those of all others. This machine may take all, since a proxy here stands for many callers.

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
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._of_callers: dict[str, deque[str]] = {}  # identifiers, the oldest first
        self._taken = Holdings()  # bytes of callers

    def store(self, identifier: str, content: bytes, caller: str | None = None) -> None:
        """Store bytes under a new identifier.

        Args:
            identifier: from `random_id`.
            content: the bytes.
            caller: whom the entry is for; None for this machine.
        """
        size = len(content) + OVERHEAD
        with self._lock:
            self._bytes += size
            self._entries[identifier] = _Entry(content, self._clock() + self.seconds, caller)
            if caller:
                own = self._of_callers.setdefault(caller, deque())
                own.append(identifier)
                self._taken.add(caller, size)
                while self._taken[caller] > self._max_bytes // SHARE and len(own) > 1:
                    self._drop(own[0])
            self._drop_old()

    def find(self, identifier: str) -> tuple[bytes, float] | None:
        """Return an entry's bytes and its remaining lifetime in seconds; None without one."""
        with self._lock:
            self._drop_old()
            entry = self._entries.get(identifier)
            now = self._clock()
        return entry and (entry.content, entry.expires - now)

    def _drop_old(self) -> None:
        while self._entries:
            identifier, entry = next(iter(self._entries.items()))
            if entry.expires > self._clock() and self._bytes <= self._max_bytes:
                break
            self._drop(identifier)

    def _drop(self, identifier: str) -> None:
        """Drop an entry, the oldest of its caller."""
        content, _, caller = self._entries.pop(identifier)
        size = len(content) + OVERHEAD
        self._bytes -= size
        if caller:
            self._taken.add(caller, -size)
            self._of_callers[caller].popleft()
            if not self._of_callers[caller]:
                del self._of_callers[caller]  # the number of callers is not bounded
        self._dropped(identifier)

    def _dropped(self, identifier: str) -> None:
        """Forget further data of an entry that was dropped."""
