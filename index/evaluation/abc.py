"""The AbC benchmark (attribution by customization): retrieve the images a generator was tuned on.

Wang et al. 2023, "Evaluating Data Attribution for Text-to-Image Models", arXiv 2306.09345. Each
model of the release was fine-tuned on a few exemplars; the images it then generated are the
queries, grouped by the type of their prompts. Protocols:

- official: the gallery is the distractors and that model's own exemplars, each as often as listed.
- one-gallery: the gallery is the distractors and the exemplars of all models of the split, as in a
  service.

Recall@K is the share of a query's true exemplars among the first K; average precision is over the
whole ranking; both are averaged over queries. Ties count against the method (see
`index.evaluation.ranks`). Files of a run:

    <out>/features/<model_id>/                      embeddings, shared by runs (`features`)
    <out>/<split>-<protocol>-<key>/run.json         protocol, model and inputs
    <out>/<split>-<protocol>-<key>/calibration.json null scores of the shares (`abc_shares`)
    <out>/<split>-<protocol>-<key>/ranks.csv        ranks and shares of each query
    <out>/<split>-<protocol>-<key>/report.json      the metrics, computed from `ranks.csv`
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import numpy as np

from index.answering.calibration import Calibration
from index.answering.ranking import Doubles, Embeddings
from index.building.writing import COHORT_SIZE
from index.errors import EvaluationError
from index.evaluation import abc_shares
from index.evaluation.abc_release import Query, Split
from index.evaluation.abc_report import (
    AbcReport,
    QueryRanks,
    append_ranks,
    curve,
    read_ranks,
    resume_ranks,
    score,
)
from index.evaluation.abc_shares import (
    HIGHEST,
    Bin,
    calibrate,
    concept_scores,
    stated_shares,
)
from index.evaluation.abc_source import SEED, Progress, Source, SplitFeatures
from index.evaluation.features import Features
from index.evaluation.metrics import AbcProtocol
from index.evaluation.ranks import Highest, count_at_least, ranks_of
from index.evaluation.scores import ExemplarScorer

QUERIES = 512  # ranked together; a killed run loses at most these

RECIPE, CALIBRATION, RANKS, REPORT = "run.json", "calibration.json", "ranks.csv", "report.json"


@dataclass(frozen=True)
class AbcResult:
    """Result of `evaluate_abc`: a report for each split, and the calibration curve of all."""

    reports: list[AbcReport]
    calibration_curve: list[Bin]


def evaluate_abc(
    splits: Sequence[Split],
    source: Source,
    *,
    out: Path,
    protocol: AbcProtocol = "official",
    progress: Progress | None = None,
) -> AbcResult:
    """Rank every query's true exemplars; an interrupted run is continued.

    Args:
        splits: from `index.evaluation.abc_release.read_splits`.
        source: of the vectors to rank.
        out: the folder of features and ranks; runs may share it.
        protocol: defines the gallery.
        progress: called with (stage, done, total).

    Raises:
        EvaluationError: see the source's `load`; or another run is writing to ``out``, or a file
            there is damaged.
    """
    report = progress or (lambda *_: None)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(out / ".lock", timeout=0):
            loaded, distractors = source.load(splits, report)
            reports, every = [], list[QueryRanks]()
            for split, features in zip(splits, loaded, strict=True):
                run = _Run(split, protocol, source, features, distractors)
                ranks, result = run.finish(out, report)
                every += ranks
                reports.append(result)
            return AbcResult(reports, curve(every))
    except filelock.Timeout:
        raise EvaluationError(
            f"another evaluation is writing to {out}; wait for it, or choose another --out"
        ) from None


class _Run:
    """One split, protocol and source of vectors."""

    def __init__(
        self,
        split: Split,
        protocol: AbcProtocol,
        source: Source,
        features: SplitFeatures,
        distractors: Features,
    ) -> None:
        self._split = split
        self._everyone = protocol == "one-gallery"
        self._protocol = protocol
        self._source = source
        self._queries = features.queries
        self._query_row = dict(zip(split.queries, features.query_rows.tolist(), strict=True))
        self._exemplars = features.exemplars
        # In one gallery an image is there once, however often it is listed.
        self._true_rows = [
            np.array(list(dict.fromkeys(rows.tolist()))) if self._everyone else rows
            for rows in features.true_rows
        ]
        self._distractors = distractors
        order = np.random.default_rng(SEED).permutation(distractors.count)
        self._cohort = distractors.take(np.sort(order[:COHORT_SIZE]))
        self._null = np.sort(order[COHORT_SIZE : COHORT_SIZE + abc_shares.NULL_QUERIES])

    def finish(self, out: Path, report: Progress) -> tuple[list[QueryRanks], AbcReport]:
        """Rank the queries that the run's file lacks, and write the report."""
        folder = self._open(out)
        self._rank_all(folder, report)
        ranks = read_ranks(folder / RANKS)
        if [item.query for item in ranks] != list(self._split.queries):
            raise EvaluationError(
                f"{folder / RANKS} does not list the queries of {self._split.file}; "
                "delete it and run again"
            )
        prompts = dict.fromkeys(item.query.prompt for item in ranks)
        result = AbcReport(
            name=folder.name,
            split=self._split.name,
            protocol=self._protocol,
            model_id=self._source.model_id,
            models=len({item.query.model for item in ranks}),
            exemplars=len({path for own in self._split.exemplars for path in own}),
            distractors=self._distractors.count,
            unreadable=[asdict(one) for one in self._source.unreadable],
            overall=score(ranks),
            by_prompt={
                prompt: score([item for item in ranks if item.query.prompt == prompt])
                for prompt in prompts
            },
            calibration_curve=curve(ranks),
        )
        text = json.dumps(result.as_dict(), indent=1) + "\n"
        (folder / REPORT).write_text(text, encoding="utf-8")
        return ranks, result

    def _open(self, out: Path) -> Path:
        """Create the run's folder; its name has a hash of all inputs that could change a rank."""
        asked = "\n".join(f"{one.prompt}\0{one.path}" for one in self._split.queries)
        recipe = {
            "protocol": self._protocol,
            "model_id": self._source.model_id,
            "split": self._split.file.name,
            "split_sha256": hashlib.sha256(self._split.file.read_bytes()).hexdigest(),
            "queries_sha256": hashlib.sha256(asked.encode()).hexdigest(),
            "features": {
                "queries": self._queries.key,
                "exemplars": self._exemplars.key,
                "distractors": self._distractors.key,
            },
            "cohort": {"size": COHORT_SIZE, "seed": SEED},
            "null_queries": len(self._null),
            "scoring": self._fingerprint(),
        }
        text = json.dumps(recipe, indent=1) + "\n"
        key = hashlib.sha256(text.encode()).hexdigest()[:8]
        folder = out / f"{self._split.name}-{self._protocol}-{key}"
        folder.mkdir(exist_ok=True)
        (folder / RECIPE).write_text(text, encoding="utf-8")
        return folder

    def _rank_all(self, folder: Path, report: Progress) -> None:
        path, queries = folder / RANKS, self._split.queries
        first = resume_ranks(path)
        if first >= len(queries):
            return
        calibration = self._calibration(folder, report)
        for start in range(first, len(queries), QUERIES):
            batch = queries[start : start + QUERIES]

            def tick(share: float, start: int = start, size: int = len(batch)) -> None:
                report(f"ranking {self._split.name}", start + int(share * size), len(queries))

            append_ranks(path, self._rank(batch, calibration, tick))

    def _rank(
        self, batch: Sequence[Query], calibration: Calibration | None, tick: Callable[[float], None]
    ) -> list[QueryRanks]:
        scorer = ExemplarScorer(
            self._queries.take(np.array([self._query_row[query] for query in batch])), self._cohort
        )
        exemplars = self._exemplars.take(np.arange(self._exemplars.count))
        true = scorer.exact_rows(exemplars, [self._true_rows[query.model] for query in batch])
        highest = Highest(scorer, HIGHEST) if calibration else None
        counts = count_at_least(scorer, self._blocks(tick), true, highest)
        if self._everyone:
            among = count_at_least(scorer, self._exemplars.blocks(), true)
            counts = [some + others for some, others in zip(counts, among, strict=True)]
        ranks = ranks_of(counts, true, in_gallery=self._everyone)
        shares: list[tuple[float, ...]] = [()] * len(batch)
        if calibration and highest:
            scores = self._concept_scores(scorer, highest.scores[:, :-1], batch, true)
            places = [query.model if self._everyone else 0 for query in batch]
            shares = [
                stated_shares(calibration, own, place)
                for own, place in zip(scores, places, strict=True)
            ]
        return [
            QueryRanks(query, self._size(query), tuple(own.tolist()), stated)
            for query, own, stated in zip(batch, ranks, shares, strict=True)
        ]

    def _calibration(self, folder: Path, report: Progress) -> Calibration | None:
        """Read or make the calibration of shares; None if there are too few distractors."""
        path = folder / CALIBRATION
        if path.exists():
            with contextlib.suppress(ValueError):  # a file that a kill cut short is made again
                return Calibration.model_validate_json(path.read_bytes())
        best: list[float] = []
        for start in range(0, len(self._null), QUERIES):
            rows = self._null[start : start + QUERIES]

            def tick(share: float, start: int = start, size: int = len(rows)) -> None:
                report("calibrating", start + int(share * size), len(self._null))

            scorer = ExemplarScorer(self._distractors.take(rows), self._cohort)
            highest = Highest(scorer, HIGHEST)
            count_at_least(scorer, self._blocks(tick), [np.array([np.inf])] * len(rows), highest)
            # The first is the null query itself.
            scores = self._concept_scores(scorer, highest.scores[:, 1:])
            best += [float(own.max()) for own in scores]
        calibration = calibrate(best)
        if calibration:
            path.write_text(calibration.model_dump_json() + "\n", encoding="utf-8")
        return calibration

    def _concept_scores(
        self,
        scorer: ExemplarScorer,
        highest: Doubles,
        batch: Sequence[Query] = (),
        true: Sequence[Doubles] = (),
    ) -> list[Doubles]:
        """Return each query's `concept_scores`: in one gallery of all models, else of its own.

        Args:
            scorer: of Q queries.
            highest: (Q, H) highest scores of distractors.
            batch: the queries; none for null queries, which have no true concept.
            true: the exact scores of the queries' true exemplars.
        """
        every: Doubles | None = None
        if self._everyone:
            every = scorer.fast(self._exemplars.take(np.arange(self._exemplars.count)))
        scores = []
        for place, (best, background) in enumerate(zip(highest, scorer.background, strict=True)):
            concepts = [true[place]] if batch else []
            if every is not None:
                concepts = [every[place][rows] for rows in self._true_rows]
                if batch:
                    concepts[batch[place].model] = true[place]
            scores.append(concept_scores(concepts, best, background))
        return scores

    def _blocks(self, tick: Callable[[float], None]) -> Iterator[Embeddings]:
        """Yield the distractors in blocks."""
        done = 0
        for block in self._distractors.blocks():
            yield block
            done += len(next(iter(block.values())))
            tick(done / self._distractors.count)

    def _size(self, query: Query) -> int:
        """Return the number of images in a query's gallery."""
        if self._everyone:
            return self._distractors.count + self._exemplars.count
        return self._distractors.count + len(self._true_rows[query.model])

    def _fingerprint(self) -> str:
        """Return a hash of some scores, so that a run never continues with another scoring."""
        first = ExemplarScorer(self._queries.take(np.arange(1)), self._cohort)
        count = len(next(iter(self._cohort.values())))
        scores = first.exact(np.zeros(count, dtype=np.int64), self._cohort, np.arange(count))
        return hashlib.sha256(np.round(scores, 6).tobytes()).hexdigest()[:16]
