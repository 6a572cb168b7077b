"""Metrics of random feature files, against the protocol's definition written out in float64.

The reference shares no code with the evaluation: for each query it joins distractors and the
model's exemplars, sorts by cosine (wrong images first among equal ones), and takes the mean of the
precision at each exemplar, and the share of exemplars among the first 5, 10 and 100.
"""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from index.errors import EvaluationError
from index.evaluation import abc, abc_features
from index.evaluation.abc import AbcResult, evaluate_abc
from index.evaluation.abc_features import FeatureSource
from index.evaluation.abc_release import read_splits
from index.evaluation.metrics import AbcProtocol

Vectors = NDArray[np.float32]
PROMPTS = ("gpt", "object")


class FeatureSet:
    """A split and its features, with ties and duplicates; files as the official code writes them.

    Args:
        folder: of the files.
        seed: of all that is drawn.
        distractors: number of distractors.
        dimension: of the vectors.
    """

    def __init__(self, folder: Path, seed: int, distractors: int = 60, dimension: int = 6) -> None:
        self.folder = folder
        draw = np.random.default_rng(seed)
        models = int(draw.integers(1, 5))
        self.exemplars: list[Vectors] = []
        self.queries: list[dict[str, Vectors]] = []
        for _ in range(models):
            own = draw.standard_normal((int(draw.integers(1, 6)), dimension))
            own[draw.random(len(own)) < 0.3] = own[0]  # equal exemplars
            self.exemplars.append(own.astype(np.float32))
            near = own.mean(axis=0)
            self.queries.append(
                {
                    prompt: (
                        near + draw.standard_normal((int(draw.integers(1, 4)), dimension))
                    ).astype(np.float32)
                    for prompt in PROMPTS
                }
            )
        self.distractors = draw.standard_normal((distractors, dimension)).astype(np.float32)
        every = np.concatenate(self.exemplars)
        for row in np.flatnonzero(draw.random(distractors) < 0.3):
            # The same direction as an exemplar; a power of two keeps every digit.
            self.distractors[row] = every[draw.integers(len(every))] * np.float32(2) ** int(
                draw.integers(-3, 4)
            )
        self.content = [
            {
                "exemplar": [f"dataset/exemplar/x/{model}/{i}.jpg" for i in range(len(own))],
                "synth": {
                    prompt: [f"dataset/synth/x/{prompt}/{model}/{i}.png" for i in range(len(asked))]
                    for prompt, asked in self.queries[model].items()
                },
                "class_id": f"class {model}",
                "category": None,
            }
            for model, own in enumerate(self.exemplars)
        ]
        self.file = folder / "test_x.json"
        self.file.write_text(json.dumps(self.content))
        ends = np.cumsum([len(own) for own in self.exemplars]).tolist()
        self.saved: dict[str, Any] = {
            "exemplar_paths": [path for one in self.content for path in one["exemplar"]],
            "exemplar_chunks": list(zip([0, *ends[:-1]], ends, strict=True)),
            "exemplar_tensors": torch.from_numpy(every),
            "synth_paths": {
                prompt: [path for one in self.content for path in one["synth"][prompt]]
                for prompt in PROMPTS
            },
            "synth_ids": {
                prompt: [m for m, one in enumerate(self.queries) for _ in one[prompt]]
                for prompt in PROMPTS
            },
            "synth_tensors": {
                prompt: torch.from_numpy(np.concatenate([one[prompt] for one in self.queries]))
                for prompt in PROMPTS
            },
        }
        self.laion: dict[str, Any] = {
            "feats": torch.from_numpy(self.distractors),
            "paths": [f"{i:06d}.png" for i in range(distractors)],
        }

    def save(self) -> None:
        feats = self.folder / "clip"
        feats.mkdir(exist_ok=True)
        torch.save(self.saved, feats / "test_x.pth")
        torch.save(self.laion, feats / "laion_subset.pth")

    def run(self, protocol: AbcProtocol = "official", limit: int | None = None) -> AbcResult:
        source = FeatureSource(self.folder / "clip", limit)
        splits = read_splits([self.file])
        return evaluate_abc(splits, source, out=self.folder / "out", protocol=protocol)


def cosines(query: Vectors, gallery: Vectors) -> NDArray[np.float64]:
    q, g = query.astype(np.float64), gallery.astype(np.float64)
    # Summed row by row, so that equal rows have equal sums.
    return np.array([(q * row).sum() / np.sqrt((row * row).sum()) for row in g])


def reference(
    query: Vectors, others: Vectors, true: Vectors
) -> tuple[float, dict[int, float], list[int]]:
    """Average precision, recalls and ranks, by definition."""
    scores = cosines(query, np.concatenate([others, true]))
    wrong = np.arange(len(scores)) < len(others)
    order = np.lexsort((~wrong, -np.round(scores, 10)))
    hits = ~wrong[order]
    places = np.flatnonzero(hits) + 1
    precision = float(np.mean([hits[:place].sum() / place for place in places]))
    recalls = {k: float(hits[:k].sum() / len(true)) for k in (5, 10, 100)}
    return precision, recalls, places.tolist()


@hypothesis.settings(max_examples=100)
@hypothesis.given(seed=st.integers(0, 2**32), distractors=st.integers(3, 150))
@pytest.mark.parametrize("protocol", ["official", "one-gallery"])
def test_metrics_are_those_of_the_definition(
    protocol: AbcProtocol, seed: int, distractors: int
) -> None:
    with TemporaryDirectory() as folder:
        made = FeatureSet(Path(folder), seed, distractors)
        made.save()
        [report] = made.run(protocol).reports
    for prompt in PROMPTS:
        rows = []
        for model, own in enumerate(made.queries):
            rest = [one for other, one in enumerate(made.exemplars) if other != model]
            others = [made.distractors, *(rest if protocol == "one-gallery" else [])]
            for query in own[prompt]:
                precision, recalls, _ = reference(
                    query, np.concatenate(others), made.exemplars[model]
                )
                rows.append([*recalls.values(), precision])
        scores = report.by_prompt[prompt]
        measured = [scores.recall_at_5, scores.recall_at_10, scores.recall_at_100, scores.map]
        np.testing.assert_allclose(measured, np.mean(rows, axis=0), rtol=0, atol=1e-9)


@pytest.fixture
def made(tmp_path: Path) -> FeatureSet:
    return FeatureSet(tmp_path, seed=5)


def test_a_limit_ranks_the_drawn_rows(made: FeatureSet) -> None:
    made.save()
    [report] = made.run(limit=25).reports
    assert report.distractors == 25
    whole = made.run().reports[0].overall
    assert report.overall.map >= whole.map


def test_a_run_is_continued_in_batches(made: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    made.save()
    first = made.run()
    ranks = made.folder / "out" / first.reports[0].name / "ranks.csv"
    whole = ranks.read_bytes()
    ranks.write_bytes(whole[:-30])
    monkeypatch.setattr(abc, "QUERIES", 2)
    assert made.run() == first
    assert ranks.read_bytes() == whole


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_features_may_be_of_other_floating_types(made: FeatureSet, kind: torch.dtype) -> None:
    made.laion["feats"] = made.laion["feats"].to(kind)
    made.saved["exemplar_tensors"] = made.saved["exemplar_tensors"].to(kind)
    made.save()
    assert made.run().reports[0].distractors == 60


def test_lists_that_name_the_rows_may_be_left_out(made: FeatureSet) -> None:
    made.save()
    whole = made.run().reports[0].overall
    for name in ("exemplar_paths", "exemplar_chunks", "synth_paths", "synth_ids"):
        del made.saved[name]
    del made.laion["paths"]
    made.save()
    assert made.run().reports[0].overall == whole


def repeat(made: FeatureSet, key: str, prompt: str | None = None) -> None:
    """List the first image of a list of model 0 once more, with its features."""
    own = made.content[0][key] if prompt is None else made.content[0][key][prompt]
    own.append(own[0])
    made.file.write_text(json.dumps(made.content))
    tensors, name = made.saved, f"{key}_tensors"
    if prompt is not None:
        tensors, name = made.saved[name], prompt
    rows = tensors[name]
    tensors[name] = torch.cat([rows[: len(own) - 1], rows[:1], rows[len(own) - 1 :]])
    for listed in [name for name in made.saved if not name.endswith("_tensors")]:
        del made.saved[listed]


def test_a_query_listed_twice_moves_no_other(made: FeatureSet) -> None:
    made.save()
    whole = made.run().reports[0].by_prompt
    repeat(made, "synth", "gpt")
    made.save()
    again = made.run().reports[0].by_prompt
    assert again["gpt"].queries == whole["gpt"].queries + 1
    assert again["object"] == whole["object"]


def test_an_exemplar_listed_twice_is_once_in_one_gallery(made: FeatureSet) -> None:
    made.save()
    whole, official = made.run("one-gallery").reports[0], made.run().reports[0]
    repeat(made, "exemplar")
    made.save()
    assert made.run("one-gallery").reports[0].overall == whole.overall
    assert made.run().reports[0].overall != official.overall


def test_files_of_a_run_that_were_cut_short_are_completed(tmp_path: Path) -> None:
    made = FeatureSet(tmp_path, seed=5, distractors=1100)
    made.save()
    first = made.run()
    folder = made.folder / "out" / first.reports[0].name
    ranks, calibration = folder / "ranks.csv", folder / "calibration.json"
    before = ranks.read_bytes(), calibration.read_bytes()
    ranks.write_bytes(before[0][:-9])
    calibration.write_bytes(before[1][:40])
    assert made.run() == first
    assert (ranks.read_bytes(), calibration.read_bytes()) == before
    ranks.write_bytes(b"\xff\xfe\n")
    with pytest.raises(EvaluationError, match=r"ranks\.csv is damaged"):
        made.run()


class Other:
    """A class that no file may make."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda made: made.saved.update(exemplar_tensors=made.saved["exemplar_tensors"][1:]),
            r"test_x\.pth: exemplar_tensors has \d+ rows, but the split lists \d+",
        ),
        (
            lambda made: made.saved["exemplar_paths"].reverse(),
            r"row 0 of exemplar_tensors is of .*, but the split lists .*/0/0\.jpg",
        ),
        (
            lambda made: made.saved["exemplar_chunks"].insert(0, (0, 99)),
            r"exemplar_chunks are not those of .*test_x\.json",
        ),
        (
            lambda made: made.saved["synth_ids"]["gpt"].append(7),
            r"synth_ids\['gpt'\] are not those of",
        ),
        (
            lambda made: made.saved["synth_tensors"].pop("gpt"),
            r"it lacks synth_tensors\['gpt'\]",
        ),
        (
            lambda made: made.saved.pop("synth_tensors"),
            "it lacks synth_tensors; there are exemplar_paths",
        ),
        (
            lambda made: made.saved["synth_tensors"].update(object=torch.zeros(99, 2)),
            "has 2 columns, but the distractors have 6",
        ),
        (
            lambda made: made.laion.update(feats=torch.zeros(5)),
            r"laion_subset\.pth: feats must be a matrix",
        ),
        (
            lambda made: made.laion.update(feats=torch.zeros((60, 6), dtype=torch.int64)),
            r"feats is of type torch\.int64; save it as float32",
        ),
        (
            lambda made: made.laion["paths"].append("more.png"),
            "feats has 60 rows, but paths has 61 entries",
        ),
        (
            lambda made: made.laion["feats"].fill_(float("nan")),
            r"laion_subset\.pth: it holds values that are no finite numbers",
        ),
        (
            lambda made: made.saved.update(exemplar_chunks=[1, 2]),
            r"exemplar_chunks are not those of .*test_x\.json",
        ),
        (
            lambda made: made.saved.update(synth_ids=3),
            r"test_x\.pth: synth_ids must be a list",
        ),
        (
            lambda made: made.laion.update(paths="laion"),
            r"laion_subset\.pth: paths must be a list",
        ),
        (
            lambda made: made.laion.update(feats=torch.zeros(60, 0)),
            "feats must be a matrix with a row for each image",
        ),
        (
            lambda made: made.laion.update(feats=made.laion["feats"].to_sparse()),
            "feats is a sparse matrix; save it as a dense one",
        ),
        (
            lambda made: made.laion.update(paths=Other()),
            "holds Python objects other than tensors, text and numbers",
        ),
    ],
)
def test_features_that_do_not_fit_are_named(
    made: FeatureSet, change: Callable[[FeatureSet], object], message: str
) -> None:
    change(made)
    made.save()
    with pytest.raises(EvaluationError, match=message):
        made.run()


def test_files_that_are_no_features_are_named(made: FeatureSet) -> None:
    with pytest.raises(EvaluationError, match=r"must be a folder that holds laion_subset\.pth"):
        made.run()
    made.save()
    path = made.folder / "clip" / "test_x.pth"
    path.write_bytes(b"not a file of torch")
    with pytest.raises(EvaluationError, match=r"test_x\.pth: it is damaged"):
        made.run()
    path.unlink()
    with pytest.raises(EvaluationError, match=r"test_x\.pth: there is no such file"):
        made.run()
    torch.save(torch.zeros(3), path)
    with pytest.raises(EvaluationError, match="must hold a dictionary"):
        made.run()


def test_the_distractors_stay_in_the_file(made: FeatureSet) -> None:
    made.save()
    _, distractors = FeatureSource(made.folder / "clip").load(
        read_splits([made.file]), lambda *_: None
    )
    matrix = distractors.vectors["subject"]
    assert not matrix.flags.owndata
    [block] = distractors.blocks()
    norms = np.linalg.norm(block["subject"], axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)
    assert abc_features.DISTRACTORS == "laion_subset.pth"
