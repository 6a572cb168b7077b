"""Walk folders: find their images, and list all other files with the reason to skip them.

Rebuild, training and pre-training use these functions, so that all three find the same files.
"""

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from model.content import HEAD, PICTURE_SUFFIXES, RAW_SUFFIXES, describe
from model.errors import TrainingError
from model.files import this_user
from model.images import begins_image
from model.regular_files import open_file, shown, special_kind

# Folders that systems and programs put among a user's own, lower case.
MACHINE_FOLDERS = frozenset(
    {
        "#recycle", "#snapshot", "$recycle.bin", "@__thumb", "@eadir", "@recently-snapshot",
        "@recycle", "@sharebin", "@sharesnap", "@synoresource", "@tmp", "__macosx", "__pycache__",
        "~snapshot", "lost+found", "msdownld.tmp", "network trash folder", "recycled", "recycler",
        "system volume information", "temporary items",
    }
)  # fmt: skip
# Folders of Windows: what chkdsk found, numbered, and what an upgrade left.
_MACHINE_FOLDER = re.compile(r"found\.[0-9]{3}|\$windows\.~[a-z]{2}")

NOT_AN_IMAGE = "not an image"

Identity = tuple[int, int] | str  # of a folder: see `identity`
NONE: Mapping[Identity, Path] = MappingProxyType({})


@dataclass(frozen=True)
class Skipped:
    """A file or folder that was found and is not used, and the reason."""

    path: str
    reason: str


Skip = Callable[[Skipped], None]


@dataclass(frozen=True)
class Listing:
    """The entries of one folder that may be used, each list by name."""

    folders: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)  # to folders
    files: list[Path] = field(default_factory=list)  # regular files, and links to such


def ignore(_: Skipped) -> None:
    """Ignore a skipped file: a `Skip` for callers that need no list."""


def unused_name(name: str, *, folder: bool) -> str | None:
    """Returns why an entry of this name is not used: hidden, or a system's own; else None.

    Args:
        name: the entry's own name, without its path.
        folder: the entry is a folder.
    """
    own = name.lower()
    if folder and (own in MACHINE_FOLDERS or _MACHINE_FOLDER.fullmatch(own)):
        return "a folder of the system or of a program"
    if name.startswith("."):
        return "a hidden folder" if folder else "a hidden file"
    return None


def list_folder(folder: Path, skip: Skip = ignore) -> Listing:
    """List one folder.

    Args:
        folder: the folder.
        skip: called with each entry that is hidden, a system's own folder, a link without a
            target, or neither file nor folder.

    Raises:
        OSError: the folder cannot be read; `fault` puts it into words.
    """
    # scandir asks the system once a folder; Path.iterdir would need a call for each file.
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    listing = Listing()
    for entry in entries:
        path = folder / entry.name
        try:
            is_folder = entry.is_dir()
            if reason := unused_name(entry.name, folder=is_folder):
                skip(Skipped(shown(path), reason))
            elif is_folder:
                (listing.links if entry.is_symlink() else listing.folders).append(path)
            elif entry.is_file():
                listing.files.append(path)
            else:
                kind = special_kind(entry.stat().st_mode)
                skip(Skipped(shown(path), f"it is {kind}, not a file"))
        except OSError as error:
            skip(Skipped(shown(path), _entry_fault(path, error)))
    return listing


def list_files(
    folder: Path, skip: Skip = ignore, other: Mapping[Identity, Path] = NONE
) -> list[Path]:
    """Returns all regular files below ``folder``, to any depth, in a stable order.

    Links to files and folders are followed, those to folders last, so that folders keep their own
    names. A folder with several links is read once, and a folder above ``folder`` is not read, so
    that loops have no effect. A sub-folder that cannot be read is skipped.

    Args:
        folder: the top folder, of any name.
        skip: called with everything that is not used.
        other: folders that are not read, even if a link leads there.

    Raises:
        OSError: ``folder`` itself cannot be read.
    """
    known = {**other, **folders_above(folder), identity(folder): folder}
    first = list_folder(folder, skip)
    files, waiting, links = first.files, first.folders[::-1], deque(first.links)
    while waiting or links:  # no recursion: folders can be nested deeper than calls
        place = waiting.pop() if waiting else links.popleft()
        try:
            own = identity(place)
            if own in known:
                skip(same_folder(place, known[own]))
                continue
            known[own] = place
            listing = list_folder(place, skip)
        except OSError as error:
            skip(Skipped(shown(place), fault(error)))
            continue
        files += listing.files
        waiting += listing.folders[::-1]
        links += listing.links
    return sorted(files)


def identity(folder: Path) -> Identity:
    """Returns a value that is equal for one folder under several names.

    Raises:
        OSError: the folder cannot be reached.
    """
    stat = folder.stat()
    # Some file systems number no folders.
    return (stat.st_dev, stat.st_ino) if stat.st_ino else os.path.realpath(folder)


def folders_above(folder: Path) -> dict[Identity, Path]:
    """Returns the folders that lie above one, with links followed, each by its identity."""
    return {identity(parent): parent for parent in Path(os.path.realpath(folder)).parents}


def same_folder(folder: Path, known: Path) -> Skipped:
    """Returns the record of a folder that is not used, as it is another under a second name."""
    return Skipped(shown(folder), f"the same folder as {shown(known)}")


def find_images(
    folder: Path, skip: Skip = ignore, other: Mapping[Identity, Path] = NONE
) -> list[Path]:
    """Returns all image files below ``folder``: see `list_files` and `only_images`.

    Raises:
        OSError: ``folder`` itself cannot be read.
    """
    return only_images(list_files(folder, skip, other), skip)


def only_images(files: Iterable[Path], skip: Skip = ignore) -> list[Path]:
    """Returns the files that are images, by their content.

    A file named like a picture is taken without being opened: whoever reads it learns whether it is
    one. Every other file is opened, and taken if it begins as an accepted image does.

    Args:
        files: regular files.
        skip: called with each other file.
    """
    images = []
    for file in files:
        if reason := not_an_image(file):
            skip(Skipped(shown(file), reason))
        else:
            images.append(file)
    return images


def not_an_image(file: Path) -> str | None:
    """Returns why a regular file is no image; None for one that is, or that is named like one."""
    suffix = file.suffix.lower()
    if suffix in PICTURE_SUFFIXES:
        return None
    try:
        with open_file(file) as opened:
            head = opened.read(HEAD)
    except OSError as error:
        return f"the file could not be read: {error.strerror or error}"
    # Most raw files are TIFF files, and some have other bytes behind TIFF's mark of a byte order.
    if suffix in RAW_SUFFIXES and (head[:2] in {b"II", b"MM"} or not begins_image(head)):
        return "a camera's raw file: convert it to JPEG or TIFF"
    return None if begins_image(head) else not_an_image_because(head)


def not_an_image_because(head: bytes) -> str:
    """Returns the reason to skip a file that begins with these bytes, which are no image's."""
    kind = describe(head) if head else "empty"
    return f"{NOT_AN_IMAGE}: {kind}" if kind else NOT_AN_IMAGE


def is_folder(path: Path) -> bool:
    """Returns True for a folder, False for a file.

    Raises:
        TrainingError: ``path`` is neither, or cannot be read.
    """
    try:
        mode = path.stat().st_mode
        kind = special_kind(mode)
        if kind == "a folder":
            os.scandir(path).close()
            return True
    except FileNotFoundError:
        raise TrainingError(f"{shown(path)}: there is no such file or folder") from None
    except OSError as error:
        raise TrainingError(f"{shown(path)}: {fault(error)}") from error
    if kind:
        raise TrainingError(f"{shown(path)}: it is {kind}, neither a file nor a folder")
    return False


def fault(error: OSError) -> str:
    """Returns the message for a folder or file that cannot be read."""
    if isinstance(error, PermissionError):
        return f"it cannot be read by {this_user()}; check its permissions and owner"
    return f"it cannot be read: {error.strerror or error}"


def first_of(skipped: list[Skipped]) -> str:
    """Returns the end of a message, with the number of skipped files and the first of them."""
    if not skipped:
        return ""
    one = skipped[0]
    return f"; {len(skipped)} files or folders were skipped, the first {one.path}: {one.reason}"


def _entry_fault(path: Path, error: OSError) -> str:
    """Returns the fault of an entry that cannot be read: a link without a target, or another."""
    try:
        target = path.readlink()
    except OSError:
        return fault(error)
    if isinstance(error, FileNotFoundError):
        return f"a link to {shown(target)}, which is not there"
    return f"a link to {shown(target)}, which cannot be followed: {error.strerror}"
