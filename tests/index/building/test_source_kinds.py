"""One collection in every kind of source: the same exemplars, vectors and versions."""

import io
import json
import multiprocessing
import os
import shutil
import signal
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from index.building import rebuild as rebuild_module
from index.building.embedding_cache import EmbeddingCache
from index.building.pictures import list_images
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import SourceExemplar, manifest_picture, read_sources
from index.layout import DataFolder
from index.snapshot import open_published, published_version
from index.verify import verify
from model.errors import SourceError, TrainingError
from model.folders import Skipped
from model.sources import parquet, remote
from model.sources.listing import list_pictures
from model.sources.places import expand, picture_at
from tests.fakes import FakeEmbedder, patches
from tests.remote import (
    BUSY,
    REFUSED,
    ObjectStore,
    cut_off,
    file_server,
    forget,
    object_store,
    times,
)
from tests.shards import encoded, tar_of, write_tar

CONCEPTS, EACH = 3, 4
PARTS = 2  # shards


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def server(patch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store(patch) as store:
        yield store


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, server: ObjectStore
) -> Iterator[dict[str, str]]:
    """The sources of one collection, by kind, and the folder that all lie in."""
    root = tmp_path_factory.mktemp("sources")
    files = draw(root / "folder")
    write_manifest(root / "manifest", files)
    write_shards(root / "tar", files)
    write_tables(root / "parquet", files)
    with file_server(root) as url:
        bucket = server.put(root)
        yield {
            "root": str(root),
            "folder": f"{root}/folder",
            "manifest": f"{root}/manifest/list.csv",
            "tar": f"{root}/tar/part-{{000..00{PARTS - 1}}}.tar",
            "folder of shards": f"{root}/tar",
            "parquet": f"{root}/parquet/*.parquet",
            "s3 folder": f"{bucket}/folder",
            "s3 manifest": f"{bucket}/manifest/list.csv",
            "s3 tar": f"{bucket}/tar/part-{{000..00{PARTS - 1}}}.tar",
            "s3 parquet": f"{bucket}/parquet",
            "http folder": f"{url}/folder/",
            "http tar": f"{url}/tar/",
            "http parquet": f"{url}/parquet/train-{{0..{PARTS - 1}}}.parquet",
        }


KINDS = [
    "manifest", "tar", "folder of shards", "parquet", "s3 folder", "s3 manifest", "s3 tar",
    "s3 parquet", "http folder", "http tar", "http parquet",
]  # fmt: skip


@pytest.fixture
def store(server: ObjectStore) -> Iterator[ObjectStore]:
    """The server, to be given a fault."""
    forget()
    yield server
    server.fault = None
    forget()


def draw(folder: Path) -> list[Path]:
    for concept in range(CONCEPTS):
        below = folder / f"Concept {concept}"
        below.mkdir(parents=True)
        for number in range(EACH):
            patches(10 * concept + number, side=64).save(below / f"{number}.png")
    return sorted(folder.rglob("*.png"))


def write_manifest(folder: Path, files: Sequence[Path]) -> None:
    """A list as of imagefolder, of pictures that lie beside it."""
    folder.mkdir()
    lines = ["file_name,label"]
    for number, file in enumerate(files):
        (folder / f"{number:02}.png").write_bytes(file.read_bytes())
        lines.append(f"{number:02}.png,{file.parent.name}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")


def write_shards(folder: Path, files: Sequence[Path]) -> None:
    """Shards in WebDataset's naming, one with labels in JSON, the others in ``.cls``."""
    folder.mkdir()
    size = -(-len(files) // PARTS)
    for part in range(PARTS):
        members = {}
        for number, file in enumerate(files[part * size : (part + 1) * size]):
            key, label = f"{part}{number:05}", file.parent.name
            members[f"{key}.png"] = file.read_bytes()
            if part:
                members[f"{key}.cls"] = label.encode()
            else:
                members[f"{key}.json"] = json.dumps({"label": label, "year": 1843}).encode()
        write_tar(folder / f"part-{part:03}.tar", members)


def write_tables(folder: Path, files: Sequence[Path]) -> None:
    """Parquet files as `datasets` writes them: an image's bytes, and a class label."""
    folder.mkdir()
    names = sorted({file.parent.name for file in files})
    about = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    size = -(-len(files) // PARTS)
    for part in range(PARTS):
        own = files[part * size : (part + 1) * size]
        table = pa.table(
            {
                "image": [{"bytes": file.read_bytes(), "path": file.name} for file in own],
                "label": [names.index(file.parent.name) for file in own],
            }
        ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": about}})})
        pq.write_table(table, folder / f"train-{part}.parquet", row_group_size=4)


class Counting(FakeEmbedder):
    """Counts the images that it embeds, in a file, so that a killed process has counted, too."""

    def __init__(self, log: Path) -> None:
        self._log = log

    @property
    def count(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def embed_pixels(self, pixels: Sequence[torch.Tensor]) -> dict:
        with self._log.open("ab", buffering=0) as file:
            file.write(b"." * len(pixels))
        return super().embed_pixels(pixels)


def built(root: Path, exemplars: Sequence[SourceExemplar]) -> dict[str, bytes]:
    """The vectors of a version built of these exemplars, by content, concept and facet."""
    data = DataFolder(root)
    rebuild(data, exemplars, FakeEmbedder(), RebuildOptions(canary_rate=0))
    snapshot = open_published(data.index)
    try:
        return {
            f"{one.sha256}/{one.concept_id}/{facet}": snapshot.vectors.vectors(
                facet, [one.row]
            ).tobytes()
            for one in snapshot.catalog.exemplars()
            for facet in snapshot.manifest.dimensions
        }
    finally:
        snapshot.close()


@pytest.fixture(autouse=True)
def few_null_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild_module, "NULL_QUERIES", 20)


@pytest.fixture(scope="module")
def expected(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rebuild_module, "NULL_QUERIES", 20)
        return built(tmp_path_factory.mktemp("folder"), read_sources([places["folder"]]))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_source_gives_the_same_vectors(
    places: dict[str, str], expected: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    exemplars = read_sources([places[kind]])
    assert len(exemplars) == CONCEPTS * EACH
    assert built(tmp_path, exemplars) == expected
    for exemplar in exemplars[:: EACH + 1]:
        again = picture_at(exemplar.picture.address)  # as the catalog keeps it
        assert again.read() == exemplar.picture.read()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_source_can_be_trained_on(places: dict[str, str], kind: str) -> None:
    if "manifest" in kind:
        places = {kind: places[kind].rpartition("/")[0]}  # their folder: labels do not matter
    found = {picture.read() for picture in list_pictures([places[kind]])}
    wanted = {picture.read() for picture in list_pictures([places.get("folder", places[kind])])}
    assert (len(found), found) == (CONCEPTS * EACH, wanted)


def killed_rebuild(root: Path, source: str, environment: dict[str, str]) -> None:
    """Rebuild in a process of its own, which is killed when the first batch is stored."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    rebuild_module.NULL_QUERIES = 20
    add = EmbeddingCache.add

    def add_and_die(cache: EmbeddingCache, images: list) -> None:
        half = list(images)[: CONCEPTS * EACH // 2]
        add(cache, half)
        os.kill(os.getpid(), signal.SIGKILL)

    EmbeddingCache.add = add_and_die  # type: ignore[method-assign]
    rebuild(DataFolder(root / "data"), read_sources([source]), Counting(root / "log"))


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet", "s3 folder", "s3 tar", "s3 parquet"])
def test_a_killed_rebuild_goes_on(
    places: dict[str, str], expected: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    worker = processes.Process(target=killed_rebuild, args=(tmp_path, places[kind], environment))
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    data, embedder = DataFolder(tmp_path / "data"), Counting(tmp_path / "again")
    assert published_version(data.index) is None
    summary = rebuild(data, read_sources([places[kind]]), embedder, RebuildOptions(canary_rate=0))
    assert summary.embedded == CONCEPTS * EACH - CONCEPTS * EACH // 2
    assert built(tmp_path / "data", read_sources([places[kind]])) == expected


# Faults of a server


@pytest.mark.parametrize(
    "fault",
    [partial(times, 3, "503 Slow Down", BUSY), partial(times, 2, "500 Oops"), partial(cut_off, 2)],
    ids=["busy", "broken", "cut off"],
)
@pytest.mark.parametrize("kind", ["tar", "parquet", "folder"])
def test_what_passes_is_tried_again(
    places: dict[str, str], expected: dict[str, bytes], store: ObjectStore, tmp_path, kind, fault
) -> None:
    url = store.put(Path(places["root"]) / kind, f"{kind}/")
    store.fault = met = fault()
    assert built(tmp_path, read_sources([url])) == expected
    assert met.left == [0]


def test_an_answer_that_does_not_come_is_named(
    places: dict[str, str], store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = store.put(Path(places["root"]) / "tar", "tar/")
    monkeypatch.setattr(remote, "READ", 0.2)
    monkeypatch.setattr(remote, "TRIES", 1)
    forget()
    ended = threading.Event()

    def silent(environ, start, api) -> list[bytes]:
        ended.wait(20)
        return list(api())

    store.fault = silent
    try:
        with pytest.raises(SourceError, match=r"part-000\.tar could not be read .*[Tt]ime"):
            read_sources([f"{url}/part-000.tar"])
    finally:
        ended.set()


@pytest.mark.parametrize("kind", ["tar", "parquet", "folder"])
def test_a_server_that_fails_for_good_publishes_nothing(
    places: dict[str, str], store: ObjectStore, tmp_path: Path, kind: str
) -> None:
    data, options = DataFolder(tmp_path), RebuildOptions(canary_rate=0)
    rebuild(data, read_sources([places["folder"]])[:EACH], FakeEmbedder(), options)
    before = published_version(data.index)
    exemplars = read_sources([store.put(Path(places["root"]) / kind, f"{kind}/")])
    forget()
    store.fault = times(10**6, "503 Slow Down", BUSY)
    with pytest.raises(SourceError, match=r"the server answered 503.*nothing was published"):
        rebuild(data, exemplars, FakeEmbedder(), RebuildOptions(canary_rate=0))
    assert published_version(data.index) == before


def test_wrong_credentials_are_named_at_once(places, store: ObjectStore) -> None:
    url = store.put(Path(places["root"]) / "tar", "tar/")
    store.fault = times(10**6, "403 Forbidden", REFUSED)
    store.asked.clear()
    for source in (url, f"{url}/part-000.tar"):
        with pytest.raises(SourceError, match=r"access was refused .*check the credentials"):
            read_sources([source])
        with pytest.raises(SourceError, match="access was refused"):
            list_pictures([source])
    assert len(store.asked) < 20  # it is of no use to try again


def test_no_credentials_are_named(store: ObjectStore, monkeypatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    forget()
    with pytest.raises(SourceError, match="check the credentials"):
        read_sources(["s3://pictures/tar/part-000.tar"])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("s3://no-such-bucket/images/", "no such bucket, file or folder"),
        ("s3://pictures/none.tar", "there is no such file"),
        ("s3://pictures/none.parquet", "there is no such file"),
        ("s3://pictures/list.csv", "there is no such file"),
        ("ftp://somewhere/x/", "ftp:// is no kind of source"),
        ("gs://bucket/x.tar", "pip install"),
    ],
)
def test_what_is_not_there_is_named(store: ObjectStore, source: str, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        read_sources([source])


# Broken shards


@pytest.mark.parametrize("where", ["here", "s3"])
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_shard_cut_short_is_named(places, store: ObjectStore, tmp_path, where, kind) -> None:
    [first, *_] = sorted((Path(places["root"]) / kind).iterdir())
    folder = tmp_path / "cut"
    folder.mkdir()
    data = first.read_bytes()
    (folder / first.name).write_bytes(data[: len(data) // 3])
    source = store.put(folder, f"cut-{kind}/") if where == "s3" else str(folder)
    with pytest.raises(SourceError, match=rf"{first.name} cannot be read .*cut short"):
        read_sources([source])


def test_a_huge_cell_is_refused_before_it_is_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(parquet, "MAX_PAGE", 2**20)
    small = patches(0, side=64)
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    rows = [{"bytes": buffer.getvalue(), "path": "a"}, {"bytes": bytes(2**23), "path": "b"}]
    table = pa.table({"image": rows, "label": ["one", "two"]})
    pq.write_table(table, tmp_path / "huge.parquet", compression="zstd")
    assert (tmp_path / "huge.parquet").stat().st_size < 2**16
    exemplars = read_sources([tmp_path / "huge.parquet"])
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(SourceError, match=r"huge\.parquet: row group 0 has a page of 8,.* over"):
        rebuild(DataFolder(tmp_path / "data"), exemplars, FakeEmbedder())
    assert pa.default_memory_pool().max_memory() - before < 2**20
    assert published_version(DataFolder(tmp_path / "data").index) is None


def test_a_page_said_to_have_gigabytes_is_refused(places, tmp_path: Path) -> None:
    """The header of a page is forged: it says 2 GiB less 1."""
    [first, *_] = sorted((Path(places["root"]) / "parquet").iterdir())
    path = tmp_path / "forged.parquet"
    data = bytearray(first.read_bytes())
    about = pq.ParquetFile(first).metadata.row_group(0).column(0)
    start = about.data_page_offset
    header = b"\x15\x00\x15\xfe\xff\xff\xff\x0f\x15\x18\x00"  # of this size, and 12 bytes packed
    assert parquet.page_sizes(header) == (2**31 - 1, 12, len(header))
    data[start : start + len(header)] = header
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"a page of 2,147,483,647 bytes"):
        read_sources([path])[0].picture.read()


def test_a_large_member_of_a_shard_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tar"
    info = tarfile.TarInfo("one/large.png")
    info.size = 3 * 2**30
    with path.open("wb") as file:  # three gigabytes that take no room on the disk
        file.write(info.tobuf())
        file.truncate(512 + info.size + 1024)
    small = io.BytesIO()
    patches(1, side=64).save(small, "PNG")
    write_tar(tmp_path / "small.tar", {"two/small.png": small.getvalue()})
    exemplars = read_sources([path, tmp_path / "small.tar"])
    summary = rebuild(
        DataFolder(tmp_path / "data"), exemplars, FakeEmbedder(), RebuildOptions(canary_rate=0)
    )
    [skipped] = summary.skipped
    assert skipped.path == f"{path}#one/large.png"
    assert skipped.reason == "it has 3,221,225,472 bytes, over 200,000,000"


# Labels and layouts


def named(sources: Sequence[Path | str], **options: object) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for exemplar in read_sources(sources, **options):  # type: ignore[arg-type]
        found.setdefault(exemplar.concept.name, []).append(exemplar.picture.name)
    return found


def test_a_shards_labels_come_from_json_then_cls_then_its_folders(tmp_path: Path) -> None:
    shard = write_tar(
        tmp_path / "s.tar",
        {
            "a.png": encoded(0),
            "a.json": b'{"artist": "Ada", "license": "CC0", "year": 1843, "none": null}',
            "a.cls": b"7",
            "b.large.png": encoded(1),
            "b.cls": b"Bea\n",
            "x/Cleo/c.png": encoded(2),
            "x/Cleo/c.txt": b"a caption",
            "d.png": encoded(3),
            "d.txt": b"Dora",
            "e.png": encoded(4),
            "._f.png": b"x",
            "g.bin": b"nothing",
        },
    )
    skipped: list[Skipped] = []
    found = read_sources([shard], skip=skipped.append)
    assert [one.concept.name for one in found] == ["Ada", "Bea", "Cleo", "Dora"]
    assert (found[0].license, found[0].metadata) == ("CC0", {"year": 1843})
    assert {one.path.rpartition("#")[2]: one.reason for one in skipped} == {
        "e.png": "its shard gives it no label",
        "._f.png": "a hidden file",
        "g.bin": "not an image",
    }
    numbered: dict[str, bytes] = {}
    for number in (1, 2):
        numbered[f"frame.000{number}.png"] = encoded(number)
        numbered[f"frame.000{number}.json"] = json.dumps({"label": f"L{number}"}).encode()
    shard_of_numbers = write_tar(tmp_path / "numbers.tar", numbered)
    assert named([shard_of_numbers]) == {"L1": ["frame.0001.png"], "L2": ["frame.0002.png"]}
    del numbered["frame.0001.json"]
    numbered["frame.0003.json"] = b"{}"
    with pytest.raises(SourceError, match=r"several \.json files beside it"):
        named([write_tar(tmp_path / "unclear.tar", numbered)])
    odd = {"a.png": encoded(0), "a.json": b'{"label": "Ada", "score": NaN}'}
    with pytest.raises(SourceError, match="NaN is no value of JSON"):
        named([write_tar(tmp_path / "odd.tar", odd)])
    assert named([shard], concept_column="year") == {
        "1843": ["a.png"], "Bea": ["b.large.png"], "Cleo": ["c.png"], "Dora": ["d.png"],
    }  # fmt: skip


def test_a_tables_concepts_are_a_column_that_can_be_chosen(tmp_path: Path) -> None:
    table = pa.table(
        {
            "img": [encoded(0), encoded(1), None],
            "style": ["cubism", None, "cubism"],
            "license": ["CC0", None, None],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=r"no column concept, label, artist .*style, license"):
        read_sources([tmp_path / "t.parquet"])
    skipped: list[Skipped] = []
    found = read_sources([tmp_path / "t.parquet"], concept_column="style", skip=skipped.append)
    told = [(one.concept.name, one.license) for one in found]
    assert told == [("cubism", "CC0"), ("cubism", None)]
    assert [one.reason for one in skipped] == ["it has no style"]
    with pytest.raises(OSError, match="its cell is empty"):
        found[1].picture.read()


@pytest.mark.parametrize("where", ["here", "s3"])
def test_train_and_test_are_joined(store: ObjectStore, tmp_path: Path, where: str) -> None:
    for seed, place in enumerate(["train/Ada/a", "train/Bea/b", "test/Ada/c", "val/Cleo/d"]):
        path = tmp_path / "set" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(seed))
    told: list[str] = []
    source = store.put(tmp_path / "set", f"{tmp_path.name}/") if where == "s3" else tmp_path / "set"
    found = named([source], report=told.append)
    assert found == {"Ada": ["c.png", "a.png"], "Bea": ["b.png"], "Cleo": ["d.png"]}
    assert told == [f"source {source}: the concepts of test, train, val are joined"]


def test_folders_of_images_named_train_are_concepts(tmp_path: Path) -> None:
    for place in ("train/a", "test/b"):
        path = tmp_path / f"{place}.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded(0))
    assert named([tmp_path]) == {"test": ["b.png"], "train": ["a.png"]}


@pytest.mark.parametrize("where", ["here", "s3"])
def test_a_folder_with_metadata_is_read_by_it(store: ObjectStore, tmp_path, where) -> None:
    folder = tmp_path / "set"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "a.png").write_bytes(encoded(0))
    (folder / "train" / "metadata.jsonl").write_text('{"file_name": "a.png", "label": "Ada"}\n')
    source = store.put(folder, f"{tmp_path.name}/") if where == "s3" else folder
    assert named([source]) == {"Ada": ["a.png"]}


@pytest.fixture
def laid_out(tmp_path: Path, store: ObjectStore) -> Callable[[str, dict[str, bytes]], str]:
    """Writes files by their paths, here or to the bucket; returns their folder's place."""

    def write(where: str, files: dict[str, bytes]) -> str:
        root = tmp_path / "set"
        for path, data in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        return store.put(root, f"{tmp_path.name}/set/") if where == "s3" else str(root)

    return write


WHERE = pytest.mark.parametrize("where", ["here", "s3"])


@WHERE
def test_metadata_names_files_of_sub_folders(laid_out, where: str) -> None:
    rows = "file_name,label\nimages/a.png,Ada\nimages/deep/b.png,Bea\nc.png,Cleo\n"
    source = laid_out(
        where,
        {
            "metadata.csv": rows.encode(),
            "images/a.png": encoded(0),
            "images/deep/b.png": encoded(1),
            "images/left.png": encoded(2),
            "c.png": encoded(3),
            "d.png": encoded(4),
            "Dora/e.png": encoded(5),
        },
    )
    told: list[Skipped] = []
    found = named([source], skip=told.append)
    assert found == {"Ada": ["a.png"], "Bea": ["b.png"], "Cleo": ["c.png"], "Dora": ["e.png"]}
    assert {one.path.rpartition("/")[2]: one.reason for one in told} == {
        "left.png": "its folder's metadata file does not name it",
        "d.png": "its folder's metadata file does not name it",
    }


@WHERE
def test_metadata_names_files_of_train_and_test(laid_out, where: str) -> None:
    rows = "file_name,label\ntrain/x/a.png,Ada\ntest/x/b.png,Bea\n"
    files = {"train/x/a.png": encoded(0), "test/x/b.png": encoded(1), "test/Cleo/c.png": encoded(2)}
    source = laid_out(where, {"metadata.csv": rows.encode(), **files})
    assert named([source]) == {"Ada": ["a.png"], "Bea": ["b.png"], "Cleo": ["c.png"]}


@WHERE
def test_metadata_without_labels_leaves_the_folders_their_concepts(laid_out, where: str) -> None:
    rows = b"file_name,text\nAda/a.png,a caption\n"
    source = laid_out(where, {"metadata.csv": rows, "Ada/a.png": encoded(0)})
    told: list[str] = []
    assert named([source], report=told.append) == {"Ada": ["a.png"]}
    [note] = told
    assert "metadata.csv lacks the column concept" in note
    assert note.endswith("it is not used, and folders give the concepts")


@WHERE
def test_a_second_metadata_file_is_named(laid_out, where: str) -> None:
    lines = b'{"file_name": "a.png", "label": "Ada"}\n'
    source = laid_out(where, {"metadata.csv": b"file_name,label\na.png,Bea\n",
                              "metadata.jsonl": lines, "a.png": encoded(0)})  # fmt: skip
    told: list[Skipped] = []
    assert named([source], skip=told.append) == {"Bea": ["a.png"]}
    assert [one.reason for one in told] == ["metadata.csv describes its folder already"]
    told.clear()
    assert named([source], skip=told.append, each_image_a_concept=True) == {"set/a": ["a.png"]}
    assert "so that it is not used" in told[-1].reason


@WHERE
def test_shards_beside_train_and_test_are_read(laid_out, where: str) -> None:
    files = {
        "train/Ada/a.png": encoded(0),
        "test/Bea/b.png": encoded(1),
        "more.tar": tar_of({"c.png": encoded(2), "c.cls": b"Cleo"}),
        "README.md": b"# About",
    }
    found = named([laid_out(where, files)])
    assert found == {"Ada": ["a.png"], "Bea": ["b.png"], "Cleo": ["c.png"]}


@WHERE
def test_shards_below_a_shard_are_read_and_those_below_pictures_named(laid_out, where) -> None:
    one, two = (
        tar_of({"a.png": encoded(n), "a.cls": label}) for n, label in enumerate((b"A", b"B"))
    )
    source = laid_out(where, {"one.tar": one, "more/two.tar": two})
    assert sorted(named([source])) == ["A", "B"]
    source = laid_out(where, {"Ada/x.png": encoded(3)})
    told: list[Skipped] = []
    assert sorted(named([source], skip=told.append)) == ["A", "Ada"]
    [skipped] = told
    assert skipped.path.endswith("more/two.tar")
    assert "name it as a source of its own" in skipped.reason


KEYS = [
    "a?b.png", "a#b.png", "a%20b.png", "a b.png", "é ü.png", "a[1].png", "{a}.png", "100%.png",
    "q?x=1#y.png", "葛飾 北斎.png", "plus+and&.png",
]  # fmt: skip


def test_any_key_of_a_bucket_is_read(store: ObjectStore) -> None:
    for number, key in enumerate(KEYS):
        store.write(f"odd/A & B?/{key}", encoded(number))
    assert len(list_pictures(["s3://pictures/odd/A & B?/*.png"])) == len(KEYS)
    for source in ("s3://pictures/odd", "s3://pictures/odd/"):
        found = read_sources([source])
        assert {one.picture.name: one.picture.read() for one in found} == {
            key: encoded(number) for number, key in enumerate(KEYS)
        }
        assert {one.concept.name for one in found} == {"A & B?"}
    for one in found:
        assert picture_at(one.picture.address).read() == one.picture.read()
    for number, key in enumerate(KEYS):
        [alone] = list_pictures([f"s3://pictures/odd/A & B?/{key}"])
        assert alone.read() == encoded(number)


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b", "a b", "é", "a[1]", "s.tar#t"])
def test_shards_and_manifests_of_any_key_are_read(store: ObjectStore, name: str) -> None:
    folder = f"s3://pictures/set {name}"
    store.write(f"set {name}/{name}.tar", tar_of({"x/a.png": encoded(0)}))
    store.write(f"set {name}/{name}.png", encoded(1))
    store.write(f"set {name}/list {name}.csv", f"path,concept\n{name}.png,Bea\n".encode())
    sources = [f"{folder}/{name}.tar", f"{folder}/list {name}.csv"]
    found = read_sources(sources)
    assert [one.concept.name for one in found] == ["x", "Bea"]
    assert [one.picture.read() for one in found] == [encoded(0), encoded(1)]
    for one in found:
        assert picture_at(one.picture.address).read() == one.picture.read()
    if "#" in name:  # a picture whose own key looks like that of a member
        store.write("odd.tar#a.png", encoded(2))
        assert picture_at("s3://pictures/odd.tar#a.png").read() == encoded(2)


def test_hosts_and_queries_have_no_wildcards() -> None:
    for url in (
        "http://[::1]:9000/x.tar",
        "http://[::1]:9000/part-1.tar?sign=a*b[c]",
        "https://host/x.tar?a=*",
        "s3://bucket",
    ):
        assert list(expand(url)) == [url]
    assert list(expand("http://[::1]/p-{0..1}.tar")) == [f"http://[::1]/p-{n}.tar" for n in (0, 1)]


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"Caf\xe9", "is not UTF-8"),
        (b"one\ntwo", "holds no label"),
        (b"\x00\x00\x00\x07", "holds no label"),
        (b"x" * 2000, "holds no label"),
    ],
)
def test_what_is_no_label_is_named(tmp_path: Path, label: bytes, reason: str) -> None:
    shard = write_tar(tmp_path / "s.tar", {"a.png": encoded(0), "a.cls": label})
    with pytest.raises(SourceError, match=rf"s\.tar#a\.cls {reason}"):
        read_sources([shard])
    # A caption that is not needed does not matter.
    members = {"a.png": encoded(0), "a.cls": "Béa\u00a0X\r\n".encode(), "a.txt": label}
    assert list(named([write_tar(tmp_path / "t.tar", members)])) == ["Béa\u00a0X"]


def test_a_text_that_is_too_long_names_no_concept(tmp_path: Path) -> None:
    long = "a" * 1001
    table = pa.table({"image": [{"bytes": encoded(0), "path": ""}], "label": [long]})
    pq.write_table(table, tmp_path / "t.parquet")
    (tmp_path / "m.csv").write_text(f"path,concept\na.png,{long}\n")
    about = json.dumps({"label": long}).encode()
    shard = write_tar(tmp_path / "s.tar", {"a.png": encoded(0), "a.json": about})
    for source in (tmp_path / "t.parquet", tmp_path / "m.csv", shard):
        with pytest.raises(SourceError, match="has 1,001 characters, over 1,000"):
            read_sources([source])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("column", ["path", "file_name"])
@WHERE
def test_manifests_can_be_trained_on(
    laid_out, tmp_path, where: str, kind: str, column: str
) -> None:
    names = ["a b.png", "x/c.png"]
    files = {name: encoded(number) for number, name in enumerate(names)}
    match kind:
        case "csv":
            data = "\n".join([column, *names]).encode()
        case "jsonl":
            data = "\n".join(json.dumps({column: name, "n": 1}) for name in names).encode()
        case _:
            buffer = io.BytesIO()
            pq.write_table(pa.table({column: names}), buffer)
            data = buffer.getvalue()
    source = laid_out(where, {**files, f"list.{kind}": data})
    found = list_images([f"{source}/list.{kind}", f"{source}/x", f"{source}/list.{kind}"])
    assert [one.read() for one in found] == [encoded(0), encoded(1)]
    (tmp_path / "no.csv").write_text("image\na.png\n")
    with pytest.raises(SourceError, match="lacks the column path"):
        list_images([tmp_path / "no.csv"])
    with pytest.raises(TrainingError, match=r"no\.csv: there is no such file"):
        list_images([tmp_path / "none" / "no.csv"])


def test_a_server_that_fails_is_named_by_verification(
    places: dict[str, str], store: ObjectStore, tmp_path: Path
) -> None:
    data, embedder = DataFolder(tmp_path), FakeEmbedder()
    for kind in ("s3 tar", "s3 folder"):
        rebuild(data, read_sources([places[kind]]), embedder, RebuildOptions(canary_rate=0))
        forget()
        for fault, reason in (
            (times(10**6, "503 Slow Down", BUSY), "the server answered 503"),
            (times(10**6, "403 Forbidden", REFUSED), "access was refused"),
        ):
            store.fault = fault
            told = verify(data, embedder=embedder, remote=True).checks[-1]
            assert (told.name, told.passed) == ("embeddings", False)
            assert reason in told.text
        store.fault = None


def test_one_concept_in_several_sources_is_joined(tmp_path: Path) -> None:
    (tmp_path / "folder" / "Ada").mkdir(parents=True)
    (tmp_path / "folder" / "Ada" / "a.png").write_bytes(encoded(0))
    shard = write_tar(tmp_path / "s.tar", {"b.png": encoded(1), "b.cls": b"Ada"})
    table = pa.table({"image": [{"bytes": encoded(2), "path": ""}], "artist": ["Ada"]})
    pq.write_table(table, tmp_path / "t.parquet")
    found = named([tmp_path / "folder", shard, tmp_path / "t.parquet"])
    assert found == {"Ada": ["a.png", "b.png", "0"]}
    for kind in "xy":
        about = json.dumps({"concept": "Ada", "kind": kind}).encode()
        write_tar(tmp_path / f"{kind}.tar", {"c.png": encoded(3), "c.json": about})
    with pytest.raises(SourceError, match="two kinds: 'x' and 'y'"):
        read_sources([tmp_path / "x.tar", tmp_path / "y.tar"])


def test_a_shard_without_labels_is_refused_for_exemplars_alone(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "s.tar", {"a.png": encoded(0)})
    with pytest.raises(SourceError, match=r"holds no exemplars.*its shard gives it no label"):
        read_sources([shard])
    assert len(list_pictures([shard])) == 1
    table = pa.table({"image": [{"bytes": encoded(1), "path": ""}], "style": ["cubism"]})
    pq.write_table(table, tmp_path / "t.parquet")
    found = named([shard, tmp_path / "t.parquet"], each_image_a_concept=True)
    assert found == {"s/a": ["a.png"], "t/0": ["0"]}


def test_a_manifest_here_may_name_urls_and_one_elsewhere_only_its_own_server(
    store: ObjectStore, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(0))
    for name, path in {
        "here": "s3://pictures/set/a.png",
        "local": "/etc/a.png",
        "far": "http://x/a.png",
        "above": "../a.png",
    }.items():
        (folder / f"{name}.csv").write_text(f"path,concept\n{path},Ada\n")
    bucket = store.put(folder, "set/")
    assert [one.picture.read() for one in read_sources([folder / "here.csv"])] == [encoded(0)]
    assert len(read_sources([f"{bucket}/here.csv"])) == 1
    for name in ("local", "far"):
        with pytest.raises(SourceError, match="not of its own server"):
            read_sources([f"{bucket}/{name}.csv"])
    with pytest.raises(SourceError, match=r"a path with \.\. may lead out"):
        read_sources([f"{bucket}/above.csv"])
    other = remote.RemoteFile("hf://datasets/alice/set/list.csv")
    with pytest.raises(SourceError, match="not of its own server"):
        manifest_picture(other, "hf://datasets/bob/private/a.jpg")


def test_secrets_of_an_address_are_not_shown() -> None:
    file = remote.RemoteFile("https://me:pw@example.org/a%20b.tar?X-Signature=secret")
    assert file.name == "a b.tar"
    assert file.address.startswith("https://example.org/a%20b.tar?query-")
    assert not {"me", "pw", "secret"} & set(file.address.replace("@", "/").split("/"))
    assert "secret" not in file.address
    with pytest.raises(SourceError, match="port is no number") as error:
        read_sources(["https://me:pa/ss@example.org/x.tar"])
    assert "ss@" not in str(error.value)


def test_an_index_of_remote_exemplars_is_verified_only_if_asked(
    places: dict[str, str], tmp_path: Path
) -> None:
    data = DataFolder(tmp_path)
    rebuild(data, read_sources([places["s3 tar"]]), FakeEmbedder(), RebuildOptions(canary_rate=0))
    told = verify(data, embedder=FakeEmbedder()).checks[-1]
    assert (told.name, told.passed) == ("embeddings", False)
    assert "--remote" in told.text
    told = verify(data, embedder=FakeEmbedder(), remote=True).checks[-1]
    assert (told.name, told.passed) == ("embeddings", True)


def test_no_source_at_all_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no such folder"):
        read_sources([f"{tmp_path}/*.tar"])
    with pytest.raises(TrainingError, match="no such file or folder"):
        list_pictures([f"{tmp_path}/x-{{0..3}}.tar"])


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_shard_that_vanishes_ends_the_rebuild(places, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(Path(places["root"]) / kind, folder)
    exemplars = read_sources([folder])
    [first, *_] = sorted(folder.iterdir())
    first.unlink()
    data = DataFolder(tmp_path / "data")
    with pytest.raises(SourceError, match=rf"{first.name} is not there any more"):
        rebuild(data, exemplars, FakeEmbedder(), RebuildOptions(canary_rate=0))
    assert published_version(data.index) is None


def test_cells_are_read_in_any_order(places: dict[str, str]) -> None:
    cells = [one.picture for one in read_sources([places["parquet"]])]
    whole = [cell.read() for cell in cells]
    for order in (range(len(cells) - 1, -1, -1), [5, 3, 4, 0, 7, 1], [2, 2, 9]):
        parquet._column.cache_clear()
        assert [cells[place].read() for place in order] == [whole[place] for place in order]
