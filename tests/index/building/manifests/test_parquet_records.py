"""Parquet: typed columns, written by pyarrow itself."""

import datetime
import decimal
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from index.building.source import read_sources
from model.errors import SourceError

BASE = {"path": ["a.png", "b.png"], "concept": ["A", "B"]}


def write(folder: Path, names: list[str], columns: list[pa.Array]) -> Path:
    path = folder / "m.parquet"
    table = pa.Table.from_arrays([*map(pa.array, BASE.values()), *columns], [*BASE, *names])
    pyarrow.parquet.write_table(table, path)
    return path


DAY = datetime.date(2020, 1, 31)
TYPES = {
    "int64": (pa.array([1999, None]), 1999),
    "uint64": (pa.array([2**64 - 1, None], pa.uint64()), 2**64 - 1),
    "float": (pa.array([0.5, None]), 0.5),
    "bool": (pa.array([True, None]), True),
    "text": (pa.array(["c. 1900", None]), "c. 1900"),
    "category": (pa.array(["oil", None]).dictionary_encode(), "oil"),
    "list": (pa.array([[1, None, 3], None]), [1, None, 3]),
    "struct": (pa.array([{"a": 1, "b": "x"}, None]), {"a": 1, "b": "x"}),
    "date": (pa.array([DAY, None]), "2020-01-31"),
    "dates": (pa.array([[DAY], None]), ["2020-01-31"]),
    "time of nanoseconds": (
        pa.array([1_577_836_800_000_000_001, None], pa.timestamp("ns")),
        "2020-01-01 00:00:00.000000001",
    ),
    "decimal": (
        pa.array([decimal.Decimal("12345678901234567890.50"), None]),
        "12345678901234567890.50",
    ),
    "whole decimal": (
        pa.array([decimal.Decimal("12345678901234567890"), None]),
        12345678901234567890,
    ),
    "map": (pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())), [["a", 1]]),
}


@pytest.mark.parametrize(("column", "expected"), TYPES.values(), ids=TYPES.keys())
def test_values_are_such_as_json_can_say(
    tmp_path: Path, column: pa.Array, expected: object
) -> None:
    first, second = read_sources([write(tmp_path, ["x"], [column])])
    assert repr(dict(first.metadata)) == repr({"x": expected})
    assert dict(second.metadata) == {}


def test_numbers_that_are_not_finite_count_as_missing(tmp_path: Path) -> None:
    found = read_sources([write(tmp_path, ["x"], [pa.array([float("nan"), float("inf")])])])
    assert [dict(one.metadata) for one in found] == [{}, {}]


@pytest.mark.parametrize(
    "column", [pa.array([b"\x89PNG", b""]), pa.array([{"bytes": b"\x89PNG", "path": "a"}, None])]
)
def test_a_column_of_bytes_is_left_out_and_told(tmp_path: Path, column: pa.Array) -> None:
    source = write(tmp_path, ["image"], [column])
    told: list[str] = []
    assert [dict(one.metadata) for one in read_sources([source], report=told.append)] == [{}, {}]
    assert told == [f"manifest {source}: the column image holds bytes and is left out"]


@pytest.mark.parametrize("name", ["path", "Path", "CONCEPT"])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    source = write(tmp_path, [name], [pa.array(["c.png", "d.png"])])
    with pytest.raises(SourceError, match="2 columns have one name"):
        read_sources([source])


@pytest.mark.parametrize("name", ["m.parquet", "m.csv", "m.jsonl"])
def test_a_manifest_that_is_a_fifo_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(
        SourceError, match=r"cannot be read: it is a FIFO \(named pipe\), not a file"
    ):
        read_sources([tmp_path / name])
