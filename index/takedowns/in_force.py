"""The takedowns in force, and the exemplars that they hide.

A takedown hides every image with the content of one of its files, under any name and in any
concept; every near-duplicate of one of its files; and, if it is of a concept, every image of the
concept with that id.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from index.catalog import Catalog, Exemplar
from index.errors import TakedownError
from index.names import concept_id as name_id
from index.names import fold
from index.stores.vectors import Rows
from index.takedowns.fingerprints import FingerprintIndex, Fingerprints, as_fingerprints
from index.takedowns.records import RECORD, Extent, Lift, Takedown

How = Literal["named", "same content", "near-duplicate"]
REMEDY = (
    "run `whence takedown repair --from BACKUP` (without --from where a running server has left "
    "its copy), or, if there is no copy, use the log as it is by `whence takedown accept --reason "
    "TEXT` and name the lost works again"
)
HiddenRows = Mapping[str, Rows]  # id of a takedown -> the rows of an index that it hides, ascending


@dataclass(frozen=True)
class Takedowns:
    """Holds the takedowns in force and those lifted, as read from a log."""

    active: tuple[Takedown, ...] = ()
    lifted: Mapping[str, tuple[Takedown, Lift]] = field(default_factory=dict)
    path: Path = Path("takedowns.jsonl")
    digests: tuple[str, ...] = (Extent().sha256,)  # of the first 0, 1, 2, ... records
    accepted: frozenset[Extent] = frozenset()
    lines: tuple[bytes, ...] = ()  # the log's records as they were read, to restore it from

    def __post_init__(self) -> None:
        contents: dict[str, Takedown] = {}
        concepts: dict[str, Takedown] = {}
        owners: list[Takedown] = []
        for takedown in self.active:
            if takedown.kind == "concept":
                concepts.setdefault(takedown.target, takedown)
            for content in takedown.contents:
                contents.setdefault(content.sha256, takedown)
                owners.append(takedown)
        object.__setattr__(self, "_contents", contents)
        object.__setattr__(self, "_concepts", concepts)
        object.__setattr__(self, "_owners", owners)

    _contents: Mapping[str, Takedown] = field(init=False, repr=False, compare=False)
    _concepts: Mapping[str, Takedown] = field(init=False, repr=False, compare=False)
    _owners: Sequence[Takedown] = field(init=False, repr=False, compare=False)

    @property
    def extent(self) -> Extent:
        """Return the log's extent."""
        return Extent(records=len(self.digests) - 1, sha256=self.digests[-1])

    def begins_with(self, extent: Extent) -> bool:
        """Return True if the log begins with the records of ``extent``."""
        return self.digests[extent.records : extent.records + 1] == (extent.sha256,)

    def require(self, extent: Extent, witness: str) -> None:
        """Check that the log begins with the records of ``extent``, or that an accept names it.

        Args:
            extent: recorded elsewhere.
            witness: the place where it was recorded, for the message.

        Raises:
            TakedownError: the log is another one, or has lost records.
        """
        if self.begins_with(extent) or extent in self.accepted:
            return
        fault = (
            f"holds {len(self.digests) - 1} records of at least {extent.records}"
            if extent.records >= len(self.digests)
            else f"is another one than the log of {extent.records} records"
        )
        raise TakedownError(
            f"the takedown log {self.path} {fault} in {witness}; nothing is served or rebuilt, and "
            f"no takedown recorded, since withdrawn works could come back: {REMEDY}"
        )

    def recorded_in(self, extent: Extent) -> set[str]:
        """Return the ids of the takedowns that a log of this extent held.

        Returns:
            No id if the log does not begin with these records.
        """
        if not self.begins_with(extent):
            return set()
        records = map(RECORD.validate_json, self.lines[: extent.records])
        return {record.id for record in records if isinstance(record, Takedown)}

    @property
    def spared(self) -> set[str]:
        """Return the SHA-256 of files that are no copies of others: their takedown was lifted."""
        lifted = {content.sha256 for one, _ in self.lifted.values() for content in one.contents}
        return lifted - {content.sha256 for one in self.active for content in one.contents}

    def of_name(self, concept_id: str, name: str) -> Takedown | None:
        """Return the takedown of a concept that has this id or, in any case and form, this name."""
        ids = {concept_id, name_id(name)}
        for takedown in self.active:
            if takedown.kind == "concept" and (
                takedown.target in ids or fold(takedown.name or takedown.target) == fold(name)
            ):
                return takedown
        return None

    def of_exemplar(self, sha256: str, concept_id: str) -> Takedown | None:
        """Return the takedown that names this content or concept."""
        return self._contents.get(sha256) or self._concepts.get(concept_id)

    def of_fingerprints(self, fingerprints: Sequence[bytes]) -> list[Takedown | None]:
        """Return for each fingerprint the takedown of a near-duplicate, if there is one."""
        found: list[Takedown | None] = [None] * len(fingerprints)
        index = FingerprintIndex(as_fingerprints(fingerprints))
        for place, row in zip(*index.near_duplicates(_fingerprints(self.active)), strict=True):
            found[row] = found[row] or self._owners[place]
        return found

    def hidden_rows(
        self, catalog: Catalog, fingerprints: FingerprintIndex, before: HiddenRows
    ) -> dict[str, Rows]:
        """Return the rows of an index that each takedown in force hides.

        Args:
            catalog: of the index.
            fingerprints: of its rows.
            before: an earlier result for this index, reused for takedowns in it.
        """
        fresh = [takedown for takedown in self.active if takedown.id not in before]
        found = {takedown.id: [_named(takedown, catalog)] for takedown in fresh}
        owners = [takedown.id for takedown in fresh for _ in takedown.contents]
        places, rows = fingerprints.near_duplicates(_fingerprints(fresh))
        for place in np.unique(places):
            found[owners[place]].append(rows[places == place])
        fresh_rows = {identifier: np.unique(np.concatenate(r)) for identifier, r in found.items()}
        return {t.id: before[t.id] if t.id in before else fresh_rows[t.id] for t in self.active}


@dataclass(frozen=True)
class Hidden:
    """An exemplar that a takedown hides."""

    exemplar: Exemplar
    how: How


def hidden_by(takedown: Takedown, catalog: Catalog, fingerprints: FingerprintIndex) -> list[Hidden]:
    """Return the exemplars of an index that a takedown hides, by row, each with the reason.

    Args:
        takedown: to look up.
        catalog: the exemplars visible now; hidden ones are not listed.
        fingerprints: of the index's rows.
    """
    [rows] = Takedowns((takedown,)).hidden_rows(catalog, fingerprints, {}).values()
    contents = {content.sha256 for content in takedown.contents}
    hidden = []
    for _, exemplar in sorted(catalog.exemplars_by_row(rows.tolist()).items()):
        how: How = "same content" if exemplar.sha256 in contents else "near-duplicate"
        if (takedown.kind, takedown.target) in {
            ("concept", exemplar.concept_id),
            ("exemplar", exemplar.id),
        }:
            how = "named"
        hidden.append(Hidden(exemplar, how))
    return hidden


def all_rows(hidden: HiddenRows) -> Rows:
    """Return all rows that takedowns hide, ascending."""
    return np.unique(np.concatenate([[], *hidden.values()]).astype(np.int64))


def _named(takedown: Takedown, catalog: Catalog) -> Rows:
    concepts = [takedown.target] if takedown.kind == "concept" else []
    hashes = [content.sha256 for content in takedown.contents]
    return np.asarray(catalog.rows_of(hashes, concepts), dtype=np.int64)


def _fingerprints(takedowns: Iterable[Takedown]) -> Fingerprints:
    """Return a row for each content of each takedown, in order."""
    return as_fingerprints(
        [base64.b64decode(content.fingerprint) for one in takedowns for content in one.contents]
    )
