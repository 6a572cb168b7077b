"""Explains a cosine as a sum over the positions of a picture.

The cosine of picture q with picture e in one descriptor is linear in q's descriptor x once e's unit
vector z and the length of q's own vector are taken as they are:

    cos = s (x - mu),   s = z A / |A (x - mu)|          mu, A: the descriptor's head

and each descriptor is itself a sum over the positions p of a map:

    late, early   x_ij = mean_p c_i(p) c_j(p), c being channels of mean 0 and variance 1. Position p
                  holds (1 / P) sum_{i<j} s_ij c_i(p) c_j(p), a quadratic form. Exact.
    pooled        x_d = root(mean_p y_d(p)), y(p) being the last map at p, pooled alone. Position p
                  holds (1 / P) sum_d s_d y_d(p) / root(mean_p |y_d(p)|). Exact where pooling is an
                  average of values not below 0 (ResNet, MobileNetV2, RegNet, ...): up to a
                  factor it is then the gradient times the activation. Where it is not (a class
                  token, layers after pooling) it shows how far each position would speak for e by
                  itself, and the rest of the cosine has no position.

    patches       likewise, y(p) being the last token at p.
    class_token, registers     have no positions: all of the cosine is divided evenly.

-s mu and the part without a position are divided evenly among the positions, so that a heatmap
always adds up to the cosine. For average pooling without a root this is the class activation map
(Zhou et al. 2016) with the other picture in the place of the class, as in metric learning (Zhu et
al. 2021); for correlations it divides the Gram matrices of style transfer (Gatys et al. 2016).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from model.backbone import Backbone, BackboneFeatures
from model.config import Descriptor
from model.descriptors import DescriptorExtractor, standardised_channels
from model.head import AttributionHead

GRID = 28  # cells a side of a heatmap


@dataclass(frozen=True)
class Patches:
    """Holds the parts of one picture's forward pass that an explanation needs: 1 to 2 MB."""

    features: BackboneFeatures  # of a batch of one
    descriptors: Mapping[Descriptor, torch.Tensor]  # each (1, D)


def facet_contributions(
    backbone: Backbone,
    extractor: DescriptorExtractor,
    heads: Mapping[Descriptor, AttributionHead],
    weights: Mapping[Descriptor, float],
    pictures: Sequence[Patches],
    others: torch.Tensor,
) -> torch.Tensor:
    """Divide each picture's cosine with another among its regions, in one facet.

    Args:
        backbone: the network that made the patches.
        extractor: the extractor that made the descriptors.
        heads: of the facet's descriptors.
        weights: of each descriptor in the facet's cosine.
        pictures: N of them; one may come several times.
        others: (N, K) unit vectors of that facet, one for each picture.

    Returns:
        (N, GRID, GRID) float32 over what the backbone saw. Each sums to the picture's cosine with
        its vector; a cell below 0 lowers it.
    """
    maps = torch.zeros(len(pictures), GRID, GRID, device=others.device)
    distinct = {id(picture): picture for picture in pictures}
    whole = sum(weights.values())
    parts = torch.split(others, [heads[descriptor].dimension for descriptor in weights], dim=1)
    for (descriptor, weight), part in zip(weights.items(), parts, strict=True):
        head = heads[descriptor]
        values = torch.cat([picture.descriptors[descriptor] for picture in pictures])  # (N, D)
        lengths = head.components(values).norm(dim=1, keepdim=True).clamp(min=1e-12)  # (N, 1)
        slopes = (weight / whole) ** 0.5 * part @ head.weight / lengths  # (N, D)
        cosines = (slopes * (values - head.mean)).sum(dim=1)  # (N,)
        layers = {
            key: _layers(descriptor, backbone, extractor, picture.features)
            for key, picture in distinct.items()
        }
        for picture, slope, cosine, heatmap in zip(pictures, slopes, cosines, maps, strict=True):
            placed = _place(descriptor, slope, layers[id(picture)])
            heatmap += placed + (cosine - placed.sum()) / GRID**2
    return maps


def pooled_contributions(slope: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Divide the pooled descriptor's product with ``slope`` among the positions.

    Args:
        slope: (D,).
        positions: (D, H, W) what each position is pooled to alone.

    Returns:
        (H, W); sums to ``slope @ x``, x being the signed root of the mean over positions, if no
        value is below 0.
    """
    size = positions.abs().mean(dim=(1, 2))  # (D,)
    scale = torch.where(size > 1e-12, size.clamp(min=1e-12).rsqrt(), 0)
    return torch.einsum("d,dhw->hw", slope * scale, positions) / positions[0].numel()


def correlation_contributions(slope: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Divide the product of the channel correlations with ``slope`` among the positions.

    Args:
        slope: (C (C - 1) / 2,), pairs in the order of `channel_correlations`.
        channels: (C, H, W) from `standardised_channels`.

    Returns:
        (H, W); sums to the product.
    """
    width = len(channels)
    first, second = torch.triu_indices(width, width, offset=1, device=slope.device)
    form = slope.new_zeros(width, width)
    form[first, second] = slope
    flat = channels.flatten(1)  # (C, P)
    return ((form @ flat) * flat).sum(dim=0).reshape(channels.shape[1:]) / flat.shape[1]


def spread(contributions: torch.Tensor, grid: int = GRID) -> torch.Tensor:
    """Bring contributions to one grid, keeping their sum: (H, W) -> (grid, grid).

    Each is divided among the cells around its place by a triangular window, as wide as the coarser
    of the two grids asks for and reflected at the borders, so that what is even stays even.
    """
    down = _windows(contributions.shape[0], grid, contributions.device)
    across = _windows(contributions.shape[1], grid, contributions.device)
    return down @ contributions @ across.T


def _place(
    descriptor: Descriptor, slope: torch.Tensor, layers: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Sum the contributions of all maps of a descriptor: (GRID, GRID)."""
    if not layers:
        return slope.new_zeros(GRID, GRID)
    if descriptor in {"pooled", "patches"}:
        return spread(pooled_contributions(slope, layers[0]))
    parts = torch.split(slope, [len(layer) * (len(layer) - 1) // 2 for layer in layers])
    placed = [
        spread(correlation_contributions(part, layer))
        for part, layer in zip(parts, layers, strict=True)
    ]
    return torch.stack(placed).sum(dim=0)


def _windows(count: int, grid: int, device: torch.device) -> torch.Tensor:
    """Returns (grid, count): the share of each place that falls to each cell."""
    places = (torch.arange(count, device=device) + 0.5) / count
    cells = (torch.arange(grid, device=device) + 0.5) / grid
    # Its mirror images beyond the borders stand for what a place would send across them.
    mirrored = torch.stack([places, -places, 2 - places])
    distance = (cells[:, None] - mirrored[:, None]).abs() * min(count, grid)
    window = (1 - distance).clamp(min=0).sum(dim=0)
    return window / window.sum(dim=0)


def _layers(
    descriptor: Descriptor,
    backbone: Backbone,
    extractor: DescriptorExtractor,
    features: BackboneFeatures,
) -> list[torch.Tensor]:
    """Returns the maps, (C, H, W) each, that a descriptor is computed from."""
    if descriptor == "pooled":
        return [backbone.pool_positions(features)[0].float()]
    if descriptor == "patches":
        height, width = features.stages[-1].shape[-2:]
        last = features.final[0, -height * width :]  # (H W, C)
        return [last.float().T.reshape(-1, height, width)]
    if descriptor in features.tokens:
        return []
    return [standardised_channels(stage)[0] for stage in extractor.correlated(features)[descriptor]]
