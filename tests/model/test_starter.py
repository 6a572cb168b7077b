import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants as hub
from safetensors import safe_open
from safetensors.torch import load_file

import model.starter
from model.config import BackboneConfig
from model.errors import BackboneError, HubError
from model.starter import CONFIG, WEIGHTS, choose_backbone, create_starter
from tests.fakes import patches

ROOT = Path(__file__).parents[2]
TEACHER = ROOT.parent / "shared" / "weights" / "mobilenetv2_100.tf_in1k.safetensors"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody listens where the hub should be, and its local cache is empty."""
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))


@pytest.fixture
def said() -> list[str]:
    return []


def test_the_starter_is_small_float16_and_complete() -> None:
    assert WEIGHTS.stat().st_size <= 12 * 2**20
    with safe_open(WEIGHTS, "pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds == {torch.float16}
    assert create_starter().config == BackboneConfig.model_validate(json.loads(CONFIG.read_text()))
    assert create_starter().config.weights == "starter"


@pytest.mark.parametrize("file", ["WEIGHTS", "CONFIG"])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_starter_is_a_named_error(
    file: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / file
    if damage == "cut":
        path.write_bytes(getattr(model.starter, file).read_bytes()[:100])
    monkeypatch.setattr(model.starter, file, path)
    with pytest.raises(BackboneError, match="missing or damaged"):
        create_starter()


@torch.inference_mode()
def test_the_starter_gives_finite_features_that_differ_between_images() -> None:
    starter = create_starter()
    pixels = torch.stack([starter.preprocess(patches(seed, side=256)) for seed in range(4)])
    features = starter(pixels)
    for values in (features.pooled, *features.stages):
        assert torch.isfinite(values).all()
        assert values.float().std(dim=0).mean() > 1e-3


def test_what_the_user_names_comes_first(no_hub: None, said: list[str]) -> None:
    with pytest.raises(BackboneError, match="no backbone named"):
        choose_backbone("no_such_network", report=said.append)
    with pytest.raises(HubError):  # named, so nothing takes its place
        choose_backbone("vit_base_patch16_224.dino", report=said.append)
    with pytest.raises(BackboneError, match="no such file"):
        choose_backbone(None, weights=Path("nowhere.safetensors"), report=said.append)
    assert not said


def test_out_of_reach_of_the_hub_the_starter_serves_and_one_line_says_so(
    no_hub: None, said: list[str]
) -> None:
    assert choose_backbone(None, report=said.append).config.weights == "starter"
    [line] = said
    assert "vit_base_patch16_224.dino" in line
    assert "starter" in line
    assert "\n" not in line


def test_the_default_comes_before_the_starter_where_it_is_in_reach(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    reached = model.starter.create_starter()
    monkeypatch.setattr(model.starter, "create_backbone", lambda name: (name, reached))
    assert choose_backbone(None, report=said.append) == ("vit_base_patch16_224.dino", reached)
    assert not said


def test_the_starter_can_be_named_and_is_what_it_is(no_hub: None, said: list[str]) -> None:
    assert choose_backbone("starter", report=said.append).config.weights == "starter"
    with pytest.raises(BackboneError, match="leave --weights"):
        choose_backbone("starter", options={"input_size": 64}, report=said.append)
    assert not said


def test_the_weights_are_declared_as_package_data() -> None:
    # What a wheel leaves out, only an installed Whence would miss.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["model"]
    package = Path(model.starter.__file__).parent
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    assert {CONFIG, WEIGHTS} <= packed


@pytest.mark.shared
@pytest.mark.skipif(not TEACHER.is_file(), reason="the teacher's weights are not here")
def test_the_starter_is_not_a_copy_of_its_teacher() -> None:
    teacher, starter = load_file(TEACHER), load_file(WEIGHTS)
    # The teacher's maps are matched channel for channel on both sides of conv_head, so what leads
    # from one to the other is largely determined and comes out alike. Between other layers there
    # are hidden channels, which a network of its own numbers in an order of its own.
    own = teacher.keys() & starter.keys() - {"conv_head.weight"}
    compared = 0
    for name in own:
        a, b = (w[name].float().flatten().numpy() for w in (teacher, starter))
        if teacher[name].ndim == 4:
            compared += 1
            assert abs(float(np.corrcoef(a, b)[0, 1])) < 0.2, name
    assert compared > 20
