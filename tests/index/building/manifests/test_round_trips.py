"""Whatever a writer of each format writes is read back as it was."""

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index.building.source import read_sources

FEW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
COLUMNS = ("path", "concept", "name", "kind", "source_url", "license")
NAMES = TEXT.filter(lambda name: "_".join(name.casefold().replace("-", " ").split()) not in COLUMNS)


def read(name: str, content: bytes) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return [dict(one.metadata) for one in read_sources([path])]


@FEW
@given(
    st.lists(st.dictionaries(NAMES.map(str.strip), VALUES, max_size=4), min_size=1, max_size=5),
    st.booleans(),
)
def test_json_lines_and_arrays(records: list[dict[str, Any]], lines: bool) -> None:
    whole = [{"path": "a.png", "concept": "A", **one} for one in records]
    if lines:
        text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in whole)
    else:
        text = json.dumps(whole, indent=1)
    expected = [{n: value for n, value in one.items() if value is not None} for one in records]
    assert repr(read("m.jsonl", text.encode())) == repr(expected)


# Spaces after a delimiter do not count unless they are quoted, and blank fields say nothing.
CELLS = st.text(
    st.characters(codec="cp1252", exclude_characters="\r\0"), min_size=1, max_size=12
).filter(lambda cell: cell.strip())


@FEW
@given(
    st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_tables(rows: list[tuple[str, str]], delimiter: str, encoding: str, ending: str) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ending, quoting=csv.QUOTE_ALL)
    writer.writerow(["path", "concept", "first", "second"])
    writer.writerows(["a.png", "A", *row] for row in rows)
    expected = [{"first": first, "second": second} for first, second in rows]
    assert read("m.csv", text.getvalue().encode(encoding)) == expected
