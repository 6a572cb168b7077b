"""Read delimited text: CSV with commas, semicolons, tabs or bars."""

import csv
import io
from collections.abc import Iterator, Sequence

from index.building.manifests.records import Columns, Record, RecordError, Records, checked

DELIMITERS = (",", ";", "\t", "|")
MAX_FIELD = 2**24  # characters


def read(text: str, known: Sequence[str]) -> Records:
    """Returns the records of a text with a header; values are text, and blank ones left out.

    A first line such as ``sep=;``, as in Excel, sets the delimiter; otherwise it is the one that
    gives the header the most known columns. Fields quoted with ``"`` may contain line breaks.
    Spaces after a delimiter and blank lines are ignored.

    Args:
        text: the file's content.
        known: columns with a meaning.

    Raises:
        RecordError: the text is empty, a record has more or fewer fields than the header, two
            columns have one name, or a quotation is malformed.
    """
    columns = Columns(known)
    delimiter, skip = _delimiter(text, columns, known)
    rows = _rows(text, delimiter, skip)
    first = next(rows, None)
    if first is None:
        raise RecordError("it is empty; it needs a header")
    names = columns.names(first[1], first[0])
    records = [_record(place, row, names) for place, row in rows]
    return Records([name for name in names if name], records)


def _record(place: str, row: Sequence[str], names: Sequence[str]) -> Record:
    if len(row) < len(names) or any(row[len(names) :]):
        fields = "1 field" if len(row) == 1 else f"{len(row)} fields"
        raise RecordError(f"it has {fields}, but the header has {len(names)}", place)
    values = {}
    for name, value in zip(names, row, strict=False):
        if value and not name:
            raise RecordError(f"the field {value!r:.40} is in a column without a name", place)
        if value:
            values[name] = checked(value, place)
    return Record(place, values)


def _rows(text: str, delimiter: str, skip: int) -> Iterator[tuple[str, list[str]]]:
    """Yields the rows that are not blank, each with the line that it begins on."""
    lines = io.StringIO(text, newline="")
    for _ in range(skip):
        lines.readline()
    csv.field_size_limit(MAX_FIELD)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    line = skip + 1
    while True:
        place = f"line {line}"
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise RecordError(f"a malformed field ({error})", place) from error
        line = skip + reader.line_num + 1
        if any(field.strip() for field in row):
            yield place, row


def _delimiter(text: str, columns: Columns, known: Sequence[str]) -> tuple[str, int]:
    """Returns the delimiter and the number of lines before the header."""
    first = text[:80].splitlines()[0] if text.strip() else ""
    directive = first.strip().strip('"')
    if directive.lower().startswith("sep=") and len(directive) <= 5:
        return directive[4:] or "\t", 1
    if not text.strip():
        return DELIMITERS[0], 0

    def fits(delimiter: str) -> tuple[int, int]:
        try:
            _, header = next(_rows(text, delimiter, 0))
        except RecordError:
            return 0, 0
        return len({columns.name(name) for name in header} & set(known)), len(header)

    return max(DELIMITERS, key=fits), 0
