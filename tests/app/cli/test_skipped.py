from app.cli.skipped import LINES, print_skipped, skipped_lines
from model.folders import Skipped


def test_few_files_have_a_line_each() -> None:
    skipped = [Skipped("/x/a.jpg", "the image is empty"), Skipped("/x/b.txt", "not an image")]
    assert skipped_lines(skipped) == [
        "skipped /x/a.jpg: the image is empty",
        "skipped /x/b.txt: not an image",
    ]


def test_ten_thousand_captions_have_one_line_behind_what_matters() -> None:
    skipped = [Skipped(f"/x/{n % 7}/{n}.txt", "not an image") for n in range(10_000)]
    skipped += [Skipped(f"/x/{n}.JSON", "not an image") for n in range(4)]
    skipped += [Skipped("/x/gone.jpg", "a link to y/gone.jpg, which is not there")]
    assert skipped_lines(skipped) == [
        "skipped /x/gone.jpg: a link to y/gone.jpg, which is not there",
        "skipped 10,000 .txt files in 7 folders (0.txt, 1.txt, 2.txt, ...): not an image",
        "skipped 4 .json files in 1 folder (0.JSON, 1.JSON, 2.JSON, ...): not an image",
    ]


def test_reasons_that_differ_by_a_path_or_number_are_of_one_kind() -> None:
    skipped = [Skipped(f"/x/{n}.jpg", f"a link to /y/{n}, which is not there") for n in range(9)]
    assert skipped_lines(skipped) == [
        "skipped 9 files in 1 folder (0.jpg, 1.jpg, 2.jpg, ...): a link to ... which is not there"
    ]


def test_more_kinds_than_fit_a_screen_are_counted(capsys) -> None:
    print_skipped(Skipped(f"/x/a.{n:03}", "not an image") for n in range(50))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == LINES + 1
    assert lines[-1] == "... and 30 more lines; --json FILE lists every file"
