"""Checks of an index version beyond those of `Snapshot.open`."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from index.building.embedding import ImageEmbedder
from index.catalog import Catalog, Exemplar
from index.defaults import SAMPLE
from index.errors import SnapshotError, TakedownError
from index.layout import DataFolder
from index.snapshot import CATALOG, Snapshot, published_version
from index.takedowns.in_force import all_rows
from index.takedowns.log import TakedownLog
from index.versions import require_version
from model.checkpoint import load_embedder
from model.errors import ImageError, ModelError, SourceError
from model.images import ImageLimits
from model.sources.picture import decode_picture
from model.sources.places import picture_at
from model.sources.remote import is_url

# No limits: an exemplar's size was checked when it was embedded.
ANY_SIZE = ImageLimits(max_pixels=2**40, max_side=2**30, min_side=1)
MIN_COSINE = 0.999  # of a new embedding with the index's; device and batch size change it slightly
BLOCK = 4096  # rows whose vectors are compared at once
SEED = 0
# Reasons to leave an exemplar out.
AWAY = "lie at URLs, which are read with --remote alone"
CHANGED = "files have moved or changed since and were skipped"


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    name: str
    passed: bool
    text: str


@dataclass(frozen=True)
class Verification:
    """Results of all checks of a version."""

    version: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Return True if every check passed."""
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, object]:
        """Return the fields for JSON."""
        return {"passed": self.passed, **asdict(self)}


def verify(
    data: DataFolder,
    version: str | None = None,
    *,
    sample: int = SAMPLE,
    device: str = "auto",
    embedder: ImageEmbedder | None = None,
    remote: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Verification:
    """Check the files, counts, vectors, takedowns and embeddings of a version.

    Args:
        data: the data folder.
        version: by default the published one.
        sample: number of exemplars to embed again and compare, if their files are found; 0 needs
            no model.
        device: ``auto``, ``cpu``, ``cuda``, ...
        embedder: used instead of loading the version's model.
        remote: also read exemplars that lie at URLs, as the index names them.
        progress: called with (stage, done, total).

    Raises:
        SnapshotError: no version is published, or there is none of that name.
    """
    published = published_version(data.index)
    if version is not None and version != published:
        version = require_version(data.index, version).version
    version = version or published
    if version is None:
        raise SnapshotError(
            f"there is no index in {data.index} yet; run `whence rebuild --source PATH`"
        )
    checks: list[Check] = []
    try:
        snapshot = Snapshot.open(data.index / version, data.stores)
    except SnapshotError as error:
        return Verification(version, (Check("files", False, str(error)),))
    manifest = snapshot.manifest
    try:
        total = sum(record.bytes for record in manifest.files.values())
        checks.append(
            Check("files", True, f"{len(manifest.files)} files, {total:,} bytes, as checksummed")
        )
        checks += _consistency(snapshot)
        try:
            in_force = TakedownLog(data.takedowns).read()
            hidden = in_force.hidden_rows(snapshot.catalog, snapshot.fingerprint_index, {})
            count = len(all_rows(hidden))
            text = f"{len(in_force.active)} takedowns in force hide {count} exemplars"
            checks.append(Check("takedowns", True, text))
        except TakedownError as error:
            checks.append(Check("takedowns", False, str(error)))
        if sample:
            try:
                embedder = embedder or load_embedder(data.models, manifest.model_id, device=device)
                checks.append(_embedded_again(snapshot, embedder, sample, remote, progress))
            except ModelError as error:
                checks.append(Check("embeddings", False, str(error)))
    finally:
        snapshot.close()
    return Verification(version, tuple(checks))


def _consistency(snapshot: Snapshot) -> Iterator[Check]:
    """Check that catalog, vectors and manifest agree."""
    manifest, vectors = snapshot.manifest, snapshot.vectors
    catalog = Catalog(snapshot.folder / CATALOG)  # unmasked: rows of erased vectors count, too
    found = (catalog.concept_count(), catalog.exemplar_count(), vectors.count)
    yield Check(
        "counts",
        found == (manifest.concepts, manifest.exemplars, manifest.exemplars),
        f"catalog of {found[0]} concepts and {found[1]} exemplars, {found[2]} vectors; manifest "
        f"of {manifest.concepts} and {manifest.exemplars}",
    )
    exemplars = catalog.exemplars()
    orphans = catalog.without_thumbnail()
    rows_fit = [exemplar.row for exemplar in exemplars] == list(range(vectors.count))
    yield Check(
        "catalog",
        rows_fit and not orphans,
        "every row of the vectors has its exemplar and thumbnail"
        if rows_fit and not orphans
        else f"rows {'fit' if rows_fit else 'do not fit'}, {len(orphans)} without a thumbnail; run "
        "`whence rebuild`",
    )
    catalog.close()
    present = np.setdiff1d(np.arange(vectors.count), vectors.erased)
    for facet, dimension in manifest.dimensions.items():
        wrong = sum(
            int((~(np.abs(np.linalg.norm(rows, axis=1) - 1) < 1e-3)).sum())  # NaN is wrong, too
            for start in range(0, len(present), BLOCK)
            for rows in [vectors.vectors(facet, present[start : start + BLOCK])]
        )
        yield Check(
            f"vectors of {facet}",
            not wrong,
            f"{len(present)} {facet} vectors of dimension {dimension}, {wrong} not of unit norm",
        )


def _embedded_again(
    snapshot: Snapshot,
    embedder: ImageEmbedder,
    sample: int,
    remote: bool,
    progress: Callable[[str, int, int], None] | None,
) -> Check:
    """Embed the files of sampled exemplars again and compare with the index's vectors."""
    snapshot.require_model(embedder.model_id)
    shuffled = np.random.default_rng(SEED).permutation(snapshot.vectors.count)
    order = shuffled[~np.isin(shuffled, snapshot.vectors.erased)].tolist()
    wanted, compared = min(sample, len(order)), 0
    left_out: Counter[str] = Counter()
    wrong: list[str] = []
    lowest = 1.0
    for exemplar in _exemplars(snapshot, order):
        try:
            cosines = _cosines(snapshot, embedder, exemplar, remote)
        except SourceError as error:
            return Check("embeddings", False, f"not checked to the end: {error}")
        if isinstance(cosines, str):
            left_out[cosines] += 1
            continue
        compared += 1
        lowest = min(lowest, *cosines)
        if not min(cosines) >= MIN_COSINE:
            wrong.append(exemplar.path)
        if progress:
            progress("verifying", compared, wanted)
        if compared == wanted:
            break
    if not compared:
        why = f"all {len(order)} original files are missing or changed; restore them"
        if left_out[AWAY]:
            why = f"of {len(order)} original files {left_out[AWAY]} {AWAY}"
        return Check("embeddings", False, f"not checked: {why}, or skip this check by --sample 0")
    text = f"{compared} exemplars embedded again, lowest cosine {lowest:.5f}"
    text += "".join(f"; {count} {reason}" for reason, count in left_out.items())
    if wrong:
        text += f"; {len(wrong)} differ, the first {wrong[0]}: run `whence rebuild`"
    return Check("embeddings", not wrong, text)


def _exemplars(snapshot: Snapshot, rows: Sequence[int]) -> Iterator[Exemplar]:
    """Yield the exemplars of these rows, in their order."""
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        found = snapshot.catalog.exemplars_by_row(part)
        yield from (found[row] for row in part)


def _cosines(
    snapshot: Snapshot, embedder: ImageEmbedder, exemplar: Exemplar, remote: bool
) -> Sequence[float] | str:
    """Return the cosine for each facet, or the reason why an exemplar is left out.

    Raises:
        SourceError: the server of an exemplar's URL fails, or refuses access.
    """
    if is_url(exemplar.path) and not remote:
        return AWAY
    try:
        image = decode_picture(picture_at(exemplar.path), ANY_SIZE)
    except ImageError:
        return CHANGED
    except SourceError:  # of a shard of this machine that is gone or damaged
        if is_url(exemplar.path):
            raise
        return CHANGED
    if image.sha256 != exemplar.sha256:
        return CHANGED
    row = np.array([exemplar.row])
    return [
        float(snapshot.vectors.similarities(facet, vectors[0], row)[0])
        for facet, vectors in embedder.embed([image.pixels]).items()
    ]
