"""First step of a rebuild: hash the images, and leave out those taken down."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from index.building.embedding import ImageFile
from index.building.embedding_cache import EmbeddingCache
from index.building.source import SourceExemplar
from index.takedowns.fingerprints import fingerprint
from index.takedowns.in_force import Takedowns
from index.takedowns.records import Takedown
from model.errors import ImageError
from model.folders import Skipped, fault
from model.images import DEFAULT_LIMITS, ImageLimits, decode_image, decodes_differently
from model.regular_files import shown
from model.sources.picture import Picture, hash_picture, read_picture

Progress = Callable[[str, int, int], None]  # (stage, done, total)

ANY_SIZE = ImageLimits(min_side=1)  # of thumbnails, which can be narrow
STEP = 1000  # files between two reports of progress and two writes of hashes
READERS = 8  # threads that read files to hash them: most of the time they wait


@dataclass(frozen=True)
class Identified:
    """An exemplar whose file could be read."""

    source: SourceExemplar
    file: ImageFile

    @property
    def id(self) -> str:
        """Return an id that depends on image content and concept alone."""
        text = f"{self.source.concept.id}/{self.file.sha256}"
        return hashlib.sha256(text.encode()).hexdigest()[:20]


def identify(
    exemplars: Sequence[SourceExemplar],
    cache: EmbeddingCache,
    report: Progress,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> tuple[list[Identified], list[Skipped]]:
    """Hash every exemplar's picture, unless its stamp is that of the last hash.

    Args:
        exemplars: of all sources.
        cache: stores the hashes.
        report: called with ("scanning", done, total).
        limits: limits on an image's size; larger files are not read.
    """
    known = cache.file_hashes()
    found: list[Identified] = []
    skipped: list[Skipped] = []
    hash_one = partial(_hash, known=known, limits=limits)
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(exemplars), STEP):
            part = exemplars[start : start + STEP]
            try:
                hashed = list(pool.map(hash_one, (one.picture for one in part)))
            except BaseException:
                pool.shutdown(cancel_futures=True)  # else each would try its server in vain
                raise
            fresh: list[tuple[str, str, str]] = []
            for exemplar, one in zip(part, hashed, strict=True):
                if isinstance(one, Skipped):
                    skipped.append(one)
                    continue
                sha256, stamp = one
                found.append(Identified(exemplar, ImageFile(exemplar.picture, sha256)))
                if stamp:
                    fresh.append((exemplar.picture.address, stamp, sha256))
            cache.remember_hashes(fresh)
            report("scanning", start + len(part), len(exemplars))
    return found, skipped


def _hash(
    picture: Picture, *, known: Mapping[str, tuple[str, str]], limits: ImageLimits
) -> tuple[str, str] | Skipped:
    """Return a picture's SHA-256, and the stamp to remember it by; empty if it is not to be."""
    address = picture.address
    try:
        address.encode()
        stamp = picture.stamp
        settled = stamp.settled
        remembered = known.get(address)
        if remembered and stamp.text and remembered[0] == stamp.text:
            return remembered[1], ""
        return hash_picture(picture, limits), stamp.text if settled else ""
    except OSError as error:
        return Skipped(address, fault(error))
    except ImageError as error:
        return Skipped(address, str(error))
    except UnicodeEncodeError:
        return Skipped(shown(address), "its name is not UTF-8; rename it")


def leave_out(
    found: Sequence[Identified],
    takedowns: Takedowns,
    cache: EmbeddingCache,
    concept_ids: Set[str],
) -> tuple[list[Identified], list[Skipped]]:
    """Returns the exemplars not taken down, and those taken down, each with the reason.

    A takedown of a concept names an id. If no concept of the sources has that id now, the takedown
    applies to concepts that had it before, or would have it if no other concept shared it.

    Args:
        found: the exemplars.
        takedowns: in force.
        cache: deletes the entries of withdrawn files, except fingerprints.
        concept_ids: of all concepts of the sources.
    """
    if not takedowns.active:
        return list(found), []
    known = cache.fingerprints()
    withdrawn: dict[int, tuple[Takedown, str]] = {}
    others: list[tuple[int, bytes]] = []
    for place, item in enumerate(found):
        sha256 = item.file.sha256
        concept = item.source.concept
        ids = [concept.id, *sorted(concept.other_ids - concept_ids)]
        named = (takedowns.of_exemplar(sha256, identifier) for identifier in ids)
        if takedown := next(filter(None, named), None):
            withdrawn[place] = (takedown, "taken down")
        elif own := known.get(sha256):
            others.append((place, own))
    nearest = takedowns.of_fingerprints([own for _, own in others])
    for (place, _), takedown in zip(others, nearest, strict=True):
        if takedown:
            withdrawn[place] = (takedown, "a copy of what was taken down")
    cache.forget({found[place].file.sha256 for place in withdrawn})
    skipped = [
        Skipped(
            found[place].source.picture.address,
            f"{how} on {takedown.at:%Y-%m-%d} ({takedown.id}: {takedown.reason})",
        )
        for place, (takedown, how) in sorted(withdrawn.items())
    ]
    return [item for place, item in enumerate(found) if place not in withdrawn], skipped


def namesakes(found: Sequence[Identified], takedowns: Takedowns) -> list[str]:
    """Return a warning for each concept that has the name of a withdrawn one under another id."""
    concepts = {item.source.concept.id: item.source.concept.name for item in found}
    warnings = []
    for identifier, name in concepts.items():
        if takedown := takedowns.of_name(identifier, name):
            warnings.append(
                f"the concept {name!r} ({identifier}) has the name of {takedown.target!r}, taken "
                f"down on {takedown.at:%Y-%m-%d} ({takedown.id}): its files are indexed unless "
                "they are copies; if it is the same, run `whence takedown add --concept "
                f"{identifier}`"
            )
    return warnings


def forget_outdated(found: Sequence[Identified], cache: EmbeddingCache) -> int:
    """Delete the cache's entries of files that this version decodes to other pixels.

    Each file is checked once after a change of `model.images.DECODING`.

    Returns:
        The number of files to embed again.
    """
    pictures = {item.file.sha256: item.file.picture for item in found}
    outdated = 0
    for sha256 in cache.unchecked(pictures):
        try:
            changed = decodes_differently(read_picture(pictures[sha256]))
        except (ImageError, OSError):
            continue  # the next rebuild checks it again
        cache.checked(sha256, outdated=changed)
        outdated += changed
    return outdated


def add_fingerprints(hashes: Iterable[str], cache: EmbeddingCache) -> None:
    """Compute missing fingerprints of these files from the cache's thumbnails."""
    lacking = set(hashes) - cache.fingerprints().keys()
    cache.add_fingerprints(
        (sha256, fingerprint(decode_image(cache.thumbnail(sha256), ANY_SIZE).pixels))
        for sha256 in lacking
    )
