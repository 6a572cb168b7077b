"""Principal axes of a backbone's wide stages, onto which their channels are projected.

The correlations of C channels are C (C - 1) / 2 numbers, too many where C is 384 or 768. The axes
of the most variance within pictures keep what varies; fixed directions keep a random part of it.
"""

from collections.abc import Iterable, Sequence

import torch

from model.backbone import Backbone
from model.descriptors import CHANNELS, stage_at
from model.errors import ImageError
from model.images import DEFAULT_LIMITS, ImageLimits
from model.sources.picture import Picture, decode_picture

IMAGES = 256  # that axes are fitted to, at most: some hundred positions each
BATCH = 16


@torch.inference_mode()
def principal_axes(
    backbone: Backbone,
    images: Sequence[Picture],
    depths: Iterable[int],
    *,
    device: torch.device,
    seed: int = 0,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> dict[int, torch.Tensor]:
    """Fit the axes of those stages at ``depths`` that have more than `CHANNELS` channels.

    Every picture counts alike: its covariance over positions is divided by its whole variance.

    Args:
        backbone: on ``device`` already.
        images: training images, of which up to `IMAGES` are drawn.
        depths: in fifths of the network.
        device: where the forward pass runs.
        seed: of the draw.
        limits: limits on an image's size.

    Returns:
        stage's number -> (C, `CHANNELS`) float32, orthonormal, the axis of most variance first.
        Stages that are narrow, or vary within no picture, are left out.
    """
    wanted = set(depths)
    pixels: list[torch.Tensor] = []
    sums: dict[int, torch.Tensor] = {}

    def add() -> bool:
        """Add a batch to the sums; return False if no stage is wide."""
        stages = backbone(torch.stack(pixels).to(device)).stages
        pixels.clear()
        places = {stage_at(depth, len(stages)) for depth in wanted}
        wide = [place for place in sorted(places) if stages[place].shape[1] > CHANNELS]
        for place in wide:
            x = stages[place].flatten(2).double()  # (B, C, P)
            x = x - x.mean(dim=2, keepdim=True)
            covariance = x @ x.transpose(1, 2)  # (B, C, C)
            whole = covariance.diagonal(dim1=1, dim2=2).sum(dim=1)
            share = torch.where(whole > 1e-12, 1 / whole.clamp(min=1e-12), 0)
            part = torch.einsum("b,bcd->cd", share, covariance).cpu()
            sums[place] = sums[place] + part if place in sums else part
        return bool(wide)

    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    for row in order[:IMAGES].tolist():
        try:
            picture = decode_picture(images[row], limits).pixels
        except ImageError:  # listed by whoever reads all images
            continue
        pixels.append(backbone.preprocess(picture))
        if len(pixels) == BATCH and not add():
            return {}
    if pixels:
        add()
    return {place: _leading(total) for place, total in sums.items() if total.any()}


def _leading(covariance: torch.Tensor) -> torch.Tensor:
    axes = torch.linalg.eigh(covariance).eigenvectors[:, -CHANNELS:].flip(1)
    # Of an axis and its opposite, the one whose largest part is positive.
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    leading: torch.Tensor = (axes * largest.sign()).float()
    return leading
