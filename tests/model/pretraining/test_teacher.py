from pathlib import Path

import torch

from model.backbone import create_random_backbone
from model.engines import probe
from model.pretraining.teacher import TeacherReader


def test_an_engine_reads_a_teacher_at_another_size_as_the_teacher_itself(tmp_path: Path) -> None:
    teacher = create_random_backbone("test_efficientnet", options={"input_size": 64}).eval()
    read = TeacherReader(teacher, "onnx", tmp_path)
    for count in (5, 2):
        pixels = probe(teacher.config, count, size=32)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # as in a training step
            found = read(pixels)
        with torch.no_grad():
            expected = teacher(pixels)
        assert torch.allclose(found.pooled, expected.pooled, atol=1e-4)
        assert len(found.stages) == len(expected.stages)
        for one, other in zip(found.stages, expected.stages, strict=True):
            assert one.dtype == torch.float32
            assert torch.allclose(one, other, atol=1e-3)
    assert len(list(tmp_path.iterdir())) == 1
