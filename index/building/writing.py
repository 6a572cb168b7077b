"""Write the files of one index version, and question it before it is published."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from index.answering.calibration import Calibration
from index.answering.ranking import DEPTH, Cohort, Ranker
from index.building.embedding import ImageFile
from index.building.embedding_cache import EmbeddingCache
from index.catalog import Concept, Exemplar, write_catalog
from index.snapshot import (
    CALIBRATION,
    CATALOG,
    COHORT,
    FINGERPRINTS,
    MANIFEST,
    Manifest,
    Snapshot,
    file_record,
    write_cohort,
)
from index.stores.registry import VectorStores
from index.stores.vectors import IndexType, VectorEngine, VectorStore
from index.takedowns.fingerprints import LENGTH
from index.takedowns.records import Extent
from model.config import Facet

COHORT_SIZE = 1024  # exemplars that queries are compared with
CANARIES = 100  # augmented exemplars, asked of the finished version before it is published
CANARY_PLACES = 5  # places among which a canary's own concept counts as found
BLOCK = 10_000  # vectors taken from the cache to the index at once
SEED = 0


@dataclass(frozen=True)
class VersionContent:
    """Everything that decides the bytes of a version, apart from its name and time."""

    model_id: str
    build_id: str
    sources: tuple[str, ...]
    index_type: IndexType
    store: str | None  # address of the engine that keeps the vectors
    concepts: list[Concept]
    exemplars: list[Exemplar]  # each at its row
    null_files: list[ImageFile]  # images and augmented views that calibrate the version

    @property
    def keys(self) -> list[str]:
        """The exemplars' keys in the embedding cache, row by row."""
        return [exemplar.sha256 for exemplar in self.exemplars]

    @property
    def canaries(self) -> list[ImageFile]:
        """The augmented views to question the version with."""
        return [file for file in self.null_files if file.view is not None][:CANARIES]


def write_version(
    folder: Path,
    version: str,
    content: VersionContent,
    engine: VectorEngine,
    cache: EmbeddingCache,
    takedowns: Extent,
) -> None:
    """Write every file of a version, the manifest last.

    Args:
        folder: of the version, being built.
        version: its name.
        content: of the version.
        engine: keeps its vectors.
        cache: holds the vectors, thumbnails and fingerprints of all its images.
        takedowns: how far the log of takedowns was written when ``content`` was chosen.
    """
    thumbnails = cache.thumbnails(list(dict.fromkeys(content.keys)))
    write_catalog(folder / CATALOG, content.concepts, content.exemplars, thumbnails)
    known = cache.fingerprints()
    fingerprints = b"".join(known[key] for key in content.keys)
    np.save(folder / FINGERPRINTS, np.frombuffer(fingerprints, dtype=np.uint8).reshape(-1, LENGTH))
    cohort = _draw_cohort(content, cache)
    write_cohort(folder / COHORT, cohort)
    dimensions = {facet: matrix.shape[1] for facet, matrix in cohort.vectors.items()}
    probes = _write_vectors(folder, version, content, engine, cache, dimensions)
    store = engine.open(folder, version, len(content.exemplars), dimensions, probes)
    calibration = _calibrate(store, content, cohort, cache)
    (folder / CALIBRATION).write_text(
        calibration.model_dump_json(indent=1) + "\n", encoding="utf-8"
    )
    manifest = Manifest(
        version=version,
        model_id=content.model_id,
        build_id=content.build_id,
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

    The version is opened from the disk as a server opens it.
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
    """Return the places of ``ids`` in a random order that few changes change little.

    A place depends on its id alone, so that a sample of an index to which a few images were added
    is nearly the sample of before, and its views are embedded already.
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
) -> dict[Facet, int]:
    """Write the vectors, and return for each inverted file the lists that a search looks into."""
    keys = content.keys
    asked = [file.key for file in content.canaries]
    writer = engine.write(folder, version, len(keys), dimensions)
    for start in range(0, len(keys), BLOCK):
        part = keys[start : start + BLOCK]
        rows = np.arange(start, start + len(part))
        writer.upsert(rows, {facet: cache.vectors(facet, part) for facet in dimensions})
    return writer.finish(
        content.index_type, {facet: cache.vectors(facet, asked) for facet in dimensions}
    )


def _calibrate(
    store: VectorStore, content: VersionContent, cohort: Cohort, cache: EmbeddingCache
) -> Calibration:
    """Ask the null queries, each without every concept that its image belongs to."""
    number = {concept.id: concept.number for concept in content.concepts}
    numbers = [number[exemplar.concept_id] for exemplar in content.exemplars]
    owners: dict[str, set[int]] = {}
    for exemplar, own in zip(content.exemplars, numbers, strict=True):
        owners.setdefault(exemplar.sha256, set()).add(own)
    keys = [file.key for file in content.null_files]
    rankings = Ranker(store, numbers, cohort).rank(
        {facet: cache.vectors(facet, keys) for facet in cohort.vectors},
        depth=DEPTH,
        excluded=[frozenset(owners[file.sha256]) for file in content.null_files],
    )
    scores = sorted(
        (float(ranking.scores[0]) for ranking in rankings if len(ranking)), reverse=True
    )
    return Calibration(null_scores=tuple(scores))
