"""Take down a concept or an exemplar, with every file that it has in any index version.

Files that only an earlier version has, or that are hidden already, are taken down as well. So the
unmasked catalogs of all kept versions are read.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

import numpy as np

from index.catalog import Catalog
from index.errors import NotFoundError, SnapshotError
from index.layout import DataFolder
from index.snapshot import CATALOG, FINGERPRINTS, Snapshot, list_versions, published_version
from index.stores.vectors import read_erased
from index.takedowns.fingerprints import FingerprintIndex, Fingerprints
from index.takedowns.in_force import Hidden, hidden_by
from index.takedowns.log import TakedownLog
from index.takedowns.records import Content, Takedown

Named = Literal["concept", "exemplar"]

logger = logging.getLogger(__name__)


def withdraw(
    data: DataFolder,
    kind: Named,
    target: str,
    *,
    reason: str,
    served: Snapshot | None = None,
    log: TakedownLog | None = None,
) -> Takedown:
    """Take down a concept or an exemplar, and record it.

    Args:
        data: the data folder, with the log and the index versions.
        kind: kind of the target.
        target: its id; of a concept also its name, in any case and normal form.
        reason: recorded in the log.
        served: the served version, read as well; its folder may have been removed.
        log: of a running server, which knows what it has read before.

    Raises:
        SnapshotError: there is no index.
        NotFoundError: no version has one of that id.
        TakedownError: the log is damaged or cannot be written; nothing was recorded.
    """
    target = canonical(data.index, kind, target, served=served)
    contents = contents_of(data.index, kind, target, served=served)
    log = log or TakedownLog(data.takedowns)
    name = concept_name(data.index, target, served=served) if kind == "concept" else None
    return log.add(kind, target, contents, reason=reason, name=name)


def canonical(index: Path, kind: Named, target: str, *, served: Snapshot | None = None) -> str:
    """Returns the id that a takedown of ``target`` records.

    For a concept this is the result of `Catalog.concept_named` in the served version, or else in
    the newest version that has such a concept; for an exemplar it is ``target`` itself.

    Args:
        index: the folder of all versions.
        kind: kind of the target.
        target: an id, or the name of a concept.
        served: see `withdraw`.
    """
    if kind != "concept":
        return target
    return _first(index, served, lambda catalog: catalog.concept_named(target)) or target


def concept_name(index: Path, concept_id: str, *, served: Snapshot | None = None) -> str | None:
    """Return the name of a concept in the served or the newest version that has it."""
    return _first(index, served, lambda catalog: catalog.name_of(concept_id))


def _first(
    index: Path, served: Snapshot | None, ask: Callable[[Catalog], str | None]
) -> str | None:
    """Return the first answer of the catalogs, the served one first, then from new to old."""
    if served and (found := ask(served.catalog)):
        return found
    for version in reversed([manifest.version for manifest in list_versions(index)]):
        try:
            with closing(Catalog(index / version / CATALOG)) as catalog:
                found = ask(catalog)
        except SnapshotError:
            continue  # `contents_of` warns of it
        if found:
            return found
    return None


def contents_of(
    index: Path,
    kind: Named,
    target: str,
    *,
    served: Snapshot | None = None,
) -> list[Content]:
    """Return hashes and fingerprints of the files that a concept or exemplar has in any version.

    A version that cannot be read is skipped with a warning.

    Args:
        index: the folder of all versions.
        kind: kind of the target.
        target: its id.
        served: see `withdraw`.

    Raises:
        SnapshotError: there is no index.
        NotFoundError: no version has one of that id.
    """
    contents: dict[str, Content] = {}
    if served:
        contents |= _contents(served.catalog, served.fingerprints, kind, target)
    versions = [manifest.version for manifest in list_versions(index)]
    if not (versions or served):
        raise SnapshotError(
            f"there is no readable index in {index}; run `whence rebuild --source PATH`"
        )
    for version in reversed(versions):
        try:
            contents |= _read(index / version, kind, target)
        except (SnapshotError, OSError, ValueError, IndexError) as error:
            logger.warning(
                "the index version %s cannot be read (%s): files that only it has of %s %r are not "
                "taken down",
                version,
                error,
                kind,
                target,
            )
    if not contents:
        raise NotFoundError(f"there is no {kind} {target!r} in any version of this index")
    return list(contents.values())


def hidden_in_published(index: Path, takedowns: Sequence[Takedown]) -> list[list[Hidden]]:
    """Return the exemplars of the published version that each takedown hides.

    Only the version's folder is read: a takedown must not wait for a remote vector store.

    Raises:
        SnapshotError: the version cannot be read.
    """
    version = published_version(index)
    if version is None:
        return [[] for _ in takedowns]
    folder = index / version
    try:
        fingerprints = FingerprintIndex(
            np.load(folder / FINGERPRINTS, mmap_mode="r", allow_pickle=False)
        )
        with closing(Catalog(folder / CATALOG, read_erased(folder))) as catalog:
            return [hidden_by(one, catalog, fingerprints) for one in takedowns]
    except (OSError, ValueError, IndexError) as error:
        raise SnapshotError(
            f"the index version {version} cannot be read ({error}); run `whence verify`"
        ) from error


def _read(folder: Path, kind: Named, target: str) -> dict[str, Content]:
    fingerprints = np.load(folder / FINGERPRINTS, mmap_mode="r", allow_pickle=False)
    with closing(Catalog(folder / CATALOG)) as catalog:
        return _contents(catalog, fingerprints, kind, target)


def _contents(
    catalog: Catalog, fingerprints: Fingerprints, kind: Named, target: str
) -> dict[str, Content]:
    return {
        sha256: Content.of(sha256, fingerprints[row].tobytes())
        for row, sha256 in catalog.files_of(kind, target)
    }
