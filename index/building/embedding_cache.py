"""The embedding cache: embeddings by content hash, kept between rebuilds."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.errors import RebuildError
from model.config import Facet
from model.files import this_user
from model.images import DECODING

SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
    key       TEXT PRIMARY KEY,   -- sha256 of the file, and the view's name if not the clean one
    width     INTEGER NOT NULL,
    height    INTEGER NOT NULL,
    thumbnail BLOB NOT NULL       -- JPEG; empty for augmented views
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS vectors (
    key    TEXT NOT NULL,
    facet  TEXT NOT NULL,
    vector BLOB NOT NULL,         -- float32, little endian
    PRIMARY KEY (key, facet)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fingerprints (
    sha256      TEXT PRIMARY KEY, -- of the file
    fingerprint BLOB NOT NULL     -- `index.takedowns.fingerprints`; kept when an image is forgotten
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
    path   TEXT PRIMARY KEY,
    stamp  TEXT NOT NULL,         -- size and times: equal as long as the file is
    sha256 TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS unchecked (
    sha256 TEXT PRIMARY KEY       -- of a file that an earlier version of decoding has read
) WITHOUT ROWID;
-- Queries about all images read this index, not the pages with thumbnails.
CREATE INDEX IF NOT EXISTS sizes ON images (key, width, height);
"""

BLOCK = 10_000  # images in a query


@dataclass(frozen=True)
class EmbeddedImage:
    """An image's size, thumbnail, fingerprint and embeddings."""

    key: str
    width: int
    height: int
    thumbnail: bytes
    vectors: dict[Facet, NDArray[np.float32]]  # each (D,)
    fingerprint: bytes = b""  # of `index.takedowns.fingerprints`; empty for augmented views


def remedy(error: sqlite3.Error, cache: Path) -> str:
    """Return the advice for an error of SQLite."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the primary code
    if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
        return (
            f"make room on the disk, give {this_user()} write access or end the process that uses "
            "it, then try again"
        )
    return f"it is damaged: delete {cache}, and the next rebuild creates it anew"


def _require_unlocked(status: int, _remaining: int, _total: int) -> None:
    """Stop a copy into a database that another process writes; `backup` would wait for ever.

    Raises:
        sqlite3.OperationalError: SQLite reports that the database is locked.
    """
    if status in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        raise sqlite3.OperationalError("another process writes to the embedding cache")


class EmbeddingCache:
    """Stores a model's embeddings in one SQLite file; each `add` is one transaction."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._path = path
            self._db = sqlite3.connect(path)
            with ExitStack() as until_open:
                until_open.callback(self._db.close)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA secure_delete = ON")  # deleted rows are overwritten
                self._db.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost a batch
                self._db.executescript(f"BEGIN; {SCHEMA} COMMIT;")
                self._note_decoding()
                until_open.pop_all()
        except sqlite3.Error as error:
            raise RebuildError(
                f"the embedding cache {path} cannot be used ({error}); {remedy(error, path)}"
            ) from error

    def __enter__(self) -> "EmbeddingCache":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def unchecked(self, hashes: Iterable[str]) -> list[str]:
        """Returns the files whose entries come from an earlier version of the decoding."""
        known = {row[0] for row in self._db.execute("SELECT sha256 FROM unchecked")}
        return [sha256 for sha256 in dict.fromkeys(hashes) if sha256 in known]

    def checked(self, sha256: str, *, outdated: bool) -> None:
        """Record that a file's entries were checked; delete them if they are outdated."""
        with self._db:
            self._db.execute("DELETE FROM unchecked WHERE sha256 = ?", (sha256,))
            if outdated:
                self._db.execute("DELETE FROM fingerprints WHERE sha256 = ?", (sha256,))
                self._drop(sha256)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return the keys that the cache lacks, in order, without repeats."""
        known = self._keys()
        return [key for key in dict.fromkeys(keys) if key not in known]

    def add(self, images: Iterable[EmbeddedImage]) -> None:
        """Store these images, all or none."""
        with self._db:
            for image in images:
                self._db.execute(
                    "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)",
                    (image.key, image.width, image.height, image.thumbnail),
                )
                self._db.executemany(
                    "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)",
                    (
                        (image.key, facet, vector.astype("<f4").tobytes())
                        for facet, vector in image.vectors.items()
                    ),
                )
                if image.fingerprint:
                    self._db.execute(
                        "INSERT OR REPLACE INTO fingerprints VALUES (?, ?)",
                        (image.key, image.fingerprint),
                    )

    def forget(self, hashes: Iterable[str]) -> None:
        """Delete all entries of these files, views included, except their fingerprints."""
        with self._db:
            for sha256 in hashes:
                self._drop(sha256)

    def holds(self, hashes: Iterable[str]) -> list[str]:
        """Return the files that have an image or a vector in the cache, views included."""
        held = {key.partition("/")[0] for key in self._keys()}
        return [sha256 for sha256 in hashes if sha256 in held]

    def compact(self) -> None:
        """Rewrite the file without freed space, so that deleted data cannot be recovered from it.

        ``secure_delete`` overwrites data deleted while it is on; this removes all freed data. The
        copy lies beside the file, where there is room for it: `VACUUM` alone would write it to the
        folder of temporary files, which may be small. It replaces the content in one transaction.

        Raises:
            sqlite3.OperationalError: the disk is full, or another process uses the cache.
        """
        copy = self._path.with_name(f"{self._path.name}.compact")
        copy.unlink(missing_ok=True)  # of a process that was killed
        try:
            self._db.execute("VACUUM INTO ?", (str(copy),))
            with closing(sqlite3.connect(copy)) as compacted:
                compacted.backup(self._db, progress=_require_unlocked)
        finally:
            copy.unlink(missing_ok=True)
        [busy] = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[:1]
        if busy:
            raise sqlite3.OperationalError("another process reads the embedding cache")

    def fingerprints(self) -> dict[str, bytes]:
        """Return the fingerprints of all files that were ever decoded, by SHA-256."""
        return dict(self._db.execute("SELECT sha256, fingerprint FROM fingerprints"))

    def add_fingerprints(self, fingerprints: Iterable[tuple[str, bytes]]) -> None:
        """Store (sha256, fingerprint) of files whose image lacks one."""
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO fingerprints VALUES (?, ?)", fingerprints)

    def file_hashes(self) -> dict[str, tuple[str, str]]:
        """Return the remembered hashes: path -> (stamp, sha256)."""
        rows = self._db.execute("SELECT path, stamp, sha256 FROM files")
        return {path: (stamp, sha256) for path, stamp, sha256 in rows}

    def remember_hashes(self, hashes: Iterable[tuple[str, str, str]]) -> None:
        """Store (path, stamp, sha256) of files, so that they need not be read again."""
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", hashes)

    def facets(self) -> list[Facet]:
        """Return the facets of the stored images."""
        return [row[0] for row in self._db.execute("SELECT DISTINCT facet FROM vectors")]

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return width and height of every stored image."""
        rows = self._db.execute("SELECT key, width, height FROM images INDEXED BY sizes")
        return {key: (width, height) for key, width, height in rows}

    def thumbnail(self, key: str) -> bytes:
        """Return an image's thumbnail."""
        for _, thumbnail in self.thumbnails([key]):
            return thumbnail
        raise KeyError(key)

    def thumbnails(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (key, thumbnail) of these images, in order."""
        yield from self._each(
            "SELECT k.value, i.thumbnail FROM json_each(?) AS k JOIN images AS i "
            "ON i.key = k.value ORDER BY k.key",
            keys,
        )

    def vectors(self, facet: Facet, keys: Sequence[str]) -> NDArray[np.float32]:
        """Return the (N, D) vectors of these images, in order."""
        rows = self._each(
            "SELECT v.vector FROM json_each(?) AS k JOIN vectors AS v "
            "ON v.key = k.value AND v.facet = ? ORDER BY k.key",
            keys,
            facet,
        )
        found = np.stack([np.frombuffer(row[0], dtype="<f4") for row in rows]).astype(np.float32)
        if len(found) != len(keys):
            raise KeyError(f"{len(keys) - len(found)} of {len(keys)} images have no {facet} vector")
        return found

    def _drop(self, sha256: str) -> None:
        for table in ("images", "vectors"):
            self._db.execute(
                f"DELETE FROM {table} WHERE key = ? OR (key > ? AND key < ?)",
                (sha256, f"{sha256}/", f"{sha256}0"),  # 0 follows / in ASCII
            )

    def _note_decoding(self) -> None:
        """Mark all entries as unchecked if they come from an earlier version of the decoding."""
        [version] = self._db.execute("PRAGMA user_version").fetchone()
        if version < DECODING:
            self._db.executescript(
                "BEGIN; INSERT OR IGNORE INTO unchecked SELECT substr(key, 1, 64) FROM images; "
                "INSERT OR IGNORE INTO unchecked SELECT sha256 FROM fingerprints; "
                f"PRAGMA user_version = {DECODING}; COMMIT;"
            )

    def _keys(self) -> set[str]:
        return {row[0] for row in self._db.execute("SELECT key FROM images INDEXED BY sizes")}

    def _each(self, sql: str, keys: Sequence[str], *values: object) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of ``sql`` for ``keys``, in parts; SQLite limits a query's parameters."""
        for start in range(0, len(keys), BLOCK):
            yield from self._db.execute(sql, (json.dumps(keys[start : start + BLOCK]), *values))
