"""CSV and its relatives, as spreadsheet programs write them."""

import csv
import io
from pathlib import Path

import pytest

from index.building.source import read_sources
from model.errors import SourceError
from tests.index.building.manifests.reading import metadata, read

ROWS = [
    ["path", "concept", "note", "year"],
    ["a, b.png", "Müller; Söhne", 'says "hi",\nand goes', "1999"],
    ["c|d.png", "x", "\ttab; and, more|", "007"],
    ["e.png", "x", "", "c. 1900"],
]
EXPECTED = [
    ("a, b.png", "Müller; Söhne", {"note": 'says "hi",\nand goes', "year": "1999"}),
    ("c|d.png", "x", {"note": "\ttab; and, more|", "year": "007"}),
    ("e.png", "x", {"year": "c. 1900"}),
]


def written(delimiter: str, ending: str = "\r\n", quoting: int = csv.QUOTE_MINIMAL) -> str:
    """The rows as Python's own writer, made after Excel's, writes them."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=ending, quoting=quoting).writerows(ROWS)
    return text.getvalue()


def told(found: list) -> list[tuple[str, str, dict]]:
    return [(one.path.name, one.concept.name, dict(one.metadata)) for one in found]


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_every_delimiter_in_every_encoding(tmp_path: Path, delimiter: str, encoding: str) -> None:
    for name in ("m.csv", "m.tsv", "m.CSV"):
        assert told(read(tmp_path, name, written(delimiter).encode(encoding))) == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "word", ["Ā Ō", "हिन्दी चित्रकार कला", "葛飾北斎", "김환기", "محمود سعيد", "Ａ一　丁"]
)
@pytest.mark.parametrize("header", ["path,concept,note", "note,concept,path", "題名,path,concept"])
def test_utf_16_without_a_mark_in_any_alphabet(
    tmp_path: Path, header: str, word: str, encoding: str
) -> None:
    row = ",".join("a.png" if name == "path" else word for name in header.split(","))
    content = f"{header}\n{(row + chr(10)) * 300}".encode(encoding)
    found = told(read(tmp_path, "m.csv", content))
    assert [one[:2] for one in found] == [("a.png", word)] * 300


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_every_line_ending_and_all_quoted(tmp_path: Path, ending: str, quoting: int) -> None:
    assert told(read(tmp_path, "m.csv", written(";", ending, quoting))) == EXPECTED


@pytest.mark.parametrize("mark", ["sep=;", "SEP=;", '"sep=;"'])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_line_with_which_excel_names_the_delimiter(tmp_path, mark: str, encoding: str) -> None:
    content = f"{mark}\r\n{written(';')}".encode(encoding)
    assert told(read(tmp_path, "m.csv", content)) == EXPECTED


@pytest.mark.parametrize(
    "header",
    [
        "Path,Concept,Source URL,LICENSE",
        ' PATH , "concept",Source_Url,License',
        "path,concept,source-url,license",
    ],
)
def test_headings_in_any_case_and_spaces_after_commas(tmp_path: Path, header: str) -> None:
    [one] = read(tmp_path, "m.csv", f'{header}\na.png,  "A, B", https://example.org, CC0\n')
    assert one.path.name == "a.png"
    assert (one.concept.name, one.source_url, one.license) == ("A, B", "https://example.org", "CC0")
    assert dict(one.metadata) == {}


def test_other_headings_stay_as_they_are(tmp_path: Path) -> None:
    content = "path,concept,Année,Maße (cm), Museum No. \na.png,A,1999,10 x 20,7\n"
    assert metadata(tmp_path, "m.csv", content) == [
        {"Année": "1999", "Maße (cm)": "10 x 20", "Museum No.": "7"}
    ]


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("path,concept,note,note", "'note', 'note'"),
        ("path,concept,Path", "'path', 'Path'"),
        ("path,concept,license, License", "'license', 'License'"),
    ],
)
def test_two_columns_of_one_name_are_refused(tmp_path: Path, header: str, names: str) -> None:
    with pytest.raises(SourceError, match=f"line 1: 2 columns have one name: {names}"):
        read(tmp_path, "m.csv", f"{header}\na.png,A,x,y\n")


FAULTS = {
    "too many fields": (
        'path,concept\n"a\nb.png",x\nb.png,x,more\n',
        "line 4: it has 3 fields, but the header has 2",
    ),
    "too few fields": (
        "path,concept,license\na.png,x\n",
        "line 2: it has 2 fields, but the header has 3",
    ),
    "a quote not closed": (
        'path,concept\na.png,x\nb.png,"x\nc.png,y\n',
        "line 3: a malformed field",
    ),
    "text behind a quote": ('path,concept\na.png,"x" y\n', "line 2: a malformed field"),
    "no heading": (
        "path,concept,\na.png,A,lost\n",
        "line 2: the field 'lost' is in a column without a name",
    ),
    "no concept": ('path,concept,note\na.png,A,"x\ny"\n\nb.png, ,z\n', "line 5: concept is empty"),
    "a NUL": ("path,concept\na\0.png,A\n", "line 2: path holds a NUL"),
    "empty": ("", "it is empty"),
    "blank": ("\n \n", "it is empty"),
}


@pytest.mark.parametrize(("content", "fault"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_named_with_its_line(tmp_path: Path, content: str, fault: str) -> None:
    with pytest.raises(SourceError, match=rf"m\.csv cannot be read: {fault}"):
        read(tmp_path, "m.csv", content)


def test_rows_and_columns_that_are_empty_are_passed_over(tmp_path: Path) -> None:
    content = "\npath;concept;;\na.png;A;;\n;;;\n\n;;;\nb.png;B;;\n"
    assert [one.path.name for one in read(tmp_path, "m.csv", content)] == ["a.png", "b.png"]


def test_a_long_field_is_read(tmp_path: Path) -> None:
    caption = "many words " * 30_000
    content = f"path,concept,caption\na.png,A,{caption}\n"
    assert metadata(tmp_path, "m.csv", content) == [{"caption": caption}]


def test_windows_1252_is_told_and_wrong_guesses_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    told: list[str] = []
    path.write_bytes("path,concept\na.png,Café “Zoë” €5\n".encode("cp1252"))
    [one] = read_sources([path], report=told.append)
    assert one.concept.name == "Café “Zoë” €5"
    assert told == [
        f"manifest {path}: it is not UTF-8 and was read as Windows-1252; if names look wrong, save "
        "it as UTF-8"
    ]


OTHER_ENCODINGS = {
    "Cyrillic": "Айвазовский".encode("cp1251"),
    "Greek": "Γκρέκο και άλλοι".encode("cp1253"),
    "Japanese": "葛飾北斎".encode("shift_jis"),
    "Chinese": "齐白石的画".encode("gbk"),
    "UTF-8 with one byte lost": "Müller, Söhne".encode()[:-6] + "öhne".encode()[1:],
}


@pytest.mark.parametrize("text", OTHER_ENCODINGS.values(), ids=OTHER_ENCODINGS.keys())
def test_text_of_another_encoding_is_refused_with_its_line(tmp_path: Path, text: bytes) -> None:
    content = b'path,concept\na.png,A\nb.png,"' + text + b'"\n'
    with pytest.raises(SourceError, match=r"cannot be read: line 3: it is not UTF-8 .*save it as"):
        read(tmp_path, "m.csv", content)


def test_damaged_utf_16_is_refused(tmp_path: Path) -> None:
    content = "path,concept\na.png,A\n".encode("utf-16")[:-1]
    with pytest.raises(SourceError, match="cannot be read: line 2: damaged UTF-16"):
        read(tmp_path, "m.csv", content)
