"""Read JSON manifests: JSONL, one object a line, or an array of objects."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

from index.building.manifests.records import (
    Columns,
    Record,
    RecordError,
    Records,
    checked,
)

_SPACE = " \t\r\n"
_BLANK = re.compile(rf"[{_SPACE}]*")


def read(text: str, known: Sequence[str]) -> Records:
    """Returns the records of a text; values keep their types, and null ones are left out.

    A text that begins with ``[`` is an array; otherwise every line that is not blank is an object.

    Args:
        text: the file's content.
        known: columns with a meaning.

    Raises:
        RecordError: the text is empty or no such JSON, a name comes twice in an object, or a number
            is too large for other readers of JSON.
    """
    if not text.strip():
        raise RecordError("it is empty")
    columns = Columns(known)
    values = _array(text) if text.lstrip().startswith("[") else _lines(text)
    names: dict[str, None] = {}  # in order
    records = []
    for place, value in values:
        record = _record(place, value, columns)
        names |= dict.fromkeys(record)
        present = {name: part for name, part in record.items() if part is not None}
        records.append(Record(place, present))
    return Records(list(names), records)


def _record(place: str, found: Any, columns: Columns) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise RecordError('it is no JSON object, such as {"path": "a.png", "concept": "A"}', place)
    names = columns.names(found, place)
    values: dict[str, Any] = checked(dict(zip(names, found.values(), strict=True)), place)
    return values


def _lines(text: str) -> Iterator[tuple[str, Any]]:
    # Lines end at \n alone: JSON texts may contain other characters that end lines in Python.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip(_SPACE):
            place = f"line {number}"
            value, end = _decoded(line, _after_blank(line, 0), place)
            if rest := line[end:].strip(_SPACE):
                raise RecordError(f"after its object comes {rest[:40]!r}", place)
            yield place, value


def _array(text: str) -> Iterator[tuple[str, Any]]:
    position = _after_blank(text, text.index("[") + 1)
    line, counted = 1, 0
    more = text[position : position + 1] != "]"
    while more:
        line, counted = line + text.count("\n", counted, position), position
        place = f"line {line}"
        value, end = _decoded(text, position, place)
        yield place, value
        position = _after_blank(text, end)
        more = text[position : position + 1] == ","
        if more:
            position = _after_blank(text, position + 1)
    line += text.count("\n", counted, position)
    if text[position : position + 1] != "]":
        raise RecordError("the array does not end with ], or lacks a comma", f"line {line}")
    if rest := text[position + 1 :].strip(_SPACE):
        raise RecordError(f"after the array comes {rest[:40]!r}", f"line {line}")


def _after_blank(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    return found.end() if found else position


def _decoded(text: str, position: int, place: str) -> tuple[Any, int]:
    """Returns the JSON value at a position, and the position of its end."""
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        shown = text[error.pos : error.pos + 20]
        reason = f"it is not JSON ({error.msg} at {shown!r})" if shown else "it ends too early"
        lines = text.count("\n", position, error.pos)
        raise RecordError(reason, f"line {int(place.split()[1]) + lines}") from error
    except RecursionError:
        raise RecordError("a value is nested too deeply", place) from None
    except ValueError as error:  # of the hooks below, and of integers beyond Python's limit
        raise RecordError(str(error), place) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {name!r} comes twice in an object")
    return found


def _number(written: str) -> float | str:
    """Returns a number that is no integer; as text if a float would lose digits."""
    value = float(written)
    if math.isinf(value):
        raise ValueError(f"the number {written:.40} is too large")
    return value if Decimal(repr(value)) == Decimal(written) else written


def _constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_number, parse_constant=_constant
)
