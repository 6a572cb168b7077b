"""The batch rebuild: scan, embed new images, write a version, check it by canaries, publish."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import PurePath

from index.building.copies import compare_with_withdrawn, remember_withdrawn
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
    forget_outdated,
    identify,
    leave_out,
    namesakes,
)
from index.building.source import SourceConcept, SourceExemplar
from index.building.writing import (
    CANARIES,
    COHORT_SIZE,
    GROUP_VIEWS,
    VersionContent,
    ask_canaries,
    random_order,
    write_version,
)
from index.catalog import Catalog, Concept, Exemplar
from index.defaults import CANARY_RATE, KEEP
from index.errors import RebuildError, SnapshotError
from index.layout import DataFolder
from index.snapshot import (
    CATALOG,
    building,
    clear_unfinished,
    new_version,
    open_published,
    publish,
    published_version,
)
from index.stores.vectors import IndexType, VectorEngine
from index.takedowns.in_force import Takedowns
from index.takedowns.log import TakedownLog
from index.takedowns.witnesses import attest
from index.versions import erase_withdrawn, named_failures, prune, rebuild_lock, remove
from model.folders import Skipped
from model.images import DEFAULT_LIMITS, ImageLimits

METHOD = 4  # increase it with any change that gives another index of the same images and options
NULL_QUERIES = 1500  # images ranked without their own concept, half of them unaugmented


@dataclass(frozen=True)
class RebuildOptions:
    """Options of a rebuild.

    Attributes:
        sources: names of the sources, for the manifest.
        workers: threads that prepare images, and processes that decode them; at least one.
        limits: limits on an exemplar's size.
        keep: versions to keep, the new one included; older ones are removed.
        canary_rate: share of the canary queries that must find their own concept.
        index_type: ``exact``, ``ivf``, or ``auto``: exact up to `index.stores.lists.EXACT_FLOATS`.
        engine: stores the vectors; by default files in the version's folder.
        embed: fills the embedding cache; by default in this process.
        force: write a new version even if the published one has the same content.
    """

    sources: Sequence[str] = ()
    workers: int = 0
    limits: ImageLimits = DEFAULT_LIMITS
    keep: int = KEEP
    canary_rate: float = CANARY_RATE
    index_type: IndexType = "auto"
    engine: VectorEngine | None = None
    embed: EmbedFiles = embed_files
    force: bool = False


@dataclass(frozen=True)
class RebuildSummary:
    """Result of a rebuild."""

    version: str
    model_id: str
    concepts: int
    exemplars: int
    added: int  # exemplars that the version before did not have
    kept: int
    removed: int
    embedded: int  # images embedded; the cache had the others
    skipped: list[Skipped] = field(default_factory=list)
    empty_concepts: list[str] = field(default_factory=list)  # all their images were skipped
    unchanged: bool = False  # the published version has this content and is kept
    canaries: float | None = None  # share of canaries that found their concept; None if unchanged
    warnings: list[str] = field(default_factory=list)  # what an operator should look at
    not_erased: list[str] = field(default_factory=list)  # versions that keep withdrawn vectors
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """Return the fields for JSON."""
        return asdict(self)


def rebuild(
    data: DataFolder,
    exemplars: Sequence[SourceExemplar],
    embedder: ImageEmbedder,
    options: RebuildOptions | None = None,
    *,
    skipped: Sequence[Skipped] = (),
    progress: Progress | None = None,
) -> RebuildSummary:
    """Build a new version of the index from ``exemplars`` and publish it.

    Unreadable images are skipped and listed. The version becomes visible by one atomic publish. A
    killed run leaves the published version untouched, and the next one reuses its embeddings.

    Args:
        data: the data folder.
        exemplars: from `index.building.source.read_sources`.
        embedder: of the index's model.
        options: see `RebuildOptions`.
        skipped: images that `read_sources` skipped, for the summary.
        progress: called with (stage, done, total).

    Raises:
        RebuildError: another rebuild is running, no exemplar could be used, too few canaries found
            their concept, or the disk cannot be written to.
        TakedownError: the log of takedowns cannot be read.
    """
    started = time.monotonic()
    with _begin(data, embedder, options or RebuildOptions(), progress or _silent) as run:
        found = _scan(run, exemplars)
        chosen = _embed(run, found)
        content = _describe(run, chosen)
        summary = _summarise(run, content, exemplars, skipped)
        if not (run.options.force or run.renewed) and _is_published(run, content):
            assert run.published
            summary = replace(summary, version=run.published, unchanged=True)
        else:
            summary = replace(summary, canaries=_write(run, content, summary.version))
            _publish(run, summary.version)
        left = _tidy(run, summary.unchanged)
    return replace(summary, not_erased=left, seconds=round(time.monotonic() - started, 3))


@dataclass
class _Run:
    """State of one rebuild."""

    data: DataFolder
    model_id: str
    options: RebuildOptions
    embedder: ImageEmbedder
    cache: EmbeddingCache
    engine: VectorEngine
    embed: Callable[..., EmbeddingReport]
    report: Progress
    takedowns: Takedowns
    published: str | None  # version published when the rebuild begins
    before: set[str]  # ids of its exemplars
    concept_ids: set[str] = field(default_factory=set)  # of all concepts of the sources
    embedded: int = 0
    renewed: int = 0  # images embedded before, by another version of the decoding
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@contextmanager
def _begin(
    data: DataFolder, embedder: ImageEmbedder, options: RebuildOptions, report: Progress
) -> Iterator[_Run]:
    """Take the lock, open the cache and read the log of takedowns.

    Raises:
        RebuildError: another rebuild is running.
        TakedownError: the log cannot be read, or lacks records of a version's extent.
    """
    with (
        named_failures(data),
        rebuild_lock(data.index),
        EmbeddingCache(data.embeddings(embedder.model_id)) as cache,
    ):
        clear_unfinished(data.index, data.stores)
        takedowns = TakedownLog(data.takedowns).read()
        attest(data.embeddings(embedder.model_id).parent, takedowns.extent)
        embed = partial(
            options.embed, embedder=embedder, workers=options.workers, limits=options.limits
        )
        published, before = _read_published(data)
        yield _Run(
            data=data,
            model_id=embedder.model_id,
            options=options,
            embedder=embedder,
            cache=cache,
            engine=options.engine or data.stores.engine(None),
            embed=embed,
            report=report,
            takedowns=takedowns,
            published=published,
            before=before,
        )


def _scan(run: _Run, exemplars: Sequence[SourceExemplar]) -> list[Identified]:
    """Return the readable exemplars that are not taken down."""
    run.concept_ids = {exemplar.concept.id for exemplar in exemplars}
    found, unreadable = identify(exemplars, run.cache, run.report, run.options.limits)
    run.renewed = forget_outdated(found, run.cache)
    readable = found
    found, withdrawn = leave_out(readable, run.takedowns, run.cache, run.concept_ids)
    kept = {item.file.sha256 for item in found}
    gone = {i.file.sha256: i.file.picture for i in readable if i.file.sha256 not in kept}
    remember_withdrawn(run.data, run.embedder, run.takedowns, gone, run.options.limits)
    run.skipped += unreadable + withdrawn
    if not found:
        raise _none_usable(run)
    return found


def _embed(run: _Run, found: Sequence[Identified]) -> list[Identified]:
    """Fill the cache; return one exemplar per image and concept, in the order of the rows.

    Raises:
        RebuildError: no exemplar is left.
    """
    files = [item.file for item in found]
    outcome = run.embed(run.cache, files, progress=partial(run.report, "embedding"))
    run.embedded = outcome.embedded
    chosen: dict[str, Identified] = {}
    for item in found:
        if item.file.key in outcome.unreadable:
            reason = outcome.unreadable[item.file.key]
        elif item.id in chosen:
            first = chosen[item.id].source.picture.address
            reason = f"the same image as {first} of the same concept"
        else:
            chosen[item.id] = item
            continue
        run.skipped.append(Skipped(item.source.picture.address, reason))
    # Apply takedowns again, now that new images have fingerprints.
    add_fingerprints((item.file.sha256 for item in chosen.values()), run.cache)
    kept, copies = leave_out(list(chosen.values()), run.takedowns, run.cache, run.concept_ids)
    run.skipped += copies
    if kept:
        kept = _leave_out_copies(run, kept)
    if not kept:
        raise _none_usable(run)
    run.warnings += namesakes(kept, run.takedowns)
    return kept


def _leave_out_copies(run: _Run, found: list[Identified]) -> list[Identified]:
    """Withdraw what is certainly a copy by its embedding; warn of what may be one."""
    sample = random_order([item.id for item in found], "cohort")[:COHORT_SIZE]
    certain, warnings = compare_with_withdrawn(
        run.data, run.model_id, run.takedowns, run.cache, found, sample
    )
    run.warnings += warnings
    if not certain:
        return found
    log = TakedownLog(run.data.takedowns)
    for picture, content, reason in certain:
        log.add("image", PurePath(picture.address).name, [content], reason=reason)
    run.takedowns = log.read()
    kept, copies = leave_out(found, run.takedowns, run.cache, run.concept_ids)
    run.skipped += copies
    return kept


def _describe(run: _Run, chosen: Sequence[Identified]) -> VersionContent:
    """Return the content of the version, with its null queries embedded."""
    null_files = _draw_null_files(chosen)
    asked = run.embed(run.cache, null_files, progress=partial(run.report, "calibrating"))
    concepts, exemplars = _catalog(chosen, run.cache)
    return VersionContent(
        model_id=run.model_id,
        build_id=f"{METHOD}-{run.options.index_type}",
        sources=tuple(run.options.sources),
        index_type=run.options.index_type,
        store=run.engine.address,
        concepts=concepts,
        exemplars=exemplars,
        null_files=[file for file in null_files if file.key not in asked.unreadable],
    )


def _write(run: _Run, content: VersionContent, version: str) -> float:
    """Write a version, and return the share of its canaries that found their concept.

    Raises:
        RebuildError: too few of them did; the version is removed.
    """
    with building(run.data.index, version, run.data.stores) as folder:
        extent = run.takedowns.extent
        before = run.data.index / run.published if run.published else None
        write_version(folder, version, content, run.engine, run.cache, extent, before)
        attest(folder, extent)
        share = ask_canaries(folder, content, run.cache, run.data.stores)
        if share < run.options.canary_rate:
            raise RebuildError(
                f"only {share:.0%} of the canary queries (augmented exemplars) found their own "
                f"concept, under the {run.options.canary_rate:.0%} asked for, so nothing was "
                "published; train a better model, or set another rate with --canary-rate"
            )
    return share


def _publish(run: _Run, version: str) -> None:
    try:
        run.engine.publish(version)
    except SnapshotError:
        # Otherwise unpublished versions would count among those kept.
        remove(run.data.index, version, run.data.stores)
        raise
    publish(run.data.index, version)


def _tidy(run: _Run, unchanged: bool) -> list[str]:
    """Remove old versions and withdrawn vectors; return the versions that still hold some."""
    before = None if unchanged else run.published
    prune(run.data.index, run.options.keep, before, run.data.stores)
    # Read the log again: works may have been withdrawn or lifted since the rebuild began.
    takedowns = TakedownLog(run.data.takedowns).read()
    return erase_withdrawn(run.data.index, takedowns, run.data.stores)


def _summarise(
    run: _Run,
    content: VersionContent,
    exemplars: Sequence[SourceExemplar],
    skipped: Sequence[Skipped],
) -> RebuildSummary:
    ids = {exemplar.id for exemplar in content.exemplars}
    names = {exemplar.concept.id: exemplar.concept.name for exemplar in exemplars}
    empty = names.keys() - {concept.id for concept in content.concepts}
    return RebuildSummary(
        version=new_version(),
        model_id=content.model_id,
        concepts=len(content.concepts),
        exemplars=len(content.exemplars),
        added=len(ids - run.before),
        kept=len(ids & run.before),
        removed=len(run.before - ids),
        embedded=run.embedded,
        skipped=[*skipped, *run.skipped],
        empty_concepts=sorted(names[identifier] for identifier in empty),
        warnings=run.warnings,
    )


def _read_published(data: DataFolder) -> tuple[str | None, set[str]]:
    """Return the published version and its exemplars' ids; a damaged one counts as empty."""
    version = None
    try:
        version = published_version(data.index)
        if version is None:
            return None, set()
        with closing(Catalog(data.index / version / CATALOG)) as catalog:
            return version, set(catalog.exemplar_ids())
    except SnapshotError:
        return version, set()


def _is_published(run: _Run, content: VersionContent) -> bool:
    """Return True if the published version has this content and is intact."""
    if {exemplar.id for exemplar in content.exemplars} != run.before:
        return False
    try:
        snapshot = open_published(run.data.index, run.data.stores)
    except SnapshotError:
        return False
    with closing(snapshot):
        manifest, catalog = snapshot.manifest, snapshot.catalog
        return (
            manifest.model_id == content.model_id
            and manifest.build_id == content.build_id
            and manifest.sources == list(content.sources)
            and manifest.store == content.store
            and catalog.exemplars() == content.exemplars
            and sorted(catalog.concepts(), key=lambda c: c.number) == content.concepts
        )


def _catalog(
    chosen: Sequence[Identified], cache: EmbeddingCache
) -> tuple[list[Concept], list[Exemplar]]:
    """Return the catalog's records; an exemplar's row is its position in ``chosen``."""
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
                path=item.source.picture.address,
                width=width,
                height=height,
                source_url=item.source.source_url,
                license=item.source.license,
                metadata=item.source.metadata,
            )
        )
    return concepts, exemplars


def _draw_null_files(chosen: Sequence[Identified]) -> list[ImageFile]:
    """Draw the null queries: exemplars and augmented views of them.

    Synthetic queries are less distorted than augmented views, and differ more from exemplars than
    exemplars do (docs/method.md). One concept alone needs views for its canaries only, since
    nothing is left to rank without it.
    """
    order = random_order([item.id for item in chosen], "null")[: NULL_QUERIES // 2]
    drawn = [chosen[place].file for place in order]
    views = NULL_QUERIES - NULL_QUERIES // 2
    if len({item.source.concept.id for item in chosen}) < 2:
        views = min(views, CANARIES)
    # Several views of each, since views of one exemplar are null groups too.
    some = drawn[: math.ceil(views / GROUP_VIEWS)]
    rounds = math.ceil(views / len(some))
    augmented = [replace(file, view=view) for view in range(rounds) for file in some]
    return drawn + augmented[:views]


def _none_usable(run: _Run) -> RebuildError:
    first = run.skipped[0]
    return RebuildError(
        f"none of the {len(run.skipped)} exemplars could be used; the first: "
        f"{first.path}: {first.reason}"
    )


def _silent(_stage: str, _done: int, _total: int) -> None:
    pass
