"""Distillation: losses that make a student's features match those of a frozen teacher."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from model.backbone import Backbone, BackboneFeatures
from model.config import Descriptor, TrainConfig
from model.descriptors import DescriptorExtractor
from model.errors import BackboneError, TrainingError
from model.head import AttributionHead
from model.pretraining.teacher import ReadTeacher, TeacherReader
from model.whitening import principal_map

LIFT = 1e-3  # added to pooled features, because the slope of their root is infinite at zero


@dataclass(frozen=True)
class DistillationLoss:
    """Holds the distance of a student from its teacher on one batch."""

    stages: torch.Tensor  # (S,) share of the variance of the teacher's maps that is not matched
    descriptors: torch.Tensor  # 1 - cosine of the disentangled descriptors; a scalar


@dataclass(frozen=True)
class TeacherScales:
    """Holds the statistics of a teacher that distillation needs.

    Attributes:
        heads: of each descriptor, disentangled in closed form.
        means: (C,) of each stage's channels.
        deviations: (C,) likewise, none of them zero.
    """

    heads: Mapping[Descriptor, AttributionHead]
    means: Sequence[torch.Tensor]
    deviations: Sequence[torch.Tensor]


class Distiller(nn.Module):
    """Dense distillation of stages, and cosine distillation of disentangled descriptors.

    Every stage of the student is compared with the teacher's stage of the same depth, position
    by position, each of the teacher's channels brought to mean 0 and variance 1. Where the two
    have the same number of channels they are matched one to one; else through a learnt 1 x 1
    projection, and a map of another size is resized. In addition each descriptor of the
    student (`DescriptorExtractor`), mapped by the closed form of the teacher's disentanglement
    (`principal_map`), has a cosine loss; where the descriptors' lengths differ, a linear map
    between them is learnt.

    Args:
        teacher: frozen here; not a parameter of this module and not in its state.
        student: to see its shapes; not kept.
        scales: of the teacher's stages and descriptors, from `measure_teacher`.
        size: pixels a side of a first image, to see the shapes.
        read: computes the teacher's features in place of the teacher itself.
    """

    def __init__(
        self,
        teacher: Backbone,
        student: Backbone,
        scales: TeacherScales,
        size: int,
        read: ReadTeacher | None = None,
    ) -> None:
        super().__init__()
        self._read_teacher = (read or TeacherReader(teacher),)
        self._teacher = (teacher.eval().requires_grad_(False),)  # a tuple hides it from nn.Module
        self._heads = {name: head.requires_grad_(False) for name, head in scales.heads.items()}
        self._means, self._deviations = scales.means, scales.deviations
        device = next(teacher.parameters()).device
        wanted, given = _shapes(teacher, size), _shapes(student, size)
        self.depths = _same_depths(len(given.stages), len(wanted.stages))
        self.projections = nn.ModuleList(
            _projection(stage.shape[1], wanted.stages[depth].shape[1])
            for stage, depth in zip(given.stages, self.depths, strict=True)
        )
        own, theirs = _read(given), _read(wanted)
        self.translations = nn.ModuleDict(
            {
                name: nn.Identity()
                if own[name].shape == theirs[name].shape
                else nn.Linear(own[name].shape[1], theirs[name].shape[1])
                for name in own
            }
        )
        self.to(device)

    @property
    def teacher(self) -> Backbone:
        """Return the frozen teacher."""
        return self._teacher[0]

    def forward(self, student: BackboneFeatures, pixels: torch.Tensor) -> DistillationLoss:
        """Compare a student's features of a batch with the teacher's.

        Args:
            student: of the batch, as the student normalises it.
            pixels: (B, 3, S, S) float of the same batch, as the teacher normalises it.
        """
        teacher = self._read_teacher[0](pixels)
        unmatched = [
            _unmatched(
                project(stage), teacher.stages[depth], self._means[depth], self._deviations[depth]
            )
            for project, stage, depth in zip(
                self.projections, student.stages, self.depths, strict=True
            )
        ]
        with torch.no_grad():
            wanted = _read(teacher)
        given = _read(student)
        with torch.autocast(pixels.device.type, enabled=False):
            apart = [
                1 - (head(self.translations[name](given[name])) * head(wanted[name])).sum(1).mean()
                for name, head in self._heads.items()
            ]
        return DistillationLoss(torch.stack(unmatched), torch.stack(apart).mean())


@torch.no_grad()
def measure_teacher(
    teacher: Backbone,
    batches: Iterable[torch.Tensor],
    config: TrainConfig,
    read: ReadTeacher | None = None,
) -> TeacherScales:
    """Measure the statistics of a teacher on some thousands of images.

    Args:
        teacher: on its device already.
        batches: (B, 3, S, S) float each, as the teacher normalises them.
        config: how each descriptor is whitened.
        read: as in `Distiller`.

    Raises:
        TrainingError: the teacher's features do not vary or are not finite.
    """
    read = read or TeacherReader(teacher)
    parts: dict[Descriptor, list[torch.Tensor]] = {}
    sums: list[torch.Tensor] = []  # of each stage: of its values and of their squares, (2, C)
    count = 0
    device = next(teacher.parameters()).device
    for pixels in batches:
        features = read(pixels.to(device))
        for name, values in _read(features).items():
            parts.setdefault(name, []).append(values.cpu())
        for number, stage in enumerate(features.stages):
            x = stage.double()
            moments = torch.stack([x, x.square()]).mean(dim=(1, 3, 4)) * len(pixels)
            if number == len(sums):
                sums.append(torch.zeros_like(moments))
            sums[number] += moments
        count += len(pixels)
    heads = {}
    for name, rows in parts.items():
        recipe = config.descriptors[name]
        try:
            found = principal_map(
                torch.cat(rows),
                power=recipe.power,
                components=recipe.components,
                standardise=recipe.standardise,
            )
        except TrainingError as error:
            raise TrainingError(f"the teacher's {name} features: {error}") from error
        heads[name] = AttributionHead(found.mean.float(), found.weight.float()).to(device)
    means = [values / count for values, _ in sums]
    variances = [squares / count - (values / count).square() for values, squares in sums]
    return TeacherScales(
        heads,
        [mean.float() for mean in means],
        # A channel that hardly varies shall count less than the others.
        [(v.clamp(min=0) + 1e-3 * v.mean() + 1e-12).sqrt().float() for v in variances],
    )


def _read(features: BackboneFeatures) -> dict[Descriptor, torch.Tensor]:
    with torch.autocast(features.pooled.device.type, enabled=False):
        lifted = replace(features, pooled=features.pooled.float() + LIFT)
        read: dict[Descriptor, torch.Tensor] = DescriptorExtractor()(lifted)
        return read


def _unmatched(
    given: torch.Tensor, wanted: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor
) -> torch.Tensor:
    """Returns the mean squared error of (B, C, H, W) maps, the target at unit variance."""
    wanted = (wanted.float() - mean[:, None, None]) / deviation[:, None, None]
    if wanted.shape[2:] != given.shape[2:]:
        wanted = F.interpolate(wanted, given.shape[2:], mode="bilinear", antialias=True)
    return F.mse_loss(given.float(), wanted)


def _same_depths(stages: int, among: int) -> list[int]:
    """Returns, for each stage of one network, the other's stage at the same relative depth."""
    return [-(-(stage + 1) * among // stages) - 1 for stage in range(stages)]


def _projection(given: int, wanted: int) -> nn.Module:
    return nn.Identity() if given == wanted else nn.Conv2d(given, wanted, 1)


@torch.no_grad()
def _shapes(backbone: Backbone, size: int) -> BackboneFeatures:
    """Compute the features of one grey image, to learn the shapes of a backbone's outputs."""
    training = backbone.training
    device = next(backbone.parameters()).device
    try:
        features: BackboneFeatures = backbone.eval()(torch.zeros(1, 3, size, size, device=device))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise BackboneError(
            f"{backbone.config.name!r} cannot read images of {size} x {size} pixels ({error}); "
            "choose another --input-size, or for a vision transformer as teacher add "
            "--teacher-option dynamic_img_size=true"
        ) from error
    finally:
        backbone.train(training)
    if any(stage.ndim != 4 for stage in features.stages):
        raise BackboneError(
            f"{backbone.config.name!r} does not give its stages as maps, so they cannot be "
            "matched; choose another teacher"
        )
    return features
