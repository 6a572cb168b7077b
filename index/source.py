"""Where exemplars come from: a folder per concept, or a CSV, JSONL or Parquet manifest."""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from slugify import slugify

from index.errors import SourceError
from model.images import SUFFIXES, find_images

MANIFESTS = {".csv", ".jsonl", ".ndjson", ".parquet"}
COLUMNS = ("path", "concept")
OPTIONAL = ("name", "kind", "source_url", "license")


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


def read_sources(
    sources: Iterable[Path], *, each_image_a_concept: bool = False
) -> list[SourceExemplar]:
    """Every exemplar of every source, in a stable order.

    Args:
        sources: folders whose sub-folders are concepts, or manifests with the columns
            ``path, concept`` and optionally ``name, kind, source_url, license``; what other columns
            hold is kept as metadata. A manifest's paths are absolute or relative to the manifest.
        each_image_a_concept: take loose images lying directly in a source folder, too: each as a
            concept of its own, named ``<folder>/<file>``.

    Raises:
        SourceError: a source is missing, empty or malformed, or two concepts would share a name.
    """
    exemplars: list[SourceExemplar] = []
    seen: dict[str, tuple[SourceConcept, Path]] = {}
    for source in sources:
        found = list(_read_source(source.expanduser().resolve(), each_image_a_concept))
        if not found:
            raise SourceError(f"source {source} holds no exemplars")
        for concept in {exemplar.concept.id: exemplar.concept for exemplar in found}.values():
            other, origin = seen.setdefault(concept.id, (concept, source))
            if origin != source:
                raise SourceError(
                    f"two concepts share one name: {concept.name!r} of {source} and "
                    f"{other.name!r} of {origin} would both get the id {concept.id!r}. Rename one, "
                    "or list both in one manifest under one concept if they are the same"
                )
        exemplars += found
    if not exemplars:
        raise SourceError("no source was given; name at least one with --source")
    return exemplars


def _read_source(source: Path, loose: bool) -> Iterator[SourceExemplar]:
    if source.is_dir():
        return _read_folder(source, loose)
    if not source.exists():
        raise SourceError(f"source {source}: there is no such folder or manifest")
    if source.suffix.lower() not in MANIFESTS:
        raise SourceError(
            f"source {source} is neither a folder nor a manifest ({', '.join(sorted(MANIFESTS))})"
        )
    return _read_manifest(source)


def _read_folder(source: Path, loose: bool) -> Iterator[SourceExemplar]:
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
            for image in find_images(folder):
                yield SourceExemplar(image, names.concept(folder.name))


def _read_manifest(source: Path) -> Iterator[SourceExemplar]:
    table = read_table(source)
    missing = [column for column in COLUMNS if column not in table.column_names]
    if missing:
        raise SourceError(
            f"manifest {source} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            f"it has {', '.join(table.column_names) or 'none'} and needs {' and '.join(COLUMNS)}"
        )
    names = _Names(source)
    for number, row in enumerate(table.to_pylist(), start=1):
        path, key = (_text(row[column]) for column in COLUMNS)
        if not path or not key:
            raise SourceError(
                f"manifest {source}, record {number}: {'path' if not path else 'concept'} is empty"
            )
        yield SourceExemplar(
            path=(source.parent / path).resolve(),  # an absolute path stays as it is
            concept=names.concept(key, _text(row.get("name")), _text(row.get("kind"))),
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
    """Gives each concept text of one source its id, and refuses two texts with one id."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._by_id: dict[str, tuple[str, SourceConcept]] = {}

    def concept(self, key: str, name: str | None = None, kind: str | None = None) -> SourceConcept:
        # The two ways to write é are one name; file systems differ in which they give.
        key = unicodedata.normalize("NFC", key)
        identifier = slugify(key, allow_unicode=True)
        if not identifier:
            raise SourceError(
                f"source {self._source}: the concept name {key!r} has no letter or digit to make "
                "an id from; rename it"
            )
        known, concept = self._by_id.setdefault(
            identifier, (key, SourceConcept(identifier, name or key, kind))
        )
        if known != key:
            raise SourceError(
                f"source {self._source}: two concepts share one name: {known!r} and {key!r} would "
                f"both get the id {identifier!r}; rename one"
            )
        return concept


def _text(value: object) -> str | None:
    return None if value is None or not str(value).strip() else str(value).strip()
