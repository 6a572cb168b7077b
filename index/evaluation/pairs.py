"""Evaluate answers to known pairs of a synthetic image and its source concepts.

Protocols, both over one gallery of all concepts in the index:

- one gallery: rank all concepts; macro-averaged over the queries' first concept.
- absent source: the same queries with their true concepts left out; any verdict other than
  ``no_match`` is then a false attribution.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from index.building.manifests.reading import malformed, read_manifest
from index.building.manifests.records import RecordError
from index.building.source import manifest_path
from index.errors import EvaluationError
from index.evaluation.metrics import average_precision, cllr, hit_at, macro_mean, min_cllr
from index.names import concept_id
from model.sources.local import LocalFile


@dataclass(frozen=True)
class Pair:
    """A query image and the concepts it was made from; any of them is a correct answer."""

    path: Path
    concepts: tuple[str, ...]  # ids, the main one first
    kind: str


@dataclass(frozen=True)
class Answer:
    """Answer to one query."""

    ranked: tuple[str, ...] = ()  # concept ids, best first
    verdict: str = ""
    p_value: float | None = None  # of the first concept
    share: float | None = None  # of the first concept
    likelihood_ratio: float | None = None  # of the first concept
    candidates: tuple[str, ...] = ()  # ids of the concepts said to share the evidence
    found_by: tuple[str, ...] = ()  # facets that found the first concept, the stronger first
    absent_p_value: float | None = None  # of the first concept when the true ones are left out
    absent_likelihood_ratio: float | None = None
    absent_verdict: str | None = None
    error: str | None = None  # the request failed; counts as wrong


@dataclass(frozen=True)
class Scores:
    """Metrics of a group of queries."""

    queries: int
    map: float
    recall_at_1: float
    recall_at_5: float


@dataclass(frozen=True)
class PairsReport:
    """Result of `evaluate_pairs`."""

    overall: Scores  # averaged over queries
    macro: Scores  # averaged over the queries' first concept
    by_kind: dict[str, Scores]  # averaged over queries
    failed: int
    ranked_concepts: int  # most concepts that an answer ranks; mAP counts the others as missed
    verdicts: dict[str, int]
    false_attribution_rate: float | None  # absent source; None if not asked
    attributed_correctly: float  # share of answers not no_match, with a true concept first
    cllr: float | None  # of ratios, source present and ranked first against absent; bits
    min_cllr: float | None  # the same after the best monotone recalibration
    candidates_hold: float | None  # of the matched answers, share whose candidates hold a true one
    answers: list[dict[str, object]]

    def as_dict(self) -> dict[str, object]:
        """Return the fields for JSON."""
        return asdict(self)


def read_pairs(path: Path) -> list[Pair]:
    """Read ``path, concepts`` (separated by ``;``) and optionally ``kind`` from a manifest.

    Paths are absolute or relative to the manifest. Rows without concepts are left out, since no
    answer to them is correct.

    Raises:
        EvaluationError: a column is missing, or no row names a concept.
    """
    records = read_manifest(LocalFile(path), ("path", "concepts", "kind"))
    missing = [column for column in ("path", "concepts") if column not in records.columns]
    if missing:
        raise EvaluationError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has "
            f"{', '.join(records.columns)} and needs path and concepts (separated by ;)"
        )
    try:
        pairs = [
            Pair(manifest_path(path, image), concepts, record.text("kind") or "all")
            for record in records.records
            if (image := record.text("path"))
            and (concepts := _concepts(record.text("concepts") or ""))
        ]
    except RecordError as error:
        raise malformed(LocalFile(path), error) from error
    if not pairs:
        raise EvaluationError(f"{path} names no pairs of an image and its concepts")
    return pairs


def _concepts(text: str) -> tuple[str, ...]:
    """Returns the ids of the concepts in ``a; b``, each once."""
    return tuple(dict.fromkeys(concept_id(name) for name in text.split(";") if name.strip()))


def evaluate_pairs(
    pairs: Sequence[Pair],
    ask: Callable[[Sequence[Pair]], Iterable[Answer]],
    progress: Callable[[int, int], None] | None = None,
) -> PairsReport:
    """Ask every query and score the answers.

    Args:
        pairs: from `read_pairs`.
        ask: answers pairs in order; by an `Attributor` or over HTTP.
        progress: called with (done, total).
    """
    answers: list[Answer] = []
    for answer in ask(pairs):
        answers.append(answer)
        if progress:
            progress(len(answers), len(pairs))
    asked = list(zip(pairs, answers, strict=True))
    kinds = sorted({pair.kind for pair in pairs})
    absent = [a.absent_verdict for a in answers if a.absent_verdict is not None]
    present_ratios, absent_ratios = _ratios(asked)
    matched = [item for item in asked if item[1].verdict in {"attributed", "uncertain"}]
    verdicts: dict[str, int] = defaultdict(int)
    for answer in answers:
        verdicts[answer.verdict or "failed"] += 1
    return PairsReport(
        overall=_score(asked),
        macro=_score(asked, groups=[pair.concepts[0] for pair in pairs]),
        by_kind={kind: _score([item for item in asked if item[0].kind == kind]) for kind in kinds},
        failed=sum(answer.error is not None for answer in answers),
        ranked_concepts=max(len(answer.ranked) for answer in answers),
        verdicts=dict(verdicts),
        false_attribution_rate=(
            sum(verdict != "no_match" for verdict in absent) / len(absent) if absent else None
        ),
        attributed_correctly=sum(
            answer.verdict in {"attributed", "uncertain"}
            and hit_at(answer.ranked, pair.concepts, 1) == 1
            for pair, answer in asked
        )
        / len(asked),
        cllr=cllr(present_ratios, absent_ratios),
        min_cllr=min_cllr(present_ratios, absent_ratios),
        candidates_hold=(
            sum(bool(set(pair.concepts) & set(answer.candidates)) for pair, answer in matched)
            / len(matched)
            if matched
            else None
        ),
        answers=[_record(pair, answer) for pair, answer in asked],
    )


def _ratios(asked: Sequence[tuple[Pair, Answer]]) -> tuple[list[float], list[float]]:
    """Return the first concepts' likelihood ratios: of true ones, and with the source absent."""
    present = [
        answer.likelihood_ratio
        for pair, answer in asked
        if answer.likelihood_ratio is not None and hit_at(answer.ranked, pair.concepts, 1)
    ]
    absent = [
        answer.absent_likelihood_ratio
        for _, answer in asked
        if answer.absent_likelihood_ratio is not None
    ]
    return present, absent


def _score(asked: Sequence[tuple[Pair, Answer]], groups: Sequence[str] | None = None) -> Scores:
    """Average the metrics over queries, or over groups of queries if their names are given."""
    values: dict[str, dict[str, list[float]]] = {
        "map": defaultdict(list),
        "recall_at_1": defaultdict(list),
        "recall_at_5": defaultdict(list),
    }
    for name, (pair, answer) in zip(groups or [""] * len(asked), asked, strict=True):
        values["map"][name].append(average_precision(answer.ranked, pair.concepts))
        values["recall_at_1"][name].append(hit_at(answer.ranked, pair.concepts, 1))
        values["recall_at_5"][name].append(hit_at(answer.ranked, pair.concepts, 5))
    return Scores(len(asked), **{metric: macro_mean(found) for metric, found in values.items()})


def _record(pair: Pair, answer: Answer) -> dict[str, object]:
    ranks = {name: answer.ranked.index(name) + 1 for name in pair.concepts if name in answer.ranked}
    record = {key: value for key, value in asdict(answer).items() if value is not None}
    return {
        **record,
        "path": str(pair.path),
        "concepts": list(pair.concepts),
        "kind": pair.kind,
        "ranked": list(answer.ranked[:10]),
        "true_ranks": ranks,
    }
