"""Shards that change while they are read, and shards at URLs that are looked at again."""

import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.building import labels
from index.building import rebuild as rebuild_module
from index.building.pictures import list_images
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from index.snapshot import published_version
from model.errors import SourceError
from model.sources import parquet, picture, tar
from model.sources.listing import list_pictures
from model.sources.listings import Listings
from model.sources.local import LocalFile
from model.sources.places import picture_at
from model.sources.remote import RemoteFile
from tests.fakes import FakeEmbedder
from tests.remote import ObjectStore, forget, object_store
from tests.shards import encoded, tar_of

OPTIONS = RebuildOptions(canary_rate=0)
Put = Callable[[str, bytes], str]  # a file's name and content to its place


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with pytest.MonkeyPatch.context() as patch, object_store(patch) as store:
        yield store


@pytest.fixture(params=["here", "s3"])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Put:
    if request.param == "s3":
        server = request.getfixturevalue("server")
        return lambda name, data: server.write(f"{tmp_path.name}/{name}", data)

    def write(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return write


@pytest.fixture(autouse=True)
def few_null_queries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(rebuild_module, "NULL_QUERIES", 20)
    yield
    forget()


def shard_of(*seeds: int) -> bytes:
    """Labels L0, L1, ... and pictures of one size, so that all lie at the same places."""
    members = {}
    for number, seed in enumerate(seeds):
        members[f"{number}.cls"] = f"L{number}".encode()
        members[f"{number}.bmp"] = encoded(seed, "BMP")
    return tar_of(members)


def table_of(*seeds: int) -> bytes:
    buffer = io.BytesIO()
    rows = [{"bytes": encoded(seed, "BMP"), "path": ""} for seed in seeds]
    labels = [f"L{number}" for number in range(len(seeds))]
    table = pa.table({"image": rows, "label": labels})
    pq.write_table(table, buffer, row_group_size=2, compression="none")
    return buffer.getvalue()


KINDS = pytest.mark.parametrize(
    ("name", "content"), [("s.tar", shard_of), ("s.parquet", table_of)], ids=["tar", "parquet"]
)


@KINDS
def test_a_shard_that_changes_after_it_was_listed_publishes_nothing(
    put: Put, tmp_path: Path, name: str, content: Callable[..., bytes]
) -> None:
    data = DataFolder(tmp_path / "data")
    rebuild(data, read_sources([put(name, content(7, 8))]), FakeEmbedder(), OPTIONS)
    before = published_version(data.index)
    place = put(name, content(0, 1, 2))
    exemplars = read_sources([place])
    forget()
    assert len(content(0, 1, 2)) == len(content(2, 3, 4))
    put(name, content(2, 3, 4))
    with pytest.raises(SourceError, match=rf"{name} changed after it was listed; nothing was"):
        rebuild(data, exemplars, FakeEmbedder(), OPTIONS)
    assert published_version(data.index) == before
    forget()
    summary = rebuild(data, read_sources([place]), FakeEmbedder(), OPTIONS)
    assert (summary.added, summary.removed) == (3, 2)


@KINDS
def test_a_shard_that_changes_before_it_is_embedded_publishes_nothing(
    put: Put, tmp_path: Path, monkeypatch, name: str, content: Callable[..., bytes]
) -> None:
    data = DataFolder(tmp_path / "data")
    exemplars = read_sources([put(name, content(0, 1, 2))])
    scan = rebuild_module._scan

    def scan_and_change(*given):
        found = scan(*given)
        put(name, content(2, 3, 4))
        forget()
        return found

    monkeypatch.setattr(rebuild_module, "_scan", scan_and_change)
    with pytest.raises(SourceError, match=rf"{name} changed after it was listed"):
        rebuild(data, exemplars, FakeEmbedder(), OPTIONS)
    assert published_version(data.index) is None


@KINDS
def test_a_shard_that_changes_while_it_is_listed_is_refused(
    tmp_path: Path, monkeypatch, name: str, content: Callable[..., bytes]
) -> None:
    path = tmp_path / name
    path.write_bytes(content(0, 1, 2))

    def change(*_: object) -> bool:
        path.write_bytes(content(2, 3, 4))
        return True

    def read_and_change(*given: object) -> Iterator[pa.RecordBatch]:
        yield from parquet.read_columns(*given)  # type: ignore[arg-type]
        change()

    monkeypatch.setattr(tar, "_ends_at", change)
    monkeypatch.setattr(labels, "read_columns", read_and_change)
    with pytest.raises(SourceError, match="changed after it was listed"):
        read_sources([path])


@KINDS
def test_a_changed_shard_ends_a_training_run_too(
    put: Put, name: str, content: Callable[..., bytes]
) -> None:
    place = put(name, content(0, 1))
    [first, _] = list_pictures([place])
    assert first.read() == encoded(0, "BMP")
    put(name, content(5, 6))
    forget()
    with pytest.raises(SourceError, match="changed after it was listed"):
        first.read()
    again = picture_at(first.address)  # as it is now
    assert again.read() == encoded(5, "BMP")


def test_a_tar_is_listed_anew_once_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(shard_of(0))
    address = f"{path}#0.bmp"
    assert picture_at(address).read() == encoded(0, "BMP")
    path.write_bytes(shard_of(1))
    assert picture_at(address).read() == encoded(1, "BMP")
    assert isinstance(picture_at(str(path)), LocalFile)


# Looks at a shard at a URL


def looks(server: ObjectStore, action: Callable[[], object]) -> list[str]:
    """The bodies that an action asks for, listings of folders left out."""
    server.asked.clear()
    action()
    return [asked for asked in server.asked if asked.startswith("GET") and "/looked/" in asked]


@KINDS
def test_an_unchanged_shard_at_a_url_is_read_once(
    server: ObjectStore, tmp_path: Path, name: str, content: Callable[..., bytes]
) -> None:
    listings = Listings(tmp_path / "cache" / "listings.sqlite")
    data = DataFolder(tmp_path / "data")
    place = server.write(f"looked/{name}", content(0, 1, 2))
    for source in (place, place.rpartition("/")[0]):
        forget()
        server.asked.clear()
        first = read_sources([source], listings=listings)
        told: list = []

        def look(source: str = source, first: list = first, told: list = told) -> None:
            again = read_sources([source], listings=listings, skip=told.append)
            assert [(one.picture, one.concept, one.metadata) for one in again] == [
                (one.picture, one.concept, one.metadata) for one in first
            ]

        assert looks(server, look) == []
        rebuild(data, first, FakeEmbedder(), OPTIONS)
        again = partial(rebuild, data, read_sources([source], listings=listings), FakeEmbedder())
        assert looks(server, partial(again, OPTIONS)) == []
    changed = server.write(f"looked/{name}", content(2, 3, 4, 5))
    found = read_sources([changed], listings=listings)
    assert [one.picture.read() for one in found] == [encoded(n, "BMP") for n in (2, 3, 4, 5)]


def test_the_kept_listing_of_a_shard_has_its_texts_and_what_is_no_picture(
    server: ObjectStore, tmp_path: Path
) -> None:
    members = {
        "a.png": encoded(0),
        "a.json": b'{"label": "Ada", "year": 1843}',
        "b": encoded(1),
        "b.txt": "Béa".encode(),
        "c.bin": b"nothing",
        "d.cls": b"\xff\xfe",  # of no picture
    }
    place = server.write("looked/texts.tar", tar_of(members))
    listings = Listings(tmp_path / "listings.sqlite")
    told: list[list] = []
    found: list[list] = []
    for _ in range(2):
        forget()
        told.append([])
        found.append(read_sources([place], listings=listings, skip=told[-1].append))
    assert found[0] == found[1]
    assert [one.concept.name for one in found[0]] == ["Ada", "Béa"]
    assert told[0] == told[1]
    assert looks(server, lambda: list_pictures([place], listings=listings)) == []
    assert looks(server, lambda: list_images([place], listings=listings)) == []


def test_a_damaged_list_of_listings_is_named(server: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "listings.sqlite"
    path.write_bytes(b"nothing of the kind" * 100)
    place = server.write("looked/one.tar", shard_of(0))
    with pytest.raises(SourceError, match=r"listings\.sqlite cannot be used .* delete it"):
        read_sources([place], listings=Listings(path))


def test_what_changed_a_moment_ago_is_not_kept(tmp_path: Path, monkeypatch) -> None:
    """A version told by a time alone can stay, if the next change comes soon."""
    listings = Listings(tmp_path / "listings.sqlite")
    now = picture.time.time()
    old = RemoteFile("http://x/old.tar", 10, "yesterday", now - 86_400)
    new = RemoteFile("http://x/new.tar", 10, "now", now)
    for file in (old, new):
        listings.keep(file, "kind", [1, None, "two"])
    assert listings.get(old, "kind") == [1, None, "two"]
    assert listings.get(RemoteFile(old.url, 10, "later", now), "kind") is None
    assert listings.get(old, "other") is None
    assert listings.get(new, "kind") is None


def test_many_long_cells_by_one_dictionary_are_refused_in_little_memory(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(parquet, "MAX_CELL", 2**20)
    monkeypatch.setattr(parquet, "AT_ONCE", 2**24)
    long, count = "x" * 2**21, 200
    labels = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), [long])
    table = pa.table({"image": [{"bytes": encoded(0), "path": ""}] * count, "label": labels})
    path = tmp_path / "long.parquet"
    pq.write_table(table, path, compression="zstd")
    del table, labels
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), []
    index = parquet.pc.max

    def measured(*given):
        most.append(pool.bytes_allocated() - before)
        return index(*given)

    monkeypatch.setattr(parquet.pc, "max", measured)
    with pytest.raises(SourceError, match=r"row 0 has 2,097,152 bytes in label, over 1,048,576"):
        read_sources([path])
    assert max(most) < 3 * 2**24


def test_a_manifest_in_parquet_has_the_same_bounds(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(parquet, "MAX_CELL", 1000)
    table = pa.table({"path": ["a.png", "b.png"], "concept": ["Ada", "Bea"], "x": ["", "y" * 1001]})
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(SourceError, match=r"row 1 has 1,001 bytes in x, over 1,000"):
        read_sources([tmp_path / "m.parquet"])
    lists = pa.table({"path": ["a.png"], "concept": ["Ada"], "x": [["y" * 999] * 2000]})
    pq.write_table(lists, tmp_path / "lists.parquet")
    monkeypatch.setattr(parquet, "MAX_LISTS", 2**20)
    with pytest.raises(SourceError, match=r"the lists of x.* may take"):
        read_sources([tmp_path / "lists.parquet"])
