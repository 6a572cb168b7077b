"""Whitening: the closed form of disentanglement, and where training starts."""

from dataclasses import dataclass

import torch

from model.errors import TrainingError


@dataclass(frozen=True)
class PrincipalMap:
    """Centre -> principal axes -> scale: y = (x - mean) @ weight.T, with K components.

    Attributes:
        mean: (D,) float64.
        weight: (K, D) float64; over the images it was fitted to, y has a mean variance of 1.
        variances: (K,) float64, of the features along each axis, highest first.
    """

    mean: torch.Tensor
    weight: torch.Tensor
    variances: torch.Tensor


def principal_map(
    features: torch.Tensor, *, power: float, components: int, standardise: bool = False
) -> PrincipalMap:
    """Return principal axes times variance^-power: 0 keeps distances, 1/2 whitens.

    The variance along small axes, estimated from few images, is mostly noise: a power under 1/2 and
    a limit on the components keep whitening from blowing it up. Axes without variance are left out,
    so it is defined for fewer images than dimensions, and for features that never vary.

    Args:
        features: (N, D).
        power: from 0 to 1/2.
        components: K, at most; never more than the axes along which the features vary.
        standardise: bring every feature to unit variance first.

    Raises:
        TrainingError: fewer than two images, a value that is not finite, or no variance at all.
    """
    mean, centred, scale = _centre(features, standardise)
    count, dimension = centred.shape
    # The smaller of the two matrices has the same eigenvalues.
    if count < dimension:
        values, left = torch.linalg.eigh(centred @ centred.T / (count - 1))
    else:
        values, axes = torch.linalg.eigh(centred.T @ centred / (count - 1))
    order = values.argsort(descending=True)[:components]
    order = order[values[order] > values.max() * 1e-9]
    variances = values[order]
    if count < dimension:
        axes = centred.T @ left[:, order] / (variances * (count - 1)).sqrt()  # (D, K), orthonormal
    else:
        axes = axes[:, order]
    gains = variances.pow(-power)
    gains = gains * (variances * gains**2).mean().rsqrt()
    return PrincipalMap(mean, (axes * gains).T / scale, variances)


def _centre(
    features: torch.Tensor, standardise: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the mean (D,), centred features (N, D) and their scale (D,), float64."""
    if len(features) < 2:
        raise TrainingError(
            f"{len(features)} image is too few to train on; give at least 2, better thousands"
        )
    if not torch.isfinite(features).all():
        raise TrainingError(
            "some features are not finite numbers; the backbone's weights or its mean/std options "
            "do not fit it"
        )
    centred = features.to(torch.float64, copy=True)  # gigabytes for many images: changed in place
    mean = centred.mean(dim=0)
    centred -= mean
    deviation = centred.square().mean(dim=0).sqrt()
    # A constant feature's rounding error is no variance.
    if not (deviation > 1e-6 * (mean.abs() + 1e-6)).any():
        raise TrainingError(
            "every image gives the same features; train on images that differ from one another"
        )
    if not standardise:
        return mean, centred, torch.ones_like(mean)
    scale = deviation + 1e-6
    return mean, centred.div_(scale), scale
