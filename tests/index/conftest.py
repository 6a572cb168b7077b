"""A data folder to rebuild in, again and again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from index.building import rebuild as rebuild_module
from index.building.rebuild import RebuildOptions, RebuildSummary, rebuild
from index.building.scan import Progress
from index.building.source import read_sources
from index.layout import DataFolder
from tests.fakes import FakeEmbedder, patches


class CountingEmbedder(FakeEmbedder):
    """Counts the images it embeds."""

    def __init__(self) -> None:
        self.count = 0

    def embed_pixels(self, pixels: Sequence[torch.Tensor]) -> dict:
        self.count += len(pixels)
        return super().embed_pixels(pixels)


class House:
    """A data folder and a source beside it."""

    def __init__(self, root: Path) -> None:
        self.data = DataFolder(root / "data")
        self.source = root / "source"
        self.embedder = CountingEmbedder()

    def draw(self, concepts: Mapping[str, Sequence[int]]) -> None:
        """Sample the picture of each seed as an exemplar of its concept."""
        for name, seeds in concepts.items():
            folder = self.source / name
            folder.mkdir(parents=True, exist_ok=True)
            for seed in seeds:
                patches(seed).save(folder / f"{seed:03}.png")

    def rebuild(
        self, *, force: bool = True, progress: Progress | None = None, **options: Any
    ) -> RebuildSummary:
        self.embedder.count = 0
        exemplars = read_sources([self.source])
        chosen = RebuildOptions(force=force, **options)
        return rebuild(self.data, exemplars, self.embedder, chosen, progress=progress)

    def counts(self, **options: object) -> tuple[int, int, int, int]:
        """added, kept, removed, embedded."""
        summary = self.rebuild(**options)
        return summary.added, summary.kept, summary.removed, summary.embedded


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setattr(rebuild_module, "NULL_QUERIES", 20)
    house = House(tmp_path)
    house.draw({"one": [0, 1, 2], "two": [10, 11]})
    return house
