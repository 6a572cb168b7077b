"""Read Parquet manifests, row by row."""

import math
from collections.abc import Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from index.building.manifests.records import Columns, Note, Record, RecordError, Records, checked


def read(file: BinaryIO, known: Sequence[str], note: Note) -> Records:
    """Returns the rows of a Parquet file; null values are left out.

    Values without a JSON type become text: dates and times in ISO 8601, decimal fractions with
    all digits. Numbers that are not finite count as null.

    Args:
        file: the file.
        known: columns with a meaning.
        note: called for each column of bytes, which is left out.

    Raises:
        RecordError: it is no Parquet file, or two columns have one name.
    """
    try:
        table = pq.ParquetFile(file).read()
        names = Columns(known).names(table.column_names, "the schema")
        kept = []
        for name, column in zip(names, table.columns, strict=True):
            if holds_bytes(column.type):
                note(f"the column {name} holds bytes and is left out")
            else:
                text = pa.types.is_temporal(column.type)
                kept.append((name, column.cast(pa.string()) if text else column))
        columns = [(name, column.to_pylist()) for name, column in kept]
    except (pa.ArrowException, ValueError, OSError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(str(error)) from error
    records = []
    for row in range(table.num_rows):
        place = f"row {row + 1}"
        values = {name: plain(column[row]) for name, column in columns}
        present = {name: value for name, value in values.items() if value is not None}
        records.append(Record(place, checked(present, place)))
    return Records([name for name, _ in kept], records)


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
