"""Health of an embedding: numbers logged beside the loss that show a collapse."""

from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class Health:
    """Holds the measures of one batch's health."""

    positive_similarity: float  # mean cosine of an image's two views; towards 1 is aligned
    negative_similarity: float  # mean cosine of each image to its nearest other one
    effective_rank: float  # exp of the entropy of the spectrum; 1 is collapsed, K is full
    correlation: float  # mean |off-diagonal correlation| of the components; 0 is disentangled

    def as_dict(self) -> dict[str, float]:
        """Returns the measures as a dict for logs."""
        return asdict(self)


@torch.no_grad()
def measure_health(u: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Health:
    """Measure the health of a batch.

    Args:
        u: (B, K) components before normalisation.
        a: (B, K) unit vectors of one view of each image.
        b: (B, K) unit vectors of another view of the same images.
    """
    similarity = a @ b.T
    positive = similarity.diagonal().mean()
    nearest = (similarity - 2 * torch.eye(len(a), device=a.device)).amax(dim=1).mean()
    centred = (u - u.mean(dim=0)).double()
    spectrum = torch.linalg.svdvals(centred).square()
    share = spectrum / spectrum.sum().clamp(min=1e-30)
    rank = torch.exp(-torch.xlogy(share, share).sum())
    scaled = centred / centred.std(dim=0).clamp(min=1e-12)
    correlation = scaled.T @ scaled / max(len(u) - 1, 1)
    off_diagonal = correlation - torch.diag(correlation.diagonal())
    count = max(u.shape[1] * (u.shape[1] - 1), 1)
    return Health(
        positive_similarity=float(positive),
        negative_similarity=float(nearest),
        effective_rank=float(rank),
        correlation=float(off_diagonal.abs().sum() / count),
    )
