"""List the pictures of sources without their labels, manifests included."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from index.building.manifests.reading import MANIFESTS, malformed, read_manifest
from index.building.manifests.records import RecordError
from index.building.source import KNOWN, OTHER_NAMES, manifest_picture
from model.content import PARQUET
from model.errors import SourceError
from model.folders import Skip, ignore
from model.regular_files import shown
from model.sources.listing import all_pictures, pictures_at
from model.sources.listings import Listings
from model.sources.parquet import image_column, open_table
from model.sources.picture import Picture
from model.sources.places import file_at
from model.sources.remote import is_url, name_of


def list_images(
    sources: Iterable[Path | str], skip: Skip = ignore, listings: Listings | None = None
) -> list[Picture]:
    """Returns the pictures named by ``sources``, without repeats.

    Args:
        sources: as for `model.sources.listing.list_pictures`, and paths or URLs of manifests with
            a column ``path`` or ``file_name``; their other columns are not read.
        skip: called with everything in folders and shards that is not used.
        listings: keeps the members of tar shards at URLs.

    Raises:
        TrainingError: a path does not exist or cannot be read, or nothing was found at all.
        SourceError: a manifest or a shard is damaged, or a URL cannot be read.
    """

    def read(one: str, note: Skip) -> Iterable[Picture]:
        manifest = manifest_at(one)
        return manifest_pictures(manifest) if manifest else pictures_at(one, note, listings)

    return all_pictures(sources, read, skip=skip)


def manifest_at(place: str) -> Picture | None:
    """Returns the manifest at a path or URL; None if something else is there, or nothing.

    Raises:
        SourceError: a Parquet file cannot be read.
    """
    name = name_of(place) if is_url(place) else place
    if Path(name).suffix.lower() not in MANIFESTS or not (is_url(place) or Path(place).is_file()):
        return None
    file = file_at(place if is_url(place) else str(Path(place).absolute()))
    if not name.lower().endswith(PARQUET):
        return file
    try:
        return None if image_column(open_table(file).schema_arrow) else file
    except OSError as error:
        raise SourceError(f"{shown(file.address)}: {error.strerror or error}") from error


def manifest_pictures(file: Picture) -> Iterator[Picture]:
    """Yield the pictures that a manifest names.

    Raises:
        SourceError: it cannot be read, names no paths, or names another server's.
    """
    records = read_manifest(file, KNOWN)
    column = next((name for name in ("path", OTHER_NAMES["path"]) if name in records.columns), None)
    if column is None:
        raise SourceError(
            f"manifest {shown(file.address)} lacks the column path (or {OTHER_NAMES['path']}); it "
            f"has {', '.join(records.columns) or 'none'}"
        )
    try:
        for record in records.records:
            if path := record.text(column):
                yield manifest_picture(file, path)
    except RecordError as error:
        raise malformed(file, error) from error
