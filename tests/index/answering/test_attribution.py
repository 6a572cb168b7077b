import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from index.answering.attribution import Attribution, Attributor, open_attributor
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.errors import SnapshotError
from index.layout import DataFolder
from index.snapshot import Snapshot
from model.checkpoint import load_embedder, save_model
from model.errors import ModelError
from tests.fakes import FakeEmbedder, build_snapshot, patches, tiny_model

PICTURES = {f"Concept {n}": [patches(10 * n + k, side=64) for k in range(3)] for n in range(6)}


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snapshot]:
    opened = build_snapshot(tmp_path_factory.mktemp("data"), PICTURES)
    yield opened
    opened.close()


@pytest.fixture
def attributor(snapshot: Snapshot) -> Attributor:
    return Attributor(FakeEmbedder(), snapshot)


def derived(image: Image.Image) -> Image.Image:
    """What a generator might have made of it."""
    return image.filter(ImageFilter.GaussianBlur(1)).resize((50, 50))


def shares(answer: Attribution) -> float:
    return sum(concept.share for concept in answer.concepts) + answer.unattributed_share


@pytest.mark.parametrize("name", PICTURES)
def test_an_image_made_from_a_concept_is_attributed_to_it(snapshot: Snapshot, name) -> None:
    # Six concepts make a rough null distribution; a rate of 1% would ask too much of it.
    attributor = Attributor(FakeEmbedder(), snapshot, rate=0.05)
    (answer,) = attributor.attribute([derived(PICTURES[name][1])])
    best = answer.concepts[0]
    assert answer.verdict == "attributed"
    assert (best.rank, best.concept.name) == (1, name)
    assert best.p_value < 0.05
    assert best.share > 0.5
    assert best.exemplars[0].exemplar.path.endswith("01.png")
    assert best.exemplars[0].similarity > 0.95


def test_images_of_unknown_origin_are_mostly_no_match(attributor: Attributor) -> None:
    answers = attributor.attribute([patches(seed, side=64) for seed in range(1000, 1040)])
    assert sum(answer.verdict != "no_match" for answer in answers) <= 4


def test_answers_come_in_the_order_of_the_images(attributor: Attributor) -> None:
    images = [pictures[0] for pictures in PICTURES.values()]
    answers = attributor.attribute(images)
    assert [answer.concepts[0].concept.name for answer in answers] == list(PICTURES)
    alone = attributor.attribute(images[2:3])[0]
    assert alone.concepts[0].score == pytest.approx(answers[2].concepts[0].score, abs=1e-5)


def test_an_answer_holds_as_many_concepts_and_exemplars_as_asked(attributor: Attributor) -> None:
    image = PICTURES["Concept 2"][0]
    for top_k, exemplars in ((1, 0), (2, 1), (5, 3), (100, 100)):
        (answer,) = attributor.attribute([image], top_k=top_k, exemplars=exemplars)
        assert len(answer.concepts) == min(top_k, 6)
        assert [concept.rank for concept in answer.concepts] == list(range(1, min(top_k, 6) + 1))
        assert all(len(c.exemplars) == min(exemplars, 3) for c in answer.concepts)


@pytest.mark.parametrize("top_k", [1, 3, 6])
def test_shares_of_an_answer_sum_to_one_however_many_are_shown(attributor, top_k: int) -> None:
    for image in (PICTURES["Concept 2"][0], patches(999, side=64)):
        (answer,) = attributor.attribute([image], top_k=top_k)
        assert shares(answer) == pytest.approx(1, abs=1e-9)


def test_concepts_come_by_falling_score_and_rising_p_value(attributor: Attributor) -> None:
    (answer,) = attributor.attribute([PICTURES["Concept 2"][0]], top_k=6)
    for better, worse in zip(answer.concepts, answer.concepts[1:], strict=False):
        assert better.score >= worse.score
        assert better.share >= worse.share
        assert better.p_value <= worse.p_value


def test_evidence_names_similarities_and_the_facet_they_are_of(attributor: Attributor) -> None:
    image = PICTURES["Concept 2"][0]
    (answer,) = attributor.attribute([image])
    query = FakeEmbedder().embed([image])
    for concept in answer.concepts:
        assert set(concept.facets) == {"subject", "style"}
        for shown in concept.exemplars:
            assert shown.exemplar.concept_id == concept.concept.id
            with Image.open(shown.exemplar.path) as exemplar:
                own = FakeEmbedder().embed([exemplar.convert("RGB")])
            exact = {facet: float(own[facet][0] @ query[facet][0]) for facet in own}
            assert shown.similarity == pytest.approx(exact[shown.facet], abs=1e-5)


def test_concepts_can_be_left_out(attributor: Attributor) -> None:
    queries = FakeEmbedder().embed([PICTURES["Concept 2"][0]] * 2)
    number = attributor.snapshot.catalog.concept("concept-2").number
    gone, whole = attributor.rank(queries, top_k=6, excluded=[frozenset({number}), frozenset()])
    assert next(c.concept.id for c in whole.concepts) == "concept-2"
    assert "concept-2" not in [c.concept.id for c in gone.concepts]
    assert len(gone.concepts) == 5
    assert shares(gone) == pytest.approx(1)


def test_every_concept_is_ranked_when_asked_however_many_exemplars_one_has(tmp_path: Path) -> None:
    image = patches(3)
    crowd = [image.point(lambda value, k=k: value * (700 + k) // 1000) for k in range(230)]
    snapshot = build_snapshot(
        tmp_path, {"crowd": crowd, "few": [Image.new("RGB", (32, 32), "#111")]}
    )
    attributor = Attributor(FakeEmbedder(), snapshot)
    for top_k in (1, 2):
        (answer,) = attributor.attribute([image], top_k=top_k)
        assert [one.concept.id for one in answer.concepts] == ["crowd", "few"][:top_k]
        assert shares(answer) == pytest.approx(1)
    snapshot.close()


def test_a_stricter_rate_makes_fewer_matches(snapshot: Snapshot) -> None:
    images = [patches(seed, side=64) for seed in range(1000, 1040)]

    def matches(rate: float) -> int:
        answers = Attributor(FakeEmbedder(), snapshot, rate=rate).attribute(images)
        return sum(answer.verdict != "no_match" for answer in answers)

    found = [matches(rate) for rate in (0.001, 0.1, 0.9)]
    assert found == sorted(found)
    assert found[0] == 0  # 200 null queries cannot tell 0.1%
    assert found[2] > found[0]


def test_another_models_embeddings_are_refused(snapshot: Snapshot) -> None:
    embedder = FakeEmbedder()
    embedder.model_id = "another"
    with pytest.raises(SnapshotError, match="'fake-colours', not 'another'"):
        Attributor(embedder, snapshot)


# With a real model


@pytest.fixture(scope="module", params=["test_efficientnet", "test_vit"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    """A data folder with a trained model's index."""
    data = DataFolder(tmp_path_factory.mktemp("house"))
    for name, pictures in PICTURES.items():
        folder = data.root / "gallery" / name
        folder.mkdir(parents=True)
        for number, picture in enumerate(pictures):
            picture.save(folder / f"{number}.png")
    model_id = save_model(data.models, tiny_model(request.param), {})
    embedder = load_embedder(data.models, model_id, device="cpu")
    rebuild(data, read_sources([data.root / "gallery"]), embedder)
    return data


def test_the_published_index_is_opened_with_its_own_model(house: DataFolder) -> None:
    attributor = open_attributor(house, device="cpu")
    assert attributor.embedder.model_id == attributor.snapshot.model_id
    answers = attributor.attribute([pictures[1] for pictures in PICTURES.values()])
    assert [answer.concepts[0].concept.name for answer in answers] == list(PICTURES)
    for answer in answers:
        assert shares(answer) == pytest.approx(1, abs=1e-9)
        assert answer.concepts[0].exemplars[0].similarity == pytest.approx(1, abs=1e-3)


def test_rebuilding_again_gives_the_same_answers(house: DataFolder) -> None:
    image = PICTURES["Concept 3"][0]
    first = open_attributor(house, device="cpu")
    rebuild(
        house, read_sources([house.root / "gallery"]), first.embedder, RebuildOptions(force=True)
    )
    second = open_attributor(house, device="cpu")
    assert first.snapshot.version != second.snapshot.version
    before, after = (a.attribute([image])[0].concepts for a in (first, second))
    assert [c.concept.id for c in before] == [c.concept.id for c in after]
    assert np.allclose([c.score for c in before], [c.score for c in after])


def test_an_index_whose_model_has_gone_is_refused_with_what_to_do(
    house: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataFolder(Path(shutil.copytree(house.root, tmp_path / "copy")))
    shutil.rmtree(data.models)
    closed: list[Snapshot] = []
    close = Snapshot.close
    monkeypatch.setattr(Snapshot, "close", lambda self: closed.append(self) or close(self))
    with pytest.raises(ModelError, match=r"test_.*whence train"):
        open_attributor(data)
    assert len(closed) == 1  # a server tries again each second


def test_no_index_is_told_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="whence rebuild"):
        open_attributor(DataFolder(tmp_path))
