import numpy as np
import pytest

from model.selection.criterion import (
    FEWEST_CONCEPTS,
    difference,
    evidence,
    facing,
    gives_up_a_kind,
    mean,
    score,
    usual_levels,
)
from model.selection.questions import CHANGES, Questions

STYLE, CROP, COLLAGE = range(3)
COUNT = 60


def questions(concepts: int = 0) -> Questions:
    """Three changes of each of ten pictures of a gallery; picture i has i + 1 as its other."""
    change = np.tile(np.arange(3), 10)
    content = np.repeat(np.arange(10), 3)
    concept = np.full(COUNT, -1)
    concept[: 2 * concepts] = np.repeat(np.arange(concepts), 2)
    other = np.where(change == CROP, -1, content + 1)
    return Questions({}, {}, change, content, other, concept)


def test_the_style_facet_is_asked_for_the_imposed_style() -> None:
    asked = facing(questions(), "style")
    styled = np.flatnonzero(asked.task == STYLE)
    assert [np.flatnonzero(asked.true[row]).tolist() for row in styled] == [
        [i + 1] for i in range(10)
    ]
    assert [np.flatnonzero(asked.barred[row]).tolist() for row in styled] == [
        [i] for i in range(10)
    ]


def test_the_subject_facet_is_asked_for_the_content() -> None:
    asked = facing(questions(), "subject")
    for row, (task, content) in enumerate(zip(asked.task, asked.cluster, strict=True)):
        true = [content, content + 1] if task == COLLAGE else [content]
        assert np.flatnonzero(asked.true[row]).tolist() == true
        barred = [content + 1] if task == STYLE else []
        assert np.flatnonzero(asked.barred[row]).tolist() == barred


def test_held_out_exemplars_are_asked_for_the_others_of_their_concept() -> None:
    asked = facing(questions(FEWEST_CONCEPTS), "subject")
    held_out = np.flatnonzero(asked.task == len(CHANGES))
    assert len(held_out) == 2 * FEWEST_CONCEPTS
    for number, row in enumerate(held_out):
        assert np.flatnonzero(asked.true[row]).tolist() == [number ^ 1]
        assert np.flatnonzero(asked.barred[row]).tolist() == [number]
        assert asked.rows[row] == 30 + number
    assert len(set(asked.cluster[held_out])) == FEWEST_CONCEPTS


@pytest.mark.parametrize(("facet", "concepts"), [("subject", FEWEST_CONCEPTS - 1), ("style", 25)])
def test_few_concepts_and_the_style_facet_ask_no_held_out_exemplars(facet, concepts) -> None:
    assert set(facing(questions(concepts), facet).task) == set(range(3))


def test_a_question_scores_by_rank_and_by_its_lead_over_false_ones() -> None:
    asked = facing(questions(), "subject")
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.1, (30, COUNT)).astype(np.float32)
    nothing = np.zeros(COUNT, np.float32)
    found = score(evidence(noise + 5 * asked.true, nothing, asked.barred), asked)
    assert found == pytest.approx(np.ones(30))
    lost = score(evidence(noise - 5 * asked.true, nothing, asked.barred), asked)
    assert lost.max() < 1 / 3 / 40
    blind = score(evidence(noise, nothing, asked.barred), asked)
    assert 0 < mean(blind, asked) < 0.2


def test_an_exemplar_that_is_near_everything_says_less() -> None:
    cosines = np.eye(8, dtype=np.float32)
    cosines[0] = cosines[:, 0] = 0.9
    levels = usual_levels(cosines)
    assert levels[0] == pytest.approx(0.9)
    assert levels[1:].max() == pytest.approx(0.18)
    query = np.array([[0.9, 0.9, *[0.0] * 6]], np.float32)
    hub, own, *_ = evidence(query, levels, np.zeros((1, 8), np.bool_))[0]
    assert own > hub


def test_a_difference_has_the_error_of_pictures_not_of_questions() -> None:
    asked = facing(questions(), "subject")
    random = np.random.default_rng(0)
    first = random.uniform(0.5, 1, 10)[asked.cluster]
    gain, error = difference(first, np.full(30, 0.5), asked)
    assert gain == pytest.approx(np.log(first.mean() / 0.5))
    assert error == pytest.approx((first[::3] / first.mean()).std(ddof=1) / np.sqrt(10))


def test_a_kind_that_is_given_up_outweighs_a_gain_in_an_easier_one() -> None:
    asked = facing(questions(), "style")
    hard = asked.task == STYLE
    before = np.where(hard, 0.1, 0.6)
    after = np.where(hard, 0.02, 0.9)
    assert after.mean() > before.mean()
    assert difference(after, before, asked)[0] < 0
    assert mean(after, asked) < mean(before, asked)
    assert gives_up_a_kind(after, before, asked)
    assert not gives_up_a_kind(before + 0.01, before, asked)
