"""The steps of one query image."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from app.inference.deadline import Deadline
from app.inference.job import ImageJob
from model.embedder import Embedder
from model.images import decode_image
from tests.fakes import tiny_model
from tests.pictures import encode, noise


@pytest.mark.parametrize("size", [(80, 90), (200, 90)])
def test_the_model_reads_the_same_pixels_with_a_preview_and_without(size: tuple[int, int]) -> None:
    attributor: Any = SimpleNamespace(embedder=Embedder(tiny_model(), "tiny", device="cpu"))
    data = encode(noise(*size))
    jobs = [
        ImageJob(attributor, Deadline(60), 5, 3, with_preview=preview) for preview in (False, True)
    ]
    for job in jobs:
        job.decode(lambda side, square: decode_image(data, min_decode_side=side, square=square))
    plain, shown = jobs
    assert (plain.preview is None, shown.preview is None) == (True, False)
    assert len(plain.pixels) == len(plain.parts) == len(shown.pixels)
    assert torch.equal(torch.stack(list(plain.pixels)), torch.stack(list(shown.pixels)))
