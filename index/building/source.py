"""Read sources of exemplars: folders, manifests, tar shards and Parquet files, here or at URLs."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from index.building.contents import METADATA, Contents, local_contents, remote_contents
from index.building.labels import MAX_LABEL, Labelled, kept_labels, read_parquet, read_tar
from index.building.manifests.reading import MANIFESTS, PARQUET, malformed, read_manifest
from index.building.manifests.records import RecordError, Records
from index.names import concept_id, distinct_ids, former_id, lower, nfc
from model.content import PICTURE_SUFFIXES, TAR
from model.errors import SourceError
from model.folders import NOT_AN_IMAGE, Skip, Skipped, fault, first_of, ignore
from model.regular_files import shown
from model.sources.listings import Listings
from model.sources.local import LocalFile
from model.sources.parquet import image_column, open_table
from model.sources.picture import Picture
from model.sources.places import expand, local_path
from model.sources.remote import (
    HTTP,
    RemoteFile,
    decoded,
    forget,
    is_url,
    remote_file,
    shown_url,
    split_url,
)
from model.sources.tar import find_shard

COLUMNS = ("path", "concept")
OTHER_NAMES = {"path": "file_name", "concept": "label"}  # as in folders of Hugging Face
OPTIONAL = ("name", "kind", "source_url", "license")
KNOWN = (*COLUMNS, *OTHER_NAMES.values(), *OPTIONAL)

Place = Path | str  # of a source: an absolute path, or a URL

Report = Callable[[str], None]  # called with a message for the source's owner


@dataclass(frozen=True)
class SourceConcept:
    """A named set of exemplars, as its source calls it."""

    id: str
    name: str
    kind: str | None = None  # such as "artist" or "subject"; free text
    other_ids: frozenset[str] = frozenset()  # earlier id of its text, and the id without a hash


@dataclass(frozen=True)
class SourceExemplar:
    """One image of a concept, with its origin and license."""

    picture: Picture
    concept: SourceConcept
    source_url: str | None = None
    license: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)  # a manifest's other columns

    @property
    def path(self) -> Path:
        """Return the picture's address as a path."""
        return Path(self.picture.address)


@dataclass(frozen=True)
class _Found:
    """An exemplar whose concept has no id yet."""

    picture: Picture
    concept: str  # NFC
    source_url: str | None = None
    license: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_sources(
    sources: Iterable[Path | str],
    *,
    each_image_a_concept: bool = False,
    concept_column: str | None = None,
    report: Report | None = None,
    skip: Skip = ignore,
    listings: Listings | None = None,
) -> list[SourceExemplar]:
    """Returns every exemplar of every source, in a stable order.

    A concept is known by its id and shown by its name: no two concepts may share a name, and no
    concept may have two names or two kinds. One that several sources have is one concept. Folders
    are walked as in `model.folders`.

    Args:
        sources: paths or URLs of folders whose sub-folders are concepts, of tar shards and Parquet
            files with labelled images (`index.building.labels`), or of manifests with the columns
            ``path, concept`` (or ``file_name, label``) and optionally ``name, kind, source_url,
            license``; values of other columns become metadata. A manifest's paths are absolute or
            relative to the manifest, and a name or kind in one of a concept's records applies to
            all of them. Braces and wildcards name several.
        each_image_a_concept: also take images directly in a source folder, and those of a shard
            that gives them no label, each as a concept of its own, named ``<folder>/<file>``.
        concept_column: the column, or the name in a shard's JSON, that gives the concept.
        report: called with notes for the source's owner: a concept's folder without images, a
            guessed encoding.
        skip: called with each file and folder that is not used.
        listings: keeps what shards at URLs hold, so that unchanged ones are not read again.

    Raises:
        SourceError: a source is missing, empty, malformed or not readable, or one name is given to
            two concepts.
    """
    forget()
    names = _Names()
    reader = _Reader(each_image_a_concept, concept_column, report or _silent, names, listings)
    found: list[_Found] = []
    for place, source in _places(sources).items():
        skipped: list[Skipped] = []
        own = reader.read(place, skipped.append)
        for one in skipped:
            skip(one)
        if not own:
            raise SourceError(
                f"source {source} holds no exemplars; a folder needs a sub-folder of images for "
                "each concept, a manifest a record with path and concept for each image, a shard "
                f"a label for each image{first_of(skipped)}"
            )
        found += own
    if not found:
        raise SourceError("no source was given; name at least one with --source")
    concepts = names.concepts()
    return [
        SourceExemplar(
            one.picture, concepts[one.concept], one.source_url, one.license, one.metadata
        )
        for one in found
    ]


def _places(sources: Iterable[Path | str]) -> dict[Place, str]:
    """Returns the place of each source that is named, and how messages show it."""
    places: dict[Place, str] = {}
    for source in sources:
        for one in expand(local_path(str(source))):
            place = one if is_url(one) else _absolute(Path(one))
            places[place] = shown_url(one) if is_url(one) else one
    return places


def _absolute(source: Path) -> Path:
    """Returns a source's absolute path.

    Links are followed, except for the last one to a manifest, whose own name has the suffix and
    whose own folder the relative paths of the records begin at.
    """
    with contextlib.suppress(RuntimeError):  # there is no such user, so it is a file's own name
        source = source.expanduser()
    # realpath accepts loops of links, at which Path.resolve raises.
    if source.is_dir():
        return Path(os.path.realpath(source))
    return Path(os.path.realpath(source.parent)) / source.name


class _Reader:
    """Reads sources of every kind.

    Args:
        loose: take images directly in a source folder, each as a concept of its own.
        column: the column that gives the concept; None for the usual ones.
        report: called with notes for the source's owner.
        names: collects the concepts.
        listings: keeps what shards at URLs hold.
    """

    def __init__(
        self,
        loose: bool,
        column: str | None,
        report: Report,
        names: "_Names",
        listings: Listings | None,
    ) -> None:
        self._listings = listings
        self._loose = loose
        self._column = column
        self._report = report
        self._names = names

    def read(self, place: Place, skip: Skip) -> list[_Found]:
        """Returns the exemplars of one source.

        Raises:
            SourceError: it is missing, malformed or not readable.
        """
        if isinstance(place, str):
            return list(self._read_url(place, skip))
        try:
            if stat.S_ISDIR(place.stat().st_mode):
                return list(self._read_contents(place, local_contents(place, skip), skip))
            if shard := find_shard(place):
                return list(self._read_shard(shard, skip))
        except (FileNotFoundError, NotADirectoryError):
            if shard := find_shard(place):  # by the name that its parts have in common
                return list(self._read_shard(shard, skip))
            raise SourceError(f"source {place}: there is no such folder or manifest") from None
        except OSError as error:
            raise SourceError(f"source {place}: {fault(error)}") from error
        if place.suffix.lower() in MANIFESTS:
            return list(self._read_file(LocalFile(place), skip))
        kinds = ", ".join(sorted(MANIFESTS))
        raise SourceError(
            f"source {place} is neither a folder nor a manifest ({kinds}) nor a shard ({TAR})"
        )

    def _read_url(self, url: str, skip: Skip) -> Iterator[_Found]:
        file = RemoteFile(url)
        suffix = PurePosixPath(file.name).suffix.lower()
        try:
            if suffix == TAR:
                yield from self._read_shard(remote_file(url), skip)
            elif suffix in MANIFESTS:
                yield from self._read_file(remote_file(url), skip)
            elif suffix in PICTURE_SUFFIXES:
                raise SourceError(
                    f"source {file.address} is an image of no concept: name its folder"
                )
            else:
                yield from self._read_contents(url, remote_contents(url, skip), skip)
        except OSError as error:
            raise SourceError(f"source {file.address}: {error.strerror or error}") from error

    def _read_file(self, file: Picture, skip: Skip, *, optional: bool = False) -> Iterator[_Found]:
        """Read a manifest, or a Parquet file that holds the images themselves.

        Args:
            file: the file.
            skip: called with each record that is not used.
            optional: report a manifest that gives no concepts instead of raising an error.
        """
        if file.name.lower().endswith(PARQUET):
            kept = kept_labels(file, skip, self._column, self._listings, each=self._loose)
            if kept is not None:
                yield from self._labelled(file, kept)
                return
            version = file.stamp.text
            try:
                table = open_table(file)
            except OSError as error:
                raise SourceError(
                    f"manifest {shown(file.address)} cannot be read: {error.strerror or error}"
                ) from error
            headings = {str(name).lower() for name in table.schema_arrow.names}
            column = image_column(table.schema_arrow)
            manifest = headings & {"path", "file_name"} if column and "." not in column else None
            if column and not (manifest or headings >= set(COLUMNS)):
                found = read_parquet(
                    file,
                    version,
                    table,
                    skip,
                    KNOWN,
                    self._column,
                    self._listings,
                    each=self._loose,
                )
                yield from self._labelled(file, found)
                return
        records = read_manifest(file, KNOWN, self._report)
        path, concept = (
            name
            if name in records.columns or OTHER_NAMES[name] not in records.columns
            else OTHER_NAMES[name]
            for name in COLUMNS
        )
        wanted, name = (path, self._column or concept), f"manifest {shown(file.address)}"
        try:
            require_columns(records, wanted, name)
        except SourceError as error:
            if not optional:
                raise
            self._report(f"{error}; it is not used, and folders give the concepts")
            return
        try:
            yield from self._recorded(file, records, wanted)
        except RecordError as error:
            raise malformed(file, error) from error

    def _read_shard(self, shard: Picture, skip: Skip) -> Iterator[_Found]:
        yield from self._labelled(
            shard,
            read_tar(shard, skip, KNOWN, self._column, self._listings, each=self._loose),
        )

    def _labelled(self, file: Picture, found: Iterable[Labelled]) -> Iterator[_Found]:
        try:
            for one in found:
                yield self._found(
                    file, one.picture, one.concept, one.record.text, one.record.values
                )
        except RecordError as error:
            place = f"{error.place}: " if error.place else ""
            raise SourceError(f"source {shown(file.address)}: {place}{error}") from error

    def _recorded(
        self, manifest: Picture, records: Records, columns: tuple[str, str]
    ) -> Iterator[_Found]:
        for record in records.records:
            path, key = (record.text(column) for column in columns)
            if not path or not key:
                raise RecordError(f"{columns[1 if path else 0]} is empty", record.place)
            picture = manifest_picture(manifest, path)
            others = {name: v for name, v in record.values.items() if name not in columns}
            yield self._found(manifest, picture, key, record.text, others)

    def _found(
        self,
        source: Picture,
        picture: Picture,
        concept: str,
        text: Callable[[str], str | None],
        values: Mapping[str, Any],
    ) -> _Found:
        known = {column: text(column) for column in OPTIONAL}
        return _Found(
            picture,
            self._names.describe(
                shown(source.address), concept, name=known["name"], kind=known["kind"]
            ),
            known["source_url"],
            known["license"],
            {column: value for column, value in values.items() if column not in OPTIONAL},
        )

    def _read_contents(
        self, source: Place, found: Contents, skip: Skip, named: Set[str] = frozenset()
    ) -> Iterator[_Found]:
        """Read a folder.

        Args:
            source: the folder, or one above it.
            found: its contents.
            skip: called with everything that is not used.
            named: keys of pictures that a description of a folder above names.
        """
        name = shown_url(source) if isinstance(source, str) else str(source)
        described = list(self._described(found, skip))
        yield from described
        named = named | {_key(one.picture) for one in described}
        if found.parts:
            self._report(f"source {name}: the concepts of {', '.join(found.parts)} are joined")
        for part in found.parts.values():
            yield from self._read_contents(source, part, skip, named)
        whole = bool(described)  # it names all loose images that are used
        yield from self._loose_images(name, _unnamed(found.loose, named, skip, always=whole))
        folders: dict[str, list[Picture]] = {}
        for folder, picture in found.pictures:
            folders.setdefault(folder, []).append(picture)
        for folder, pictures in folders.items():
            for picture in _unnamed(pictures, named, skip):
                yield _Found(picture, self._names.describe(name, folder))
        alone = not (found.loose or found.pictures or found.parts)
        for shard in found.shards:
            yield from self._read_own(shard, skip, alone=alone)
        if not alone or not found.shards:
            for folder in found.empty:
                self._report(
                    f"source {name}: the folder {folder!r} has no images and gives no concept"
                )

    def _described(self, found: Contents, skip: Skip) -> Iterator[_Found]:
        """Read the description of a folder, if it has one and it gives concepts."""
        if found.description and self._loose:
            reason = "each image is a concept of its own, so that it is not used"
            skip(Skipped(shown(found.description.address), reason))
        elif found.description:
            yield from self._read_file(found.description, skip, optional=not found.loose)

    def _read_own(self, shard: Picture, skip: Skip, *, alone: bool) -> Iterator[_Found]:
        """Read a shard in a folder; beside concepts' folders it may be something else.

        Args:
            shard: a tar or Parquet file.
            skip: called with everything that is not used.
            alone: nothing else in the folder gives exemplars.
        """
        if shard.name.lower().endswith(TAR):
            yield from self._read_shard(shard, skip)
            return
        kept = kept_labels(shard, skip, self._column, self._listings, each=self._loose)
        if kept is not None:
            yield from self._labelled(shard, kept)
        elif alone or image_column(open_table(shard).schema_arrow):
            yield from self._read_file(shard, skip)
        else:
            skip(Skipped(shown(shard.address), NOT_AN_IMAGE))

    def _loose_images(self, source: str, images: Sequence[Picture]) -> Iterator[_Found]:
        if images and not self._loose:
            raise SourceError(
                f"source {source} has {len(images)} loose images (such as {images[0].name}) that "
                "belong to no concept; put them into a folder per concept, describe them in a "
                f"{METADATA}.csv with file_name and label, or make each a concept of its own with "
                "--each-image-a-concept"
            )
        folder = PurePosixPath(source).name
        stems: dict[str, str] = {}
        for image in images:
            stem = PurePosixPath(image.name).stem
            if stems.setdefault(stem, image.name) != image.name:
                raise SourceError(
                    f"source {source}: two concepts share one name: {stems[stem]} and "
                    f"{image.name} would both be {stem!r}; rename one"
                )
            yield _Found(image, self._names.describe(source, f"{folder}/{stem}"))


def _key(picture: Picture) -> str:
    """Return a text that is equal for a picture in a folder's listing and in a manifest."""
    if isinstance(picture, RemoteFile):
        return decoded(picture.url, split_url(picture.url).path)
    return os.path.realpath(picture.address)


def _unnamed(
    pictures: Sequence[Picture], named: Set[str], skip: Skip, *, always: bool = False
) -> Sequence[Picture]:
    """Returns the pictures of a folder that a description names none of.

    If it names some of them, or if it is to name them ``always``, the others are skipped: they are
    of no concept.
    """
    if not named:
        return pictures
    others = [picture for picture in pictures if _key(picture) not in named]
    if len(others) == len(pictures) and not always:
        return others
    for picture in others:
        skip(Skipped(shown(picture.address), f"its folder's {METADATA} file does not name it"))
    return []


def require_columns(records: Records, columns: Sequence[str], manifest: str) -> None:
    """Check that a manifest has some columns.

    Raises:
        SourceError: it lacks one.
    """
    missing = [column for column in columns if column not in records.columns]
    if missing:
        raise SourceError(
            f"{manifest} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has "
            f"{', '.join(records.columns) or 'none'} and needs {' and '.join(columns)}"
        )


def manifest_path(source: Path, path: str) -> Path:
    """Returns the absolute path of a manifest's record, with links followed."""
    # realpath accepts loops of links, at which Path.resolve raises.
    return Path(os.path.realpath(source.parent / path))


def manifest_picture(manifest: Picture, path: str) -> Picture:
    """Returns the picture of a manifest's record.

    A manifest of this machine may name files and URLs. One at a URL may name files of its own
    server or bucket alone, so that its author cannot choose what this machine reads or asks.

    Raises:
        SourceError: a manifest at a URL names a file of this machine, or of another place.
    """
    path = local_path(path)
    if isinstance(manifest, LocalFile):
        if is_url(path):
            return RemoteFile(path)
        return LocalFile(manifest_path(manifest.path, path))
    assert isinstance(manifest, RemoteFile)
    own = split_url(manifest.url)
    if ".." in path.split("/"):
        raise SourceError(
            f"manifest {manifest.address} names {shown_url(path) if is_url(path) else path}: a "
            "path with .. may lead out of its place"
        )
    if not is_url(path) and not path.startswith("/"):
        root = f"{own.scheme}://{own.netloc}{own.path.rpartition('/')[0]}"
        return RemoteFile(f"{root}/{quote(path) if own.scheme in HTTP else path}")
    if _root(path) != _root(manifest.url):
        raise SourceError(
            f"manifest {manifest.address} names {shown_url(path)}, which is not of its own server; "
            "copy the manifest to this machine if its addresses are to be trusted"
        )
    return RemoteFile(path)


def _root(url: str) -> tuple[str, str, str]:
    """Return the server or bucket of a URL; of ``hf://`` the repository."""
    parts = split_url(url)
    inner = "/".join(parts.path.split("/")[:3]) if parts.scheme == "hf" else ""
    return parts.scheme, parts.netloc, inner


class _Names:
    """Collects the sources' texts of concepts, and gives each text its concept."""

    def __init__(self) -> None:
        self._columns: dict[str, dict[str, str]] = {}  # text -> its name and kind, if given
        self._source: dict[str, str] = {}  # text -> its first source

    def describe(self, source: str, text: str, **columns: str | None) -> str:
        """Record a concept's name and kind as one record gives them; return the text in NFC.

        Raises:
            SourceError: another record differs, or the text is too long to be a name.
        """
        text = nfc(text)
        if len(text) > MAX_LABEL:
            raise SourceError(
                f"source {source}: the text of a concept has {len(text):,} characters, over "
                f"{MAX_LABEL:,}: {text[:40]!r}...; give the column of labels with --concept-column"
            )
        self._source.setdefault(text, source)
        known = self._columns.setdefault(text, {})
        for column, value in columns.items():
            if value and known.setdefault(column, nfc(value)) != nfc(value):
                raise SourceError(
                    f"source {source}: the concept {text!r} has two {column}s: "
                    f"{known[column]!r} and {nfc(value)!r}; give all its records the same "
                    f"{column}, or leave it out in all but one"
                )
        return text

    def concepts(self) -> dict[str, SourceConcept]:
        """Returns the concept of each text.

        Raises:
            SourceError: two have the same name, except for case.
        """
        concepts: dict[str, SourceConcept] = {}
        by_name: dict[str, str] = {}
        for text, identifier in distinct_ids(self._columns).items():
            known = self._columns[text]
            others = frozenset({concept_id(text), former_id(text)} - {identifier, ""})
            concept = SourceConcept(identifier, known.get("name", text), known.get("kind"), others)
            concepts[text] = concept
            first = by_name.setdefault(lower(concept.name), text)
            if first != text:
                raise SourceError(
                    f"two concepts share one name: {concept_id(text)!r} of {self._source[text]} is "
                    f"called {concept.name!r} and {concept_id(first)!r} of {self._source[first]} "
                    f"{concepts[first].name!r}. Rename one, or list both under one concept if they "
                    "are the same"
                )
        return concepts


def _silent(_: str) -> None:
    """Ignore a report."""
