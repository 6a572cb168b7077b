import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index.takedowns.fingerprints import (
    CONTRAST_SHARE,
    LENGTH,
    MAX_DISTANCE,
    FingerprintIndex,
    Fingerprints,
    as_fingerprints,
    fingerprint,
)
from tests.fakes import patches

EVAL = Path(__file__).parents[4] / "shared" / "eval" / "exemplars"


def prints(*images: Image.Image) -> Fingerprints:
    return as_fingerprints([fingerprint(image) for image in images])


def near(known: Fingerprints, others: Fingerprints) -> list[tuple[int, int]]:
    places, rows = FingerprintIndex(others).near_duplicates(known)
    return list(zip(places.tolist(), rows.tolist(), strict=True))


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
    found = near(prints(*originals), prints(*copies, *others))
    assert found == [(place, place) for place in range(30)]


def test_faint_drawings_are_told_apart() -> None:
    def drawing(seed: int) -> Image.Image:
        ink = np.random.default_rng(seed).random((64, 64)) < 0.1
        return Image.fromarray(np.where(ink, 180, 255).astype(np.uint8)).convert("RGB")

    drawings = [drawing(seed) for seed in range(20)]
    found = near(prints(*drawings[:10]), prints(*drawings))
    assert found == [(place, place) for place in range(10)]


def test_nothing_known_finds_nothing() -> None:
    assert near(prints(), prints(patches(0))) == []
    assert near(prints(patches(0)), prints()) == []


@pytest.mark.parametrize("spread", [1, 3, 6, 12])
def test_what_is_passed_over_by_its_quarters_is_never_near(spread: int) -> None:
    """As comparing every fingerprint with every other one, at distances around the limit."""
    random = np.random.default_rng(spread)
    known = random.integers(0, 256, (40, 1, LENGTH)) * random.random((40, 1, 1))
    known[::5] = known[::5].mean(axis=-1, keepdims=True)  # without any contrast
    changes = np.concatenate(
        [
            random.integers(-spread, spread + 1, (40, 200, LENGTH)),
            np.broadcast_to(random.integers(-spread, spread + 1, (40, 100, 1)), (40, 100, LENGTH)),
        ],
        axis=1,
    )
    others = (known + changes).clip(0, 255).astype(np.uint8).reshape(-1, LENGTH)
    known = known[:, 0].astype(np.uint8)
    limits = np.minimum(MAX_DISTANCE, 1 + CONTRAST_SHARE * known.std(axis=1))
    squares = np.square(known[:, None].astype(np.float64) - others).mean(axis=2)  # (M, N)
    clear = np.abs(np.sqrt(squares) - limits[:, None]) > 1e-4  # float32 may err at the limit itself
    expected = {(m, n) for m, n in np.argwhere((squares <= limits[:, None] ** 2) & clear).tolist()}
    found = {(m, n) for m, n in near(known, others) if clear[m, n]}
    assert found == expected
    assert expected or spread == 12


@pytest.mark.shared
@pytest.mark.skipif(not EVAL.is_dir(), reason="the evaluation files are not here")
def test_real_copies_are_near_and_real_exemplars_of_one_concept_are_not() -> None:
    files = sorted(EVAL.glob("*/*"))
    images = [Image.open(path).convert("RGB") for path in files]
    known = prints(*images)
    for name, change in COPIES.items():
        copies = range(0, len(images), 4)
        found = near(known, prints(*(change(images[place]) for place in copies)))
        assert {(place, row) for row, place in enumerate(copies)} <= set(found), name
    # The collection itself holds one picture twice, in two files of two sizes.
    pairs = [(place, row) for place, row in near(known, known) if place < row]
    assert len(pairs) == 1
