"""Reads what a source folder holds, here or at a URL: concepts' folders, loose images, shards."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from index.building.manifests.reading import MANIFESTS
from model.content import PICTURE_SUFFIXES, SHARDS
from model.folders import (
    NOT_AN_IMAGE,
    Listing,
    Skip,
    Skipped,
    fault,
    find_images,
    folders_above,
    identity,
    ignore,
    list_files,
    list_folder,
    only_images,
    same_folder,
    unused_name,
)
from model.regular_files import shown
from model.sources.local import LocalFile, local_files
from model.sources.picture import Picture
from model.sources.remote import RemoteFile, files_below

BESIDE_PICTURES = "a shard beside folders of pictures: name it as a source of its own"
METADATA = "metadata"  # a manifest of this name describes the images of its folder
_PART = re.compile(r"(train|training|val|valid|validation|dev|test|testing)", re.I)


@dataclass
class Contents:
    """The contents of a source folder.

    Attributes:
        pictures: each with the name of the folder that is its concept.
        empty: names of folders without images.
        loose: images directly in the folder.
        shards: tar and Parquet files directly in it, or, if it has no pictures, at any depth.
        description: a manifest ``metadata.csv`` (or of another format) in it, whose records name
            images of the folder and of those below it.
        parts: folders ``train``, ``test`` and the like, by name, if there are no others; then there
            are no pictures beside theirs.
    """

    pictures: list[tuple[str, Picture]] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    loose: list[Picture] = field(default_factory=list)
    shards: list[Picture] = field(default_factory=list)
    description: Picture | None = None
    parts: dict[str, "Contents"] = field(default_factory=dict)


def local_contents(folder: Path, skip: Skip) -> Contents:
    """Returns what a folder of this machine holds.

    Args:
        folder: the folder; walked as in `model.folders`.
        skip: called with everything that is not used.

    Raises:
        OSError: it cannot be read.
    """
    listing = list_folder(folder, skip)
    found = Contents(shards=local_files(filter(_is_shard, listing.files)))
    others: list[Path] = []
    for file in listing.files:
        if not _describes(file):
            others += [file] * (not _is_shard(file))
        elif found.description:
            skip(Skipped(shown(file), _described_by(found.description)))
        else:
            found.description = LocalFile(file)
    found.loose = local_files(only_images(others, skip))
    if not found.loose and (parts := _parts(listing)):
        found.parts = {part.name: local_contents(part, skip) for part in parts}
        return found
    deep: list[Skipped] = []  # shards

    def note(one: Skipped) -> None:
        shard = one.reason.startswith(NOT_AN_IMAGE) and _is_shard(PurePosixPath(one.path))
        (deep.append if shard else skip)(one)

    _add_folders(found, folder, listing, note)
    if not (found.pictures or found.loose):
        found.shards = local_files(filter(_is_shard, list_files(folder)))
    else:
        for one in deep:
            skip(Skipped(one.path, BESIDE_PICTURES))
    return found


def _add_folders(found: Contents, folder: Path, listing: Listing, skip: Skip) -> None:
    """Add the pictures of a folder's sub-folders, each with its sub-folder's name."""
    # A link to the source or to a folder above it would make one concept of all that lies there.
    around = {**folders_above(folder), identity(folder): folder}
    for below in sorted(listing.folders + listing.links):
        try:
            if same := around.get(identity(below)):
                skip(same_folder(below, same))
                continue
            images = find_images(below, skip, around)
        except OSError as error:
            skip(Skipped(shown(below), fault(error)))
            continue
        found.pictures += ((below.name, LocalFile(image)) for image in images)
        if not images:
            found.empty.append(below.name)


def remote_contents(url: str, skip: Skip) -> Contents:
    """Returns what a folder at a URL holds; images are told by their names.

    Args:
        url: of the folder.
        skip: called with everything that is not used.

    Raises:
        SourceError: there is no such folder, or it cannot be listed.
    """
    used: list[tuple[PurePosixPath, RemoteFile]] = []
    for text, file in files_below(url):
        path = PurePosixPath(text)
        reasons = [unused_name(part, folder=True) for part in path.parts[:-1]]
        if reason := next(filter(None, [*reasons, unused_name(path.name, folder=False)]), None):
            skip(Skipped(file.address, reason))
        else:
            used.append((path, file))
    own = [(path, file) for path, file in used if len(path.parts) == 1]
    below = [(path, file) for path, file in used if len(path.parts) > 1]
    tops = sorted({path.parts[0] for path, _ in below})
    if tops and all(map(is_part, tops)) and not any(_is_picture(path) for path, _ in own):
        parts = {
            top: [(path.relative_to(top), file) for path, file in below if path.parts[0] == top]
            for top in tops
        }
        if all(_stands_alone(path for path, _ in files) for files in parts.values()):
            found = _sorted_out(own, skip)
            found.parts = {top: _sorted_out(files, skip) for top, files in parts.items()}
            return found
    return _sorted_out(used, skip)


def is_part(name: str) -> bool:
    """Returns True for the name of a part of a data set, such as ``train``."""
    return bool(_PART.fullmatch(name))


def _sorted_out(files: Sequence[tuple[PurePosixPath, RemoteFile]], skip: Skip) -> Contents:
    found = Contents()
    deep: list[Picture] = []
    for path, file in files:
        loose = len(path.parts) == 1
        if _is_shard(path):
            (found.shards if loose else deep).append(file)
        elif loose and _describes(path):
            if found.description:
                skip(Skipped(file.address, _described_by(found.description)))
            else:
                found.description = file
        elif not _is_picture(path):
            skip(Skipped(file.address, NOT_AN_IMAGE))
        elif loose:
            found.loose.append(file)
        else:
            found.pictures.append((path.parts[0], file))
    if not (found.pictures or found.loose):
        found.shards += deep
    else:
        for shard in deep:
            skip(Skipped(shard.address, BESIDE_PICTURES))
    return found


def _parts(listing: Listing) -> list[Path]:
    """Returns the folders ``train``, ``test`` and the like if a folder has no others."""
    folders = sorted(listing.folders + listing.links)
    if not folders or not all(is_part(folder.name) for folder in folders):
        return []
    try:
        if all(_stands_alone_here(list_folder(folder)) for folder in folders):
            return folders
    except OSError:
        pass
    return []


def _stands_alone_here(listing: Listing) -> bool:
    """Return True for a folder that could be a source of its own, False for a concept's."""
    if any(_describes(file) or _is_shard(file) for file in listing.files):
        return True
    return bool(listing.folders or listing.links) and not only_images(listing.files, ignore)


def _stands_alone(paths: Iterable[PurePosixPath]) -> bool:
    """Return as `_stands_alone_here`, of the files below a folder."""
    paths = list(paths)
    loose = [path for path in paths if len(path.parts) == 1]
    if any(_describes(path) or _is_shard(path) for path in loose):
        return True
    return len(loose) < len(paths) and not any(map(_is_picture, loose))


def _is_picture(file: PurePosixPath) -> bool:
    return file.suffix.lower() in PICTURE_SUFFIXES


def _is_shard(file: PurePosixPath | Path) -> bool:
    return file.suffix.lower() in SHARDS and not _describes(file)


def _described_by(description: Picture) -> str:
    return f"{description.name} describes its folder already"


def _describes(file: PurePosixPath | Path) -> bool:
    return file.stem.lower() == METADATA and file.suffix.lower() in MANIFESTS
