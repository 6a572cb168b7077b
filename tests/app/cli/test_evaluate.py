"""``whence evaluate abc`` and ``robustness``, with a tiny model and pictures drawn here."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from index.evaluation.robustness import PERTURBATIONS
from tests.app.cli import test_main as test_cli
from tests.app.cli.test_main import run
from tests.fakes import patches
from tests.pictures import noise

# Fixtures: a folder of six concepts, and a data folder with a model and an index of them.
images, weights, data = test_cli.images, test_cli.weights, test_cli.data

DISTRACTORS = 40
SCORES = ("recall_at_5", "recall_at_10", "recall_at_100", "map")


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def one_line_error(capsys: pytest.CaptureFixture[str]) -> str:
    """What went wrong, all that was said."""
    said = capsys.readouterr()
    assert said.out == ""
    error = said.err.strip()
    assert error.startswith("error:")
    assert "\n" not in error
    return error


# AbC ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Release:
    """Models tuned on 1 and 3 exemplars; the ``gpt`` queries of the first are its exemplar."""

    file: Path
    root: Path
    distractors: Path

    def evaluate(self, data: Path, *more: object) -> int:
        return run(
            "evaluate", "abc", "--json", self.file, "--root", self.root,
            "--distractors", self.distractors, "--data", data, "--workers", 0, *more,
        )  # fmt: skip


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("abc")
    root, distractors = folder / "release", folder / "laion"
    content = []
    for number, count in enumerate([1, 3]):
        own = [patches(300 + 10 * number + i, side=64) for i in range(count)]
        exemplars = [f"dataset/exemplar/set{number}/{i}.png" for i in range(count)]
        for path, image in zip(exemplars, own, strict=True):
            save(image, root / path)
        queries = {
            "gpt": own[:1] if number == 0 else [],
            "media": [Image.blend(one, noise(seed=i), 0.8) for i, one in enumerate(own)] * 2,
        }
        synth: dict[str, list[str]] = {}
        for prompt, made in queries.items():
            for i, image in enumerate(made):
                path = f"dataset/synth/{prompt}/set{number}/{i:05d}.png"
                save(image, root / path)
                synth.setdefault(prompt, []).append(path)
        content.append({"exemplar": exemplars, "synth": synth, "class_id": f"set{number}"})
    for i in range(DISTRACTORS):
        save(patches(500 + i, side=64), distractors / f"{i:03d}.png")
    (distractors / "broken.jpg").write_bytes(b"not an image")
    file = folder / "test_small.json"
    file.write_text(json.dumps(content))
    return Release(file, root, distractors)


@pytest.mark.parametrize(
    ("protocol", "galleries"),
    [("official", {DISTRACTORS + 1, DISTRACTORS + 3}), ("one-gallery", {DISTRACTORS + 4})],
)
def test_abc_prints_the_numbers_of_its_report(
    data: Path, release: Release, tmp_path: Path, capsys, protocol: str, galleries: set[int]
) -> None:
    out = tmp_path / "results" / "abc"
    assert release.evaluate(data, "--protocol", protocol, "--out", out) == 0
    said = capsys.readouterr()
    title, columns, *rows, last = said.out.splitlines()
    [folder] = out.glob(f"*-{protocol}-*")
    report = json.loads((folder / "report.json").read_text())

    assert title == f"{protocol}: 2 models, 4 exemplars, {DISTRACTORS} distractors"
    assert columns.split() == ["queries", "R@5", "R@10", "R@100", "mAP"]
    assert last == f"ranks and report: {folder}"
    measured = {"all": report["overall"], **report["by_prompt"]}
    assert [row.split() for row in rows] == [
        [name, str(of["queries"]), *(f"{of[score]:.3f}" for score in SCORES)]
        for name, of in measured.items()
    ]
    assert {name: of["queries"] for name, of in measured.items()} == {
        "all": 9,
        "gpt": 1,
        "media": 8,
    }
    for of in measured.values():
        assert 0 < of["map"] <= 1
        assert 0 <= of["recall_at_5"] <= of["recall_at_10"] <= of["recall_at_100"]
        assert of["recall_at_100"] == 1  # of a smaller gallery
    assert measured["gpt"]["map"] == 1  # the exemplar itself
    assert report["unreadable"] == [str(release.distractors / "broken.jpg")]
    assert "left out, not readable: 1 distractors" in said.err

    [model] = (path.name for path in (data / "models").iterdir())
    assert (report["model_id"], report["protocol"]) == (model, protocol)
    with (folder / "ranks.csv").open() as file:
        assert {int(row["gallery"]) for row in csv.DictReader(file)} == galleries
    assert (folder / "run.json").is_file()
    assert len(list((out / "features" / model).glob("*/style.npy"))) == 3


def test_abc_keeps_its_results_in_the_data_folder(
    data: Path, release: Release, tmp_path: Path, capsys
) -> None:
    (tmp_path / "models").symlink_to(data / "models")
    [model] = (path.name for path in (data / "models").iterdir())
    results = tmp_path / "evaluation" / "abc"
    printed = []
    for _ in range(2):  # the second time from what the first has left
        assert release.evaluate(tmp_path, "--model", model) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert len(list(results.glob("*-official-*/report.json"))) == 1


def test_abc_without_its_files_is_one_line(
    data: Path, release: Release, tmp_path: Path, capsys
) -> None:
    def fails(given: Release, data: Path, *more: object) -> str:
        assert given.evaluate(data, "--out", tmp_path / "out", *more) == 1
        return one_line_error(capsys)

    file, root, distractors = release.file, release.root, release.distractors
    nowhere = tmp_path / "nowhere [1].json"
    assert f"--json {nowhere} cannot be read" in fails(Release(nowhere, root, distractors), data)
    assert "files are missing" in fails(Release(file, tmp_path, distractors), data)
    assert "no such file or folder" in fails(Release(file, root, nowhere), data)
    assert "whence train" in fails(release, tmp_path / "data")
    assert "unknown" in fails(release, data, "--model", "unknown")
    assert not list(tmp_path.iterdir())


def test_abc_knows_its_protocols(data: Path, release: Release, tmp_path: Path, capsys) -> None:
    assert release.evaluate(data, "--protocol", "both", "--out", tmp_path / "out") == 2
    assert "one-gallery" in capsys.readouterr().err


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
