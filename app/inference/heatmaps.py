"""Heatmaps between the answer that names them and the page that shows them: in memory, not long."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.errors import HeatmapGoneError
from index.answering.explanation import Explanation

OVERHEAD = 512  # bytes of an entry beside its picture, roughly


@dataclass(frozen=True)
class HeatmapPair:
    """The stored heatmaps of a query and an exemplar."""

    query_id: str
    exemplar_id: str
    expires_at: datetime


class HeatmapStore:
    """PNGs by an identifier that cannot be guessed; each lives for a set time. Thread-safe.

    Args:
        seconds: how long each is kept.
        max_bytes: of all; when a new one does not fit, the oldest go before their time.
        clock: seconds that only rise.
    """

    def __init__(
        self, seconds: float, max_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = seconds
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._bytes = 0
        # All live equally long, so the order of arrival is the order of expiry.
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    def put(self, png: bytes) -> str:
        """Keep a picture; its identifier: 192 random bits."""
        identifier = secrets.token_urlsafe(24)
        with self._lock:
            self._bytes += len(png) + OVERHEAD
            self._entries[identifier] = (png, self._clock() + self.seconds)
            self._drop_old()
        return identifier

    def get(self, identifier: str) -> tuple[bytes, float]:
        """A picture and the seconds it has left.

        Raises:
            HeatmapGoneError: there is none of that identifier, or not any more.
        """
        with self._lock:
            self._drop_old()
            found = self._entries.get(identifier)
            now = self._clock()
        if found is None:
            raise HeatmapGoneError(
                "there is no heatmap at this address, or not any more: they are kept for "
                f"{self.seconds:.0f} seconds at most; ask again with explain=true"
            )
        png, expires = found
        return png, expires - now

    def put_all(self, explanations: Mapping[str, Explanation]) -> dict[str, HeatmapPair]:
        """Draw and keep the heatmaps of an answer, by exemplar id."""
        expires_at = datetime.now(UTC) + timedelta(seconds=self.seconds)
        return {
            exemplar: HeatmapPair(
                self.put(explanation.query.png()), self.put(explanation.exemplar.png()), expires_at
            )
            for exemplar, explanation in explanations.items()
        }

    def _drop_old(self) -> None:
        while self._entries:
            png, expires = next(iter(self._entries.values()))
            if expires > self._clock() and self._bytes <= self._max_bytes:
                break
            self._entries.popitem(last=False)
            self._bytes -= len(png) + OVERHEAD
