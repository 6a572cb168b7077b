import json
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from model.backbone import create_random_backbone
from model.checkpoint import load_embedder
from model.config import Descriptor, DescriptorConfig, TrainConfig
from model.errors import TrainingError
from model.features import FeatureBank
from model.head import AttributionHead
from model.sources.local import local_files
from model.train import TrainedModel, TrainingStep, train_head, train_heads, train_model
from tests.fakes import patches

DESCRIPTOR: Descriptor = "pooled"
RECIPE = DescriptorConfig(components=16, alignment=1.0)
QUICK = TrainConfig(
    steps=40,
    batch_size=32,
    learning_rate=3e-3,
    evaluate_every=10,
    descriptors={"pooled": RECIPE, "late": RECIPE, "early": RECIPE},
)


def bank(images: int = 60, width: int = 12, seed: int = 0, noise: float = 0.5) -> np.ndarray:
    """(N, 1 + V, D) features: independent sources, mixed, with noise of its own in each view."""
    random = np.random.default_rng(seed)
    sources = random.laplace(size=(images, 1, width)) + noise * random.standard_normal(
        (images, 3, width)
    )
    mixing = random.standard_normal((width, width)) * np.linspace(0.3, 3, width)
    return (sources @ mixing + 2).astype(np.float32)


def train(features: np.ndarray, config: TrainConfig = QUICK) -> tuple[AttributionHead, list]:
    return train_head(DESCRIPTOR, features, config)


def test_training_lowers_the_loss_on_images_it_does_not_learn_from() -> None:
    _, history = train(bank(images=300, noise=1.0))
    losses = [step.loss for step in history]
    assert history[0].step == 0
    assert losses[-1] < losses[0] - 0.1
    assert losses[1] < losses[0]


def test_images_held_out_are_not_learnt_from() -> None:
    few_steps = {"steps": 10, "evaluate_every": 10, "batch_size": 99, "held_out": 0.25}
    config = QUICK.model_copy(update=few_steps)
    features = bank(images=80, noise=1.0)
    reference, history = train(features, config)
    assert history[-1].loss < history[0].loss  # the trained head is the one kept
    learnt = 0
    for image in range(80):
        changed = features.copy()
        changed[image, 1] += 0.01  # an augmented view: where training starts is the same
        learnt += not torch.equal(train(changed, config)[0].weight, reference.weight)
    assert learnt == 60


def test_training_is_the_same_for_the_same_seed() -> None:
    (one, first), (two, second) = train(bank()), train(bank())
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.mean, two.mean)
    assert first == second
    other, _ = train(bank(), QUICK.model_copy(update={"seed": 1}))
    assert not torch.equal(one.weight, other.weight)


def test_training_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    train(bank())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_head_kept_is_the_one_that_did_best(monkeypatch) -> None:
    wild = QUICK.model_copy(update={"learning_rate": 5.0})  # gets worse at once
    head, history = train(bank(), wild)
    untrained, _ = train(bank(), QUICK.model_copy(update={"steps": 0}))
    assert history[-1].loss > history[0].loss
    assert torch.equal(head.weight, untrained.weight)


def test_the_last_step_counts_wherever_it_falls() -> None:
    few = QUICK.model_copy(update={"steps": 7, "evaluate_every": 20})
    head, history = train(bank(), few)
    assert [step.step for step in history] == [0, 7]
    untrained, _ = train(bank(), QUICK.model_copy(update={"steps": 0}))
    assert not torch.equal(head.weight, untrained.weight)


def test_training_stops_when_nothing_gets_better_any_more() -> None:
    patient = {"learning_rate": 5.0, "steps": 10_000, "patience": 2}
    _, history = train(bank(), QUICK.model_copy(update=patient))
    assert len(history) < 20


def test_every_evaluation_is_reported_with_its_health() -> None:
    seen: list[TrainingStep] = []
    _, history = train_head(DESCRIPTOR, bank(), QUICK, seen.append)
    assert seen == history
    assert {step.descriptor for step in seen} == {DESCRIPTOR}
    assert all(np.isfinite([s.loss, s.alignment, s.disentanglement]).all() for s in seen)
    assert all(1 <= step.health.effective_rank <= 16 for step in seen)


def test_a_trained_head_gives_unit_vectors_that_bring_views_together() -> None:
    features = bank(noise=0.3)
    head, _ = train(features)
    z = head(torch.from_numpy(features[:, :2])).detach()
    similarity = z[:, 0] @ z[:, 1].T
    assert torch.allclose(z.norm(dim=-1), torch.ones(60, 2), atol=1e-5)
    found = (similarity.argmax(dim=1) == torch.arange(60)).float().mean()
    assert found > 0.9


@pytest.mark.parametrize("images", [2, 3, 4, 9])
def test_fewer_images_than_dimensions_still_give_a_head(images: int) -> None:
    head, history = train(bank(images, width=30))
    assert torch.isfinite(head.weight).all()
    assert head.weight.shape[1] == len(head.mean) == 30
    assert np.isfinite([step.loss for step in history]).all()


def _one_image(features: np.ndarray) -> np.ndarray:
    return features[:1]


def _constant(features: np.ndarray) -> np.ndarray:
    return np.full_like(features, 0.7)


def _not_a_number(features: np.ndarray) -> np.ndarray:
    features[7, 0, 3] = np.nan
    return features


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(_one_image, "too few"), (_constant, "same features"), (_not_a_number, "not finite")],
)
def test_features_nothing_can_be_learnt_from_are_refused_by_reading(spoil, message: str) -> None:
    spoilt = FeatureBank({DESCRIPTOR: spoil(bank())}, [])
    with pytest.raises(TrainingError, match=f"{DESCRIPTOR} features: .*{message}"):
        train_heads(spoilt, QUICK)


@pytest.mark.parametrize("learning_rate", [3e-3, 5.0])  # the second stops early
def test_progress_runs_over_the_steps_of_all_readings(learning_rate: float) -> None:
    config = QUICK.model_copy(update={"learning_rate": learning_rate})
    seen: list[tuple[int, int]] = []
    features = FeatureBank({"pooled": bank(), "late": bank(seed=1)}, [])
    _, history = train_heads(features, config, progress=lambda *now: seen.append(now))
    done = [step for step, _ in seen]
    assert {total for _, total in seen} == {2 * QUICK.steps}
    assert done == sorted(done)
    assert done[0] == 0
    assert {QUICK.steps, 2 * QUICK.steps} <= set(done)
    stopped_early = max(step.step for step in history) < QUICK.steps
    assert stopped_early is (learning_rate > 1), "the cases are no longer what they were"
    assert (len(set(done)) == 2 * QUICK.steps + 1) is not stopped_early


# Memory


class Rows(np.ndarray):
    """Features that note how many values are taken from them at once."""

    taken: ClassVar[list[int]] = []

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key).view(np.ndarray)
        self.taken.append(found.size)
        return found


def test_memory_does_not_grow_with_the_number_of_images(monkeypatch) -> None:
    few = {"fit_images": 64, "held_out_images": 50, "batch_size": 40}
    config = QUICK.model_copy(update=few)
    monkeypatch.setattr(Rows, "taken", [])
    features = bank(images=3000)
    head, _ = train_head(DESCRIPTOR, features.view(Rows), config)
    assert set(Rows.taken) == {64 * 12, 50 * 2 * 12, 40 * 2 * 12}
    assert torch.isfinite(head.weight).all()
    other, _ = train_head(DESCRIPTOR, features, config)
    assert torch.equal(head.weight, other.weight)
    whole, _ = train_head(DESCRIPTOR, features, QUICK)
    assert not torch.allclose(whole.mean, head.mean, atol=1e-6)


def test_a_bound_that_is_not_reached_changes_nothing() -> None:
    exact = QUICK.model_copy(update={"fit_images": 60, "held_out_images": 6})
    (one, first), (two, second) = train(bank()), train(bank(), exact)
    assert torch.equal(one.weight, two.weight)
    assert first == second


# From images to a model


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(12):
        patches(seed).save(folder / f"{seed:02}.png")
    return sorted(folder.iterdir())


def train_on(
    images: list[Path], folder: Path, name: str = "test_efficientnet", **options: object
) -> TrainedModel:
    backbone = create_random_backbone(name, options={"input_size": 32})
    return train_model(
        local_files(images),
        backbone,
        models=folder / "models",
        features=folder / "features",
        config=QUICK,
        device="cpu",
        **options,
    )


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
def test_images_become_a_saved_model_that_embeds(tmp_path: Path, images, name: str) -> None:
    trained = train_on(images, tmp_path, name)
    embedder = load_embedder(tmp_path / "models", trained.model_id, device="cpu")
    facets = embedder.embed([patches(seed) for seed in (3, 4, 100)])
    for matrix in facets.values():
        assert np.allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)
        assert matrix[0] @ matrix[1] < 0.99
    assert (trained.images, trained.unreadable) == (12, [])


def test_training_says_in_the_model_what_it_learnt_from(tmp_path: Path, images) -> None:
    images[5].write_text("not an image")
    trained = train_on(images, tmp_path)
    assert (trained.images, trained.unreadable) == (11, local_files([images[5]]))
    record = json.loads((tmp_path / "models" / trained.model_id / "training.json").read_text())
    assert (record["images"], record["unreadable"]) == (11, [str(images[5])])
    assert record["train"]["steps"] == QUICK.steps
    assert len(record["history"]) == len(trained.history)


def test_an_unreadable_image_whose_name_is_not_utf_8_does_not_stop_training(
    tmp_path: Path, images
) -> None:
    odd = Path(os.fsdecode(os.fsencode(images[0].parent) + b"/caf\xe9.png"))
    odd.write_text("not an image")
    trained = train_on([*images, odd], tmp_path)
    assert trained.unreadable == local_files([odd])
    text = (tmp_path / "models" / trained.model_id / "training.json").read_text(encoding="utf-8")
    assert json.loads(text)["unreadable"] == [str(odd)]


def test_equal_images_and_seed_give_an_equal_model(tmp_path: Path, images) -> None:
    first = train_on(images, tmp_path / "one")
    second = train_on(images, tmp_path / "two")
    assert first.model_id == second.model_id
    assert train_on(images[:-1], tmp_path / "one").model_id != first.model_id


def test_interrupted_training_goes_on_to_the_same_model(tmp_path: Path, images) -> None:
    images += [images[0].with_name(f"more-{seed}.png") for seed in range(10)]
    for seed, path in enumerate(images[12:]):
        patches(50 + seed).save(path)

    def interrupt(stage: str, done: int, total: int) -> None:
        if done < total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_on(images, tmp_path / "one", progress=interrupt)
    assert not (tmp_path / "one" / "models").exists()
    seen: list[tuple[str, int, int]] = []
    resumed = train_on(images, tmp_path / "one", progress=lambda *now: seen.append(now))
    assert seen[0] == ("features", len(images), len(images))  # the rest only
    assert {stage for stage, _, _ in seen[1:]} == {"training"}
    assert seen[-1] == ("training", 3 * QUICK.steps, 3 * QUICK.steps)
    assert resumed.model_id == train_on(images, tmp_path / "two").model_id


def test_copies_of_one_image_are_refused_and_nothing_is_saved(tmp_path: Path, images) -> None:
    for image in images[1:]:
        image.write_bytes(images[0].read_bytes())
    with pytest.raises(TrainingError, match="same features"):
        train_on(images, tmp_path)
    assert not (tmp_path / "models").exists()
