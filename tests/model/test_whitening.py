import pytest
import torch

from model.errors import TrainingError
from model.whitening import moments, whitening


def features(count: int, dimension: int = 5) -> torch.Tensor:
    """Correlated ones of uneven scale and a mean that is not zero."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(dimension, dimension, generator=generator) * torch.logspace(
        0, 1, dimension
    )
    return torch.randn(count, dimension, generator=generator) @ mixing + 3


def cosines(x: torch.Tensor) -> torch.Tensor:
    z = torch.nn.functional.normalize(x, dim=1)
    return z @ z.T


def test_moments_are_mean_and_unbiased_covariance_in_float64() -> None:
    x = features(20)
    mean, covariance = moments(x)
    assert mean.dtype == covariance.dtype == torch.float64
    assert torch.allclose(mean, x.double().mean(0))
    assert torch.allclose(covariance, torch.cov(x.double().T))


def test_power_zero_leaves_every_cosine_as_it_is() -> None:
    x = features(30)
    mean, covariance = moments(x)
    centred = x.double() - mean
    assert torch.allclose(
        cosines(centred @ whitening(covariance, 0.0, 1e-3).T), cosines(centred), atol=1e-9
    )


def test_power_one_half_gives_the_identity_covariance() -> None:
    _, covariance = moments(features(200))
    map_ = whitening(covariance, 0.5, 0.0)
    assert torch.allclose(map_ @ covariance @ map_.T, torch.eye(5).double(), atol=1e-9)


@pytest.mark.parametrize("power", [0.0, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 1.0])
def test_whitened_features_have_a_mean_variance_of_one(power: float, ridge: float) -> None:
    _, covariance = moments(features(200))
    map_ = whitening(covariance, power, ridge)
    variances = (map_ @ covariance @ map_.T).diagonal()
    assert float(variances.mean()) == pytest.approx(1, abs=1e-9)


def test_more_power_makes_variances_more_even_and_more_ridge_less() -> None:
    _, covariance = moments(features(200))

    def unevenness(power: float, ridge: float) -> float:
        map_ = whitening(covariance, power, ridge)
        values = torch.linalg.eigvalsh(map_ @ covariance @ map_.T)
        return float(values.max() / values.min())

    by_power = [unevenness(power, 0.0) for power in (0.0, 0.1, 0.25, 0.4, 0.5)]
    by_ridge = [unevenness(0.5, ridge) for ridge in (0.0, 0.01, 0.1, 1.0)]
    assert by_power == sorted(by_power, reverse=True)
    assert by_ridge == sorted(by_ridge)


def test_the_map_is_symmetric_so_that_components_stay_close_to_features() -> None:
    _, covariance = moments(features(50))
    map_ = whitening(covariance, 0.5, 1e-3)
    assert torch.allclose(map_, map_.T, atol=1e-12)


def test_fewer_images_than_dimensions_are_whitened_with_a_ridge() -> None:
    x = features(4, dimension=12)
    mean, covariance = moments(x)
    map_ = whitening(covariance, 0.5, 1e-3)
    assert torch.isfinite(map_).all()
    # Between the images themselves nothing but a simplex is left: each as far from every other.
    off_diagonal = cosines((x.double() - mean) @ map_.T)[~torch.eye(4).bool()]
    assert torch.allclose(off_diagonal, torch.full((12,), -1 / 3).double(), atol=0.02)


def test_fewer_images_than_dimensions_without_a_ridge_are_refused() -> None:
    _, covariance = moments(features(4, dimension=12))
    with pytest.raises(TrainingError, match="ridge"):
        whitening(covariance, 0.5, 0.0)


@pytest.mark.parametrize("wobble", [0.0, 1e-7])
def test_constant_features_are_refused(wobble: float) -> None:
    # The same image in two batches differs in the last bits of a float32.
    x = torch.full((10, 3), 0.7) * (1 + wobble * (torch.arange(10) % 2)[:, None])
    with pytest.raises(TrainingError, match="every image gives the same features"):
        whitening(moments(x)[1], 0.25, 1e-3)


def test_small_features_far_from_zero_are_not_taken_for_constant() -> None:
    x = 5 + 1e-3 * features(50)
    assert torch.isfinite(whitening(moments(x)[1], 0.25, 1e-3)).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    x = features(10)
    x[3, 2] = value
    with pytest.raises(TrainingError, match="not finite"):
        moments(x)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_are_refused_and_counted(count: int) -> None:
    with pytest.raises(TrainingError, match=f"{count} image is too few"):
        moments(features(10)[:count])
