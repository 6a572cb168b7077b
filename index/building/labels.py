"""Labels of pictures in shards: WebDataset's files of one key, and columns of Parquet files."""

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from index.building.manifests.parquet_records import holds_bytes, json_values
from index.building.manifests.records import Columns, Record, RecordError, checked
from model.errors import SourceError
from model.folders import Skip, Skipped
from model.regular_files import shown
from model.sources.listings import Listings
from model.sources.parquet import Cell, image_column, read_columns, refusing
from model.sources.picture import Picture, require_version
from model.sources.remote import RemoteFile
from model.sources.tar import SIDE_FILES, Member, members, not_a_picture

CONCEPTS = ("concept", "label", "artist")  # columns that name a concept, the first that is there
MAX_SIDE_FILE = 2**24  # bytes
MAX_CAPTION = 200  # characters of a text that can name a concept
MAX_LABEL = 1000  # characters of a concept's text


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
    shard: Picture,
    skip: Skip,
    known: Sequence[str],
    column: str | None = None,
    listings: Listings | None = None,
    *,
    each: bool = False,
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
        listings: keeps the members of a shard at a URL.
        each: make a concept of each picture without a label, ``<shard>/<its name>``.

    Raises:
        SourceError: it is no tar, is damaged or cut short, or a file beside a picture is.
        OSError: it cannot be read.
    """
    pictures: list[Member] = []
    beside = _SideFiles()
    for member in members(shard, listings):
        if PurePosixPath(member.path).suffix.lower() in SIDE_FILES and member.regular:
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
        folder = PurePosixPath(member.path).parent.name.strip(".")
        if not concept and "cls" in told:
            concept = _label(told["cls"])
        if not (concept or folder) and "txt" in told:
            concept = _caption(told["txt"])
        concept = concept or folder
        if not concept and each:
            concept = f"{_stem(shard)}/{PurePosixPath(member.path).stem}"
        if not concept:
            skip(Skipped(place, "its shard gives it no label"))
            continue
        others = {name: value for name, value in values.items() if name != chosen}
        yield Labelled(member, concept, Record(place, others))


def read_parquet(
    file: Picture,
    version: str,
    table: pq.ParquetFile,
    skip: Skip,
    known: Sequence[str],
    column: str | None = None,
    listings: Listings | None = None,
    *,
    each: bool = False,
) -> Iterator[Labelled]:
    """Yield the labelled pictures of a Parquet file with a column of encoded images, by rows.

    Class labels of Hugging Face, numbers whose names are in the schema, are read as these names.

    Args:
        file: the Parquet file.
        version: text of its stamp, from before it was opened.
        table: the same, opened.
        skip: called with each row that is not used.
        known: columns with a meaning.
        column: the column that gives the concept; by default the first of `CONCEPTS`.
        listings: keeps the labels of a file at a URL.
        each: make a concept of each picture without a label, ``<file>/<row>``.

    Raises:
        SourceError: it is damaged or cut short, has no such column, or changes meanwhile.
        OSError: it cannot be read.
    """
    images = image_column(table.schema_arrow)
    assert images is not None
    own = [field for field in table.schema_arrow if not holds_bytes(field.type)]
    headings = [field.name for field in own]
    names = dict(zip(headings, Columns([*known, *CONCEPTS]).names(headings, "schema"), strict=True))
    chosen = _concept_column(dict.fromkeys(names.values()), column)
    if chosen is None and not each:
        raise SourceError(
            f"{shown(file.address)} has no column {column or ', '.join(CONCEPTS)} that names the "
            f"concepts; it has {', '.join(names.values()) or 'none'} beside its images: choose one "
            "with --concept-column"
        )
    classes = _class_names(table.schema_arrow)
    kept: list[_Row] = []
    row = 0
    for batch in _batches(file, table, headings):
        columns = {
            names[heading]: _column(batch.column(heading), classes.get(heading))
            for heading in headings
        }
        for place in range(batch.num_rows):
            record = Record(
                f"row {row}",
                {name: cells[place] for name, cells in columns.items() if cells[place] is not None},
            )
            concept = record.text(chosen) if chosen else None
            if concept is None and each:
                concept = f"{_stem(file)}/{row}"
            others = {name: value for name, value in record.values.items() if name != chosen}
            told: _Row = (concept, checked(others, record.place))
            if concept is None:
                told = (None, f"it has no {chosen}")
            if listings:
                kept.append(told)
            yield from _labelled(Cell(file, version, images, row), told, skip)
            row += 1
    require_version(file, version)
    if listings and isinstance(file, RemoteFile):
        listings.keep(file, _kind(column, each), [images, *kept])


def kept_labels(
    file: Picture, skip: Skip, column: str | None, listings: Listings | None, *, each: bool = False
) -> Iterator[Labelled] | None:
    """Returns the pictures that `read_parquet` yields of a file at a URL, from what was kept of it.

    Args:
        file: the Parquet file.
        skip: as for `read_parquet`.
        column: as for `read_parquet`.
        listings: kept its labels.
        each: as for `read_parquet`.

    Returns:
        None if nothing is kept of it, or of another version of it.
    """
    if not (listings and isinstance(file, RemoteFile)):
        return None
    file = file.described()
    kept = listings.get(file, _kind(column, each))
    if kept is None:
        return None
    images, *rows = kept
    version = file.stamp.text
    return chain.from_iterable(
        _labelled(Cell(file, version, images, row), told, skip) for row, told in enumerate(rows)
    )


_Row = tuple[str | None, Any]  # the concept and the other values; or None and why it is not used


def _labelled(cell: Cell, told: _Row, skip: Skip) -> Iterator[Labelled]:
    concept, rest = told
    if concept is None:
        skip(Skipped(shown(cell.address), rest))
    else:
        yield Labelled(cell, concept, Record(f"row {cell.row}", rest))


def _kind(column: str | None, each: bool) -> str:
    """Return the kind of listings of labels; another number for another content of their rows."""
    return f"labels 1 {'each ' * each}{column or ''}"


def _stem(shard: Picture) -> str:
    return PurePosixPath(shard.name).stem


def _batches(
    file: Picture, table: pq.ParquetFile, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    with refusing(file):
        yield from read_columns(file, table, columns)


class _SideFiles:
    """The texts that lie beside pictures in a shard."""

    def __init__(self) -> None:
        self._named: dict[tuple[str, str], _Text] = {}  # (name to its last dot, suffix) -> text
        self._keyed: dict[tuple[str, str], list[_Text]] = {}  # (name to its first dot, suffix)

    def add(self, member: Member) -> None:
        """Read a text."""
        path = PurePosixPath(member.path)
        suffix = path.suffix.lower()
        self._named[str(path.with_suffix("")), suffix] = text = _Text(member)
        self._keyed.setdefault((_key(path), suffix), []).append(text)

    def of(self, picture: Member) -> "dict[str, _Text]":
        """Return a picture's texts by their suffix, without its dot.

        Raises:
            SourceError: several could be meant.
        """
        path = PurePosixPath(picture.path)
        found = {}
        for suffix in SIDE_FILES:
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


class _Text:
    """A text in a shard, which is read at once and decoded when it is used.

    Raises:
        SourceError: it is too large.
    """

    def __init__(self, member: Member) -> None:
        self.place = shown(member.address)
        if member.size > MAX_SIDE_FILE:
            raise SourceError(f"{self.place} has {member.size:,} bytes, over {MAX_SIDE_FILE:,}")
        self._data = member.read()

    def decoded(self) -> str:
        """Return the text.

        Raises:
            SourceError: it is not UTF-8.
        """
        try:
            return self._data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{self.place} is not UTF-8 ({error.reason} at byte {error.start}); write it as "
                "UTF-8"
            ) from error


def _label(text: _Text) -> str:
    """Return the label in a ``.cls`` file; empty for an empty one.

    Raises:
        SourceError: its content is no label.
    """
    label = text.decoded().strip()
    if len(label) > MAX_LABEL or not _is_line(label):
        raise SourceError(
            f"{text.place} holds no label ({label[:40]!a}): a .cls file holds one line of text, "
            f"at most {MAX_LABEL} characters, or a number in digits"
        )
    return label


def _caption(text: _Text) -> str:
    """Return the text of a ``.txt`` file if it can name a concept, else an empty one."""
    caption = text.decoded().strip()
    return caption if len(caption) <= MAX_CAPTION and _is_line(caption) else ""


def _is_line(text: str) -> bool:
    """Return True for a text without control characters, such as line breaks."""
    return not any(unicodedata.category(character) == "Cc" for character in text)


def _json(place: str, text: _Text, known: Sequence[str]) -> dict[str, Any]:
    try:
        found = json.loads(text.decoded(), parse_constant=_no_constant)
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


def _column(cells: pa.Array, classes: Sequence[str] | None) -> list[Any]:
    """Returns a column's values in types that JSON has, class labels by their names."""
    values = json_values(cells)
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
