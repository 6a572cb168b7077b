"""List the pictures of sources without their labels, for training, pre-training and galleries."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from model.content import PARQUET, PICTURE_SUFFIXES, SHARDS
from model.errors import SourceError, TrainingError
from model.folders import (
    NOT_AN_IMAGE,
    Skip,
    Skipped,
    first_of,
    ignore,
    is_folder,
    list_files,
    only_images,
    unused_name,
)
from model.regular_files import shown
from model.sources.listings import Listings
from model.sources.local import LocalFile
from model.sources.picture import Picture
from model.sources.places import expand, local_path
from model.sources.remote import RemoteFile, files_below, is_url, remote_file, shown_url
from model.sources.tar import find_shard, members, not_a_picture


def list_pictures(
    sources: Iterable[Path | str], skip: Skip = ignore, listings: Listings | None = None
) -> list[Picture]:
    """Returns the pictures named by ``sources``, without repeats.

    Args:
        sources: paths or URLs of image files, which are taken as they are, of tar shards, of
            Parquet files with a column of images, and of folders of all of these; braces and
            wildcards name several.
        skip: called with everything in folders and shards that is not used.
        listings: keeps the members of tar shards at URLs.

    Raises:
        TrainingError: a path does not exist or cannot be read, or nothing was found at all.
        SourceError: a shard is damaged, or a URL cannot be read.
    """
    return all_pictures(sources, lambda one, note: pictures_at(one, note, listings), skip=skip)


def all_pictures(
    sources: Iterable[Path | str],
    read: Callable[[str, Skip], Iterable[Picture]],
    *,
    skip: Skip = ignore,
) -> list[Picture]:
    """Returns the pictures that ``read`` finds in each path or URL of ``sources``, without repeats.

    Raises:
        TrainingError: nothing was found at all.
        Exception: of ``read``.
    """
    given = [one for source in sources for one in expand(local_path(str(source)))]
    skipped: list[Skipped] = []

    def note(one: Skipped) -> None:
        skipped.append(one)
        skip(one)

    found: dict[Hashable, Picture] = {}
    for one in given:
        for picture in read(one, note):
            found.setdefault(_identity(picture), picture)
    if not found:
        names = ", ".join(shown_url(one) if is_url(one) else shown(one) for one in given)
        raise TrainingError(f"no images were found below {names}{first_of(skipped)}")
    return list(found.values())


def pictures_at(
    place: str, skip: Skip = ignore, listings: Listings | None = None
) -> Iterator[Picture]:
    """Yield the pictures of one path or URL, as `list_pictures` takes them."""
    return _remote(place, skip, listings) if is_url(place) else _local(Path(place), skip)


def pictures_in(
    shard: Picture, skip: Skip = ignore, listings: Listings | None = None
) -> list[Picture]:
    """Returns the pictures in a tar shard or a Parquet file, once it is known to be whole.

    Args:
        shard: the file; its name tells which of the two it is.
        skip: called with each member of a tar that is no picture.
        listings: keeps the members of a tar at a URL.

    Raises:
        SourceError: it is damaged, cut short or compressed, or has no column of images.
        OSError: it cannot be read.
    """
    if shard.name.lower().endswith(PARQUET):
        # Imported late, as Arrow is large and most commands need none of it.
        from model.sources.parquet import Cell, image_column, open_table

        version = shard.stamp.text
        table = open_table(shard)
        column = image_column(table.schema_arrow)
        if column is None:
            raise SourceError(f"{shown(shard.address)} has no column of images")
        return [Cell(shard, version, column, row) for row in range(table.metadata.num_rows)]
    pictures: list[Picture] = []
    for member in members(shard, listings):
        if reason := not_a_picture(member):
            skip(Skipped(shown(member.address), reason))
        else:
            pictures.append(member)
    return pictures


def _local(path: Path, skip: Skip) -> Iterator[Picture]:
    if not path.exists() and (parts := find_shard(path.parent.resolve() / path.name)):
        yield from _shard(parts, skip, path)
        return
    if not is_folder(path):
        if shard := find_shard(path.parent.resolve() / path.name):
            yield from _shard(_named(path) if isinstance(shard, LocalFile) else shard, skip, path)
        elif path.suffix.lower() == PARQUET:
            yield from _shard(_named(path), skip, path)
        else:
            yield LocalFile(path.resolve())
        return
    files = list_files(path, skip)
    for file in files:
        if file.suffix.lower() in SHARDS:
            yield from _in_folder(_named(file), skip)
    for file in only_images((f for f in files if f.suffix.lower() not in SHARDS), skip):
        yield LocalFile(file.resolve())


def _named(shard: Path) -> LocalFile:
    """Returns a shard under its real name, or, if that does not tell its kind, as it is named."""
    real = shard.resolve()
    return LocalFile(real if real.suffix.lower() in SHARDS else shard.absolute())


def _shard(shard: Picture, skip: Skip, path: Path) -> list[Picture]:
    try:
        return pictures_in(shard, skip)
    except OSError as error:
        raise TrainingError(f"{shown(path)}: {error.strerror or error}") from error


def _in_folder(shard: Picture, skip: Skip, listings: Listings | None = None) -> list[Picture]:
    """Returns the pictures of a shard in a folder, where a Parquet file may be something else."""
    try:
        if shard.name.lower().endswith(PARQUET):
            from model.sources.parquet import image_column, open_table

            if image_column(open_table(shard).schema_arrow) is None:
                skip(Skipped(shown(shard.address), NOT_AN_IMAGE))
                return []
        return pictures_in(shard, skip, listings)
    except OSError as error:
        reason = f"the file could not be read: {error.strerror or error}"
        skip(Skipped(shown(shard.address), reason))
        return []


def _remote(url: str, skip: Skip, listings: Listings | None) -> Iterator[Picture]:
    file = RemoteFile(url)
    suffix = PurePosixPath(file.name).suffix.lower()
    try:
        if suffix in SHARDS:
            yield from pictures_in(remote_file(url), skip, listings)
        elif suffix in PICTURE_SUFFIXES:
            yield file
        else:
            yield from _below(url, skip, listings)
    except OSError as error:
        raise SourceError(f"{file.address}: {error.strerror or error}") from error


def _below(url: str, skip: Skip, listings: Listings | None) -> Iterator[Picture]:
    for path, file in files_below(url):
        *folders, name = path.split("/")
        reasons: list[str | None] = [unused_name(part, folder=True) for part in folders]
        suffix = PurePosixPath(name).suffix.lower()
        if reason := next(filter(None, [*reasons, unused_name(name, folder=False)]), None):
            skip(Skipped(file.address, reason))
        elif suffix in SHARDS:
            yield from _in_folder(file, skip, listings)
        elif suffix in PICTURE_SUFFIXES:
            yield file
        else:
            skip(Skipped(file.address, NOT_AN_IMAGE))


def _identity(picture: Picture) -> Hashable:
    try:
        return picture.identity
    except OSError:  # whoever reads it learns the reason
        return picture.address
