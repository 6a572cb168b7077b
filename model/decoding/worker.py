"""A process that decodes images for another one: `model.decoding.processes` starts it.

It holds no secret, opens no file and has no connection but that to its parent. The kernel ends it
when an image takes more time than it may.
"""

import mmap
import os
import socket
import sys
from typing import Any, NamedTuple

from PIL import Image

from model.decoding import decoder
from model.decoding.jpeg import is_jpeg
from model.decoding.limits import ImageLimits
from model.decoding.memory import pixels_of
from model.decoding.messages import KEPT_BYTES, MAX_PIXELS, PIXEL, SHARED_BYTES, pack, read
from model.decoding.sandbox import (
    Memory,
    lift_time_limit,
    limit_time,
    prefer_for_killing,
    restrict,
)
from model.errors import ImageError, ImageTooCostlyError
from model.squares import Square

MAX_TEXT = 2_000  # characters of an error, which may quote the file
BLOCK = 15 * 2**20  # bytes of pixels that Pillow certainly holds in one block
BASE_MEMORY = 160 * 2**20  # bytes for any image
PIXEL_MEMORY = 32  # bytes a pixel: a few copies, on the way from its mode to RGB
COPIES = 4  # of the samples as their decoder holds them
MORE_TIME = 10_000_000  # pixels for which the time of a small image is allowed once more
MORE_TIME_BYTES = 20 * 2**20  # bytes of a file for which it is
JPEG_SPEED = 3  # a JPEG is decoded so many times faster than a PNG of its size


class _HeavyError(ImageError):
    """An image for a process that decodes large ones."""

    def __init__(self, pixels: int) -> None:
        super().__init__("the image is large")
        self.pixels = pixels


class Allowance(NamedTuple):
    """Limits of the time and memory in which one image is decoded."""

    seconds: float  # of processor time
    memory: int  # bytes


def allowance(pixels: int, stored: int, seconds: float) -> Allowance:
    """Return the limits of an image of a size.

    Args:
        pixels: of the image.
        stored: bytes that its decoder holds for a pixel.
        seconds: for a small image.
    """
    return Allowance(
        seconds * (1 + pixels * max(1.0, stored / 4) / MORE_TIME),
        BASE_MEMORY + pixels * (PIXEL_MEMORY + COPIES * stored),
    )


def main() -> None:
    """Decode images until the parent closes the connection."""
    connection, encoded, pixels, parent, niceness = map(int, sys.argv[1:])
    prefer_for_killing()
    os.nice(niceness)
    Image.init()  # loads all of Pillow's decoders, while files can still be opened
    worker = Worker(socket.socket(fileno=connection), encoded, pixels, Memory())
    worker.run(restrict(parent, SHARED_BYTES))


class Worker:
    """Answers requests of the parent.

    Args:
        connection: to the parent.
        encoded: descriptor of the shared memory of encoded images.
        pixels: descriptor of the shared memory of pixels.
        memory: of this process; None limits neither its memory nor its time.
    """

    def __init__(
        self, connection: socket.socket, encoded: int, pixels: int, memory: Memory | None
    ) -> None:
        self._connection = connection
        self._encoded = encoded
        self._pixels = pixels
        self._kept = mmap.mmap(pixels, KEPT_BYTES)
        self._memory = memory

    def run(self, missing: list[str]) -> None:
        """Answer requests, after a first message that lists the missing restrictions."""
        if self._memory and not self._memory.limited:
            missing.append("memory")
        self._connection.sendall(pack({"missing": missing}))
        while True:
            try:
                request = read(self._receive)
            except EOFError:
                return
            reply = self.answer(request)
            lift_time_limit()
            self._connection.sendall(pack(reply))

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Read an encoded image, and return the reply to a request."""
        size, limits = request["bytes"], ImageLimits(*request["limits"])
        try:
            self._limit(limits.seconds * (1 + size / MORE_TIME_BYTES), BASE_MEMORY + 4 * size)
            data = _read(self._encoded, size)
            if request["task"] == "decode":
                return {"value": self._decode(data, request, limits)}
            return {"value": getattr(decoder, request["task"])(data)}
        except _HeavyError as heavy:
            return {"heavy": heavy.pixels}
        except ImageError as error:
            return {"error": type(error).__name__, "message": str(error)[:MAX_TEXT]}
        except MemoryError:
            return {
                "error": ImageTooCostlyError.__name__,
                "message": "decoding the image needs more memory than an image of its size may "
                "take: save it anew, as JPEG or PNG",
            }

    def _decode(self, data: bytes, request: dict[str, Any], limits: ImageLimits) -> list[int]:
        """Decode to the shared pixels; return width and height, as decoded and at full size."""
        share = JPEG_SPEED if is_jpeg(data) else 1
        light, admitted = request["light"], -1

        def check(width: int, height: int, stored: int = 4) -> None:
            nonlocal admitted
            limits.check(width, height)
            pixels = min(width * height, MAX_PIXELS)
            if light is not None and pixels // share > light:
                raise _HeavyError(pixels)
            if pixels > admitted:
                admitted = pixels
                self._limit(*allowance(pixels, stored, limits.seconds))

        image, size = decoder.decode(data, check, request["side"])
        if request["square"]:
            image = Square(*request["square"]).column(image, size)
        self._share(image)
        return [*image.size, *size]

    def _share(self, image: Image.Image) -> None:
        """Copy an image of mode RGB to the shared pixels, in one piece where Pillow holds it so."""
        line = image.width * PIXEL
        rows = max(1, BLOCK // line)
        for top in range(0, image.height, rows):
            bottom = min(top + rows, image.height)
            band = image if image.height <= rows else image.crop((0, top, image.width, bottom))
            with pixels_of(band) as pixels:
                if line * bottom <= KEPT_BYTES:
                    self._kept[line * top : line * bottom] = pixels
                else:
                    _write(self._pixels, memoryview(pixels), line * top)

    def _limit(self, seconds: float, memory: int) -> None:
        if self._memory:
            limit_time(seconds)
            self._memory.allow(memory)

    def _receive(self, count: int) -> bytes:
        received = self._connection.recv(count, socket.MSG_WAITALL)
        while len(received) < count:
            more = self._connection.recv(count - len(received), socket.MSG_WAITALL)
            if not more:
                raise EOFError
            received += more
        return received


def _read(descriptor: int, size: int) -> bytes:
    """Read the first bytes of a file."""
    data = os.pread(descriptor, size, 0)
    while len(data) < size:  # Linux reads 2 GiB at most
        more = os.pread(descriptor, size - len(data), len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _write(descriptor: int, data: memoryview, place: int) -> None:
    """Write bytes to a file at a place."""
    while len(data):
        written = os.pwrite(descriptor, data, place)
        data, place = data[written:], place + written


if __name__ == "__main__":
    main()
