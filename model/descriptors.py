"""Descriptors: vectors computed from the backbone's features, one set for each facet.

The subject facet describes the content of a picture, the style facet its manner. A facet has one
or more descriptors, each disentangled by a head of its own:

    subject   pooled       the pooled features: which objects
              late         correlations of a late stage's channels: which parts go together
    style     early        correlations of the early stages' channels: strokes, textures, palettes

Transformers have further candidates for the subject (`model.selection`): the class token, the mean
of the patch tokens and the mean of the register tokens, where they are not what is pooled.

Style transfer copies how channels vary together over the picture (Gram matrices: Gatys et al.
2016). Correlations leave out how strong each channel is.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from functools import cached_property

import torch
from torch import nn

from model.backbone import Backbone, BackboneFeatures, backbone_digest
from model.config import DEPTHS, Descriptor, Facet
from model.config import FACETS as USUAL_FACETS

FACETS: Mapping[Facet, Mapping[Descriptor, float]] = USUAL_FACETS
DESCRIPTORS: tuple[Descriptor, ...] = ("pooled", "late", "early")  # of the usual facets

CHANNELS = 96  # a wider stage is projected onto this many directions first
AXES = "axes_"  # and a stage's number: the name of its axes among a model's tensors
EDITION = 1  # raised whenever a descriptor changes, so that older feature banks are not used


class DescriptorExtractor(nn.Module):
    """Computes one raw vector per descriptor from backbone features.

    A network's stages are those of `timm`'s ``forward_intermediates``: the five resolutions of a
    convolutional network, or the blocks of a transformer. Of S stages the early ones lie at 1/5,
    2/5 and 3/5 of the depth, the late one at 4/5, unless others are named. Transformer blocks are
    wide, and the correlations of 768 channels would be 294,528 numbers, so wide stages are first
    projected onto `CHANNELS` directions: their principal axes (`model.axes`), or else fixed ones.

    Args:
        names: of the descriptors to compute.
        depths: of each correlation descriptor's stages, in fifths of the network.
        axes: of wide stages, by the stage's number: (C, `CHANNELS`) each.
    """

    def __init__(
        self,
        names: Iterable[Descriptor] = DESCRIPTORS,
        depths: Mapping[Descriptor, tuple[int, ...]] = DEPTHS,
        axes: Mapping[int, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.depths = {name: tuple(depths[name]) for name in self.names if name in depths}
        for stage, directions in sorted((axes or {}).items()):
            self.register_buffer(f"{AXES}{stage}", directions.float())

    def extra_repr(self) -> str:
        """Returns the settings that decide the descriptors; part of a feature bank's key."""
        usual = {name: DEPTHS[name] for name in DESCRIPTORS if name in DEPTHS}
        parts = [f"edition={EDITION}, channels={CHANNELS}"]
        if set(self.names) != set(DESCRIPTORS) or self.depths != usual:
            parts.append(f"names={sorted(self.names)}, depths={sorted(self.depths.items())}")
        if axes := dict(self.named_buffers()):
            digest = hashlib.sha256()
            for name, directions in axes.items():
                digest.update(name.encode() + directions.cpu().numpy().tobytes())
            parts.append(f"axes={digest.hexdigest()[:16]}")
        return ", ".join(parts)

    def forward(self, features: BackboneFeatures) -> dict[Descriptor, torch.Tensor]:
        """Compute the descriptors of a batch: (B, D) float32 each, D differing between them."""
        vectors = {"pooled": features.pooled, **features.tokens}
        read = {name: signed_root(vectors[name]) for name in self.names if name not in self.depths}
        for name, stages in self.correlated(features).items():
            read[name] = torch.cat([channel_correlations(stage) for stage in stages], dim=1)
        return read

    def correlated(self, features: BackboneFeatures) -> dict[Descriptor, list[torch.Tensor]]:
        """Returns, for each correlation descriptor, its stages in order, (B, C, H, W) each.

        Stages with axes are projected onto them.
        """
        return {
            name: [
                self._projected(features.stages[place], place)
                for place in (stage_at(depth, len(features.stages)) for depth in depths)
            ]
            for name, depths in self.depths.items()
        }

    def _projected(self, stage: torch.Tensor, place: int) -> torch.Tensor:
        axes = getattr(self, f"{AXES}{place}", None)
        if axes is None:
            return stage
        # Positions before channels: as the backbone lays its maps out.
        projected: torch.Tensor = stage.float().permute(0, 2, 3, 1) @ axes
        return projected.permute(0, 3, 1, 2)


class DescriptorModel(nn.Module):
    """Computes the raw descriptors of images, for an engine: an `engines.Model` without heads.

    One export of it serves training and every model that training makes of the same backbone.
    """

    centred = True  # raw descriptors have a large mean, which hides that they differ

    def __init__(self, backbone: Backbone, extractor: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.extractor = extractor

    @property
    def input_size(self) -> int:
        """Returns the side of the backbone's input, in pixels."""
        return self.backbone.config.input_size

    @cached_property
    def outputs(self) -> tuple[Descriptor, ...]:
        """Returns the names of the descriptors, in the order in which they are computed."""
        device = next(self.parameters()).device
        with torch.inference_mode():
            return tuple(self(torch.zeros(1, 3, self.input_size, self.input_size, device=device)))

    def forward(self, pixels: torch.Tensor) -> dict[Descriptor, torch.Tensor]:
        """Compute descriptors: (B, 3, S, S) pixels -> (B, D) each."""
        return self.describe(self.backbone(pixels))

    def describe(self, features: BackboneFeatures) -> dict[Descriptor, torch.Tensor]:
        """Compute descriptors of backbone features: (B, D) each."""
        descriptors: dict[Descriptor, torch.Tensor] = self.extractor(features)
        return descriptors


def identity_of(model: DescriptorModel) -> str:
    """Returns a hash of all that decides the descriptors of given pixels."""
    text = f"{backbone_digest(model.backbone)}/{model.extractor!r}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def signed_root(values: torch.Tensor) -> torch.Tensor:
    """Take the root of each size and keep its sign: a few large channels outweigh no others."""
    values = values.float()
    return values.sign() * values.abs().sqrt()


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


def stage_at(fifths: int, count: int) -> int:
    """Returns the stage at a depth in fifths: 0, 1, 2, 3 of five; 2, 4, 7, 9 of twelve."""
    return math.ceil(count * fifths / 5) - 1


def _directions(channels: int, device: torch.device) -> torch.Tensor:
    """Returns (channels, CHANNELS) orthonormal directions: the slower waves of a cosine transform.

    Channels have no order, so any fixed directions do; these need no random numbers.
    """
    place = torch.arange(channels, device=device, dtype=torch.float32)[:, None] + 0.5
    wave = torch.arange(1, CHANNELS + 1, device=device, dtype=torch.float32)
    return torch.cos(math.pi * place * wave / channels) * math.sqrt(2 / channels)
