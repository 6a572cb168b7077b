"""Pictures in cells of Parquet files, as in data sets of Hugging Face: a column of encoded bytes.

Files are read row group by row group and page by page, never whole. No page may be larger than
`MAX_PAGE`, which is checked in the pages' headers (Apache Parquet, format/PageHeader, in Thrift's
compact protocol) before any of them is read.
"""

import errno
import os
import threading
from bisect import bisect_right
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.errors import SourceError
from model.regular_files import shown
from model.sources.picture import Picture, Stamp, opened, require_version, unchanged

MAX_PAGE = 2**28  # bytes; a page holds one cell at least
MAX_CELL = 2**24  # bytes of a cell that is no image
MAX_LISTS = 2**30  # bytes of all lists of texts in a row group
AT_ONCE = 2**27  # bytes of a batch of rows, at most
_ROWS = 8192  # in a batch
_HEADER = 2**16  # bytes read to find a page's header, which can hold the smallest and largest value
_BUFFER = 2**20  # bytes of a column read at once
_RECENT, _RECENT_BYTES = 128, 2**26  # cells kept, and bytes of these


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture in a row of a Parquet file.

    Args:
        file: the Parquet file.
        version: text of the file's stamp when its rows were counted.
        column: path of the column of bytes, such as ``image.bytes``.
        row: counted from 0.
    """

    file: Picture
    version: str
    column: str
    row: int

    @property
    def address(self) -> str:
        """Return the file's address, and the row behind ``#``."""
        return f"{self.file.address}#{self.row}"

    @property
    def name(self) -> str:
        """Return the row's number."""
        return str(self.row)

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return len(self.read())

    @property
    def stamp(self) -> Stamp:
        """Return the file's stamp with the row."""
        stamp = require_version(self.file, self.version)
        return Stamp(f"{stamp.text}#{self.row}" if stamp.text else "", stamp.changed)

    @property
    def identity(self) -> Hashable:
        """Return the file's identity and the row."""
        return self.file.identity, self.row

    def read(self, size: int | None = None, offset: int = 0) -> bytes:
        """Return the picture's bytes from a position on, all or some of them."""
        with unchanged(self.file, self.version):
            column = _column(self.file, self.column, self.version, os.getpid())
            data = column.cell(self.row)
        return data[offset:] if size is None else data[offset : offset + size]


def image_column(schema: pa.Schema) -> str | None:
    """Returns the path of the column of encoded images; None if there is none.

    The column is a struct with ``bytes``, or one of bytes; ``image`` comes before others.
    """
    found: list[tuple[bool, str]] = []
    for field in schema:
        if _is_bytes(field.type):
            found.append((field.name.lower() not in _NAMES, field.name))
        elif pa.types.is_struct(field.type):
            place = field.type.get_field_index("bytes")
            if place >= 0 and _is_bytes(field.type.field(place).type):
                found.append((field.name.lower() not in _NAMES, f"{field.name}.bytes"))
    return min(found, key=lambda one: one[0])[1] if found else None


_NAMES = ("image", "img", "picture", "jpg", "png")


def open_table(file: Picture) -> pq.ParquetFile:
    """Open a Parquet file.

    Raises:
        SourceError: it is no Parquet file, or is cut short.
        OSError: it cannot be read.
    """
    try:
        return pq.ParquetFile(opened(file), buffer_size=_BUFFER, pre_buffer=False)
    except (pa.ArrowException, ValueError) as error:
        raise _broken(file, error) from error


class _Column:
    """Reads the cells of a column, fastest in order."""

    def __init__(self, file: Picture, column: str) -> None:
        self._file = file
        self._name = column
        self._lock = threading.Lock()
        self._table = open_table(file)
        metadata = self._table.metadata
        self._starts = [0]
        for group in range(metadata.num_row_groups):
            self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)
        self._group = -1
        self._cells: Iterator[bytes | None] = iter(())
        self._next = 0  # the row that `_cells` gives next
        self._recent: dict[int, bytes | None] = {}  # threads ask for rows a little out of order
        self._held = 0  # bytes of these

    def cell(self, row: int) -> bytes:
        """Return a cell.

        Raises:
            SourceError: the file is damaged, or a page of its row group is too large.
            OSError: the cell is empty, there is no such row, or the file cannot be read.
        """
        with self._lock:
            if not 0 <= row < self._starts[-1]:
                raise OSError(errno.ENOENT, f"there is no row {row}")
            try:
                data = self._recent[row] if row in self._recent else self._read_to(row)
            except (pa.ArrowException, StopIteration, ValueError) as error:
                self._group = -1
                raise _broken(self._file, error) from error
        if data is None:
            raise OSError(errno.ENODATA, "its cell is empty")
        return data

    def _read_to(self, row: int) -> bytes | None:
        """Read on to a row, from the beginning of its group if it lies behind; return its cell."""
        group = bisect_right(self._starts, row) - 1
        if group != self._group or row < self._next:
            self._begin(group)
        while True:
            data = next(self._cells)
            self._remember(self._next, data)
            self._next += 1
            if self._next > row:
                return data

    def _remember(self, row: int, data: bytes | None) -> None:
        """Keep a cell for a while, among the last `_RECENT` ones of at most `_RECENT_BYTES`."""
        self._held += len(data or b"") - len(self._recent.pop(row, None) or b"")
        self._recent[row] = data
        while len(self._recent) > _RECENT or self._held > _RECENT_BYTES:
            first = next(iter(self._recent))
            self._held -= len(self._recent.pop(first) or b"")

    def _begin(self, group: int) -> None:
        """Go to the first row of a row group."""
        require_small_pages(self._file, self._table, group, [self._name])
        self._cells = self._read(group)
        self._group, self._next = group, self._starts[group]

    def _read(self, group: int) -> Iterator[bytes | None]:
        for batch in self._table.iter_batches(
            batch_size=1, row_groups=[group], columns=[self._name], use_threads=False
        ):
            cells = batch.column(0)
            if pa.types.is_struct(cells.type):
                cells = cells.field("bytes")
            yield from (cell.as_py() for cell in cells)


def require_small_pages(
    file: Picture, table: pq.ParquetFile, group: int, columns: Sequence[str]
) -> dict[int, int]:
    """Check the pages of some columns in a row group before they are read.

    Returns:
        The size in bytes of each column's largest page, by the column's place; no cell is larger.

    Raises:
        SourceError: a page is larger than `MAX_PAGE`.
        ValueError: a page has no header.
    """
    about = table.metadata.row_group(group)
    largest: dict[int, int] = {}
    for place in range(about.num_columns):
        chunk = about.column(place)
        if not any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in columns):
            continue
        largest[place] = 0
        start = chunk.data_page_offset
        if chunk.dictionary_page_offset:
            start = min(start, chunk.dictionary_page_offset)
        end = start + chunk.total_compressed_size
        while start < end:
            size, packed, length = page_sizes(file.read(_HEADER, start))
            if not (0 <= size <= MAX_PAGE and 0 <= packed <= MAX_PAGE):
                least = max(size, packed) if min(size, packed) >= 0 else 2**31
                raise SourceError(
                    f"{shown(file.address)}: row group {group} has a page of {least:,} bytes or "
                    f"more in {chunk.path_in_schema}, over {MAX_PAGE:,}, so a cell may be as "
                    "large; write the file again without it, or with smaller pages"
                )
            largest[place] = max(largest[place], size)
            start += length + packed
    return largest


def read_columns(
    file: Picture, table: pq.ParquetFile, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Yield some columns in batches of rows that take `AT_ONCE` bytes at most.

    A page can name one long cell for each of its rows, by a dictionary, so that neither the file's
    size nor its pages' limit what its rows take.

    Raises:
        SourceError: a page is larger than `MAX_PAGE`, a cell than `MAX_CELL`, or a list may be.
        ArrowException, ValueError: the file is damaged.
    """
    first = 0
    for group in range(table.metadata.num_row_groups):
        about, row_size = table.metadata.row_group(group), 0
        if not about.num_rows:  # nor pages
            continue
        largest = require_small_pages(file, table, group, columns)
        for place, page in largest.items():
            chunk, leaf = about.column(place), table.schema.column(place)
            if chunk.physical_type != "BYTE_ARRAY":
                continue
            row_size += page
            if leaf.max_repetition_level and chunk.num_values * page > MAX_LISTS:
                raise SourceError(
                    f"{shown(file.address)}: the lists of {chunk.path_in_schema} in row group "
                    f"{group} may take {chunk.num_values * page:,} bytes, over {MAX_LISTS:,}; "
                    "write the file again without them, or with smaller row groups"
                )
        rows = max(1, min(_ROWS, AT_ONCE // max(1, row_size)))
        for batch in table.iter_batches(
            batch_size=rows, row_groups=[group], columns=list(columns), use_threads=False
        ):
            for name, cells in zip(batch.schema.names, batch.columns, strict=True):
                _require_small_cells(file, name, cells, first)
            first += batch.num_rows
            yield batch


def _require_small_cells(file: Picture, name: str, cells: pa.Array, first: int) -> None:
    """Require that no text is longer than `MAX_CELL`.

    Args:
        file: the Parquet file.
        name: of the column.
        cells: some of its cells.
        first: row of the first of them.
    """
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()  # of few rows: see `AT_ONCE`
    if not (_is_bytes(cells.type) or pa.types.is_string(cells.type) or _is_other_text(cells.type)):
        return
    sizes = pc.binary_length(cells)
    most = pc.max(sizes).as_py() or 0
    if most > MAX_CELL:
        row = first + pc.index(sizes, most).as_py()
        raise SourceError(
            f"{shown(file.address)}: row {row} has {most:,} bytes in {name}, over {MAX_CELL:,}; "
            "write the file again without them"
        )


def _is_other_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


@contextmanager
def refusing(file: Picture) -> Iterator[None]:
    """Turn errors of Arrow into `SourceError` with the file's address."""
    try:
        yield
    except (pa.ArrowException, ValueError) as error:
        raise _broken(file, error) from error


def page_sizes(data: bytes) -> tuple[int, int, int]:
    """Returns a page's size, its compressed size and that of its header, in bytes.

    Args:
        data: begins with the header.

    Raises:
        ValueError: it is no page header.
    """
    reader = _Compact(data)
    found = {number: value for number, value in reader.struct() if number in {2, 3}}
    if found.keys() != {2, 3}:
        raise ValueError("a page has no header")
    return found[2], found[3], reader.place


class _Compact:
    """Reads structs in Thrift's compact protocol."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def struct(self, depth: int = 0) -> Iterator[tuple[int, Any]]:
        """Yield each field's number and value, of whole numbers alone; others are None."""
        number = 0
        while kind := self._byte():
            number = number + (kind >> 4) if kind >> 4 else self._zigzag()
            yield number, self._value(kind & 15, depth)

    def _value(self, kind: int, depth: int) -> int | None:
        if depth > 8:
            raise ValueError("a page header is nested too deeply")
        match kind:
            case 1 | 2:  # a truth value, which the kind itself tells
                return None
            case 3:
                self.place += 1
            case 4 | 5 | 6:
                return self._zigzag()
            case 7:
                self.place += 8
            case 8:
                length = self._number()
                self.place += length
            case 12:
                for _ in self.struct(depth + 1):
                    pass
            case _:
                raise ValueError("a page header has a field of an unknown kind")
        return None

    def _byte(self) -> int:
        if self.place >= len(self._data):
            raise ValueError("a page header is cut short")
        self.place += 1
        return self._data[self.place - 1]

    def _number(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a page header has a number that is too long")
        return value | byte << shift

    def _zigzag(self) -> int:
        value = self._number()
        return value >> 1 ^ -(value & 1)


@lru_cache(maxsize=4)
def _column(
    file: Picture,
    column: str,
    stamp: str,  # noqa: ARG001 - another content has another reader
    process: int,  # noqa: ARG001 - and so has a process that was forked
) -> _Column:
    return _Column(file, column)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _broken(file: Picture, error: BaseException) -> SourceError:
    cause = " ".join(str(error).split())[:200] or "it ends too early"
    return SourceError(
        f"{shown(file.address)} cannot be read ({cause}): it is no Parquet file, cut short or "
        "damaged; write it again, or leave it out"
    )
