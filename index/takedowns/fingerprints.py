"""Fingerprints of images, to find near-duplicates without a model.

A fingerprint is the image resized to `GRID` x `GRID` pixels. The distance of two fingerprints is
the root mean square difference of their values, 0 to 255. Another format, recompression and another
size change it little. Crops, mirrored and edited copies are not found: they are as far apart as
different exemplars of one concept.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRID = 8  # pixels a side
LENGTH = GRID * GRID * 3  # bytes
MAX_DISTANCE = 4.0  # of near-duplicates; measured in docs/operations.md
CONTRAST_SHARE = 0.25  # low contrast lowers the limit: 1 + this times the standard deviation
BLOCK = 16_384  # fingerprints in a block
MAX_PAIRS = 2**22  # compared at once
ROUNDING = 0.51  # largest error of a distance of rounded means, float32's own error included

Fingerprints = NDArray[np.uint8]  # (N, LENGTH)
Places = NDArray[np.int64]


def fingerprint(image: Image.Image) -> bytes:
    """Return the fingerprint of an RGB image of any size, `LENGTH` bytes."""
    return image.resize((GRID, GRID), Image.Resampling.BILINEAR).tobytes()


def as_fingerprints(each: Iterable[bytes]) -> Fingerprints:
    """Return N fingerprints as an (N, `LENGTH`) array."""
    return np.frombuffer(b"".join(each), dtype=np.uint8).reshape(-1, LENGTH)


class FingerprintIndex:
    """Finds near-duplicates among the fingerprints of many images.

    The mean colours of an image's four quarters, 12 numbers, give a lower bound of the distance
    of two fingerprints. The bound excludes nearly all pairs, whose fingerprints are then not read.

    Args:
        fingerprints: (N, `LENGTH`); may be memory-mapped.
    """

    def __init__(self, fingerprints: Fingerprints) -> None:
        self.fingerprints = fingerprints
        self._quarters = np.empty((len(fingerprints), QUARTERS.shape[1]), dtype=np.uint8)
        for start in range(0, len(fingerprints), BLOCK):
            part = slice(start, start + BLOCK)
            means = np.asarray(fingerprints[part], dtype=np.float32) @ QUARTERS
            self._quarters[part] = np.rint(means)

    def near_duplicates(self, known: Fingerprints) -> tuple[Places, Places]:
        """Return the pairs of near-duplicates between ``known`` and this index.

        Args:
            known: (M, `LENGTH`).

        Returns:
            (P,) positions in ``known`` and (P,) rows of this index, ordered by row.
        """
        found = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))]
        step = max(1, MAX_PAIRS // BLOCK)
        for start in range(0, len(known), step):
            reference = known[start : start + step].astype(np.float32)
            limits = np.minimum(MAX_DISTANCE, 1 + CONTRAST_SHARE * reference.std(axis=1))
            # Rounding changed each mean by at most a half, and so the distance.
            bounds = QUARTERS.shape[1] * np.square(limits + ROUNDING)
            # |a - b|^2 <= bound as one product: (-2a, 1, |a|^2 - bound) . (b, |b|^2, 1) <= 0
            means = reference @ QUARTERS
            ends = np.stack([np.ones_like(bounds), np.square(means).sum(axis=1) - bounds], axis=1)
            asked = np.concatenate([-2 * means, ends], axis=1).T  # (14, M)
            for first in range(0, len(self.fingerprints), BLOCK):
                block = self._quarters[first : first + BLOCK].astype(np.float32)
                ends = np.stack([np.square(block).sum(axis=1), np.ones(len(block))], axis=1)
                possible = np.concatenate([block, ends], axis=1, dtype=np.float32) @ asked <= 0
                theirs, ours = np.nonzero(possible)
                rows, again = np.unique(theirs, return_inverse=True)
                candidates = self.fingerprints[first + rows].astype(np.float32)
                for part in range(0, len(theirs), BLOCK):
                    i, j = ours[part : part + BLOCK], again[part : part + BLOCK]
                    distances = np.sqrt(np.square(reference[i] - candidates[j]).mean(axis=1))
                    same = distances <= limits[i]
                    found.append((start + i[same], first + rows[j[same]]))
        places, rows = (np.concatenate(each) for each in zip(*found, strict=True))
        order = np.lexsort((places, rows))
        return places[order], rows[order]


def _quarters() -> NDArray[np.float32]:
    """Return the (LENGTH, 12) matrix that maps a fingerprint to its quarters' mean colours."""
    y, x, _ = np.indices((GRID, GRID, 3))
    quarter = (y // (GRID // 2) * 2 + x // (GRID // 2)).reshape(-1)
    colour = np.tile(np.arange(3), GRID * GRID)
    weights = np.zeros((LENGTH, 12), dtype=np.float32)
    weights[np.arange(LENGTH), quarter * 3 + colour] = 4 / GRID**2
    return weights


QUARTERS = _quarters()
