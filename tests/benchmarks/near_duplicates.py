"""How many unrelated photographs pass for copies of one another, and how many copies do not.

    python -m tests.benchmarks.near_duplicates PATH... [--copies 2000]

PATH are folders of images, or tar archives of them. Every picture is compared with every other one
as a takedown compares them; then copies of some, recompressed and resized, with their originals.
Prints JSON, and the nearest pairs, to be looked at: copies are in every collection. Exit status 1
if a copy of a kind that must be found is not.
"""

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from index.takedowns import fingerprints as module
from index.takedowns.fingerprints import (
    MAX_DISTANCE,
    FingerprintIndex,
    Fingerprints,
    as_fingerprints,
    fingerprint,
)
from index.thumbnails import thumbnail_of
from model.folders import find_images
from model.images import read_image

BINS = (1, 2, 3, 4, 5, 6, 8, 10, 12)


def recompressed(image: Image.Image, kind: str, quality: int) -> Image.Image:
    """The picture as a lossy file gives it back."""
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality)
    return Image.open(buffer).convert("RGB")


def resized(image: Image.Image, scale: float) -> Image.Image:
    """The picture in another size."""
    return image.resize((round(image.width * scale), round(image.height * scale)))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 70": lambda image: recompressed(image, "JPEG", 70),
    "JPEG 30": lambda image: recompressed(image, "JPEG", 30),
    "WebP 60": lambda image: recompressed(image, "WEBP", 60),
    "half the size": lambda image: resized(image, 0.5),
    "twice the size": lambda image: resized(image, 2),
    "half the size, JPEG 70": lambda image: recompressed(resized(image, 0.5), "JPEG", 70),
}
MUST = ("JPEG 70", "half the size", "twice the size")


def pictures(paths: list[Path]) -> Iterator[tuple[str, Image.Image]]:
    """Every image with its name."""
    for path in paths:
        if path.is_dir():
            for file in find_images(path):
                yield str(file.relative_to(path.parent)), read_image(file).pixels
        else:
            with tarfile.open(path) as archive:
                for member in archive:
                    if file := archive.extractfile(member):
                        yield f"{path.name}:{member.name}", Image.open(file).convert("RGB")


def distances(a: Fingerprints, b: Fingerprints) -> np.ndarray:
    """Of each pair of rows."""
    return np.sqrt(np.square(a.astype(np.float32) - b).mean(axis=1))


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--copies", type=int, default=2000)
    options = parser.parse_args()
    names, prints, found = [], [], dict.fromkeys(COPIES, 0)
    farthest = dict.fromkeys(COPIES, 0.0)
    copied = 0
    generator = np.random.default_rng(0)
    images = sum(1 for _ in pictures(options.paths))
    chosen = set(generator.permutation(images)[: options.copies].tolist())
    for number, (name, image) in enumerate(pictures(options.paths)):
        names.append(name)
        prints.append(fingerprint(thumbnail_of(image)))
        if number in chosen:
            copied += 1
            known = as_fingerprints(prints[-1:])
            for kind, change in COPIES.items():
                copy = as_fingerprints([fingerprint(thumbnail_of(change(image)))])
                found[kind] += len(FingerprintIndex(copy).near_duplicates(known)[0])
                farthest[kind] = max(farthest[kind], float(distances(known, copy)[0]))
    every = as_fingerprints(prints)
    places, rows = FingerprintIndex(every).near_duplicates(every)
    same = sorted({(min(i, j), max(i, j)) for i, j in zip(places, rows, strict=True) if i != j})
    module.MAX_DISTANCE, module.CONTRAST_SHARE = float(BINS[-1]), 1000.0  # all pairs of the bins
    places, rows = FingerprintIndex(every).near_duplicates(every)
    pairs = places < rows
    places, rows = places[pairs], rows[pairs]
    apart = distances(every[places], every[rows])
    for place in np.argsort(apart)[:20]:
        pair = (places[place], rows[place])
        mark = "same" if pair in same else "    "
        print(f"{apart[place]:6.2f} {mark} {names[pair[0]]} {names[pair[1]]}", file=sys.stderr)
    result = {
        "pictures": len(names),
        "pairs": len(names) * (len(names) - 1) // 2,
        "limit": MAX_DISTANCE,
        "pairs_taken_for_one": len(same),
        "pairs_nearer_than": {str(limit): int((apart <= limit).sum()) for limit in BINS},
        "copies": copied,
        "copies_found": found,
        "farthest_copy": {kind: round(value, 2) for kind, value in farthest.items()},
    }
    print(json.dumps(result, indent=1))
    return int(any(found[kind] < copied for kind in MUST))


if __name__ == "__main__":
    sys.exit(main())
