"""The batch rebuild: scan -> embed what is new -> write -> calibrate -> canaries -> publish."""

import hashlib
import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from index.answering import calibration, ranking
from index.answering.calibration import Calibration
from index.answering.ranking import DEPTH, Cohort, Ranker
from index.building import embedding
from index.building.embedding import (
    EmbeddingReport,
    EmbedFiles,
    ImageEmbedder,
    ImageFile,
    embed_files,
)
from index.building.embedding_cache import EmbeddingCache
from index.building.scan import (
    Identified,
    Progress,
    add_fingerprints,
    identify,
    leave_out,
)
from index.building.source import SourceConcept, SourceExemplar
from index.catalog import Catalog, Concept, Exemplar, write_catalog
from index.errors import RebuildError, SnapshotError
from index.layout import DataFolder
from index.snapshot import (
    CALIBRATION,
    CATALOG,
    COHORT,
    FINGERPRINTS,
    MANIFEST,
    Manifest,
    Snapshot,
    building,
    clear_unfinished,
    file_record,
    list_versions,
    new_version,
    open_published,
    publish,
    published_version,
    write_cohort,
)
from index.stores import inverted
from index.stores.inverted import IndexType
from index.stores.vectors import FaissEngine, VectorEngine, VectorStore
from index.takedowns import fingerprints as fingerprint
from index.takedowns.fingerprints import LENGTH
from index.takedowns.log import Extent, TakedownLog, Takedowns
from index.versions import KEEP, erase_withdrawn, named_failures, prune, rebuild_lock, remove
from model import views
from model.config import Facet
from model.folders import Skipped

COHORT_SIZE = 1024  # exemplars that queries are compared with
NULL_QUERIES = 1500  # images asked without their own concept, a third of them unchanged
CANARIES = 100  # of the augmented ones, asked of the finished version before it is published
CANARY_PLACES = 5  # places among which a canary's own concept counts as found
CANARY_RATE = 0.5  # share that must be found; docs/operations.md has what models reach
BLOCK = 10_000  # vectors taken from the cache to the index at once
SEED = 0


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
    unchanged: bool = False  # the published version is this very one, so that it stays
    canaries: float | None = None  # share of canaries that found their concept; None if unchanged
    not_erased: list[str] = field(default_factory=list)  # versions that keep withdrawn vectors
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def rebuild(
    data: DataFolder,
    exemplars: Sequence[SourceExemplar],
    embedder: ImageEmbedder,
    *,
    sources: Sequence[str] = (),
    skipped: Sequence[Skipped] = (),
    workers: int = 0,
    keep: int = KEEP,
    canary_rate: float = CANARY_RATE,
    index_type: IndexType = "auto",
    engine: VectorEngine | None = None,
    embed: EmbedFiles = embed_files,
    force: bool = False,
    progress: Progress | None = None,
) -> RebuildSummary:
    """Build a new version of the index from ``exemplars`` and publish it.

    Unreadable images are skipped, counted and listed. Nothing is visible before the one atomic
    publish; a run that is killed leaves the published version untouched, and the next one goes on
    with the embeddings that were already made.

    Args:
        data: the data folder.
        exemplars: from `index.building.source.read_sources`.
        embedder: its model becomes the index's.
        sources: what to name as origin in the manifest.
        skipped: from `read_sources` as well, to be listed in the summary.
        workers: processes that decode; 0 does it in this one.
        keep: versions to keep, this one included; older ones are removed.
        canary_rate: share of the canary queries that must find their own concept.
        index_type: how to search; ``auto`` is exact up to `index.stores.inverted.EXACT_FLOATS`.
        engine: keeps the vectors; by default files in the version's folder.
        embed: how to fill the embedding cache; by default in this process.
        force: write a new version even if the published one is the very same.
        progress: called with (stage, done, total).

    Raises:
        RebuildError: another rebuild is running, no exemplar could be used, too few canaries found
            their concept, or the disk cannot be written to.
        TakedownError: the log of takedowns cannot be read.
    """
    started = time.monotonic()
    report = progress or _silent
    engine = engine or FaissEngine()
    with (
        named_failures(data),
        rebuild_lock(data.index),
        EmbeddingCache(data.embeddings(embedder.model_id)) as cache,
    ):
        clear_unfinished(data.index)
        takedowns = TakedownLog(data.takedowns).read()
        for manifest in list_versions(data.index):
            takedowns.require(manifest.takedowns, f"the manifest of version {manifest.version}")
        served, before = _published(data.index)
        embed = partial(embed, embedder=embedder, workers=workers)
        chosen, unused, embedded = _collect(exemplars, takedowns, cache, embed, report)
        null_files = _null_files(chosen)
        asked = embed(cache, null_files, progress=partial(report, "calibrating"))
        null_files = [file for file in null_files if file.key not in asked.unreadable]
        concepts, catalog = _catalog(chosen, cache)
        ids = {exemplar.id for exemplar in catalog}
        named = {exemplar.concept.id: exemplar.concept.name for exemplar in exemplars}
        empty = named.keys() - {concept.id for concept in concepts}
        summary = RebuildSummary(
            version=new_version(),
            model_id=embedder.model_id,
            concepts=len(concepts),
            exemplars=len(catalog),
            added=len(ids - before),
            kept=len(ids & before),
            removed=len(before - ids),
            embedded=embedded,
            skipped=[*skipped, *unused],
            empty_concepts=sorted(named[identifier] for identifier in empty),
        )
        version = summary.version
        wanted = _Wanted(
            embedder.model_id, tuple(sources), index_type, engine.address, concepts, catalog
        )
        same_images = ids == before
        if not force and same_images and (published := wanted.published_in(data.index)):
            left = _tidy(data, keep, None)
            seconds = round(time.monotonic() - started, 3)
            return replace(
                summary, version=published, unchanged=True, not_erased=left, seconds=seconds
            )
        with building(data.index, version) as folder:
            dimensions, probes = _write(folder, wanted, engine, version, chosen, null_files, cache)
            _write_manifest(folder, version, wanted, dimensions, probes, takedowns.extent)
            found_again = _ask_canaries(folder, null_files, cache)
            if found_again < canary_rate:
                raise RebuildError(
                    f"only {found_again:.0%} of the canary queries (augmented exemplars) found "
                    f"their own concept, under the {canary_rate:.0%} asked for, so nothing was "
                    "published; train a better model, or set another rate with --canary-rate"
                )
        try:
            engine.publish(version)
        except SnapshotError:
            remove(data.index, version)  # or versions that never answered push out those that did
            raise
        publish(data.index, version)
        left = _tidy(data, keep, served)
    seconds = round(time.monotonic() - started, 3)
    return replace(summary, canaries=found_again, not_erased=left, seconds=seconds)


def _tidy(data: DataFolder, keep: int, before: str | None) -> list[str]:
    """Remove old versions, and what is withdrawn from the others; where that was not possible."""
    prune(data.index, keep, before)
    # Read again: hours may have passed, and what was lifted meanwhile must not lose its vectors.
    return erase_withdrawn(data.index, TakedownLog(data.takedowns).read())


def _collect(
    exemplars: Sequence[SourceExemplar],
    takedowns: Takedowns,
    cache: EmbeddingCache,
    embed: Callable[..., EmbeddingReport],
    report: Progress,
) -> tuple[list[Identified], list[Skipped], int]:
    """The exemplars to index, embedded; those left out; and how many had to be embedded.

    Raises:
        RebuildError: none is left to index.
    """
    found, skipped = identify(exemplars, cache, report)
    # Once before embedding, by content and by what is known; once more for the new pictures.
    concept_ids = {exemplar.concept.id for exemplar in exemplars}
    found, withdrawn = leave_out(found, takedowns, cache, concept_ids)
    files = [item.file for item in found]
    outcome = embed(cache, files, progress=partial(report, "embedding"))
    chosen, unusable = _choose(found, outcome.unreadable)
    add_fingerprints((item.file.sha256 for item in chosen), cache)
    chosen, copies = leave_out(chosen, takedowns, cache, concept_ids)
    skipped += withdrawn + unusable + copies
    if not chosen:
        raise RebuildError(
            f"none of the {len(exemplars)} exemplars could be used; the first: "
            f"{skipped[0].path}: {skipped[0].reason}"
        )
    return chosen, skipped, outcome.embedded


@dataclass(frozen=True)
class _Wanted:
    """What decides every byte of a version, its name and time apart."""

    model_id: str
    sources: tuple[str, ...]
    index_type: IndexType
    store: str | None
    concepts: list[Concept]
    exemplars: list[Exemplar]

    @property
    def build_id(self) -> str:
        """Identity of the rest: the method as it is written, and the type of index asked for."""
        digest = hashlib.sha256(self.index_type.encode())
        for module in (ranking, calibration, embedding, fingerprint, inverted, views):
            digest.update(Path(str(module.__file__)).read_bytes())
        digest.update(Path(__file__).read_bytes())
        return digest.hexdigest()[:12]

    def published_in(self, index: Path) -> str | None:
        """The published version, if it is this one and whole."""
        try:
            snapshot = open_published(index)
        except (SnapshotError, sqlite3.DatabaseError):
            return None
        with closing(snapshot):
            manifest, catalog = snapshot.manifest, snapshot.catalog
            same = (
                manifest.model_id == self.model_id
                and manifest.build_id == self.build_id
                and manifest.sources == list(self.sources)
                and manifest.store == self.store
                and catalog.exemplars() == self.exemplars
                and sorted(catalog.concepts(), key=lambda c: c.number) == self.concepts
            )
            return manifest.version if same else None


def _published(index: Path) -> tuple[str | None, set[str]]:
    """The published version and its exemplars' ids, as far as it can be read: it is replaced."""
    version = None
    try:
        version = published_version(index)
        if version is None:
            return None, set()
        with closing(Catalog(index / version / CATALOG)) as catalog:
            return version, set(catalog.exemplar_ids())
    except (SnapshotError, sqlite3.DatabaseError):
        return version, set()


def _choose(
    found: Sequence[Identified], unreadable: dict[str, str]
) -> tuple[list[Identified], list[Skipped]]:
    """One exemplar per image and concept, of those that could be decoded."""
    chosen: dict[str, Identified] = {}
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
    chosen: Sequence[Identified], cache: EmbeddingCache
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
    sizes = cache.sizes()
    exemplars = []
    for row, item in enumerate(chosen):
        width, height = sizes[item.file.key]
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


def _null_files(chosen: Sequence[Identified]) -> list[ImageFile]:
    """What the null distribution asks: exemplars as they are, and augmented views of them.

    Synthetic queries are cleaner than augmented views and stranger than the exemplars themselves:
    with views alone more false attributions pass than the rate says, with clean images alone far
    fewer (docs/method.md).
    """
    order = _draw(chosen, "null")[: NULL_QUERIES // 3]
    drawn = [chosen[place].file for place in order]
    views = NULL_QUERIES - NULL_QUERIES // 3
    rounds = math.ceil(views / len(drawn))
    augmented = [replace(file, view=view) for view in range(rounds) for file in drawn]
    return drawn + augmented[:views]


def _draw(chosen: Sequence[Identified], purpose: str) -> list[int]:
    """The exemplars' places in an order that is random, and that few changes change little.

    An exemplar's rank depends on its content alone, so that a sample of an index to which a few
    images were added is nearly the sample of before, and its views are embedded already.
    """
    keys = [hashlib.sha256(f"{SEED}/{purpose}/{item.id}".encode()).digest() for item in chosen]
    return sorted(range(len(chosen)), key=keys.__getitem__)


def _write(
    folder: Path,
    wanted: _Wanted,
    engine: VectorEngine,
    version: str,
    chosen: Sequence[Identified],
    null_files: Sequence[ImageFile],
    cache: EmbeddingCache,
) -> tuple[dict[Facet, int], dict[Facet, int]]:
    """Everything but the manifest.

    Returns:
        The dimension of each facet, and for each with an inverted file the lists that a search
        looks into.
    """
    keys = [item.file.key for item in chosen]
    thumbnails = cache.thumbnails(list(dict.fromkeys(keys)))
    write_catalog(folder / CATALOG, wanted.concepts, wanted.exemplars, thumbnails)
    facets = sorted(cache.facets())
    asked = [file.key for file in _canaries(null_files)]
    dimensions = {facet: cache.vectors(facet, keys[:1]).shape[1] for facet in facets}
    writer = engine.write(folder, version, len(keys), dimensions)
    for start in range(0, len(keys), BLOCK):
        part = keys[start : start + BLOCK]
        rows = np.arange(start, start + len(part))
        writer.upsert(rows, {facet: cache.vectors(facet, part) for facet in facets})
    probes = writer.finish(
        wanted.index_type, {facet: cache.vectors(facet, asked) for facet in facets}
    )
    known = cache.fingerprints()
    prints = b"".join(known[item.file.sha256] for item in chosen)
    np.save(folder / FINGERPRINTS, np.frombuffer(prints, dtype=np.uint8).reshape(-1, LENGTH))
    members = np.sort(_draw(chosen, "cohort")[:COHORT_SIZE])
    cohort = Cohort(
        members, {facet: cache.vectors(facet, [keys[i] for i in members]) for facet in facets}
    )
    write_cohort(folder / COHORT, cohort)
    store = engine.open(folder, version, len(keys), dimensions, probes)
    calibration = _calibrate(store, wanted, null_files, cohort, cache)
    (folder / CALIBRATION).write_text(
        calibration.model_dump_json(indent=1) + "\n", encoding="utf-8"
    )
    return dimensions, probes


def _calibrate(
    store: VectorStore,
    wanted: _Wanted,
    null_files: Sequence[ImageFile],
    cohort: Cohort,
    cache: EmbeddingCache,
) -> Calibration:
    """Ask the null queries, each without every concept that its image belongs to."""
    catalog = wanted.exemplars
    number = {concept.id: concept.number for concept in wanted.concepts}
    owners: dict[str, set[int]] = {}
    for exemplar in catalog:
        owners.setdefault(exemplar.sha256, set()).add(number[exemplar.concept_id])
    ranker = Ranker(store, [number[exemplar.concept_id] for exemplar in catalog], cohort)
    keys = [file.key for file in null_files]
    rankings = ranker.rank(
        {facet: cache.vectors(facet, keys) for facet in cohort.vectors},
        depth=DEPTH,
        excluded=[frozenset(owners[file.sha256]) for file in null_files],
    )
    scores = sorted(
        (float(ranking.scores[0]) for ranking in rankings if len(ranking)), reverse=True
    )
    return Calibration(null_scores=tuple(scores))


def _canaries(null_files: Sequence[ImageFile]) -> list[ImageFile]:
    return [file for file in null_files if file.view is not None][:CANARIES]


def _ask_canaries(folder: Path, null_files: Sequence[ImageFile], cache: EmbeddingCache) -> float:
    """Share of augmented exemplars that find a concept of theirs among the first `CANARY_PLACES`.

    They are asked of the version as it lies on the disk, opened as a server would open it.
    """
    snapshot = Snapshot.open(folder)
    try:
        files = _canaries(null_files)
        numbers = snapshot.catalog.concept_numbers()
        rankings = snapshot.ranker.rank(
            {
                facet: cache.vectors(facet, [file.key for file in files])
                for facet in snapshot.manifest.dimensions
            },
        )
        hits = 0
        for file, ranking in zip(files, rankings, strict=True):
            own = {numbers[row] for row in snapshot.catalog.rows_of([file.sha256], [])}
            hits += not own.isdisjoint(ranking.numbers[:CANARY_PLACES].tolist())
        return hits / len(files)
    finally:
        snapshot.close()


def _write_manifest(
    folder: Path,
    version: str,
    wanted: _Wanted,
    dimensions: dict[Facet, int],
    probes: dict[Facet, int],
    takedowns: Extent,
) -> None:
    manifest = Manifest(
        version=version,
        model_id=wanted.model_id,
        build_id=wanted.build_id,
        created_at=datetime.now(UTC),
        dimensions=dimensions,
        probes=probes,
        store=wanted.store,
        concepts=len(wanted.concepts),
        exemplars=len(wanted.exemplars),
        sources=list(wanted.sources),
        takedowns=takedowns,
        files={path.name: file_record(path) for path in sorted(folder.iterdir())},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _silent(_stage: str, _done: int, _total: int) -> None:
    pass
