"""The batch rebuild: scan -> embed what is new -> write -> calibrate -> publish."""

import hashlib
import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import filelock
import numpy as np

from index.calibration import Calibration
from index.catalog import Catalog, Concept, Exemplar, write_catalog
from index.embedding import ImageEmbedder, ImageFile, embed_files, hash_file
from index.embedding_cache import EmbeddingCache
from index.errors import RebuildError, SnapshotError
from index.layout import DataFolder
from index.ranking import DEPTH, Cohort, Ranker
from index.snapshot import (
    CALIBRATION,
    CATALOG,
    COHORT,
    MANIFEST,
    Manifest,
    building,
    file_record,
    new_version,
    publish,
    published_version,
    write_cohort,
)
from index.source import SourceConcept, SourceExemplar
from index.vectors import FaissStore, write_vectors
from model.config import Facet

COHORT_SIZE = 1024  # exemplars that queries are compared with
NULL_QUERIES = 1500  # images asked without their own concept, a third of them unchanged
SEED = 0

Progress = Callable[[str, int, int], None]  # (stage, done, total)


@dataclass(frozen=True)
class Skipped:
    """A source's image that is not in the index, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class RebuildSummary:
    """What a rebuild did."""

    version: str
    model_id: str
    concepts: int
    exemplars: int
    added: int  # exemplars that the version before did not have
    kept: int
    removed: int
    embedded: int  # images that had to be embedded; the others were known by their content
    skipped: list[Skipped] = field(default_factory=list)
    empty_concepts: list[str] = field(default_factory=list)  # every one of their images skipped
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Identified:
    """An exemplar whose file could be read."""

    source: SourceExemplar
    file: ImageFile

    @property
    def id(self) -> str:
        """The same for the same image of the same concept, wherever its file lies."""
        text = f"{self.source.concept.id}/{self.file.sha256}"
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def rebuild(
    data: DataFolder,
    exemplars: Sequence[SourceExemplar],
    embedder: ImageEmbedder,
    *,
    sources: Sequence[str] = (),
    workers: int = 0,
    progress: Progress | None = None,
) -> RebuildSummary:
    """Build a new version of the index from ``exemplars`` and publish it.

    Unreadable images are skipped, counted and listed. Nothing is visible before the one atomic
    publish; a run that is killed leaves the published version untouched, and the next one goes on
    with the embeddings that were already made.

    Args:
        data: the data folder.
        exemplars: from `index.source.read_sources`.
        embedder: its model becomes the index's.
        sources: what to name as origin in the manifest.
        workers: processes that decode; 0 does it in this one.
        progress: called with (stage, done, total).

    Raises:
        RebuildError: another rebuild is running, or no exemplar could be read.
    """
    started = time.monotonic()
    report = progress or _silent
    data.index.mkdir(parents=True, exist_ok=True)
    try:
        with (
            filelock.FileLock(data.index / ".rebuild.lock", timeout=0),
            EmbeddingCache(data.embeddings(embedder.model_id)) as cache,
        ):
            before = _published_ids(data.index)
            found, skipped = _identify(exemplars, report)
            files = [item.file for item in found]
            embedding = embed_files(
                cache, files, embedder, workers=workers, progress=_stage(report, "embedding")
            )
            chosen, more = _choose(found, embedding.unreadable)
            skipped += more
            if not chosen:
                raise RebuildError(
                    f"none of the {len(exemplars)} exemplars could be used; the first: "
                    f"{skipped[0].path}: {skipped[0].reason}"
                )
            null_files = _null_files(chosen)
            embed_files(
                cache, null_files, embedder, workers=workers, progress=_stage(report, "calibrating")
            )
            version = new_version()
            concepts, catalog = _catalog(chosen, cache)
            with building(data.index, version) as folder:
                _write(folder, concepts, catalog, chosen, null_files, cache)
                _write_manifest(folder, version, embedder.model_id, concepts, catalog, sources)
            publish(data.index, version)
    except filelock.Timeout:
        raise RebuildError(
            f"another rebuild is running on {data.index}; wait for it to end, then try again"
        ) from None
    ids = {exemplar.id for exemplar in catalog}
    named = {exemplar.concept.id: exemplar.concept.name for exemplar in exemplars}
    empty = named.keys() - {concept.id for concept in concepts}
    return RebuildSummary(
        version=version,
        model_id=embedder.model_id,
        concepts=len(concepts),
        exemplars=len(catalog),
        added=len(ids - before),
        kept=len(ids & before),
        removed=len(before - ids),
        embedded=embedding.embedded,
        skipped=skipped,
        empty_concepts=sorted(named[identifier] for identifier in empty),
        seconds=round(time.monotonic() - started, 3),
    )


def _published_ids(index: Path) -> set[str]:
    """Exemplar ids of the published version; none if it cannot be read, since it is replaced."""
    version = published_version(index)
    if version is None:
        return set()
    try:
        with closing(Catalog(index / version / CATALOG)) as catalog:
            return {exemplar.id for exemplar in catalog.exemplars()}
    except (SnapshotError, sqlite3.DatabaseError):
        return set()


def _identify(
    exemplars: Sequence[SourceExemplar], report: Progress
) -> tuple[list[_Identified], list[Skipped]]:
    """Every exemplar's content hash."""
    found: list[_Identified] = []
    skipped: list[Skipped] = []
    for done, exemplar in enumerate(exemplars, start=1):
        try:
            file = ImageFile(exemplar.path, hash_file(exemplar.path))
            found.append(_Identified(exemplar, file))
        except OSError as error:
            reason = f"the file could not be read: {error.strerror or error}"
            skipped.append(Skipped(str(exemplar.path), reason))
        report("scanning", done, len(exemplars))
    return found, skipped


def _choose(
    found: Sequence[_Identified], unreadable: dict[str, str]
) -> tuple[list[_Identified], list[Skipped]]:
    """One exemplar per image and concept, of those that could be decoded."""
    chosen: dict[str, _Identified] = {}
    skipped: list[Skipped] = []
    for item in found:
        path = str(item.source.path)
        if item.file.key in unreadable:
            skipped.append(Skipped(path, unreadable[item.file.key]))
        elif item.id in chosen:
            first = chosen[item.id].source.path
            skipped.append(Skipped(path, f"the same image as {first} of the same concept"))
        else:
            chosen[item.id] = item
    return list(chosen.values()), skipped


def _catalog(
    chosen: Sequence[_Identified], cache: EmbeddingCache
) -> tuple[list[Concept], list[Exemplar]]:
    """The catalog's records; an exemplar's row is its place in ``chosen``."""
    counts: dict[str, int] = {}
    named: dict[str, SourceConcept] = {}
    for item in chosen:
        concept = named.setdefault(item.source.concept.id, item.source.concept)
        counts[concept.id] = counts.get(concept.id, 0) + 1
    concepts = [
        Concept(number, concept.id, concept.name, concept.kind, counts[concept.id])
        for number, concept in enumerate(named.values())
    ]
    exemplars = []
    for row, item in enumerate(chosen):
        width, height = cache.size(item.file.key)
        exemplars.append(
            Exemplar(
                row=row,
                id=item.id,
                concept_id=item.source.concept.id,
                sha256=item.file.sha256,
                path=str(item.source.path),
                width=width,
                height=height,
                source_url=item.source.source_url,
                license=item.source.license,
                metadata=item.source.metadata,
            )
        )
    return concepts, exemplars


def _null_files(chosen: Sequence[_Identified]) -> list[ImageFile]:
    """What the null distribution asks: exemplars as they are, and augmented views of them.

    Synthetic queries are cleaner than augmented views and stranger than the exemplars themselves:
    with views alone more false attributions pass than the rate says, with clean images alone far
    fewer (docs/method.md).
    """
    order = np.random.default_rng(SEED).permutation(len(chosen))[: NULL_QUERIES // 3]
    drawn = [chosen[place].file for place in order]
    views = NULL_QUERIES - NULL_QUERIES // 3
    rounds = math.ceil(views / len(drawn))
    augmented = [replace(file, view=view) for view in range(rounds) for file in drawn]
    return drawn + augmented[:views]


def _write(
    folder: Path,
    concepts: Sequence[Concept],
    catalog: Sequence[Exemplar],
    chosen: Sequence[_Identified],
    null_files: Sequence[ImageFile],
    cache: EmbeddingCache,
) -> None:
    """Everything but the manifest."""
    keys = [item.file.key for item in chosen]
    thumbnails = ((key, cache.thumbnail(key)) for key in dict.fromkeys(keys))
    write_catalog(folder / CATALOG, concepts, catalog, thumbnails)
    facets = cache.facets()
    for facet in facets:
        write_vectors(folder, facet, cache.vectors(facet, keys))
    generator = np.random.default_rng(SEED)
    members = np.sort(generator.permutation(len(keys))[:COHORT_SIZE])
    cohort = Cohort(
        members, {facet: cache.vectors(facet, [keys[i] for i in members]) for facet in facets}
    )
    write_cohort(folder / COHORT, cohort)
    calibration = _calibrate(folder, concepts, catalog, null_files, cohort, cache)
    (folder / CALIBRATION).write_text(calibration.model_dump_json(indent=1) + "\n")


def _calibrate(
    folder: Path,
    concepts: Sequence[Concept],
    catalog: Sequence[Exemplar],
    null_files: Sequence[ImageFile],
    cohort: Cohort,
    cache: EmbeddingCache,
) -> Calibration:
    """Ask the null queries, each without every concept that its image belongs to."""
    number = {concept.id: concept.number for concept in concepts}
    owners: dict[str, set[int]] = {}
    for exemplar in catalog:
        owners.setdefault(exemplar.sha256, set()).add(number[exemplar.concept_id])
    store = FaissStore.open(folder, list(cohort.vectors))
    ranker = Ranker(store, [number[exemplar.concept_id] for exemplar in catalog], cohort)
    keys = [file.key for file in null_files]
    rankings = ranker.rank(
        {facet: cache.vectors(facet, keys) for facet in cohort.vectors},
        depth=DEPTH,
        without=[frozenset(owners[file.sha256]) for file in null_files],
    )
    scores = sorted((ranking[0].score for ranking in rankings if ranking), reverse=True)
    return Calibration(null_scores=tuple(scores))


def _write_manifest(
    folder: Path,
    version: str,
    model_id: str,
    concepts: Sequence[Concept],
    catalog: Sequence[Exemplar],
    sources: Sequence[str],
) -> None:
    facets: list[Facet] = [path.stem for path in sorted(folder.glob("*.faiss"))]  # type: ignore[misc]
    store = FaissStore.open(folder, facets)
    manifest = Manifest(
        version=version,
        model_id=model_id,
        created_at=datetime.now(UTC),
        dimensions={facet: store.dimension(facet) for facet in facets},
        concepts=len(concepts),
        exemplars=len(catalog),
        sources=list(sources),
        files={path.name: file_record(path) for path in sorted(folder.iterdir())},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")


def _silent(_stage: str, _done: int, _total: int) -> None:
    pass


def _stage(report: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: report(name, done, total)
