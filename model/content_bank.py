"""Arrays of images by their content, kept between runs and added to by each.

    <folder>/index.sqlite    SHA-256 of an image -> its row, or the reason why it has none
    <folder>/<name>.f32      float32, a row an image, in the order in which they were added

A row is never moved. Its bytes are written before the index names it, so that a killed run loses
what it was writing at most, and several processes can add at the same time.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from model.errors import TrainingError

Floats: TypeAlias = NDArray[np.float32]

INDEX = "index.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
    sha256 TEXT PRIMARY KEY,
    row    INTEGER,          -- null if the image has none
    reason TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS rows ON images (row);
CREATE TABLE IF NOT EXISTS arrays (
    name  TEXT PRIMARY KEY,
    shape TEXT NOT NULL      -- of a row, as JSON
) WITHOUT ROWID;
"""
VERSION = 1
FORGET_REFUSALS = """
BEGIN IMMEDIATE;
DELETE FROM images WHERE row IS NULL;
PRAGMA user_version = 1;
COMMIT;
"""
WAIT = 60.0  # seconds for another process's addition
BLOCK = 10_000  # images in a query


class ContentBank:
    """Stores arrays of images.

    Args:
        folder: names in its path all that the arrays depend on, but for the images.
        durable: wait until an addition would survive a power cut.

    Raises:
        TrainingError: its index is damaged.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._durable = durable
        try:
            self._db = sqlite3.connect(folder / INDEX, timeout=WAIT, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(SCHEMA)
            [version] = self._db.execute("PRAGMA user_version").fetchone()
            if version < VERSION:
                # Earlier versions also kept images that had failed for a passing reason.
                self._db.executescript(FORGET_REFUSALS)
        except sqlite3.DatabaseError as error:
            raise TrainingError(
                f"{folder / INDEX} cannot be used ({error}): delete {folder}, and all in it is "
                "computed anew"
            ) from error

    def __enter__(self) -> "ContentBank":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def rows(self, hashes: Iterable[str]) -> dict[str, int | str]:
        """Returns, of these images, the row of each that was added, or why it has none."""
        found: dict[str, int | str] = {}
        for part in _blocks(list(hashes)):
            query = (
                "SELECT sha256, row, reason FROM images WHERE sha256 IN "
                "(SELECT value FROM json_each(?))"
            )
            for sha256, row, reason in self._db.execute(query, (json.dumps(part),)):
                found[sha256] = reason if row is None else row
        return found

    def add(self, hashes: Sequence[str], arrays: Mapping[str, Floats]) -> None:
        """Add images.

        Args:
            hashes: SHA-256 of each, without repeats.
            arrays: by name, with a row for each image; the same names and shapes each time.
        """
        self._db.execute("BEGIN IMMEDIATE")  # one process adds at a time
        try:
            [start] = self._db.execute("SELECT coalesce(max(row), -1) + 1 FROM images").fetchone()
            for name, values in arrays.items():
                self._write(name, start, np.ascontiguousarray(values, dtype="<f4"))
            self._db.executemany(
                "INSERT OR REPLACE INTO images VALUES (?, ?, '')",
                [(sha256, start + place) for place, sha256 in enumerate(hashes)],
            )
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Record images that have no row, each with the reason, which their content alone gives."""
        self._db.executemany(
            "INSERT OR IGNORE INTO images VALUES (?, NULL, ?)", list(reasons.items())
        )

    def arrays(self) -> dict[str, Floats]:
        """Returns all rows of each array: name -> (M, ...) memory map."""
        [count] = self._db.execute("SELECT coalesce(max(row), -1) + 1 FROM images").fetchone()
        if not count:
            return {}
        return {
            name: np.memmap(
                self._path(name), dtype="<f4", mode="r", shape=(count, *json.loads(shape))
            )
            for name, shape in self._db.execute("SELECT name, shape FROM arrays ORDER BY name")
        }

    def _write(self, name: str, start: int, values: Floats) -> None:
        shape = json.dumps(values.shape[1:])
        self._db.execute("INSERT OR IGNORE INTO arrays VALUES (?, ?)", (name, shape))
        with self._path(name).open("r+b" if self._path(name).exists() else "w+b") as file:
            file.seek(start * values[0].nbytes)
            file.write(values.data)
            if self._durable:
                file.flush()
                os.fsync(file.fileno())

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.f32"


def _blocks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), BLOCK):
        yield items[start : start + BLOCK]
