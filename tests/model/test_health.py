import math

import pytest
import torch
from torch.nn.functional import normalize

from model.health import measure_health


def random_rows(count: int, dimension: int) -> torch.Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(0))


def test_health_of_orthogonal_aligned_images_is_full() -> None:
    z = torch.cat([torch.eye(4), -torch.eye(4)])
    health = measure_health(z, z, z)
    assert health.positive_similarity == pytest.approx(1)
    assert health.negative_similarity == pytest.approx(0)
    assert health.effective_rank == pytest.approx(4)
    assert health.correlation == pytest.approx(0, abs=1e-9)


def test_health_of_a_collapsed_embedding_shows_it() -> None:
    u = torch.linspace(1, 2, 6)[:, None] * torch.ones(1, 4)  # all on one line
    z = normalize(u, dim=1)
    health = measure_health(u, z, z)
    assert health.effective_rank == pytest.approx(1, abs=1e-4)
    assert health.correlation == pytest.approx(1, abs=1e-4)
    assert health.negative_similarity == pytest.approx(1)


def test_health_similarities_are_those_of_the_pair_and_of_the_nearest_other() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    b = torch.tensor([[0.8, 0.6], [-1.0, 0.0], [0.0, 1.0]])
    health = measure_health(random_rows(3, 2), a, b)
    # a @ b.T is [0.8, -1, 0], [0.6, 0, 1], [0.96, -0.6, 0.8]
    assert health.positive_similarity == pytest.approx((0.8 + 0 + 0.8) / 3)
    assert health.negative_similarity == pytest.approx((0 + 1 + 0.96) / 3)


def test_health_effective_rank_is_the_exponential_of_the_spectrums_entropy() -> None:
    u = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # variances 9 to 1
    z = normalize(u, dim=1)
    expected = math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    assert measure_health(u, z, z).effective_rank == pytest.approx(expected)


def test_health_correlation_is_the_mean_absolute_off_diagonal() -> None:
    u = random_rows(50, 3)
    expected = torch.corrcoef(u.T).abs()[~torch.eye(3).bool()].mean()
    z = normalize(u, dim=1)
    assert measure_health(u, z, z).correlation == pytest.approx(float(expected), abs=1e-6)


def test_health_of_components_that_do_not_vary_is_a_number() -> None:
    u = torch.ones(5, 3)
    z = normalize(u, dim=1)
    values = measure_health(u, z, z).as_dict()
    assert set(values) == {
        "positive_similarity", "negative_similarity", "effective_rank", "correlation",
    }  # fmt: skip
    assert torch.isfinite(torch.tensor(list(values.values()))).all()
