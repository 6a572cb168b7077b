"""Keeps the listings of shards at URLs, so that an unchanged shard is not read again."""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from model.errors import SourceError
from model.sources.remote import RemoteFile

SCHEMA = """
CREATE TABLE IF NOT EXISTS listings (
    address TEXT NOT NULL,  -- of the shard
    kind    TEXT NOT NULL,  -- of what was read
    stamp   TEXT NOT NULL,  -- of the shard
    rows    BLOB NOT NULL,  -- JSON, compressed by zlib
    PRIMARY KEY (address, kind)
) WITHOUT ROWID;
"""
WAIT = 60.0  # seconds for another process's write


class Listings:
    """Keeps lists of what shards at URLs hold, by the shards' stamps.

    Args:
        path: of an SQLite file, which may be deleted at any time; it is made when it is needed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, shard: RemoteFile, kind: str) -> list[Any] | None:
        """Returns the rows that were kept of a shard, None if it has another stamp now.

        Raises:
            SourceError: the file is damaged.
        """
        if not self._path.exists():
            return None
        with self._opened() as database:
            found = database.execute(
                "SELECT rows FROM listings WHERE address = ? AND kind = ? AND stamp = ?",
                (shard.address, kind, shard.stamp.text),
            ).fetchone()
        rows: list[Any] | None = json.loads(zlib.decompress(found[0])) if found else None
        return rows

    def keep(self, shard: RemoteFile, kind: str, rows: Iterable[Any]) -> None:
        """Keep rows, values of JSON, in place of those of an earlier version.

        They are not kept if the shard has no stamp, or changed so recently that its next change may
        not change its stamp.

        Raises:
            SourceError: the file is damaged or cannot be written.
        """
        if not shard.stamp.settled:
            return
        data = zlib.compress(json.dumps(list(rows)).encode(), 1)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._opened() as database:
            database.execute(
                "INSERT OR REPLACE INTO listings VALUES (?, ?, ?, ?)",
                (shard.address, kind, shard.stamp.text, data),
            )

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=WAIT)) as database, database:
                database.executescript(SCHEMA)
                yield database
        except sqlite3.Error as error:
            raise SourceError(
                f"{self._path} cannot be used ({error}): make room on the disk, or delete it, and "
                "the shards are read again"
            ) from error
