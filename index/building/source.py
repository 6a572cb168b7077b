"""Where exemplars come from: a folder per concept, or a CSV, JSONL or Parquet manifest."""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from slugify import slugify

from index.errors import SourceError
from model.images import SUFFIXES, find_images, folder_fault

MANIFESTS = {".csv", ".jsonl", ".ndjson", ".parquet"}
COLUMNS = ("path", "concept")
OPTIONAL = ("name", "kind", "source_url", "license")

Report = Callable[[str], None]  # called with a sentence to show to whoever gave the source


@dataclass(frozen=True)
class SourceConcept:
    """A named set of exemplars, as its source calls it."""

    id: str  # slug of the source's own text for the concept: the same text, the same id
    name: str
    kind: str | None = None  # such as "artist" or "subject"; free text


@dataclass(frozen=True)
class SourceExemplar:
    """One image of a concept, with what is known about its rights."""

    path: Path  # absolute
    concept: SourceConcept
    source_url: str | None = None
    license: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)  # a manifest's other columns


def concept_id(text: str) -> str:
    """The id of the concept that a source calls ``text``; empty without any letter or digit."""
    return str(slugify(_nfc(text), allow_unicode=True))


def read_sources(
    sources: Iterable[Path], *, each_image_a_concept: bool = False, report: Report | None = None
) -> list[SourceExemplar]:
    """Every exemplar of every source, in a stable order.

    A concept is known by its id and shown by its name: no two concepts may share either, and no
    concept may have two names or two kinds. Links are followed as in `model.images.find_images`.

    Args:
        sources: folders whose sub-folders are concepts, or manifests with the columns
            ``path, concept`` and optionally ``name, kind, source_url, license``; what other columns
            hold is kept as metadata. A manifest's paths are absolute or relative to the manifest,
            and a name or kind told in one of a concept's rows holds for all of them.
        each_image_a_concept: take loose images lying directly in a source folder, too: each as a
            concept of its own, named ``<folder>/<file>``.
        report: told of what is left out without being wrong: a concept's folder without images.

    Raises:
        SourceError: a source is missing, empty, malformed or not readable, or its concepts are not
            told apart.
    """
    exemplars: list[SourceExemplar] = []
    seen = _Seen()
    for place, source in {source.expanduser().resolve(): source for source in sources}.items():
        found = _read_source(place, each_image_a_concept, report)
        if not found:
            raise SourceError(
                f"source {source} holds no exemplars; a folder needs a sub-folder of images for "
                "each concept, a manifest a record with path and concept for each image"
            )
        for concept in {exemplar.concept.id: exemplar.concept for exemplar in found}.values():
            seen.add(concept, source)
        exemplars += found
    if not exemplars:
        raise SourceError("no source was given; name at least one with --source")
    return exemplars


def _read_source(source: Path, loose: bool, report: Report | None) -> list[SourceExemplar]:
    try:
        if source.is_dir():
            return list(_read_folder(source, loose, report))
        there = source.exists()
    except OSError as error:
        raise SourceError(f"source {source}: {folder_fault(error)}") from error
    if not there:
        raise SourceError(f"source {source}: there is no such folder or manifest")
    if source.suffix.lower() not in MANIFESTS:
        raise SourceError(
            f"source {source} is neither a folder nor a manifest ({', '.join(sorted(MANIFESTS))})"
        )
    return list(_read_manifest(source))


def _read_folder(source: Path, loose: bool, report: Report | None) -> Iterator[SourceExemplar]:
    names = _Names(source)
    entries = sorted(entry for entry in source.iterdir() if not entry.name.startswith("."))
    images = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
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
        yield SourceExemplar(image, names.concept(f"{source.name}/{image.stem}"))
    for folder in entries:
        if folder.is_dir():
            found = find_images(folder)
            for image in found:
                yield SourceExemplar(image, names.concept(folder.name))
            if report and not found:
                report(
                    f"source {source}: the folder {folder.name!r} has no images (files ending in "
                    f"{', '.join(sorted(SUFFIXES))}) and gives no concept"
                )


def _read_manifest(source: Path) -> Iterator[SourceExemplar]:
    table = read_table(source)
    missing = [column for column in COLUMNS if column not in table.column_names]
    if missing:
        raise SourceError(
            f"manifest {source} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            f"it has {', '.join(table.column_names) or 'none'} and needs {' and '.join(COLUMNS)}"
        )
    names = _Names(source)
    rows = table.to_pylist()
    for number, row in enumerate(rows, start=1):
        path, key = (_text(row[column]) for column in COLUMNS)
        if not path or not key:
            raise SourceError(
                f"manifest {source}, record {number}: {'path' if not path else 'concept'} is empty"
            )
        names.describe(key, name=_text(row.get("name")), kind=_text(row.get("kind")))
    for row in rows:
        yield SourceExemplar(
            path=(source.parent / str(_text(row["path"]))).resolve(),  # an absolute one stays so
            concept=names.concept(str(_text(row["concept"]))),
            source_url=_text(row.get("source_url")),
            license=_text(row.get("license")),
            metadata={
                column: value
                for column, value in row.items()
                if column not in COLUMNS + OPTIONAL and value is not None
            },
        )


def read_table(source: Path) -> pa.Table:
    """A CSV (every column text), JSONL or Parquet file as a table.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        if source.suffix.lower() == ".parquet":
            return pq.read_table(source)
        if source.suffix.lower() == ".csv":
            # Every column is text: a concept named 007 must not become the number 7.
            header = pyarrow.csv.open_csv(source).schema.names
            types = pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            )
            parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
            return pyarrow.csv.read_csv(source, parse_options=parse, convert_options=types)
        table = pyarrow.json.read_json(source)
        # Text that looks like a time must stay the text it is, too.
        times = [field for field in table.schema if pa.types.is_temporal(field.type)]
        if times:
            schema = pa.schema([field.with_type(pa.string()) for field in times])
            parse = pyarrow.json.ParseOptions(explicit_schema=schema)
            table = pyarrow.json.read_json(source, parse_options=parse)
        return table
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"manifest {source} cannot be read: {error}") from error


class _Names:
    """Gives each concept text of one source its concept, and refuses two texts with one id."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._told: dict[str, dict[str, str]] = {}  # id -> what the source says of the concept
        self._concepts: dict[str, SourceConcept] = {}

    def describe(self, key: str, **said: str | None) -> str:
        """Note what one record says of a concept: its name, its kind. Returns the id.

        Raises:
            SourceError: another record says otherwise.
        """
        # The two ways to write é are one name; file systems differ in which they give.
        key, identifier = _nfc(key), concept_id(key)
        if not identifier:
            raise SourceError(
                f"source {self._source}: the concept name {key!r} has no letter or digit to make "
                "an id from; rename it"
            )
        told = self._told.setdefault(identifier, {"concept": key})
        if told["concept"] != key:
            raise SourceError(
                f"source {self._source}: two concepts share one name: {told['concept']!r} and "
                f"{key!r} would both get the id {identifier!r}; rename one"
            )
        for column, text in said.items():
            if text and told.setdefault(column, _nfc(text)) != _nfc(text):
                raise SourceError(
                    f"source {self._source}: the concept {key!r} has two {column}s: "
                    f"{told[column]!r} and {_nfc(text)!r}; give all its records the same {column}, "
                    "or leave it out in all but one"
                )
        return identifier

    def concept(self, key: str) -> SourceConcept:
        """The concept of a text; the same object for the same text."""
        identifier = self.describe(key)
        if identifier not in self._concepts:
            told = self._told[identifier]
            self._concepts[identifier] = SourceConcept(
                identifier, told.get("name", told["concept"]), told.get("kind")
            )
        return self._concepts[identifier]


class _Seen:
    """Refuses a concept of the id or, but for case, the name of one that was there before."""

    def __init__(self) -> None:
        self._by_id: dict[str, tuple[SourceConcept, Path]] = {}
        self._by_name: dict[str, tuple[SourceConcept, Path]] = {}

    def add(self, concept: SourceConcept, source: Path) -> None:
        other, origin = self._by_id.setdefault(concept.id, (concept, source))
        if other is not concept:
            raise SourceError(
                f"two concepts share one name: {concept.name!r} of {source} and "
                f"{other.name!r} of {origin} would both get the id {concept.id!r}. Rename one, "
                "or list both in one manifest under one concept if they are the same"
            )
        other, origin = self._by_name.setdefault(_nfc(concept.name.casefold()), (concept, source))
        if other is not concept:
            raise SourceError(
                f"two concepts share one name: {concept.id!r} of {source} is called "
                f"{concept.name!r} and {other.id!r} of {origin} {other.name!r}. Rename one, or "
                "list both under one concept if they are the same"
            )


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _text(value: object) -> str | None:
    return None if value is None or not str(value).strip() else str(value).strip()
