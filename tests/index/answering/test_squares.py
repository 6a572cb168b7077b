"""Images that are read in several squares."""

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageOps

from index.answering.attribution import Attributor
from index.answering.calibration import Calibration
from index.answering.squares import best_of, compared, embed_squares
from index.snapshot import Snapshot
from model.embedder import Embedder
from model.regions import Region, parts_of
from tests.fakes import FakeEmbedder, build_snapshot, patches, tiny_model

PICTURES = {f"Concept {n}": [patches(10 * n + k, side=64) for k in range(3)] for n in range(9)}
NULL = Calibration(null_scores=tuple(np.linspace(9, 0, 999)))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snapshot]:
    opened = build_snapshot(tmp_path_factory.mktemp("data"), PICTURES)
    yield opened
    opened.close()


@pytest.fixture
def attributor(snapshot: Snapshot) -> Attributor:
    return Attributor(FakeEmbedder(), snapshot)


def on_canvas(image: Image.Image, place: int, size: tuple[int, int] = (192, 64)) -> Image.Image:
    canvas = Image.new("RGB", size, "#808080")
    canvas.paste(image, (place, 0))
    return canvas


@pytest.mark.parametrize("place", [0, 64, 128])
@pytest.mark.parametrize("tall", [False, True])
def test_a_source_is_found_wherever_it_lies(attributor: Attributor, place: int, tall: bool) -> None:
    image = on_canvas(PICTURES["Concept 3"][1], place)
    if tall:  # turned there and back, so that what lies in it is upright
        image = ImageOps.mirror(image.transpose(Image.Transpose.TRANSPOSE))
        asked = ImageOps.mirror(PICTURES["Concept 3"][1].transpose(Image.Transpose.TRANSPOSE))
    else:
        asked = PICTURES["Concept 3"][1]
    [answer] = attributor.attribute([image])
    [alone] = attributor.attribute([asked])
    assert answer.concepts[0].score >= alone.concepts[0].score - 1e-5
    if not tall:
        first = answer.concepts[0]
        assert (first.concept.name, first.square) == ("Concept 3", place // 32)
        assert first.exemplars[0].similarity == pytest.approx(1, abs=1e-5)


def test_the_central_square_alone_would_have_missed_it(attributor: Attributor) -> None:
    image = on_canvas(PICTURES["Concept 3"][1], 0)
    [centre] = attributor.rank(FakeEmbedder().embed([image.crop((64, 0, 128, 64))]))
    assert centre.concepts[0].p_value > 0.1
    [answer] = attributor.attribute([image])
    assert answer.concepts[0].p_value < 0.1


def test_an_ordinary_image_is_answered_as_if_there_were_no_squares(
    attributor: Attributor,
) -> None:
    for size in ((64, 64), (64, 48), (48, 64)):
        image = patches(999, side=64).resize(size)
        [answer] = attributor.attribute([image], top_k=9)
        [bare] = attributor.rank(FakeEmbedder().embed([image]), top_k=9)
        assert answer == bare  # to the last bit
        assert {concept.square for concept in answer.concepts} == {0}


def test_images_of_one_batch_are_answered_as_each_alone(attributor: Attributor) -> None:
    images = [
        patches(1, side=64), on_canvas(PICTURES["Concept 1"][0], 128), patches(2, side=64),
        on_canvas(PICTURES["Concept 2"][0], 0, (64 * 7, 64)),
    ]  # fmt: skip
    assert [len(own) for own in embed_squares(FakeEmbedder(), images).parts] == [1, 5, 1, 7]
    together = attributor.attribute(images, top_k=9)
    for image, answer in zip(images, together, strict=True):
        [alone] = attributor.attribute([image], top_k=9)
        assert [c.concept.id for c in alone.concepts] == [c.concept.id for c in answer.concepts]
        assert [c.square for c in alone.concepts] == [c.square for c in answer.concepts]
        assert [c.score for c in alone.concepts] == pytest.approx(
            [c.score for c in answer.concepts], abs=1e-5
        )


def test_every_concept_counts_once_by_its_best_square(attributor: Attributor) -> None:
    image = on_canvas(PICTURES["Concept 1"][0], 0)
    image.paste(PICTURES["Concept 2"][0], (128, 0))
    [answer] = attributor.attribute([image], top_k=9)
    assert len({concept.concept.id for concept in answer.concepts}) == 9
    assert {(c.concept.name, c.square) for c in answer.concepts[:2]} == {
        ("Concept 1", 0), ("Concept 2", 4),
    }  # fmt: skip
    scores = [concept.score for concept in answer.concepts]
    assert scores == sorted(scores, reverse=True)
    embedded = embed_squares(FakeEmbedder(), [image])
    rankings = list(attributor.snapshot.ranker.rank(embedded.vectors, concepts=9))
    best = best_of(rankings)
    for concept, score in zip(answer.concepts, best.scores, strict=True):
        of_squares = [
            ranked.score
            for ranking in rankings
            for ranked in ranking
            if ranked.number == concept.concept.number
        ]
        assert concept.score == score == max(of_squares)
        assert of_squares[concept.square] == score
    assert sum(c.share for c in answer.concepts) + answer.unattributed_share == pytest.approx(1)


def test_excluded_concepts_are_left_out_of_every_square(attributor: Attributor) -> None:
    images = [on_canvas(PICTURES["Concept 1"][0], 0), patches(3, side=64)]
    embedded = embed_squares(FakeEmbedder(), images)
    number = attributor.snapshot.catalog.concept("concept-1").number
    answers = attributor.rank(
        embedded.vectors,
        top_k=9,
        excluded=[frozenset({number}), frozenset()],
        parts=embedded.parts,
    )
    names = [{c.concept.id for c in answer.concepts} for answer in answers]
    assert "concept-1" not in names[0]
    assert "concept-1" in names[1]


def test_a_region_is_asked_about_alone(attributor: Attributor) -> None:
    image = on_canvas(PICTURES["Concept 4"][2], 100)
    [answer] = attributor.attribute([image], region=Region(100, 0, 64, 64))
    [alone] = attributor.attribute([PICTURES["Concept 4"][2]])
    assert answer == alone


# What was compared


def test_what_was_compared_is_what_the_backbone_sees() -> None:
    embedder = Embedder(tiny_model(input_size=32), "tiny", device="cpu")
    seen = compared(embedder, parts_of((300, 100)))
    assert len(seen) == 5
    margin = seen[0].x
    assert margin > 0
    assert [part.x - margin for part in seen] == [0, 50, 100, 150, 200]
    assert {(part.y, part.width, part.height) for part in seen} == {
        (margin, 100 - 2 * margin, 100 - 2 * margin)
    }


# Calibration


@pytest.mark.parametrize("score", [-1.0, 3.0, 7.0, 8.0, 20.0, 1e9])
@pytest.mark.parametrize("tries", [3, 5, 7])
def test_the_best_of_several_is_high_by_chance_more_often(score: float, tries: int) -> None:
    one, best = NULL.p_value(score), NULL.of_best(tries).p_value(score)
    assert best == pytest.approx(1 - (1 - one) ** tries, rel=1e-9)
    assert NULL.of_best(tries).likelihood_ratio(score) <= NULL.likelihood_ratio(score)


def test_the_threshold_of_the_best_of_several_keeps_the_rate() -> None:
    for rate in (0.01, 0.05, 0.3):
        limit = NULL.of_best(5).threshold(rate)
        assert NULL.of_best(5).p_value(limit) <= rate + 1e-9
        assert NULL.of_best(5).p_value(limit - 0.05) > rate
        assert limit > NULL.threshold(rate)


def test_an_answers_p_value_is_that_of_the_fewest_squares_that_cover_the_image(
    attributor: Attributor,
) -> None:
    [answer] = attributor.attribute([on_canvas(PICTURES["Concept 3"][1], 0)])
    calibration = attributor.snapshot.calibration
    for concept in answer.concepts:
        assert concept.p_value == calibration.of_best(3).p_value(concept.score)
        assert concept.likelihood_ratio == calibration.of_best(3).likelihood_ratio(concept.score)


def test_one_square_is_calibrated_as_ever() -> None:
    assert NULL.of_best(1) is NULL
    assert NULL.of_best(5).of_best(1).p_value(8.0) == NULL.p_value(8.0)
    assert NULL.p_value(8.0) == Calibration(null_scores=NULL.null_scores).p_value(8.0)


def test_independent_squares_pass_at_the_nominal_rate() -> None:
    draws = np.random.default_rng(0)
    null = Calibration(null_scores=tuple(np.sort(draws.exponential(size=1500))[::-1]))
    best = draws.exponential(size=(20_000, 5)).max(axis=1)
    passed = np.mean([null.of_best(5).p_value(float(score)) <= 0.05 for score in best])
    assert passed == pytest.approx(0.05, abs=0.01)
