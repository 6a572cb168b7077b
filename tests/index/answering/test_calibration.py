import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from index.answering.calibration import Calibration, Scaling

finite = st.floats(-100, 100)
rates = st.floats(0.001, 0.999)


def calibration(scores: object) -> Calibration:
    return Calibration(null_scores=tuple(sorted(map(float, scores), reverse=True)))  # type: ignore[call-overload]


THOUSAND = calibration(np.random.default_rng(0).gumbel(3, 1, 1000))


# p-values


@pytest.mark.parametrize(
    ("score", "p_value"), [(9.0, 1 / 5), (4.0, 2 / 5), (3.5, 2 / 5), (2.0, 4 / 5), (0.0, 1.0)]
)
def test_a_p_value_counts_null_scores_that_are_as_high(score: float, p_value: float) -> None:
    assert calibration([1, 2, 3, 4]).p_value(score) == pytest.approx(p_value)


def test_equal_null_scores_all_count() -> None:
    assert calibration([2, 2, 2, 1]).p_value(2) == pytest.approx(4 / 5)


@pytest.mark.parametrize("size", [99, 999])
def test_p_values_are_uniform_under_an_exponential_tail(size: int) -> None:
    random = np.random.default_rng(0)
    p_values = []
    for _ in range(400):
        drawn = random.exponential(1, size + 10)
        found = calibration(drawn[:size])
        p_values += [found.p_value(score) for score in drawn[size:]]
    for rate in (0.02, 0.05, 0.2, 0.5, 0.9):
        assert np.mean(np.array(p_values) <= rate) == pytest.approx(rate, abs=0.2 * rate + 0.005)


def test_twins_in_the_null_do_not_raise_the_threshold() -> None:
    """Images that are in the index under another name as well do not make others need more."""
    random = np.random.default_rng(0)
    clean = random.gumbel(0, 1, 1000)
    with_twins = np.concatenate([clean[30:], random.normal(20, 1, 30)])
    counted = np.sort(with_twins)[::-1][9]
    assert calibration(with_twins).threshold(0.01) == pytest.approx(
        calibration(clean).threshold(0.01), abs=0.5
    )
    assert counted > calibration(clean).threshold(0.01) + 10


@given(st.lists(finite, max_size=200), finite, finite)
def test_a_higher_score_never_has_a_higher_p_value(null, first, second) -> None:
    low, high = sorted((first, second))
    found = calibration(null)
    assert 1 / (len(null) + 1) <= found.p_value(high) <= found.p_value(low) <= 1


# The threshold


@given(st.lists(finite, min_size=1, max_size=300), rates)
def test_the_threshold_is_where_p_falls_to_the_rate(null: list[float], rate: float) -> None:
    found = calibration(null)
    limit = found.threshold(rate)
    if math.isinf(limit):
        assert found.p_value(1e9) > rate
        return
    assert found.p_value(limit) <= rate
    below = limit - 1e-9 * max(1, abs(limit))
    assert found.p_value(below) > rate * (1 - 1e-5)


@pytest.mark.parametrize("rate", [0.07, 0.29, 0.57])
def test_a_rate_that_divides_evenly_is_not_lost_to_rounding(rate: float) -> None:
    found = calibration(range(39))  # rate * 40 null scores and more
    assert sum(score >= found.threshold(rate) for score in range(39)) == int(rate * 40 + 1e-9) - 1


@pytest.mark.parametrize("count", [0, 1, 98])
def test_a_null_too_small_for_the_rate_never_gives_a_match(count: int) -> None:
    found = calibration(range(count))
    assert found.threshold(0.01) == math.inf
    assert found.verdict([1e9], 0.01) == "no_match"


def test_a_null_just_large_enough_gives_a_match() -> None:
    found = calibration(range(99))
    assert found.verdict([1e9], 0.01) == "attributed"
    assert found.verdict([98.0], 0.01) == "no_match"


@pytest.mark.parametrize("count", [0, 1, 99])
def test_at_a_rate_of_one_every_score_passes(count: int) -> None:
    found = calibration(range(count))
    assert found.threshold(1.0) == -math.inf
    assert found.verdict([-5.0], 1.0) != "no_match"


# Likelihood ratios


@given(st.lists(finite, max_size=200), finite, finite)
def test_ratios_rise_with_the_score_and_stay_within_what_the_null_can_tell(
    null, first, second
) -> None:
    low, high = sorted((first, second))
    found, most = calibration(null), len(null) + 1
    assert 1 / most <= found.likelihood_ratio(low) <= found.likelihood_ratio(high) <= most


def test_without_a_null_nothing_is_said() -> None:
    assert calibration([]).likelihood_ratio(1e9) == 1


def test_ratios_are_densities_of_p_values() -> None:
    """The density with a source present integrates to 1: a ratio is 1 on average without."""
    found = calibration(np.random.default_rng(1).gumbel(0, 1, 20_000))
    scores = np.random.default_rng(2).gumbel(0, 1, 20_000)
    ratios = np.array([found.likelihood_ratio(score) for score in scores])
    # No more than 1, since p-values stop at 1 / (n + 1): SHAPE of the density lies beyond.
    assert 0.4 < ratios.mean() < 1.05


# Candidates


def test_candidates_are_the_concepts_that_share_the_evidence() -> None:
    limit = THOUSAND.threshold()
    assert THOUSAND.candidates([]) == 0
    assert THOUSAND.candidates([THOUSAND.null_scores[500], -5.0]) == 0
    assert THOUSAND.candidates([limit + 20, limit]) == 1
    assert THOUSAND.candidates([limit + 20, limit + 20, limit]) == 2


# Shares


@given(st.lists(finite, max_size=30))
def test_shares_and_what_is_unattributed_sum_to_one(scores: list[float]) -> None:
    scores = sorted(scores, reverse=True)
    shares, rest = THOUSAND.shares(scores)
    assert len(shares) == len(scores)
    assert sum(shares) + rest == pytest.approx(1, abs=1e-9)
    assert all(0 <= share <= 1 for share in [*shares, rest])
    order = np.argsort(scores)
    assert (np.diff(np.array(shares)[order]) >= -1e-12).all()


@pytest.mark.parametrize("scores", [[1e9, 1e9], [-1e9], [1e9, -1e9], []])
def test_shares_of_extreme_scores_are_numbers(scores: list[float]) -> None:
    shares, rest = THOUSAND.shares(scores)
    assert np.isfinite([*shares, rest]).all()
    assert sum(shares) + rest == pytest.approx(1)


def test_concepts_no_higher_than_the_rivals_take_nothing() -> None:
    shares, rest = THOUSAND.shares([9.0, 0.0, -1.0] + [-2.0] * 5000)
    assert shares[0] + rest == pytest.approx(1)
    assert THOUSAND.shares([0.0, -1.0])[1] == 1


def test_a_concept_alone_takes_what_even_odds_and_its_ratio_give() -> None:
    score = THOUSAND.threshold()
    ratio = THOUSAND.likelihood_ratio(score)
    shares, rest = THOUSAND.shares([score])
    assert shares == pytest.approx([ratio / (1 + ratio)])
    assert rest == pytest.approx(1 / (1 + ratio))


def test_without_any_score_everything_is_unattributed() -> None:
    shares, rest = THOUSAND.shares([])
    assert (len(shares), rest) == (0, 1.0)


def test_a_null_without_spread_still_gives_shares() -> None:
    shares, rest = calibration([1.0] * 500).shares([2.0, 0.0])
    assert shares[0] > 0.9
    assert shares[1] < 1e-9
    assert sum(shares) + rest == pytest.approx(1)


# The verdict


def test_the_verdict_follows_score_and_rivals() -> None:
    limit = THOUSAND.threshold()
    assert THOUSAND.verdict([]) == "no_match"
    assert THOUSAND.verdict([limit - 0.01]) == "no_match"
    assert THOUSAND.verdict([limit]) == "attributed"
    assert THOUSAND.verdict([limit + 20, limit]) == "attributed"
    assert THOUSAND.verdict([limit + 20] * 3) == "uncertain"


def test_a_stricter_rate_attributes_less() -> None:
    score = THOUSAND.threshold(0.05)
    assert THOUSAND.verdict([score], 0.05) == "attributed"
    assert THOUSAND.verdict([score], 0.01) == "no_match"


@pytest.mark.parametrize(
    "content", ['{"null_scores": [1], "format": 1}', "{}", '{"null_scores": ["x"]}']
)
def test_a_calibration_of_another_form_is_refused(content: str) -> None:
    with pytest.raises(ValidationError):
        Calibration.model_validate_json(content)


def test_a_calibration_survives_json() -> None:
    assert Calibration.model_validate_json(THOUSAND.model_dump_json()) == THOUSAND


def test_a_score_is_minus_the_logarithm_of_the_smaller_tail_probability() -> None:
    random = np.random.default_rng(0)
    leads = np.stack([3 + 2 * random.exponential(size=4000), random.exponential(size=4000) / 2])
    scaling = Scaling(deviations={"style": 0.1}).fitted(leads)
    assert scaling.deviations == {"style": 0.1}
    assert scaling.scales == pytest.approx((2, 0.5), rel=0.1)
    asked = np.array([[3 + 2 * np.log(50), 3], [0, 0.5 * np.log(200)]])
    np.testing.assert_allclose(scaling.scores(asked), np.log([50, 200]), atol=0.5)


def test_a_version_of_one_statistic_is_scored_by_it() -> None:
    leads = np.array([[1.0, 2.0], [7.0, 8.0]])
    old = Calibration.model_validate_json('{"format": 3, "null_scores": [3, 2, 1]}')
    assert old.scaling.scores(leads).tolist() == [1, 2]
