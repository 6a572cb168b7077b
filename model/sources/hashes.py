"""SHA-256 of pictures, remembered by address and stamp, so that few are read again."""

import json
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from model.errors import ImageError
from model.images import DEFAULT_LIMITS, ImageLimits
from model.regular_files import shown
from model.sources.picture import Picture, hash_picture

FILE = "hashes.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    address TEXT PRIMARY KEY,
    stamp   TEXT NOT NULL,
    sha256  TEXT NOT NULL
) WITHOUT ROWID;
"""
STEP = 1000  # pictures between two reports of progress and two writes
WAIT = 60.0  # seconds for another process's write

Progress = Callable[[int, int], None]  # (done, total)


def hash_pictures(
    folder: Path,
    pictures: Sequence[Picture],
    *,
    limits: ImageLimits = DEFAULT_LIMITS,
    workers: int = 0,
    progress: Progress | None = None,
) -> list[str | None]:
    """Returns the SHA-256 of each picture, None for one that cannot be read.

    Args:
        folder: where hashes are remembered.
        pictures: to hash; one whose stamp is that of the last hash is not read.
        limits: limits on an image's size; larger ones are not read.
        workers: threads that read, at least one.
        progress: called with (done, total), if there are more than `STEP`.

    Raises:
        SourceError: a remote place failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: list[str | None] = []
    database = sqlite3.connect(folder / FILE, timeout=WAIT)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(SCHEMA)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for start in range(0, len(pictures), STEP):
                part = pictures[start : start + STEP]
                known = _known(database, part)
                try:
                    hashed = list(pool.map(partial(_hash, known=known, limits=limits), part))
                except BaseException:
                    pool.shutdown(cancel_futures=True)  # else each would try its server in vain
                    raise
                with database:
                    database.executemany(
                        "INSERT OR REPLACE INTO files VALUES (?, ?, ?)",
                        [
                            (shown(picture.address), stamp, sha256)
                            for picture, (sha256, stamp) in zip(part, hashed, strict=True)
                            if stamp and sha256
                        ],
                    )
                found += [sha256 for sha256, _ in hashed]
                if progress and len(pictures) > STEP:
                    progress(len(found), len(pictures))
    finally:
        database.close()
    return found


def _known(database: sqlite3.Connection, pictures: Sequence[Picture]) -> dict[str, tuple[str, str]]:
    rows = database.execute(
        "SELECT address, stamp, sha256 FROM files WHERE address IN "
        "(SELECT value FROM json_each(?))",
        (json.dumps([shown(picture.address) for picture in pictures]),),
    )
    return {address: (stamp, sha256) for address, stamp, sha256 in rows}


def _hash(
    picture: Picture, *, known: dict[str, tuple[str, str]], limits: ImageLimits
) -> tuple[str | None, str]:
    """Returns the SHA-256, and the stamp to remember it by; empty if it is not to be."""
    try:
        stamp = picture.stamp
        settled = stamp.settled
        remembered = known.get(shown(picture.address))
        if remembered and stamp.text and remembered[0] == stamp.text:
            return remembered[1], ""
        return hash_picture(picture, limits), stamp.text if settled else ""
    except (ImageError, OSError):
        return None, ""
