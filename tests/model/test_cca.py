import pytest
import torch

from model.cca import canonical_map
from model.errors import TrainingError


def views(count: int, noise: tuple[float, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two views of ``count`` images: mixed components, each with its own noise in either view."""
    generator = torch.Generator().manual_seed(seed)
    width = len(noise)
    shared = torch.randn(count, width, generator=generator).double()
    mixing = torch.randn(width, width, generator=generator).double()
    first, second = (
        (shared + torch.tensor(noise) * torch.randn(count, width, generator=generator)) @ mixing + 2
        for _ in range(2)
    )
    return first, second


def test_cca_finds_how_much_each_component_is_shared() -> None:
    first, second = views(20_000, (0.0, 0.5, 2.0))
    found = canonical_map(first, second)
    # var 1 of the shared part over 1 + noise^2 in all
    assert found.correlations.tolist() == pytest.approx([1, 1 / 1.25, 1 / 5], abs=0.02)


def test_cca_meets_its_constraint_and_diagonalises_what_is_shared() -> None:
    first, second = views(500, (0.1, 0.5, 1.0, 2.0))
    found = canonical_map(first, second)
    u, v = ((x - found.mean) @ found.weight.T for x in (first, second))
    both = torch.cat([u, v])
    assert torch.allclose(both.T @ both / (len(both) - 1), torch.eye(4).double(), atol=1e-9)
    shared = (u.T @ v + v.T @ u) / (len(both) - 1)
    assert torch.allclose(shared, torch.diag(found.correlations), atol=1e-9)


def test_cca_of_equal_views_has_correlation_one_however_few_images_there_are() -> None:
    first, _ = views(6, (0.0, 0.0))
    assert canonical_map(first, first).correlations.tolist() == pytest.approx([1, 1])


def test_cca_of_unrelated_views_has_little_correlation() -> None:
    first, _ = views(5000, (1.0, 1.0), seed=1)
    _, second = views(5000, (1.0, 1.0), seed=2)
    assert canonical_map(first, second).correlations.abs().max() < 0.1


def test_cca_with_fewer_images_than_dimensions_stays_finite() -> None:
    first, second = views(4, (0.5,) * 12)
    found = canonical_map(first, second)
    assert found.weight.shape[1] == 12
    assert torch.isfinite(found.weight).all()
    assert found.correlations.abs().max() <= 1 + 1e-9


def test_cca_looks_only_at_as_many_axes_as_it_is_told() -> None:
    first, second = views(50, (0.5,) * 12)
    found = canonical_map(first, second, components=4)
    assert found.weight.shape == (4, 12)
    assert found.correlations.shape == (4,)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_cca_refuses_features_that_are_not_finite(value: float) -> None:
    first, second = views(10, (0.5, 0.5))
    second[3, 1] = value
    with pytest.raises(TrainingError, match="not finite"):
        canonical_map(first, second)


def test_cca_refuses_constant_features() -> None:
    with pytest.raises(TrainingError, match="same features"):
        canonical_map(torch.ones(5, 3), torch.ones(5, 3))
