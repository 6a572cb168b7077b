"""A process that decodes images for another one: `model.decoding.processes` starts it.

It holds no secret, opens no file and has no connection but that to its parent. The kernel ends it
when an image takes more time than it may.
"""

import os
import socket
import sys
from typing import Any, NamedTuple

from PIL import Image

from model.decoding import decoder
from model.decoding.jpeg import is_jpeg
from model.decoding.limits import ImageLimits
from model.decoding.messages import LAYOUT, MAX_PIXELS, PIXEL, SHARED_BYTES, pack, read
from model.decoding.sandbox import (
    Memory,
    lift_time_limit,
    limit_time,
    prefer_for_killing,
    restrict,
)
from model.errors import ImageError, ImageTooCostlyError

MAX_TEXT = 2_000  # characters of an error, which may quote the file
BAND = 2**18  # bytes of pixels that are copied at once; they fit a processor's cache
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
    connection, pixels, parent, niceness = map(int, sys.argv[1:])
    prefer_for_killing()
    os.nice(niceness)
    Image.init()  # loads all of Pillow's decoders, while files can still be opened
    worker = Worker(socket.socket(fileno=connection), pixels, Memory())
    worker.run(restrict(parent, SHARED_BYTES))


class Worker:
    """Answers requests of the parent.

    Args:
        connection: to the parent.
        pixels: descriptor of the shared memory.
        memory: of this process; None limits neither its memory nor its time.
    """

    def __init__(self, connection: socket.socket, pixels: int, memory: Memory | None) -> None:
        self._connection = connection
        self._pixels = pixels
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
        """Receive an encoded image, and return the reply to a request."""
        size, limits = request["bytes"], ImageLimits(*request["limits"])
        try:
            self._limit(limits.seconds * (1 + size / MORE_TIME_BYTES), BASE_MEMORY + 4 * size)
            data = self._receive(size)
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
        rows = max(1, BAND // (PIXEL * image.width))
        for top in range(0, image.height, rows):
            band = image.crop((0, top, image.width, min(top + rows, image.height)))
            os.pwrite(self._pixels, band.tobytes("raw", LAYOUT), top * image.width * PIXEL)
        return [*image.size, *size]

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


if __name__ == "__main__":
    main()
