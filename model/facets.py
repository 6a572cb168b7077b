"""What each facet reads of the backbone: subject = what is shown, style = how it is made.

A *reading* turns one forward pass into one vector per image; a facet is one or more readings, each
disentangled by a head of its own:

    subject   pooled   the pooled features: which objects
              late     correlations of a late stage's channels: which parts go together
    style     early    correlations of the early stages' channels: strokes, textures, palettes

How channels vary together over the picture, whatever is where, is what style transfer copies (Gram
matrices: Gatys et al. 2016); correlations leave out how strong each channel is.
"""

import math
from collections.abc import Mapping

import torch
from torch import nn

from model.backbone import BackboneFeatures
from model.config import Facet, Reading

# How much each reading counts in its facet's cosine.
FACETS: Mapping[Facet, Mapping[Reading, float]] = {
    "subject": {"pooled": 1.0, "late": 1.0},
    "style": {"early": 1.0},
}

CHANNELS = 96  # a wider stage is projected onto this many directions first
EDITION = 1  # raise it when a reading changes, so that feature banks made before are not used


class FacetReader(nn.Module):
    """Backbone features -> one raw vector per reading.

    A network's stages are those of `timm`'s ``forward_intermediates``: the five resolutions of a
    convolutional network, or the blocks of a transformer. Of S stages the early ones lie at 1/5,
    2/5 and 3/5 of the depth, the late one at 4/5. Transformer blocks are wide, and the correlations
    of 768 channels would be 294,528 numbers, so wide stages are first projected onto `CHANNELS`
    fixed directions.
    """

    def extra_repr(self) -> str:
        """What distinguishes one reader from another."""
        return f"edition={EDITION}, channels={CHANNELS}"

    def forward(self, features: BackboneFeatures) -> dict[Reading, torch.Tensor]:
        """Each reading of a batch, (B, D) float32, D differing between readings."""
        pooled = features.pooled.float()
        return {
            # The signed root tames the few channels that would outweigh all others.
            "pooled": pooled.sign() * pooled.abs().sqrt(),
            **{
                name: torch.cat([channel_correlations(stage) for stage in stages], dim=1)
                for name, stages in self.correlated(features).items()
            },
        }

    def correlated(self, features: BackboneFeatures) -> dict[Reading, list[torch.Tensor]]:
        """The stages, (B, C, H, W) each, whose channel correlations a reading is, in its order."""
        stages = features.stages
        *early, late = (stages[_stage_at(part, len(stages))] for part in (1, 2, 3, 4))
        return {"late": [late], "early": early}


def channel_correlations(maps: torch.Tensor) -> torch.Tensor:
    """How channels vary together over the picture: (B, C, H, W) -> (B, C (C - 1) / 2) float32.

    The correlation of each pair of channels over all positions; 0 where a channel does not vary.
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
    """Channels of mean 0 and variance 1, whose mean products are `channel_correlations`.

    (B, C, H, W) -> (B, C, H, W) float32, C being `CHANNELS` at most; 0 where one does not vary.
    """
    x = _channels(maps)
    mean = x.mean(dim=1, keepdim=True)  # (B, 1, C)
    second_moment = x.square().mean(dim=1)  # (B, C)
    scale = _scale(second_moment - mean[:, 0].square(), second_moment)
    standardised: torch.Tensor = (x - mean) * scale[:, None]
    return standardised.transpose(1, 2).reshape(len(maps), -1, *maps.shape[2:])


def _channels(maps: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, P, C), C being `CHANNELS` at most."""
    # Positions before channels: as the backbone lays its maps out, so that nothing is copied.
    x = maps.float().permute(0, 2, 3, 1).flatten(1, 2)
    return x @ _directions(x.shape[2], x.device) if x.shape[2] > CHANNELS else x


def _scale(variance: torch.Tensor, second_moment: torch.Tensor) -> torch.Tensor:
    """What brings a channel to unit variance; 0 where it does not vary."""
    # What rounding leaves of a constant channel is no variance.
    noise = 1e-5 * second_moment + 1e-12
    return torch.where(variance > noise, variance.clamp(min=1e-12).rsqrt(), 0)


def _stage_at(fifths: int, count: int) -> int:
    """The stage at that many fifths of the depth: 0, 1, 2, 3 of five; 2, 4, 7, 9 of twelve."""
    return math.ceil(count * fifths / 5) - 1


def _directions(channels: int, device: torch.device) -> torch.Tensor:
    """(channels, CHANNELS) orthonormal directions: the slower waves of a cosine transform.

    Channels come in no order, so any fixed directions are as good; these need no random numbers.
    """
    place = torch.arange(channels, device=device, dtype=torch.float32)[:, None] + 0.5
    wave = torch.arange(1, CHANNELS + 1, device=device, dtype=torch.float32)
    return torch.cos(math.pi * place * wave / channels) * math.sqrt(2 / channels)
