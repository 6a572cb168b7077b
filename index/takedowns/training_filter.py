"""The filter of training images: withdrawn works and their copies are left out."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from index.takedowns.fingerprints import fingerprint
from index.takedowns.in_force import Takedowns
from index.thumbnails import thumbnail_of
from model.errors import ImageError
from model.images import DEFAULT_LIMITS, ImageLimits, read_image

STEP = 256  # files looked at between two notes of progress


def leave_out_withdrawn(
    files: Sequence[Path],
    takedowns: Takedowns,
    *,
    workers: int = 0,
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[Path], list[Path]]:
    """Split files into usable and withdrawn ones (same content, or near-duplicates).

    Every file is read and decoded once if a takedown is in force, none if none is. One that cannot
    be decoded counts as usable: nothing is learnt from it.

    Args:
        files: images to train on.
        takedowns: what is withdrawn.
        workers: threads that decode, at least one.
        limits: what an image may measure.
        progress: called with ("scanning", done, total).
    """
    withdrawn: list[Path] = []
    if not takedowns.active:
        return list(files), withdrawn
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(files), STEP):
            part = files[start : start + STEP]
            seen = list(pool.map(partial(_look, limits=limits), part))
            decoded = [(path, *each) for path, each in zip(part, seen, strict=True) if each]
            near = takedowns.of_pictures([picture for _, _, picture in decoded])
            for (path, sha256, _), copy in zip(decoded, near, strict=True):
                if copy or takedowns.of_exemplar(sha256, ""):
                    withdrawn.append(path)
            if progress:
                progress("scanning", start + len(part), len(files))
    gone = set(withdrawn)
    return [path for path in files if path not in gone], withdrawn


def _look(path: Path, limits: ImageLimits) -> tuple[str, bytes] | None:
    """Return the SHA-256 and fingerprint of a file; None if it cannot be decoded."""
    try:
        image = read_image(path, limits)
    except ImageError:
        return None
    return image.sha256, fingerprint(thumbnail_of(image.pixels))
