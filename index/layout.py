"""The paths below the data folder."""

from dataclasses import dataclass
from pathlib import Path

from index.stores.registry import LOCAL, VectorStores


@dataclass(frozen=True)
class DataFolder:
    """The folder that holds all state.

    Args:
        root: the folder.
        stores: opens the vectors of index versions that have them elsewhere.
    """

    root: Path
    stores: VectorStores = LOCAL

    @property
    def models(self) -> Path:
        """Trained models, a folder each."""
        return self.root / "models"

    @property
    def pretraining(self) -> Path:
        """Runs of pre-training, a folder each: the checkpoint, and the weights of every epoch."""
        return self.root / "pretrain"

    @property
    def index(self) -> Path:
        """Index versions, a folder each, and the file naming the published one."""
        return self.root / "index"

    @property
    def takedowns(self) -> Path:
        """The append-only log of withdrawn works."""
        return self.root / "takedowns.jsonl"

    @property
    def keys(self) -> Path:
        """The API keys' hashes."""
        return self.root / "keys.json"

    @property
    def features(self) -> Path:
        """Feature banks of training runs; may be deleted at any time."""
        return self.root / "cache" / "features"

    def samples(self, version: str) -> Path:
        """Images to try an index version with; most have none."""
        return self.root / "samples" / version

    @property
    def engines(self) -> Path:
        """Models as inference engines want them; may be deleted at any time."""
        return self.root / "cache" / "engines"

    def embeddings(self, model_id: str) -> Path:
        """Embeddings by content hash; may be deleted at any time."""
        return self.root / "cache" / model_id / "embeddings.sqlite"

    def all_embeddings(self) -> list[Path]:
        """Return the paths of every model's embeddings."""
        return sorted(self.root.glob("cache/*/embeddings.sqlite"))
