from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from model.config import Descriptor, ModelConfig
from model.descriptors import FACETS
from model.embedder import AttributionModel, Embedder, choose_device
from model.errors import ModelError
from tests.fakes import patches, tiny_model

IMAGES = [patches(seed, side=40) for seed in range(5)]


@pytest.fixture(scope="module", params=["test_efficientnet", "test_vit"])
def embedder(request: pytest.FixtureRequest) -> Embedder:
    return Embedder(tiny_model(request.param), "tiny", device="cpu")


def test_every_facet_is_a_float32_matrix_of_unit_rows(embedder: Embedder) -> None:
    facets = embedder.embed(IMAGES)
    assert set(facets) == set(FACETS)
    for matrix in facets.values():
        assert matrix.dtype == np.float32
        assert matrix.ndim == 2
        assert len(matrix) == len(IMAGES)
        assert np.allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)


def test_rows_are_in_the_order_of_the_images_and_tell_them_apart(embedder: Embedder) -> None:
    together, reverse = embedder.embed(IMAGES), embedder.embed(IMAGES[::-1])
    for facet, matrix in together.items():
        assert np.allclose(matrix, reverse[facet][::-1], atol=1e-4)
        similarity = matrix @ matrix.T - np.eye(len(IMAGES))
        assert similarity.max() < 0.9999


def test_the_batch_size_does_not_change_an_embedding(embedder: Embedder) -> None:
    together = embedder.embed(IMAGES)
    embedder.batch_size = 2
    in_pairs = embedder.embed(IMAGES)
    embedder.batch_size = 32
    for facet, matrix in together.items():
        assert np.allclose(matrix, in_pairs[facet], atol=1e-4)


def test_preprocessing_elsewhere_gives_the_same_embedding(embedder: Embedder) -> None:
    pixels = [embedder.preprocess(image) for image in IMAGES]
    assert pixels[0].shape == (3, embedder.input_size, embedder.input_size)
    apart, together = embedder.embed_pixels(pixels), embedder.embed(IMAGES)
    assert all(np.array_equal(apart[facet], together[facet]) for facet in together)


@pytest.mark.parametrize("size", [(16, 16), (300, 20), (20, 300)])
def test_images_of_any_shape_are_embedded(embedder: Embedder, size: tuple[int, int]) -> None:
    image = Image.effect_noise(size, 80).convert("RGB")
    assert all(np.isfinite(matrix).all() for matrix in embedder.embed([image]).values())


def test_a_facets_cosine_is_the_weighted_mean_of_its_readings() -> None:
    first, second = get_args(Descriptor)[:2]
    model = tiny_model()

    def cosine(weights: dict[str, float]) -> float:
        description = {**model.config.model_dump(), "facets": {"subject": weights}}
        heads = {name: model.heads[name] for name in model.config.dimensions}
        other = AttributionModel(model.backbone, heads, ModelConfig.model_validate(description))
        a, b = Embedder(other, "x", device="cpu").embed(IMAGES[:2])["subject"]
        assert np.linalg.norm(a) == pytest.approx(1, abs=1e-5)
        return float(a @ b)

    mixed = cosine({first: 3.0, second: 1.0})
    assert mixed == pytest.approx(
        0.75 * cosine({first: 1.0}) + 0.25 * cosine({second: 5.0}), abs=1e-5
    )


def test_embedding_keeps_no_gradients_and_leaves_the_model_in_evaluation_mode() -> None:
    model = tiny_model().train()
    embedder = Embedder(model, "x", device="cpu")
    embedder.embed(IMAGES[:1])
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_device_is_chosen_by_name_or_by_what_there_is(monkeypatch) -> None:
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=available: found)
        monkeypatch.setattr(torch, "zeros", lambda *_, device: torch.ones(1))
        assert choose_device().type == expected
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["foo", "", "cuda:x", "cuda:4096", "meta", "cpu:-1", "xpu"])
def test_a_device_that_is_not_there_is_refused_with_those_to_choose_from(name: str) -> None:
    with pytest.raises(ModelError) as refused:
        choose_device(name)
    message = str(refused.value)
    assert message.startswith(f"device {name!r} cannot be used here: ")
    assert message.endswith("; use auto, cpu, cuda or cuda:N")
    assert "\n" not in message


def test_cuda_without_a_driver_is_refused_and_auto_does_without(monkeypatch) -> None:
    def no_driver(*_: object, **options: object) -> torch.Tensor:
        if str(options["device"]).startswith("cuda"):
            raise RuntimeError("Found no NVIDIA driver on your system.\nCheck that you have one")
        return torch.ones(1)

    monkeypatch.setattr(torch, "zeros", no_driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ModelError, match=r"'cuda' cannot .*: Found no NVIDIA driver on your system"
    ):
        choose_device("cuda")
    assert choose_device() == choose_device("cpu") == torch.device("cpu")
