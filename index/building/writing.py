"""Write the files of one index version, and check it by canaries before it is published."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from index.answering.calibration import Calibration, Scaling
from index.answering.neighbours import Lists, Neighbours, read_neighbours, write_neighbours
from index.answering.ranking import Cohort, Doubles, Embeddings, Ranker, usual_deviation
from index.answering.together import mean_of
from index.building.embedding import ImageFile
from index.building.embedding_cache import EmbeddingCache
from index.building.neighbours import Known, find_neighbours, known_lists, sample_rows
from index.catalog import Catalog, Concept, Exemplar, write_catalog
from index.errors import SnapshotError
from index.snapshot import (
    CALIBRATION,
    CATALOG,
    COHORT,
    FINGERPRINTS,
    MANIFEST,
    Manifest,
    Snapshot,
    file_record,
    next_sequence,
    read_manifest,
    write_cohort,
)
from index.stores.registry import VectorStores
from index.stores.vectors import Floats, IndexType, Rows, VectorEngine, VectorStore
from index.takedowns.fingerprints import LENGTH
from index.takedowns.records import Extent
from model.config import Facet

COHORT_SIZE = 1024  # exemplars that standardise similarities
CANARIES = 100  # augmented exemplars, ranked by the finished version before it is published
GROUP_VIEWS = 4  # views of one exemplar in the largest null groups
GROUP_SIZES = (2, GROUP_VIEWS)
FEWEST_SINGLE = 100  # single images in the null: with fewer, none could reach a rate of one in 100
CANARY_PLACES = 5  # ranks at which a canary's own concept counts as found
BLOCK = 10_000  # vectors copied from the cache to the index at once
SEED = 0


@dataclass(frozen=True)
class VersionContent:
    """The inputs of a version; with its name and time they determine its bytes."""

    model_id: str
    build_id: str
    sources: tuple[str, ...]
    index_type: IndexType
    store: str | None  # address of the vector store
    concepts: list[Concept]
    exemplars: list[Exemplar]  # each at its row
    null_files: list[ImageFile]  # images and augmented views that calibrate the version

    @property
    def keys(self) -> list[str]:
        """Return the exemplars' keys in the embedding cache, by row."""
        return [exemplar.sha256 for exemplar in self.exemplars]

    @property
    def canaries(self) -> list[ImageFile]:
        """Return the augmented views that serve as canaries."""
        return [file for file in self.null_files if file.view is not None][:CANARIES]


def write_version(
    folder: Path,
    version: str,
    content: VersionContent,
    engine: VectorEngine,
    cache: EmbeddingCache,
    takedowns: Extent,
    before: Path | None = None,
) -> None:
    """Write every file of a version, the manifest last; the caller holds the rebuild lock.

    Args:
        folder: of the version, being built.
        version: its name.
        content: of the version.
        engine: stores its vectors.
        cache: holds the vectors, thumbnails and fingerprints of all its images.
        takedowns: extent of the takedown log when ``content`` was chosen.
        before: folder of a version whose lists of neighbours are reused where they are valid.
    """
    thumbnails = cache.thumbnails(list(dict.fromkeys(content.keys)))
    write_catalog(folder / CATALOG, content.concepts, content.exemplars, thumbnails)
    known = cache.fingerprints()
    fingerprints = b"".join(known[key] for key in content.keys)
    np.save(folder / FINGERPRINTS, np.frombuffer(fingerprints, dtype=np.uint8).reshape(-1, LENGTH))
    cohort = _draw_cohort(content, cache)
    write_cohort(folder / COHORT, cohort)
    dimensions = {facet: matrix.shape[1] for facet, matrix in cohort.vectors.items()}
    finder = _NeighbourFinder(content, cache, dimensions, before)
    probes = _write_vectors(folder, version, content, engine, cache, dimensions, finder)
    write_neighbours(folder, finder.found())
    store = engine.open(folder, version, len(content.exemplars), dimensions, probes)
    near = read_neighbours(folder, dimensions, len(content.exemplars))
    calibration = _calibrate(store, content, cohort, near, cache)
    (folder / CALIBRATION).write_text(
        calibration.model_dump_json(indent=1) + "\n", encoding="utf-8"
    )
    manifest = Manifest(
        version=version,
        model_id=content.model_id,
        build_id=content.build_id,
        sequence=next_sequence(folder.parent),
        created_at=datetime.now(UTC),
        dimensions=dimensions,
        probes=probes,
        store=content.store,
        concepts=len(content.concepts),
        exemplars=len(content.exemplars),
        sources=list(content.sources),
        takedowns=takedowns,
        files={path.name: file_record(path) for path in sorted(folder.iterdir())},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def ask_canaries(
    folder: Path, content: VersionContent, cache: EmbeddingCache, stores: VectorStores
) -> float:
    """Return the share of canaries that find a concept of theirs among `CANARY_PLACES`.

    The version is opened from the disk, as by a server.
    """
    snapshot = Snapshot.open(folder, stores)
    try:
        files = content.canaries
        keys = [file.key for file in files]
        numbers = snapshot.catalog.concept_numbers()
        rankings = snapshot.ranker.rank(
            {facet: cache.vectors(facet, keys) for facet in snapshot.manifest.dimensions}
        )
        hits = 0
        for file, ranking in zip(files, rankings, strict=True):
            own = {numbers[row] for row in snapshot.catalog.rows_of([file.sha256], [])}
            hits += not own.isdisjoint(ranking.numbers[:CANARY_PLACES].tolist())
        return hits / len(files)
    finally:
        snapshot.close()


def random_order(ids: Sequence[str], purpose: str) -> list[int]:
    """Return the positions of ``ids`` in a random order, ordered by a hash of each id.

    So a sample changes little if a few images are added, and its views are in the cache already.
    """
    keys = [hashlib.sha256(f"{SEED}/{purpose}/{one}".encode()).digest() for one in ids]
    return sorted(range(len(ids)), key=keys.__getitem__)


def _draw_cohort(content: VersionContent, cache: EmbeddingCache) -> Cohort:
    order = random_order([exemplar.id for exemplar in content.exemplars], "cohort")
    members = np.sort(order[:COHORT_SIZE])
    keys = [content.exemplars[row].sha256 for row in members]
    return Cohort(members, {facet: cache.vectors(facet, keys) for facet in sorted(cache.facets())})


def _write_vectors(
    folder: Path,
    version: str,
    content: VersionContent,
    engine: VectorEngine,
    cache: EmbeddingCache,
    dimensions: dict[Facet, int],
    finder: "_NeighbourFinder",
) -> dict[Facet, int]:
    """Write the vectors and pass them to ``finder``.

    Returns:
        The number of probed lists of each facet that has an inverted file.
    """
    keys = content.keys
    asked = [file.key for file in content.canaries]
    writer = engine.write(folder, version, len(keys), dimensions)
    for start in range(0, len(keys), BLOCK):
        part = keys[start : start + BLOCK]
        rows = np.arange(start, start + len(part))
        vectors = {facet: cache.vectors(facet, part) for facet in dimensions}
        writer.upsert(rows, vectors)
        finder.add(rows, vectors)
    return writer.finish(
        content.index_type, {facet: cache.vectors(facet, asked) for facet in dimensions}
    )


class _NeighbourFinder:
    """Finds the neighbours of exemplars, block by block."""

    def __init__(
        self,
        content: VersionContent,
        cache: EmbeddingCache,
        dimensions: Mapping[Facet, int],
        before: Path | None,
    ) -> None:
        number = {concept.id: concept.number for concept in content.concepts}
        self._concepts = np.array([number[one.concept_id] for one in content.exemplars])
        ids = [exemplar.id for exemplar in content.exemplars]
        self._sample = sample_rows(ids)
        keys = content.keys
        sampled = [keys[row] for row in self._sample]
        self._vectors = {facet: cache.vectors(facet, sampled) for facet in dimensions}
        self._known: Known | None = None
        if before is not None:
            with suppress(SnapshotError):  # then all are computed
                if read_manifest(before).model_id == content.model_id:
                    with closing(Catalog(before / CATALOG)) as catalog:
                        old = catalog.exemplar_ids()
                    self._known = known_lists(before, dimensions, old, ids, self._sample)
        self._lists: dict[Facet, list[Lists]] = {facet: [] for facet in dimensions}

    def add(self, rows: Rows, vectors: Mapping[Facet, Floats]) -> None:
        """Find the neighbours of the next rows (R,), with vectors: facet -> (R, D)."""
        for facet, found in self._lists.items():
            found.append(
                find_neighbours(
                    facet,
                    rows,
                    vectors[facet],
                    self._concepts,
                    self._sample,
                    self._vectors[facet],
                    self._known,
                )
            )

    def found(self) -> Neighbours:
        """Return all neighbours."""
        return Neighbours({facet: np.concatenate(lists) for facet, lists in self._lists.items()})


def _calibrate(
    store: VectorStore,
    content: VersionContent,
    cohort: Cohort,
    near: Neighbours,
    cache: EmbeddingCache,
) -> Calibration:
    """Rank the null queries, each without all concepts of its images.

    Exemplars are the null of single images. Their views are easier to tell from other concepts than
    generated pictures are, and count only if there are fewer than `FEWEST_SINGLE` exemplars.
    """
    null = _NullRanker(store, content, cohort, near, cache)
    keys = [file.key for file in content.null_files]
    clean = [[file.key] for file in content.null_files if file.view is None]
    single = null.best_leads(clean if len(clean) >= FEWEST_SINGLE else [[key] for key in keys])
    if not single.shape[1]:
        return Calibration(scaling=null.scaling, null_scores=())
    # The highest score over concepts and statistics is that of each statistic's highest lead.
    scaling = null.scaling.fitted(single)
    groups = {
        size: scaling.scores(null.best_leads(_null_groups(content, size))[:1])
        for size in GROUP_SIZES
    }
    return Calibration(
        scaling=scaling,
        null_scores=_descending(scaling.scores(single)),
        group_scores={size: _descending(scores) for size, scores in groups.items() if len(scores)},
    )


def _null_groups(content: VersionContent, size: int) -> list[list[str]]:
    """Return groups of images that share a source, by their keys.

    They are views of one exemplar, and exemplars of one concept, drawn at random; of the latter as
    many as of the former at most.
    """
    views: dict[str, list[str]] = defaultdict(list)
    for file in content.null_files:
        if file.view is not None:
            views[file.sha256].append(file.key)
    of_views = [
        keys[start : start + size]
        for keys in views.values()
        for start in range(0, len(keys) - size + 1, size)
    ]
    members: dict[str, list[str]] = defaultdict(list)
    for exemplar in content.exemplars:
        members[exemplar.concept_id].append(exemplar.sha256)
    large = [concept for concept, keys in members.items() if len(keys) >= size]
    drawn = random_order(large, "groups")[: len(of_views)]
    return of_views + [members[large[place]][:size] for place in drawn]


class _NullRanker:
    """Ranks images and groups without their own concepts.

    Attributes:
        scaling: of the ranking, without tails.
    """

    def __init__(
        self,
        store: VectorStore,
        content: VersionContent,
        cohort: Cohort,
        near: Neighbours,
        cache: EmbeddingCache,
    ) -> None:
        units = {facet: usual_deviation(vectors) for facet, vectors in cohort.vectors.items()}
        self.scaling = Scaling(deviations=units)
        self._cache = cache
        number = {concept.id: concept.number for concept in content.concepts}
        numbers = [number[exemplar.concept_id] for exemplar in content.exemplars]
        self._owners: dict[str, frozenset[int]] = defaultdict(frozenset)
        for exemplar, own in zip(content.exemplars, numbers, strict=True):
            self._owners[exemplar.sha256] |= {own}
        self._ranker = Ranker(store, numbers, cohort, near, scaling=self.scaling)

    def best_leads(self, groups: Sequence[Sequence[str]]) -> Doubles:
        """Return the best leads (S, G) of the means of groups of images, given by their keys."""
        if not groups:
            return np.empty((2, 0))
        means = [mean_of([self._vectors(key) for key in group]) for group in groups]
        left_out = [
            frozenset().union(*(self._owners[key.partition("/")[0]] for key in group))
            for group in groups
        ]
        queries = {facet: np.concatenate([mean[facet] for mean in means]) for facet in means[0]}
        rankings = self._ranker.rank(queries, excluded=left_out)
        best = [ranking.leads.max(axis=1) for ranking in rankings if len(ranking)]
        return np.reshape(best, (-1, 2)).T

    def _vectors(self, key: str) -> Embeddings:
        return {facet: self._cache.vectors(facet, [key]) for facet in self.scaling.deviations}


def _descending(scores: Doubles) -> tuple[float, ...]:
    return tuple(np.sort(scores)[::-1].tolist())
