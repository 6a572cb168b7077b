import itertools
import math

import pytest
import torch

from model.losses import InfomaxLoss, InfoNCELoss


def float64(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(float64(*shape, seed=seed), dim=-1)


def laplace(count: int, dimension: int, seed: int = 0) -> torch.Tensor:
    """(N, K) independent super-Gaussian sources of unit variance."""
    uniform = torch.rand(
        count, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return -(uniform - 0.5).sign() * torch.log1p(-2 * (uniform - 0.5).abs()) / math.sqrt(2)


def covariance_of(x: torch.Tensor) -> torch.Tensor:
    return torch.cov(x.T)


def whitener(x: torch.Tensor) -> torch.Tensor:
    """The symmetric map after which x is uncorrelated and of unit variance."""
    values, vectors = torch.linalg.eigh(covariance_of(x))
    return (vectors * values.rsqrt()) @ vectors.T


def rotation(angle: float) -> torch.Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)


def amari(mixed: torch.Tensor) -> float:
    """Amari distance of a K x K matrix from a scaled permutation: 0 to 1 (Amari et al. 1996)."""
    size = mixed.abs()
    rows = (size.sum(1) / size.amax(1) - 1).sum()
    columns = (size.sum(0) / size.amax(0) - 1).sum()
    count = len(mixed)
    return float((rows + columns) / (2 * count * (count - 1)))


# InfoNCE


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_infonce_of_two_orthogonal_pairs_is_known_in_closed_form(temperature: float) -> None:
    views = torch.eye(2, dtype=torch.float64)
    loss = InfoNCELoss(temperature)(views, views)
    assert float(loss) == pytest.approx(math.log1p(math.exp(-1 / temperature)), abs=1e-12)


def test_infonce_of_exchanged_pairs_is_high() -> None:
    views = torch.eye(2, dtype=torch.float64)
    loss = InfoNCELoss(0.5)(views, views.flip(0))
    assert float(loss) == pytest.approx(math.log1p(math.exp(2)), abs=1e-12)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_infonce_at_chance_is_log_of_the_batch(batch: int) -> None:
    views = torch.ones(batch, 3, dtype=torch.float64) / math.sqrt(3)
    assert float(InfoNCELoss()(views, views)) == pytest.approx(math.log(batch), abs=1e-12)


def test_infonce_equals_a_naive_double_loop() -> None:
    a, b, temperature = unit(6, 4, seed=1), unit(6, 4, seed=2), 0.2
    total = 0.0
    for i in range(6):
        own = math.exp(float(a[i] @ b[i]) / temperature)
        forward = sum(math.exp(float(a[i] @ b[j]) / temperature) for j in range(6))
        backward = sum(math.exp(float(a[j] @ b[i]) / temperature) for j in range(6))
        total -= (math.log(own / forward) + math.log(own / backward)) / 2
    assert float(InfoNCELoss(temperature)(a, b)) == pytest.approx(total / 6, abs=1e-12)


def test_infonce_treats_both_views_alike() -> None:
    a, b = unit(5, 3, seed=1), unit(5, 3, seed=2)
    assert torch.allclose(InfoNCELoss()(a, b), InfoNCELoss()(b, a), atol=1e-12)


def test_infonce_gradient_agrees_with_finite_differences() -> None:
    a, b = unit(4, 3, seed=1).requires_grad_(), unit(4, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(InfoNCELoss(0.5), (a, b))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_infonce_refuses_a_temperature_that_is_not_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        InfoNCELoss(temperature)


# Infomax, by hand


@pytest.mark.parametrize(
    ("density", "log_slope"),
    [
        ("logistic", lambda u: math.log(1 / (1 + math.exp(-u))) - math.log1p(math.exp(u))),
        ("sech2", lambda u: -2 * math.log(math.cosh(u))),
    ],
)
@pytest.mark.parametrize("scale", [0.5, -2.0])
def test_infomax_of_one_component_is_known_by_hand(density, log_slope, scale: float) -> None:
    x = [-1.0, 0.0, 3.0]
    u = torch.tensor([[scale * value] for value in x], dtype=torch.float64)
    weight = torch.tensor([[scale]], dtype=torch.float64)
    entropy = sum(log_slope(scale * value) for value in x) / 3 + math.log(abs(scale))
    assert float(InfomaxLoss(density)(u, weight)) == pytest.approx(-entropy, abs=1e-12)


def test_infomax_at_zero_is_log_two_for_a_weight_of_two() -> None:
    # log g'(0) = log 1/4 and log|det| = log 2 for the logistic; log 1 and log 2 for sech2.
    u, weight = torch.zeros(1, 1), torch.tensor([[2.0]])
    assert float(InfomaxLoss("logistic")(u, weight)) == pytest.approx(math.log(2), abs=1e-6)
    assert float(InfomaxLoss("sech2")(u, weight)) == pytest.approx(-math.log(2), abs=1e-6)


def test_infomax_is_per_component() -> None:
    x = float64(20, 1)
    single = InfomaxLoss()(x * 3, torch.tensor([[3.0]]).double())
    double = InfomaxLoss()((x * 3).expand(20, 2), 3 * torch.eye(2).double())
    assert torch.allclose(single, double, atol=1e-12)


def test_infomax_of_a_rectangular_map_uses_the_covariance() -> None:
    u, weight = torch.zeros(1, 1).double(), torch.tensor([[3.0, 4.0]]).double()
    covariance = torch.diag(torch.tensor([1.0, 4.0]).double())
    loss = InfomaxLoss("sech2", ridge=0)(u, weight, covariance)
    assert float(loss) == pytest.approx(-math.log(9 + 16 * 4) / 2, abs=1e-12)


def test_infomax_ridge_keeps_a_degenerate_map_finite() -> None:
    weight = torch.ones(2, 3)
    loss = InfomaxLoss(ridge=1e-3)(torch.zeros(1, 2), weight, torch.eye(3))
    expected = -(math.log(6 + 1e-3) + math.log(1e-3)) / 4 + 2 * math.log(2)
    assert float(loss) == pytest.approx(expected, abs=1e-5)


def test_infomax_without_a_covariance_refuses_a_rectangular_map() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*covariance"):
        InfomaxLoss()(torch.zeros(1, 2), torch.ones(2, 3))


@pytest.mark.parametrize("density", ["logistic", "sech2"])
def test_infomax_rectangular_form_of_a_square_map_agrees_with_the_square_form(density) -> None:
    x, weight = float64(30, 4, seed=1), float64(4, 4, seed=2)
    loss = InfomaxLoss(density, ridge=0)
    u = x @ weight.T
    assert torch.allclose(loss(u, weight), loss(u, weight, torch.eye(4).double()), atol=1e-12)
    # Another covariance only adds a constant: the same for every map.
    covariance = covariance_of(x)
    gaps = [
        loss(x @ a.T, a) - loss(x @ a.T, a, covariance) for a in (weight, float64(4, 4, seed=3))
    ]
    assert torch.allclose(gaps[0], gaps[1], atol=1e-12)
    assert not torch.allclose(gaps[0], torch.zeros(()).double(), atol=1e-3)


# Infomax, the density


@pytest.mark.parametrize(("density", "g"), [("logistic", torch.sigmoid), ("sech2", torch.tanh)])
def test_infomax_density_is_the_slope_of_its_squashing_function(density, g) -> None:
    u = torch.linspace(-4, 4, 33, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(g(u).sum(), u)
    weight = torch.eye(1).double()
    measured = torch.stack([-InfomaxLoss(density)(value.reshape(1, 1), weight) for value in u])
    assert torch.allclose(measured, slope.log(), atol=1e-9)


@pytest.mark.parametrize(
    ("density", "expected"), [("logistic", 1000.0), ("sech2", 2000 - 2 * math.log(2))]
)
@pytest.mark.parametrize("u", [-1000.0, 1000.0])
def test_infomax_does_not_overflow_far_out(density, expected: float, u: float) -> None:
    value = torch.tensor([[u]], requires_grad=True)
    loss = InfomaxLoss(density)(value, torch.eye(1))
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert float(value.grad) == pytest.approx(math.copysign(expected / 1000, u), rel=1e-2)


# Infomax, gradients


@pytest.mark.parametrize("density", ["logistic", "sech2"])
@pytest.mark.parametrize("shape", [(3, 3), (2, 3)])
def test_infomax_gradient_agrees_with_finite_differences(density, shape) -> None:
    x, weight = float64(10, 3, seed=1), float64(*shape, seed=2).requires_grad_()
    covariance = None if shape == (3, 3) else covariance_of(x)
    loss = InfomaxLoss(density)
    assert torch.autograd.gradcheck(lambda a: loss(x @ a.T, a, covariance), (weight,))


@pytest.mark.parametrize(("density", "factor"), [("logistic", 1.0), ("sech2", 2.0)])
def test_infomax_gradient_agrees_with_bell_and_sejnowski(density, factor: float) -> None:
    # -K dL/dA = A^-T - E[phi(u) x^T]; phi = tanh(u / 2) for the logistic, 2 tanh(u) for sech2.
    x, weight = float64(50, 3, seed=1), float64(3, 3, seed=2).requires_grad_()
    u = x @ weight.T
    (gradient,) = torch.autograd.grad(InfomaxLoss(density)(u, weight), weight)
    phi = factor * torch.tanh(u * factor / 2)
    expected = (phi.T @ x / 50 - torch.linalg.inv(weight).T) / 3
    assert torch.allclose(gradient, expected, atol=1e-10)


# Infomax, what it is for


def test_infomax_is_minimal_where_an_orthogonal_mixing_is_undone() -> None:
    mixing = rotation(0.6)
    x = laplace(20_000, 2) @ mixing.T
    angles = [step * math.pi / 2 / 90 for step in range(90)]  # all others are permutations of these
    losses = [float(InfomaxLoss()(x @ rotation(-angle).T, rotation(-angle))) for angle in angles]
    best = angles[losses.index(min(losses))]
    assert best == pytest.approx(0.6, abs=math.radians(2))
    assert max(losses) - min(losses) > 1e-3


@pytest.mark.parametrize("gradient", ["plain", "natural"])
def test_infomax_recovers_the_sources_of_a_known_mixing(gradient: str) -> None:
    mixing = float64(4, 4, seed=5) + 0.5 * torch.eye(4).double()
    x = laplace(4000, 4, seed=6) @ mixing.T
    x = x - x.mean(dim=0)
    weight = whitener(x).requires_grad_()
    started = amari(weight.detach() @ mixing)
    loss = InfomaxLoss()
    optimizer = torch.optim.Adam([weight], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss(x @ weight.T, weight).backward()
        if gradient == "plain":
            optimizer.step()
        else:
            with torch.no_grad():
                weight -= 2 * weight.grad @ weight.T @ weight
    ended = amari(weight.detach() @ mixing)
    assert started > 0.2
    assert ended < 0.03


def test_infomax_recovers_sources_through_a_rectangular_map() -> None:
    mixing = float64(6, 3, seed=5)  # three sources seen in six dimensions
    x = laplace(4000, 3, seed=6) @ mixing.T
    covariance = covariance_of(x)
    weight = torch.linalg.pinv(mixing) + 0.3 * float64(3, 6, seed=7)
    weight.requires_grad_()
    started = amari(weight.detach() @ mixing)
    loss, optimizer = InfomaxLoss(), torch.optim.Adam([weight], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss(x @ weight.T, weight, covariance).backward()
        optimizer.step()
    assert started > 0.2
    assert amari(weight.detach() @ mixing) < 0.03


def test_infomax_does_not_care_for_the_order_or_sign_of_components() -> None:
    x, weight = float64(20, 3, seed=1), float64(3, 3, seed=2)
    reference = InfomaxLoss()(x @ weight.T, weight)
    for order, sign in itertools.product([[1, 2, 0], [2, 1, 0]], [1, -1]):
        other = sign * weight[order]
        assert torch.allclose(InfomaxLoss()(x @ other.T, other), reference, atol=1e-12)


def test_infomax_takes_the_determinant_in_float64() -> None:
    # The determinant itself, 1e-180, does not exist in float32; its logarithm does.
    weight = 1e-3 * torch.eye(60)
    loss = InfomaxLoss("sech2")(torch.zeros(1, 60), weight)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(-math.log(1e-3), rel=1e-6)
