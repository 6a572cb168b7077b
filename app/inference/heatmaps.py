"""The store of heatmaps: keeps PNGs in memory for a limited time, until clients fetch them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from app.errors import HeatmapGoneError
from app.inference.expiring import ExpiringStore, random_id
from index.answering.explanation import Explanation


@dataclass(frozen=True)
class HeatmapPair:
    """The identifiers of the stored heatmaps of a query and an exemplar."""

    query_id: str
    exemplar_id: str
    expires_at: datetime


class HeatmapStore(ExpiringStore):
    """Stores the PNGs of heatmaps; see `ExpiringStore` for the arguments."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._exemplars: dict[str, str] = {}  # identifier -> exemplar that it explains

    def put(self, png: bytes, exemplar: str | None = None, caller: str | None = None) -> str:
        """Store a PNG and return its identifier of 192 random bits.

        Args:
            png: its bytes.
            exemplar: id of the exemplar that it explains.
            caller: as of `ExpiringStore.store`.
        """
        identifier = random_id()
        if exemplar is not None:
            with self._lock:
                self._exemplars[identifier] = exemplar
        self.store(identifier, png, caller)
        return identifier

    def get(self, identifier: str) -> tuple[bytes, float]:
        """Return a PNG and its remaining lifetime in seconds.

        Raises:
            HeatmapGoneError: there is none of that identifier, or it has expired.
        """
        found = self.find(identifier)
        if found is None:
            raise HeatmapGoneError(
                "this heatmap does not exist or has expired: heatmaps are kept for at most "
                f"{self.seconds:.0f} seconds; ask again with explain=true"
            )
        return found

    def exemplar(self, identifier: str) -> str | None:
        """Return the id of the exemplar that a heatmap explains, if it is known."""
        with self._lock:
            return self._exemplars.get(identifier)

    def put_all(
        self, explanations: Mapping[str, Explanation], caller: str | None = None
    ) -> dict[str, HeatmapPair]:
        """Draw and store the heatmaps of an answer; return their identifiers by exemplar id.

        Args:
            explanations: by exemplar id.
            caller: as of `ExpiringStore.store`.
        """
        expires_at = datetime.now(UTC) + timedelta(seconds=self.seconds)
        return {
            exemplar: HeatmapPair(
                self.put(explanation.query.png(), exemplar, caller),
                self.put(explanation.exemplar.png(), exemplar, caller),
                expires_at,
            )
            for exemplar, explanation in explanations.items()
        }

    def _dropped(self, identifier: str) -> None:
        self._exemplars.pop(identifier, None)
