"""``whence evaluate robustness``, with a tiny model and pictures drawn here."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from index.evaluation.robustness import PERTURBATIONS
from tests.app.cli import test_main as test_cli
from tests.app.cli.test_main import run
from tests.pictures import noise

# Fixtures: a folder of six concepts, and a data folder with a model and an index of them.
images, weights, data = test_cli.images, test_cli.weights, test_cli.data


def one_line_error(capsys: pytest.CaptureFixture[str]) -> str:
    """What went wrong, all that was said."""
    said = capsys.readouterr()
    assert said.out == ""
    error = said.err.strip()
    assert error.startswith("error:")
    assert "\n" not in error
    return error


# Robustness ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three copies, three images that noise was laid over, and one that is not there."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = []
    for number in range(6):
        concept = f"[bold]Concept {number}[^y]"
        path, kind = images / concept / "0.png", "copy"
        if number > 2:
            with Image.open(path) as image:
                noisy = Image.blend(image.convert("RGB"), noise(seed=number), 0.4)
            path, kind = folder / f"{number}.png", "noisy"
            noisy.save(path)
        rows.append(f"{path},{concept},{kind}")
    rows.append(f"{folder}/gone.png,[bold]Concept 0[^y],noisy")
    file = folder / "pairs.csv"
    file.write_text("\n".join(["path,concepts,kind", *rows]) + "\n")
    return file


def test_robustness_prints_the_numbers_it_writes(
    data: Path, pairs: Path, tmp_path: Path, capsys
) -> None:
    path = tmp_path / "reports" / "robustness.json"
    assert run("evaluate", "robustness", "--pairs", pairs, "--data", data, "--json", path) == 0
    said = capsys.readouterr()
    columns, *printed, legend = said.out.splitlines()
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]

    assert columns.split() == ["R@1", "R@5", "mAP", "lost", "matched"]
    assert [row["perturbation"] for row in rows] == list(PERTURBATIONS)
    clean = rows[0]["macro"]["map"]
    for line, row in zip(printed, rows, strict=True):
        macro = row["macro"]
        assert line[:12].strip() == row["perturbation"]
        numbers = [macro["recall_at_1"], macro["recall_at_5"], macro["map"], clean - macro["map"]]
        numbers.append(row["attributed_correctly"])
        assert line[12:].split() == [f"{number:.3f}" for number in numbers]
        assert 0 <= macro["recall_at_1"] <= macro["recall_at_5"] <= 1
        assert macro["recall_at_1"] <= macro["map"] <= 1
        assert {kind: of["queries"] for kind, of in row["by_kind"].items()} == {
            "copy": 3,
            "noisy": 4,
        }
        assert row["failed"] == 1
    assert len({line[12:] for line in printed}) > 1  # it does change the images
    assert "lost: mAP below the clean row" in legend
    assert "10 queries could not be asked; they count as wrong" in said.err


def test_the_clean_row_is_what_the_pairs_alone_give(
    data: Path, pairs: Path, tmp_path: Path
) -> None:
    every, alone = tmp_path / "robustness.json", tmp_path / "pairs.json"
    where = ("--pairs", pairs, "--data", data)
    assert run("evaluate", "robustness", *where, "--json", every) == 0
    assert run("evaluate", "pairs", *where, "--json", alone) == 0
    clean, *_ = json.loads(every.read_text())["rows"]
    expected = json.loads(alone.read_text())
    assert clean == {name: expected.get(name) for name in clean} | {"perturbation": "clean"}
    assert clean["by_kind"]["copy"]["map"] == 1


def test_robustness_without_its_files_is_one_line(
    data: Path, pairs: Path, tmp_path: Path, capsys
) -> None:
    def fails(pairs: Path, data: Path) -> str:
        assert run("evaluate", "robustness", "--pairs", pairs, "--data", data) == 1
        return one_line_error(capsys)

    nowhere = tmp_path / "nowhere [1].csv"
    assert str(nowhere) in fails(nowhere, data)
    assert "whence rebuild" in fails(pairs, tmp_path)
