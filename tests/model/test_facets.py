import pytest
import torch

from model.backbone import Backbone, create_random_backbone
from model.facets import FACETS, FacetReader

PIXELS = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["test_efficientnet", "test_resnet", "test_vit"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return create_random_backbone(request.param, options={"input_size": 64})


@torch.inference_mode()
def read(backbone: Backbone, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return FacetReader()(backbone(pixels))


def test_every_reading_is_one_finite_float32_vector_per_image(backbone: Backbone) -> None:
    for values in read(backbone, PIXELS).values():
        assert values.dtype == torch.float32
        assert values.ndim == 2
        assert len(values) == 3
        assert torch.isfinite(values).all()
        assert values.std(dim=0).max() > 0  # it tells images apart


def test_the_facets_use_every_reading_and_no_other(backbone: Backbone) -> None:
    used = {name for weights in FACETS.values() for name in weights}
    assert used == set(read(backbone, PIXELS))


def test_a_reading_does_not_depend_on_the_other_images(backbone: Backbone) -> None:
    together, alone = read(backbone, PIXELS), read(backbone, PIXELS[1:2])
    for name, values in together.items():
        assert torch.allclose(values[1:2], alone[name], atol=1e-4)


def test_a_plain_image_is_read_without_a_nan(backbone: Backbone) -> None:
    plain = torch.zeros(1, 3, 64, 64)
    assert all(torch.isfinite(values).all() for values in read(backbone, plain).values())


def test_two_readers_read_alike(backbone: Backbone) -> None:
    first, second = read(backbone, PIXELS), read(backbone, PIXELS)
    assert all(torch.equal(first[name], second[name]) for name in first)
