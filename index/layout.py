"""Where everything lies below the data folder."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataFolder:
    """The one folder that holds all state."""

    root: Path

    @property
    def models(self) -> Path:
        """Trained models, a folder each."""
        return self.root / "models"

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

    def embeddings(self, model_id: str) -> Path:
        """Embeddings by content hash; may be deleted at any time."""
        return self.root / "cache" / model_id / "embeddings.sqlite"
