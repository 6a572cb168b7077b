"""Intervals and shares of the AbC report."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from index.answering.calibration import Calibration
from index.evaluation import abc, abc_shares
from index.evaluation.abc import evaluate_abc
from index.evaluation.abc_features import FeatureSource
from index.evaluation.abc_release import Query, read_splits
from index.evaluation.abc_report import QueryRanks, bootstrap, read_ranks, score
from index.evaluation.abc_shares import calibration_curve, cross_entropy, stated_shares
from index.evaluation.metrics import AbcProtocol
from tests.index.evaluation.test_abc_protocol import FeatureSet


def ranks(model: int, *own: int) -> QueryRanks:
    return QueryRanks(Query(model, "", "", "gpt", "x"), 1000, own)


def test_intervals_resample_models_and_not_queries() -> None:
    # Two models, all queries of one right and of the other wrong: any mean is possible.
    every = [ranks(model, 1 if model else 500) for model in (0, 1) for _ in range(200)]
    scores = score(every)
    assert scores.intervals is not None
    assert scores.map == pytest.approx(0.501)
    assert scores.intervals["map"] == pytest.approx((0.002, 1.0))
    assert scores.models == 2
    assert score(every[:200]).intervals is None


def test_intervals_are_as_wide_as_the_spread_of_models() -> None:
    draw = np.random.default_rng(1)
    models = 60
    means = draw.uniform(0, 1, models)
    groups = np.repeat(np.arange(models), 30)
    values = np.clip(means[groups, None] + draw.normal(0, 0.05, (len(groups), 4)), 0, 1)
    found = bootstrap(values, groups)
    assert found is not None
    expected = 1.96 * means.std() / math.sqrt(models)
    for low, high in found.values():
        assert (high - low) / 2 == pytest.approx(expected, rel=0.15)
        assert low < values.mean() < high


def test_intervals_weigh_models_by_their_queries() -> None:
    values = np.concatenate([np.ones((30, 4)), np.zeros((10, 4)), np.ones((20, 4))])
    groups = np.repeat([0, 1, 2], [30, 10, 20])
    found = bootstrap(values, groups)
    assert found is not None
    # Of the 27 samples 8 have no model 1, so that 1.0 is within the upper tail.
    assert found["map"] == pytest.approx((0.0, 1.0), abs=0.34)


# Shares -------------------------------------------------------------------------------------------


def test_cross_entropy_by_hand() -> None:
    # The true concept has 0.6 for 3 exemplars, 0.1 is unattributed, over 100 images.
    expected = -math.log(0.6 / 3 + 0.1 / 100)
    assert cross_entropy((0.6, 0.2, 0.1), 3, 100) == pytest.approx(expected)
    # Nothing attributed: the uniform distribution over the gallery.
    assert cross_entropy((0.0,), 3, 100) == pytest.approx(math.log(100))
    # All of it right: the least that is possible.
    assert cross_entropy((1.0,), 3, 100) == pytest.approx(math.log(3))


def test_the_distribution_over_images_sums_to_one() -> None:
    shares, true, gallery = (0.5, 0.2), 4, 50
    per_true = math.exp(-cross_entropy(shares, true, gallery))
    unattributed = 1 - sum(shares)
    # 4 true exemplars, one other image with a share, and 45 without.
    others = (0.2 + unattributed / gallery) + 45 * unattributed / gallery
    assert true * per_true + others == pytest.approx(1)


def test_the_calibration_curve_counts_by_hand() -> None:
    found = calibration_curve([(0.95,), (0.92, 0.03), (0.0, 0.91), (0.55, 0.41), (1.0,)])
    assert [(one.concepts, round(one.stated, 6), one.true) for one in found] == [
        (1, 0.03, 0.0),
        (1, 0.41, 0.0),
        (1, 0.55, 1.0),
        (4, 0.945, 0.75),
    ]


def test_stated_shares_put_the_true_concept_first() -> None:
    calibration = Calibration(null_scores=tuple(np.linspace(2, 0, 100)))
    scores = np.array([0.5, 3.0, 2.5, -1.0])
    first, *others = stated_shares(calibration, scores, 2)
    assert others[0] > first > 0
    assert len(others) == 2
    assert stated_shares(calibration, scores, 3)[0] == 0


def reference_scores(
    query: np.ndarray, concepts: list[np.ndarray], distractors: np.ndarray, cohort: np.ndarray
) -> list[float]:
    """Score every concept in full: the models, then each distractor; float64."""

    def level(vectors: np.ndarray) -> np.ndarray:
        against = cohort @ query
        return (vectors @ query - against.mean()) / against.std()

    sums = []
    for own in [*concepts, *distractors[:, None]]:
        e = np.sort(level(own))[::-1]  # at most eight exemplars in these sets
        sums.append((2 * np.maximum(e, 0) * 0.7 ** np.arange(len(e))).sum() + 1e-3 * e[0])
    rivals = sorted(sums, reverse=True)[2:8]
    return [one - sum(rivals) / len(rivals) for one in sums]


def unit(x: np.ndarray) -> np.ndarray:
    # As float32, in which features are ranked.
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("protocol", ["official", "one-gallery"])
def test_shares_are_those_of_scoring_every_concept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: AbcProtocol
) -> None:
    monkeypatch.setattr(abc, "COHORT_SIZE", 40)
    monkeypatch.setattr(abc_shares, "NULL_QUERIES", 60)
    monkeypatch.setattr(abc, "QUERIES", 7)
    made = FeatureSet(tmp_path, seed=3, distractors=150, dimension=5)
    made.save()
    [report] = made.run(protocol).reports
    folder = tmp_path / "out" / report.name
    order = np.random.default_rng(0).permutation(150)
    distractors = unit(made.distractors)
    cohort, null = distractors[np.sort(order[:40])], np.sort(order[40:100])
    models = [unit(own) for own in made.exemplars]

    # One image listed by two models would be one exemplar; here all have their own paths.
    best = []
    for row in null:
        rest = np.delete(distractors, row, axis=0)
        concepts = models if protocol == "one-gallery" else []
        best.append(max(reference_scores(distractors[row], concepts, rest, cohort)))
    saved = Calibration.model_validate_json((folder / "calibration.json").read_bytes())
    np.testing.assert_allclose(saved.null_scores, sorted(best, reverse=True), atol=1e-5)

    rows = read_ranks(folder / "ranks.csv")
    asked = [
        (model, query)
        for model, own in enumerate(made.queries)
        for prompt in own
        for query in unit(own[prompt])
    ]
    entropies = []
    for item, (model, query) in zip(rows, asked, strict=True):
        concepts = models if protocol == "one-gallery" else [models[model]]
        scores = np.array(reference_scores(query, concepts, distractors, cohort))
        place = np.argsort(-scores, kind="stable")
        shares, unattributed = saved.shares(scores[place])
        true = model if protocol == "one-gallery" else 0
        own = float(shares[place == true][0])
        assert item.shares[0] == pytest.approx(own, abs=1e-5)
        others = shares[(place != true) & (shares > 1e-6)]
        np.testing.assert_allclose(
            sorted(share for share in item.shares[1:] if share > 1e-6), sorted(others), atol=1e-4
        )
        assert 1 - sum(item.shares) == pytest.approx(unattributed, abs=1e-4)
        size = len(models[model])
        entropies.append(-math.log(own / size + unattributed / item.gallery))
    assert report.overall.cross_entropy is not None
    assert report.overall.cross_entropy.stated == pytest.approx(np.mean(entropies), abs=1e-3)
    assert sum(one.concepts for one in report.calibration_curve) == sum(
        share > 0 for item in rows for share in item.shares
    )
    assert json.loads((folder / "report.json").read_text())["calibration_curve"]


def test_few_distractors_calibrate_no_shares(tmp_path: Path) -> None:
    made = FeatureSet(tmp_path, seed=3)
    made.save()
    source = FeatureSource(tmp_path / "clip")
    result = evaluate_abc(read_splits([made.file]), source, out=tmp_path / "out")
    assert result.calibration_curve == []
    assert result.reports[0].overall.cross_entropy is None
