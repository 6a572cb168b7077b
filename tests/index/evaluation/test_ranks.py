"""Ranks by counting against a ranking written out in full, in exact arithmetic."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from index.answering.ranking import Embeddings, combine, standardise
from index.evaluation.ranks import average_precision, rank_true, recall_at
from index.evaluation.scores import LIPSCHITZ, ExemplarScorer
from model.config import Facet

DIMENSIONS: dict[Facet, int] = {"subject": 24, "style": 10}


def vectors(count: int, seed: int, spread: float = 1.0) -> Embeddings:
    """Unit vectors around one direction a facet; the smaller ``spread``, the closer together."""
    made = {}
    for number, (facet, dimension) in enumerate(DIMENSIONS.items()):
        centre = np.random.default_rng(number).standard_normal(dimension)
        noise = np.random.default_rng([seed, number]).standard_normal((count, dimension))
        made[facet] = unit(centre + spread * noise)
    return made


def unit(x: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), dtype=np.float32)


def join(*parts: Embeddings) -> Embeddings:
    return {facet: np.concatenate([part[facet] for part in parts]) for facet in parts[0]}


def take(whole: Embeddings, rows: list[int]) -> Embeddings:
    return {facet: matrix[rows] for facet, matrix in whole.items()}


def blocks(gallery: Embeddings, size: int) -> Iterator[Embeddings]:
    for start in range(0, len(gallery["subject"]), size):
        yield {facet: matrix[start : start + size] for facet, matrix in gallery.items()}


def naive_scores(query: Embeddings, gallery: Embeddings, cohort: Embeddings) -> list[float]:
    """One query's scores, every sum exactly rounded."""
    levels = {}
    for facet, (vector,) in query.items():
        against = [dot(vector, member) for member in cohort[facet]]
        mean = math.fsum(against) / len(against)
        deviation = math.sqrt(math.fsum((a - mean) ** 2 for a in against) / len(against))
        levels[facet] = np.array([(dot(vector, own) - mean) / deviation for own in gallery[facet]])
    scores: list[float] = combine(levels).tolist()
    return scores


def dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return math.fsum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def naive_ranks(scores: list[float], true: list[int]) -> list[int]:
    """Sort everything: by score, of equal ones wrong before true, true ones as listed."""
    place = {row: number for number, row in enumerate(true)}
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], place.get(row, -1)))
    return [order.index(row) + 1 for row in true]


@pytest.mark.parametrize("in_gallery", [False, True])
@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_ranks_are_those_of_a_full_sort(in_gallery: bool, size: int) -> None:
    queries, cohort, others = vectors(9, 1), vectors(40, 2), vectors(300, 3)
    exemplars = vectors(12, 4)
    # Ties with true exemplars: among the wrong images, and among the true ones themselves.
    others = join(others, take(exemplars, [0, 0, 3, 5, 5, 5]))
    exemplars = join(exemplars, take(exemplars, [3, 4]))
    own = [[0], [3, 12], [5, 1, 0], [2, 4, 13], [6], [7, 8, 9, 10, 11], [0, 1], [12, 3], [13]]
    scorer = ExemplarScorer(queries, cohort)
    true = scorer.exact_rows(exemplars, [np.array(rows) for rows in own])
    gallery = join(others, exemplars) if in_gallery else others
    ranks = rank_true(scorer, blocks(gallery, size), true, in_gallery=in_gallery)
    for query, rows in enumerate(own):
        asked = take(queries, [query])
        if in_gallery:
            first = len(others["subject"])
            everything, place = gallery, [first + row for row in rows]
        else:
            first = len(others["subject"])
            everything = join(others, take(exemplars, rows))
            place = list(range(first, first + len(rows)))
        expected = naive_ranks(naive_scores(asked, everything, cohort), place)
        assert ranks[query].tolist() == expected


def test_differences_that_float32_cannot_see_still_decide() -> None:
    queries, cohort = vectors(20, 1), vectors(50, 2)
    exemplars = vectors(2, 3, spread=0.3)
    others = join(*(jitter(exemplars, seed) for seed in range(200)))
    scorer = ExemplarScorer(queries, cohort)
    true = scorer.exact_rows(exemplars, [np.array([0, 1])] * 20)
    ranks = rank_true(scorer, blocks(others, 33), true, in_gallery=False)
    for query in range(20):
        scores = naive_scores(take(queries, [query]), join(others, exemplars), cohort)
        assert ranks[query].tolist() == naive_ranks(scores, [400, 401])
    # Not one of these can be told from the exemplars by a float32 product.
    found = scorer.candidates(others, scorer.limits(np.full(20, -np.inf)))
    distance = np.abs(np.array(true)[found.queries] - found.scores[:, None]).min(axis=1)
    assert (distance <= scorer.tolerance[found.queries]).all()


def jitter(whole: Embeddings, seed: int) -> Embeddings:
    """The same vectors with one component moved to the next float32."""
    moved = {facet: matrix.copy() for facet, matrix in whole.items()}
    generator = np.random.default_rng(seed)
    for matrix in moved.values():
        rows, columns = np.arange(len(matrix)), generator.integers(0, matrix.shape[1], len(matrix))
        matrix[rows, columns] = np.nextafter(matrix[rows, columns], np.float32(2))
    return moved


def test_fast_scores_keep_within_the_tolerance() -> None:
    queries, cohort, gallery = vectors(30, 1, 0.05), vectors(60, 2, 0.5), vectors(500, 3, 0.2)
    scorer = ExemplarScorer(queries, cohort)
    found = scorer.candidates(gallery, scorer.limits(np.full(30, -np.inf)))
    assert len(found.scores) == 30 * 500
    wrong = np.abs(found.scores - scorer.exact(found.queries, gallery, found.rows))
    assert (wrong <= scorer.tolerance[found.queries] / 5).all()
    assert (scorer.tolerance < 0.05).all()


@pytest.mark.parametrize(("share", "most"), [(0.0, 1.0), (0.9, 0.5), (0.99, 0.15), (1.0, 0.05)])
def test_candidates_miss_nothing_that_scores_enough(share: float, most: float) -> None:
    queries, cohort, gallery = vectors(20, 1), vectors(60, 2), vectors(500, 3)
    scorer = ExemplarScorer(queries, cohort)
    exact = np.array(scorer.exact_rows(gallery, [np.arange(500)] * 20))
    least = np.quantile(exact, share, axis=1)
    found = scorer.candidates(gallery, scorer.limits(least))
    pairs = set(zip(found.queries.tolist(), found.rows.tolist(), strict=True))
    enough = {(q, row) for q in range(20) for row in np.flatnonzero(exact[q] >= least[q]).tolist()}
    assert enough <= pairs
    assert len(pairs) <= most * exact.size


def test_combine_is_what_fast_scores_take_it_for() -> None:
    generator = np.random.default_rng(0)
    for scale in (1e-4, 0.01, 1, 10):
        before = {facet: generator.normal(0, 3, 5000) for facet in DIMENSIONS}
        moves = {facet: generator.normal(0, scale, 5000) for facet in DIMENSIONS}
        after = {facet: level + moves[facet] for facet, level in before.items()}
        change = np.abs(combine(after) - combine(before))
        allowed = LIPSCHITZ * np.sum(np.abs(list(moves.values())), axis=0)
        assert (change <= allowed + 1e-9).all()
        higher = {facet: level + np.abs(moves[facet]) for facet, level in before.items()}
        assert (combine(higher) >= combine(before)).all()


def test_a_score_is_the_products_own() -> None:
    queries, cohort, gallery = vectors(5, 1), vectors(40, 2), vectors(30, 3)
    levels, _ = standardise(
        {facet: queries[facet] @ gallery[facet].T for facet in DIMENSIONS},
        {facet: queries[facet] @ cohort[facet].T for facet in DIMENSIONS},
    )
    scores = ExemplarScorer(queries, cohort).exact_rows(gallery, [np.arange(30)] * 5)
    np.testing.assert_allclose(scores, combine(levels), atol=1e-4)


def test_a_query_like_every_exemplar_of_the_cohort_has_scores() -> None:
    same = take(vectors(1, 1), [0] * 8)
    scorer = ExemplarScorer(take(same, [0]), same)
    true = scorer.exact_rows(same, [np.array([0])])
    (ranks,) = rank_true(scorer, blocks(same, 3), true, in_gallery=False)
    assert ranks.tolist() == [9]


def test_recall_counts_true_exemplars_among_the_first() -> None:
    assert recall_at([1, 5, 6, 100], 5) == 0.5
    assert recall_at([1, 5, 6, 100], 100) == 1.0


def test_average_precision_by_hand() -> None:
    assert average_precision([1]) == 1.0
    assert average_precision([4, 2]) == (1 / 2 + 2 / 4) / 2
