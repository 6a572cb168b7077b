from dataclasses import replace

import pytest
import torch

from model.backbone import Backbone, BackboneFeatures, create_random_backbone
from model.config import TrainConfig
from model.errors import BackboneError, TrainingError
from model.pretraining.distillation import (
    DistillationLoss,
    Distiller,
    TeacherScales,
    measure_teacher,
)

CONV, SMALLER = "test_efficientnet", "mobilenetv3_small_050"
SIZE = {"input_size": 64}


def pixels(count: int = 8, seed: int = 0, size: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def distiller(teacher: Backbone, student: Backbone) -> Distiller:
    batches = [pixels(16, seed) for seed in range(3)]
    return Distiller(teacher, student, measure_teacher(teacher, batches, TrainConfig()), 64)


def normalise(features: BackboneFeatures, measured: Distiller) -> BackboneFeatures:
    """A student that has learnt all: the teacher's stages at unit variance."""
    scales = zip(features.stages, measured._means, measured._deviations, strict=True)
    stages = [(x - m[:, None, None]) / d[:, None, None] for x, m, d in scales]
    return replace(features, stages=stages)


@torch.no_grad()
def loss(one: Distiller, features: BackboneFeatures) -> DistillationLoss:
    return one(features, pixels())


def test_a_student_that_equals_its_teacher_has_nothing_to_learn() -> None:
    teacher = create_random_backbone(CONV, seed=1, options=SIZE)
    measured = distiller(teacher, create_random_backbone(CONV, seed=2, options=SIZE))
    with torch.no_grad():
        found = loss(measured, normalise(teacher(pixels()), measured))
    assert float(found.stages.max()) < 1e-6
    assert float(found.descriptors) < 1e-3


def test_a_student_that_knows_nothing_is_far_off() -> None:
    teacher, student = (create_random_backbone(CONV, seed=s, options=SIZE) for s in (1, 2))
    measured = distiller(teacher, student)
    with torch.no_grad():
        silent = [torch.zeros_like(stage) for stage in student(pixels()).stages]
        found = loss(measured, replace(student(pixels()), stages=silent))
    # To say 0 is to miss all of each channel's variance.
    assert 0.7 < float(found.stages.mean()) < 1.3
    assert float(found.descriptors) > 0.3


@pytest.mark.parametrize(
    ("teacher_name", "student_name"), [(CONV, SMALLER), ("test_vit", CONV), (CONV, "test_vit")]
)
def test_networks_of_other_shapes_are_matched_through_projections(
    teacher_name: str, student_name: str
) -> None:
    options = {name: dict(SIZE) for name in (teacher_name, student_name)}
    if "test_vit" in options:
        options["test_vit"] |= {"img_size": 64}
    teacher = create_random_backbone(teacher_name, seed=1, options=options[teacher_name])
    student = create_random_backbone(student_name, seed=2, options=options[student_name])
    measured = distiller(teacher, student)
    found = measured(student(pixels()), pixels())
    (found.stages.sum() + found.descriptors).backward()
    trained = {name for name, p in measured.named_parameters() if p.grad is not None}
    assert any(name.startswith("projections") for name in trained)
    assert any(name.startswith("translations") for name in trained)
    assert student.network.conv_stem.weight.grad is not None if student_name != "test_vit" else True
    assert all(p.grad is None for p in teacher.parameters())


def test_the_teacher_is_no_part_of_what_is_trained_or_saved() -> None:
    teacher, student = (create_random_backbone(CONV, seed=s, options=SIZE) for s in (1, 2))
    measured = distiller(teacher, student)
    assert not list(measured.parameters())  # of one architecture, so nothing to learn between them
    assert not measured.state_dict()
    assert not any(p.requires_grad for p in teacher.parameters())


def test_gradients_are_finite_where_pooled_features_are_zero() -> None:
    teacher, student = (create_random_backbone(CONV, seed=s, options=SIZE) for s in (1, 2))
    measured = distiller(teacher, student)
    features = student(pixels())
    nothing = torch.zeros_like(features.pooled, requires_grad=True)
    found = measured(replace(features, pooled=nothing), pixels())
    found.descriptors.backward()
    assert nothing.grad is not None
    assert torch.isfinite(nothing.grad).all()


def test_a_teacher_that_cannot_read_the_images_is_an_error_with_a_way_out() -> None:
    teacher = create_random_backbone("vit_tiny_patch16_224")
    student = create_random_backbone(CONV, options=SIZE)
    with pytest.raises(
        BackboneError, match=r"vit_tiny_patch16_224.*64 x 64.*dynamic_img_size=true"
    ):
        Distiller(teacher, student, TeacherScales({}, [], []), 64)


def test_a_teacher_to_which_all_images_are_alike_is_an_error() -> None:
    teacher = create_random_backbone(CONV, options=SIZE)
    with pytest.raises(TrainingError, match="the teacher's"):
        measure_teacher(teacher, [torch.zeros(8, 3, 64, 64)], TrainConfig())
