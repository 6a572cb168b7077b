"""Which regions of a picture make it similar to another: a cosine as a sum over positions.

The cosine of picture q with picture e in one reading is linear in q's reading x once e's unit
vector z and the length of q's own vector are taken as they are:

    cos = s (x - mu),   s = z A / |A (x - mu)|          mu, A: the reading's head

and each reading is itself a sum over the positions p of a map:

    late, early   x_ij = mean_p c_i(p) c_j(p), c being channels of mean 0 and variance 1. Position p
                  holds (1 / P) sum_{i<j} s_ij c_i(p) c_j(p), a quadratic form. Exact.
    pooled        x_d = root(mean_p y_d(p)), y(p) being the last map at p, pooled alone. Position p
                  holds (1 / P) sum_d s_d y_d(p) / root(mean_p |y_d(p)|). Exact where pooling is an
                  average of values not below 0 (ResNet, MobileNetV2, RegNet, ...): up to a
                  factor it is then the gradient times the activation. Where it is not (a class
                  token, layers after pooling) it shows how far each position would speak for e by
                  itself, and what that leaves of the cosine has no place.

-s mu and whatever has no place are divided evenly among the positions, so that a heatmap always
adds up to the cosine. For average pooling without a root this is the class activation map (Zhou et
al. 2016) with the other picture in the place of the class, as in metric learning (Zhu et al. 2021);
for correlations, style transfer's Gram matrices (Gatys et al. 2016) taken apart again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from model.backbone import Backbone, BackboneFeatures
from model.config import Reading
from model.facets import FacetReader, standardised_channels
from model.head import AttributionHead

GRID = 28  # cells a side of a heatmap


@dataclass(frozen=True)
class Patches:
    """What the explanation of one picture needs of its forward pass: a megabyte or two."""

    features: BackboneFeatures  # of a batch of one
    readings: Mapping[Reading, torch.Tensor]  # each (1, D)


def facet_contributions(
    backbone: Backbone,
    reader: FacetReader,
    heads: Mapping[Reading, AttributionHead],
    weights: Mapping[Reading, float],
    pictures: Sequence[Patches],
    others: torch.Tensor,
) -> torch.Tensor:
    """How much each region of each picture adds to its cosine with another, in one facet.

    Args:
        backbone: that gave the patches.
        reader: that gave the readings.
        heads: of the facet's readings.
        weights: how much each reading counts in the facet's cosine.
        pictures: N of them; one may come several times.
        others: (N, K) unit vectors of that facet, one for each picture.

    Returns:
        (N, GRID, GRID) float32 over what the backbone saw. Each sums to the picture's cosine with
        its vector; a cell below 0 speaks against.
    """
    maps = torch.zeros(len(pictures), GRID, GRID, device=others.device)
    distinct = {id(picture): picture for picture in pictures}
    whole = sum(weights.values())
    parts = torch.split(others, [heads[reading].dimension for reading in weights], dim=1)
    for (reading, weight), part in zip(weights.items(), parts, strict=True):
        head = heads[reading]
        values = torch.cat([picture.readings[reading] for picture in pictures])  # (N, D)
        lengths = head.components(values).norm(dim=1, keepdim=True).clamp(min=1e-12)  # (N, 1)
        slopes = (weight / whole) ** 0.5 * part @ head.weight / lengths  # (N, D)
        cosines = (slopes * (values - head.mean)).sum(dim=1)  # (N,)
        layers = {
            key: _layers(reading, backbone, reader, picture.features)
            for key, picture in distinct.items()
        }
        for picture, slope, cosine, heatmap in zip(pictures, slopes, cosines, maps, strict=True):
            placed = _place(reading, slope, layers[id(picture)])
            heatmap += placed + (cosine - placed.sum()) / GRID**2
    return maps


def pooled_contributions(slope: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """What each position adds to the pooled reading's product with ``slope``.

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
    """What each position adds to the product of the channels' correlations with ``slope``.

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


def _place(reading: Reading, slope: torch.Tensor, layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """The contributions of all the maps that a reading is made of, (GRID, GRID)."""
    if reading == "pooled":
        return spread(pooled_contributions(slope, layers[0]))
    parts = torch.split(slope, [len(layer) * (len(layer) - 1) // 2 for layer in layers])
    placed = [
        spread(correlation_contributions(part, layer))
        for part, layer in zip(parts, layers, strict=True)
    ]
    return torch.stack(placed).sum(dim=0)


def _windows(count: int, grid: int, device: torch.device) -> torch.Tensor:
    """(grid, count): the part of each of ``count`` places that falls to each cell."""
    places = (torch.arange(count, device=device) + 0.5) / count
    cells = (torch.arange(grid, device=device) + 0.5) / grid
    # Its mirror images beyond the borders stand for what a place would send across them.
    mirrored = torch.stack([places, -places, 2 - places])
    distance = (cells[:, None] - mirrored[:, None]).abs() * min(count, grid)
    window = (1 - distance).clamp(min=0).sum(dim=0)
    return window / window.sum(dim=0)


def _layers(
    reading: Reading, backbone: Backbone, reader: FacetReader, features: BackboneFeatures
) -> list[torch.Tensor]:
    """The maps, (C, H, W) each, whose positions make a reading up."""
    if reading == "pooled":
        return [backbone.pool_positions(features)[0].float()]
    return [standardised_channels(stage)[0] for stage in reader.correlated(features)[reading]]
