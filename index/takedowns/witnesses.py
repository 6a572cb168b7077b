"""Witnesses of the takedown log: its extent, recorded outside of the log's own file.

A log that was deleted, shortened or restored from an old backup is noticed, because it does not
begin with the records that a witness knows. The log, the file beside it and a version can be lost
together; so there are several witnesses:

- ``takedowns.extent`` beside the log, and in the folder of every index version: written on every
  append;
- the same file in the folders of models, caches and runs of pre-training: written when they are
  built, with the log that was in force;
- the manifests of index versions;
- the memory of running servers.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from index.snapshot import MANIFEST, list_versions
from index.takedowns.records import Extent
from model.files import sync_to_disk
from model.regular_files import read_file

WITNESS = "takedowns.extent"
FOLDERS = ("index/[!.]*", "models/[!.]*", "cache/[!.]*", "pretrain/[!.]*")  # below the data folder

logger = logging.getLogger(__name__)


def recorded_extents(root: Path) -> Iterator[tuple[Extent, str]]:
    """Yield the extents recorded in manifests and folders, each with the place for a message.

    A witness that cannot be read is left out with a warning; the others remain.

    Args:
        root: the data folder.
    """
    for manifest in list_versions(root / "index"):
        yield manifest.takedowns, f"the manifest of the index version {manifest.version}"
    for path in sorted(path for folder in FOLDERS for path in root.glob(f"{folder}/{WITNESS}")):
        try:
            yield read_extent(path), str(path)
        except FileNotFoundError:
            continue  # its folder was removed meanwhile
        except (OSError, ValidationError):
            logger.warning("%s cannot be read; the next takedown writes it anew", path)


def read_extent(path: Path) -> Extent:
    """Read the extent in a file.

    Raises:
        OSError: it cannot be read.
        ValidationError: it is damaged.
    """
    return Extent.model_validate_json(read_file(path))


def write_extent(path: Path, extent: Extent) -> None:
    """Write an extent to a file: complete or not at all, and synced.

    Raises:
        OSError: it cannot be written.
    """
    draft = path.with_name(f"{path.name}-draft")
    try:
        draft.write_text(extent.model_dump_json() + "\n", encoding="utf-8")
        sync_to_disk(draft)
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def attest(folder: Path, extent: Extent, *, keep_longer: bool = False) -> None:
    """Record in a folder the extent of the log that was in force when it was built.

    The witness is one of several: if it cannot be written, a warning says so.

    Args:
        folder: of a version, a model, a cache or a run of pre-training.
        extent: of the log.
        keep_longer: leave a witness that knows at least as many records.
    """
    path = folder / WITNESS
    if keep_longer:
        with suppress(OSError, ValidationError):
            if read_extent(path).records >= extent.records:
                return
    if extent.records:
        try:
            write_extent(path, extent)
        except FileNotFoundError:
            pass  # the folder was removed meanwhile
        except OSError as error:
            logger.warning("no witness of the takedown log was written to %s (%s)", folder, error)


def attest_versions(root: Path, extent: Extent, *, keep_longer: bool = False) -> None:
    """Record the extent of the log in the folder of every index version."""
    for manifest in root.glob(f"index/[!.]*/{MANIFEST}"):
        attest(manifest.parent, extent, keep_longer=keep_longer)
