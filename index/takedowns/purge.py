"""The purge: it erases the images and vectors of withdrawn works from the data folder.

A takedown hides a work at once and keeps it out of later versions. What was made of it before lies
on: in the embedding caches of all models, in the feature banks of training runs, and in versions of
the index that had it. Sources and backups are not touched, nor is the takedown log itself, which
must know a work to keep it out: its SHA-256 and its fingerprint, 8 x 8 pixels.
"""

import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from index.building.embedding_cache import EmbeddingCache
from index.building.scan import add_fingerprints
from index.catalog import Catalog
from index.errors import RebuildError, SnapshotError, VectorStoreUnavailableError
from index.layout import DataFolder
from index.snapshot import BUILDING, CATALOG, Snapshot, clear_unfinished, published_version
from index.stores.registry import VectorStores
from index.stores.vectors import read_address
from index.takedowns.in_force import Takedowns, rows_of
from index.takedowns.log import TakedownLog
from index.versions import named_failures, rebuild_lock, remove


@dataclass(frozen=True)
class Purged:
    """The result of a purge."""

    images: int  # withdrawn files that embedding caches held something of, each cache counted
    caches: int  # that were written anew
    features: bool  # whether there were feature banks, and all of them are gone
    versions: list[str]  # of the index, removed
    left: list[str]  # what still holds a withdrawn work, and what to do


def purge(data: DataFolder) -> Purged:
    """Erase everything that was made of works whose takedown is in force.

    Files are overwritten by SQLite or removed; what a disk keeps of removed files is the disk's.
    The published version stays, and is told of, if it still holds such works; of its vectors, those
    on a Milvus go.

    Raises:
        TakedownError: the log cannot be read.
        RebuildError: a rebuild is running, or the disk cannot be written to.
    """
    with named_failures(data), rebuild_lock(data.index):
        takedowns = TakedownLog(data.takedowns).read()
        if not takedowns.active:
            return Purged(0, 0, False, [], [])
        clear_unfinished(data.index, data.stores)
        published = published_version(data.index)
        held = {
            folder: _withdrawn(folder, takedowns, data.stores, erase=folder.name == published)
            for folder in _versions(data.index)
        }
        hashes = {content.sha256 for one in takedowns.active for content in one.contents}
        # What only versions tell of: files of withdrawn concepts, and copies.
        hashes.update(*(found for found in held.values() if isinstance(found, set)))
        caches = data.all_embeddings()
        images = sum(_forget(path, takedowns, hashes) for path in caches)
        versions, left = _remove_versions(data, held)
        features = data.features.exists()
        if features:
            # A bank does not tell which image a row is of; the next training makes it anew.
            shutil.rmtree(data.features, ignore_errors=True)
        remains = [*sorted(data.index.glob(f"{BUILDING}*")), data.features]
        left += [_what_to_do(path) for path in remains if path.exists()]
    return Purged(images, len(caches), features and not data.features.exists(), versions, left)


def _versions(index: Path) -> list[Path]:
    return sorted(path for path in index.glob("[!.]*") if path.is_dir())


def _what_to_do(remains: Path) -> str:
    if read_address(remains):
        return (
            f"{remains}, a removed version whose vectors in another store could not be deleted: "
            "once that answers, run `whence takedown purge` again"
        )
    return f"{remains} cannot be removed: do it by hand"


def _withdrawn(
    folder: Path, takedowns: Takedowns, stores: VectorStores, *, erase: bool
) -> set[str] | Exception:
    """Return the SHA-256 of the withdrawn files that a version holds, or why they are unknown.

    Args:
        folder: of the version.
        takedowns: in force.
        stores: opens its vectors, where they lie elsewhere.
        erase: also delete their vectors, where the version's store can.
    """
    try:
        with closing(Snapshot.open(folder, stores)) as snapshot:
            reached = takedowns.reached(snapshot.catalog, snapshot.pictures, {})
            rows = rows_of(reached)
            if erase:
                snapshot.vectors.erase(rows)
        # The snapshot's own catalog shows nothing of rows that were erased already.
        with closing(Catalog(folder / CATALOG)) as whole:
            exemplars = whole.exemplars_by_row(rows.tolist())
            return {exemplar.sha256 for exemplar in exemplars.values()}
    except (SnapshotError, sqlite3.DatabaseError) as error:
        return error


def _forget(path: Path, takedowns: Takedowns, hashes: set[str]) -> int:
    """Erase from one cache everything made of withdrawn files."""
    with EmbeddingCache(path) as cache:
        add_fingerprints((key for key in cache.sizes() if "/" not in key), cache)
        known = cache.fingerprints()
        near = takedowns.of_pictures(list(known.values()))
        copies = {sha256 for sha256, one in zip(known, near, strict=True) if one}
        held = cache.holds(hashes | copies)
        cache.forget(held)
        try:
            cache.compact()
        except sqlite3.OperationalError as error:
            raise RebuildError(
                f"the embedding cache {path} cannot be written anew ({error}); end the process "
                "that uses it, or make room on the disk, then run `whence takedown purge` again"
            ) from error
        return len(held)


def _remove_versions(
    data: DataFolder, held: Mapping[Path, set[str] | Exception]
) -> tuple[list[str], list[str]]:
    """Remove every version that holds a withdrawn work, except the published one.

    Returns:
        The names of those removed, and what is left and why.
    """
    published = published_version(data.index)
    removed, left = [], []
    for folder, found in held.items():
        if isinstance(found, VectorStoreUnavailableError):
            left.append(
                f"{folder}, if it holds any: then run `whence takedown purge` again ({found})"
            )
        elif isinstance(found, Exception):
            left.append(f"{folder}, of which nobody can tell what it holds: remove it ({found})")
        elif found and folder.name == published:
            left.append(
                f"the published version {published}, which holds {len(found)} withdrawn files: run "
                "`whence rebuild`, then `whence takedown purge` again"
            )
        elif found and remove(data.index, folder.name, data.stores):
            removed.append(folder.name)
    return removed, left
