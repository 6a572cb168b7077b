"""Cost of decoding in other processes, and of colour management.

    python -m tests.benchmarks.decoding [--seconds 3] [--threads N]

Two comparisons, each of two ways that take turns on the same pictures:

- `decode_image`, which decodes in processes of its own, with `model.decoding.decoder` called in a
  thread of this process: for the squares that a network reads, as a request needs them, and for the
  whole image, as a rebuild does. Seconds of one caller are medians; the throughput is that of as
  many threads as there are cores. Processor time is that of this process and of its decoding
  processes; other work on the machine changes it little.
- `model.decoding.decoder` with decoding by Pillow alone, which knows no colour profile (version 1
  of `model.images.DECODING`).

Prints JSON: for each kind of picture the milliseconds of both ways and the ratio of their
throughputs. Exit status 1 if the squares of a picture of `ORDINARY` take `MORE_MS` longer in
processes, or their throughput is under `RATIO`.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from model.cores import available_cores
from model.decoding import decoder
from model.decoding.colour import PRIMARIES, rgb_profile
from model.images import DEFAULT_LIMITS, decode_image
from model.regions import crops, parts_of
from model.squares import Square

SQUARE = Square(224, 256, "bicubic")
SIDE = 4 * SQUARE.resized  # pixels that a backbone needs of a JPEG
ROUNDS = 8
MORE_MS, RATIO = 0.5, 0.95
ORDINARY = ("JPEG 512 x 512", "JPEG 1024 x 768", "JPEG 2048 x 1536")
Decode = Callable[[bytes], object]


def picture(width: int, height: int) -> Image.Image:
    """Draw shapes and texture that compress about as photographs do."""
    random = np.random.default_rng(width)
    coarse = random.integers(0, 256, (height // 32 + 1, width // 32 + 1, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = random.normal(0, 6, (height, width, 1))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def encoded(width: int, height: int, kind: str, **options: object) -> bytes:
    """Encode a picture of a size."""
    buffer = io.BytesIO()
    picture(width, height).save(buffer, kind, **options)
    return buffer.getvalue()


def whole_by_processes(data: bytes) -> object:
    """Decode as a rebuild does."""
    return decode_image(data, min_decode_side=SIDE)


def whole_in_thread(data: bytes) -> decoder.Decoded:
    """Decode and hash in the calling thread."""
    hashlib.sha256(data).hexdigest()
    return decoder.decode(data, lambda w, h, _=4: DEFAULT_LIMITS.check(w, h), SIDE)


def squares_by_processes(data: bytes) -> object:
    """Decode as the server does."""
    return SQUARE.split(decode_image(data, min_decode_side=SIDE, square=SQUARE).pixels)


def squares_in_thread(data: bytes) -> object:
    """Decode, hash and cut in the calling thread."""
    pixels, size = whole_in_thread(data)
    return [SQUARE.of(part) for part in crops(pixels, size, parts_of(size))]


def by_pillow(data: bytes) -> object:
    """Decode as version 1 did: without colour management."""
    hashlib.sha256(data).hexdigest()
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, (SIDE, SIDE))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.has_transparency_data:
            paper = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
        return image.convert("RGB")


def latency(ways: Sequence[Decode], data: bytes, seconds: float) -> list[float]:
    """Return the median milliseconds of each way; they take turns."""
    taken: list[list[float]] = [[] for _ in ways]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for way, times in zip(ways, taken, strict=True):
            began = time.perf_counter()
            way(data)
            times.append(1000 * (time.perf_counter() - began))
    return [statistics.median(times) for times in taken]


def processor_time(ways: Sequence[Decode], data: bytes, seconds: float) -> list[float]:
    """Return the milliseconds of processor time of one decoding each way; they take turns."""
    used, counts = [0.0] * len(ways), [0] * len(ways)
    for _ in range(ROUNDS):
        for place, way in enumerate(ways):
            before, until = _used(), time.monotonic() + seconds / ROUNDS / len(ways)
            while time.monotonic() < until:
                way(data)
                counts[place] += 1
            used[place] += _used() - before
    return [1000 * time_used / count for time_used, count in zip(used, counts, strict=True)]


def _used() -> float:
    """Return the seconds of processor time that this process and its children have taken."""
    ticks = 0
    for thread in Path("/proc/self/task").iterdir():
        for child in (thread / "children").read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def throughput(
    ways: Sequence[Decode], data: bytes, seconds: float, threads: int
) -> list[list[float]]:
    """Return the decodings a second of each way in each round; they take turns."""
    each = seconds / ROUNDS / len(ways)
    return [[_rate(way, data, each, threads) for way in ways] for _ in range(ROUNDS)]


def _rate(way: Decode, data: bytes, seconds: float, threads: int) -> float:
    """Return the decodings a second of so many threads."""
    counts = [0] * threads
    began = time.monotonic()

    def work(place: int) -> None:
        while time.monotonic() < began + seconds:
            way(data)
            counts[place] += 1

    workers = [threading.Thread(target=work, args=(place,)) for place in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(1, sum(counts)) / (time.monotonic() - began)


def compare(
    processes: Decode, thread: Decode, data: bytes, options: argparse.Namespace
) -> dict[str, float]:
    """Return the cost of decoding in processes beside that in a thread."""
    ways = (processes, thread)
    for way in ways:
        way(data)
    there, here = latency(ways, data, options.seconds)
    rates = throughput(ways, data, options.seconds, options.threads)
    there_used, here_used = processor_time(ways, data, options.seconds)
    return {
        "processes_ms": round(there, 3),
        "thread_ms": round(here, 3),
        "more_ms": round(there - here, 3),
        "processes_processor_ms": round(there_used, 3),
        "thread_processor_ms": round(here_used, 3),
        "throughput": round(statistics.median(a / b for a, b in rates), 3),
        "processes_per_second": round(statistics.median(a for a, _ in rates), 1),
        "thread_per_second": round(statistics.median(b for _, b in rates), 1),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3, help="for each figure")
    parser.add_argument("--threads", type=int, default=available_cores())
    options = parser.parse_args()
    profile = rgb_profile(PRIMARIES[12], None)
    kinds = {
        "JPEG 512 x 512": encoded(512, 512, "JPEG", quality=90),
        "JPEG 1024 x 768": encoded(1024, 768, "JPEG", quality=90),
        "JPEG 2048 x 1536": encoded(2048, 1536, "JPEG", quality=90),
        "JPEG 4000 x 3000, at half": encoded(4000, 3000, "JPEG", quality=85),
        "JPEG 1024 x 768, Display P3": encoded(1024, 768, "JPEG", quality=90, icc_profile=profile),
        "PNG 512 x 512": encoded(512, 512, "PNG"),
        "PNG 1024 x 768": encoded(1024, 768, "PNG"),
        "WebP 1024 x 768": encoded(1024, 768, "WEBP", quality=85),
    }
    result: dict[str, object] = {
        "machine": f"{platform.node()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "threads": options.threads,
    }
    missed = []
    for name, data in kinds.items():
        squares = compare(squares_by_processes, squares_in_thread, data, options)
        if name in ORDINARY and (squares["more_ms"] > MORE_MS or squares["throughput"] < RATIO):
            missed.append(name)
        by_pillow(data)
        plain, here = latency((by_pillow, whole_in_thread), data, options.seconds)
        result[name] = {
            "bytes": len(data),
            "squares": squares,
            "whole": compare(whole_by_processes, whole_in_thread, data, options),
            "pillow_ms": round(plain, 3),
            "colour_management_ratio": round(here / plain, 3),
        }
    print(json.dumps({**result, "missed": missed}, indent=1))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
