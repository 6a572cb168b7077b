"""Attribute images: embed them, rank concepts, and return calibrated evidence."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from PIL import Image

from index.answering.calibration import DEFAULT_RATE, Verdict
from index.answering.ranking import CONCEPTS, DEPTH, Embeddings, RankedConcept, Ranking
from index.answering.squares import best_of, embed_squares
from index.answering.support import are_all, statement
from index.building.embedding import ImageEmbedder
from index.catalog import Concept, Exemplar
from index.layout import DataFolder
from index.snapshot import Snapshot, open_published
from index.takedowns.in_force import Takedowns
from index.takedowns.log import TakedownLog
from model.checkpoint import load_embedder
from model.config import EngineName, Facet
from model.errors import ModelError
from model.images import ImageLimits, decode_image
from model.regions import Region, tries

ANY_SIZE = ImageLimits(min_side=1)  # of thumbnails, which can be narrow


@dataclass(frozen=True)
class ExemplarEvidence:
    """An exemplar's evidence for its concept."""

    exemplar: Exemplar
    similarity: float  # cosine, -1 to 1, in ``facet``
    facet: Facet  # its dominant facet


@dataclass(frozen=True)
class ConceptEvidence:
    """A ranked concept and its evidence."""

    rank: int  # 1, 2, ...
    concept: Concept
    score: float  # combined over facets; higher is stronger; comparable within one index version
    share: float  # 0 to 1; with the other concepts' shares and the unattributed share sums to 1
    p_value: float  # probability that a query whose source is absent scores this high
    scored_as_high: int  # null queries whose best concept scored at least as high
    likelihood_ratio: float  # of the image drawing on it, against its source not being here
    facets: Mapping[Facet, float]  # standard deviations above the cohort, of each facet's best
    found_by: tuple[Facet, ...]  # facets with a notable part of its lead, the stronger first
    exemplars: tuple[ExemplarEvidence, ...]
    square: int = 0  # of the image's squares, the one that its evidence comes from


@dataclass(frozen=True)
class Attribution:
    """The answer to one query image."""

    verdict: Verdict
    concepts: tuple[ConceptEvidence, ...]
    no_source_share: float  # of the image having no source in the index
    unlisted_share: float  # of the concepts beyond ``concepts``
    candidates: tuple[str, ...]  # ids of the concepts that share the evidence, if there is any

    @property
    def unattributed_share(self) -> float:
        """Return the share that none of ``concepts`` takes."""
        return self.no_source_share + self.unlisted_share

    @property
    def statement(self) -> str:
        """Return a sentence on the evidence for the first concept."""
        if not self.concepts:
            return statement([], 1)
        named = {found.concept.id: found.concept.name for found in self.concepts}
        names = [named[candidate] for candidate in self.candidates]
        first = self.concepts[0]
        shares = [found.share for found in self.concepts]
        return statement(
            names or [first.concept.name],
            first.likelihood_ratio,
            all_named=are_all(len(names), shares, self.no_source_share),
        )


class Attributor:
    """Answers queries with one model and one snapshot; immutable.

    Args:
        embedder: of the model that the snapshot was built with.
        snapshot: the index.
        rate: the false-attribution rate at which an answer becomes a match.

    Raises:
        SnapshotError: the snapshot was built with another model.
    """

    def __init__(
        self, embedder: ImageEmbedder, snapshot: Snapshot, *, rate: float = DEFAULT_RATE
    ) -> None:
        snapshot.require_model(embedder.model_id)
        self.embedder = embedder
        self.snapshot = snapshot
        self.rate = rate

    def masked(self, takedowns: Takedowns) -> "Attributor":
        """Return an attributor that hides taken-down rows.

        Returns:
            This one, if it hides them already; otherwise another one, which shares its model and
            vectors.

        Raises:
            SnapshotError: the index version's files are gone.
            TakedownError: the log has lost records since the version was built.
        """
        snapshot = self.snapshot
        version = f"the manifest of the index version {snapshot.version}"
        takedowns.require(snapshot.manifest.takedowns, version)
        hidden = takedowns.hidden_rows(
            snapshot.catalog, snapshot.fingerprint_index, snapshot.hidden_rows
        )
        if hidden.keys() == snapshot.hidden_rows.keys():
            return self
        return Attributor(self.embedder, snapshot.masked(hidden), rate=self.rate)

    def warm(self) -> None:
        """Answer one query, so that pages and kernels are loaded before the next one."""
        catalog = self.snapshot.catalog
        for concept in catalog.concepts(limit=1):
            thumbnail = catalog.thumbnail(catalog.exemplars_of(concept.id)[0].id)
            self.attribute([decode_image(thumbnail, ANY_SIZE).pixels])

    def attribute(
        self,
        images: Sequence[Image.Image],
        *,
        top_k: int = 5,
        exemplars: int = 3,
        region: Region | None = None,
    ) -> list[Attribution]:
        """Attribute a batch of RGB images at full size; return one answer each, in order.

        Args:
            images: upright.
            top_k: most concepts in an answer.
            exemplars: most exemplars of each concept in an answer.
            region: part of each image to attribute; it lies in all of them.
        """
        if not images:
            return []
        embedded = embed_squares(self.embedder, images, region)
        return self.rank(embedded.vectors, top_k=top_k, exemplars=exemplars, parts=embedded.parts)

    def rank(
        self,
        queries: Embeddings,
        *,
        top_k: int = 5,
        exemplars: int = 3,
        depth: int = DEPTH,
        excluded: Sequence[frozenset[int]] | None = None,
        parts: Sequence[Sequence[Region]] | None = None,
    ) -> list[Attribution]:
        """Attribute embedded queries.

        Args:
            queries: facet -> (N, D) unit vectors, one for each part of an image.
            top_k: most concepts in an answer.
            exemplars: most exemplars of each concept in an answer.
            depth: nearest exemplars of each facet whose concepts are ranked; it is increased if
                these are fewer than ``top_k``. The index's size ranks every concept.
            excluded: for each image the numbers of concepts to leave out.
            parts: each image's parts, N in all; by default each image has one.
        """
        if parts is None:
            counts = calibrated = [1] * len(next(iter(queries.values())))
        else:
            counts, calibrated = [len(own) for own in parts], [tries(own) for own in parts]
        if excluded is not None:
            excluded = [
                own for own, count in zip(excluded, counts, strict=True) for _ in range(count)
            ]
        rankings = self.snapshot.ranker.rank(
            queries, depth=depth, concepts=max(CONCEPTS, top_k), excluded=excluded
        )
        return [
            self._answer(list(islice(rankings, count)), of_tries, top_k, exemplars)
            for count, of_tries in zip(counts, calibrated, strict=True)
        ]

    def rankings(self, queries: Embeddings, *, top_k: int = 5) -> list[Ranking]:
        """Rank embedded squares of images, to be answered together (`index.answering.together`)."""
        return list(self.snapshot.ranker.rank(queries, concepts=max(CONCEPTS, top_k)))

    def _answer(
        self, rankings: Sequence[Ranking], of_tries: int, top_k: int, exemplars: int
    ) -> Attribution:
        """Answer for one image, given the ranking of each of its parts and what `tries` returns."""
        catalog = self.snapshot.catalog
        calibration = self.snapshot.calibration.of_best(of_tries)
        best = best_of(rankings)
        shares, no_source = calibration.shares(best.scores)
        squares = best.squares[:top_k].tolist()
        shown = [
            rankings[square][place]
            for square, place in zip(squares, best.places[:top_k].tolist(), strict=True)
        ]
        concepts = catalog.concepts_by_number([ranked.number for ranked in shown])
        images = catalog.exemplars_by_row(
            [int(row) for ranked in shown for row in ranked.rows[:exemplars]]
        )
        evidence = [
            ConceptEvidence(
                rank=place + 1,
                concept=concepts[ranked.number],
                score=ranked.score,
                share=float(shares[place]),
                p_value=calibration.p_value(ranked.score),
                scored_as_high=calibration.count_from(ranked.score),
                likelihood_ratio=calibration.likelihood_ratio(ranked.score),
                facets=ranked.facets,
                found_by=ranked.found_by,
                exemplars=tuple(_exemplars(ranked, exemplars, images)),
                square=squares[place],
            )
            for place, ranked in enumerate(shown)
        ]
        return Attribution(
            verdict=calibration.verdict(best.scores, self.rate),
            concepts=tuple(evidence),
            no_source_share=no_source,
            unlisted_share=float(shares[top_k:].sum()),
            candidates=tuple(
                found.concept.id for found in evidence[: calibration.candidates(best.scores)]
            ),
        )


def open_attributor(
    data: DataFolder,
    *,
    device: str = "auto",
    engine: EngineName = "eager",
    rate: float = DEFAULT_RATE,
    embedder: ImageEmbedder | None = None,
) -> Attributor:
    """Open the published index with its model, and hide taken-down rows.

    Args:
        data: the data folder.
        device: ``auto``, ``cpu``, ``cuda``, ...
        engine: runs the model; see `model.engines`.
        rate: see `Attributor`.
        embedder: used instead of loading the model, if it is the index's.

    Raises:
        SnapshotError: no version is published, or it is damaged.
        ModelError: the index's model is missing or damaged.
        TakedownError: the takedown log cannot be read.
    """
    takedowns = TakedownLog(data.takedowns).read()
    snapshot = open_published(data.index, data.stores)
    with contextlib.ExitStack() as until_masked:
        until_masked.callback(snapshot.close)
        if embedder is None or embedder.model_id != snapshot.model_id:
            try:
                embedder = load_embedder(
                    data.models,
                    snapshot.model_id,
                    device=device,
                    engine=engine,
                    engines=data.engines,
                )
            except ModelError as error:
                raise ModelError(
                    f"the index version {snapshot.version} needs a model that cannot be loaded: "
                    f"{error}; or build the index anew with another: `whence rebuild --source PATH`"
                ) from error
        opened = Attributor(embedder, snapshot, rate=rate)
        masked = opened.masked(takedowns)
        if masked is opened:
            until_masked.pop_all()
    return masked


def _exemplars(
    ranked: RankedConcept, count: int, images: Mapping[int, Exemplar]
) -> Iterator[ExemplarEvidence]:
    for place, row in enumerate(ranked.rows[:count]):
        yield exemplar_evidence(ranked, place, images[int(row)])


def exemplar_evidence(ranked: RankedConcept, place: int, exemplar: Exemplar) -> ExemplarEvidence:
    """Return the evidence of the exemplar at a position of a ranked concept's rows."""
    facet = ranked.dominant_facet(place)
    # In single precision the cosine of equal vectors can be 1.0000001.
    similarity = min(1.0, max(-1.0, float(ranked.similarities[facet][place])))
    return ExemplarEvidence(exemplar, similarity, facet)
