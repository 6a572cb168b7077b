"""What is left on the disk of a withdrawn work: looked for byte by byte."""

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch

from index.building.embedding import BATCH
from index.building.embedding_cache import EmbeddingCache
from index.errors import RebuildError
from index.snapshot import CATALOG, open_published, published_version
from index.takedowns.log import TakedownLog
from index.takedowns.purge import purge
from index.takedowns.witnesses import attest
from index.versions import rebuild_lock
from tests.fakes import FakeEmbedder, patches
from tests.index.conftest import CountingEmbedder, House
from tests.index.takedowns.test_log import answering, exemplar_id, named, take_down
from tests.pictures import noise


class OtherModel(CountingEmbedder):
    """Another model, with vectors of its own."""

    model_id = "another-model"

    def embed_pixels(self, pixels: list[torch.Tensor]) -> dict:
        return super().embed_pixels([1 - each**2 for each in pixels])


@pytest.fixture
def full(house: House) -> House:
    """Two models' caches, three versions and a feature bank; one thumbnail fills many pages."""
    noise(320, 320, seed=1).save(house.source / "one" / "large.png")
    house.draw({f"c{n}": [100 + n] for n in range(BATCH)})
    house.embedder = OtherModel()
    house.rebuild(canary_rate=0)  # pictures so alike that few are told apart
    house.embedder = CountingEmbedder()
    house.rebuild(canary_rate=0)
    house.rebuild(canary_rate=0)
    bank = house.data.features / "bank"
    bank.mkdir(parents=True)
    np.save(bank / "pooled.npy", np.zeros((3, 4), dtype=np.float32))
    return house


def traces(house: House, sha256: str) -> list[bytes]:
    """Bytes that are in a file only if it holds the image's thumbnail or a vector of it.

    Pages cut what is long, so each piece counts; but not what every JPEG begins with.
    """
    mine, others = [], []
    for path in house.data.all_embeddings():
        db = sqlite3.connect(path)
        for table, column in (("images", "thumbnail"), ("vectors", "vector")):
            for key, blob in db.execute(f"SELECT key, {column} FROM {table}"):
                (mine if key.startswith(sha256) else others).append(bytes(blob))
        db.close()
    pieces = {blob[i : i + 24] for blob in mine for i in range(0, len(blob) - 23, 24)}
    rest = b"".join(others)
    return [piece for piece in pieces if piece not in rest]


def holding(house: House, pieces: list[bytes]) -> set[str]:
    """The files of the data folder, its log apart, that hold one of these."""
    files = [path for path in house.data.root.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(house.data.root))
        for path in files
        for data in [path.read_bytes()]
        if any(piece in data for piece in pieces)
    }


def sha_of(house: House, identifier: str) -> str:
    snapshot = open_published(house.data.index)
    try:
        return snapshot.catalog.exemplar(identifier).sha256
    finally:
        snapshot.close()


def test_nothing_of_a_withdrawn_work_is_left_even_if_its_file_is_gone(full: House) -> None:
    old = {path.name for path in full.data.index.iterdir() if path.is_dir()}
    # Both the smallest thumbnail and the one of many pages.
    catalog = open_published(full.data.index).catalog
    gone = [e for e in catalog.exemplars_of("one") if Path(e.path).stem in {"000", "large"}]
    pieces = [piece for exemplar in gone for piece in traces(full, exemplar.sha256)]
    before = holding(full, pieces)
    assert {path for path in before if path.endswith("embeddings.sqlite")} == {
        "cache/another-model/embeddings.sqlite",
        "cache/fake-colours/embeddings.sqlite",
    }
    assert {f"index/{version}/{CATALOG}" for version in old} <= before
    for exemplar in gone:
        take_down(full, "exemplar", exemplar.id)
        Path(exemplar.path).unlink()
    full.rebuild(keep=10, canary_rate=0)
    done = purge(full.data)
    assert (done.images, done.caches, done.features, done.left) == (4, 2, True, [])
    assert set(done.versions) == old
    assert holding(full, pieces) == set()
    assert not full.data.features.exists()
    assert named(answering(full), 10)[0] == "two"  # and the rest works on,
    assert full.rebuild(canary_rate=0).embedded == 0  # with nothing lost that was not withdrawn
    again = purge(full.data)
    assert (again.images, again.versions, again.left) == (0, [], [])


def test_a_copy_of_a_withdrawn_work_is_erased_as_well(full: House) -> None:
    copy = full.source / "two" / "copy.jpg"
    patches(0, side=128).save(copy, quality=70)
    full.rebuild(canary_rate=0)
    [exemplar] = [
        e
        for e in open_published(full.data.index).catalog.exemplars_of("two")
        if Path(e.path).name == "copy.jpg"
    ]
    pieces = traces(full, exemplar.sha256)
    assert holding(full, pieces)
    take_down(full, "exemplar", exemplar_id(full, "one"))
    copy.unlink()
    full.rebuild(canary_rate=0)
    purge(full.data)
    assert holding(full, pieces) == set()


def test_what_an_earlier_whence_only_unlinked_is_erased(full: House) -> None:
    """A deleted row stays in its page, if nothing overwrites it."""
    exemplar = exemplar_id(full, "one")
    sha256 = sha_of(full, exemplar)
    pieces = traces(full, sha256)
    take_down(full, "exemplar", exemplar)
    full.rebuild(keep=1, canary_rate=0)
    with EmbeddingCache(full.data.embeddings(OtherModel.model_id)):
        pass  # whatever lay in its log is in its file now
    path = full.data.embeddings(OtherModel.model_id)
    db = sqlite3.connect(path)
    db.execute("PRAGMA secure_delete = OFF")
    with db:
        for table in ("images", "vectors"):
            db.execute(f"DELETE FROM {table} WHERE key LIKE ?", (f"{sha256}%",))
    db.close()
    assert holding(full, pieces) == {"cache/another-model/embeddings.sqlite"}
    assert purge(full.data).images == 0
    assert holding(full, pieces) == set()


def test_a_rebuild_overwrites_what_it_forgets(full: House) -> None:
    exemplar = exemplar_id(full, "one")
    pieces = traces(full, sha_of(full, exemplar))
    take_down(full, "exemplar", exemplar)
    full.rebuild(keep=1, canary_rate=0)
    assert holding(full, pieces) <= {
        "cache/another-model/embeddings.sqlite",
        "cache/fake-colours/embeddings.sqlite-wal",
    }


def test_a_published_version_that_holds_it_stays_and_is_told(full: House) -> None:
    published = published_version(full.data.index)
    assert published
    take_down(full, "concept", "one")
    done = purge(full.data)
    assert len(done.versions) == 2
    [left] = done.left
    assert published in left
    assert "4 withdrawn files" in left
    assert "whence rebuild" in left
    assert named(answering(full), 10)[0] == "two"
    full.rebuild(canary_rate=0)
    assert purge(full.data).left == []


def test_a_version_that_cannot_be_read_is_told(full: House) -> None:
    take_down(full, "concept", "one")
    oldest = sorted(path for path in full.data.index.iterdir() if path.is_dir())[0]
    (oldest / CATALOG).write_bytes(b"damaged")
    full.rebuild(keep=10, canary_rate=0)
    done = purge(full.data)
    assert [oldest.name in left for left in done.left] == [True]
    assert (oldest / CATALOG).exists()


def test_without_a_takedown_in_force_nothing_is_erased(full: House) -> None:
    one = take_down(full, "concept", "one")
    TakedownLog(full.data.takedowns).lift(one.id, reason="r")
    before = holding(full, [b""])
    done = purge(full.data)
    assert (done.images, done.caches, done.features, done.versions) == (0, 0, False, [])
    assert holding(full, [b""]) == before


def test_not_beside_a_rebuild_or_a_process_that_reads_a_cache(full: House) -> None:
    take_down(full, "concept", "one")
    with (
        rebuild_lock(full.data.index),
        pytest.raises(RebuildError, match="another rebuild is running"),
    ):
        purge(full.data)
    reader = sqlite3.connect(full.data.embeddings(FakeEmbedder.model_id))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM images").fetchone()
    with pytest.raises(RebuildError, match="end the process"):
        purge(full.data)
    reader.close()
    assert purge(full.data).images == 0  # they were forgotten before, and are erased now


def test_a_file_that_a_withdrawn_concept_had_is_erased_whoever_tells_of_it(full: House) -> None:
    """Only an old version knows it: the log was written by one that did not."""
    moved = full.source / "one" / "000.png"
    pieces = traces(full, sha_of(full, exemplar_id(full, "one")))
    moved.unlink()
    full.rebuild(keep=10, canary_rate=0)
    TakedownLog(full.data.takedowns).add("concept", "one", [], reason="r")
    full.rebuild(keep=10, canary_rate=0)
    assert holding(full, pieces)
    assert purge(full.data).left == []
    assert holding(full, pieces) == set()


def test_copies_are_erased_from_a_cache_without_fingerprints(full: House) -> None:
    copy = full.source / "two" / "copy.jpg"
    patches(0, side=128).save(copy, quality=70)
    full.rebuild(keep=1, canary_rate=0)
    full.rebuild(keep=1, canary_rate=0)
    [exemplar] = [
        e for e in open_published(full.data.index).catalog.exemplars() if e.path == str(copy)
    ]
    pieces = traces(full, exemplar.sha256)
    copy.unlink()
    full.rebuild(keep=1, canary_rate=0)  # no version tells of it
    take_down(full, "exemplar", exemplar_id(full, "one"))
    for path in full.data.all_embeddings():
        db = sqlite3.connect(path)
        with db:
            db.execute("DELETE FROM fingerprints")
        db.close()
    full.rebuild(keep=1, canary_rate=0)
    assert holding(full, pieces)
    purge(full.data)
    assert holding(full, pieces) == set()


def test_what_cannot_be_removed_is_told(full: House, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = sorted(path.name for path in full.data.index.iterdir() if path.is_dir())
    take_down(full, "concept", "one")
    full.rebuild(keep=10, canary_rate=0)
    rmtree = shutil.rmtree

    def fail(path: Path, ignore_errors: bool = False) -> None:
        if path.name != full.data.features.name and first not in path.name:
            rmtree(path, ignore_errors=ignore_errors)
        elif not ignore_errors:
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", fail)
    done = purge(full.data)
    assert first not in done.versions
    assert not done.features
    assert [first in done.left[0], str(full.data.features) in done.left[1]] == [True, True]
    assert all("cannot be removed" in left for left in done.left)
    monkeypatch.undo()
    again = purge(full.data)
    assert (again.features, again.left) == (True, [])
    assert not list(full.data.index.glob(".building-*"))


def test_samples_that_show_a_withdrawn_work_are_removed(full: House) -> None:
    folder = full.data.root / "samples" / "v"
    folder.mkdir(parents=True)
    patches(0, side=128).save(folder / "copy.webp")
    patches(77, side=128).save(folder / "other.webp")
    take_down(full, "concept", "one")
    assert purge(full.data).samples == 1
    assert [path.name for path in folder.iterdir()] == ["other.webp"]


def test_runs_of_pre_training_begun_before_a_takedown_are_removed(full: House) -> None:
    runs = [full.data.pretraining / name for name in ("before", "between", "after", "unknown")]
    for run in runs:
        run.mkdir(parents=True)
        (run / "epoch-0001.safetensors").write_bytes(b"weights")
    log = TakedownLog(full.data.takedowns)
    attest(runs[0], log.read().extent)
    lifted = log.add("image", "x", [], reason="r")
    take_down(full, "concept", "one")
    attest(runs[1], log.read().extent)
    take_down(full, "concept", "two")
    log.lift(lifted.id, reason="r")
    attest(runs[2], log.read().extent)
    assert purge(full.data).pretraining == ["before", "between", "unknown"]
    assert [run.name for run in full.data.pretraining.iterdir()] == ["after"]
