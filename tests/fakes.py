"""Test doubles that need no weights: images, two models, and a small index."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from index.answering.neighbours import ENTRY, Neighbours
from index.building.rebuild import rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from index.snapshot import Snapshot, open_published
from model.backbone import BackboneFeatures, create_random_backbone
from model.config import Facet, ModelConfig
from model.descriptors import FACETS, DescriptorExtractor
from model.embedder import AttributionModel
from model.explain import Patches
from model.head import AttributionHead


class FakeEmbedder:
    """Embeds an image by its colours on a coarse grid; equal images have equal vectors."""

    model_id = "fake-colours"
    input_size = 32
    min_decode_side = 10_000
    grid = 4
    square = None

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        small = image.resize((self.grid, self.grid), Image.Resampling.BOX)
        return torch.from_numpy(np.asarray(small, dtype=np.float32).transpose(2, 0, 1) / 255)

    def embed(self, images: Sequence[Image.Image]) -> dict[Facet, NDArray[np.float32]]:
        return self.embed_pixels([self.preprocess(image) for image in images])

    def embed_pixels(self, pixels: Sequence[torch.Tensor]) -> dict[Facet, NDArray[np.float32]]:
        batch = torch.stack(list(pixels)) - 0.5  # (B, 3, g, g)
        return {
            "subject": _unit(batch.flatten(1)),
            "style": _unit(torch.cat([batch.mean((2, 3)), batch.std((2, 3))], dim=1)),
        }

    def embed_with_patches(
        self, pixels: Sequence[torch.Tensor]
    ) -> tuple[dict[Facet, NDArray[np.float32]], list[Patches]]:
        cells = [one[None] - 0.5 for one in pixels]  # (1, 3, g, g)
        features = [BackboneFeatures(cell.flatten(1), [cell], cell) for cell in cells]
        return self.embed_pixels(pixels), [Patches(one, {}) for one in features]

    def contributions(
        self, facet: Facet, pictures: Sequence[Patches], others: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        cells = torch.cat([picture.features.final for picture in pictures])  # (N, 3, g, g)
        if facet == "subject":  # a sum over the cells
            there = torch.from_numpy(others).view_as(cells)
            length = cells.flatten(1).norm(dim=1)[:, None, None]
            return ((cells * there).sum(dim=1) / length).numpy()
        own = self.embed_pixels([cell + 0.5 for cell in cells])["style"]  # everywhere alike
        cosines = (own * others).sum(axis=1)[:, None, None]
        return np.broadcast_to(cosines / self.grid**2, (len(own), self.grid, self.grid))

    def view_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        return 0.0, 0.0, float(width), float(height)


def patches(seed: int, side: int = 32, cells: int = 4) -> Image.Image:
    """Return an image of ``cells`` x ``cells`` coloured patches, drawn with a seed."""
    colours = np.random.default_rng(seed).integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((side, side), Image.Resampling.NEAREST)


def tiny_model(
    name: str = "test_efficientnet", *, seed: int = 0, dimension: int = 8, input_size: int = 32
) -> AttributionModel:
    """Return a small model with random weights and the product's facets."""
    backbone = create_random_backbone(name, seed=seed, options={"input_size": input_size})
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        descriptors = DescriptorExtractor()(backbone(torch.zeros(1, 3, input_size, input_size)))
    heads = {
        name: AttributionHead(
            torch.randn(values.shape[1], generator=generator) / 10,
            torch.randn(dimension, values.shape[1], generator=generator),
        )
        for name, values in descriptors.items()
    }
    config = ModelConfig(
        backbone=backbone.config,
        facets={facet: dict(weights) for facet, weights in FACETS.items()},
        dimensions={name: (head.dimension, len(head.mean)) for name, head in heads.items()},
    )
    return AttributionModel(backbone, heads, config)


def build_snapshot(
    data: Path, images: Mapping[str, Sequence[Image.Image]], embedder: FakeEmbedder | None = None
) -> Snapshot:
    """Rebuild an index of ``images`` (concept name -> exemplars) and open it."""
    source = data / "source"
    for name, pictures in images.items():
        folder = source / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            picture.save(folder / f"{number:02d}.png")
    rebuild(DataFolder(data), read_sources([source]), embedder or FakeEmbedder())
    return open_published(DataFolder(data).index)


def _unit(x: torch.Tensor) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = torch.nn.functional.normalize(x, dim=1).numpy()
    return vectors


def neighbours_of(vectors: Mapping[Facet, NDArray[np.float32]], concepts: object) -> Neighbours:
    """Return lists of all exemplars of other concepts, computed one exemplar at a time."""
    numbers = np.asarray(concepts)
    lists = {}
    for facet, matrix in vectors.items():
        found = np.full((len(matrix), len(matrix)), -1, dtype=ENTRY)
        for row, vector in enumerate(matrix):
            strangers = np.flatnonzero(numbers != numbers[row])
            cosines = matrix[strangers] @ vector
            order = np.argsort(-cosines, kind="stable")
            found["row"][row, : len(order)] = strangers[order]
            found["similarity"][row, : len(order)] = cosines[order]
        lists[facet] = found
    return Neighbours(lists)
