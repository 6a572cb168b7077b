"""Each perturbation does what it says, and the pairs are measured under every one of them."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from index.answering.attribution import Attributor
from index.evaluation.local import ask_attributor
from index.evaluation.pairs import Answer, Pair, evaluate_pairs
from index.evaluation.robustness import (
    PERTURBATIONS,
    TITLE_BAR,
    WINDOW,
    evaluate_robustness,
)
from tests.fakes import FakeEmbedder, build_snapshot, patches
from tests.pictures import noise, red_and_blue


def perturb(name: str, image: Image.Image) -> Image.Image:
    return PERTURBATIONS[name](image)


def values(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image, dtype=np.float64)


def test_the_clean_image_comes_first_and_stays_as_it_is() -> None:
    image = noise()
    assert next(iter(PERTURBATIONS)) == "clean"
    assert perturb("clean", image) is image


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("size", [(640, 360), (200, 500), (33, 17), (1, 1)])
def test_an_rgb_image_of_any_size_becomes_another(name: str, size: tuple[int, int]) -> None:
    image = noise(*size)
    before = image.tobytes()
    changed = perturb(name, image)
    assert changed.mode == "RGB"
    assert min(changed.size) >= 1
    assert image.tobytes() == before
    if name != "clean" and min(size) > 128:
        assert changed.tobytes() != before


@pytest.mark.parametrize("quality", [30, 50, 80])
def test_jpeg_is_saved_at_its_quality(quality: int) -> None:
    image, buffer = noise(), io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    expected = Image.open(buffer).convert("RGB")
    assert perturb(f"jpeg {quality}", image).tobytes() == expected.tobytes()


def test_lower_quality_loses_more() -> None:
    image = noise()
    lost = [
        np.abs(values(perturb(f"jpeg {q}", image)) - values(image)).mean() for q in (80, 50, 30)
    ]
    assert lost == sorted(lost)
    assert lost[0] > 0


def test_half_size_halves_both_sides() -> None:
    small = perturb("half size", red_and_blue(100, 50))
    assert small.size == (50, 25)
    assert small.getpixel((5, 12)) == (255, 0, 0)
    assert small.getpixel((45, 12)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("size", "expected"), [((512, 256), (128, 64)), ((100, 400), (32, 128)), ((90, 60), (90, 60))]
)
def test_128_pixels_are_the_longest_side(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert perturb("128 px", noise(*size)).size == expected


def test_a_20_percent_crop_keeps_the_middle() -> None:
    image = noise(100, 50)
    kept = perturb("20% crop", image)
    assert kept.tobytes() == image.crop((10, 5, 90, 45)).tobytes()


def test_flip_swaps_left_and_right() -> None:
    image = noise(40, 30)
    np.testing.assert_array_equal(values(perturb("flip", image)), values(image)[:, ::-1])


def test_a_screenshot_shows_the_whole_image_in_a_window() -> None:
    image = noise(200, 100)
    shot = perturb("screenshot", image)
    assert shot.size == (224, 136)
    assert shot.crop((12, 24, 212, 124)).tobytes() == image.tobytes()
    outside = values(shot)
    outside[24:124, 12:212] = WINDOW
    assert (outside[:12] == TITLE_BAR).all()
    assert (outside[12:] == WINDOW).all()


def test_blur_keeps_the_colour_and_loses_detail() -> None:
    image = noise(512, 256)
    soft = values(perturb("blur", image))
    assert soft.mean() == pytest.approx(values(image).mean(), abs=1)
    assert soft.std() < values(image).std() / 4
    # The radius grows with the image: reduced to the same size, large and small look alike.
    edge = [values(perturb("blur", red_and_blue(side, side)))[0, :, 0] for side in (256, 1024)]
    widths = [int(((row > 5) & (row < 250)).sum()) for row in edge]
    assert widths[1] == pytest.approx(4 * widths[0], abs=4)


@pytest.fixture
def attributor(tmp_path: Path) -> Attributor:
    """Concepts of two pictures that look different mirrored and cut."""
    images = {f"concept-{i:02d}": [patches(10 * i), patches(10 * i + 1)] for i in range(12)}
    return Attributor(FakeEmbedder(), build_snapshot(tmp_path / "data", images))


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    made = []
    for i in range(12):
        path = tmp_path / f"query{i}.png"
        patches(10 * i, side=256).save(path)
        made.append(Pair(path, (f"concept-{i:02d}",), kind="subject" if i % 2 else "style"))
    return made


def test_every_perturbation_is_measured_beside_the_clean_images(
    attributor: Attributor, pairs: list[Pair]
) -> None:
    steps: list[tuple[str, int, int]] = []
    report = evaluate_robustness(
        pairs,
        lambda perturb, asked: ask_attributor(attributor, asked, perturb),
        progress=lambda *step: steps.append(step),
    )
    assert steps == [(name, i + 1, 12) for name in PERTURBATIONS for i in range(12)]
    rows = {row.perturbation: row for row in report.rows}
    assert list(rows) == list(PERTURBATIONS)
    plain = evaluate_pairs(pairs, lambda asked: ask_attributor(attributor, asked))
    assert rows["clean"].macro == plain.macro
    assert rows["clean"].by_kind == plain.by_kind
    assert rows["clean"].false_attribution_rate == plain.false_attribution_rate
    assert rows["clean"].macro.recall_at_1 == 1
    assert rows["jpeg 80"].macro.recall_at_1 == 1
    # This embedder looks at colours by place, so a mirrored picture is another one to it.
    assert rows["flip"].macro.map < rows["clean"].macro.map
    assert rows["flip"].macro.recall_at_1 < 0.7
    assert rows["flip"].macro == asked_by_hand(attributor, pairs, "flip")


def asked_by_hand(attributor: Attributor, pairs: list[Pair], name: str) -> object:
    """The metrics of images that were changed on disk."""
    changed = []
    for pair in pairs:
        path = pair.path.with_name(f"{name}-{pair.path.name}")
        perturb(name, Image.open(pair.path)).save(path)
        changed.append(Pair(path, pair.concepts, pair.kind))
    return evaluate_pairs(changed, lambda asked: ask_attributor(attributor, asked)).macro


def test_an_unreadable_query_counts_as_wrong_in_every_row(
    attributor: Attributor, pairs: list[Pair]
) -> None:
    pairs[3].path.write_bytes(b"not an image")
    report = evaluate_robustness(
        pairs, lambda perturb, asked: ask_attributor(attributor, asked, perturb)
    )
    assert {row.failed for row in report.rows} == {1}
    assert report.rows[0].macro.recall_at_1 == pytest.approx(11 / 12)


def test_the_report_is_plain_data(pairs: list[Pair]) -> None:
    report = evaluate_robustness(pairs, lambda _, asked: [Answer(ranked=("other",)) for _ in asked])
    record = json.loads(json.dumps(report.as_dict()))
    assert [row["perturbation"] for row in record["rows"]] == list(PERTURBATIONS)
    assert record["rows"][0]["macro"] == {
        "queries": 12,
        "map": 0,
        "recall_at_1": 0,
        "recall_at_5": 0,
    }
