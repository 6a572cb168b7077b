"""Queries pasted at the left, middle and right of canvases of 3:1, before and after squares.

    python -m tests.benchmarks.panoramas --pairs pairs.csv --data DIR --ground FOLDER|TAR \
        [--every 2] [--json FILE]

The ground is a plain grey, or a photograph of ``--ground``, which must not be in the index.
*Before* is the central square alone, as images were read once; *after* is what
`Attributor.attribute` does. Each canvas is asked with its source in the index, and with the
source's concepts left out: the share of these that is matched is the false-attribution rate. Last,
what an ordinary image costs before and after, in turns.
"""

import argparse
import json
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from index.answering.attribution import Attribution, Attributor, open_attributor
from index.answering.calibration import DEFAULT_RATE
from index.answering.squares import Squares, embed_squares
from index.errors import NotFoundError
from index.evaluation.pairs import Pair, read_pairs
from index.layout import DataFolder
from model.folders import find_images
from model.images import read_image
from model.regions import Region

PLACES = {"left": 0.0, "middle": 0.5, "right": 1.0}
RATIO = 3
BATCH = 8
GROUNDS = 100  # photographs of the ground
TURNS = 40


def main() -> None:
    """Ask all canvases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--ground", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="ask every N-th query")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    attributor = open_attributor(DataFolder(arguments.data), engine=arguments.engine)
    pairs = read_pairs(arguments.pairs)[:: arguments.every]
    images = [read_image(pair.path).pixels for pair in pairs]
    photographs = list(islice(read_ground(arguments.ground), GROUNDS))
    print(f"{len(pairs)} queries, {len(photographs)} photographs as ground")
    found = {"as they are": asked(attributor, pairs, images, embed_centres)}
    found["as they are, in squares"] = asked(attributor, pairs, images, embed_squares)
    for ground in ("plain", "photograph"):
        for place, share in PLACES.items():
            canvases = [
                on_canvas(image, share, photograph if ground == "photograph" else None)
                for image, photograph in zip(images, cycle(photographs), strict=False)
            ]
            for name, embed in (("before", embed_centres), ("after", embed_squares)):
                found[f"{ground}, {place}, {name}"] = asked(attributor, pairs, canvases, embed)
    print("| | R@1 | macro | right and matched | source absent: matched | of it at 5% |")
    print("|---|---|---|---|---|---|")
    for name, row in found.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row.values()) + " |")
    costs = cost(
        attributor, [image for image in images if 3 * max(image.size) <= 4 * min(image.size)]
    )
    print(json.dumps(costs, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps({"found": found, "cost": costs}, indent=1) + "\n")


def read_ground(path: Path) -> Iterator[Image.Image]:
    """Yield the images of a folder or of a tar file."""
    if path.is_dir():
        for file in find_images(path):
            yield read_image(file).pixels
        return
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.lower().endswith((".jpg", ".jpeg", ".png", ".webp")):
                data = tar.extractfile(member)
                assert data
                yield Image.open(BytesIO(data.read())).convert("RGB")


def on_canvas(image: Image.Image, place: float, ground: Image.Image | None) -> Image.Image:
    """Paste an image on a canvas of 3:1 as high as it is."""
    size = RATIO * image.height, image.height
    canvas = ImageOps.fit(ground, size) if ground else Image.new("RGB", size, "#808080")
    canvas.paste(image, (round(place * (canvas.width - image.width)), 0))
    return canvas


def embed_centres(embedder: object, images: Sequence[Image.Image]) -> Squares:
    """Embed the central square of each image."""
    return Squares(embedder.embed(images), tuple((Region(0, 0, *one.size),) for one in images))  # type: ignore[attr-defined]


def asked(
    attributor: Attributor,
    pairs: Sequence[Pair],
    images: Sequence[Image.Image],
    embed: Callable[..., Squares],
) -> dict[str, float]:
    """Ask all images, with their sources and without; return the shares."""
    present: list[Attribution] = []
    absent: list[Attribution] = []
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        embedded = embed(attributor.embedder, images[part])
        excluded = [numbers(attributor, pair) for pair in pairs[part]]
        for answers, left_out in ((present, None), (absent, excluded)):
            answers += attributor.rank(
                embedded.vectors, top_k=1, exemplars=0, excluded=left_out, parts=embedded.parts
            )
    right = np.array(
        [
            answer.concepts[0].concept.id in pair.concepts
            for answer, pair in zip(present, pairs, strict=True)
        ]
    )
    p_values = np.array([answer.concepts[0].p_value for answer in present])
    absent_p = np.array([answer.concepts[0].p_value for answer in absent])
    _, group = np.unique([pair.concepts[0] for pair in pairs], return_inverse=True)
    return {
        "R@1": float(right.mean()),
        "macro": float((np.bincount(group, right) / np.bincount(group)).mean()),
        "right and matched": float((right & (p_values <= DEFAULT_RATE)).mean()),
        "absent matched": float((absent_p <= DEFAULT_RATE).mean()),
        "absent at 5%": float((absent_p <= 0.05).mean()),
    }


def numbers(attributor: Attributor, pair: Pair) -> frozenset[int]:
    """Return the numbers of a pair's concepts in the index."""
    found = set()
    for name in pair.concepts:
        try:
            found.add(attributor.snapshot.catalog.concept(name).number)
        except NotFoundError:
            continue
    return frozenset(found)


def cost(attributor: Attributor, images: Sequence[Image.Image]) -> dict[str, float]:
    """Return the milliseconds of an ordinary image before and after, and of a canvas, by turns."""
    embedder = attributor.embedder

    def before(image: Image.Image) -> list[Attribution]:
        return attributor.rank(embedder.embed([image]))

    def after(image: Image.Image) -> list[Attribution]:
        return attributor.attribute([image])

    spent: dict[str, list[float]] = {"before": [], "after": [], "canvas": []}
    same = 0
    chosen = images[:TURNS]
    for image in chosen:
        for name, ask, asked_about in (
            ("before", before, image),
            ("after", after, image),
            ("canvas", after, on_canvas(image, 0.0, None)),
        ):
            began = time.perf_counter()
            answer = ask(asked_about)
            spent[name].append(1000 * (time.perf_counter() - began))
            if name == "before":
                expected = answer
            elif name == "after":
                same += answer == expected
    medians = {f"{name}, ms": statistics.median(values) for name, values in spent.items()}
    return {
        **medians,
        "after over before": statistics.median(
            after / before for before, after in zip(spent["before"], spent["after"], strict=True)
        ),
        "answers equal to the last bit": same / max(1, len(chosen)),
    }


if __name__ == "__main__":
    main()
