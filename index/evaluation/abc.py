"""The AbC benchmark (attribution by customization): retrieve the images a generator was tuned on.

Wang et al. 2023, "Evaluating Data Attribution for Text-to-Image Models", arXiv 2306.09345. Each
model of the release was fine-tuned on a few exemplars; the images it then generated are the
queries, grouped by the type of their prompts. Protocols:

- official: the gallery is the distractors and that model's own exemplars.
- one-gallery: the gallery is the distractors and the exemplars of all models, as in a service.

Recall@K is the share of a query's true exemplars among the first K; average precision is over the
whole ranking; both are averaged over queries. Ties count against the method (see
`index.evaluation.ranks`). Files of a run:

    <out>/features/<model_id>/                    embeddings, shared by runs (`features`)
    <out>/<release>-<protocol>-<key>/run.json     protocol, model and inputs
    <out>/<release>-<protocol>-<key>/ranks.csv    the ranks of each query's true exemplars
    <out>/<release>-<protocol>-<key>/report.json  the metrics, computed from `ranks.csv`
"""

import csv
import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import numpy as np

from index.answering.ranking import Embeddings
from index.building.embedding import ImageEmbedder
from index.building.writing import COHORT_SIZE
from index.errors import EvaluationError
from index.evaluation.abc_release import Query, Release
from index.evaluation.features import BLOCK, ImageFeatures, embed_images
from index.evaluation.metrics import AbcProtocol
from index.evaluation.ranks import average_precision, rank_true, recall_at
from index.evaluation.scores import ExemplarScorer
from model.images import DEFAULT_LIMITS, ImageLimits

Progress = Callable[[str, int, int], None]  # (stage, done, total)

SEED = 0
QUERIES = 512  # ranked together; a killed run loses at most these

RECIPE, RANKS, REPORT = "run.json", "ranks.csv", "report.json"
COLUMNS = ["model", "prompt", "query", "gallery", "ranks"]


@dataclass(frozen=True)
class QueryRanks:
    """Ranks of one query's true exemplars."""

    query: Query
    gallery: int  # number of ranked images
    ranks: tuple[int, ...]  # from 1, in the order of the model's exemplars


@dataclass(frozen=True)
class AbcScores:
    """Means over a group of queries."""

    queries: int
    recall_at_5: float
    recall_at_10: float
    recall_at_100: float
    map: float


@dataclass(frozen=True)
class AbcReport:
    """Result of `evaluate_abc`."""

    name: str  # of the run's folder
    protocol: AbcProtocol
    model_id: str
    models: int
    exemplars: int  # of all models, without repeats
    distractors: int
    unreadable: list[str]  # distractors that are not readable images; left out of the gallery
    overall: AbcScores
    by_prompt: dict[str, AbcScores]

    def as_dict(self) -> dict[str, object]:
        """Return the fields for JSON."""
        return asdict(self)


def evaluate_abc(
    release: Release,
    distractors: Sequence[Path],
    embedder: ImageEmbedder,
    *,
    out: Path,
    protocol: AbcProtocol = "official",
    workers: int = 0,
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> AbcReport:
    """Rank every query's true exemplars; an interrupted run is continued.

    Args:
        release: from `index.evaluation.abc_release.read_release`.
        distractors: image files that no model was tuned on.
        embedder: the model to measure.
        out: the folder of features and ranks; runs may share it.
        protocol: defines the gallery.
        workers: processes that decode; 0 decodes in this one.
        limits: limits on an image's size.
        progress: called with (stage, done, total).

    Raises:
        EvaluationError: an exemplar or query is not a readable image, another run is writing to
            ``out``, or a file there is damaged.
    """
    report = progress or (lambda *_: None)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(out / ".lock", timeout=0):
            features = _embed(release, distractors, embedder, out, workers, limits, report)
            run = _Run(release, protocol, embedder.model_id, *features)
            folder = run.open(out)
            run.rank(folder / RANKS, report)
            result = run.report(folder)
            (folder / REPORT).write_text(
                json.dumps(result.as_dict(), indent=1) + "\n", encoding="utf-8"
            )
            return result
    except filelock.Timeout:
        raise EvaluationError(
            f"another evaluation is writing to {out}; wait for it, or choose another --out"
        ) from None


def read_ranks(path: Path) -> list[QueryRanks]:
    """Read the ranks written by a run.

    Raises:
        EvaluationError: the file is damaged or no file of ranks.
    """
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    if header != COLUMNS:
        raise EvaluationError(f"{path} is not a file of ranks: its columns are {header}")
    try:
        return [
            QueryRanks(
                Query(int(model), prompt, query), int(gallery), tuple(map(int, ranks.split()))
            )
            for model, prompt, query, gallery, ranks in rows
        ]
    except ValueError as error:
        raise EvaluationError(f"{path} is damaged ({error}); delete it and run again") from error


def score(ranks: Sequence[QueryRanks]) -> AbcScores:
    """Compute the metrics of a group of queries from their ranks."""

    def mean(metric: Callable[[Sequence[int]], float]) -> float:
        return math.fsum(metric(item.ranks) for item in ranks) / len(ranks)

    return AbcScores(
        queries=len(ranks),
        recall_at_5=mean(lambda own: recall_at(own, 5)),
        recall_at_10=mean(lambda own: recall_at(own, 10)),
        recall_at_100=mean(lambda own: recall_at(own, 100)),
        map=mean(average_precision),
    )


def _embed(
    release: Release,
    distractors: Sequence[Path],
    embedder: ImageEmbedder,
    out: Path,
    workers: int,
    limits: ImageLimits,
    report: Progress,
) -> tuple[ImageFeatures, ImageFeatures, ImageFeatures]:
    """Embed queries, exemplars and distractors; the many distractors last, so errors come early."""
    folder = out / "features" / embedder.model_id
    stages = {
        "queries": release.resolve(query.path for query in release.queries),
        "exemplars": release.resolve(itertools.chain(*release.exemplars)),
        "distractors": distractors,
    }
    made = []
    for stage, images in stages.items():
        features = embed_images(
            folder,
            list(dict.fromkeys(images)),
            embedder,
            workers=workers,
            limits=limits,
            progress=lambda done, total, stage=stage: report(stage, done, total),  # type: ignore[misc]
        )
        if stage != "distractors" and features.unreadable:
            raise EvaluationError(
                f"{len(features.unreadable)} of the {stage} of {release.file} are not "
                f"readable images, the first {features.unreadable[0]}"
            )
        made.append(features)
    return made[0], made[1], made[2]


class _Run:
    """One release, protocol and model."""

    def __init__(
        self,
        release: Release,
        protocol: AbcProtocol,
        model_id: str,
        queries: ImageFeatures,
        exemplars: ImageFeatures,
        distractors: ImageFeatures,
    ) -> None:
        self._release = release
        self._protocol = protocol
        self._model_id = model_id
        self._queries = queries
        self._exemplars = exemplars
        self._distractors = distractors
        self._query_row = {path: row for row, path in enumerate(queries.images)}
        rows = {path: row for row, path in enumerate(exemplars.images)}
        self._true_rows = [
            np.array([rows[path] for path in release.resolve(own)]) for own in release.exemplars
        ]
        readable = np.flatnonzero(distractors.readable)
        members = np.random.default_rng(SEED).permutation(readable)[:COHORT_SIZE]
        self._cohort = distractors.take(np.sort(members))

    def open(self, out: Path) -> Path:
        """Create the run's folder; its name has a hash of all inputs that could change a rank."""
        recipe = {
            "protocol": self._protocol,
            "model_id": self._model_id,
            "release": self._release.file.name,
            "release_sha256": hashlib.sha256(self._release.file.read_bytes()).hexdigest(),
            "features": {
                "queries": self._queries.folder.name,
                "exemplars": self._exemplars.folder.name,
                "distractors": self._distractors.folder.name,
            },
            "cohort": {"size": COHORT_SIZE, "seed": SEED},
            "scoring": self._fingerprint(),
        }
        text = json.dumps(recipe, indent=1) + "\n"
        key = hashlib.sha256(text.encode()).hexdigest()[:8]
        folder = out / f"{self._release.file.stem}-{self._protocol}-{key}"
        folder.mkdir(exist_ok=True)
        (folder / RECIPE).write_text(text, encoding="utf-8")
        return folder

    def rank(self, path: Path, report: Progress) -> None:
        """Append the ranks of the queries that the file lacks."""
        queries = self._release.queries
        for start in range(_resume(path), len(queries), QUERIES):
            batch = queries[start : start + QUERIES]

            def tick(share: float, start: int = start, size: int = len(batch)) -> None:
                report("ranking", start + int(share * size), len(queries))

            _append(path, self._rank(batch, tick))

    def report(self, folder: Path) -> AbcReport:
        """Compute the report from a finished file of ranks."""
        ranks = read_ranks(folder / RANKS)
        if [item.query for item in ranks] != list(self._release.queries):
            raise EvaluationError(
                f"{folder / RANKS} does not list the queries of {self._release.file}; "
                "delete it and run again"
            )
        prompts = dict.fromkeys(item.query.prompt for item in ranks)
        return AbcReport(
            name=folder.name,
            protocol=self._protocol,
            model_id=self._model_id,
            models=len(self._release.exemplars),
            exemplars=len(self._exemplars.images),
            distractors=self._distractors.count,
            unreadable=[str(path) for path in self._distractors.unreadable],
            overall=score(ranks),
            by_prompt={
                prompt: score([item for item in ranks if item.query.prompt == prompt])
                for prompt in prompts
            },
        )

    def _rank(self, batch: Sequence[Query], tick: Callable[[float], None]) -> list[QueryRanks]:
        rows = [self._query_row[path] for path in self._release.resolve(q.path for q in batch)]
        scorer = ExemplarScorer(self._queries.take(np.array(rows)), self._cohort)
        exemplars = self._exemplars.take(np.arange(len(self._exemplars.images)))
        true = scorer.exact_rows(exemplars, [self._true_rows[query.model] for query in batch])
        ranks = rank_true(
            scorer, self._gallery(tick), true, in_gallery=self._protocol == "one-gallery"
        )
        return [
            QueryRanks(query, self._size(query), tuple(own.tolist()))
            for query, own in zip(batch, ranks, strict=True)
        ]

    def _gallery(self, tick: Callable[[float], None]) -> Iterator[Embeddings]:
        """Yield the gallery that all queries share: distractors, and in one-gallery exemplars."""
        parts = [self._distractors]
        if self._protocol == "one-gallery":
            parts.append(self._exemplars)
        total = sum(len(part.images) for part in parts)
        done = 0
        for part in parts:
            for block in part.blocks():
                yield block
                done += BLOCK
                tick(min(1.0, done / total))

    def _size(self, query: Query) -> int:
        """Return the number of images in a query's gallery."""
        if self._protocol == "one-gallery":
            return self._distractors.count + self._exemplars.count
        return self._distractors.count + len(self._true_rows[query.model])

    def _fingerprint(self) -> str:
        """Return a hash of some scores, so that a run never continues with another scoring."""
        first = ExemplarScorer(self._queries.take(np.arange(1)), self._cohort)
        count = len(next(iter(self._cohort.values())))
        scores = first.exact(np.zeros(count, dtype=np.int64), self._cohort, np.arange(count))
        return hashlib.sha256(np.round(scores, 6).tobytes()).hexdigest()[:16]


def _resume(path: Path) -> int:
    """Return the number of queries in a file of ranks, after removing an unfinished line."""
    written = path.read_bytes() if path.exists() else b""
    complete = written.rfind(b"\n") + 1
    if not complete:
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
        return 0
    os.truncate(path, complete)
    return len(read_ranks(path))


def _append(path: Path, ranks: Sequence[QueryRanks]) -> None:
    """Append lines to a file of ranks and sync them."""
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for item in ranks:
            query, listed = item.query, " ".join(map(str, item.ranks))
            writer.writerow([query.model, query.prompt, query.path, item.gallery, listed])
        file.flush()
        os.fsync(file.fileno())
