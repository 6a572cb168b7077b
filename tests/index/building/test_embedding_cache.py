import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.building.embedding_cache import EmbeddedImage, EmbeddingCache
from index.errors import RebuildError
from index.layout import DataFolder
from index.versions import named_failures


def embedded(key: str, seed: int = 0) -> EmbeddedImage:
    random = np.random.default_rng(seed)
    return EmbeddedImage(
        key=key,
        width=seed + 30,
        height=seed + 40,
        thumbnail=f"jpeg of {key}".encode(),
        vectors={
            "subject": random.random(6, dtype=np.float32),
            "style": random.random(3, dtype=np.float32),
        },
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "embeddings.sqlite"


@pytest.fixture
def cache(path: Path) -> Iterator[EmbeddingCache]:
    with EmbeddingCache(path) as opened:
        yield opened


def test_what_was_added_is_found_exactly(cache: EmbeddingCache) -> None:
    images = [embedded("a", 1), embedded("b", 2)]
    cache.add(images)
    for facet in ("subject", "style"):
        found = cache.vectors(facet, ["b", "a", "b"])
        expected = np.stack([images[i].vectors[facet] for i in (1, 0, 1)])
        assert found.dtype == np.float32
        assert np.array_equal(found, expected)
    assert cache.sizes()["b"] == (32, 42)
    assert cache.thumbnail("a") == b"jpeg of a"
    assert set(cache.facets()) == {"subject", "style"}


def test_missing_keys_are_told_in_order_and_once(cache: EmbeddingCache) -> None:
    cache.add([embedded("known")])
    assert cache.missing(["z", "known", "a", "z", "known/view-0"]) == ["z", "a", "known/view-0"]
    assert cache.missing([]) == []


def test_a_cache_is_kept_between_openings(path: Path) -> None:
    with EmbeddingCache(path) as cache:
        cache.add([embedded("a")])
    with EmbeddingCache(path) as cache:
        assert cache.missing(["a", "b"]) == ["b"]


def test_a_batch_is_kept_whole_or_not_at_all(cache: EmbeddingCache, path: Path) -> None:
    def interrupted() -> Iterator[EmbeddedImage]:
        yield embedded("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.add(interrupted())
    assert cache.missing(["a"]) == ["a"]
    assert sqlite3.connect(path).execute("SELECT count(*) FROM vectors").fetchone() == (0,)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "filling").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_full_disk_is_not_called_damage(tiny_disk: Path) -> None:
    folder = DataFolder(tiny_disk)
    path = folder.embeddings("model")
    path.parent.mkdir(parents=True)
    fill(tiny_disk)
    with pytest.raises(RebuildError, match="make room") as refused:
        EmbeddingCache(path)
    assert "delete" not in str(refused.value)
    (tiny_disk / "filling").unlink()
    with EmbeddingCache(path) as cache:
        cache.add([embedded("a")])
        fill(tiny_disk)
        large = replace(embedded("b"), thumbnail=bytes(500_000))
        with pytest.raises(RebuildError, match="make room") as refused, named_failures(folder):
            cache.add([large])
        assert "delete" not in str(refused.value)
        (tiny_disk / "filling").unlink()
        assert cache.missing(["a", "b"]) == ["b"]


def failure(kind: type[sqlite3.Error], text: str, code: int) -> sqlite3.Error:
    error = kind(text)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "delete"),
    [
        (failure(sqlite3.OperationalError, "disk I/O error", sqlite3.SQLITE_IOERR_WRITE), False),
        (failure(sqlite3.OperationalError, "disk is full", sqlite3.SQLITE_FULL), False),
        (failure(sqlite3.OperationalError, "database is locked", sqlite3.SQLITE_BUSY), False),
        (failure(sqlite3.OperationalError, "readonly", sqlite3.SQLITE_READONLY), False),
        (failure(sqlite3.OperationalError, "no such column: key", sqlite3.SQLITE_ERROR), True),
        (failure(sqlite3.DatabaseError, "malformed", sqlite3.SQLITE_CORRUPT), True),
        (failure(sqlite3.DatabaseError, "not a database", sqlite3.SQLITE_NOTADB), True),
    ],
    ids=str,
)
def test_only_what_is_damaged_is_to_be_deleted(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: sqlite3.Error, delete: bool
) -> None:
    def fail(_: Path) -> sqlite3.Connection:
        raise error

    monkeypatch.setattr(sqlite3, "connect", fail)
    with pytest.raises(RebuildError) as refused:
        EmbeddingCache(path)
    assert ("delete" in str(refused.value), "make room" in str(refused.value)) == (
        delete,
        not delete,
    )


def test_adding_an_image_again_replaces_it(cache: EmbeddingCache) -> None:
    cache.add([embedded("a", 1)])
    cache.add([embedded("a", 2)])
    assert np.array_equal(cache.vectors("style", ["a"])[0], embedded("a", 2).vectors["style"])


def test_an_unknown_key_is_an_error(cache: EmbeddingCache) -> None:
    cache.add([embedded("a")])
    with pytest.raises(KeyError, match="nothing"):
        cache.thumbnail("nothing")
    with pytest.raises(KeyError, match="1 of 2 images have no style vector"):
        cache.vectors("style", ["a", "nothing"])


def test_vectors_come_in_the_order_they_are_asked_for(cache: EmbeddingCache) -> None:
    cache.add([embedded("a"), embedded("b", 2)])
    found = cache.vectors("style", ["b", "a", "b"])
    expected = [embedded("b", 2), embedded("a"), embedded("b", 2)]
    assert np.array_equal(found, np.stack([image.vectors["style"] for image in expected]))


def test_vectors_survive_as_little_endian_float32(cache: EmbeddingCache, path: Path) -> None:
    cache.add([embedded("a")])
    blob = sqlite3.connect(path).execute("SELECT vector FROM vectors WHERE facet = 'style'")
    assert blob.fetchone()[0] == embedded("a").vectors["style"].astype("<f4").tobytes()


def test_what_an_earlier_decoding_made_is_looked_at_once_more(tmp_path: Path) -> None:
    def keep(key: str) -> EmbeddedImage:
        return replace(embedded(key), fingerprint=b"" if "/" in key else b"fp")

    place = tmp_path / "cache.sqlite"
    with EmbeddingCache(place) as cache:
        cache.add([keep("a" * 64), keep("b" * 64), keep(f"{'b' * 64}/view-0")])
        assert cache.unchecked(["a" * 64, "b" * 64]) == []
    with sqlite3.connect(place) as database:
        database.execute("PRAGMA user_version = 0")  # as files of that time have it
    database.close()
    with EmbeddingCache(place) as cache:
        assert cache.unchecked(["a" * 64, "b" * 64, "c" * 64]) == ["a" * 64, "b" * 64]
        cache.checked("a" * 64, outdated=False)
        cache.checked("b" * 64, outdated=True)
    with EmbeddingCache(place) as cache:
        assert cache.unchecked(["a" * 64, "b" * 64]) == []
        keys = ["a" * 64, "b" * 64, f"{'b' * 64}/view-0"]
        assert cache.missing(keys) == keys[1:]
        assert cache.fingerprints().keys() == {"a" * 64}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system has no /proc")
def test_compacting_writes_nothing_to_the_folder_of_temporary_files(
    cache: EmbeddingCache, path: Path
) -> None:
    for number in range(4):
        thumbnail = np.random.default_rng(number).bytes(5_000_000)
        cache.add([replace(embedded(f"{number}"), thumbnail=thumbnail)])
    cache.forget(["0"])
    before = path.stat().st_size
    opened: set[Path] = set()

    def look() -> None:
        for file in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                opened.add(file.readlink())

    cache._db.set_progress_handler(look, 1)
    cache.compact()
    cache._db.set_progress_handler(None, 0)
    assert path in opened
    # SQLite's temporary files have this prefix.
    assert [file for file in opened if file.name.startswith("etilqs_")] == []
    assert sorted(cache.sizes()) == ["1", "2", "3"]
    assert path.stat().st_size < before - 4_000_000
    assert not list(path.parent.glob("*.compact"))


def test_compacting_does_not_wait_for_another_writer(cache: EmbeddingCache, path: Path) -> None:
    cache.add([embedded("a")])
    cache._db.execute("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(path, isolation_level=None)
    with closing(other):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="another process writes"):
            cache.compact()
        other.execute("ROLLBACK")
    cache.compact()
    assert cache.thumbnail("a") == b"jpeg of a"
