"""List the pictures that training takes, of whatever kind their places are."""

from collections.abc import Hashable, Iterable
from pathlib import Path

from model.errors import TrainingError
from model.folders import Skip, Skipped, find_images, first_of, ignore, is_folder, named
from model.sources.local import LocalFile
from model.sources.picture import Picture


def list_pictures(paths: Iterable[Path], skip: Skip = ignore) -> list[Picture]:
    """Returns the pictures named by ``paths``, without repeats: files, or all in folders.

    Args:
        paths: files, taken as they are, and folders.
        skip: called with everything in the folders that is not used.

    Raises:
        TrainingError: a path does not exist or cannot be read, or nothing was found at all.
    """
    paths = list(paths)
    skipped: list[Skipped] = []

    def note(one: Skipped) -> None:
        skipped.append(one)
        skip(one)

    found: dict[Hashable, Picture] = {}
    for path in paths:
        for image in find_images(path, note) if is_folder(path) else [path]:
            found.setdefault(file := image.resolve(), LocalFile(file))
    if not found:
        raise TrainingError(f"no images were found below {named(paths)}{first_of(skipped)}")
    return list(found.values())
