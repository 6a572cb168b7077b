"""Read Parquet manifests, row by row."""

import math
from collections.abc import Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from index.building.manifests.records import Columns, Note, Record, RecordError, Records, checked
from model.sources.parquet import read_columns
from model.sources.picture import Picture, opened


def read(file: Picture, known: Sequence[str], note: Note) -> Records:
    """Returns the rows of a Parquet file; null values are left out.

    Values without a JSON type become text: dates and times in ISO 8601, decimal fractions with
    all digits. Numbers that are not finite count as null.

    Args:
        file: the file.
        known: columns with a meaning.
        note: called for each column of bytes, which is left out.

    Raises:
        RecordError: it is no Parquet file, or two columns have one name.
        SourceError: a cell is too large.
    """
    records: list[Record] = []
    try:
        table = pq.ParquetFile(opened(file), pre_buffer=False)
        headings = table.schema_arrow.names
        names = Columns(known).names(headings, "the schema")
        kept = {}
        for heading, name, field in zip(headings, names, table.schema_arrow, strict=True):
            if holds_bytes(field.type):
                note(f"the column {name} holds bytes and is left out")
            else:
                kept[heading] = name
        for batch in read_columns(file, table, list(kept)):
            columns = {kept[name]: json_values(batch.column(name)) for name in kept}
            for row in range(batch.num_rows):
                place = f"row {len(records) + 1}"
                present = {
                    name: cells[row] for name, cells in columns.items() if cells[row] is not None
                }
                records.append(Record(place, checked(present, place)))
    except (pa.ArrowException, ValueError, OSError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(str(error)) from error
    return Records(list(kept.values()), records)


def json_values(cells: pa.Array) -> list[Any]:
    """Returns a column's cells in types that JSON has."""
    if pa.types.is_temporal(cells.type):
        cells = cells.cast(pa.string())
    return [plain(value) for value in cells.to_pylist()]


def holds_bytes(kind: pa.DataType) -> bool:
    """Returns True for a type of bytes, and for one that has bytes in it."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return True
    if pa.types.is_fixed_size_binary(kind):
        return True
    return any(holds_bytes(kind.field(place).type) for place in range(kind.num_fields))


def plain(value: Any) -> Any:
    """Returns a value in types that JSON has."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            whole = value.is_finite() and value == value.to_integral_value()
            return int(value) if whole else str(value)
        case date() | time():  # a datetime is a date
            return value.isoformat()
        case timedelta():
            return str(value)
        case list() | tuple():
            return [plain(item) for item in value]
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
    return value
