"""JSONL and JSON arrays: each record for itself, as it is written."""

import json
from pathlib import Path

import pytest

from model.errors import SourceError
from tests.index.building.manifests.reading import metadata, read

# What a record says is what Python's own reader makes of it: the value that is expected stands in
# JSON here, and comes out of the manifest as it is.
VALUES = [
    "1999", '"c. 1900"', "1999.5", "12345678901234567890", "-98765432109876543210", "0.1", "1e-7",
    "true", '"yes"', '"2020-01-01"', '["2020-01-01", {"at": "12:30:00Z"}]', '[1, "a", null]',
    '{"a": 1, "b": null}', '{"a": {"b": [[]]}}', '""', '" x "', r'"\u2028\n\u0000"', '"😀"', "[]",
    "{}",
]  # fmt: skip


def lines(values: list[str]) -> str:
    return "".join(
        f'{{"path": "{n}.png", "concept": "A", "x": {v}}}\n' for n, v in enumerate(values)
    )


def array(values: list[str]) -> str:
    return "[" + ",\n".join(lines(values).splitlines()) + "]"


@pytest.mark.parametrize("order", [VALUES, VALUES[::-1]])
@pytest.mark.parametrize(
    ("name", "write"), [("m.jsonl", lines), ("m.ndjson", lines), ("m.json", array)]
)
def test_values_come_out_as_they_went_in(
    tmp_path: Path, name: str, write, order: list[str]
) -> None:
    found = metadata(tmp_path, name, write(order))
    expected = [{"x": json.loads(value)} for value in order]
    assert repr(found) == repr(expected)  # 1999 is not 1999.0, and True is not 1


def test_null_says_nothing(tmp_path: Path) -> None:
    assert metadata(tmp_path, "m.jsonl", lines(["null"])) == [{}]


@pytest.mark.parametrize(
    "written", ["3.14159265358979323846", "0.1000000000000000000001", "1e-400"]
)
def test_a_number_that_a_float_would_round_keeps_its_digits_as_text(tmp_path, written: str) -> None:
    assert metadata(tmp_path, "m.jsonl", lines([written])) == [{"x": written}]


def test_known_columns_are_text_in_every_record(tmp_path: Path) -> None:
    first, second, third = read(
        tmp_path,
        "m.jsonl",
        '{"path":"a.png","concept":7,"name":12345678901234567890,"license":true}\n'
        '{"path":"b.png","concept":"two","kind":1.5}\n'
        '{"Path":"c.png","CONCEPT":"three","Source URL":"https://example.org"}\n',
    )
    assert (first.concept.id, first.concept.name, first.license) == (
        "7", "12345678901234567890", "true",
    )  # fmt: skip
    assert (second.concept.name, second.concept.kind) == ("two", "1.5")
    assert (third.concept.name, third.source_url, dict(third.metadata)) == (
        "three", "https://example.org", {},
    )  # fmt: skip


GOOD = '{"path": "a.png", "concept": "A"}'
FAULTS = {
    "no JSON": (f"{GOOD}\n\nnot json\n", "line 3: it is not JSON"),
    "cut short": (f'{GOOD}\n{{"path": "a.png"', "line 2: it ends too early|line 2: it is not JSON"),
    "an array in a line": (f"{GOOD}\n[1]\n", "line 2: it is no JSON object"),
    "a number in a line": (f"{GOOD}\n7\n", "line 2: it is no JSON object"),
    "two objects in a line": (f"{GOOD} {GOOD}\n", "line 1: after its object comes"),
    "an object over lines": ('{"path":\n"a.png", "concept": "A"}', "line 1"),
    "a name twice": (
        f'{GOOD}\n{{"path": "a", "concept": "A", "x": 1, "x": 2}}',
        "line 2: .*'x' comes twice",
    ),
    "a name twice within": (
        '{"path": "a", "concept": "A", "x": {"y": 1, "y": 2}}',
        "line 1: .*'y' comes twice",
    ),
    "a column twice": (
        '{"path": "a", "Path": "b", "concept": "A"}',
        "line 1: 2 columns have one name: 'path', 'Path'",
    ),
    "a list as path": ('{"path": ["a.png"], "concept": "A"}', "line 1: path is a list"),
    "an object as concept": (
        '{"path": "a.png", "concept": {"id": 1}}',
        "line 1: concept is an object",
    ),
    "no concept": (f'{GOOD}\n{{"path": "b.png"}}', "line 2: concept is empty"),
    "concepts that are null": ('{"path": "b.png", "concept": null}', "line 1: concept is empty"),
    "a NUL in a path": (r'{"path": "a\u0000.png", "concept": "A"}', "line 1: path holds a NUL"),
    "half a pair": (
        r'{"path": "a.png", "concept": "A", "x": ["\ud83d"]}',
        "line 1: .* half a surrogate pair",
    ),
    "NaN": ('{"path": "a.png", "concept": "A", "x": NaN}', "line 1: NaN is no JSON"),
    "infinite": (
        '{"path": "a.png", "concept": "A", "x": 1e999}',
        "line 1: the number 1e999 is too large",
    ),
    "5000 digits": (f'{{"path": "a.png", "concept": "A", "x": {"9" * 5000}}}', "line 1: .*digits"),
    "nested": (
        f'{{"path": "a.png", "concept": "A", "x": {"[" * 70}{"]" * 70}}}',
        "line 1: .*nested",
    ),
    "nested deeply": (f'{{"path": "a.png", "concept": "A", "x": {"[" * 9**5}', "line 1: .*nested"),
    "no records": ("\n \n", "it is empty"),
}


@pytest.mark.parametrize(("content", "fault"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_named_with_its_line(tmp_path: Path, content: str, fault: str) -> None:
    with pytest.raises(SourceError, match=rf"m\.jsonl cannot be read: ({fault})"):
        read(tmp_path, "m.jsonl", content)


ARRAYS = {
    "no JSON": (f"[{GOOD},\n{GOOD},\n{{]", "line 3: it is not JSON"),
    "not ended": (f"[{GOOD},\n{GOOD}\n", "line 3: the array does not end"),
    "no comma": (f"[{GOOD}\n{GOOD}]", "line 2: the array does not end with ], or lacks a comma"),
    "a comma too many": (f"[{GOOD},\n]", "line 2: it is not JSON"),
    "more behind": (f"[{GOOD}]\n{GOOD}", "after the array comes"),
    "no object": (f"[{GOOD},\n\n7]", "line 3: it is no JSON object"),
    "a fault within": (f'[{GOOD},\n{{"path": "a.png",\n"concept" "A"}}]', "line 3: it is not JSON"),
    "no concept": (f'[{GOOD},\n{{"path":\n"b.png"}}]', "line 2: concept is empty"),
}


@pytest.mark.parametrize(("content", "fault"), ARRAYS.values(), ids=ARRAYS.keys())
def test_a_fault_in_an_array_is_named_with_its_line(tmp_path, content: str, fault: str) -> None:
    with pytest.raises(SourceError, match=rf"m\.json cannot be read: .*({fault})"):
        read(tmp_path, "m.json", content)


def test_an_array_may_be_spread_over_lines_and_stand_in_any_json_manifest(tmp_path: Path) -> None:
    text = json.dumps([json.loads(GOOD), {"path": "b.png", "concept": "B", "n": [1]}], indent=4)
    for name in ("m.json", "m.jsonl"):
        found = read(tmp_path, name, f"\ufeff\n{text}\n")
        assert [(one.concept.name, dict(one.metadata)) for one in found] == [
            ("A", {}),
            ("B", {"n": [1]}),
        ]


def test_json_lines_may_stand_in_a_file_that_is_called_json(tmp_path: Path) -> None:
    assert len(read(tmp_path, "m.json", f"{GOOD}\r\n\r\n{GOOD}")) == 2


def test_an_empty_array_holds_no_exemplars(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no exemplars|lacks the columns"):
        read(tmp_path, "m.json", " [ ] ")


def test_a_text_may_hold_the_characters_that_end_lines_elsewhere(tmp_path: Path) -> None:
    text = "a\x0b\x0c\x1c\x85\u2028\u2029b"
    record = json.dumps({"path": "a.png", "concept": "A", "x": text}, ensure_ascii=False)
    assert metadata(tmp_path, "m.jsonl", record) == [{"x": text}]
