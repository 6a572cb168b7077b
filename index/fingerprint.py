"""Small descriptions of pictures that tell a copy from another picture, without any model.

A fingerprint is the picture shrunk to `GRID` x `GRID` pixels. Its distance from another one is the
root mean square difference of their values, 0 to 255. It survives what changes a file and not what
it shows: another format, recompression, another size. Crops, mirrored and edited copies lie farther
and are not found: as far from one another lie different exemplars of one concept, too.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRID = 8  # pixels a side
LENGTH = GRID * GRID * 3  # bytes
NEAR = 4.0  # distance up to which two pictures are one; docs/operations.md has the measurement
FAINT = 0.25  # and up to 1 + this part of the picture's own contrast, if it has little of it
BLOCK = 65_536  # fingerprints compared at once

Fingerprints = NDArray[np.uint8]  # (N, LENGTH)


def fingerprint(image: Image.Image) -> bytes:
    """The `LENGTH` bytes that describe an RGB image of any size."""
    return image.resize((GRID, GRID), Image.Resampling.BILINEAR).tobytes()


def near_duplicates(known: Fingerprints, others: Fingerprints) -> NDArray[np.int64]:
    """For each of ``others`` which of ``known`` shows the same picture.

    Args:
        known: (M, `LENGTH`).
        others: (N, `LENGTH`); may be memory-mapped.

    Returns:
        (N,) the nearest one's place in ``known``, -1 where none is near.
    """
    nearest = np.full(len(others), -1, dtype=np.int64)
    if not len(known):
        return nearest
    # Sums of 192 squares of at most 255 stay below 2**24: float32 holds them exactly.
    reference = known.astype(np.float32)
    limits = np.minimum(NEAR, 1 + FAINT * reference.std(axis=1))
    reference_squares = np.square(reference).sum(axis=1)
    for start in range(0, len(others), BLOCK):
        block = np.asarray(others[start : start + BLOCK], dtype=np.float32)
        squares = np.square(block).sum(axis=1)[:, None] + reference_squares
        squares -= 2 * block @ reference.T
        squares[squares > LENGTH * np.square(limits)] = np.inf
        found = squares.argmin(axis=1)
        near = np.isfinite(squares[np.arange(len(found)), found])
        nearest[start : start + BLOCK] = np.where(near, found, -1)
    return nearest
