"""The store of heatmaps: keeps PNGs in memory for a limited time, until clients fetch them."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.errors import HeatmapGoneError
from index.answering.explanation import Explanation

OVERHEAD = 512  # approximate bytes of an entry beside its PNG


@dataclass(frozen=True)
class HeatmapPair:
    """The identifiers of the stored heatmaps of a query and an exemplar."""

    query_id: str
    exemplar_id: str
    expires_at: datetime


class HeatmapStore:
    """Stores PNGs under random identifiers for a limited time. Thread-safe.

    Args:
        seconds: lifetime of each.
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
        self._exemplars: dict[str, str] = {}  # identifier -> exemplar that it explains

    def put(self, png: bytes, exemplar: str | None = None) -> str:
        """Store a PNG and return its identifier of 192 random bits.

        Args:
            png: its bytes.
            exemplar: id of the exemplar that it explains.
        """
        identifier = secrets.token_urlsafe(24)
        with self._lock:
            self._bytes += len(png) + OVERHEAD
            self._entries[identifier] = (png, self._clock() + self.seconds)
            if exemplar is not None:
                self._exemplars[identifier] = exemplar
            self._drop_old()
        return identifier

    def get(self, identifier: str) -> tuple[bytes, float]:
        """Return a PNG and its remaining lifetime in seconds.

        Raises:
            HeatmapGoneError: there is none of that identifier, or it has expired.
        """
        with self._lock:
            self._drop_old()
            entry = self._entries.get(identifier)
            now = self._clock()
        if entry is None:
            raise HeatmapGoneError(
                "this heatmap does not exist or has expired: heatmaps are kept for at most "
                f"{self.seconds:.0f} seconds; ask again with explain=true"
            )
        png, expires = entry
        return png, expires - now

    def exemplar(self, identifier: str) -> str | None:
        """Return the id of the exemplar that a heatmap explains, if it is known."""
        with self._lock:
            return self._exemplars.get(identifier)

    def put_all(self, explanations: Mapping[str, Explanation]) -> dict[str, HeatmapPair]:
        """Draw and store the heatmaps of an answer; return their identifiers by exemplar id."""
        expires_at = datetime.now(UTC) + timedelta(seconds=self.seconds)
        return {
            exemplar: HeatmapPair(
                self.put(explanation.query.png(), exemplar),
                self.put(explanation.exemplar.png(), exemplar),
                expires_at,
            )
            for exemplar, explanation in explanations.items()
        }

    def _drop_old(self) -> None:
        while self._entries:
            identifier, (png, expires) = next(iter(self._entries.items()))
            if expires > self._clock() and self._bytes <= self._max_bytes:
                break
            del self._entries[identifier]
            self._exemplars.pop(identifier, None)
            self._bytes -= len(png) + OVERHEAD
