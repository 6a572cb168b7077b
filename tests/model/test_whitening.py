import pytest
import torch

from model.errors import TrainingError
from model.whitening import principal_map


def features(count: int, dimension: int = 5) -> torch.Tensor:
    """Correlated ones of uneven scale and a mean that is not zero."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(dimension, dimension, generator=generator) * torch.logspace(
        0, 1, dimension
    )
    return torch.randn(count, dimension, generator=generator) @ mixing + 3


def mapped(x: torch.Tensor, power: float, components: int = 99, **more: bool) -> torch.Tensor:
    found = principal_map(x, power=power, components=components, **more)
    return (x.double() - found.mean) @ found.weight.T


def cosines(x: torch.Tensor) -> torch.Tensor:
    z = torch.nn.functional.normalize(x, dim=1)
    return z @ z.T


def covariance(x: torch.Tensor) -> torch.Tensor:
    return torch.cov(x.T)


# More images than dimensions, and fewer: two ways of computing the same.
shapes = pytest.mark.parametrize(("count", "dimension"), [(60, 5), (6, 20)])


@shapes
def test_power_zero_leaves_every_cosine_as_it_is(count: int, dimension: int) -> None:
    x = features(count, dimension)
    centred = x.double() - x.double().mean(dim=0)
    assert torch.allclose(cosines(mapped(x, 0.0)), cosines(centred), atol=1e-9)


@shapes
def test_power_one_half_gives_the_identity_covariance(count: int, dimension: int) -> None:
    y = mapped(features(count, dimension), 0.5)
    assert y.shape == (count, min(dimension, count - 1))
    assert torch.allclose(covariance(y), torch.eye(y.shape[1]).double(), atol=1e-8)


@shapes
@pytest.mark.parametrize("power", [0.0, 0.2, 0.4, 0.5])
def test_components_are_uncorrelated_with_a_mean_variance_of_one(count, dimension, power) -> None:
    found = covariance(mapped(features(count, dimension), power))
    variances = found.diagonal()
    assert float(variances.mean()) == pytest.approx(1, abs=1e-8)
    assert torch.allclose(found, torch.diag(variances), atol=1e-8)


@shapes
def test_variances_are_those_of_the_principal_axes(count: int, dimension: int) -> None:
    x = features(count, dimension)
    found = principal_map(x, power=0.2, components=99).variances
    expected = torch.linalg.eigvalsh(covariance(x.double())).flip(0)[: len(found)]
    assert torch.allclose(found, expected, rtol=1e-6)


def test_more_power_makes_variances_more_even() -> None:
    x = features(200)
    spreads = []
    for power in (0.0, 0.1, 0.25, 0.4, 0.5):
        variances = covariance(mapped(x, power)).diagonal()
        spreads.append(float(variances.max() / variances.min()))
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] == pytest.approx(1, abs=1e-6)


@shapes
def test_the_components_kept_are_those_of_the_largest_variance(count, dimension) -> None:
    x = features(count, dimension)
    few, all_ = mapped(x, 0.0, components=3), mapped(x, 0.0)
    scale = few[:, 0].norm() / all_[:, 0].norm()
    assert few.shape == (count, 3)
    assert torch.allclose(few.abs(), scale * all_[:, :3].abs(), atol=1e-8)


def test_standardised_features_count_alike_whatever_their_scale() -> None:
    x = features(100)
    scaled = x * torch.tensor([1.0, 10.0, 100.0, 0.1, 5.0]) + 7
    reference = cosines(mapped(x, 0.2, standardise=True))
    assert torch.allclose(cosines(mapped(scaled, 0.2, standardise=True)), reference, atol=1e-4)
    assert not torch.allclose(cosines(mapped(scaled, 0.2)), cosines(mapped(x, 0.2)), atol=1e-2)


def test_a_feature_that_never_varies_is_left_out() -> None:
    x = features(50)
    with_constant = torch.cat([x, torch.full((50, 1), 0.7)], dim=1)
    for standardise in (False, True):
        y = mapped(with_constant, 0.5, standardise=standardise)
        assert y.shape == (50, 5)
        assert torch.allclose(
            cosines(y), cosines(mapped(x, 0.5, standardise=standardise)), atol=1e-6
        )


def test_two_images_are_enough() -> None:
    y = mapped(features(2, 8), 0.5)
    assert y.shape == (2, 1)
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("wobble", [0.0, 1e-7])
@pytest.mark.parametrize("value", [0.7, 0.0, -1e4])
def test_constant_features_are_refused(value: float, wobble: float, standardise: bool) -> None:
    # The same image in two batches differs in the last bits of a float32.
    x = torch.full((10, 3), value) * (1 + wobble * (torch.arange(10) % 2)[:, None])
    with pytest.raises(TrainingError, match="every image gives the same features"):
        principal_map(x, power=0.25, components=99, standardise=standardise)


def test_small_features_far_from_zero_are_not_taken_for_constant() -> None:
    assert torch.isfinite(mapped(5 + 1e-3 * features(50), 0.25)).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    x = features(10)
    x[3, 2] = value
    with pytest.raises(TrainingError, match="not finite"):
        principal_map(x, power=0.25, components=99)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_are_refused_and_counted(count: int) -> None:
    with pytest.raises(TrainingError, match=f"{count} image is too few"):
        principal_map(features(10)[:count], power=0.25, components=99)
