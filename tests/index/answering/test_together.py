"""Groups of images: their scores, their calibration, and the comparison with a control group."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from index.answering.attribution import Attributor
from index.answering.calibration import Calibration, Scaling
from index.answering.ranking import Embeddings, Ranking
from index.answering.together import (
    GroupRanking,
    attribute_together,
    compare_pairs,
    leads_alone,
    mean_of,
)
from index.snapshot import Snapshot
from tests.fakes import FakeEmbedder, build_snapshot, patches

PICTURES = {f"Concept {n}": [patches(10 * n + k, side=64) for k in range(3)] for n in range(9)}


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return build_snapshot(tmp_path_factory.mktemp("data"), PICTURES)


@pytest.fixture
def attributor(snapshot: Snapshot) -> Attributor:
    return Attributor(FakeEmbedder(), snapshot)


def rank(attributor: Attributor, images: Sequence[Image.Image]) -> list[list[Ranking]]:
    """Rank images of one square each."""
    return [[one] for one in attributor.rankings(attributor.embedder.embed(images))]


def queries(images: Sequence[Sequence[Ranking]]) -> list[Embeddings]:
    """Return the vectors of the squares of images."""
    return [
        {f: np.stack([one.query[f] for one in image]) for f in image[0].query} for image in images
    ]


def test_squares_of_an_image_count_as_their_mean(attributor: Attributor) -> None:
    one, other, third = rank(attributor, [PICTURES[f"Concept {n}"][0] for n in (1, 2, 3)])
    mean = mean_of(queries([[*one, *other], third]))
    for facet, vector in mean.items():
        first = one[0].query[facet] + other[0].query[facet]
        expected = first / np.linalg.norm(first) + third[0].query[facet]
        np.testing.assert_allclose(vector[0], expected / np.linalg.norm(expected), atol=1e-6)


def test_a_group_of_equal_images_scores_as_one(attributor: Attributor) -> None:
    image = PICTURES["Concept 2"][1]
    (alone,) = attributor.rankings(attributor.embedder.embed([image]))
    (mean,) = attributor.rankings(mean_of(queries(rank(attributor, [image] * 3))))
    group = GroupRanking.of(mean, Scaling())
    np.testing.assert_allclose(group.scores, np.sort(alone.leads[0])[::-1], atol=1e-4)
    assert group.numbers[0] == alone.numbers[np.argmax(alone.leads[0])]


def test_vectors_that_cancel_out_have_no_direction() -> None:
    opposite = {"style": np.array([[1, 0], [-1, 0]], np.float32)}
    assert mean_of([opposite])["style"].tolist() == [[0, 0]]


def test_images_that_differ_tell_more_of_what_they_share() -> None:
    """Each of the images is a source and something else, and the mean is nearer to the source."""
    random = np.random.default_rng(0)
    source, rest = random.standard_normal(64), random.standard_normal((8, 64))
    images = [source + one for one in rest]
    units = [{"style": (one / np.linalg.norm(one))[None].astype(np.float32)} for one in images]
    mean = mean_of(units)["style"][0]
    source /= np.linalg.norm(source)
    assert source @ mean > max(float(source @ one["style"][0]) for one in units)


def test_a_concept_that_an_image_does_not_find_has_no_evidence_in_it(
    attributor: Attributor,
) -> None:
    rankings = rank(attributor, PICTURES["Concept 1"])
    numbers = np.array([*rankings[0][0].numbers[:2], 99], dtype=np.int32)
    numbers.sort()
    scores = leads_alone(rankings, numbers)[0]
    for own, [ranking] in zip(scores, rankings, strict=True):
        known = dict(zip(ranking.numbers.tolist(), ranking.leads[0].tolist(), strict=True))
        expected = [known.get(number, -ranking.rival[0]) for number in numbers.tolist()]
        np.testing.assert_allclose(own, expected)


def test_an_answer_names_the_nearest_image_of_each_exemplar(attributor: Attributor) -> None:
    images = [PICTURES["Concept 3"][n] for n in (2, 0)]
    answer = attribute_together(attributor, rank(attributor, images))
    first = answer.concepts[0]
    assert first.concept.id == "concept-3"
    embedded = attributor.embedder.embed(images)
    for shown in first.exemplars:
        row = np.array([shown.evidence.exemplar.row])
        cosines = {
            facet: vectors @ attributor.snapshot.vectors.vectors(facet, row)[0]
            for facet, vectors in embedded.items()
        }
        assert shown.image == np.argmax(np.mean(list(cosines.values()), axis=0))
        similarity = cosines[shown.evidence.facet][shown.image]
        assert shown.evidence.similarity == pytest.approx(similarity, abs=1e-5)


def test_taken_down_concepts_are_not_in_the_answer(
    attributor: Attributor, snapshot: Snapshot
) -> None:
    images = PICTURES["Concept 2"]
    catalog = snapshot.catalog
    rows = [one.row for one in catalog.exemplars_of("concept-2")]
    masked = Attributor(FakeEmbedder(), snapshot.masked({"x": np.array(rows)}))  # type: ignore[dict-item]
    before = attribute_together(attributor, rank(attributor, images))
    after = attribute_together(masked, rank(masked, images))
    assert before.concepts[0].concept.id == "concept-2"
    assert "concept-2" not in {one.concept.id for one in after.concepts}


def test_groups_of_another_size_have_no_pairs(attributor: Attributor) -> None:
    rankings = rank(attributor, PICTURES["Concept 1"])
    with pytest.raises(ValueError, match="paired"):
        attribute_together(attributor, rankings, rankings[:2])


def test_exchanges_are_counted_over_all_concepts() -> None:
    differences = np.array([[2.0, -1, 0], [2, 1, 0], [2, -1, 0]])
    # Only the observed one of the 8 exchanges has a column that sums to 6, and each of them has a
    # column that sums to 0 or more.
    assert compare_pairs(differences).tolist() == [1 / 8, 1.0, 1.0]


@pytest.mark.parametrize("pairs", [6, 20])
def test_a_comparison_without_a_difference_is_rarely_called_one(pairs: int) -> None:
    random = np.random.default_rng(0)
    smallest = [compare_pairs(random.standard_t(3, (pairs, 30))).min() for _ in range(200)]
    assert np.mean(np.array(smallest) <= 0.05) < 0.1  # 0.05 is nominal, 0.031 its deviation twice


def test_a_difference_in_most_pairs_is_found() -> None:
    differences = np.random.default_rng(0).normal(size=(16, 200))
    differences[:, 7] += 2
    p_values = compare_pairs(differences)
    assert p_values[7] <= 0.01
    assert np.argmin(p_values) == 7


def test_groups_are_calibrated_by_size() -> None:
    def scores(top: float) -> tuple[float, ...]:
        return tuple(np.linspace(top, 0, 101).tolist())

    calibration = Calibration(null_scores=scores(8), group_scores={2: scores(4), 8: scores(2)})
    assert calibration.of_size(1).null_scores == calibration.null_scores
    assert calibration.of_size(2).null_scores == scores(4)
    np.testing.assert_allclose(calibration.of_size(4).null_scores, scores(3), atol=0.05)
    assert calibration.of_size(64).null_scores == scores(2)
    p_values = [calibration.of_size(size).p_value(2.5) for size in (1, 2, 3, 4, 8)]
    assert p_values == sorted(p_values, reverse=True)


def test_an_older_calibration_judges_groups_as_single_images() -> None:
    old = Calibration.model_validate_json('{"format": 2, "null_scores": [3, 2, 1]}')
    assert old.of_size(8).null_scores == (3, 2, 1)
