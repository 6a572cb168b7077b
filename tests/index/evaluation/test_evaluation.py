import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest

from index.answering.attribution import Attributor
from index.building.source import concept_id
from index.errors import EvaluationError
from index.evaluation.local import ask_attributor
from index.evaluation.metrics import average_precision, cllr, hit_at, macro_mean, min_cllr
from index.evaluation.pairs import Answer, Pair, evaluate_pairs, read_pairs
from model.errors import WhenceError
from tests.fakes import FakeEmbedder, build_snapshot, patches

# Metrics


@pytest.mark.parametrize(
    ("ranked", "true", "expected"),
    [
        ("abcd", "a", 1.0),
        ("abcd", "b", 1 / 2),
        ("abcd", "d", 1 / 4),
        ("abcd", "ab", 1.0),
        ("abcd", "bd", (1 / 2 + 2 / 4) / 2),
        ("abcd", "ax", 1 / 2),  # x is not ranked
        ("abcd", "x", 0.0),
        ("", "a", 0.0),
    ],
)
def test_average_precision_is_known_by_hand(ranked: str, true: str, expected: float) -> None:
    assert average_precision(list(ranked), list(true)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("true", "k", "expected"), [("a", 1, 1), ("b", 1, 0), ("b", 2, 1), ("xc", 3, 1), ("x", 9, 0)]
)
def test_a_hit_is_any_true_item_among_the_first(true: str, k: int, expected: float) -> None:
    assert hit_at(list("abc"), list(true), k) == expected


def test_a_macro_mean_counts_every_group_alike() -> None:
    assert macro_mean({"a": [1.0, 1.0, 1.0, 0.0], "b": [0.0]}) == pytest.approx(0.375)


# Pairs


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pairs_are_read_with_ids_paths_and_kinds(tmp_path: Path) -> None:
    csv = tmp_path / "pairs.csv"
    csv.write_text(
        "path,concepts,kind,note\n"
        "q/1.png,Van Gogh;Ada Lovelace,style,x\n"
        f"{tmp_path}/abs.png,007,,x\n"
        "q/none.png,,style,no concept\n"
    )
    assert read_pairs(csv) == [
        Pair(tmp_path / "q" / "1.png", ("van-gogh", "ada-lovelace"), "style"),
        Pair(tmp_path / "abs.png", ("007",), "all"),
    ]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_pair_names_a_concept_as_its_source_does(tmp_path: Path, form, monkeypatch) -> None:
    pairs = write(tmp_path / "p.jsonl", {"path": "q.png", "concepts": normalize(form, "Renée A.")})
    (pair,) = read_pairs(pairs)
    assert pair.concepts == (concept_id("Renée A."),)
    monkeypatch.setattr("index.evaluation.pairs.concept_id", str.upper)  # one rule, told once
    assert read_pairs(pairs)[0].concepts == (normalize(form, "RENÉE A."),)


@pytest.mark.parametrize("text", ["Ada;", " ; Ada", "Ada; ada ;Ada", "Ada;;"])
def test_empty_and_repeated_concepts_of_a_pair_do_not_count(tmp_path: Path, text: str) -> None:
    (pair,) = read_pairs(write(tmp_path / "p.jsonl", {"path": "q.png", "concepts": text}))
    assert pair.concepts == ("ada",)


def test_pairs_without_a_column_are_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="lacks the column concepts; it has path, concept"):
        read_pairs(write(tmp_path / "p.jsonl", {"path": "q.png", "concept": "x"}))


@pytest.mark.parametrize("row", [{"path": "q.png", "concepts": ""}, {"path": "", "concepts": "x"}])
def test_a_list_that_names_no_pair_is_refused(tmp_path: Path, row: dict[str, object]) -> None:
    with pytest.raises(EvaluationError, match="names no pairs"):
        read_pairs(write(tmp_path / "p.jsonl", row))


def test_a_list_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WhenceError, match=r"nowhere\.csv"):
        read_pairs(tmp_path / "nowhere.csv")


# The report


def pair(*concepts: str, kind: str = "all") -> Pair:
    return Pair(Path(f"/{'-'.join(concepts)}.png"), concepts, kind)


def ask(*answers: Answer):
    def answer(pairs: Sequence[Pair]) -> Iterator[Answer]:
        yield from answers

    return answer


def test_scores_are_means_over_concepts_and_over_kinds() -> None:
    pairs = [pair("a", kind="x"), pair("a", kind="x"), pair("a", kind="y"), pair("b", kind="y")]
    answers = [
        Answer(("a", "b"), "attributed"),
        Answer(("c", "a"), "attributed"),
        Answer(("c", "d", "e", "f", "g", "a"), "no_match"),
        Answer(("b",), "uncertain"),
    ]
    report = evaluate_pairs(pairs, ask(*answers))
    by_hand = {"a": (1 + 1 / 2 + 1 / 6) / 3, "b": 1.0}
    assert report.macro.map == pytest.approx((by_hand["a"] + by_hand["b"]) / 2)
    assert report.macro.recall_at_1 == pytest.approx((1 / 3 + 1) / 2)
    assert report.macro.recall_at_5 == pytest.approx((2 / 3 + 1) / 2)
    assert report.macro.queries == 4
    assert report.by_kind["x"].recall_at_1 == pytest.approx(1 / 2)
    assert report.by_kind["y"].map == pytest.approx((1 / 6 + 1) / 2)
    assert report.verdicts == {"attributed": 2, "no_match": 1, "uncertain": 1}
    assert report.attributed_correctly == pytest.approx(2 / 4)
    assert report.ranked_concepts == 6
    assert report.failed == 0


def test_any_of_several_true_concepts_is_a_hit_and_both_count_for_precision() -> None:
    report = evaluate_pairs([pair("a", "b")], ask(Answer(("b", "x", "a"), "attributed")))
    assert report.macro.recall_at_1 == 1
    assert report.macro.map == pytest.approx((1 + 2 / 3) / 2)
    assert report.answers[0]["true_ranks"] == {"b": 1, "a": 3}


def test_a_failed_answer_counts_as_wrong() -> None:
    good, bad = Answer(("a",), "attributed"), Answer(error="503")
    report = evaluate_pairs([pair("a")] * 4, ask(good, bad, bad, bad))
    assert report.failed == 3
    assert report.macro.recall_at_1 == report.macro.map == pytest.approx(1 / 4)
    assert report.attributed_correctly == pytest.approx(1 / 4)
    assert report.verdicts == {"attributed": 1, "failed": 3}


def test_a_report_of_failures_only_is_all_zero() -> None:
    report = evaluate_pairs([pair("a")], ask(Answer(error="refused")))
    assert (report.macro.map, report.macro.recall_at_5, report.failed) == (0, 0, 1)
    assert report.false_attribution_rate is None


@pytest.mark.parametrize(
    ("verdicts", "rate"),
    [
        (["no_match"] * 4, 0.0),
        (["attributed", "uncertain", "no_match", "no_match"], 0.5),
        ([None, "attributed", "no_match", None], 0.5),
        ([None] * 4, None),
    ],
)
def test_any_answer_without_the_source_is_a_false_attribution(verdicts, rate) -> None:
    answers = [Answer(("a",), "attributed", absent_verdict=verdict) for verdict in verdicts]
    report = evaluate_pairs([pair("a")] * 4, ask(*answers))
    assert report.false_attribution_rate == rate


def test_progress_is_reported_and_the_report_is_json() -> None:
    seen: list[tuple[int, int]] = []
    answers = [Answer(("a",), "attributed", p_value=0.5)] * 2
    report = evaluate_pairs([pair("a"), pair("b")], ask(*answers), lambda *now: seen.append(now))
    assert seen == [(1, 2), (2, 2)]
    written = json.loads(json.dumps(report.as_dict()))
    assert written["answers"][0]["path"] == "/a.png"
    assert written["macro"]["queries"] == 2


def test_fewer_answers_than_pairs_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        evaluate_pairs([pair("a"), pair("b")], ask(Answer(("a",))))


# In this process


@pytest.fixture(scope="module")
def attributor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attributor]:
    pictures = {f"c{n}": [patches(10 * n + k) for k in range(2)] for n in range(8)}
    snapshot = build_snapshot(tmp_path_factory.mktemp("data"), pictures)
    yield Attributor(FakeEmbedder(), snapshot)
    snapshot.close()


@pytest.fixture
def queries(tmp_path: Path) -> list[Pair]:
    pairs = []
    for number in range(8):
        path = tmp_path / f"{number}.png"
        patches(10 * number, side=48).save(path)
        pairs.append(Pair(path, (f"c{number}",), "all"))
    return pairs


def test_a_local_answer_ranks_every_concept_and_asks_again_without_the_source(
    attributor: Attributor, queries: list[Pair]
) -> None:
    answers = list(ask_attributor(attributor, queries))
    for pair, answer in zip(queries, answers, strict=True):
        assert answer.error is None
        assert answer.ranked[0] == pair.concepts[0]
        assert sorted(answer.ranked) == [f"c{n}" for n in range(8)]
        assert answer.absent_p_value > answer.p_value
    report = evaluate_pairs(queries, lambda pairs: ask_attributor(attributor, pairs))
    assert report.macro.map == 1
    assert report.attributed_correctly >= 0.5
    assert report.false_attribution_rate == 0


def test_an_unreadable_query_fails_alone(attributor: Attributor, queries: list[Pair]) -> None:
    queries[3].path.write_text("not an image")
    queries[5].path.unlink()
    report = evaluate_pairs(queries, lambda pairs: ask_attributor(attributor, pairs))
    assert report.failed == 2
    assert report.macro.recall_at_1 == pytest.approx(6 / 8)
    assert "error" in report.answers[3]


def test_a_source_that_was_never_in_the_index_is_simply_wrong(attributor, queries) -> None:
    lost = [Pair(query.path, ("nobody",), "all") for query in queries]
    report = evaluate_pairs(lost, lambda pairs: ask_attributor(attributor, pairs))
    assert report.macro.map == report.attributed_correctly == 0
    # Nothing could be left out, so each copy of an exemplar is found as if asked with it.
    verdicts = report.verdicts
    assert report.false_attribution_rate == 1 - verdicts.get("no_match", 0) / 8


# Likelihood ratios


def test_cllr_is_the_cost_in_bits() -> None:
    assert cllr([1.0], [1.0]) == pytest.approx(1)
    assert cllr([1e12], [1e-12]) == pytest.approx(0, abs=1e-9)
    assert cllr([3.0], [1.0]) == pytest.approx((math.log2(4 / 3) + 1) / 2)
    assert cllr([], [1.0]) is None


def test_the_least_cllr_is_that_of_the_best_monotone_recalibration() -> None:
    random = np.random.default_rng(0)
    present = np.exp(random.normal(1, 2**0.5, 4000))
    absent = np.exp(random.normal(-1, 2**0.5, 5000))
    least = min_cllr(present.tolist(), absent.tolist())
    assert least is not None
    assert least == pytest.approx(min_cllr((present**3).tolist(), (absent**3).tolist()), abs=1e-9)
    for power in (0.3, 0.5, 1, 2):
        for factor in (0.5, 1, 3):
            cost = cllr((factor * present**power).tolist(), (factor * absent**power).tolist())
            assert cost is not None
            assert cost >= least - 1e-9
    # These are their own exact ratios already, so there is little to gain.
    assert least == pytest.approx(cllr(present.tolist(), absent.tolist()), abs=0.02)


@pytest.mark.parametrize(
    ("present", "absent", "least"),
    [([2.0, 3.0], [0.5, 1.0], 0), ([1.0], [1.0], 1), ([1.0, 1.0], [2.0, 2.0], 1)],
)
def test_the_least_cllr_of_what_is_told_apart_and_what_is_not(present, absent, least) -> None:
    assert min_cllr(present, absent) == pytest.approx(least, abs=1e-12)
