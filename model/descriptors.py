"""Descriptors: vectors computed from the backbone's features, one set for each facet.

The subject facet describes the content of a picture, the style facet its manner. A facet has one
or more descriptors, each disentangled by a head of its own:

    subject   pooled   the pooled features: which objects
              late     correlations of a late stage's channels: which parts go together
    style     early    correlations of the early stages' channels: strokes, textures, palettes

Style transfer copies how channels vary together over the picture (Gram matrices: Gatys et al.
2016). Correlations leave out how strong each channel is.
"""

import math
from collections.abc import Mapping

import torch
from torch import nn

from model.backbone import BackboneFeatures
from model.config import Descriptor, Facet

# Weight of each descriptor in its facet's cosine.
FACETS: Mapping[Facet, Mapping[Descriptor, float]] = {
    "subject": {"pooled": 1.0, "late": 1.0},
    "style": {"early": 1.0},
}

CHANNELS = 96  # a wider stage is projected onto this many directions first
EDITION = 1  # raised whenever a descriptor changes, so that older feature banks are not used


class DescriptorExtractor(nn.Module):
    """Computes one raw vector per descriptor from backbone features.

    A network's stages are those of `timm`'s ``forward_intermediates``: the five resolutions of a
    convolutional network, or the blocks of a transformer. Of S stages the early ones lie at 1/5,
    2/5 and 3/5 of the depth, the late one at 4/5. Transformer blocks are wide, and the correlations
    of 768 channels would be 294,528 numbers, so wide stages are first projected onto `CHANNELS`
    fixed directions.
    """

    def extra_repr(self) -> str:
        """Returns the settings that decide the descriptors; part of a feature bank's key."""
        return f"edition={EDITION}, channels={CHANNELS}"

    def forward(self, features: BackboneFeatures) -> dict[Descriptor, torch.Tensor]:
        """Compute the descriptors of a batch: (B, D) float32 each, D differing between them."""
        pooled = features.pooled.float()
        return {
            # The signed root keeps a few large channels from outweighing all others.
            "pooled": pooled.sign() * pooled.abs().sqrt(),
            **{
                name: torch.cat([channel_correlations(stage) for stage in stages], dim=1)
                for name, stages in self.correlated(features).items()
            },
        }

    def correlated(self, features: BackboneFeatures) -> dict[Descriptor, list[torch.Tensor]]:
        """Returns, for each correlation descriptor, its stages in order, (B, C, H, W) each."""
        stages = features.stages
        *early, late = (stages[_stage_at(part, len(stages))] for part in (1, 2, 3, 4))
        return {"late": [late], "early": early}


def channel_correlations(maps: torch.Tensor) -> torch.Tensor:
    """Correlate each pair of channels over all positions.

    (B, C, H, W) -> (B, C (C - 1) / 2) float32; 0 where a channel does not vary.
    """
    x = _channels(maps)
    mean = x.mean(dim=1, keepdim=True)  # (B, 1, C)
    second_moment = x.transpose(1, 2) @ x / x.shape[1]  # (B, C, C)
    covariance = second_moment - mean.transpose(1, 2) @ mean
    scale = _scale(
        covariance.diagonal(dim1=1, dim2=2), second_moment.diagonal(dim1=1, dim2=2)
    )  # (B, C)
    correlations = covariance * scale[:, :, None] * scale[:, None, :]
    width = correlations.shape[1]
    first, second = torch.triu_indices(width, width, offset=1, device=x.device)
    return correlations[:, first, second]


def standardised_channels(maps: torch.Tensor) -> torch.Tensor:
    """Bring channels to mean 0 and variance 1; their mean products are `channel_correlations`.

    (B, C, H, W) -> (B, C, H, W) float32, C being `CHANNELS` at most; 0 where one does not vary.
    """
    x = _channels(maps)
    mean = x.mean(dim=1, keepdim=True)  # (B, 1, C)
    second_moment = x.square().mean(dim=1)  # (B, C)
    scale = _scale(second_moment - mean[:, 0].square(), second_moment)
    standardised: torch.Tensor = (x - mean) * scale[:, None]
    return standardised.transpose(1, 2).reshape(len(maps), -1, *maps.shape[2:])


def _channels(maps: torch.Tensor) -> torch.Tensor:
    """Flatten positions and project wide stages: (B, C, H, W) -> (B, P, min(C, `CHANNELS`))."""
    # Positions before channels: as the backbone lays its maps out, so that nothing is copied.
    x = maps.float().permute(0, 2, 3, 1).flatten(1, 2)
    return x @ _directions(x.shape[2], x.device) if x.shape[2] > CHANNELS else x


def _scale(variance: torch.Tensor, second_moment: torch.Tensor) -> torch.Tensor:
    """Returns the factor that brings a channel to unit variance; 0 where it does not vary."""
    # Rounding gives a constant channel a small variance.
    noise = 1e-5 * second_moment + 1e-12
    return torch.where(variance > noise, variance.clamp(min=1e-12).rsqrt(), 0)


def _stage_at(fifths: int, count: int) -> int:
    """Returns the stage at a depth in fifths: 0, 1, 2, 3 of five; 2, 4, 7, 9 of twelve."""
    return math.ceil(count * fifths / 5) - 1


def _directions(channels: int, device: torch.device) -> torch.Tensor:
    """Returns (channels, CHANNELS) orthonormal directions: the slower waves of a cosine transform.

    Channels have no order, so any fixed directions do; these need no random numbers.
    """
    place = torch.arange(channels, device=device, dtype=torch.float32)[:, None] + 0.5
    wave = torch.arange(1, CHANNELS + 1, device=device, dtype=torch.float32)
    return torch.cos(math.pi * place * wave / channels) * math.sqrt(2 / channels)
