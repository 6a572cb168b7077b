"""What the benchmarks of the index build on: many small pictures, and a small real model."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from model.checkpoint import save_model
from tests.fakes import tiny_model

PER_CONCEPT = 10
BACKBONE, INPUT_SIZE = "mobilenetv3_small_050", 96


def draw_pictures(source: Path, numbers: range, *, side: int = 160) -> None:
    """Picture ``n`` is an exemplar of concept ``n // PER_CONCEPT``, whose colours it has."""
    for number in numbers:
        concept = number // PER_CONCEPT
        folder = source / f"concept-{concept:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        colours = np.random.default_rng(concept).integers(0, 256, (8, 3))
        generator = np.random.default_rng([number, 1])
        image = Image.new("RGB", (side, side), tuple(map(int, colours[0])))
        canvas = ImageDraw.Draw(image)
        for shape in range(12):
            x, y = generator.integers(0, side, 2)
            radius = int(generator.integers(side // 16, side // 4))
            box = (int(x) - radius, int(y) - radius, int(x) + radius, int(y) + radius)
            fill = tuple(map(int, colours[1 + shape % 7]))
            (canvas.ellipse if (concept + shape) % 2 else canvas.rectangle)(box, fill=fill)
        image.save(folder / f"{number:06d}.jpg", quality=90)


def save_small_model(models: Path, backbone: str = BACKBONE, input_size: int = INPUT_SIZE) -> str:
    """The id of a saved model with random weights, small but real."""
    return save_model(models, tiny_model(backbone, dimension=64, input_size=input_size), {})
