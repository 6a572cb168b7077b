"""The AbC harness on a small set of its shape, against a naive ranking in float64."""

import csv
import errno
import json
import math
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
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
from index.evaluation.abc import evaluate_abc
from index.evaluation.abc_images import ImageSource, list_distractors
from index.evaluation.abc_release import read_splits
from index.evaluation.abc_report import AbcReport, read_ranks, score
from index.evaluation.metrics import AbcProtocol
from model.config import Facet
from model.content_bank import ContentBank
from model.errors import ImageTooCostlyError, WhenceError
from model.images import read_image
from model.regular_files import open_file
from model.sources.local import LocalFile
from model.sources.picture import Picture, hash_picture
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

    def images(self) -> list[Picture]:
        return list_distractors([self.distractors])

    def run(
        self,
        out: Path,
        protocol: AbcProtocol = "official",
        progress: Callable[[str, int, int], None] | None = None,
        images: Sequence[Picture] | None = None,
        embedder: FakeEmbedder | None = None,
        **more: Any,
    ) -> AbcReport:
        source = ImageSource(
            self.root, images or self.images(), embedder or SteadyEmbedder(), out, **more
        )
        splits = read_splits([self.file])
        result = evaluate_abc(splits, source, out=out, protocol=protocol, progress=progress)
        [report] = result.reports
        return report


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small set takes several of each."""
    monkeypatch.setattr(abc, "QUERIES", 5)
    monkeypatch.setattr(features, "BATCH", 8)
    monkeypatch.setattr(features.Features.blocks, "__defaults__", (16,))


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
    content[1]["exemplar"].append(content[1]["exemplar"][0])  # listed twice
    content[2]["exemplar"].append(content[1]["exemplar"][1])  # tuned on another's exemplar, too
    for i in range(45):
        save(noise(32, 32, seed=5000 + i), distractors / f"part{i % 2}" / f"{i:03d}.png")
    for i, path in enumerate([content[0]["exemplar"][0], *content[2]["exemplar"][:2]] * 2):
        copy = read_image(root / path).pixels  # equal pixels in another file
        save(copy, distractors / "copies" / f"{i}.png", compress_level=0)
    (distractors / "broken.jpg").write_bytes(b"not an image")
    file = tmp_path / "test_small.json"
    file.write_text(json.dumps(content))
    return AbcSet(file, root, distractors)


def save(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


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
            true = entry["exemplar"]  # as often as listed
            gallery = sorted(every) if protocol == "one-gallery" else true
            for prompt, paths in entry["synth"].items():
                for path in paths:
                    own = [(name in true, vectors[name]) for name in gallery]
                    matches = self.rank(embed(root / path), own)
                    for group in (prompt, "all"):
                        self.add(group, matches, sum(match for match, _ in own))

    def rank(
        self, query: dict[Facet, list[float]], exemplars: list[tuple[bool, Any]]
    ) -> list[bool]:
        """Whether the first, second, ... of the gallery is a true exemplar."""
        gallery = [*self.distractors, *(vector for _, vector in exemplars)]
        matches = [False] * len(self.distractors) + [match for match, _ in exemplars]
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
    report = abc_set.run(tmp_path / "out", protocol)
    naive = Naive(abc_set, protocol)
    for group, scores in {"all": report.overall, **report.by_prompt}.items():
        expected = naive.metrics(group)
        measured = {name: getattr(scores, name) for name in expected}
        assert measured == pytest.approx(expected, abs=1e-9)
    # The set is neither trivial nor free of ties: broken the other way they would show.
    assert 0.1 < naive.metrics("all")["map"] < 0.9
    assert Naive(abc_set, protocol, optimistic=True).metrics("all") != naive.metrics("all")


def test_the_report_says_what_was_measured(abc_set: AbcSet, tmp_path: Path) -> None:
    report = abc_set.run(tmp_path / "out")
    assert (report.models, report.exemplars, report.distractors) == (3, 8, 51)
    [broken] = report.unreadable
    assert broken["path"] == str(abc_set.distractors / "broken.jpg")
    assert "not an image" in broken["reason"]
    assert (report.protocol, report.model_id) == ("official", SteadyEmbedder.model_id)
    assert {name: scores.queries for name, scores in report.by_prompt.items()} == {
        "gpt": 12,
        "media": 9,
    }
    on_disk = json.loads((tmp_path / "out" / report.name / "report.json").read_text())
    assert on_disk == json.loads(json.dumps(report.as_dict()))


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
        entry = abc_set.content[int(row["model"])]
        listed = entry["exemplar"]
        assert len(set(ranks)) == len(listed if protocol == "official" else set(listed))
        assert (row["class_id"], row["category"]) == (entry["class_id"], "")
        assert 1 <= ranks[0] <= ranks[-1] <= int(row["gallery"])
        precisions.append(sum((i + 1) / rank for i, rank in enumerate(ranks)) / len(ranks))
    assert report.overall.map == pytest.approx(sum(precisions) / len(precisions), abs=1e-12)
    galleries = {59} if protocol == "one-gallery" else {52, 55, 56}
    assert {int(row["gallery"]) for row in rows} == galleries
    assert score(read_ranks(path)) == report.overall


def test_features_are_kept_as_plain_arrays(abc_set: AbcSet, tmp_path: Path) -> None:
    abc_set.run(tmp_path / "out")
    [index] = (tmp_path / "out" / "features" / SteadyEmbedder.model_id).glob("*/index.sqlite")
    files = [*abc_set.distractors.rglob("*.png"), *abc_set.root.rglob("*.png")]
    with ContentBank(index.parent) as bank:
        paths = {hash_picture(LocalFile(path)): path for path in files}
        rows = {sha256: row for sha256, row in bank.rows(paths).items() if isinstance(row, int)}
        assert len(rows) > 50
        for facet in ("subject", "style"):
            matrix = bank.arrays()[facet]
            assert matrix.dtype == np.float32
            for sha256, row in rows.items():
                assert matrix[row].tolist() == embed(paths[sha256])[facet]


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
        if path.is_file() and path.name != ".lock" and ".sqlite" not in path.name
    }


STAGES = ["exemplars", "queries", "distractors", "ranking test_small"]


def test_an_interrupted_run_ends_with_the_same_files(abc_set: AbcSet, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    abc_set.run(tmp_path / "whole", progress=lambda *step: steps.append(step))
    assert list(dict.fromkeys(stage for stage, *_ in steps)) == STAGES
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


def test_nothing_is_embedded_twice_when_images_move_or_some_are_added(
    abc_set: AbcSet, tmp_path: Path
) -> None:
    first = abc_set.run(tmp_path / "out")
    ranks = (tmp_path / "out" / first.name / "ranks.csv").read_bytes()
    shutil.copytree(abc_set.distractors, tmp_path / "moved", copy_function=shutil.copyfile)
    shutil.rmtree(abc_set.distractors)
    with tarfile.open(tmp_path / "moved.tar", "w") as shard:
        shard.add(tmp_path / "moved", "any")
    steps: list[tuple[str, int, int]] = []

    def run(source: Path) -> AbcReport:
        steps.clear()
        images = list_distractors([source])
        again = abc_set.run(
            tmp_path / "out", images=images, progress=lambda *step: steps.append(step)
        )
        steps[:] = [step for step in steps if not step[0].startswith("ranking")]
        return again

    for source in (tmp_path / "moved", tmp_path / "moved.tar"):
        assert run(source).overall == first.overall
        assert steps == []
    assert (tmp_path / "out" / first.name / "ranks.csv").read_bytes() == ranks
    noise(32, 32, seed=10_001).save(tmp_path / "moved" / "0-one-more.png")
    assert run(tmp_path / "moved").distractors == first.distractors + 1
    count = len(list_distractors([tmp_path / "moved"]))
    assert steps == [("distractors", count, count)]


def test_images_are_embedded_once_for_all_runs(abc_set: AbcSet, tmp_path: Path) -> None:
    abc_set.run(tmp_path)
    stages: set[str] = set()
    content = abc_set.content[1:]
    abc_set.file.write_text(json.dumps(content))
    abc_set.run(tmp_path, "one-gallery", progress=lambda stage, *_: stages.add(stage))
    assert stages == {"ranking test_small"}


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
        (lambda c: [{**c[0], "exemplar": ["/etc/passwd"]}], "does not lie below a root"),
        (lambda c: [{**c[0], "exemplar": ["../x.png"]}], "does not lie below a root"),
    ],
)
def test_a_malformed_release_is_named(
    abc_set: AbcSet, change: Callable[[Content], Any], message: str
) -> None:
    abc_set.file.write_text(json.dumps(change(abc_set.content)))
    with pytest.raises(EvaluationError, match=message):
        read_splits([abc_set.file])


@pytest.mark.parametrize("data", [b"", b"[{", b"\xff\xfe\x00", b"[" * 200_000])
def test_a_file_that_is_not_json_is_named(abc_set: AbcSet, data: bytes) -> None:
    abc_set.file.write_bytes(data)
    with pytest.raises(EvaluationError, match=r"test_small\.json is not JSON"):
        read_splits([abc_set.file])


def test_a_missing_file_is_named(abc_set: AbcSet) -> None:
    with pytest.raises(EvaluationError, match=r"nowhere\.json cannot be read: No such file"):
        read_splits([abc_set.root / "nowhere.json"])


@pytest.mark.parametrize("stage", ["exemplars", "queries"])
def test_an_image_of_the_release_must_be_readable(
    abc_set: AbcSet, tmp_path: Path, stage: str
) -> None:
    entry = abc_set.content[0]
    name = entry["exemplar"][0] if stage == "exemplars" else entry["synth"]["gpt"][2]
    (abc_set.root / name).write_bytes(b"no image either")
    stages: list[str] = []
    with pytest.raises(EvaluationError) as raised:
        abc_set.run(tmp_path / "out", progress=lambda own, *_: stages.append(own))
    first, line = str(raised.value).splitlines()
    assert first == f"1 of the {stage} cannot be used:"
    assert line.startswith(f"  {abc_set.root / name}: these bytes are not an image")
    assert "distractors" not in stages


def test_a_file_that_can_be_read_again_is_used(
    abc_set: AbcSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = abc_set.root / abc_set.content[0]["exemplar"][0]

    def open_other(path: Path) -> Any:
        if path == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_file(path)

    with monkeypatch.context() as patch:
        patch.setattr("model.sources.local.open_file", open_other)
        with pytest.raises(EvaluationError, match=f"{locked}: .* not be read: Permission denied"):
            abc_set.run(tmp_path / "out")
    again, fresh = abc_set.run(tmp_path / "out"), abc_set.run(tmp_path / "fresh")
    assert again == fresh


def test_every_missing_file_is_listed(abc_set: AbcSet, tmp_path: Path) -> None:
    gone = [*abc_set.content[2]["exemplar"][:4], *abc_set.content[0]["synth"]["gpt"]]
    gone += abc_set.content[1]["synth"]["gpt"]
    for path in gone:
        (abc_set.root / path).unlink()
    with pytest.raises(EvaluationError) as raised:
        abc_set.run(tmp_path / "out")
    first, *lines, last = str(raised.value).splitlines()
    assert first.startswith("12 of the exemplars and queries cannot be used; ")
    listed = tmp_path / "out" / "unusable.txt"
    assert str(listed) in first
    assert (len(lines), last) == (10, "  ...")
    assert listed.read_text().splitlines() == [
        f"{abc_set.root / path}: there is no such file" for path in gone
    ]


def test_distractors_come_from_folders_manifests_and_files(abc_set: AbcSet) -> None:
    images = sorted(abc_set.distractors.glob("part0/*.png"))
    manifest = abc_set.distractors / "some.csv"
    names = [path.relative_to(abc_set.distractors) for path in images[:2]]
    manifest.write_text("path,license\n" + "".join(f"{name},CC0\n" for name in names))
    found = list_distractors([manifest, images[1], images[2]])
    assert [one.address for one in found] == list(map(str, images[:3]))
    found = list_distractors([abc_set.distractors / "part0"])
    assert [one.address for one in found] == list(map(str, images))


def test_a_folder_under_two_names_is_listed_once(abc_set: AbcSet, tmp_path: Path) -> None:
    link, tar = tmp_path / "link", abc_set.distractors / "some.tar"
    with tarfile.open(tar, "w") as file:
        file.add(abc_set.distractors / "part0", "part0")
    link.symlink_to(abc_set.distractors)
    once = list_distractors([abc_set.distractors, tar])
    again = list_distractors([abc_set.distractors, tar, link, link / tar.name])
    assert [one.address for one in again] == [one.address for one in once]


def test_wrong_distractors_are_named(abc_set: AbcSet, tmp_path: Path) -> None:
    empty, manifest, text = tmp_path / "empty", tmp_path / "list.csv", tmp_path / "list.txt"
    empty.mkdir()
    manifest.write_text("file\na.png\n")
    text.write_bytes(b"\x00")
    feats = tmp_path / "feats" / "laion_subset.pth"
    feats.parent.mkdir()
    torch.save({"feats": torch.zeros(1, 2)}, feats)
    packed = tmp_path / "laion_subset.7z.001"
    packed.write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(100))
    for source, message in {
        empty: r"no images were found below .*empty",
        tmp_path / "gone": "no such file or folder",
        manifest: "lacks the column path",
        text: r"list\.txt: not an image, and no manifest",
        feats: "holds features, not images; name their folder with --features",
        feats.parent: "no images were found .* 1 files .* read features with --features",
        packed: "7z files are not read; unpack it",
    }.items():
        with pytest.raises(WhenceError, match=message):
            list_distractors([source])


@pytest.mark.parametrize("how", ["itself", "a link to it", "links to its files", "copies", "a tar"])
def test_images_of_the_release_are_no_distractors(
    abc_set: AbcSet, tmp_path: Path, how: str
) -> None:
    root, place = abc_set.root, tmp_path / "elsewhere"
    files = sorted(path for path in root.rglob("*.png"))
    if how == "a link to it":
        place.symlink_to(root)
    elif how == "a tar":
        place = tmp_path / "elsewhere.tar"
        with tarfile.open(place, "w") as tar:
            tar.add(root, "images")
    elif how in {"links to its files", "copies"}:
        place.mkdir()
        for number, path in enumerate(files):
            if how == "copies":
                (place / f"{number}.png").write_bytes(path.read_bytes())
            else:
                (place / f"{number}.png").symlink_to(path)
    given = [abc_set.distractors, root if how == "itself" else place]
    with pytest.raises(EvaluationError) as raised:
        abc_set.run(tmp_path / "out", images=list_distractors(given))
    first, *lines = str(raised.value).splitlines()
    assert first.startswith("29 images are both distractors and of the release;")
    assert len(lines) == 11
    assert "the same image as" in lines[0]
    assert len((tmp_path / "out" / "unusable.txt").read_text().splitlines()) == 29


def test_a_distractor_that_vanished_is_named(abc_set: AbcSet, tmp_path: Path) -> None:
    images = abc_set.images()
    Path(images[3].address).unlink()
    with pytest.raises(EvaluationError, match=f"{images[3].address} cannot be read"):
        abc_set.run(tmp_path / "out", images=images)


def test_only_unreadable_distractors_are_named(abc_set: AbcSet, tmp_path: Path) -> None:
    images = list_distractors([abc_set.distractors / "broken.jpg"])
    with pytest.raises(EvaluationError, match=r"none of the 1 distractors could be read, .*broken"):
        abc_set.run(tmp_path / "out", images=images)


def test_a_distractor_whose_decoding_failed_is_tried_by_the_next_run(
    abc_set: AbcSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = features.decode_picture

    def fail(picture: Picture, *given: Any) -> Any:
        if picture == images[0]:
            raise ImageTooCostlyError("it took too long")
        return decode(picture, *given)

    images = [one for one in abc_set.images() if one.name.endswith(".png")][:4]
    monkeypatch.setattr(features, "decode_picture", fail)
    found = features.embed_images(tmp_path, images, SteadyEmbedder())
    assert {one.reason for one in found.unreadable} == {"it took too long"}
    monkeypatch.setattr(features, "decode_picture", decode)
    assert features.embed_images(tmp_path, images, SteadyEmbedder()).unreadable == []


def test_a_limit_draws_the_same_distractors_each_time(abc_set: AbcSet) -> None:
    names = [one.address for one in abc_set.images()]
    drawn = [one.address for one in list_distractors([abc_set.distractors], 20)]
    assert len(drawn) == 20
    assert drawn == sorted(drawn)
    assert set(drawn) < set(names)
    assert drawn == [one.address for one in list_distractors([abc_set.distractors], 20)]
    assert [one.address for one in list_distractors([abc_set.distractors], 1000)] == names


def test_an_embedding_that_is_no_number_is_named(abc_set: AbcSet, tmp_path: Path) -> None:
    class BrokenEmbedder(SteadyEmbedder):
        def embed_pixels(self, pixels: Sequence[torch.Tensor]) -> dict[Facet, NDArray[np.float32]]:
            made = super().embed_pixels(pixels)
            made["style"][0] = np.nan
            return made

    with pytest.raises(EvaluationError, match="style embeddings are not unit vectors"):
        abc_set.run(tmp_path / "out", embedder=BrokenEmbedder())
