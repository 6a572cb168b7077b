"""Messages between a process and its decoding processes: JSON after its length.

Encoded images and pixels lie in shared memory.

Pickle would let a process that an image has taken over run code in its parent.
"""

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

LENGTH = struct.Struct("<I")
MAX_MESSAGE = 65_536  # bytes of JSON

PIXEL = 4  # bytes of a pixel in shared memory: Pillow's own layout of RGB, copied as it is
LAYOUT = "RGBX"
MAX_PIXELS = 2**32  # of one image
SHARED_BYTES = PIXEL * MAX_PIXELS  # of the shared file, which takes as much memory as was written
KEPT_BYTES = 16 * 2**20  # of shared memory that both processes keep, with its pages, between images


def pack(message: Mapping[str, Any]) -> bytes:
    """Encode a message."""
    text = json.dumps(message).encode()
    return LENGTH.pack(len(text)) + text


def read(receive: Callable[[int], bytes]) -> dict[str, Any]:
    """Receive a message.

    Args:
        receive: returns so many bytes of the connection.

    Raises:
        TypeError, ValueError: these bytes are no message.
    """
    [length] = LENGTH.unpack(receive(LENGTH.size))
    if length > MAX_MESSAGE:
        raise ValueError(f"a message of {length} bytes")
    return dict(json.loads(receive(length)))
