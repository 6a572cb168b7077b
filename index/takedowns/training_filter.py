"""Exclude withdrawn works and their copies from training images."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from index.takedowns.fingerprints import fingerprint
from index.takedowns.in_force import Takedowns
from index.thumbnails import thumbnail_of
from model.errors import ImageError
from model.images import DEFAULT_LIMITS, ImageLimits, read_image

STEP = 256  # files between two reports of progress


def leave_out_withdrawn(
    files: Sequence[Path],
    takedowns: Takedowns,
    *,
    workers: int = 0,
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[Path], list[Path]]:
    """Split files into usable and withdrawn ones (same content, or near-duplicates).

    Every file is read and decoded once, unless no takedown is in force. A file that cannot be
    decoded counts as usable: training skips it.

    Args:
        files: images to train on.
        takedowns: in force.
        workers: threads that decode, at least one.
        limits: limits on an image's size.
        progress: called with ("scanning", done, total).
    """
    withdrawn: list[Path] = []
    if not takedowns.active:
        return list(files), withdrawn
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(files), STEP):
            part = files[start : start + STEP]
            read = list(pool.map(partial(_identify, limits=limits), part))
            decoded = [(path, *each) for path, each in zip(part, read, strict=True) if each]
            near = takedowns.of_fingerprints([one for _, _, one in decoded])
            for (path, sha256, _), copy in zip(decoded, near, strict=True):
                if copy or takedowns.of_exemplar(sha256, ""):
                    withdrawn.append(path)
            if progress:
                progress("scanning", start + len(part), len(files))
    gone = set(withdrawn)
    return [path for path in files if path not in gone], withdrawn


def _identify(path: Path, limits: ImageLimits) -> tuple[str, bytes] | None:
    """Return the SHA-256 and fingerprint of a file; None if it cannot be decoded."""
    try:
        image = read_image(path, limits)
    except ImageError:
        return None
    return image.sha256, fingerprint(thumbnail_of(image.pixels))
