"""Scale samples of more than 8 bits, and of floating point, to 8 bits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of floating-point samples: the usual values of white, each with the largest highlight.
USUAL_WHITES = ((1.0, 16.0), (255.0, 280.0), (65535.0, 70_000.0))
BLOCK = 2**22  # samples


def white_of(samples: NDArray[Any]) -> float:
    """Returns the value of white of floating-point samples, which TIFFs do not record.

    The first of `USUAL_WHITES` whose largest highlight no sample exceeds, or else the largest
    sample.
    """
    top = float(np.max(samples, where=np.isfinite(samples), initial=0.0))
    return next((white for white, most in USUAL_WHITES if top <= most), top)


def to_8_bits(samples: NDArray[Any], white: float, *, inverted: bool = False) -> NDArray[np.uint8]:
    """Scale samples so that white is 255, and clip them to 0 to 255.

    Args:
        samples: of any shape, unsigned or floating-point.
        white: the value of white.
        inverted: 0 is white, and ``white`` black.
    """
    shown = np.empty(samples.shape, np.uint8)
    step = max(1, BLOCK // max(1, samples[:1].size))  # rows: a copy of all can be large
    for start in range(0, len(samples), step):
        values = samples[start : start + step].astype(np.float32)
        np.nan_to_num(values, copy=False, nan=0.0, posinf=white)
        if inverted:
            np.subtract(white, values, out=values)
        values *= 255.0 / white
        shown[start : start + step] = np.rint(values.clip(0.0, 255.0, out=values), out=values)
    return shown
