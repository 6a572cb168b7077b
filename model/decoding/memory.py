"""The memory of a Pillow image without a copy, by the Arrow C data interface."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

from model.decoding.messages import PIXEL


class _Array(ctypes.Structure):
    """Arrow's description of an array (https://arrow.apache.org/docs/format/CDataInterface.html)."""


_Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
]

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


@contextmanager
def pixels_of(image: Image.Image) -> Iterator[Any]:
    """Yield the pixels of an image of mode RGB as a buffer of `PIXEL` bytes each, row by row.

    Raises:
        ValueError: Pillow holds the image in several blocks, as it does beyond 16 MiB.
    """
    _, capsule = image.__arrow_c_array__()
    length = image.width * image.height * PIXEL
    # An array of pixels, each a list of samples; the samples are its one child.
    samples = _Array.from_address(_pointer(capsule, b"arrow_array")).children[0].contents
    if samples.length != length:
        raise ValueError(f"{samples.length} samples of {image.width} x {image.height} pixels")
    yield (ctypes.c_char * length).from_address(samples.buffers[1])
    del capsule  # it holds the image's memory
