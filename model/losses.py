"""The two halves of the objective: alignment (InfoNCE) and disentanglement (Infomax)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the name torch code is read by
from torch import nn


class InfoNCELoss(nn.Module):
    """Alignment: each image's two views find each other among the batch.

    The mean over both directions of ``-log softmax_j(<a_i, b_j> / t)[i]`` (van den Oord et al.
    2018; the symmetric form of CLIP). Its value is 0 at best and ``log B`` at chance.

    Args:
        temperature: t above; smaller looks harder at the nearest negatives.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        self.temperature = temperature

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the loss of two matched batches of unit vectors, each (B, D); a scalar."""
        logits = a @ b.T / self.temperature  # (B, B)
        target = torch.arange(len(a), device=a.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class InfomaxLoss(nn.Module):
    """Disentanglement: minus the joint entropy of ``g(u)``, ``u = A(x - mu)``.

    Maximising ``H(g(u)) = H(x) + sum_i E[log g'(u_i)] + log|det A|`` (Bell & Sejnowski 1995) makes
    the components of u independent and of one common scale: the constraint of canonical correlation
    analysis, up to that scale, which no cosine sees. For a rectangular A the last term is ``1/2 log
    det(A S A^T + ridge I)`` with S the covariance of x (given S = I and a square A the two agree).
    H(x) does not depend on A and is left out. The value is per component, so that it does not grow
    with the dimension.

    Args:
        density: g', the assumed density of a component: ``logistic`` or ``sech2`` (g = tanh).
        ridge: added to the diagonal under the determinant of the rectangular form.
    """

    def __init__(
        self, density: Literal["logistic", "sech2"] = "logistic", ridge: float = 1e-6
    ) -> None:
        super().__init__()
        self.density = density
        self.ridge = ridge

    def forward(
        self, u: torch.Tensor, weight: torch.Tensor, covariance: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of a batch of components.

        Args:
            u: (B, K) = (x - mu) @ weight.T, before any normalisation.
            weight: (K, D) the matrix A; square unless ``covariance`` is given.
            covariance: (D, D) of x, for the rectangular form.

        Returns:
            A scalar, of u's dtype; the determinant itself is taken in float64.
        """
        if covariance is None and weight.shape[0] != weight.shape[1]:
            raise ValueError(f"a {tuple(weight.shape)} matrix needs the covariance of x")
        if covariance is None:
            log_det = torch.linalg.slogdet(weight.double()).logabsdet
        else:
            a = weight.double()
            spread = a @ covariance.double() @ a.T  # (K, K)
            spread = spread + self.ridge * torch.eye(len(a), dtype=a.dtype, device=a.device)
            log_det = torch.linalg.slogdet(spread).logabsdet / 2
        entropy: torch.Tensor = self._log_density(u).sum(dim=1).mean() + log_det.to(u.dtype)
        return -entropy / u.shape[1]

    def _log_density(self, u: torch.Tensor) -> torch.Tensor:
        if self.density == "logistic":  # g = 1 / (1 + e^-u); log g' = -softplus(u) - softplus(-u)
            return -(F.softplus(u) + F.softplus(-u))
        # g = tanh; log(1 - tanh^2 u) = 2 (log 2 - u - softplus(-2u)), which does not overflow
        return 2 * (math.log(2) - u - F.softplus(-2 * u))
