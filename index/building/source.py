"""Read sources of exemplars: folders with a sub-folder for each concept, or manifests."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from index.building.manifests.reading import MANIFESTS, malformed, read_manifest
from index.building.manifests.records import RecordError, Records
from index.names import concept_id, distinct_ids, former_id, lower, nfc
from model.errors import SourceError
from model.folders import (
    Skip,
    Skipped,
    fault,
    find_images,
    first_of,
    folders_above,
    identity,
    ignore,
    list_folder,
    only_images,
    same_folder,
)
from model.regular_files import shown
from model.sources.local import LocalFile
from model.sources.picture import Picture

COLUMNS = ("path", "concept")
OPTIONAL = ("name", "kind", "source_url", "license")

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
    sources: Iterable[Path],
    *,
    each_image_a_concept: bool = False,
    report: Report | None = None,
    skip: Skip = ignore,
) -> list[SourceExemplar]:
    """Returns every exemplar of every source, in a stable order.

    A concept is known by its id and shown by its name: no two concepts may share a name, and no
    concept may have two names or two kinds. Folders are walked as in `model.folders`.

    Args:
        sources: folders whose sub-folders are concepts, or manifests with the columns
            ``path, concept`` and optionally ``name, kind, source_url, license``; values of other
            columns become metadata. A manifest's paths are absolute or relative to the manifest,
            and a name or kind in one of a concept's records applies to all of them.
        each_image_a_concept: also take images directly in a source folder, each as a concept of
            its own, named ``<folder>/<file>``.
        report: called with notes for the source's owner: a concept's folder without images, a
            guessed encoding.
        skip: called with each file and folder that is not used.

    Raises:
        SourceError: a source is missing, empty, malformed or not readable, or one name is given to
            two concepts.
    """
    report = report or _silent
    names = _Names()
    found: list[_Found] = []
    for place, source in {_absolute(source): source for source in sources}.items():
        skipped: list[Skipped] = []
        own = _read_source(place, each_image_a_concept, report, skipped.append, names)
        for one in skipped:
            skip(one)
        if not own:
            raise SourceError(
                f"source {source} holds no exemplars; a folder needs a sub-folder of images for "
                "each concept, a manifest a record with path and concept for each image"
                f"{first_of(skipped)}"
            )
        found += own
        names.end_source(source)
    if not found:
        raise SourceError("no source was given; name at least one with --source")
    concepts = names.concepts()
    return [
        SourceExemplar(
            one.picture, concepts[one.concept], one.source_url, one.license, one.metadata
        )
        for one in found
    ]


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


def _read_source(
    source: Path, loose: bool, report: Report, skip: Skip, names: "_Names"
) -> list[_Found]:
    try:
        if stat.S_ISDIR(source.stat().st_mode):
            return list(_read_folder(source, loose, report, skip, names))
    except (FileNotFoundError, NotADirectoryError):
        raise SourceError(f"source {source}: there is no such folder or manifest") from None
    except OSError as error:
        raise SourceError(f"source {source}: {fault(error)}") from error
    if source.suffix.lower() not in MANIFESTS:
        raise SourceError(
            f"source {source} is neither a folder nor a manifest ({', '.join(sorted(MANIFESTS))})"
        )
    records = read_manifest(source, COLUMNS + OPTIONAL, report)
    require_columns(records, COLUMNS, f"manifest {source}")
    try:
        return list(_read_records(source, records, names))
    except RecordError as error:
        raise malformed(source, error) from error


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


def _read_folder(
    source: Path, loose: bool, report: Report, skip: Skip, names: "_Names"
) -> Iterator[_Found]:
    listing = list_folder(source, skip)
    images = only_images(listing.files, skip)
    if images and not loose:
        raise SourceError(
            f"source {source} has {len(images)} loose images (such as {images[0].name}) that "
            "belong to no concept; put them into a folder per concept, or make each a concept of "
            "its own with --each-image-a-concept"
        )
    stems: dict[str, Path] = {}
    for image in images:
        if stems.setdefault(image.stem, image) != image:
            raise SourceError(
                f"source {source}: two concepts share one name: {stems[image.stem].name} and "
                f"{image.name} would both be {image.stem!r}; rename one"
            )
        yield _Found(LocalFile(image), names.describe(source, f"{source.name}/{image.stem}"))
    # A link to the source or to a folder above it would make one concept of all that lies there.
    around = {**folders_above(source), identity(source): source}
    for folder in sorted(listing.folders + listing.links):
        try:
            if same := around.get(identity(folder)):
                skip(same_folder(folder, same))
                continue
            found = find_images(folder, skip, around)
        except OSError as error:
            skip(Skipped(shown(folder), fault(error)))
            continue
        for image in found:
            yield _Found(LocalFile(image), names.describe(source, folder.name))
        if not found:
            report(
                f"source {source}: the folder {folder.name!r} has no images and gives no concept"
            )


def _read_records(source: Path, records: Records, names: "_Names") -> Iterator[_Found]:
    for record in records.records:
        known = {column: record.text(column) for column in COLUMNS + OPTIONAL}
        path, key = (known[column] for column in COLUMNS)
        if not path or not key:
            raise RecordError(f"{'concept' if path else 'path'} is empty", record.place)
        yield _Found(
            picture=LocalFile(manifest_path(source, path)),
            concept=names.describe(source, key, name=known["name"], kind=known["kind"]),
            source_url=known["source_url"],
            license=known["license"],
            metadata={
                column: value for column, value in record.values.items() if column not in known
            },
        )


class _Names:
    """Collects the sources' texts of concepts, and gives each text its concept."""

    def __init__(self) -> None:
        self._columns: dict[str, dict[str, str]] = {}  # text -> its name and kind, if given
        self._source: dict[str, Path] = {}  # text -> its source
        self._ended: set[str] = set()  # texts of finished sources

    def describe(self, source: Path, text: str, **columns: str | None) -> str:
        """Record a concept's name and kind as one record gives them; return the text in NFC.

        Raises:
            SourceError: another record differs, or another source has the text, too.
        """
        text = nfc(text)
        if text in self._ended:
            raise SourceError(
                f"two concepts share one name: {text!r} of {source} and {text!r} of "
                f"{self._source[text]} would both get the id {concept_id(text)!r}. Rename one, or "
                "list both in one manifest under one concept if they are the same"
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

    def end_source(self, source: Path) -> None:
        """End a source; a later source must not have its texts."""
        for text in self._columns.keys() - self._ended:
            self._source[text] = source
            self._ended.add(text)

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
