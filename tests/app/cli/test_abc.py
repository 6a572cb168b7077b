"""``whence evaluate abc`` with a tiny model, and every command of docs/abc.md."""

import csv
import json
import re
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.app.cli import test_main as test_cli
from tests.app.cli.test_evaluate import one_line_error
from tests.app.cli.test_main import ROOT, run
from tests.fakes import patches
from tests.pictures import noise

# Fixtures: a folder of six concepts, and a data folder with a model and an index of them.
images, weights, data = test_cli.images, test_cli.weights, test_cli.data

DISTRACTORS = 40
SCORES = ("recall_at_5", "recall_at_10", "recall_at_100", "map")
PAGE = (ROOT / "docs" / "abc.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    whence evaluate abc (.+)$", PAGE, re.M)
SETS = [ROOT.parent / "shared" / name for name in ("eval", "eval2")]


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@dataclass(frozen=True)
class Release:
    """Models tuned on 1 and 3 exemplars; the ``gpt`` queries of the first are its exemplar."""

    file: Path
    root: Path
    distractors: Path

    def evaluate(self, data: Path, *more: object) -> int:
        return run(
            "evaluate", "abc", "--split", self.file, "--root", self.root,
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
    title, columns, *rows, shares, last = said.out.splitlines()
    [folder] = out.glob(f"*-{protocol}-*")
    report = json.loads((folder / "report.json").read_text())

    [model] = (path.name for path in (data / "models").iterdir())
    assert title.startswith(f"{protocol}, {model}: {DISTRACTORS} distractors; ")
    assert columns.split() == ["models", "queries", "R@5", "R@10", "R@100", "mAP", "CE"]
    assert "too few distractors" in shares
    assert last == f"ranks and report: {folder}"
    measured = {"all": report["overall"], **report["by_prompt"]}
    for row, (name, of) in zip(rows, measured.items(), strict=True):
        label = "test_small" if name == "all" else f"test_small {name}"
        numbers = [of["models"], of["queries"]]
        for score in SCORES:
            numbers.append(f"{of[score]:.3f}")
            if of["intervals"]:
                low, high = of["intervals"][score]
                numbers.append(f"[{low:.3f} {high:.3f}]")
        assert row.split() == f"{label} {' '.join(map(str, numbers))} -".split()
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
    [broken] = report["unreadable"]
    assert broken["path"] == str(release.distractors / "broken.jpg")
    assert "1 distractors are left out" in said.err
    assert f"skipped {broken['path']}: {broken['reason']}" in said.err

    assert (report["model_id"], report["protocol"]) == (model, protocol)
    with (folder / "ranks.csv").open() as file:
        assert {int(row["gallery"]) for row in csv.DictReader(file)} == galleries
    assert (folder / "run.json").is_file()
    assert len(list((out / "features" / model).glob("*/style.f32"))) == 1


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
    assert f"--split {nowhere} cannot be read" in fails(Release(nowhere, root, distractors), data)
    assert "no such file or folder" in fails(Release(file, root, nowhere), data)
    assert "whence train" in fails(release, tmp_path / "data")
    assert "unknown" in fails(release, data, "--model", "unknown")
    assert not list(tmp_path.iterdir())
    assert "are not below it" in fails(Release(file, tmp_path, distractors), data)


def test_abc_knows_its_protocols(data: Path, release: Release, tmp_path: Path, capsys) -> None:
    assert release.evaluate(data, "--protocol", "both", "--out", tmp_path / "out") == 2
    assert "one-gallery" in capsys.readouterr().err


def test_abc_needs_images_or_features(data: Path, release: Release, capsys) -> None:
    split = ("--split", release.file)
    for words, message in {
        (): "with --split",
        split: "by --root and --distractors, or use --features",
        (*split, "--root", release.root): "by --root and --distractors",
        (*split, "--features", data, "--root", release.root): "--features replaces the images",
    }.items():
        assert run("evaluate", "abc", *words, "--data", data) == 2
        assert message in " ".join(re.sub(r"[│╭╮╰╯─]", "", capsys.readouterr().err).split())


def test_abc_takes_its_split_by_the_old_name(
    data: Path, release: Release, tmp_path: Path, capsys
) -> None:
    given = ("--root", release.root, "--distractors", release.distractors, "--data", data)
    given = (*given, "--out", tmp_path, "--workers", 0)
    assert run("evaluate", "abc", "--json", release.file, *given) == 0
    said = capsys.readouterr()
    assert "note: here --json names an input, which is called --split now" in said.err
    assert run("evaluate", "abc", "--split", release.file, *given) == 0
    assert capsys.readouterr().out == said.out


# The page -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the release in both layouts, its features, and a data folder.

    Exemplars and generated images are those of the evaluation sets beside the project.
    """
    if not all(path.is_dir() for path in SETS):
        pytest.skip("needs the evaluation sets in ../shared/eval and ../shared/eval2")
    place = tmp_path_factory.mktemp("published")
    dataset, copy = place / "dataset", place / "data" / "abc"
    (place / "data").mkdir()
    (place / "data" / "models").symlink_to(data / "models")
    splits = {
        "artchive": ("gpt", "object"), "bamfg": ("gpt", "object"),
        "observed_imagenet": ("media", "gpt"), "unobserved_imagenet": ("media", "gpt"),
    }  # fmt: skip
    concepts = [concept for folder in SETS for concept in sources(folder)]
    tasks = []
    for number, (split, prompts) in enumerate(splits.items()):
        case = split.split("_")[-1]
        content = []
        for exemplars, made in concepts[3 * number : 3 * number + 3]:
            name = f"{case}_{len(content)}_{number}"
            entry: dict[str, Any] = {"exemplar": [], "synth": {prompt: [] for prompt in prompts}}
            for file in exemplars[: 1 if case == "imagenet" else 3]:
                path = f"exemplar/{case}/images/{name}/{file.name}"
                add(file, dataset / path)
                entry["exemplar"].append(f"dataset/{path}")
            for i, file in enumerate(made[:4]):
                path = f"synth/{case}/{prompts[i % 2]}/{name}/samples/{i:05d}.png"
                add(file, dataset / path)
                entry["synth"][prompts[i % 2]].append(f"dataset/{path}")
                tasks.append({"synth_image_path": path, "test_case": f"test_{split}"})
            category = "thing" if case == "imagenet" else None
            content.append({**entry, "class_id": name, "category": category})
        (dataset / "json").mkdir(exist_ok=True)
        (dataset / "json" / f"test_{split}.json").write_text(json.dumps(content, indent=2))
    others = [
        path for folder in SETS for path in sorted((folder / "distractors").rglob("*.jpg"))[:30]
    ]
    for i, file in enumerate(others):
        add(file, dataset / "laion_subset" / f"{i:06d}.png")
    shutil.copytree(dataset, copy)
    with tarfile.open(dataset / "laion_subset_jpeg.tar", "w") as tar:
        for i, file in enumerate(others):
            tar.add(file, f"laion_subset_jpeg/{i:06d}.jpg")
    (place / "all_tasks.json").write_text(json.dumps(tasks[::3]))
    for method in ("clip", "dino"):
        write_features(place, method)
    return place


def sources(folder: Path) -> Iterator[tuple[list[Path], list[Path]]]:
    """Each concept's exemplars and the images made from it, where there are enough of both."""
    made, exemplars = defaultdict(list), defaultdict(list)
    with (folder / "pairs.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            made[row["concepts"]].append(folder / row["path"])
    with (folder / "exemplars.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            exemplars[row["concept"]].append(folder / row["path"])
    found = [(exemplars[name], own) for name, own in made.items() if len(own) >= 4]
    yield from [pair for pair in found if len(pair[0]) >= 3][:6]


def add(file: Path, path: Path) -> None:
    with Image.open(file) as image:
        small = image.convert("RGB")
        small.thumbnail((96, 96))
    save(small, path)


def write_features(place: Path, method: str) -> None:
    """Write features, drawn at random, in the official form."""
    folder, generator = place / "feats" / method, torch.Generator().manual_seed(len(method))
    folder.mkdir(parents=True)

    def draw(paths: list[str]) -> torch.Tensor:
        return torch.randn(len(paths), 16, generator=generator)

    names = sorted(path.name for path in (place / "dataset" / "laion_subset").iterdir())
    torch.save({"feats": draw(names), "paths": names}, folder / "laion_subset.pth")
    for file in (place / "dataset" / "json").iterdir():
        content = json.loads(file.read_text())
        exemplars = [path for one in content for path in one["exemplar"]]
        synth = {
            prompt: [path for one in content for path in one["synth"][prompt]]
            for prompt in content[0]["synth"]
        }
        saved = {
            "exemplar_paths": exemplars,
            "exemplar_tensors": draw(exemplars),
            "synth_paths": synth,
            "synth_tensors": {prompt: draw(paths) for prompt, paths in synth.items()},
        }
        torch.save(saved, folder / f"{file.stem}.pth")
    maps = {
        name: {"weight": torch.eye(16), "bias": torch.zeros(16)}
        for name in ("real_mapper", "synth_mapper")
    }
    (place / "weights" / "mapper").mkdir(parents=True, exist_ok=True)
    torch.save(maps, place / "weights" / "mapper" / f"{method}_tuned.pth")


@pytest.mark.shared
def test_every_command_of_the_page_works(
    published: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(published)
    tables = {}
    [program] = re.findall(r"^```python\n(.+?)^```$", PAGE, re.M | re.S)
    exec(compile(program, "docs/abc.md", "exec"), {})
    assert len(COMMANDS) >= 8
    for command in COMMANDS:
        assert run("evaluate", "abc", *command.split(), "--workers", 0) == 0, command
        tables[command] = capsys.readouterr().out
    splits = [f"test_{one}" for one in ("artchive", "bamfg", "observed_imagenet")]
    for command, table in tables.items():
        whole = command.split()[1].endswith("json/") or command.split()[1].endswith("/json")
        for split in splits if whole else splits[:1]:
            assert f"\n{split} gpt " in table, command
        assert "60 distractors" in table
    # The identity maps change nothing, and both layouts hold the same images.
    clip, tuned = (
        next(table for command, table in tables.items() if command.endswith(name))
        for name in ("feats/clip", "feats/clip_tuned")
    )
    assert clip.splitlines()[1:14] == tuned.splitlines()[1:14]
    images = [t for c, t in tables.items() if c.endswith("/laion_subset")]
    assert images
    queries = next(table for command, table in tables.items() if "--queries" in command)
    rows = [row.split() for row in queries.splitlines() if row.startswith("test_")]
    assert sum(int(row[2]) for row in rows if row[1].isdigit()) == 16
