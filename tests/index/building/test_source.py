import json
import os
import shutil
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

import index.source
from index.building.source import SourceExemplar, read_sources
from model.errors import SourceError
from model.files import this_user
from model.folders import Skipped
from tests.fakes import patches

Row = Mapping[str, Any]


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    patches(seed).save(path)
    return path


def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def write_csv(folder: Path, rows: Sequence[Row]) -> Path:
    pyarrow.csv.write_csv(pa.table(columns(rows)), folder / "manifest.csv")
    return folder / "manifest.csv"


def write_jsonl(folder: Path, rows: Sequence[Row]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "manifest.jsonl").write_text(text, encoding="utf-8")
    return folder / "manifest.jsonl"


def write_parquet(folder: Path, rows: Sequence[Row]) -> Path:
    pyarrow.parquet.write_table(pa.table(columns(rows)), folder / "manifest.parquet")
    return folder / "manifest.parquet"


Writer = Callable[[Path, Sequence[Row]], Path]
every_format = pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])


def concepts(exemplars: Sequence[SourceExemplar]) -> dict[str, str]:
    return {exemplar.concept.id: exemplar.concept.name for exemplar in exemplars}


# Folders


def test_each_sub_folder_is_a_concept_with_the_images_at_any_depth_below(tmp_path: Path) -> None:
    first = picture(tmp_path / "Ada Lovelace" / "b.png")
    second = picture(tmp_path / "Ada Lovelace" / "early" / "a.PNG")
    third = picture(tmp_path / "Zed" / "c.jpg")
    found = read_sources([tmp_path])
    assert [exemplar.path for exemplar in found] == [first, second, third]
    assert all(exemplar.path.is_absolute() for exemplar in found)
    assert concepts(found) == {"ada-lovelace": "Ada Lovelace", "zed": "Zed"}
    assert found[0].concept is found[1].concept
    assert (found[0].concept.kind, found[0].license, found[0].source_url) == (None, None, None)


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    kept = picture(tmp_path / "a" / "kept.png")
    picture(tmp_path / "a" / ".hidden.png")
    picture(tmp_path / "a" / ".cache" / "x.png")
    picture(tmp_path / ".git" / "x.png")
    picture(tmp_path / ".loose.png")
    (tmp_path / "a" / "notes.txt").write_text("notes")
    (tmp_path / "README.md").write_text("notes")
    assert [exemplar.path for exemplar in read_sources([tmp_path])] == [kept]


def test_loose_images_are_refused_with_the_option_that_takes_them(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "x.png")
    picture(tmp_path / "stray.png")
    with pytest.raises(SourceError, match=r"1 loose .*stray\.png.*--each-image-a-concept"):
        read_sources([tmp_path])


def test_loose_images_become_concepts_of_their_own_when_asked(tmp_path: Path) -> None:
    source = tmp_path / "Found"
    picture(source / "Blue Vase.png")
    picture(source / "vase 2.png")
    picture(source / "series" / "1.png")
    found = read_sources([source], each_image_a_concept=True)
    assert concepts(found) == {
        "found-blue-vase": "Found/Blue Vase",
        "found-vase-2": "Found/vase 2",
        "series": "series",
    }
    assert len(found) == 3


def test_two_loose_images_of_one_name_are_not_taken_for_one_concept(tmp_path: Path) -> None:
    picture(tmp_path / "vase.png")
    picture(tmp_path / "vase.jpg")
    with pytest.raises(SourceError, match=r"vase\.jpg.*vase\.png|vase\.png.*vase\.jpg"):
        read_sources([tmp_path], each_image_a_concept=True)


@pytest.mark.parametrize("content", [[], ["notes.txt"], ["empty/notes.txt"]])
def test_a_folder_without_images_is_refused_by_name(tmp_path: Path, content: list[str]) -> None:
    source = tmp_path / "gallery"
    source.mkdir()
    for name in content:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("no image")
    with pytest.raises(SourceError, match=r"gallery holds no exemplars; .*sub-folder.*manifest"):
        read_sources([source])


def forbid(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Refuse to list ``folders``, as the system does; tests may run as root, who may."""
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path) in folders:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


def test_a_sub_folder_that_cannot_be_read_is_skipped_by_name(tmp_path: Path, monkeypatch) -> None:
    picture(tmp_path / "Ada" / "a.png")
    picture(tmp_path / "Ada" / "late" / "secret" / "b.png")
    picture(tmp_path / "Closed" / "c.png")
    forbid(monkeypatch, tmp_path / "Ada" / "late" / "secret", tmp_path / "Closed")
    skipped: list[Skipped] = []
    assert list(concepts(read_sources([tmp_path], skip=skipped.append))) == ["ada"]
    reason = f"cannot be read by {this_user()}; check its permissions and owner"
    assert [(Path(one.path).name, one.reason) for one in skipped] == [
        ("secret", f"it {reason}"),
        ("Closed", f"it {reason}"),
    ]


def test_a_source_that_cannot_be_read_is_refused_by_name(tmp_path: Path, monkeypatch) -> None:
    picture(tmp_path / "Ada" / "a.png")
    forbid(monkeypatch, tmp_path)
    with pytest.raises(SourceError, match=r"cannot be read by user \d+; check its permissions"):
        read_sources([tmp_path])


@pytest.mark.parametrize("name", ["self", "self.jpg"])
def test_links_that_lead_to_themselves_are_skipped(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "Ada" / "a.png")
    (tmp_path / "Ada" / name).symlink_to(name)
    (tmp_path / "there").symlink_to("back")
    (tmp_path / "back").symlink_to("there")
    skipped: list[Skipped] = []
    assert len(read_sources([tmp_path], skip=skipped.append)) == 1
    assert {Path(one.path).name for one in skipped} == {name, "there", "back"}
    assert all("which cannot be followed" in one.reason for one in skipped)


def test_everything_in_a_source_is_taken_or_skipped(tmp_path: Path) -> None:
    """Each entry of the folders is told of once, by the test's own count of them."""
    for name in ("Ada/a.png", "Ada/deep/b.jfif", "Zed/c", "@eaDir/d.png", ".git/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        patches(1).save(tmp_path / name, "PNG")
    for name in ("Ada/notes.txt", "Ada/.DS_Store", "Zed/Thumbs.db", "catalog.xlsx", "Empty/x.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"text")
    (tmp_path / "Zed" / "gone.jpg").symlink_to("../.git/annex/objects/gone.jpg")
    os.mkfifo(tmp_path / "Zed" / "pipe.png")
    skipped: list[Skipped] = []
    told: list[str] = []
    found = read_sources([tmp_path], skip=skipped.append, report=told.append)
    assert [str(one.path.relative_to(tmp_path)) for one in found] == [
        "Ada/a.png", "Ada/deep/b.jfif", "Zed/c",
    ]  # fmt: skip
    assert {str(Path(one.path).relative_to(tmp_path)): one.reason for one in skipped} == {
        ".git": "a hidden folder",
        "@eaDir": "a folder of the system or of a program",
        "catalog.xlsx": "not an image",
        "Ada/.DS_Store": "a hidden file",
        "Ada/notes.txt": "not an image",
        "Empty/x.md": "not an image",
        "Zed/Thumbs.db": "not an image",
        "Zed/gone.jpg": "a link to ../.git/annex/objects/gone.jpg, which is not there",
        "Zed/pipe.png": "it is a FIFO (named pipe), not a file",
    }
    assert told == [f"source {tmp_path}: the folder 'Empty' has no images and gives no concept"]


def test_a_source_of_skipped_files_alone_says_how_many(tmp_path: Path) -> None:
    (tmp_path / "Ada").mkdir()
    (tmp_path / "Ada" / "x.txt").write_text("text")
    with pytest.raises(SourceError, match=r"1 files or folders were skipped, the first .*x\.txt"):
        read_sources([tmp_path])


@every_format
def test_a_manifest_may_name_what_is_no_file(tmp_path: Path, write: Writer) -> None:
    """Its exemplars are told of by the rebuild, which reads them; a loop of links stops nothing."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop").symlink_to("loop")
    rows = [{"path": name, "concept": "x"} for name in ("pipe.png", "loop", "loop/a.png", ".")]
    assert len(read_sources([write(tmp_path, rows)])) == 4


def test_linked_folders_give_their_images_at_any_depth(tmp_path: Path) -> None:
    store, source = tmp_path / "store", tmp_path / "source"
    picture(store / "ada" / "a.png")
    picture(source / "Zed" / "z.png")
    (source / "Ada").symlink_to(store / "ada")
    (source / "Zed" / "more").symlink_to(store / "ada")
    found = [exemplar.path for exemplar in read_sources([source])]
    names = ["Ada/a.png", "Zed/more/a.png", "Zed/z.png"]
    assert found == [source / name for name in names]


def test_links_to_the_source_or_above_it_make_no_concept(tmp_path: Path) -> None:
    source, store = tmp_path / "pictures" / "source", tmp_path / "store"
    picture(tmp_path / "pictures" / "private" / "p.png")
    picture(source / "Ada" / "a.png", 1)
    picture(store / "zed" / "z.png", 2)
    links = {
        "absolute": tmp_path / "pictures",
        "far": tmp_path,
        "other-way": Path("Ada/../../source"),
        "top": Path(),
        "up": Path(".."),
    }
    for name, target in links.items():
        (source / name).symlink_to(target)
    (source / "Zed").symlink_to(store / "zed")  # outside, and leads back
    (store / "zed" / "back").symlink_to(source)
    (store / "zed" / "above").symlink_to(source.parent)

    notes: list[str] = []
    skipped: list[Skipped] = []
    exemplars = read_sources([source], report=notes.append, skip=skipped.append)

    assert [exemplar.path.name for exemplar in exemplars] == ["a.png", "z.png"]
    assert {one.path: one.reason for one in skipped} == {
        f"{source}/absolute": f"the same folder as {source.parent}",
        f"{source}/far": f"the same folder as {tmp_path}",
        f"{source}/other-way": f"the same folder as {source}",
        f"{source}/top": f"the same folder as {source}",
        f"{source}/up": f"the same folder as {source.parent}",
        f"{source}/Zed/back": f"the same folder as {source}",
        f"{source}/Zed/above": f"the same folder as {source.parent}",
    }
    assert notes == []


def test_a_source_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere: there is no such"):
        read_sources([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("loop", "it cannot be read: Too many levels of symbolic links"),
        ("loop/Ada", "it cannot be read: Too many levels of symbolic links"),
        ("~nobody-of-this-name/x", "there is no such folder or manifest"),
        ("file/x", "there is no such folder or manifest"),
    ],
)
def test_a_source_that_cannot_be_reached_is_refused_by_name(
    tmp_path: Path, monkeypatch, name: str, fault: str
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError) as caught:
        read_sources([Path(name)])
    assert str(caught.value) == f"source {tmp_path / name}: {fault}"


def test_a_linked_manifest_has_the_suffix_and_folder_of_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "x123").write_text("path,concept\na.png,Ada\n", encoding="utf-8")
    (tmp_path / "set").mkdir()
    link = tmp_path / "set" / "manifest.csv"
    link.symlink_to("../store/x123")
    [exemplar] = read_sources([link, tmp_path / "store" / ".." / "set" / "manifest.csv"])
    assert exemplar.path == tmp_path / "set" / "a.png"


def test_no_source_at_all_is_refused_with_the_option(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--source"):
        read_sources([])


def test_a_file_that_is_no_manifest_is_refused_with_the_accepted_kinds(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"x\.png.*\.csv.*\.jsonl.*\.parquet"):
        read_sources([picture(tmp_path / "x.png")])


# Manifests


@every_format
def test_a_manifest_gives_paths_concepts_rights_and_the_rest_as_metadata(
    tmp_path: Path, write: Writer
) -> None:
    absolute = str(tmp_path / "elsewhere" / "b.png")
    source = write(
        tmp_path,
        [
            {
                "path": "pictures/a.png",
                "concept": "ada",
                "name": "Ada Lovelace",
                "kind": "person",
                "source_url": "https://example.org/a",
                "license": "CC0-1.0",
                "year": "1843",
                "note": None,
            },
            {"path": absolute, "concept": "ada", "license": None, "year": "1844"},
        ],
    )
    first, second = read_sources([source])
    assert first.path == tmp_path / "pictures" / "a.png"
    assert str(second.path) == absolute
    assert first.concept is second.concept
    assert (first.concept.id, first.concept.name, first.concept.kind) == (
        "ada", "Ada Lovelace", "person",
    )  # fmt: skip
    assert (first.source_url, first.license) == ("https://example.org/a", "CC0-1.0")
    assert (second.source_url, second.license) == (None, None)
    assert dict(first.metadata) == {"year": "1843"}
    assert dict(second.metadata) == {"year": "1844"}


@every_format
def test_a_path_may_lead_out_of_the_manifests_folder(tmp_path: Path, write: Writer) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    source = write(folder, [{"path": "../a.png", "concept": "x"}])
    assert read_sources([source])[0].path == tmp_path / "a.png"


@every_format
@pytest.mark.parametrize("name", ["007", "1e3", "2020-01-31", "12:30", "true", "null", "NA", "1.0"])
def test_a_concept_that_looks_like_something_else_stays_text(
    tmp_path: Path, write: Writer, name: str
) -> None:
    source = write(tmp_path, [{"path": "a.png", "concept": name, "name": name}])
    assert read_sources([source])[0].concept.name == name


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_a_concept_that_is_a_number_is_read_as_its_text(tmp_path: Path, write: Writer) -> None:
    source = write(tmp_path, [{"path": "a.png", "concept": 7, "weight": 0.5}])
    (exemplar,) = read_sources([source])
    assert (exemplar.concept.id, exemplar.concept.name) == ("7", "7")
    assert dict(exemplar.metadata) == {"weight": 0.5}


def test_a_csv_may_quote_commas_and_line_breaks_and_begin_with_a_byte_order_mark(tmp_path) -> None:
    source = tmp_path / "m.csv"
    source.write_text('\ufeffpath,concept,note\n"a, b.png",x,"two\nlines"\n', encoding="utf-8")
    (exemplar,) = read_sources([source])
    assert exemplar.path == tmp_path / "a, b.png"
    assert dict(exemplar.metadata) == {"note": "two\nlines"}


def test_a_csv_of_many_blocks_may_break_lines_within_cells(tmp_path: Path) -> None:
    note = "two\nlines " * 40
    rows = [{"path": f"{n}.png", "concept": "x", "note": f"{n} {note}"} for n in range(4000)]
    found = read_sources([write_csv(tmp_path, rows)])  # well over one of Arrow's 1 MiB blocks
    assert [exemplar.metadata["note"] for exemplar in found] == [row["note"] for row in rows]


@every_format
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "a.png", "style": "x"}, r"lacks the column concept; it has path, style"),
        ({"file": "a.png", "style": "x"}, r"lacks the columns path, concept; it has file, style"),
    ],
)
def test_a_missing_column_is_named_with_those_there_are(
    tmp_path: Path, write: Writer, row: Row, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        read_sources([write(tmp_path, [row])])


@every_format
@pytest.mark.parametrize("column", ["path", "concept"])
@pytest.mark.parametrize("empty", [None, "", "  "])
def test_an_empty_cell_is_refused_with_its_record(
    tmp_path: Path, write: Writer, column: str, empty: str | None
) -> None:
    good = {"path": "a.png", "concept": "x"}
    where = "line 3" if write is write_csv else "line 2" if write is write_jsonl else "row 2"
    with pytest.raises(
        SourceError,
        match=f"cannot be read: {where}: {column} is empty",
    ):
        read_sources([write(tmp_path, [good, {**good, column: empty}])])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", b""),
        ("m.csv", b"path,concept\na.png,x,too many\n"),
        ("m.jsonl", b""),
        ("m.jsonl", b'{"path": "a.png", "concept"'),
        ("m.parquet", b"PAR1 but not really"),
        ("m.parquet", b""),
    ],
)
def test_a_malformed_manifest_is_refused_by_name(tmp_path: Path, name, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=rf"m\.{name.split('.')[1]} cannot be read"):
        read_sources([tmp_path / name])


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_a_manifest_without_records_is_refused_by_name(tmp_path: Path, write: Writer) -> None:
    source = write(tmp_path, [{"path": "a.png", "concept": "x"}])
    if source.suffix == ".csv":
        source.write_text("path,concept\n")
    else:
        table = pa.table({"path": pa.array([], pa.string()), "concept": pa.array([], pa.string())})
        pyarrow.parquet.write_table(table, source)
    with pytest.raises(SourceError, match="holds no exemplars"):
        read_sources([source])


# Names


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("葛飾北斎", "葛飾北斎"),
        ("Édouard Manet", "édouard-manet"),
        ("Айвазовский", "айвазовский"),
        ("Van Gogh (late)", "van-gogh-late"),
    ],
)
def test_a_name_in_any_script_gives_an_id_in_that_script(tmp_path, name, identifier) -> None:
    picture(tmp_path / name / "a.png")
    assert concepts(read_sources([tmp_path])) == {identifier: name}


def test_a_name_without_letters_or_digits_gets_an_id_all_the_same(tmp_path: Path) -> None:
    for name in ("!!!", "❤"):
        picture(tmp_path / name / "a.png")
    found = concepts(read_sources([tmp_path]))
    # The first digits of the SHA-256 of the name in UTF-8, by sha256sum.
    assert found == {"concept-e84c538e": "!!!", "concept-cc13ee6f": "❤"}


def test_two_folders_of_one_slug_are_told_apart(tmp_path: Path) -> None:
    for name in ("Van Gogh", "van-gogh", "Ada"):
        picture(tmp_path / name / "a.png")
    found = concepts(read_sources([tmp_path]))
    assert list(found.values()) == ["Ada", "Van Gogh", "van-gogh"]
    ada, first, second = found
    assert ada == "ada"
    assert first.startswith("van-gogh-")
    assert second.startswith("van-gogh-")
    assert first != second
    shutil.rmtree(tmp_path / "Ada")
    (tmp_path / "van-gogh").rename(tmp_path / "VAN GOGH!")  # the other does not change its id
    assert first in concepts(read_sources([tmp_path]))


@every_format
def test_words_that_differ_by_marks_alone_are_concepts_of_their_own(tmp_path, write) -> None:
    words = ["कि", "का", "कु", "กี่", "กา", "கொ", "கா", "কি", "কা", "عِلم", "عَلَم", "שָׁלוֹם", "שָׁלֵם"]
    rows = [{"path": f"{place}.png", "concept": word} for place, word in enumerate(words)]
    found = concepts(read_sources([write(tmp_path, rows)]))
    assert list(found.values()) == [unicodedata.normalize("NFC", word) for word in words]


def test_two_names_that_differ_by_case_alone_are_refused_with_both(tmp_path: Path) -> None:
    for name in ("Ada", "ada"):
        picture(tmp_path / name / "a.png")
    with pytest.raises(SourceError, match=r"'Ada'.*'ada'|'ada'.*'Ada'"):
        read_sources([tmp_path])


def test_words_that_differ_by_a_sharp_s_are_concepts_of_their_own(tmp_path: Path) -> None:
    for name in ("Maße", "Masse"):
        picture(tmp_path / name / "a.png")
    assert concepts(read_sources([tmp_path])) == {"masse": "Masse", "maße": "Maße"}


def test_several_sources_are_read_in_their_order(tmp_path: Path) -> None:
    picture(tmp_path / "b" / "Zed" / "z.png")
    picture(tmp_path / "a" / "loose.png")
    manifest = write_csv(tmp_path, [{"path": "x.png", "concept": "Ada"}])
    found = read_sources([tmp_path / "b", manifest, tmp_path / "a"], each_image_a_concept=True)
    assert list(concepts(found)) == ["zed", "ada", "a-loose"]


def test_a_relative_source_gives_absolute_paths(tmp_path: Path, monkeypatch) -> None:
    picture(tmp_path / "gallery" / "Ada" / "a.png")
    monkeypatch.chdir(tmp_path)
    (exemplar,) = read_sources([Path("gallery")])
    assert exemplar.path == tmp_path / "gallery" / "Ada" / "a.png"


def test_a_source_given_twice_is_read_once(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "Ada" / "a.png")
    assert len(read_sources([tmp_path / "a", tmp_path / "b" / ".." / "a"])) == 1


@every_format
@pytest.mark.parametrize("second", ["Rose", "ROSE"])
def test_two_concepts_of_one_name_are_refused_by_both_ids(tmp_path, write: Writer, second) -> None:
    rows = [
        {"path": "a.png", "concept": "plant/1", "name": "Rose"},
        {"path": "b.png", "concept": "person/7", "name": second},
    ]
    with pytest.raises(SourceError, match=rf"'person-7' of .* '{second}' and 'plant-1' .*'Rose'"):
        read_sources([write(tmp_path, rows)])


def test_names_that_differ_only_in_how_accents_are_stored_are_one(tmp_path: Path) -> None:
    rows = [
        {"path": f"{form}.png", "concept": form, "name": unicodedata.normalize(form, "Renée")}
        for form in ("NFC", "NFD")
    ]
    with pytest.raises(SourceError, match=r"'nfd' .*'nfc'"):
        read_sources([write_jsonl(tmp_path, rows)])


def test_one_name_in_a_folder_and_a_manifest_is_refused_with_both_sources(tmp_path: Path) -> None:
    picture(tmp_path / "gallery" / "Rose" / "a.png")
    manifest = write_csv(tmp_path, [{"path": "b.png", "concept": "r-7", "name": "rose"}])
    with pytest.raises(SourceError, match=r"'r-7' of .*manifest\.csv .*'rose' of .*gallery 'Rose'"):
        read_sources([tmp_path / "gallery", manifest])


@every_format
@pytest.mark.parametrize("column", ["name", "kind"])
def test_two_names_or_kinds_of_one_concept_are_refused_with_both(
    tmp_path: Path, write: Writer, column: str
) -> None:
    rows = [{"path": "a.png", "concept": "ada", column: text} for text in ("One", None, "Other")]
    with pytest.raises(SourceError, match=f"'ada' has two {column}s: 'One' and 'Other'"):
        read_sources([write(tmp_path, rows)])


@every_format
def test_a_name_told_in_a_later_record_holds_for_all(tmp_path: Path, write: Writer) -> None:
    rows = [
        {"path": "a.png", "concept": "ada", "name": None, "kind": None},
        {"path": "b.png", "concept": "ada", "name": "Ada Lovelace", "kind": "person"},
    ]
    first, second = read_sources([write(tmp_path, rows)])
    assert first.concept is second.concept
    assert (first.concept.name, first.concept.kind) == ("Ada Lovelace", "person")


def test_scripts_find_the_reader_under_its_public_name(tmp_path: Path) -> None:
    picture(tmp_path / "Ada" / "a.png")
    assert list(concepts(index.source.read_sources([tmp_path]))) == ["ada"]
