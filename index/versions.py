"""The versions of an index: the rebuild lock, rollback, and the removal of old versions."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import filelock
from safetensors import SafetensorError

from index.building.embedding_cache import remedy
from index.errors import RebuildError, SnapshotError
from index.layout import DataFolder
from index.locks import file_lock
from index.snapshot import (
    BUILDING,
    REMOVED,
    Manifest,
    Snapshot,
    list_versions,
    publish,
    published_version,
    remove_version,
)
from index.stores.registry import LOCAL, VectorStores
from index.takedowns.in_force import Takedowns, all_rows
from index.takedowns.log import TakedownLog
from model.errors import ModelError
from model.files import this_user
from model.saved import list_models


@contextmanager
def rebuild_lock(index: Path) -> Iterator[None]:
    """Hold the lock that keeps every other rebuild and rollback out.

    Raises:
        RebuildError: one is running.
        OSError: the folder cannot be written to, or its file system has no locks.
    """
    index.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(file_lock(index / ".rebuild.lock", seconds=0))
        except filelock.Timeout:
            raise RebuildError(
                f"another rebuild is running on {index}; wait for it to end, then try again"
            ) from None
        yield


@contextmanager
def named_failures(data: DataFolder) -> Iterator[None]:
    """Turn errors of SQLite and the disk into a `RebuildError` that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise RebuildError(
            f"a database below {data.root} cannot be used ({error}); nothing was published: "
            f"{remedy(error, data.root / 'cache')}"
        ) from error
    except (OSError, SafetensorError) as error:
        raise RebuildError(
            f"the index below {data.root} cannot be written ({error}); nothing was published: make "
            f"room on the disk or give {this_user()} write access, then run the same command again"
        ) from error


def rollback(data: DataFolder, version: str | None = None) -> Manifest:
    """Publish an earlier version again, after checking that it is complete and its model exists.

    Takedowns apply to every version: works withdrawn since stay withdrawn.

    Args:
        data: the data folder.
        version: by default the one before the published one.

    Raises:
        SnapshotError: there is no such version, or it is damaged; the published one stays.
        ModelError: its model is missing.
        TakedownError: the takedown log cannot be read, or lacks records of the version's extent.
        RebuildError: a rebuild is running, or the disk cannot be written to.
    """
    with named_failures(data), rebuild_lock(data.index):
        manifest = _choose(data.index, version)
        if manifest.model_id not in list_models(data.models):
            raise ModelError(
                f"version {manifest.version} needs the model {manifest.model_id!r}, which is not "
                f"in {data.models}; restore it from a backup, or roll back to another version"
            )
        TakedownLog(data.takedowns).read()
        Snapshot.open(data.index / manifest.version, data.stores).close()
        data.stores.engine(manifest.store).publish(manifest.version)
        publish(data.index, manifest.version)
    return manifest


def prune(
    index: Path, keep: int, before: str | None = None, stores: VectorStores = LOCAL
) -> list[str]:
    """Remove all but the newest ``keep`` versions; the published one is always kept.

    A server keeps a removed version's files open, but cannot search a dropped collection on a
    Milvus. So the version published before is kept if its vectors are on a Milvus; if that version
    is unknown, all versions with vectors on a Milvus are kept.

    Args:
        index: the folder of all versions.
        keep: number of versions.
        before: the version published before this one, if known.
        stores: opens remote vector stores.

    Returns:
        The names of removed versions.
    """
    published = published_version(index)
    versions = list_versions(index)
    removed = [
        manifest.version
        for manifest in versions[: max(0, len(versions) - keep)]
        if manifest.version != published
        and not (manifest.store and before in (None, manifest.version))
    ]
    for name in removed:
        remove(index, name, stores)
    return removed


def remove(index: Path, version: str, stores: VectorStores = LOCAL) -> bool:
    """Remove a version; a server that answers from its files keeps them open.

    Returns:
        True if all of it is removed. Otherwise the rest is left under a hidden name, and
        `clear_unfinished` tries again.
    """
    # Renamed first, so that no incomplete version is ever visible.
    doomed = index / f"{BUILDING}{REMOVED}{version}"
    (index / version).rename(doomed)
    remove_version(doomed, version, stores)
    return not doomed.exists()


def erase_withdrawn(index: Path, takedowns: Takedowns, stores: VectorStores = LOCAL) -> list[str]:
    """Delete the vectors of withdrawn works from versions whose store can delete.

    Returns:
        The versions that cannot be opened or written to now. They keep the vectors, hidden by
        masks, until the next rebuild.
    """
    left = []
    for manifest in list_versions(index):
        if manifest.store and takedowns.active:
            try:
                with closing(Snapshot.open(index / manifest.version, stores)) as old:
                    hidden = takedowns.hidden_rows(old.catalog, old.fingerprint_index, {})
                    old.vectors.erase(all_rows(hidden))
            except SnapshotError:
                left.append(manifest.version)
    return left


def folder_bytes(version: Path) -> int:
    """Return the size of a version in bytes; 0 if it is removed meanwhile."""
    try:
        return sum(path.stat().st_size for path in version.iterdir())
    except FileNotFoundError:
        return 0


def require_version(index: Path, version: str) -> Manifest:
    """Return the manifest of a complete version.

    Raises:
        SnapshotError: there is none of that name.
    """
    manifests = {manifest.version: manifest for manifest in list_versions(index)}
    if version not in manifests:
        known = ", ".join(manifests) or "none"
        raise SnapshotError(
            f"there is no version {version!r} with a sound manifest in {index} (found: {known})"
        )
    return manifests[version]


def _choose(index: Path, version: str | None) -> Manifest:
    if version is not None:
        return require_version(index, version)
    manifests = list_versions(index)
    names = [manifest.version for manifest in manifests]
    published = published_version(index)
    place = names.index(published) if published in names else len(names)
    if place == 0:
        raise SnapshotError(
            f"there is no version before the published one in {index}; `whence status` lists "
            "all versions"
        )
    return manifests[place - 1]
