import json
from pathlib import Path

import pytest

from index.building.source import read_sources
from model.sources.listing import list_pictures
from tests.app.cli.test_main import run
from tests.fakes import patches


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for seed in range(4):
        folder = tmp_path / "images" / f"concept {seed // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        patches(seed, 40).save(folder / f"{seed}.png")
    return tmp_path / "images"


def test_concepts_are_found_by_the_addresses_of_the_images(images: Path) -> None:
    exemplars = read_sources([str(images)])
    assert {one.picture.address for one in exemplars} == {
        one.address for one in list_pictures([str(images)])
    }


def test_few_images_train_with_the_usual_settings_and_say_so(images, tmp_path, capsys) -> None:
    words = ("--images", images, "--backbone", "starter", "--data", tmp_path / "data")
    more = ("--select", "--concepts", images, "--workers", "1", "--json", tmp_path / "r.json")
    assert run("train", *words, *more) == 0
    told = capsys.readouterr().err
    assert "4 images are too few to choose settings by" in told
    model_id = json.loads((tmp_path / "r.json").read_text())["model_id"]
    place = tmp_path / "data" / "models" / model_id
    record = json.loads((place / "training.json").read_text())
    assert "too few" in record["selection"]["unchanged"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--setting", "nose.power=1"), "descriptors are pooled"),
        (("--setting", "early.power=2"), "less than or equal to 0.5"),
        (("--concepts", "IMAGES"), "add --select"),
    ],
)
def test_settings_of_another_form_are_refused(words, message: str, images: Path, capsys) -> None:
    given = [images if word == "IMAGES" else word for word in words]
    assert run("train", "--images", images, *given) != 0
    assert message in " ".join(capsys.readouterr().err.split())
