import pytest

from index.answering.support import degree, statement, support_for, times


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (1, "none"),
        (1.99, "none"),
        (2, "weak"),
        (9.99, "weak"),
        (10, "moderate"),
        (100, "moderately strong"),
        (1000, "strong"),
        (1e4, "very strong"),
        (1e6, "extremely strong"),
        (0.5, "weak"),
        (0.1, "moderate"),
    ],
)
def test_degrees_are_those_of_the_enfsi_guideline(ratio: float, words: str) -> None:
    assert degree(ratio) == words


@pytest.mark.parametrize(
    ("ratio", "words"), [(0.01, "none"), (0.5, "none"), (1, "none"), (20, "moderate")]
)
def test_a_concept_has_no_support_where_its_ratio_speaks_against_it(
    ratio: float, words: str
) -> None:
    assert support_for(ratio) == words


@pytest.mark.parametrize(
    ("ratio", "said"), [(2.04, "2"), (5.55, "5.6"), (9.96, "10"), (84.4, "84"), (1234, "1,200")]
)
def test_ratios_are_said_to_two_digits(ratio: float, said: str) -> None:
    assert times(ratio) == said


def test_a_sentence_says_degree_and_number() -> None:
    assert statement(["Starry Night"], 80.2) == (
        "The likeness found is about 80 times likelier if the image draws on Starry Night than if "
        "its source is not in this collection: moderate support for Starry Night."
    )
    assert "about 5 times likelier if the source of the image is not in" in statement(["A"], 0.2)
    assert "no support either way" in statement(["A"], 1.5)
    assert "no concept" in statement([], 1)


def test_concepts_that_share_the_evidence_are_named_up_to_three() -> None:
    assert statement(["A", "B"], 20).endswith("A and B share this evidence.")
    assert statement(["A", "B", "C"], 20).endswith("A, B and C share this evidence.")
    assert statement(["A", "B", "C", "D"], 20).endswith("4 concepts share this evidence.")
    many = statement(["A", "B", "C", "D"], 20, all_named=False)
    assert many.endswith("At least 4 concepts share this evidence.")
    two = statement(["A", "B"], 20, all_named=False)
    assert two.endswith("A, B and perhaps others share this evidence.")
