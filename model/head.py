"""The attribution head: centre -> linear -> unit norm."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


class AttributionHead(nn.Module):
    """A linear map of centred features onto the unit sphere: u = A(x - mu), z = u / |u|.

    Args:
        mean: (D,) mu, the mean of the training features; not trained.
        weight: (K, D) the initial A.
    """

    mean: torch.Tensor

    def __init__(self, mean: torch.Tensor, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.weight = nn.Parameter(weight.clone())

    @property
    def dimension(self) -> int:
        """Returns K, the length of an embedding."""
        return self.weight.shape[0]

    def components(self, features: torch.Tensor) -> torch.Tensor:
        """Compute u, (B, D) -> (B, K), not normalised: the input of the Infomax loss."""
        return (features - self.mean) @ self.weight.T

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute z, (B, D) -> (B, K) of unit norm."""
        return F.normalize(self.components(features), dim=-1)
