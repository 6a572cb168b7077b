"""The catalog of exemplars and concepts: one SQLite file per snapshot.

The row of an exemplar here is its row in every facet's vectors. Built once, then read only.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from index.errors import NotFoundError, SnapshotError
from index.names import fold, nfc, words

SCHEMA = """
CREATE TABLE concepts (
    number INTEGER PRIMARY KEY,      -- 0, 1, 2, ...: the concept's place in the arrays
    id     TEXT NOT NULL UNIQUE,
    name   TEXT NOT NULL,
    kind   TEXT
);
CREATE TABLE exemplars (
    row        INTEGER PRIMARY KEY,  -- 0, 1, 2, ...: the row of its vectors
    id         TEXT NOT NULL UNIQUE,
    concept    INTEGER NOT NULL REFERENCES concepts (number),
    sha256     TEXT NOT NULL,        -- of the encoded file
    path       TEXT NOT NULL,
    width      INTEGER NOT NULL,     -- pixels, upright
    height     INTEGER NOT NULL,
    source_url TEXT,
    license    TEXT,
    metadata   TEXT NOT NULL         -- JSON object
);
CREATE INDEX exemplars_by_concept ON exemplars (concept, row);
CREATE INDEX exemplars_by_content ON exemplars (sha256);
CREATE TABLE thumbnails (
    sha256 TEXT PRIMARY KEY,
    jpeg   BLOB NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Concept:
    """A named set of exemplars."""

    number: int
    id: str
    name: str
    kind: str | None
    exemplar_count: int


@dataclass(frozen=True)
class Exemplar:
    """One image of a concept."""

    row: int
    id: str
    concept_id: str
    sha256: str
    path: str
    width: int
    height: int
    source_url: str | None = None
    license: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


# The host of an address; empty for other texts.
HOST = (
    "CASE WHEN instr(source_url, '://') THEN "
    "lower(substr(substr(source_url, instr(source_url, '://') + 3), 1, "
    "instr(substr(source_url, instr(source_url, '://') + 3) || '/', '/') - 1)) ELSE '' END"
)
LISTED = 100  # values of one kind in a summary
SUMMARY = {
    "kinds": "SELECT kind, count(*) AS n FROM concepts WHERE kind <> '' "
    "GROUP BY kind ORDER BY n DESC, kind",
    "licenses": "SELECT license, count(DISTINCT concept) AS n FROM exemplars WHERE license <> '' "
    "GROUP BY license ORDER BY n DESC, license",
    "sources": f"SELECT {HOST} AS host, count(DISTINCT concept) AS n FROM exemplars "
    "WHERE host <> '' GROUP BY host ORDER BY n DESC, host",
}


@dataclass(frozen=True)
class ConceptFilter:
    """The conditions that listed concepts meet; an empty one is met by all.

    Attributes:
        words: each is contained in the name, in any case and normal form.
        kind: of the concept.
        license: of one of its exemplars.
        source: the host of one of its exemplars' addresses.
    """

    words: str = ""
    kind: str = ""
    license: str = ""
    source: str = ""

    def clause(self) -> tuple[str, tuple[str, ...]]:
        """Return a WHERE clause on concepts ``c``, and its values."""
        terms: list[str] = []
        values: list[str] = []
        # A search for marks alone, such as "%", looks for them as they are.
        form = "words" if words(self.words).strip() else "fold"
        for word in (words if form == "words" else fold)(self.words).split():
            terms.append(f"instr({form}(c.name), ?)")
            values.append(word)
        if self.kind:
            terms.append("c.kind = ?")
            values.append(self.kind)
        owned = "EXISTS (SELECT 1 FROM exemplars e WHERE e.concept = c.number AND {})"
        if self.license:
            terms.append(owned.format("license = ?"))
            values.append(self.license)
        if self.source:
            terms.append(owned.format(f"{HOST} = ?"))
            values.append(fold(self.source))
        return f"WHERE {' AND '.join(terms)}" if terms else "", tuple(values)


EVERY = ConceptFilter()


# A temporary view takes precedence over the table of its name, so that queries see visible rows.
HIDE = """
PRAGMA temp_store = MEMORY;
CREATE TEMP TABLE hidden (row INTEGER PRIMARY KEY);
CREATE TEMP VIEW exemplars AS
    SELECT * FROM main.exemplars WHERE row NOT IN (SELECT row FROM hidden);
CREATE TEMP VIEW concepts AS
    SELECT * FROM main.concepts c
    WHERE EXISTS (SELECT 1 FROM exemplars e WHERE e.concept = c.number);
"""


class Catalog:
    """Reads a snapshot's catalog; safe to share between threads.

    Args:
        path: the file.
        hidden: rows to leave out, and with them concepts that have no other row.
    """

    def __init__(self, path: Path, hidden: Iterable[int] = ()) -> None:
        self._path, self._hidden = path, tuple(map(int, hidden))
        try:
            self._file = path.open("rb", buffering=0)
        except FileNotFoundError:
            raise SnapshotError(f"the catalog {path} is missing; run `whence rebuild`") from None
        except OSError as error:
            raise SnapshotError(
                f"the catalog {path} cannot be read ({error.strerror}); give read access, or run "
                "`whence rebuild`"
            ) from error
        self.stamp = self._stamp()
        # immutable: a published file never changes, so SQLite needs no lock files.
        self._db = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        self._db.row_factory = sqlite3.Row
        # SQLite's own LIKE and lower() fold ASCII alone, and ignore normal forms.
        self._db.create_function("fold", 1, fold, deterministic=True)
        self._db.create_function("words", 1, words, deterministic=True)
        self._lock = threading.Lock()
        self._by_form: dict[str, set[str]] | None = None
        rows = [(row,) for row in self._hidden]
        if rows:
            with self._named_faults():
                self._db.executescript(HIDE)
                with self._db:
                    self._db.executemany("INSERT INTO hidden VALUES (?)", rows)

    def close(self) -> None:
        """Release the file."""
        self._db.close()
        self._file.close()

    def check(self) -> None:
        """Check that the file is as it was when it was opened.

        Rows are hidden by number, and vectors belong to rows by number: in a file that was written
        over they are others. A file that was replaced or deleted stays readable.

        Raises:
            SnapshotError: it was written to.
        """
        if self._stamp() != self.stamp:
            raise SnapshotError(
                f"the catalog {self._path} was changed while it was in use; restore it, or run "
                "`whence rebuild`"
            )

    def _stamp(self) -> tuple[int, ...]:
        state = os.fstat(self._file.fileno())
        return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns

    @contextmanager
    def _named_faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            self.check()
            raise SnapshotError(
                f"the catalog {self._path} is damaged ({error}); run `whence rebuild`"
            ) from error

    def concept_count(self, wanted: ConceptFilter = EVERY) -> int:
        """Count the concepts that a filter leaves."""
        where, values = wanted.clause()
        return int(self._all(f"SELECT count(*) FROM concepts c {where}", values)[0][0])

    def exemplar_count(self) -> int:
        """Count the visible exemplars."""
        return int(self._all("SELECT count(*) FROM exemplars")[0][0])

    def concept(self, concept_id: str) -> Concept:
        """Returns the concept of an id, looked up by `concept_named`.

        Raises:
            NotFoundError: there is no such concept, or it is hidden.
        """
        identifier = self.concept_named(concept_id)
        found = self._concepts("WHERE c.id = ?", (identifier,)) if identifier else []
        if not found:
            raise NotFoundError(f"there is no concept {concept_id!r} in this index")
        return found[0]

    def concept_named(self, text: str) -> str | None:
        """Returns the id of the one concept that a text names, hidden ones included.

        An exact id comes first, then an exact name; then both are compared in any case and form of
        Unicode, since keyboards, browsers and file systems differ in these. None if no concept
        matches, or several do.
        """
        if self._all("SELECT 1 FROM main.concepts WHERE id = ?", (text,)):
            return text
        if self._by_form is None:  # a catalog never changes
            known: dict[str, set[str]] = {}
            for identifier, name in self._all("SELECT id, name FROM main.concepts"):
                for label in (identifier, name):
                    for form in {nfc(label), fold(label)}:
                        known.setdefault(form, set()).add(identifier)
            self._by_form = known
        for form in (nfc(text), fold(text)):
            found = self._by_form.get(form, set())
            if len(found) == 1:
                return next(iter(found))
        return None

    def name_of(self, concept_id: str) -> str | None:
        """Return the name of a concept, hidden ones included; None if there is none of that id."""
        found = self._all("SELECT name FROM main.concepts WHERE id = ?", (concept_id,))
        return str(found[0][0]) if found else None

    def concepts(
        self,
        wanted: ConceptFilter = EVERY,
        *,
        most_exemplars_first: bool = False,
        offset: int = 0,
        limit: int | None = None,
    ) -> list[Concept]:
        """List the concepts that a filter leaves, by name or by number of exemplars."""
        where, values = wanted.clause()
        first = "exemplar_count DESC, " if most_exemplars_first else ""
        return self._concepts(
            where,
            (*values, -1 if limit is None else limit, offset),
            tail=f"ORDER BY {first}c.name, c.number LIMIT ? OFFSET ?",
        )

    @cached_property
    def summary(self) -> dict[str, list[tuple[str, int]]]:
        """Return values to filter by, with their number of concepts, the most frequent first.

        Reads the file by a connection of its own: the statements take seconds on an index of
        millions, and answers must not wait for them.
        """
        own = Catalog(self._path, self._hidden)
        with closing(own):
            return {
                name: [(row[0], row[1]) for row in own._all(f"{SUMMARY[name]} LIMIT {LISTED}")]
                for name in SUMMARY
            }

    def concepts_by_number(self, numbers: Sequence[int]) -> dict[int, Concept]:
        """Return the concepts of these numbers."""
        found = self._concepts("WHERE c.number IN (SELECT value FROM json_each(?))", _list(numbers))
        return {concept.number: concept for concept in found}

    def exemplar(self, exemplar_id: str) -> Exemplar:
        """Return the exemplar of an id.

        Raises:
            NotFoundError: there is none of that id.
        """
        found = self._exemplars("WHERE e.id = ?", (exemplar_id,))
        if not found:
            raise NotFoundError(f"there is no exemplar {exemplar_id!r} in this index")
        return found[0]

    def exemplars_of(
        self, concept_id: str, *, offset: int = 0, limit: int | None = None
    ) -> list[Exemplar]:
        """Return the exemplars of a concept, by row; ``limit`` of them after ``offset``."""
        page = (concept_id, -1 if limit is None else limit, offset)
        return self._exemplars("WHERE c.id = ? ORDER BY e.row LIMIT ? OFFSET ?", page)

    def covers(self, concept_ids: Sequence[str]) -> dict[str, str]:
        """Return the id of each concept's first exemplar."""
        found = self._all(
            "SELECT c.id, e.id FROM concepts c JOIN exemplars e ON e.row = "
            "(SELECT min(row) FROM exemplars WHERE concept = c.number) "
            "WHERE c.id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(concept_ids)),),
        )
        return {row[0]: row[1] for row in found}

    def exemplars_by_row(self, rows: Sequence[int]) -> dict[int, Exemplar]:
        """Return the exemplars of these rows."""
        found = self._exemplars("WHERE e.row IN (SELECT value FROM json_each(?))", _list(rows))
        return {exemplar.row: exemplar for exemplar in found}

    def exemplars(self) -> list[Exemplar]:
        """Return all exemplars, by row."""
        return self._exemplars("ORDER BY e.row")

    def exemplar_ids(self) -> list[str]:
        """Return the ids of all exemplars, by row."""
        return [row[0] for row in self._all("SELECT id FROM exemplars ORDER BY row")]

    def concept_numbers(self) -> list[int]:
        """Return each row's concept number, hidden rows included."""
        return [row[0] for row in self._all("SELECT concept FROM main.exemplars ORDER BY row")]

    def rows_of(self, contents: Sequence[str], concept_ids: Sequence[str]) -> list[int]:
        """Return the rows of these SHA-256 or concepts, hidden rows included.

        Args:
            contents: SHA-256 of files, hexadecimal.
            concept_ids: ids of concepts.
        """
        found = self._all(
            "SELECT row FROM main.exemplars WHERE sha256 IN (SELECT value FROM json_each(?)) "
            "UNION SELECT row FROM main.exemplars WHERE concept IN (SELECT number FROM "
            "main.concepts WHERE id IN (SELECT value FROM json_each(?)))",
            (json.dumps(list(contents)), json.dumps(list(concept_ids))),
        )
        return [row[0] for row in found]

    def files_of(
        self, kind: Literal["concept", "exemplar"], identifier: str
    ) -> list[tuple[int, str]]:
        """Return (row, SHA-256) of each file of a concept or exemplar, hidden rows included."""
        owner = {"concept": "c.id", "exemplar": "e.id"}[kind]
        found = self._all(
            "SELECT e.row, e.sha256 FROM main.exemplars e JOIN main.concepts c "
            f"ON c.number = e.concept WHERE {owner} = ? ORDER BY e.row",
            (identifier,),
        )
        return [(row[0], row[1]) for row in found]

    def without_thumbnail(self) -> list[str]:
        """Return the ids of exemplars whose thumbnail is missing; an intact catalog has none."""
        found = self._all(
            "SELECT id FROM exemplars WHERE sha256 NOT IN (SELECT sha256 FROM thumbnails)"
        )
        return [row[0] for row in found]

    def thumbnail(self, exemplar_id: str) -> bytes:
        """Return an exemplar's thumbnail, the bytes of a JPEG.

        Raises:
            NotFoundError: there is no exemplar of that id.
        """
        found = self._all(
            "SELECT t.jpeg FROM exemplars e JOIN thumbnails t USING (sha256) WHERE e.id = ?",
            (exemplar_id,),
        )
        if not found:
            raise NotFoundError(f"there is no exemplar {exemplar_id!r} in this index")
        return bytes(found[0][0])

    def thumbnails_of(self, hashes: Sequence[str]) -> dict[str, bytes]:
        """Return the thumbnails of these SHA-256, hidden ones included."""
        found = self._all(
            "SELECT sha256, jpeg FROM thumbnails WHERE sha256 IN (SELECT value FROM json_each(?))",
            (json.dumps(list(hashes)),),
        )
        return {row[0]: bytes(row[1]) for row in found}

    def _concepts(self, where: str, values: tuple[object, ...], tail: str = "") -> list[Concept]:
        rows = self._all(
            "SELECT c.number, c.id, c.name, c.kind, "
            "(SELECT count(*) FROM exemplars e WHERE e.concept = c.number) AS exemplar_count "
            f"FROM concepts c {where} {tail}",
            values,
        )
        return [Concept(**row) for row in rows]

    def _exemplars(self, where: str, values: tuple[object, ...] = ()) -> list[Exemplar]:
        rows = self._all(
            "SELECT e.row, e.id, c.id AS concept_id, e.sha256, e.path, e.width, e.height, "
            "e.source_url, e.license, e.metadata "
            f"FROM exemplars e JOIN concepts c ON c.number = e.concept {where}",
            values,
        )
        return [Exemplar(**{**row, "metadata": _metadata(row["metadata"])}) for row in rows]

    def _all(self, sql: str, values: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        with self._lock, self._named_faults():
            rows = self._db.execute(sql, values).fetchall()
            self.check()
        return rows


def write_catalog(
    path: Path,
    concepts: Sequence[Concept],
    exemplars: Sequence[Exemplar],
    thumbnails: Iterable[tuple[str, bytes]],
) -> None:
    """Write a new catalog.

    Args:
        path: a file that does not exist yet.
        concepts: numbered 0, 1, 2, ... in this order.
        exemplars: with rows 0, 1, 2, ... in this order.
        thumbnails: (sha256 of the exemplar's file, JPEG bytes), one for each distinct file.
    """
    number = {concept.id: concept.number for concept in concepts}
    db = sqlite3.connect(path)
    try:
        # A snapshot is synced as a whole once it is complete; an unfinished one may be lost.
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.executescript(SCHEMA)
        with db:
            db.executemany(
                "INSERT INTO concepts VALUES (?, ?, ?, ?)",
                ((c.number, c.id, c.name, c.kind) for c in concepts),
            )
            db.executemany(
                "INSERT INTO exemplars VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        e.row, e.id, number[e.concept_id], e.sha256, e.path, e.width, e.height,
                        e.source_url, e.license,
                        json.dumps(dict(e.metadata), ensure_ascii=False, default=str),
                    )
                    for e in exemplars
                ),
            )  # fmt: skip
            db.executemany("INSERT INTO thumbnails VALUES (?, ?)", thumbnails)
    finally:
        db.close()


def _metadata(text: str) -> dict[str, Any]:
    """Read metadata; NaN and infinities, which earlier versions wrote, become null."""
    found: dict[str, Any] = json.loads(text, parse_constant=lambda _: None)
    return found


def _list(numbers: Sequence[int]) -> tuple[str]:
    """Return one parameter for ``json_each``; SQLite limits a query's number of parameters."""
    return (json.dumps([int(number) for number in numbers]),)
