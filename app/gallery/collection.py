"""Which pictures the gallery holds: the exemplars of every concept and the queries about them."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import numpy as np
from numpy.random import Generator

from app.gallery import pictures
from app.gallery.canvas import Pixels
from app.gallery.scenes import SCENES, UNSEEN_SCENES
from app.gallery.styles import STYLES
from app.gallery.subjects import SUBJECTS

EXCURSIONS = (
    ("Blue robot", "village", "parade"),
    ("Brass key", "sea", "leaning"),
    ("Diving helmet", "aquarium", "afar"),
    ("Fox mask", "forest", "row"),
    ("Green cactus", "skyline", "row"),
    ("Hot-air balloon", "bridge", "flock"),
    ("Jade beetle", "still life", "pair"),
    ("Paper boat", "river", "pair"),
    ("Pink flamingo", "mountains", "parade"),
    ("Purple owl", "skyline", "flock"),
    ("Red teapot", "garden", "leaning"),
    ("Sailor cat", "bridge", "afar"),
    ("Striped lighthouse", "village", "afar"),
    ("Tin rocket", "arrangement", "flock"),
    ("Toadstool house", "sea", "parade"),
)
"""Subject, scene and arrangement of the queries that show a subject where no exemplar does."""

HOMAGES = (
    ("Sailor cat", "sea", "Ukiyo Umi"),
    ("Fox mask", "sea", "Stained-glass Cleo"),
    ("Striped lighthouse", "sea", "Impasto Kofi"),
    ("Hot-air balloon", "mountains", "Watercolour Fay"),
    ("Purple owl", "forest", "Mosaic Juno"),
    ("Tin rocket", "skyline", "Blueprint Lars"),
    ("Red teapot", "garden", "Pointillist Ada"),
    ("Blue robot", "skyline", "Pixel Gus"),
    ("Green cactus", "mountains", "Risograph Mina"),
    ("Pink flamingo", "river", "Neon Ivo"),
    ("Toadstool house", "forest", "Papercut Noor"),
    ("Diving helmet", "sea", "Crosshatch Hana"),
    ("Paper boat", "river", "Woodcut Bruno"),
    ("Jade beetle", "garden", "Crystal Otto"),
)
"""Subject, scene and artist of the queries that owe something to two concepts."""


@dataclass(frozen=True)
class Picture:
    """One picture to draw: where it goes, what it derives from and how it is painted."""

    path: str  # relative to the gallery's folder
    paint: Callable[[Generator, int], Pixels]  # takes the side in pixels
    concepts: tuple[str, ...]
    kind: str
    worn: bool = False

    def pixels(self, seed: int, size: int) -> Pixels:
        """Paints the picture: always the same one for the same seed and size."""
        rng = np.random.default_rng([seed, zlib.crc32(self.path.encode())])
        picture = self.paint(rng, size)
        return pictures.worn(picture, rng) if self.worn else picture


def exemplars(per_concept: int) -> Iterator[Picture]:
    """Yields the exemplars of every concept: artists in many scenes, subjects on many grounds."""
    scenes = list(SCENES)
    for number in range(per_concept):
        for turn, style in enumerate(STYLES):
            paint = partial(pictures.artwork, style, scenes[(number + turn) % len(scenes)])
            yield Picture(_exemplar_path(style, number), paint, (style,), "style")
        for subject in SUBJECTS:
            paint = partial(pictures.portrait, subject)
            yield Picture(_exemplar_path(subject, number), paint, (subject,), "subject")


def queries() -> Iterator[Picture]:
    """Yields the "generated" pictures; every third wears the marks of a generator."""
    for number, (title, paint, concepts, kind) in enumerate(_compositions(), start=1):
        path = f"queries/{number:02d}-{_slug(title)}.jpg"
        yield Picture(path, paint, concepts, kind, worn=number % 3 == 0)


def _compositions() -> Iterator[
    tuple[str, Callable[[Generator, int], Pixels], tuple[str, ...], str]
]:
    """Yields title, painter, concepts and kind of each query."""
    for subject, scene, arrangement in EXCURSIONS:
        paint = partial(pictures.excursion, subject, scene, arrangement)
        yield f"{subject} with {scene}", paint, (subject,), "subject"
    for style, scene in zip(STYLES, cycle(UNSEEN_SCENES), strict=False):
        yield f"{scene} by {style}", partial(pictures.artwork, style, scene), (style,), "style"
    for subject, scene, style in HOMAGES:
        paint = partial(pictures.homage, subject, scene, style)
        yield f"{subject} by {style}", paint, (subject, style), "subject+style"
    for title, stranger in pictures.STRANGERS.items():
        yield title, stranger, (), "none"


def _exemplar_path(concept: str, number: int) -> str:
    """Where an exemplar goes: each concept has a folder of its own name."""
    return f"exemplars/{concept}/{number + 1:02d}.jpg"


def _slug(title: str) -> str:
    """A title as part of a file's name."""
    return "-".join(title.lower().split())
