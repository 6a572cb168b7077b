"""The whole answer: images -> embeddings -> hits -> ranked concepts -> calibrated evidence."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from index.answering.calibration import DEFAULT_RATE, Verdict
from index.answering.ranking import CONCEPTS, DEPTH, Embeddings, RankedConcept, Ranking
from index.answering.support import statement
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

ANY_SIZE = ImageLimits(min_side=1)  # of a thumbnail, which can be narrow


@dataclass(frozen=True)
class ExemplarEvidence:
    """An exemplar that speaks for a concept."""

    exemplar: Exemplar
    similarity: float  # cosine, -1 to 1, in ``facet``
    facet: Facet  # the one in which it stands out most


@dataclass(frozen=True)
class ConceptEvidence:
    """A concept and what speaks for it."""

    rank: int  # 1, 2, ...
    concept: Concept
    score: float  # combined over facets; higher is stronger; comparable within one index version
    share: float  # 0 to 1; with the other concepts' shares and the unattributed share sums to 1
    p_value: float  # how often a query from no concept of the index scores this high
    likelihood_ratio: float  # of the image drawing on it, against its source not being here
    facets: Mapping[Facet, float]  # standard deviations above the cohort, of each facet's best
    found_by: tuple[Facet, ...]  # the facets that speak for it, the stronger first
    exemplars: tuple[ExemplarEvidence, ...]


@dataclass(frozen=True)
class Attribution:
    """The answer to one query image."""

    verdict: Verdict
    concepts: tuple[ConceptEvidence, ...]
    unattributed_share: float
    candidates: tuple[str, ...]  # ids of the concepts that share the evidence, if there is any

    @property
    def statement(self) -> str:
        """The evidence for the first concept in a sentence."""
        if not self.concepts:
            return statement([], 1)
        named = {found.concept.id: found.concept.name for found in self.concepts}
        names = [named[candidate] for candidate in self.candidates]
        first = self.concepts[0]
        return statement(names or [first.concept.name], first.likelihood_ratio)


class Attributor:
    """Answers queries with one model and one snapshot; neither ever changes under it.

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
        """One that answers as if nothing of what these reach were in the index.

        Returns:
            This one, if it does already; else another one, which shares model and vectors.

        Raises:
            SnapshotError: the index version's files are gone.
            TakedownError: the log has lost records since the version was built.
        """
        snapshot = self.snapshot
        version = f"the manifest of the index version {snapshot.version}"
        takedowns.require(snapshot.manifest.takedowns, version)
        reached = takedowns.reached(snapshot.catalog, snapshot.pictures, snapshot.reached)
        if reached.keys() == snapshot.reached.keys():
            return self
        return Attributor(self.embedder, snapshot.without(reached), rate=self.rate)

    def warm(self) -> None:
        """Answer a first query, so that the next one does not wait for pages and kernels."""
        catalog = self.snapshot.catalog
        for concept in catalog.concepts(limit=1):
            thumbnail = catalog.thumbnail(catalog.exemplars_of(concept.id)[0].id)
            self.attribute([decode_image(thumbnail, ANY_SIZE).pixels])

    def attribute(
        self, images: Sequence[Image.Image], *, top_k: int = 5, exemplars: int = 3
    ) -> list[Attribution]:
        """Answer a batch of RGB images, one answer each, in order."""
        if not images:
            return []
        return self.rank(self.embedder.embed(images), top_k=top_k, exemplars=exemplars)

    def rank(
        self,
        queries: Embeddings,
        *,
        top_k: int = 5,
        exemplars: int = 3,
        depth: int = DEPTH,
        excluded: Sequence[frozenset[int]] | None = None,
    ) -> list[Attribution]:
        """Answer queries that are embedded already.

        Args:
            queries: facet -> (N, D) unit vectors.
            top_k: concepts in an answer, at most.
            exemplars: exemplars shown for each concept, at most.
            depth: nearest exemplars of each facet that name the concepts to rank, more where they
                name fewer than ``top_k``; with as many as the index holds every concept is ranked.
            excluded: for each query the numbers of concepts to leave out.
        """
        rankings = self.snapshot.ranker.rank(
            queries, depth=depth, concepts=max(CONCEPTS, top_k), excluded=excluded
        )
        return [self._answer(ranking, top_k, exemplars) for ranking in rankings]

    def _answer(self, ranking: Ranking, top_k: int, exemplars: int) -> Attribution:
        calibration, catalog = self.snapshot.calibration, self.snapshot.catalog
        shares, unattributed = calibration.shares(ranking.scores)
        shown = ranking[:top_k]
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
                likelihood_ratio=calibration.likelihood_ratio(ranked.score),
                facets=ranked.facets,
                found_by=ranked.found_by,
                exemplars=tuple(_exemplars(ranked, exemplars, images)),
            )
            for place, ranked in enumerate(shown)
        ]
        return Attribution(
            verdict=calibration.verdict(ranking.scores, self.rate),
            concepts=tuple(evidence),
            # What the concepts beyond top_k hold is attributed to none that is shown.
            unattributed_share=unattributed + float(shares[top_k:].sum()),
            candidates=tuple(
                found.concept.id for found in evidence[: calibration.candidates(ranking.scores)]
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
    """The published index with the model it was built with, without what was taken down.

    Args:
        data: the data folder.
        device: where to embed.
        engine: what runs the model; see `model.engines`.
        rate: see `Attributor`.
        embedder: used instead of loading the model, if it is the index's.

    Raises:
        SnapshotError: nothing is published yet, or it is damaged.
        ModelError: the index's model is missing or damaged.
        TakedownError: the log of takedowns cannot be read.
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
        facet = ranked.dominant_facet(place)
        # In single precision the cosine of equal vectors can be 1.0000001.
        similarity = min(1.0, max(-1.0, float(ranked.similarities[facet][place])))
        yield ExemplarEvidence(images[int(row)], similarity, facet)
