"""The AbC harness on a small set of its shape, against a naive ranking in float64."""

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from index.answering.ranking import combine
from index.errors import EvaluationError
from index.evaluation import abc, features
from index.evaluation.abc import AbcProtocol, AbcReport, evaluate_abc, read_ranks, score
from index.evaluation.abc_release import list_distractors, read_release
from model.config import Facet
from model.images import read_image
from tests.fakes import FakeEmbedder
from tests.pictures import noise

Content = list[dict[str, Any]]


class SteadyEmbedder(FakeEmbedder):
    """The same picture, the same vector to the last bit, whatever else is in its batch."""

    def embed_pixels(self, pixels: Sequence[torch.Tensor]) -> dict[Facet, NDArray[np.float32]]:
        parts = [super(SteadyEmbedder, self).embed_pixels([one]) for one in pixels]
        return {facet: np.concatenate([part[facet] for part in parts]) for facet in parts[0]}


@dataclass(frozen=True)
class AbcSet:
    """A release and distractors on disk."""

    file: Path
    root: Path
    distractors: Path

    @property
    def content(self) -> Content:
        content: Content = json.loads(self.file.read_text())
        return content

    def images(self) -> list[Path]:
        return list_distractors([self.distractors], read_release(self.file, self.root))

    def run(self, out: Path, protocol: AbcProtocol = "official", **more: Any) -> AbcReport:
        release = read_release(self.file, self.root)
        return evaluate_abc(
            release, self.images(), SteadyEmbedder(), out=out, protocol=protocol, **more
        )


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small set takes several of each."""
    monkeypatch.setattr(abc, "QUERIES", 5)
    monkeypatch.setattr(features, "BATCH", 8)
    monkeypatch.setattr(features.ImageFeatures.blocks, "__defaults__", (16,))


@pytest.fixture
def abc_set(tmp_path: Path) -> AbcSet:
    """Three models of 1, 3 and 4 exemplars; some distractors are copies of exemplars."""
    root, distractors = tmp_path / "release", tmp_path / "laion"
    content: Content = []
    for number, count in enumerate([1, 3, 4]):
        style = noise(32, 32, seed=100 + number)
        own = [Image.blend(style, noise(32, 32, seed=number * 10 + i), 0.6) for i in range(count)]
        exemplars = [f"dataset/exemplar/set{number}/{i}.png" for i in range(count)]
        for path, image in zip(exemplars, own, strict=True):
            save(image, root / path)
        synth: dict[str, list[str]] = {}
        for prompt, queries in {"gpt": 4, "media": 3}.items():
            for i in range(queries):
                seed = 1000 + number * 100 + i + 50 * (prompt == "media")
                image = Image.blend(own[i % count], noise(32, 32, seed=seed), 0.55)
                path = f"dataset/synth/{prompt}/set{number}/{i:05d}.png"
                save(image, root / path)
                synth.setdefault(prompt, []).append(path)
        content.append({"exemplar": exemplars, "synth": synth, "class_id": f"set{number}"})
    content[1]["exemplar"].append(content[1]["exemplar"][0])  # listed twice: counts once
    content[2]["exemplar"].append(content[1]["exemplar"][1])  # tuned on another's exemplar, too
    for i in range(45):
        save(noise(32, 32, seed=5000 + i), distractors / f"part{i % 2}" / f"{i:03d}.png")
    for i, path in enumerate([content[0]["exemplar"][0], *content[2]["exemplar"][:2]] * 2):
        save(read_image(root / path).pixels, distractors / "copies" / f"{i}.png")
    (distractors / "broken.jpg").write_bytes(b"not an image")
    file = tmp_path / "test_small.json"
    file.write_text(json.dumps(content))
    return AbcSet(file, root, distractors)


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


# A ranking written out in full --------------------------------------------------------------------


def embed(path: Path) -> dict[Facet, list[float]]:
    vectors = SteadyEmbedder().embed([read_image(path).pixels])
    return {facet: matrix[0].tolist() for facet, matrix in vectors.items()}


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


class Naive:
    """Concatenate, score and sort, one query at a time."""

    def __init__(self, abc_set: AbcSet, protocol: AbcProtocol, *, optimistic: bool = False) -> None:
        self.optimistic = optimistic
        root, content = abc_set.root, abc_set.content
        self.distractors = [
            embed(path) for path in sorted(abc_set.distractors.rglob("*.png"))
        ]  # fewer than a cohort, so they all are one
        every = {path for entry in content for path in entry["exemplar"]}
        vectors = {path: embed(root / path) for path in every}
        self.recalls: dict[str, dict[int, list[float]]] = {}
        self.precisions: dict[str, list[float]] = {}
        for entry in content:
            true = set(entry["exemplar"])
            gallery = every if protocol == "one-gallery" else true
            for prompt, paths in entry["synth"].items():
                for path in paths:
                    matches = self.rank(
                        embed(root / path), {name: vectors[name] for name in gallery}, true
                    )
                    for group in (prompt, "all"):
                        self.add(group, matches, len(true))

    def rank(
        self, query: dict[Facet, list[float]], exemplars: Mapping[str, Any], true: set[str]
    ) -> list[bool]:
        """Whether the first, second, ... of the gallery is a true exemplar."""
        gallery = [*self.distractors, *exemplars.values()]
        matches = [False] * len(self.distractors) + [name in true for name in exemplars]
        levels: dict[Facet, Any] = {}
        for facet, vector in query.items():
            against = [dot(vector, other[facet]) for other in self.distractors]
            mean = math.fsum(against) / len(against)
            deviation = math.sqrt(math.fsum((a - mean) ** 2 for a in against) / len(against))
            cosines = np.array([dot(vector, image[facet]) for image in gallery])
            levels[facet] = (cosines - mean) / deviation
        totals = combine(levels).tolist()
        order = sorted(
            range(len(gallery)), key=lambda row: (-totals[row], matches[row] != self.optimistic)
        )
        return [matches[row] for row in order]

    def add(self, group: str, matches: list[bool], count: int) -> None:
        for k in (5, 10, 100):
            found = sum(matches[:k]) / count
            self.recalls.setdefault(group, {}).setdefault(k, []).append(found)
        places = [place for place, match in enumerate(matches, start=1) if match]
        precision = sum(sum(matches[:place]) / place for place in places) / count
        self.precisions.setdefault(group, []).append(precision)

    def metrics(self, group: str) -> dict[str, float]:
        recalls = {
            f"recall_at_{k}": math.fsum(values) / len(values)
            for k, values in self.recalls[group].items()
        }
        precisions = self.precisions[group]
        return {
            "queries": len(precisions),
            **recalls,
            "map": math.fsum(precisions) / len(precisions),
        }


@pytest.mark.parametrize("protocol", ["official", "one-gallery"])
def test_metrics_are_those_of_a_naive_ranking(
    abc_set: AbcSet, tmp_path: Path, protocol: AbcProtocol
) -> None:
    report = abc_set.run(tmp_path / "out", protocol).as_dict()
    naive = Naive(abc_set, protocol)
    assert report["overall"] == pytest.approx(naive.metrics("all"), abs=1e-9)
    assert report["by_prompt"] == {
        prompt: pytest.approx(naive.metrics(prompt), abs=1e-9) for prompt in ("gpt", "media")
    }
    # The set is neither trivial nor free of ties: broken the other way they would show.
    assert 0.1 < naive.metrics("all")["map"] < 0.9
    assert Naive(abc_set, protocol, optimistic=True).metrics("all") != naive.metrics("all")


def test_the_report_says_what_was_measured(abc_set: AbcSet, tmp_path: Path) -> None:
    report = abc_set.run(tmp_path / "out")
    assert (report.models, report.exemplars, report.distractors) == (3, 8, 51)
    assert report.unreadable == [str(abc_set.distractors / "broken.jpg")]
    assert (report.protocol, report.model_id) == ("official", SteadyEmbedder.model_id)
    assert {name: scores.queries for name, scores in report.by_prompt.items()} == {
        "gpt": 12,
        "media": 9,
    }
    on_disk = json.loads((tmp_path / "out" / report.name / "report.json").read_text())
    assert on_disk == report.as_dict()


@pytest.mark.parametrize("protocol", ["official", "one-gallery"])
def test_anyone_can_recompute_the_metrics(
    abc_set: AbcSet, tmp_path: Path, protocol: AbcProtocol
) -> None:
    report = abc_set.run(tmp_path / "out", protocol)
    path = tmp_path / "out" / report.name / "ranks.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    precisions = []
    for row in rows:
        ranks = sorted(map(int, row["ranks"].split()))
        assert len(set(ranks)) == len(set(abc_set.content[int(row["model"])]["exemplar"]))
        assert 1 <= ranks[0] <= ranks[-1] <= int(row["gallery"])
        precisions.append(sum((i + 1) / rank for i, rank in enumerate(ranks)) / len(ranks))
    assert report.overall.map == pytest.approx(sum(precisions) / len(precisions), abs=1e-12)
    galleries = {59} if protocol == "one-gallery" else {52, 54, 56}
    assert {int(row["gallery"]) for row in rows} == galleries
    assert score(read_ranks(path)) == report.overall


def test_features_are_kept_as_plain_arrays(abc_set: AbcSet, tmp_path: Path) -> None:
    abc_set.run(tmp_path / "out")
    folders = list((tmp_path / "out" / "features" / SteadyEmbedder.model_id).iterdir())
    assert len(folders) == 3
    for folder in folders:
        images = json.loads((folder / "images.json").read_text())
        state = np.load(folder / "state.npy")
        for facet in ("subject", "style"):
            matrix = np.load(folder / f"{facet}.npy")
            assert matrix.dtype == np.float32
            for row, path in enumerate(images):
                if state[row] == 1:
                    assert matrix[row].tolist() == embed(Path(path))[facet]


def test_worker_processes_make_the_same_files(abc_set: AbcSet, tmp_path: Path) -> None:
    abc_set.run(tmp_path / "one")
    abc_set.run(tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


# Resuming -----------------------------------------------------------------------------------------


class KilledError(Exception):
    pass


def killer(after: int) -> Callable[[str, int, int], None]:
    """A progress callback that ends the run at its ``after``-th call."""
    calls = iter(range(after))

    def progress(stage: str, done: int, total: int) -> None:
        if next(calls, None) is None:
            raise KilledError

    return progress


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_an_interrupted_run_ends_with_the_same_files(abc_set: AbcSet, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    abc_set.run(tmp_path / "whole", progress=lambda *step: steps.append(step))
    assert {stage for stage, *_ in steps} == {"queries", "exemplars", "distractors", "ranking"}
    assert all(done <= total for _, done, total in steps)
    whole = contents(tmp_path / "whole")
    killed = 0
    for _ in range(len(steps)):
        try:
            abc_set.run(tmp_path / "again", progress=killer(6))
            break
        except KilledError:
            killed += 1
    assert killed > 5
    assert contents(tmp_path / "again") == whole


@pytest.mark.parametrize("cut", [1, 17, 300, 10_000])
def test_ranks_cut_off_in_the_middle_are_completed(
    abc_set: AbcSet, tmp_path: Path, cut: int
) -> None:
    report = abc_set.run(tmp_path)
    path = tmp_path / report.name / "ranks.csv"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert abc_set.run(tmp_path) == report
    assert path.read_bytes() == whole


def test_a_finished_run_embeds_and_ranks_nothing_again(abc_set: AbcSet, tmp_path: Path) -> None:
    first = abc_set.run(tmp_path)
    assert abc_set.run(tmp_path, progress=killer(0)) == first


def test_distractors_are_embedded_once_for_all_runs(abc_set: AbcSet, tmp_path: Path) -> None:
    abc_set.run(tmp_path)
    stages: set[str] = set()
    content = abc_set.content[1:]
    abc_set.file.write_text(json.dumps(content))
    abc_set.run(tmp_path, "one-gallery", progress=lambda stage, *_: stages.add(stage))
    assert stages == {"queries", "exemplars", "ranking"}


def test_ranks_of_another_release_are_not_taken_for_this_ones(
    abc_set: AbcSet, tmp_path: Path
) -> None:
    report = abc_set.run(tmp_path)
    path = tmp_path / report.name / "ranks.csv"
    header, first, second, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, second, first, *rest]))
    with pytest.raises(EvaluationError, match="does not list the queries"):
        abc_set.run(tmp_path)
    path.write_text("".join([header, first, second.replace("set0", "set0,"), *rest]))
    with pytest.raises(EvaluationError, match="damaged"):
        abc_set.run(tmp_path)
    path.write_text("something else\n")
    with pytest.raises(EvaluationError, match="not a file of ranks"):
        abc_set.run(tmp_path)


def test_two_runs_do_not_write_to_one_folder(abc_set: AbcSet, tmp_path: Path) -> None:
    with (
        filelock.FileLock(tmp_path / ".lock"),
        pytest.raises(EvaluationError, match="another evaluation"),
    ):
        abc_set.run(tmp_path)


# What is wrong with the input ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"models": c}, "must be a list of models"),
        (lambda c: [], "names no synthesized image"),
        (lambda c: [*c, "text"], "entry 3: "),
        (lambda c: [c[0], {"synth": c[1]["synth"]}], "entry 1, exemplar: field required"),
        (lambda c: [c[0], {"exemplar": c[1]["exemplar"]}], "entry 1, synth: field required"),
        (lambda c: [{**c[0], "exemplar": []}], "entry 0, exemplar: list should have at least 1"),
        (lambda c: [{**c[0], "exemplar": "a.png"}], "entry 0, exemplar: .*valid list"),
        (lambda c: [{**c[0], "exemplar": [7]}], "entry 0, exemplar.0: .*valid string"),
        (lambda c: [{**c[0], "exemplar": [""]}], "entry 0, exemplar.0: "),
        (lambda c: [{**c[0], "synth": []}], "entry 0, synth: .*valid dict"),
        (lambda c: [{**c[0], "synth": {"gpt": None}}], "entry 0, synth.gpt: .*valid list"),
        (lambda c: [{**c[0], "synth": {"gpt": []}}], "names no synthesized image"),
        (
            lambda c: [c[0], {**c[1], "exemplar": ["gone.png"]}],
            "entry 1, exemplar: 1 of 1 files are missing, the first .*gone.png; --root",
        ),
        (
            lambda c: [{**c[0], "synth": {"gpt": ["dataset", *c[0]["synth"]["gpt"]]}}],
            "entry 0, synth.gpt: 1 of 5 files are missing",
        ),
        (lambda c: [{**c[0], "exemplar": ["/etc/passwd"]}], "does not lie below the root"),
        (lambda c: [{**c[0], "exemplar": ["../x.png"]}], "does not lie below the root"),
    ],
)
def test_a_malformed_release_is_named(
    abc_set: AbcSet, change: Callable[[Content], Any], message: str
) -> None:
    abc_set.file.write_text(json.dumps(change(abc_set.content)))
    with pytest.raises(EvaluationError, match=message):
        read_release(abc_set.file, abc_set.root)


@pytest.mark.parametrize("data", [b"", b"[{", b"\xff\xfe\x00"])
def test_a_file_that_is_not_json_is_named(abc_set: AbcSet, data: bytes) -> None:
    abc_set.file.write_bytes(data)
    with pytest.raises(EvaluationError, match=r"test_small\.json is not JSON"):
        read_release(abc_set.file, abc_set.root)


def test_a_missing_file_is_named(abc_set: AbcSet) -> None:
    with pytest.raises(EvaluationError, match=r"nowhere\.json cannot be read: No such file"):
        read_release(abc_set.root / "nowhere.json", abc_set.root)


@pytest.mark.parametrize("stage", ["exemplars", "queries"])
def test_an_image_of_the_release_must_be_readable(
    abc_set: AbcSet, tmp_path: Path, stage: str
) -> None:
    entry = abc_set.content[0]
    name = entry["exemplar"][0] if stage == "exemplars" else entry["synth"]["gpt"][2]
    (abc_set.root / name).write_bytes(b"not an image")
    with pytest.raises(EvaluationError, match=f"1 of the {stage} of .*{Path(name).name}"):
        abc_set.run(tmp_path / "out")


def test_distractors_come_from_folders_manifests_and_files(abc_set: AbcSet) -> None:
    release = read_release(abc_set.file, abc_set.root)
    images = sorted(abc_set.distractors.glob("part0/*.png"))
    manifest = abc_set.distractors / "some.csv"
    names = [path.relative_to(abc_set.distractors) for path in images[:2]]
    manifest.write_text("path,license\n" + "".join(f"{name},CC0\n" for name in names))
    found = list_distractors([manifest, images[1], images[2]], release)
    assert found == images[:3]
    assert list_distractors([abc_set.distractors / "part0"], release) == images


def test_wrong_distractors_are_named(abc_set: AbcSet, tmp_path: Path) -> None:
    release = read_release(abc_set.file, abc_set.root)
    empty, manifest, text = tmp_path / "empty", tmp_path / "list.csv", tmp_path / "list.txt"
    empty.mkdir()
    manifest.write_text("file\na.png\n")
    text.write_bytes(b"\x00")
    with pytest.raises(EvaluationError, match=r"no distractor was found in .*empty"):
        list_distractors([empty], release)
    with pytest.raises(EvaluationError, match="no such file or folder"):
        list_distractors([tmp_path / "gone"], release)
    with pytest.raises(EvaluationError, match="lacks the column path"):
        list_distractors([manifest], release)
    with pytest.raises(EvaluationError, match=r"list\.txt: not an image, and no manifest"):
        list_distractors([text], release)
    with pytest.raises(EvaluationError, match="29 images are both distractors and of the release"):
        list_distractors([abc_set.distractors, abc_set.root], release)


def test_a_distractor_that_vanished_is_named(abc_set: AbcSet, tmp_path: Path) -> None:
    images = abc_set.images()
    images[3].unlink()
    with pytest.raises(EvaluationError, match=f"{images[3].name} cannot be read"):
        evaluate_abc(
            read_release(abc_set.file, abc_set.root), images, SteadyEmbedder(), out=tmp_path / "out"
        )


def test_only_unreadable_distractors_are_named(abc_set: AbcSet, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="none of the 1 images could be read"):
        evaluate_abc(
            read_release(abc_set.file, abc_set.root),
            [abc_set.distractors / "broken.jpg"],
            SteadyEmbedder(),
            out=tmp_path / "out",
        )


def test_an_embedding_that_is_no_number_is_named(abc_set: AbcSet, tmp_path: Path) -> None:
    class BrokenEmbedder(SteadyEmbedder):
        def embed_pixels(self, pixels: Sequence[torch.Tensor]) -> dict[Facet, NDArray[np.float32]]:
            made = super().embed_pixels(pixels)
            made["style"][0] = np.nan
            return made

    with pytest.raises(EvaluationError, match="style embeddings are not unit vectors"):
        evaluate_abc(
            read_release(abc_set.file, abc_set.root),
            abc_set.images(),
            BrokenEmbedder(),
            out=tmp_path / "out",
        )
