"""Records of a manifest, and rules for their columns and values that all formats share."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DEPTH = 64  # of nested lists and objects; deeper ones cannot be written as JSON later

Note = Callable[[str], None]  # called with a message for the manifest's owner


class RecordError(ValueError):
    """A malformed manifest or record.

    Args:
        reason: the fault.
        place: such as "line 3"; empty if the fault concerns the whole file.
    """

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(reason)
        self.place = place


@dataclass(frozen=True)
class Record:
    """One record: values by column, without those that are null."""

    place: str  # such as "line 3", counted from 1
    values: Mapping[str, Any]

    def text(self, column: str) -> str | None:
        """Returns a column's value as text without outer spaces; None if it is blank.

        Raises:
            RecordError: the value is a list or an object.
        """
        value = self.values.get(column)
        if isinstance(value, list | dict):
            kind = "a list" if isinstance(value, list) else "an object"
            raise RecordError(f"{column} is {kind}; it must be a text", self.place)
        if value is None:
            return None
        text = (value if isinstance(value, str) else json.dumps(value)).strip()
        if "\0" in text:
            raise RecordError(f"{column} holds a NUL character", self.place)
        return text or None


@dataclass(frozen=True)
class Records:
    """Columns and records of a manifest."""

    columns: Sequence[str]  # by first appearance
    records: Sequence[Record]


class Columns:
    """Names the columns of a manifest.

    Args:
        known: columns with a meaning. Each is recognised in any case and with spaces or dashes for
            underscores: ``Source URL`` is ``source_url``.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._known = frozenset(known)

    def name(self, heading: str) -> str:
        """Returns the known column of a heading, or the heading itself."""
        heading = heading.strip()
        name = "_".join(heading.casefold().replace("-", " ").split())
        return name if name in self._known else heading

    def names(self, headings: Iterable[str], place: str) -> list[str]:
        """Returns the columns of a record or a header.

        Raises:
            RecordError: two have one name.
        """
        headings = list(headings)
        names = [self.name(heading) for heading in headings]
        for name, count in Counter(name for name in names if name).items():
            if count > 1:
                same = [repr(h) for h, n in zip(headings, names, strict=True) if n == name]
                raise RecordError(
                    f"{count} columns have one name: {', '.join(same)}; rename or remove all but "
                    "one",
                    place,
                )
        return names


def checked(value: Any, place: str, depth: int = 0) -> Any:
    """Returns a record's value after a check that it can be written as JSON.

    Raises:
        RecordError: it is nested too deeply, or a text in it holds half a surrogate pair.
    """
    if depth > DEPTH:
        raise RecordError(f"a value is nested more than {DEPTH} levels deep", place)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RecordError(
                f"the text {value!r:.80} holds half a surrogate pair, which is no character", place
            ) from None
    elif isinstance(value, list):
        for item in value:
            checked(item, place, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            checked(key, place, depth + 1)
            checked(item, place, depth + 1)
    return value
