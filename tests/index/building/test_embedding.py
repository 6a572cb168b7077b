"""Images of a rebuild: what is held of them while the cache is filled."""

import gc
from pathlib import Path

from index.building.embedding import BATCH, ImageFile, Prepared, embed_files
from index.building.embedding_cache import EmbeddingCache
from model.sources.local import local_files
from model.sources.picture import hash_picture
from tests.fakes import FakeEmbedder, patches

WORKERS = 2


class WatchingEmbedder(FakeEmbedder):
    """Counts the prepared images that exist whenever a batch is embedded."""

    most = 0

    def embed_pixels(self, pixels):
        alive = sum(type(one) is Prepared for one in gc.get_objects())
        self.most = max(self.most, alive)
        return super().embed_pixels(pixels)


def test_prepared_images_that_are_held_do_not_grow_with_their_number(tmp_path: Path) -> None:
    paths = []
    for seed in range(7 * BATCH):
        paths.append(tmp_path / f"{seed}.png")
        patches(seed).save(paths[-1])
    files = [ImageFile(one, hash_picture(one)) for one in local_files(paths)]
    most = []
    for count in (3 * BATCH, len(files)):
        embedder = WatchingEmbedder()
        with EmbeddingCache(tmp_path / f"{count}.sqlite") as cache:
            report = embed_files(cache, files[:count], embedder, workers=WORKERS)
        assert report.embedded == count
        most.append(embedder.most)
    assert max(most) <= 2 * BATCH + WORKERS
