"""Erase the images and vectors of withdrawn works from the data folder.

A takedown hides a work at once and keeps it out of later versions. Its thumbnails and vectors
remain in the embedding caches of all models, in the feature banks of training runs, in earlier
index versions and among sample images, and runs of pre-training begun before it may have learnt
from it; a purge erases them. Sources and backups are not touched, nor is the takedown log,
which needs a work's SHA-256 and fingerprint (8 x 8 pixels) to keep it out.
"""

import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from index.building.embedding_cache import EmbeddingCache
from index.building.scan import add_fingerprints
from index.catalog import Catalog
from index.errors import RebuildError, SnapshotError, VectorStoreUnavailableError
from index.layout import DataFolder
from index.snapshot import BUILDING, CATALOG, Snapshot, clear_unfinished, published_version
from index.stores.registry import VectorStores
from index.stores.vectors import read_address
from index.takedowns.in_force import Takedowns, all_rows
from index.takedowns.log import TakedownLog
from index.takedowns.records import Extent
from index.takedowns.samples import withdrawn_samples
from index.takedowns.witnesses import WITNESS, read_extent
from index.versions import named_failures, rebuild_lock, remove


@dataclass(frozen=True)
class Purged:
    """Result of a purge."""

    images: int  # entries of withdrawn files erased from the embedding caches
    caches: int  # embedding caches rewritten
    features: bool  # True if there were feature banks and all are removed
    versions: list[str]  # index versions removed
    pretraining: list[str]  # runs removed, which began before a takedown in force
    samples: int  # sample images removed
    left: list[str]  # places that still hold a withdrawn work, each with a remedy


def purge(data: DataFolder) -> Purged:
    """Erase all data derived from works whose takedown is in force.

    SQLite overwrites the data; other files are removed, without overwriting their blocks on the
    disk. The published version is kept and reported if it still holds such works; its vectors of
    them on a Milvus are deleted.

    Raises:
        TakedownError: the log cannot be read.
        RebuildError: a rebuild is running, or the disk cannot be written to.
    """
    with named_failures(data), rebuild_lock(data.index):
        takedowns = TakedownLog(data.takedowns).read()
        if not takedowns.active:
            return Purged(0, 0, False, [], [], 0, [])
        clear_unfinished(data.index, data.stores)
        published = published_version(data.index)
        held = {
            folder: _withdrawn(folder, takedowns, data.stores, erase=folder.name == published)
            for folder in _versions(data.index)
        }
        hashes = {content.sha256 for one in takedowns.active for content in one.contents}
        # Files of withdrawn concepts, and copies, are listed in versions alone.
        hashes.update(*(found for found in held.values() if isinstance(found, set)))
        caches = data.all_embeddings()
        images = sum(_forget(path, takedowns, hashes) for path in caches)
        versions, left = _remove_versions(data, held)
        features = data.features.exists()
        if features:
            # The next training run computes the rows of the other images again.
            shutil.rmtree(data.features, ignore_errors=True)
        runs = _earlier_runs(data.pretraining, takedowns)
        for run in runs:
            shutil.rmtree(run, ignore_errors=True)
        samples = withdrawn_samples(data.all_samples(), takedowns)
        for sample in samples:
            sample.unlink(missing_ok=True)
        remains = [*sorted(data.index.glob(f"{BUILDING}*")), data.features, *runs]
        left += [_remedy(path) for path in remains if path.exists()]
    return Purged(
        images,
        len(caches),
        features and not data.features.exists(),
        versions,
        [run.name for run in runs if not run.exists()],
        len(samples),
        left,
    )


def _earlier_runs(pretraining: Path, takedowns: Takedowns) -> list[Path]:
    """Return the runs of pre-training that a takedown in force did not apply to.

    A run's folder records the extent of the log by which its images were chosen. Starting a run
    again with the same images records the present one, since other images make another run.
    """
    needed = {takedown.id for takedown in takedowns.active}
    found = []
    for run in sorted(path for path in pretraining.glob("*") if path.is_dir()):
        try:
            extent = read_extent(run / WITNESS)
        except (OSError, ValidationError):
            extent = Extent()
        if not needed <= takedowns.recorded_in(extent):
            found.append(run)
    return found


def _versions(index: Path) -> list[Path]:
    return sorted(path for path in index.glob("[!.]*") if path.is_dir())


def _remedy(remains: Path) -> str:
    if read_address(remains):
        return (
            f"{remains}, a removed version whose vectors in another store could not be deleted: "
            "once that store answers, run `whence takedown purge` again"
        )
    return f"{remains} cannot be removed: do it by hand"


def _withdrawn(
    folder: Path, takedowns: Takedowns, stores: VectorStores, *, erase: bool
) -> set[str] | Exception:
    """Return the SHA-256 of the withdrawn files that a version holds, or why they are unknown.

    Args:
        folder: of the version.
        takedowns: in force.
        stores: opens remote vector stores.
        erase: also delete their vectors, where the version's store can.
    """
    try:
        with closing(Snapshot.open(folder, stores)) as snapshot:
            hidden = takedowns.hidden_rows(snapshot.catalog, snapshot.fingerprint_index, {})
            rows = all_rows(hidden)
            if erase:
                snapshot.vectors.erase(rows)
        # The snapshot's own catalog hides rows whose vectors are erased already.
        with closing(Catalog(folder / CATALOG)) as unmasked:
            exemplars = unmasked.exemplars_by_row(rows.tolist())
            return {exemplar.sha256 for exemplar in exemplars.values()}
    except SnapshotError as error:
        return error


def _forget(path: Path, takedowns: Takedowns, hashes: set[str]) -> int:
    """Erase the entries of withdrawn files from an embedding cache; return their number."""
    with EmbeddingCache(path) as cache:
        add_fingerprints((key for key in cache.sizes() if "/" not in key), cache)
        known = cache.fingerprints()
        near = takedowns.of_fingerprints(list(known.values()))
        copies = {sha256 for sha256, one in zip(known, near, strict=True) if one}
        held = cache.holds(hashes | copies)
        cache.forget(held)
        try:
            cache.compact()
        except sqlite3.OperationalError as error:
            raise RebuildError(
                f"the embedding cache {path} cannot be rewritten ({error}); end the process "
                "that uses it, or make room on the disk, then run `whence takedown purge` again"
            ) from error
        return len(held)


def _remove_versions(
    data: DataFolder, held: Mapping[Path, set[str] | Exception]
) -> tuple[list[str], list[str]]:
    """Remove every version that holds a withdrawn work, except the published one.

    Returns:
        The names of removed versions, and the versions left, each with the reason.
    """
    published = published_version(data.index)
    removed, left = [], []
    for folder, found in held.items():
        if isinstance(found, VectorStoreUnavailableError):
            left.append(
                f"{folder}, if it holds any: then run `whence takedown purge` again ({found})"
            )
        elif isinstance(found, Exception):
            left.append(f"{folder}, whose content cannot be read: remove it ({found})")
        elif found and folder.name == published:
            left.append(
                f"the published version {published}, which holds {len(found)} withdrawn files: run "
                "`whence rebuild`, then `whence takedown purge` again"
            )
        elif found and remove(data.index, folder.name, data.stores):
            removed.append(folder.name)
    return removed, left
