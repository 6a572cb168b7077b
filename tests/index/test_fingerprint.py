import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index.fingerprint import LENGTH, Fingerprints, fingerprint, near_duplicates
from tests.fakes import patches

EVAL = Path(__file__).parents[3] / "shared" / "eval" / "exemplars"


def prints(*images: Image.Image) -> Fingerprints:
    joined = b"".join(fingerprint(image) for image in images)
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, LENGTH)


def recompressed(image: Image.Image, format_name: str, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format_name, quality=quality)
    return Image.open(buffer).convert("RGB")


def resized(image: Image.Image, scale: float) -> Image.Image:
    return image.resize((max(16, int(image.width * scale)), max(16, int(image.height * scale))))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg 70": lambda image: recompressed(image, "JPEG", 70),
    "jpeg 30": lambda image: recompressed(image, "JPEG", 30),
    "webp 60": lambda image: recompressed(image, "WEBP", 60),
    "half size": lambda image: resized(image, 0.5),
    "twice the size": lambda image: resized(image, 2),
    "half size and jpeg 70": lambda image: recompressed(resized(image, 0.5), "JPEG", 70),
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_found_and_another_picture_is_not(copy: str) -> None:
    originals = [patches(seed, side=128) for seed in range(30)]
    copies = [COPIES[copy](image) for image in originals]
    others = [patches(seed, side=128) for seed in range(100, 130)]
    nearest = near_duplicates(prints(*originals), prints(*copies, *others))
    assert nearest.tolist() == [*range(30), *[-1] * 30]


def test_faint_drawings_are_told_apart() -> None:
    def drawing(seed: int) -> Image.Image:
        ink = np.random.default_rng(seed).random((64, 64)) < 0.1
        return Image.fromarray(np.where(ink, 180, 255).astype(np.uint8)).convert("RGB")

    drawings = [drawing(seed) for seed in range(20)]
    nearest = near_duplicates(prints(*drawings[:10]), prints(*drawings))
    assert nearest.tolist() == [*range(10), *[-1] * 10]


def test_nothing_known_finds_nothing() -> None:
    assert near_duplicates(prints(), prints(patches(0))).tolist() == [-1]
    assert near_duplicates(prints(patches(0)), prints()).tolist() == []


@pytest.mark.shared
@pytest.mark.skipif(not EVAL.is_dir(), reason="the evaluation files are not here")
def test_real_copies_are_near_and_real_exemplars_of_one_concept_are_not() -> None:
    files = sorted(EVAL.glob("*/*"))
    images = [Image.open(path).convert("RGB") for path in files]
    known = prints(*images)
    for name, change in COPIES.items():
        found = near_duplicates(known, prints(*map(change, images[::4])))
        assert (found >= 0).all(), name
    # The collection itself holds one picture twice, in two files of two sizes.
    pairs = 0
    for row in range(len(files)):
        pairs += int(near_duplicates(np.delete(known, row, axis=0), known[row : row + 1])[0] >= 0)
    assert pairs <= 2  # the one of the other, and the other of the one
