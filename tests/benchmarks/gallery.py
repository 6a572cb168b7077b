"""The gallery that the benchmarks of serving ask about: 2,172 exemplars, and pictures to ask with.

    python -m tests.benchmarks.gallery FOLDER [--exemplars 2172] [--backbone NAME] [--weights FILE]

Draws structured JPEGs of 512 pixels, about as heavy as photographs, of concepts of 4 to 48
exemplars; trains both facets on a few of each concept and publishes an index of all. Other
benchmarks take the folder as ``--gallery FOLDER``, and build one for themselves without it.
"""

import argparse
import io
import itertools
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from model.backbone import create_backbone, create_random_backbone
from model.checkpoint import load_embedder
from model.sources.local import local_files
from model.starter import NAME, create_starter
from model.train import train_model
from tests.benchmarks.plain_handler import save_plain

EXEMPLARS, QUERIES = 2172, 64
SIZES = (4, 8, 16, 32, 48)  # exemplars of one concept and the next, over and over
TRAINED_ON = 4  # exemplars of each concept
SIDE = 512


@dataclass(frozen=True)
class Gallery:
    """A folder with a published index, what it was made of, and pictures to ask with."""

    root: Path

    @property
    def data(self) -> DataFolder:
        """The data folder."""
        return DataFolder(self.root / "data")

    @property
    def source(self) -> Path:
        """A folder of exemplars by concept."""
        return self.root / "source"

    @property
    def queries(self) -> Path:
        """A folder of images, none of them an exemplar."""
        return self.root / "queries"

    @property
    def plain(self) -> Path:
        """The files of `tests.benchmarks.plain_handler`."""
        return self.root / "plain"


def draw_photo(number: int, concept: int | None = None) -> bytes:
    """A JPEG; pictures of one concept share their coarse layout and their palette."""
    own = np.random.default_rng([number, 1])
    shared = np.random.default_rng(number if concept is None else [concept, 2])
    image = Image.new("RGB", (SIDE, SIDE * 3 // 4))
    for scale, weight, generator in ((8, 0.7, shared), (64, 0.4, own), (384, 0.08, own)):
        coarse = generator.integers(0, 256, (scale * 3 // 4, scale, 3), dtype=np.uint8)
        layer = Image.fromarray(coarse).resize(image.size, Image.Resampling.BICUBIC)
        image = Image.blend(image, layer, weight)
    palette = shared.integers(0, 256, (20, 3))
    canvas = ImageDraw.Draw(image)
    for colour in palette:
        x, y, radius = own.integers(0, SIDE, 3) // (1, 1, 6)
        canvas.ellipse((x, y, x + radius, y + radius), outline=tuple(map(int, colour)), width=3)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def draw_exemplars(source: Path, count: int, first: int = 0, prefix: str = "concept") -> None:
    """Sample ``count`` pictures, numbered from ``first`` on, into a folder for each concept."""
    sizes, places = itertools.cycle(SIZES), []
    for concept in itertools.count():
        places += [concept] * next(sizes)
        if len(places) >= count:
            break
    numbers = range(first, first + count)
    with ProcessPoolExecutor() as pool:
        drawn = pool.map(draw_photo, numbers, places, chunksize=32)
        for number, concept, data in zip(numbers, places, drawn, strict=False):
            folder = source / f"{prefix}-{concept:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:06d}.jpg").write_bytes(data)


def build_gallery(root: Path, options: argparse.Namespace) -> Gallery:
    """Sample, train and index a gallery in an empty folder."""
    gallery = Gallery(root)
    gallery.queries.mkdir(parents=True)
    draw_exemplars(gallery.source, options.exemplars)
    for number in range(QUERIES):
        picture = draw_photo(options.exemplars + number, number)
        (gallery.queries / f"{number:04d}.jpg").write_bytes(picture)
    if options.backbone == NAME:
        backbone = create_starter()
    elif options.weights:
        backbone = create_backbone(options.backbone, weights=options.weights)
    else:
        backbone = create_random_backbone(options.backbone)
    concepts = sorted(gallery.source.iterdir())
    files = [file for concept in concepts for file in sorted(concept.iterdir())[:TRAINED_ON]]
    data = gallery.data
    trained = train_model(local_files(files), backbone, models=data.models, features=data.features)
    embedder = load_embedder(data.models, trained.model_id)
    rebuild(data, read_sources([gallery.source]), embedder, RebuildOptions(canary_rate=0))
    save_plain(gallery.plain, backbone, gallery.source)
    return gallery


def add_gallery_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `gallery_of` takes."""
    parser.add_argument("--gallery", type=Path, help="a folder that was built before")
    parser.add_argument("--exemplars", type=int, default=EXEMPLARS)
    parser.add_argument("--backbone", default=NAME, help="a timm model with random weights")
    parser.add_argument("--weights", type=Path, help="of the backbone")


@contextmanager
def gallery_of(options: argparse.Namespace) -> Iterator[Gallery]:
    """The gallery named by ``--gallery``, else one that is built and removed afterwards."""
    if options.gallery:
        yield Gallery(options.gallery)
        return
    with tempfile.TemporaryDirectory() as name:
        yield build_gallery(Path(name), options)


def main() -> None:
    """Build one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    add_gallery_options(parser)
    options = parser.parse_args()
    build_gallery(options.folder, options)


if __name__ == "__main__":
    main()
