"""Fingerprints of images, to find near-duplicates without a model.

A fingerprint is the picture shrunk to `GRID` x `GRID` pixels. Its distance from another one is the
root mean square difference of their values, 0 to 255. It survives what changes a file and not what
it shows: another format, recompression, another size. Crops, mirrored and edited copies lie farther
and are not found: as far from one another lie different exemplars of one concept, too.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRID = 8  # pixels a side
LENGTH = GRID * GRID * 3  # bytes
NEAR = 4.0  # distance up to which two pictures are one; docs/operations.md has the measurement
FAINT = 0.25  # and up to 1 + this part of the picture's own contrast, if it has little of it
BLOCK = 16_384  # fingerprints looked at together
PAIRS = 2**22  # and compared together, at most
ROUNDING = 0.51  # most that the distance of rounded means is off, float32's own error included

Fingerprints = NDArray[np.uint8]  # (N, LENGTH)
Places = NDArray[np.int64]


def fingerprint(image: Image.Image) -> bytes:
    """Return the `LENGTH` bytes that describe an RGB image of any size."""
    return image.resize((GRID, GRID), Image.Resampling.BILINEAR).tobytes()


def as_fingerprints(each: Iterable[bytes]) -> Fingerprints:
    """Return N fingerprints as an (N, `LENGTH`) array."""
    return np.frombuffer(b"".join(each), dtype=np.uint8).reshape(-1, LENGTH)


class Pictures:
    """The fingerprints of many images, prepared for a search for near-duplicates.

    The mean colours of a picture's four quarters, 12 numbers, are as near to those of another one
    as the whole fingerprints are, or nearer. Where they are too far already, and they nearly always
    are, the fingerprints themselves need not be read.

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

    def near(self, known: Fingerprints) -> tuple[Places, Places]:
        """Which of these show the same picture as which of ``known``.

        Args:
            known: (M, `LENGTH`).

        Returns:
            Pairs of a place in ``known`` and one here, ordered by the latter.
        """
        found = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))]
        step = max(1, PAIRS // BLOCK)
        for start in range(0, len(known), step):
            reference = known[start : start + step].astype(np.float32)
            limits = np.minimum(NEAR, 1 + FAINT * reference.std(axis=1))
            # Rounding moved each mean by at most a half, and so the distance.
            bounds = QUARTERS.shape[1] * np.square(limits + ROUNDING)
            # |a - b|^2 <= bound as one product: (-2a, 1, |a|^2 - bound) . (b, |b|^2, 1) <= 0
            means = reference @ QUARTERS
            ends = np.stack([np.ones_like(bounds), np.square(means).sum(axis=1) - bounds], axis=1)
            asked = np.concatenate([-2 * means, ends], axis=1).T  # (14, M)
            for first in range(0, len(self.fingerprints), BLOCK):
                block = self._quarters[first : first + BLOCK].astype(np.float32)
                ends = np.stack([np.square(block).sum(axis=1), np.ones(len(block))], axis=1)
                perhaps = np.concatenate([block, ends], axis=1, dtype=np.float32) @ asked <= 0
                theirs, ours = np.nonzero(perhaps)
                rows, again = np.unique(theirs, return_inverse=True)
                pictures = self.fingerprints[first + rows].astype(np.float32)
                for part in range(0, len(theirs), BLOCK):
                    i, j = ours[part : part + BLOCK], again[part : part + BLOCK]
                    distances = np.sqrt(np.square(reference[i] - pictures[j]).mean(axis=1))
                    same = distances <= limits[i]
                    found.append((start + i[same], first + rows[j[same]]))
        places, rows = (np.concatenate(each) for each in zip(*found, strict=True))
        order = np.lexsort((places, rows))
        return places[order], rows[order]


def _quarters() -> NDArray[np.float32]:
    """(LENGTH, 12): a fingerprint times it is the mean colour of each quarter."""
    y, x, _ = np.indices((GRID, GRID, 3))
    quarter = (y // (GRID // 2) * 2 + x // (GRID // 2)).reshape(-1)
    colour = np.tile(np.arange(3), GRID * GRID)
    weights = np.zeros((LENGTH, 12), dtype=np.float32)
    weights[np.arange(LENGTH), quarter * 3 + colour] = 4 / GRID**2
    return weights


QUARTERS = _quarters()
