"""Labels of pictures in shards: WebDataset's files of one key, and columns of Parquet files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from index.building.manifests.parquet_records import holds_bytes, plain
from index.building.manifests.records import Columns, Record, RecordError, checked
from model.errors import SourceError
from model.folders import Skip, Skipped
from model.regular_files import shown
from model.sources.parquet import Cell, image_column, refusing, require_small_pages
from model.sources.picture import Picture
from model.sources.tar import Member, members, not_a_picture

CONCEPTS = ("concept", "label", "artist")  # columns that name a concept, the first that is there
_SIDE_FILES = (".json", ".cls", ".txt")  # of a picture's name, in a shard
MAX_SIDE_FILE = 2**24  # bytes
MAX_CAPTION = 200  # characters of a text that can name a concept


@dataclass(frozen=True)
class Labelled:
    """A picture, and what its shard says of it.

    Attributes:
        picture: lies in the shard.
        concept: the text of its concept.
        record: the other values.
    """

    picture: Picture
    concept: str
    record: Record


def read_tar(
    shard: Picture, skip: Skip, known: Sequence[str], column: str | None = None
) -> Iterator[Labelled]:
    """Yield the labelled pictures of a tar shard in WebDataset's naming, in its order.

    The files of one name belong together: ``a/0001.jpg`` with ``a/0001.json``, ``a/0001.cls`` or
    ``a/0001.txt``. A name ends at its last dot; if nothing of that name lies beside the picture, at
    its first, as in ``0001.seg.png``. The concept is, of these, the first that is there: a value in
    the JSON, the content of the ``.cls``, the folder of the picture in the shard, a short ``.txt``.

    Args:
        shard: the tar.
        skip: called with everything that is not used.
        known: columns with a meaning, for the JSON's names.
        column: the name in the JSON that gives the concept; by default the first of `CONCEPTS`.

    Raises:
        SourceError: it is no tar, is damaged or cut short, or a file beside a picture is.
        OSError: it cannot be read.
    """
    pictures: list[Member] = []
    beside = _SideFiles()
    for member in members(shard):
        if PurePosixPath(member.path).suffix.lower() in _SIDE_FILES and member.regular:
            beside.add(member)
        elif reason := not_a_picture(member):
            skip(Skipped(shown(member.address), reason))
        else:
            pictures.append(member)
    for member in pictures:
        told = beside.of(member)
        place = shown(member.address)
        values = _json(place, told["json"], known) if "json" in told else {}
        chosen = _concept_column(values, column)
        concept = (Record(place, values).text(chosen) or "") if chosen else ""
        folder = PurePosixPath(member.path).parent.name
        caption = told.get("txt", "").strip()
        if len(caption) > MAX_CAPTION or "\n" in caption:
            caption = ""
        concept = concept or told.get("cls", "").strip() or folder.strip(".") or caption
        if not concept:
            skip(Skipped(place, "its shard gives it no label"))
            continue
        others = {name: value for name, value in values.items() if name != chosen}
        yield Labelled(member, concept, Record(place, others))


def read_parquet(
    file: Picture,
    table: pq.ParquetFile,
    skip: Skip,
    known: Sequence[str],
    column: str | None = None,
) -> Iterator[Labelled]:
    """Yield the labelled pictures of a Parquet file with a column of encoded images, by rows.

    Class labels of Hugging Face, numbers whose names are in the schema, are read as these names.

    Args:
        file: the Parquet file.
        table: the same, opened.
        skip: called with each row that is not used.
        known: columns with a meaning.
        column: the column that gives the concept; by default the first of `CONCEPTS`.

    Raises:
        SourceError: it is damaged or cut short, or has no such column.
        OSError: it cannot be read.
    """
    images = image_column(table.schema_arrow)
    assert images is not None
    own = [field for field in table.schema_arrow if not holds_bytes(field.type)]
    headings = [field.name for field in own]
    names = dict(zip(headings, Columns([*known, *CONCEPTS]).names(headings, "schema"), strict=True))
    chosen = _concept_column(dict.fromkeys(names.values()), column)
    if chosen is None:
        raise SourceError(
            f"{shown(file.address)} has no column {column or ', '.join(CONCEPTS)} that names the "
            f"concepts; it has {', '.join(names.values()) or 'none'} beside its images: choose one "
            "with --concept-column"
        )
    classes = _class_names(table.schema_arrow)
    row = 0
    for group in range(table.metadata.num_row_groups):
        with refusing(file):
            require_small_pages(file, table, group, headings)
            read = table.read_row_group(group, columns=headings, use_threads=False)
            values = {heading: _column(read[heading], classes.get(heading)) for heading in headings}
        for place in range(table.metadata.row_group(group).num_rows):
            cell = Cell(file, images, row)
            record = Record(
                f"row {row}",
                {
                    names[heading]: value
                    for heading, found in values.items()
                    if (value := found[place]) is not None
                },
            )
            row += 1
            concept = record.text(chosen)
            if not concept:
                skip(Skipped(shown(cell.address), f"it has no {chosen}"))
                continue
            others = {name: value for name, value in record.values.items() if name != chosen}
            yield Labelled(cell, concept, Record(record.place, checked(others, record.place)))


class _SideFiles:
    """The texts that lie beside pictures in a shard."""

    def __init__(self) -> None:
        self._named: dict[tuple[str, str], str] = {}  # (name to its last dot, suffix) -> text
        self._keyed: dict[tuple[str, str], list[str]] = {}  # (name to its first dot, suffix)

    def add(self, member: Member) -> None:
        """Read a text."""
        path = PurePosixPath(member.path)
        suffix = path.suffix.lower()
        self._named[str(path.with_suffix("")), suffix] = text = _text(member)
        self._keyed.setdefault((_key(path), suffix), []).append(text)

    def of(self, picture: Member) -> dict[str, str]:
        """Return a picture's texts by their suffix, without its dot.

        Raises:
            SourceError: several could be meant.
        """
        path = PurePosixPath(picture.path)
        found = {}
        for suffix in _SIDE_FILES:
            text = self._named.get((str(path.with_suffix("")), suffix))
            others = self._keyed.get((_key(path), suffix), [])
            if text is None and len(others) > 1:
                raise SourceError(
                    f"{shown(picture.address)}: several {suffix} files beside it begin with "
                    f"{_key(path)!r}; name its own {path.with_suffix(suffix).name}"
                )
            if text is not None or others:
                found[suffix[1:]] = others[0] if text is None else text
        return found


def _key(path: PurePosixPath) -> str:
    """Return a path to the first dot of its file name."""
    return str(path.with_name(path.name.partition(".")[0] or path.name))


def _text(member: Member) -> str:
    if member.size > MAX_SIDE_FILE:
        raise SourceError(
            f"{shown(member.address)} has {member.size:,} bytes, over {MAX_SIDE_FILE:,}"
        )
    return member.read().decode("utf-8-sig", "replace")


def _json(place: str, text: str, known: Sequence[str]) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"the JSON beside {place} cannot be read ({error})") from error
    if not isinstance(found, dict):
        return {}
    try:
        columns = Columns([*known, *CONCEPTS]).names(found, place)
    except RecordError as error:
        raise SourceError(f"the JSON beside {place} cannot be read ({error})") from error
    named = dict(zip(columns, found.values(), strict=True))
    values = {name: value for name, value in named.items() if value is not None}
    checked(values, place)
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no value of JSON")


def _concept_column(values: Mapping[str, Any], column: str | None) -> str | None:
    wanted = (column,) if column else CONCEPTS
    return next((name for name in wanted if name in values), None)


def _column(found: pa.ChunkedArray, classes: Sequence[str] | None) -> list[Any]:
    """Returns a column's values in types that JSON has, class labels by their names."""
    if pa.types.is_temporal(found.type):
        found = found.cast(pa.string())
    values = [plain(value) for value in found.to_pylist()]
    if classes is None:
        return values
    return [
        classes[value] if isinstance(value, int) and 0 <= value < len(classes) else None
        for value in values
    ]


def _class_names(schema: pa.Schema) -> dict[str, Sequence[str]]:
    """Returns the names of the class labels that Hugging Face keeps in a schema, by column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            str(name): [str(one) for one in about["names"]]
            for name, about in features.items()
            if isinstance(about, dict) and isinstance(about.get("names"), list)
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
