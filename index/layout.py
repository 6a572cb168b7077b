"""Paths of the files and folders in the data folder."""

from dataclasses import dataclass
from pathlib import Path

from index.stores.registry import LOCAL, VectorStores


@dataclass(frozen=True)
class DataFolder:
    """Holds the data folder's path and gives those below it.

    Args:
        root: the folder.
        stores: opens the vectors of index versions in remote stores.
    """

    root: Path
    stores: VectorStores = LOCAL

    @property
    def models(self) -> Path:
        """Return the folder of trained models, a folder each."""
        return self.root / "models"

    @property
    def pretraining(self) -> Path:
        """Return the folder of pre-training runs, each with its checkpoint and epochs' weights."""
        return self.root / "pretrain"

    @property
    def index(self) -> Path:
        """Return the folder of index versions, with the file naming the published one."""
        return self.root / "index"

    @property
    def takedowns(self) -> Path:
        """Return the path of the append-only takedown log."""
        return self.root / "takedowns.jsonl"

    @property
    def keys(self) -> Path:
        """Return the path of the file of API key hashes."""
        return self.root / "keys.json"

    @property
    def features(self) -> Path:
        """Return the folder of training runs' feature banks; may be deleted at any time."""
        return self.root / "cache" / "features"

    def withdrawn(self, model_id: str) -> Path:
        """Return the path of a model's embeddings of withdrawn works, by which copies are found."""
        return self.root / "withdrawn" / f"{model_id}.safetensors"

    def samples(self, version: str) -> Path:
        """Return the folder of an index version's sample images; most versions have none."""
        return self.root / "samples" / version

    def all_samples(self) -> list[Path]:
        """Return the paths of the sample images of all index versions."""
        return sorted(path for path in self.root.glob("samples/*/*") if path.is_file())

    @property
    def engines(self) -> Path:
        """Return the folder of models exported for engines; may be deleted at any time."""
        return self.root / "cache" / "engines"

    @property
    def listings(self) -> Path:
        """Return the path of what shards at URLs hold; may be deleted at any time."""
        return self.root / "cache" / "listings.sqlite"

    def embeddings(self, model_id: str) -> Path:
        """Return the path of a model's embedding cache; may be deleted at any time."""
        return self.root / "cache" / model_id / "embeddings.sqlite"

    def all_embeddings(self) -> list[Path]:
        """Return the paths of all models' embedding caches."""
        return sorted(self.root.glob("cache/*/embeddings.sqlite"))
