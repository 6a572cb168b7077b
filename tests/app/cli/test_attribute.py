"""``whence attribute`` on folders: files of answers, a summary, and runs that are continued."""

import csv
import dataclasses
import io
import json
import math
import re
from pathlib import Path

import pytest

from app.cli import ask
from app.cli import attribute as command
from app.reports.collection import COLUMNS, binomial_tail, summarise, write_csv, write_html
from model.errors import WhenceError
from tests.app.cli.test_main import run
from tests.app.conftest import shade


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for number in range(9):
        shade("Emerald", number).save(folder / "deep" / f"{number}.png")
    shade("Emerald", 1).save(folder / "=cell.png")
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("nothing")
    return folder


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_is_answered_row_by_row(served, folder: Path, tmp_path: Path, capsys) -> None:
    url, key = served
    files = {name: tmp_path / f"out.{name}" for name in ("jsonl", "csv", "html")}
    options = [word for name, path in files.items() for word in (f"--{name}", path)]
    assert run("attribute", folder, "--url", url, "--key", key, *options) == 1  # one is broken
    said = capsys.readouterr()
    assert "11 images" in said.out
    assert "1 failed" in said.out
    assert "broken.png" in said.err
    answers = lines(files["jsonl"])
    assert len(answers) == 11
    assert [row["image"] for row in answers if "error" in row] == [str(folder / "broken.png")]
    table = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert [row["file"] for row in table] == [row["image"] for row in answers]
    assert {row["figures_of_id"] for row in table if row["status"] == "answered"} == {"emerald"}
    assert all(row["error"] for row in table if row["status"] == "failed")
    page = files["html"].read_text()
    assert "Closest matches of 10 pictures" in page
    assert "<script" not in page
    row = next(row for row in answers if "error" not in row)
    for verdict, named in (("attributed", True), ("no_match", False)):
        rows = [{**row, "verdict": verdict}]
        write_html(files["html"], rows, dataclasses.replace(summarise(rows), concepts=()))
        assert ("Emerald" in files["html"].read_text()) is named
        write_csv(files["csv"], rows)
        [line] = csv.DictReader(io.StringIO(files["csv"].read_text()))
        assert line["closest"] == ("Emerald" if named else "")
        assert line["figures_of"] == "Emerald"
        assert line["answer"] == row["id"]


def test_the_columns_have_the_names_that_they_have_on_the_page() -> None:
    source = (Path(__file__).parents[3] / "app/page/table.js").read_text(encoding="utf-8")
    [listed] = re.findall(r"^const COLUMNS = (\[.*\]);$", source, re.MULTILINE)
    own = [name for name in json.loads(listed) if name != "headline"]
    assert [name for name in COLUMNS if name in own] == own


@pytest.mark.parametrize(
    "name", ["=1", "+1", "-1", "@1", "\t=1", "\r=1", "\n=1", "\uff1d1", "\uff201"]
)
def test_no_cell_is_computed(name: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "o.csv", [{"image": name, "error": "x"}])
    with (tmp_path / "o.csv").open(encoding="utf-8", newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == [f"'{name}"]


def test_a_part_of_each_image_can_be_asked_about(
    served, folder: Path, tmp_path: Path, capsys
) -> None:
    url, key = served
    out, image = tmp_path / "out.jsonl", folder / "=cell.png"
    words = ("attribute", image, "--url", url, "--key", key)
    for region in ("0,0,64,48", "0,0,32,48"):
        assert run(*words, "--jsonl", out, "--region", region) == 0
        [row] = lines(out)  # asked again, since it is another question
        assert row["region"] == dict(
            zip(("x", "y", "width", "height"), map(int, region.split(",")), strict=True)
        )
    assert run(*words, "--region", "60,0,64,48") == 1
    assert "beyond the image" in capsys.readouterr().err
    for wrong in ("1,2,3", "a,b,c,d", "-1,0,20,20"):
        assert run(*words, f"--region={wrong}") == 2
        assert "--region" in capsys.readouterr().err


def test_a_run_that_was_cut_short_is_continued(
    served,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, key = served
    (folder / "broken.png").unlink()
    out = tmp_path / "out.jsonl"
    words = ("attribute", folder, "--url", url, "--key", key, "--jsonl", out)
    assert run(*words) == 0
    whole = out.read_bytes()
    kept = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(kept[:4]) + kept[4][:50])  # killed while writing the fifth
    asked: list[Path] = []
    remote = ask._attribute_remotely
    monkeypatch.setattr(
        ask,
        "_attribute_remotely",
        lambda whence, images, **how: asked.extend(images) or remote(whence, images, **how),
    )
    shade("Emerald", 30).save(folder / "deep" / "0.png")  # has changed since
    assert run(*words) == 0
    images = [row["image"] for row in map(json.loads, kept)]
    assert {str(path) for path in asked} == {*images[4:], str(folder / "deep" / "0.png")}
    assert {row["image"] for row in lines(out)} == set(images)
    assert run(*words) == 0
    assert len(asked) == len(set(asked))  # nothing is asked again


def test_only_the_files_asked_for_are_left(served, folder: Path, tmp_path: Path) -> None:
    url, key = served
    (folder / "broken.png").unlink()
    out = tmp_path / "answers" / "table.csv"
    assert run("attribute", folder, "--url", url, "--key", key, "--csv", out) == 0
    assert [path.name for path in out.parent.iterdir()] == ["table.csv"]


def test_a_file_of_something_else_is_not_continued(
    served,
    folder: Path,
    tmp_path: Path,
    capsys,
) -> None:
    url, key = served
    out = tmp_path / "mine.jsonl"
    for content in ("my notes\n", "[1]\n", '{"image": 3}\n', '{"image": "a"}\n'):
        out.write_text(content)
        assert run("attribute", folder, "--url", url, "--key", key, "--jsonl", out) == 1
        assert out.read_text() == content
        assert "cannot be continued" in capsys.readouterr().err


def test_pictures_are_named_by_folder_pattern_and_standard_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = [folder / "deep" / f"{number}.png" for number in range(9)]
    assert command.find_pictures([str(folder / "deep")], []) == deep
    assert command.find_pictures([str(folder / "d*" / "[0-9].png")], []) == deep
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{deep[3]}\n\n{deep[3]}\n{deep[1]}\n"))
    assert command.find_pictures(["-"], []) == [deep[3], deep[1]]
    assert command.find_pictures(["none.png"], []) == [Path("none.png")]  # has its error later
    (folder / "empty").mkdir()
    with pytest.raises(WhenceError, match="no images were found"):
        command.find_pictures([str(folder / "empty")], [])


@pytest.mark.parametrize(("count", "trials", "chance"), [(0, 9, 0.1), (2, 9, 0.1), (9, 9, 0.5)])
def test_the_chance_of_as_many_pictures_is_binomial(count: int, trials: int, chance: float) -> None:
    exact = sum(
        math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k)
        for k in range(count, trials + 1)
    )
    assert binomial_tail(count, trials, chance) == pytest.approx(exact)


@pytest.fixture
def works(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of six images, of one concept each."""
    folders = []
    for name in ("Emerald", "Crimson"):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        for number in range(6):
            shade(name, number).save(folders[-1] / f"{number}.png")
    return folders[0], folders[1]


def test_a_folder_is_answered_together_by_a_server(
    served, works: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    url, key = served
    words = ("attribute", "--together", works[0], "--control", works[1], "--url", url, "--key", key)
    assert run(*words, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert [Path(image).name for image in answer["images"]] == [f"{n}.png" for n in range(6)]
    assert answer["concepts"][0]["id"] == "emerald"
    assert answer["concepts"][0]["control"]["more"]
    assert run(*words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "6 images together" in said
    assert "more than in the control: Emerald" in said
    (works[0] / "broken.png").write_bytes(b"no picture")
    assert run("attribute", "--together", works[0], "--url", url, "--key", key) == 1
    assert "image 7 of 7: " in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--together", "0.png"), 1, "give 2 to 64"),
        (("--together", "0.png", "1.png", "--control", "2.png"), 1, "give as many"),
        (("0.png", "--control", "1.png"), 2, "--control needs --together"),
        (("--together", "0.png", "1.png", "--csv", "o.csv"), 2, "--together prints one answer"),
    ],
)
def test_groups_that_cannot_be_answered_are_refused(
    served, works: tuple[Path, Path], words, status: int, said: str, capsys, monkeypatch
) -> None:
    url, key = served
    monkeypatch.chdir(works[0])
    assert run("attribute", *words, "--url", url, "--key", key) == status
    assert said in " ".join(capsys.readouterr().err.split())
