"""Copies of withdrawn works that the fingerprint misses, found by their embeddings.

Two pictures are compared by the cosine of their subject embeddings, the better of the picture's own
and of its mirror image. Cropped, framed, recoloured and mirrored copies stay near; so do, rarely,
other pictures. Two limits follow from the cosines of unrelated pictures, and are kept per model:

- *possible*: exceeded by one in `RARE` pairs of unrelated pictures. A person should look.
- *certain*: half way from the nearest unrelated pair to 1, in another concept than the work, since
  pictures of one concept can be as near. The copy is withdrawn as well.

The embeddings of withdrawn works are stored, so that later images can be compared with them.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from index.answering.attribution import Attributor
from index.building.embedding import ImageEmbedder
from index.catalog import Catalog, Exemplar
from index.layout import DataFolder
from index.locks import file_lock
from index.snapshot import CATALOG, Snapshot, list_versions
from index.stores.vectors import Floats, Mask, Rows
from index.takedowns.fingerprints import FingerprintIndex, Fingerprints
from index.takedowns.in_force import Takedowns, all_rows
from index.takedowns.log import TakedownLog
from index.takedowns.records import Content, Takedown
from model.config import Facet, Frozen
from model.files import sync_to_disk

FACET: Facet = "subject"
RARE = 100_000  # pairs of unrelated pictures, of which one exceeds the limit of possible copies
FEWEST_PAIRS = 1000  # of unrelated pictures, for a limit of certain copies
TOLD_APART = 0.35  # cosine that 95% of unrelated pairs do not reach
MOST_POSSIBLE, MOST_CERTAIN = 0.7, 0.9  # upper bounds of the limits, for models that tell apart
NEAREST = 32  # exemplars looked at for each withdrawn picture and its mirror image
MOST_WORKS = 500  # pictures of one takedown that are embedded
NO_ROWS: Rows = np.empty(0, dtype=np.int64)
NO_FILES: Mapping[str, Image.Image] = MappingProxyType({})
LIMITS = "copies.json"  # in a model's folder

Pair = NDArray[np.float32]  # (2, D): the embeddings of a picture and of its mirror image


class CopyLimits(Frozen):
    """The limits of a model, and the pairs that they were measured on."""

    pairs: int = Field(ge=0)
    possible: float = Field(ge=-1, le=1)
    certain: float = Field(ge=-1, le=1)


@dataclass(frozen=True)
class Copy:
    """An exemplar that may be a copy of a withdrawn work."""

    exemplar: Exemplar
    similarity: float  # cosine
    mirrored: bool
    certain: bool


def measure_limits(vectors: Floats, concepts: Sequence[int], prints: Fingerprints) -> CopyLimits:
    """Measure the limits on pairs of exemplars of different concepts.

    Copies in a gallery are pairs of different concepts, too, and would raise the limits beyond
    themselves. Where the model tells most pairs apart, the limits have upper bounds: of two million
    pairs (tests/benchmarks/README.md) no unrelated one was above 0.78.

    Args:
        vectors: (N, D) subject embeddings.
        concepts: (N,) the concept of each.
        prints: (N, LENGTH) fingerprints; near-duplicates are no unrelated pairs.
    """
    cosines = vectors @ vectors.T
    owner = np.asarray(concepts)
    unrelated = np.triu(owner[:, None] != owner[None], 1)
    places, rows = FingerprintIndex(prints).near_duplicates(prints)
    unrelated[places, rows] = unrelated[rows, places] = False
    found = cosines[unrelated]
    if not len(found):
        return CopyLimits(pairs=0, possible=1, certain=1)
    found.sort()
    possible = min(1.0, float(found[max(0, len(found) - 1 - len(found) // RARE)]))
    certain = (1 + min(1.0, float(found[-1]))) / 2
    if len(found) < FEWEST_PAIRS:
        certain = 1.0
    elif found[int(0.95 * len(found))] < TOLD_APART:
        possible, certain = min(possible, MOST_POSSIBLE), min(certain, MOST_CERTAIN)
    return CopyLimits(pairs=len(found), possible=possible, certain=certain)


def kept_limits(
    data: DataFolder, model_id: str, vectors: Floats, concepts: Sequence[int], prints: Fingerprints
) -> CopyLimits:
    """Return the limits of a model: those measured on the most pairs so far.

    They are kept in the model's folder. The other arguments are as for `measure_limits`.
    """
    known = CopyLimits(pairs=0, possible=1, certain=1)
    path = data.models / model_id / LIMITS
    with suppress(OSError, ValueError):
        known = CopyLimits.model_validate_json(path.read_bytes())
    if len(vectors) ** 2 / 2 > known.pairs:
        measured = measure_limits(vectors, concepts, prints)
        if measured.pairs > known.pairs:
            known = measured
            with suppress(OSError):
                _replace(path, (known.model_dump_json() + "\n").encode())
    return known


def limits_of(data: DataFolder, snapshot: Snapshot) -> CopyLimits:
    """Return the limits of a snapshot's model, measured on its cohort if that has more pairs."""
    rows = snapshot.cohort.rows
    numbers = np.asarray(snapshot.catalog.concept_numbers())[rows]
    return kept_limits(
        data,
        snapshot.model_id,
        snapshot.cohort.vectors[FACET],
        numbers.tolist(),
        np.asarray(snapshot.fingerprints[rows]),
    )


@dataclass(frozen=True)
class WithdrawnEmbeddings:
    """The embeddings of withdrawn works by one model: data/withdrawn/<model_id>.safetensors."""

    path: Path

    def read(self) -> dict[str, Pair]:
        """Return the embeddings by SHA-256; none if there is no readable file."""
        try:
            with safe_open(self.path, "np") as file:
                names = json.loads(file.metadata()["sha256"])
                vectors = file.get_tensor("vectors").astype(np.float32)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return {}
        return dict(zip(names, vectors, strict=False))

    def add(self, fresh: Mapping[str, Pair]) -> None:
        """Store further embeddings; an error of the disk loses them, and no takedown."""
        if not fresh:
            return
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(self.path.with_suffix(".lock"), seconds=10):
                known = {**self.read(), **fresh}
                draft = self.path.with_name(f"{self.path.name}-draft")
                stacked = np.stack(list(known.values())).astype(np.float16)
                save_file({"vectors": stacked}, draft, {"sha256": json.dumps(list(known))})
                sync_to_disk(draft)
                draft.replace(self.path)


def embed_works(embedder: ImageEmbedder, images: Mapping[str, Image.Image]) -> dict[str, Pair]:
    """Embed pictures, each with its mirror image.

    Args:
        embedder: of the index's model.
        images: RGB, by SHA-256 of their files.
    """
    if not images:
        return {}
    both = [each for image in images.values() for each in (image, ImageOps.mirror(image))]
    vectors = embedder.embed(both)[FACET]
    return dict(zip(images, vectors.reshape(len(images), 2, -1), strict=True))


def works_of(index: Path, takedowns: Iterable[Takedown]) -> dict[str, Image.Image]:
    """Return the thumbnails of withdrawn works that a kept version holds, by SHA-256."""
    wanted = [content.sha256 for one in takedowns for content in one.contents][:MOST_WORKS]
    found: dict[str, Image.Image] = {}
    for manifest in reversed(list_versions(index)):
        missing = [sha256 for sha256 in wanted if sha256 not in found]
        if not missing:
            break
        with closing(Catalog(index / manifest.version / CATALOG)) as catalog:
            for sha256, jpeg in catalog.thumbnails_of(missing).items():
                found[sha256] = Image.open(io.BytesIO(jpeg)).convert("RGB")
    return found


def find_copies(
    snapshot: Snapshot,
    works: Mapping[str, Pair],
    limits: CopyLimits,
    *,
    hidden: Rows,
    spared: Iterable[str] = (),
) -> list[Copy]:
    """Return the visible exemplars that may be copies of withdrawn works, the nearest first.

    Args:
        snapshot: with withdrawn rows masked.
        works: embeddings of withdrawn works, by SHA-256.
        limits: of the model.
        hidden: rows that the takedown hides. A copy is certain in other concepts than theirs.
        spared: SHA-256 of files that are no copies, since their own takedown was lifted.
    """
    visible = snapshot.vectors.count - len(snapshot.hidden)
    if not works or not visible:
        return []
    mask = Mask(snapshot.hidden, snapshot.vectors.count) if len(snapshot.hidden) else None
    queries = np.concatenate(list(works.values()))  # even rows: as they are; odd: mirrored
    cosines, rows = snapshot.vectors.search(FACET, queries, min(NEAREST, visible), mask)
    catalog = snapshot.catalog
    numbers = np.asarray(catalog.concept_numbers())
    own = {int(number) for number in numbers[hidden]}
    best: dict[int, tuple[float, bool]] = {}
    for number, (similar, near) in enumerate(zip(cosines, rows, strict=True)):
        for cosine, row in zip(similar.tolist(), near.tolist(), strict=True):
            if row >= 0 and cosine >= limits.possible:
                best[row] = max(best.get(row, (-1.0, False)), (cosine, bool(number % 2)))
    kept = set(spared)
    found = [
        Copy(
            exemplar,
            similarity=min(1.0, best[row][0]),
            mirrored=best[row][1],
            certain=best[row][0] >= limits.certain and bool(own) and int(numbers[row]) not in own,
        )
        for row, exemplar in catalog.exemplars_by_row(list(best)).items()
        if exemplar.sha256 not in kept
    ]
    return sorted(found, key=lambda copy: (-copy.similarity, copy.exemplar.row))


def look_for_copies(
    data: DataFolder,
    attributor: Attributor,
    fresh: Sequence[Takedown],
    known: Takedowns,
    files: Mapping[str, Image.Image] = NO_FILES,
) -> list[Copy]:
    """Embed the works of new takedowns, store that, and return what may be copies of them.

    Args:
        data: the data folder.
        attributor: of the published version, with withdrawn rows masked.
        fresh: the new takedowns.
        known: all takedowns.
        files: pictures that no version holds, by SHA-256 of their files.

    Raises:
        SnapshotError: the vectors cannot be searched now.
    """
    works = embed_works(attributor.embedder, works_of(data.index, fresh) | dict(files))
    WithdrawnEmbeddings(data.withdrawn(attributor.snapshot.model_id)).add(works)
    limits = limits_of(data, attributor.snapshot)
    snapshot = attributor.snapshot
    hidden = all_rows({one.id: snapshot.hidden_rows.get(one.id, NO_ROWS) for one in fresh})
    return find_copies(snapshot, works, limits, hidden=hidden, spared=known.spared)


def withdraw_copies(
    log: TakedownLog, snapshot: Snapshot, copies: Sequence[Copy], reason: str
) -> list[Takedown]:
    """Record takedowns of copies, each of its own, so that one can be lifted alone.

    Args:
        log: of takedowns.
        snapshot: holds the copies.
        copies: to withdraw.
        reason: of the takedown that they are copies for.

    Raises:
        TakedownError: the log is damaged or cannot be written; nothing was recorded.
    """
    recorded = []
    for copy in copies:
        exemplar = copy.exemplar
        content = Content.of(exemplar.sha256, snapshot.fingerprints[exemplar.row].tobytes())
        text = f"{reason} ({described(copy.similarity, copy.mirrored)})"
        recorded.append(log.add("exemplar", exemplar.id, [content], reason=text))
    return recorded


def described(similarity: float, mirrored: bool) -> str:
    """Return how a copy was found, in words."""
    return f"a {'mirrored ' if mirrored else ''}copy by its embedding, cosine {similarity:.2f}"


def nearest_works(
    vectors: Floats, works: Mapping[str, Pair]
) -> tuple[Floats, Rows, NDArray[np.bool_]]:
    """Compare new images with withdrawn works.

    Args:
        vectors: (N, D) subject embeddings.
        works: embeddings of withdrawn works, at least one.

    Returns:
        (N,) highest cosines, (N,) places of the works, and (N,) True where mirrored is nearer.
    """
    cosines = vectors @ np.concatenate(list(works.values())).T
    place = cosines.argmax(axis=1)
    return cosines[np.arange(len(vectors)), place], place // 2, place % 2 == 1


def _replace(path: Path, content: bytes) -> None:
    """Write a file in a folder that exists: complete or not at all."""
    draft = path.with_name(f"{path.name}-draft")
    draft.write_bytes(content)
    sync_to_disk(draft)
    draft.replace(path)
