from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from index.answering import ranking
from index.answering.calibration import Scaling
from index.answering.neighbours import NEIGHBOURS
from index.answering.ranking import (
    Cohort,
    Ranker,
    Ranking,
    combine,
    score_concepts,
    standardise,
)
from index.stores.faiss_files import FaissStore, inverted_name, write_vectors
from index.stores.inverted import write_inverted
from model.config import Facet
from tests.fakes import neighbours_of

WIDTHS: dict[Facet, int] = {"subject": 10, "style": 6}
SIZES = [1, 4, 2, 7, 1, 12, 3]  # exemplars of each concept
COUNT, QUERIES = sum(SIZES), 8
COHORT = np.arange(COUNT)[::2]

Vectors = dict[Facet, np.ndarray]


def vectors(count: int, seed: int) -> Vectors:
    random = np.random.default_rng(seed)
    rows = {f: random.standard_normal((count, w)).astype(np.float32) for f, w in WIDTHS.items()}
    return {f: x / np.linalg.norm(x, axis=1, keepdims=True) for f, x in rows.items()}


class World:
    """Random exemplars of concepts in a shuffled order, a cohort among them, and queries."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        random = np.random.default_rng(0)
        self.concept_of_row = random.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
        self.exemplars = vectors(COUNT, seed=1)
        self.cohort = {f: x[COHORT] for f, x in self.exemplars.items()}
        self.queries = vectors(QUERIES, seed=2)

    def ranker(self, keep: Sequence[int] | None = None, scaling: Scaling | None = None) -> Ranker:
        rows = np.arange(COUNT) if keep is None else np.asarray(keep)
        folder = self.folder / str(len(rows))
        folder.mkdir(exist_ok=True)
        for facet, matrix in self.exemplars.items():
            write_vectors(folder, facet, matrix[rows])
        store = FaissStore.open(folder, list(WIDTHS))
        members = np.flatnonzero(np.isin(rows, COHORT))
        vectors = {f: x[rows[members]] for f, x in self.exemplars.items()}
        exemplars = {f: x[rows] for f, x in self.exemplars.items()}
        near = neighbours_of(exemplars, self.concept_of_row[rows])
        return Ranker(
            store,
            self.concept_of_row[rows].tolist(),
            Cohort(members, vectors),
            near,
            scaling=scaling,
        )

    def rank(self, **options: object) -> list[Ranking]:
        return list(self.ranker().rank(self.queries, **options))

    def naive(self, query: int) -> list[tuple[int, float, dict[Facet, float], list[int]]]:
        """(concept, score, best level of each facet, rows by evidence), one loop at a time."""
        levels, usual, background = {}, {}, {}
        for facet in WIDTHS:
            exemplars = self.exemplars[facet]
            q = self.queries[facet][query].astype(np.float64)
            cohort = np.array([float(q @ row) for row in self.cohort[facet]])
            cosines = np.array([float(q @ row) for row in exemplars])
            levels[facet] = (cosines - cohort.mean()) / cohort.std()
            background[facet] = (cohort - cohort.mean()) / cohort.std()
            near = [
                sorted(
                    float(exemplars[row] @ exemplars[other])
                    for other in range(COUNT)
                    if self.concept_of_row[other] != self.concept_of_row[row]
                )[-NEIGHBOURS:]
                for row in range(COUNT)
            ]
            usual[facet] = (np.mean(near, axis=1) - cohort.mean()) / cohort.std()
        evidence = combine(levels)
        each, strangers, unrelated = (
            np.stack([one[facet] for facet in WIDTHS]) for one in (levels, usual, background)
        )
        weights = [ranking.FACET_WEIGHTS[facet] for facet in WIDTHS]
        found = []
        for number in range(len(SIZES)):
            rows = [row for row in range(COUNT) if self.concept_of_row[row] == number]
            size = np.array([len(rows)])
            total = score_concepts(
                each[:, rows], strangers[:, rows], size, np.sort(unrelated), weights=weights
            )[0, 0]
            best = {facet: max(level[rows]) for facet, level in levels.items()}
            rows.sort(key=lambda row: -evidence[row])
            found.append((number, float(total), best, rows))
        rivals = sorted((total for _, total, *_ in found), reverse=True)[2:8]
        found = [(n, total - np.mean(rivals), *rest) for n, total, *rest in found]
        return sorted(found, key=lambda concept: (-concept[1], concept[0]))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_whole_ranking_equals_brute_force(world: World) -> None:
    for query, ranked in enumerate(world.rank(depth=COUNT)):
        expected = world.naive(query)
        assert [concept.number for concept in ranked] == [number for number, *_ in expected]
        for concept, (_, score, best, rows) in zip(ranked, expected, strict=True):
            assert concept.score == pytest.approx(score, abs=1e-4)
            assert concept.facets == pytest.approx(best, abs=1e-4)
            assert concept.rows.tolist() == rows
            for facet, cosines in concept.similarities.items():
                exact = world.exemplars[facet][rows] @ world.queries[facet][query]
                assert cosines == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("depth", [1, 3, 10])
def test_a_sum_does_not_depend_on_how_its_concept_was_found(world: World, depth: int) -> None:
    ranker = world.ranker()
    whole = ranker.rank(world.queries, depth=COUNT)
    found = ranker.rank(world.queries, depth=depth, concepts=1)
    for all_concepts, some in zip(whole, found, strict=True):
        sums = dict(zip(all_concepts.numbers.tolist(), all_concepts.statistics[0], strict=True))
        assert 1 <= len(some) <= 2 * depth
        for place, number in enumerate(some.numbers.tolist()):
            assert some.statistics[0][place] == pytest.approx(sums[number], abs=1e-6)
            assert len(some[place].rows) == SIZES[number]


def test_the_concepts_of_each_facets_nearest_exemplars_are_candidates(world: World) -> None:
    for query, ranked in enumerate(world.rank(depth=1, concepts=1)):
        nearest = {
            int(world.concept_of_row[np.argmax(matrix @ world.queries[facet][query])])
            for facet, matrix in world.exemplars.items()
        }
        assert {concept.number for concept in ranked} == nearest


@pytest.mark.parametrize("gone", [{5}, {0, 3}, {0, 1, 2, 4, 5, 6}])
def test_concepts_left_out_are_as_if_they_were_not_in_the_index(world: World, gone) -> None:
    without = [frozenset(gone)] + [frozenset()] * (QUERIES - 1)
    keep = [row for row in range(COUNT) if world.concept_of_row[row] not in gone]
    for depth in (2, len(keep)):
        ranked = world.rank(depth=depth, excluded=without)[0]
        queries = {facet: matrix[:1] for facet, matrix in world.queries.items()}
        [expected] = world.ranker(keep).rank(queries, depth=len(keep))
        sums = dict(zip(expected.numbers.tolist(), expected.statistics[0], strict=True))
        assert not gone & set(ranked.numbers.tolist())
        for number, total in zip(ranked.numbers.tolist(), ranked.statistics[0], strict=True):
            assert total == pytest.approx(sums[number], abs=1e-6)
        assert ranked[0].number == expected[0].number
    assert [concept.number for concept in ranked] == [concept.number for concept in expected]


def test_leaving_out_for_one_query_does_not_touch_another(world: World) -> None:
    without = [frozenset({5})] + [frozenset()] * (QUERIES - 1)
    left_out, whole = world.rank(depth=COUNT, excluded=without), world.rank(depth=COUNT)
    assert [c.number for c in left_out[1]] == [c.number for c in whole[1]]
    assert 5 in [c.number for c in whole[0]]


def test_nothing_is_ranked_when_every_concept_is_left_out(world: World) -> None:
    everything = frozenset(range(len(SIZES)))
    assert [len(one) for one in world.rank(excluded=[everything] * QUERIES)] == [0] * QUERIES


def test_a_concept_with_the_very_image_comes_first(world: World) -> None:
    world.queries = {facet: matrix[:QUERIES] for facet, matrix in world.exemplars.items()}
    for row, ranked in enumerate(world.rank()):
        assert ranked[0].number == world.concept_of_row[row]
        assert ranked[0].rows[0] == row
        assert all(s[0] == pytest.approx(1, abs=1e-5) for s in ranked[0].similarities.values())


def test_equal_concepts_are_ranked_by_their_number(world: World) -> None:
    twin_rows = [int(np.flatnonzero(world.concept_of_row == n)[0]) for n in (4, 0)]
    for matrix in world.exemplars.values():
        matrix[twin_rows[0]] = matrix[twin_rows[1]]
    for ranked in world.rank(depth=COUNT):
        numbers = [concept.number for concept in ranked]
        assert numbers.index(4) == numbers.index(0) + 1


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ranker, np.ndarray, Vectors]:
    """A ranker with inverted files, of 12 concepts of 300 exemplars and 100 of 5, and queries."""
    folder = tmp_path_factory.mktemp("large")
    sizes = [300] * 12 + [5] * 100
    concepts = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres, spread = vectors(len(sizes), seed=1), vectors(len(concepts), seed=2)
    rows = {f: centres[f][concepts] + 0.3 * spread[f] for f in WIDTHS}
    rows = {f: x / np.linalg.norm(x, axis=1, keepdims=True) for f, x in rows.items()}
    for facet, matrix in rows.items():
        write_vectors(folder, facet, matrix)
        write_inverted(folder / inverted_name(facet), matrix)
    store = FaissStore.open(folder, list(WIDTHS), dict.fromkeys(WIDTHS, 8))
    members = np.arange(0, len(concepts), 8)
    cohort = Cohort(members, {f: x[members] for f, x in rows.items()})
    hidden = np.flatnonzero(concepts == 3)
    ranker = Ranker(store, concepts, cohort, neighbours_of(rows, concepts), hidden)
    return ranker, concepts, {f: x[::97] for f, x in rows.items()}


def test_a_large_index_deepens_until_there_are_enough_concepts(large) -> None:
    ranker, concepts, queries = large
    for wanted in (8, 40, 111, 500):
        for ranked in ranker.rank(queries, concepts=wanted):
            assert len(np.unique(ranked.numbers)) == len(ranked) >= min(wanted, 111)
            assert 3 not in ranked.numbers
            assert np.all(np.diff(ranked.scores) <= 0)
            for place, number in enumerate(ranked.numbers.tolist()):
                rows = ranked[place].rows
                assert len(np.unique(rows)) == len(rows)
                assert (concepts[rows] == number).all()
                assert len(rows) == 5 or np.count_nonzero(concepts == number) == 300


def test_in_a_large_index_sums_do_not_depend_on_how_many_concepts_are_wanted(large) -> None:
    ranker, _, queries = large
    few, many = (list(ranker.rank(queries, concepts=wanted)) for wanted in (8, 100))
    for one, other in zip(few, many, strict=True):
        sums = dict(zip(other.numbers.tolist(), other.statistics[0].tolist(), strict=True))
        # The number of rows multiplied at once changes the last digits.
        assert [sums[number] for number in one.numbers.tolist()] == pytest.approx(one.statistics[0])
        assert one.numbers[0] == other.numbers[0]


def test_similarities_in_a_large_index_are_exact(large) -> None:
    ranker, _, queries = large
    for facet, matrix in queries.items():
        exact = ranker._vectors.vectors(facet, np.arange(len(ranker._visible)))
        for query, ranked in zip(matrix, ranker.rank(queries), strict=True):
            assert ranked.similarities[facet] == pytest.approx(exact[ranked.rows] @ query, abs=1e-5)


def test_standardised_similarities_do_not_care_how_close_everything_is() -> None:
    random = np.random.default_rng(0)
    near, cohort = {"style": random.random((3, 9))}, {"style": random.random((3, 20))}
    levels, background = standardise(near, cohort)
    shifted = standardise(
        {"style": 0.1 * near["style"] + 0.8}, {"style": 0.1 * cohort["style"] + 0.8}
    )
    assert np.allclose(levels["style"], shifted[0]["style"])
    assert background["style"].mean(axis=1) == pytest.approx([0, 0, 0], abs=1e-12)
    assert background["style"].std(axis=1) == pytest.approx([1, 1, 1])


def test_a_cohort_that_is_all_alike_gives_finite_levels() -> None:
    levels, _ = standardise({"style": np.array([0.5])}, {"style": np.full(4, 0.5)})
    assert np.isfinite(levels["style"]).all()


def test_evidence_is_the_mean_over_facets() -> None:
    levels = {"subject": np.array([6.0, 1.0]), "style": np.array([0.0, 2.0])}
    assert combine(levels).tolist() == [3.0, 1.5]


def test_more_evidence_never_lowers_a_sum_and_nearer_neighbours_never_raise_it() -> None:
    random = np.random.default_rng(0)
    background = np.sort(random.standard_normal((2, 100)))
    evidence, usual = random.normal(1, 2, (2, 30)), random.normal(1, 1, (2, 30))
    sizes = np.array([1, 9, 20])
    before = score_concepts(evidence, usual, sizes, background)
    for row in range(30):
        change = np.zeros((2, 30))
        change[row % 2, row] = 1
        more = score_concepts(evidence + change, usual, sizes, background)
        nearer = score_concepts(evidence, usual + change, sizes, background)
        start = 0
        for place, size in enumerate(sizes):
            if size <= ranking.COUNTED and start <= row < start + size:
                assert (more[:, place] >= before[:, place] - 1e-12).all()
                assert (nearer[:, place] <= before[:, place] + 1e-12).all()
            elif not start <= row < start + size:
                assert (more[:, place] == before[:, place]).all()
                assert (nearer[:, place] == before[:, place]).all()
            start += size


def test_a_sum_follows_its_formula() -> None:
    random = np.random.default_rng(0)
    background = np.sort(random.normal(0.5, 1, (2, 50)))
    sizes = [1, 3, 20]
    evidence, usual = random.normal(1, 2, (2, sum(sizes))), random.normal(1, 1, (2, sum(sizes)))
    found = score_concepts(evidence, usual, np.array(sizes), background, weights=(1, 3))
    start = 0
    for (score, best), size in zip(found.T, sizes, strict=True):
        own = list(zip(evidence.T, usual.T, strict=True))[start : start + size]

        def weight(e: np.ndarray, u: np.ndarray) -> float:
            one, other = (max(0, x) + max(0, x - y) for x, y in zip(e, u, strict=True))
            return float(0.25 * one + 0.75 * other)

        own.sort(key=lambda one: -weight(*one))
        highest = []
        for k, (e, u) in enumerate(own[: ranking.COUNTED], start=1):
            rise = np.zeros(2)
            if size > ranking.COUNTED:
                by_chance = background[:, int((1 - k / (size + 1)) * 49)]
                rise = by_chance - background[:, int((1 - k / (ranking.COUNTED + 1)) * 49)]
            highest.append(weight(e - rise, u))
        trace = 1e-3 * max(e.mean() for e, _ in own)
        total = sum(ranking.DECAY**k * each for k, each in enumerate(highest))
        assert score == pytest.approx(total + trace, abs=1e-12)
        assert best == pytest.approx(highest[0] + trace, abs=1e-12)
        start += size


def test_an_exemplar_that_is_near_everything_says_less() -> None:
    """Two concepts as near to a query: the one that strangers are near, too, comes after."""
    evidence, sizes = np.array([[4.0, 4.0]]), np.array([1, 1])
    found = score_concepts(evidence, np.array([[0.5, 3.5]]), sizes, np.zeros((1, 9)))
    assert (found[:, 0] > found[:, 1]).all()


def test_found_by_names_the_facet_that_leads_the_rivals() -> None:
    assert ranking.notable_facets({"subject": 0.5, "style": 6.0}) == ("style",)
    assert ranking.notable_facets({"subject": 3.0, "style": 4.0}) == ("style", "subject")
    assert ranking.notable_facets({"subject": -1.0, "style": -2.0}) == ("subject",)


def test_a_score_is_the_larger_of_the_scaled_leads(world: World) -> None:
    scaling = Scaling(
        quartiles=(2.0, 1.0), scales=(3.0, 0.5), deviations={"subject": 0.2, "style": 0.3}
    )
    for ranked in world.ranker(scaling=scaling).rank(world.queries, depth=COUNT):
        leads = ranked.leads
        for lead, statistic in zip(leads, ranked.statistics, strict=True):
            np.testing.assert_allclose(lead, statistic - np.mean(np.sort(statistic)[::-1][2:8]))
        expected = np.maximum((leads[0] - 2) / 3, (leads[1] - 1) / 0.5) + np.log(4)
        np.testing.assert_allclose(ranked.scores, expected)
        assert (np.diff(ranked.scores) <= 0).all()


def test_the_unit_of_similarities_is_the_same_for_all_queries(world: World) -> None:
    scaling = Scaling(deviations={"subject": 0.2, "style": 0.3})
    own, usual = (
        list(world.ranker(scaling=one).rank(world.queries, depth=COUNT)) for one in (None, scaling)
    )
    for query, (before, after) in enumerate(zip(own, usual, strict=True)):
        rows = {int(row): place for place, row in enumerate(before.rows)}
        order = [rows[int(row)] for row in after.rows]
        for facet, unit in scaling.deviations.items():
            cosines = world.cohort[facet] @ world.queries[facet][query]
            ratio = cosines.std() / unit
            np.testing.assert_allclose(
                after.levels[facet], ratio * before.levels[facet][order], atol=1e-5
            )


def test_the_usual_deviation_is_of_cosines_with_others() -> None:
    cohort = np.eye(3, dtype=np.float32)[[0, 0, 1]]
    # The cosines with the others are 1 and 0, 1 and 0, 0 and 0.
    assert ranking.usual_deviation(cohort) == pytest.approx(0.5)
    assert ranking.usual_deviation(cohort[:1]) == 1
