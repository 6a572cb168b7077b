"""Reads where exemplars come from: a folder for each concept, or a manifest."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from index.building.manifests.reading import MANIFESTS, malformed, read_manifest
from index.building.manifests.records import RecordError, Records
from index.errors import SourceError
from index.names import concept_id, distinct_ids, fold, former_id, nfc
from model.folders import (
    Skip,
    Skipped,
    fault,
    find_images,
    first_of,
    ignore,
    list_folder,
    only_images,
)
from model.regular_files import shown

COLUMNS = ("path", "concept")
OPTIONAL = ("name", "kind", "source_url", "license")

Report = Callable[[str], None]  # called with a sentence to show to whoever gave the source


@dataclass(frozen=True)
class SourceConcept:
    """A named set of exemplars, as its source calls it."""

    id: str
    name: str
    kind: str | None = None  # such as "artist" or "subject"; free text
    other_ids: frozenset[str] = frozenset()  # that the same text had, or would have alone


@dataclass(frozen=True)
class SourceExemplar:
    """One image of a concept, with what is known about its rights."""

    path: Path  # absolute
    concept: SourceConcept
    source_url: str | None = None
    license: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)  # a manifest's other columns


@dataclass(frozen=True)
class _Found:
    """An exemplar whose concept is known by its text alone."""

    path: Path
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
            ``path, concept`` and optionally ``name, kind, source_url, license``; what other columns
            hold is kept as metadata. A manifest's paths are absolute or relative to the manifest,
            and a name or kind told in one of a concept's records holds for all of them.
        each_image_a_concept: take loose images lying directly in a source folder, too: each as a
            concept of its own, named ``<folder>/<file>``.
        report: told of what its owner should know: a concept's folder without images, an encoding
            that was guessed.
        skip: called with each file and folder that is not used.

    Raises:
        SourceError: a source is missing, empty, malformed or not readable, or one name is given to
            two concepts.
    """
    report = report or _silent
    names = _Names()
    found: list[_Found] = []
    for place, source in {source.expanduser().resolve(): source for source in sources}.items():
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
        SourceExemplar(one.path, concepts[one.concept], one.source_url, one.license, one.metadata)
        for one in found
    ]


def _read_source(
    source: Path, loose: bool, report: Report, skip: Skip, names: "_Names"
) -> list[_Found]:
    try:
        if source.is_dir():
            return list(_read_folder(source, loose, report, skip, names))
        there = source.exists()
    except OSError as error:
        raise SourceError(f"source {source}: {fault(error)}") from error
    if not there:
        raise SourceError(f"source {source}: there is no such folder or manifest")
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
    """Refuse a manifest that lacks a column.

    Raises:
        SourceError: it does.
    """
    missing = [column for column in columns if column not in records.columns]
    if missing:
        raise SourceError(
            f"{manifest} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has "
            f"{', '.join(records.columns) or 'none'} and needs {' and '.join(columns)}"
        )


def manifest_path(source: Path, path: str) -> Path:
    """Returns the absolute path that a manifest's record names, with links followed."""
    # realpath passes over loops of links, at which Path.resolve stops.
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
        yield _Found(image, names.describe(source, f"{source.name}/{image.stem}"))
    for folder in sorted(listing.folders + listing.links):
        try:
            found = find_images(folder, skip)
        except OSError as error:
            skip(Skipped(shown(folder), fault(error)))
            continue
        for image in found:
            yield _Found(image, names.describe(source, folder.name))
        if not found:
            report(
                f"source {source}: the folder {folder.name!r} has no images and gives no concept"
            )


def _read_records(source: Path, records: Records, names: "_Names") -> Iterator[_Found]:
    for record in records.records:
        told = {column: record.text(column) for column in COLUMNS + OPTIONAL}
        path, key = (told[column] for column in COLUMNS)
        if not path or not key:
            raise RecordError(f"{'concept' if path else 'path'} is empty", record.place)
        yield _Found(
            path=manifest_path(source, path),
            concept=names.describe(source, key, name=told["name"], kind=told["kind"]),
            source_url=told["source_url"],
            license=told["license"],
            metadata={
                column: value for column, value in record.values.items() if column not in told
            },
        )


class _Names:
    """Collects how the sources call their concepts, and gives each text its concept."""

    def __init__(self) -> None:
        self._told: dict[str, dict[str, str]] = {}  # text -> what its source says: name, kind
        self._source: dict[str, Path] = {}  # text -> the source that it came from
        self._ended: set[str] = set()  # texts of sources that are read

    def describe(self, source: Path, text: str, **said: str | None) -> str:
        """Note what one record says of a concept: its name, its kind. Returns the text in NFC.

        Raises:
            SourceError: another record says otherwise, or another source has the text, too.
        """
        text = nfc(text)
        if text in self._ended:
            raise SourceError(
                f"two concepts share one name: {text!r} of {source} and {text!r} of "
                f"{self._source[text]} would both get the id {concept_id(text)!r}. Rename one, or "
                "list both in one manifest under one concept if they are the same"
            )
        self._source.setdefault(text, source)
        told = self._told.setdefault(text, {})
        for column, words in said.items():
            if words and told.setdefault(column, nfc(words)) != nfc(words):
                raise SourceError(
                    f"source {source}: the concept {text!r} has two {column}s: "
                    f"{told[column]!r} and {nfc(words)!r}; give all its records the same {column}, "
                    "or leave it out in all but one"
                )
        return text

    def end_source(self, source: Path) -> None:
        """Note that a source is read; its texts may not come again."""
        for text in self._told.keys() - self._ended:
            self._source[text] = source
            self._ended.add(text)

    def concepts(self) -> dict[str, SourceConcept]:
        """Returns the concept of each text.

        Raises:
            SourceError: two have one name, but for case.
        """
        concepts: dict[str, SourceConcept] = {}
        by_name: dict[str, str] = {}
        for text, identifier in distinct_ids(self._told).items():
            told = self._told[text]
            others = frozenset({concept_id(text), former_id(text)} - {identifier, ""})
            concept = SourceConcept(identifier, told.get("name", text), told.get("kind"), others)
            concepts[text] = concept
            first = by_name.setdefault(fold(concept.name), text)
            if first != text:
                raise SourceError(
                    f"two concepts share one name: {concept_id(text)!r} of {self._source[text]} is "
                    f"called {concept.name!r} and {concept_id(first)!r} of {self._source[first]} "
                    f"{concepts[first].name!r}. Rename one, or list both under one concept if they "
                    "are the same"
                )
        return concepts


def _silent(_: str) -> None:
    """Shows nothing."""
