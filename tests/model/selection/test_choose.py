import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import model.selection.questions as module
from model.backbone import create_random_backbone
from model.checkpoint import load_embedder
from model.config import SelectionConfig, TrainConfig
from model.errors import TrainingError
from model.selection.choose import choose_settings, told
from model.selection.naming import named_settings
from model.selection.questions import ask
from model.sources.local import local_files
from model.sources.picture import Picture
from model.train import train_model
from tests.fakes import patches

CPU = torch.device("cpu")
FEW = SelectionConfig(gallery=30, asked=10, fewest=20)
QUICK = TrainConfig(steps=1, batch_size=8, evaluate_every=1, axes="principal")
TINY = {"img_size": 32, "input_size": 32, "depth": 5}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{seed}.png" for seed in range(30)]
    for seed, path in enumerate(paths):
        patches(seed, 40, cells=8).save(path)
    paths[7].write_text("no picture")
    return local_files(paths)


def test_questions_know_their_sources(images: list[Picture], monkeypatch) -> None:
    # Changes that change nothing: their features are those of the picture that they are made of.
    monkeypatch.setattr(module, "impose_style", lambda content, style, size: content)
    monkeypatch.setattr(module, "crop", lambda image, size, random: image)
    monkeypatch.setattr(module, "collage", lambda first, second, size, random: second)
    backbone = create_random_backbone("test_efficientnet", options={"input_size": 32})
    concepts = {one.address: str(number // 2) for number, one in enumerate(images[:8])}
    config = FEW.model_copy(update={"asked": 30})
    questions = ask(backbone, {}, images, concepts, config, device=CPU)
    assert len(questions.concept) == 29  # one cannot be read
    assert sorted(np.bincount(questions.concept[questions.concept >= 0])) == [1, 2, 2, 2]
    assert len(questions.change) == 3 * 29
    assert set(questions.gallery) == {"pooled", *(f"depth{depth}" for depth in range(1, 6))}
    assert (questions.other[questions.change == 1] == -1).all()
    assert (questions.other != questions.content).all()
    source = [(0, questions.content), (1, questions.content), (2, questions.other)]
    for change, rows in source:
        here = (questions.change == change) & (rows >= 0)
        for name, asked in questions.asked.items():
            assert np.allclose(asked[here], questions.gallery[name][rows[here]], atol=1e-4)


@pytest.mark.parametrize(
    ("count", "plain", "why"),
    [(20, False, "20 images are too few"), (30, True, "do not vary")],
)
def test_little_to_learn_from_leaves_the_usual_settings_with_one_line(
    images: list[Picture], tmp_path: Path, count: int, plain: bool, why: str
) -> None:
    backbone = create_random_backbone("test_efficientnet", options={"input_size": 32})
    given = images[:count]
    if plain:
        paths = [tmp_path / f"{number}.png" for number in range(count)]
        for path in paths:
            Image.new("RGB", (40, 40), "grey").save(path)
        given = local_files(paths)
    config = FEW.model_copy(update={"fewest": 25})
    usual = TrainConfig()
    chosen = choose_settings(backbone, {}, given, {}, config, usual, device=CPU)
    assert chosen.config == usual
    assert why in chosen.note
    assert "\n" not in chosen.note
    assert why in str(chosen.record["unchanged"])


def test_training_records_its_choice_and_the_model_has_it(images, tmp_path) -> None:
    backbone = create_random_backbone("vit_tiny_patch16_224", options=TINY)
    notes: list[str] = []
    easy = FEW.model_copy(update={"errors": 0.0, "least": 0.0})  # whatever looks better is taken
    folders = {"models": tmp_path / "models", "features": tmp_path / "features"}

    model_id = train_model(
        images, backbone, config=QUICK, selection=easy, device="cpu", report=notes.append,
        **folders,
    ).model_id  # fmt: skip
    place = folders["models"] / model_id
    record = json.loads((place / "training.json").read_text())
    curve = record["selection"]["curve"]
    assert {point["part"] for point in curve} >= {"pooled", "patches", "late", "early"}
    config = json.loads((place / "config.json").read_text())
    assert config["facets"] == record["train"]["facets"]
    assert len(notes) == 1
    assert notes[0].startswith("settings chosen: ")
    vectors = load_embedder(folders["models"], model_id, device="cpu").embed([patches(1)])
    assert vectors.keys() == {"subject", "style"}


def test_a_model_of_the_usual_settings_has_the_id_of_one_before_there_were_others() -> None:
    from tests.fakes import tiny_model

    assert "depths" not in tiny_model().config.model_dump_json()


# Settings by name


def test_named_settings_replace_the_usual_ones() -> None:
    named = named_settings(
        ["early.power=0.3", "late.components=64", "late.depths=3,4", "patches.weight=0.5"]
    )
    assert named.descriptors["early"].power == 0.3
    assert named.descriptors["late"].components == 64
    assert named.depths["late"] == (3, 4)
    assert named.facets["subject"] == {"pooled": 1.0, "late": 1.0, "patches": 0.5}
    assert named_settings(["usual"]) == TrainConfig()
    assert named_settings(["axes=principal"]).axes == "principal"
    assert "pooled" not in named_settings(["pooled.weight=0"]).facets["subject"]
    note = "early power 0.3; "
    assert told(named_settings(["early.power=0.3", "late.depths=3"]), TrainConfig()).endswith(
        note.rstrip("; ")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("early", "DESCRIPTOR.FIELD=VALUE"),
        ("nose.power=1", "descriptors are pooled, late"),
        ("early.size=1", "fields power"),
        ("early.power=high", "not a number"),
        ("early.power=0.9", "less than or equal to 0.5"),
        ("late.depths=6", "less than or equal to 5"),
        ("pooled.depths=1", "only late and early"),
        ("early.weight=0", "no descriptor of the style facet"),
        ("late.weight=-1", "greater than 0"),
        ("axes=crooked", "axes: Input should be 'fixed' or 'principal'"),
    ],
)
def test_a_setting_of_another_form_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message) as refused:
        named_settings([text])
    assert "\n" not in str(refused.value)


def test_a_token_that_a_backbone_has_not_is_refused(images, tmp_path: Path) -> None:
    backbone = create_random_backbone("test_efficientnet", options={"input_size": 32})
    with pytest.raises(TrainingError, match="has no registers"):
        train_model(
            images, backbone, config=named_settings(["registers.weight=1"]), device="cpu",
            models=tmp_path / "models", features=tmp_path / "features",
        )  # fmt: skip
