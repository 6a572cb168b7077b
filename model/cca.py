"""Canonical correlation analysis between two views: the closed form of the method.

Concept matching is CCA (arXiv 2601.22663): maximise tr(A^T S_xy A) subject to A^T S_xx A = I. With
two augmented views of the same images in the place of real and synthetic images it has a closed
form, kept here as a baseline of the trained head (tests/benchmarks/ablations.py) and as a
diagnostic: how much of each direction survives augmentation.
"""

from dataclasses import dataclass

import torch

from model.whitening import principal_map


@dataclass(frozen=True)
class CanonicalMap:
    """Holds the result of canonical correlation analysis between views.

    Attributes:
        mean: (D,) float64, of both views together.
        weight: (K, D) float64, A; its components are uncorrelated and of unit variance.
        correlations: (K,) float64, of each component between the views, highest first.
    """

    mean: torch.Tensor
    weight: torch.Tensor
    correlations: torch.Tensor


def canonical_map(
    first: torch.Tensor, second: torch.Tensor, *, components: int = 512
) -> CanonicalMap:
    """Compute the CCA of matched views, with one map A for both, since they are of one kind.

    Solves (S_xy + S_yx) / 2 a = rho S a, S being the covariance of both views together, within its
    first principal axes: without that limit, noise axes correlate by chance.

    Args:
        first: (N, D) features of one view of each image.
        second: (N, D) features of another view of the same images.
        components: principal axes that take part, at most.

    Raises:
        TrainingError: too few images, or features that are not finite or never vary.
    """
    white = principal_map(torch.cat([first, second]), power=0.5, components=components)
    x, y = ((view.double() - white.mean) @ white.weight.T for view in (first, second))
    shared = (x.T @ y + y.T @ x) / (2 * len(x) - 1)  # counted as in S, so that none is above 1
    correlations, rotation = torch.linalg.eigh(shared)
    order = correlations.argsort(descending=True)
    return CanonicalMap(white.mean, rotation[:, order].T @ white.weight, correlations[order])
