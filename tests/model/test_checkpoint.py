import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoint import load_embedder, save_model
from model.embedder import AttributionModel, Embedder
from model.errors import ModelError
from model.saved import latest_model, list_models
from tests.fakes import patches, tiny_model

IMAGES = [patches(seed) for seed in range(3)]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def model() -> AttributionModel:
    return tiny_model()


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
def test_a_model_comes_back_from_disk_with_equal_embeddings(models: Path, name: str) -> None:
    model = tiny_model(name)
    model_id = save_model(models, model, {})
    loaded = load_embedder(models, model_id, device="cpu")
    assert loaded.model_id == model_id
    assert loaded.input_size == 32
    expected = Embedder(model, "x", device="cpu").embed(IMAGES)
    found = loaded.embed(IMAGES)
    assert set(found) == set(expected)
    for facet, matrix in found.items():
        assert matrix.dtype == np.float32
        assert np.allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)
        assert np.array_equal(matrix, expected[facet])


def test_the_id_names_the_backbone_and_is_the_same_for_an_equal_model(models: Path, model) -> None:
    model_id = save_model(models, model, {})
    assert model_id.startswith("test_efficientnet-")
    assert save_model(models / "elsewhere", tiny_model(), {}) == model_id


def _head(model: AttributionModel) -> None:
    next(iter(model.heads.values())).weight[0, 0] += 1e-6


def _mean(model: AttributionModel) -> None:
    next(iter(model.heads.values())).mean[0] += 1e-6


def _network(model: AttributionModel) -> None:
    model.backbone.network.conv_stem.weight[0] += 1e-6


def _preprocessing(model: AttributionModel) -> None:
    backbone = model.config.backbone.model_copy(update={"mean": (0.5, 0.5, 0.5)})
    model.config = model.config.model_copy(update={"backbone": backbone})


@pytest.mark.parametrize("change", [_head, _mean, _network, _preprocessing])
def test_the_id_changes_with_everything_that_changes_an_embedding(models, model, change) -> None:
    before = save_model(models, model, {})
    with torch.no_grad():
        change(model)
    assert save_model(models, model, {}) != before
    assert len(list_models(models)) == 2


def test_a_saved_model_is_safetensors_and_json_only(models: Path, model) -> None:
    model_id = save_model(models, model, {"images": 7})
    files = sorted(path.name for path in (models / model_id).iterdir())
    assert files == ["config.json", "model.safetensors", "training.json"]
    assert [path.name for path in models.iterdir()] == [model_id]  # no leftovers
    record = json.loads((models / model_id / "training.json").read_text())
    assert (record["model_id"], record["images"]) == (model_id, 7)
    assert (models / model_id / "model.safetensors").read_bytes()[8:9] == b"{"


def test_a_model_that_cannot_be_saved_whole_leaves_nothing(models: Path, model) -> None:
    with pytest.raises(TypeError):
        save_model(models, model, {"not json": object()})
    assert list(models.iterdir()) == []


def test_models_are_listed_by_when_they_were_trained(models: Path) -> None:
    ids = []
    for seed in (3, 1, 2):
        ids.append(save_model(models, tiny_model(seed=seed), {}))
        training = models / ids[-1] / "training.json"
        os.utime(training, (time.time() + seed, 1_000_000 + len(ids)))
    assert list_models(models) == ids
    assert latest_model(models) == ids[-1]


def test_what_a_killed_save_left_is_no_model_and_goes_after_a_day(models: Path, model) -> None:
    model_id = save_model(models, model, {})
    old, fresh = models / ".building-old", models / ".building-fresh"
    for left, hours in ((old, 25), (fresh, 23)):
        shutil.copytree(models / model_id, left)
        os.utime(left, (time.time() - 3600 * hours,) * 2)
    assert list_models(models) == [model_id]
    assert latest_model(models) == model_id
    save_model(models, model, {})
    assert (old.exists(), fresh.exists()) == (False, True)


@pytest.mark.parametrize("again", [False, True])
def test_a_model_is_on_disk_before_it_has_its_name(models, model, monkeypatch, again: bool) -> None:
    if again:
        save_model(models, model, {})
    synced: list[str] = []
    fsync, folders = os.fsync, f"/proc/{os.getpid()}/fd"

    def noting(handle: int) -> None:
        synced.append(Path(f"{folders}/{handle}").readlink().name)
        fsync(handle)

    rename, replace = Path.rename, Path.replace

    def renaming(move: Callable[..., Path]) -> Callable[..., Path]:
        def moved(path: Path, target: Path) -> Path:
            synced.append("moved")
            return move(path, target)

        return moved

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(Path, "rename", renaming(rename))
    monkeypatch.setattr(Path, "replace", renaming(replace))
    model_id = save_model(models, model, {})
    first = synced.index("moved")
    assert {"config.json", "model.safetensors", "training.json"} < set(synced[:first])
    assert synced[first - 1].startswith(".building-")
    assert synced[-1] == "models"
    assert (synced[-2] == model_id) is again


def test_a_model_trained_again_becomes_the_latest(models: Path) -> None:
    first = save_model(models, tiny_model(seed=1), {})
    second = save_model(models, tiny_model(seed=2), {})
    for model_id, stamp in ((first, 1000), (second, 2000)):
        os.utime(models / model_id / "training.json", (stamp, stamp))
    assert latest_model(models) == second
    save_model(models, tiny_model(seed=1), {})
    assert latest_model(models) == first


def test_no_model_yet_is_told_with_the_command_that_makes_one(models: Path) -> None:
    with pytest.raises(ModelError, match="whence train"):
        latest_model(models)
    with pytest.raises(ModelError, match=r"'lost'.*whence train"):
        load_embedder(models, "lost")


def test_a_missing_model_is_told_with_the_models_there_are(models: Path, model) -> None:
    model_id = save_model(models, model, {})
    with pytest.raises(ModelError, match=f"'lost'.*{model_id}"):
        load_embedder(models, "lost")


def _flip_weights(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def _truncate_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def _remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _edit(old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / "config.json").read_text()
        assert old in text
        (folder / "config.json").write_text(text.replace(old, new, 1))

    return edit


DAMAGES = {
    "flipped bit": _flip_weights,
    "truncated weights": _truncate_weights,
    "weights gone": _remove_weights,
    "another crop": _edit('"crop_pct": 0.', '"crop_pct": 0.1'),
    "another network": _edit("test_efficientnet", "test_resnet"),
    "unknown network": _edit("test_efficientnet", "no_such_net"),
    "unknown setting": _edit('"backbone"', '"unheard_of": 1, "backbone"'),
    "a later format": _edit('"format": 1', '"format": 2'),
    "broken json": _edit("{", ""),
    "another descriptor": _edit('"pooled"', '"early"'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_changed_model_is_refused_with_what_to_do(models: Path, model, damage: str) -> None:
    model_id = save_model(models, model, {})
    DAMAGES[damage](models / model_id)
    with pytest.raises(ModelError) as refused:
        load_embedder(models, model_id, device="cpu")
    message = str(refused.value)
    assert model_id in message
    assert "train it again" in message


@pytest.mark.parametrize("damage", ["flipped bit", "truncated weights", "broken json"])
def test_training_an_equal_model_again_mends_a_damaged_one(models, model, damage: str) -> None:
    model_id = save_model(models, model, {})
    DAMAGES[damage](models / model_id)
    assert save_model(models, model, {}) == model_id
    load_embedder(models, model_id, device="cpu")


def test_a_config_cannot_make_loading_run_code(models: Path, model, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "exploded",)

    torch.save(Bomb(), tmp_path / "bomb.pth")
    model_id = save_model(models, model, {})
    path = models / model_id / "config.json"
    config = json.loads(path.read_text())
    config["backbone"]["options"]["checkpoint_path"] = str(tmp_path / "bomb.pth")
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="checkpoint_path"):
        load_embedder(models, model_id, device="cpu")
    assert not (tmp_path / "exploded").exists()
