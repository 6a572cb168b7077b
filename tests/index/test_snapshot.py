import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from index.errors import SnapshotError
from index.snapshot import (
    Manifest,
    Snapshot,
    building,
    list_versions,
    new_version,
    open_published,
    publish,
    published_version,
    read_manifest,
)
from tests.fakes import build_snapshot, patches

FILES = [
    "calibration.json", "catalog.sqlite", "cohort.safetensors", "fingerprints.npy", "style.faiss",
    "style.neighbours.npy", "subject.faiss", "subject.neighbours.npy",
]  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a complete version."""
    data = tmp_path_factory.mktemp("data")
    snapshot = build_snapshot(data, {"one": [patches(0), patches(1)], "two": [patches(2)]})
    snapshot.close()
    return data / "index" / snapshot.version


@pytest.fixture
def version(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(original, tmp_path / "index" / original.name))


def rewrite(folder: Path, **changes: object) -> None:
    """Change what the manifest says, checksum included."""
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(manifest.model_copy(update=changes).model_dump_json())


def refused(version: Path) -> str:
    with pytest.raises(SnapshotError) as error:
        Snapshot.open(version)
    assert "run `whence rebuild`" in str(error.value)
    return str(error.value)


# Opening


def test_a_complete_version_opens_with_parts_that_belong_together(version: Path) -> None:
    snapshot = Snapshot.open(version)
    manifest = snapshot.manifest
    assert snapshot.version == version.name
    assert snapshot.model_id == manifest.model_id == "fake-colours"
    assert (manifest.concepts, manifest.exemplars) == (2, 3)
    assert snapshot.catalog.exemplar_count() == snapshot.vectors.count == 3
    assert manifest.dimensions == {"subject": 48, "style": 6}
    assert snapshot.calibration_id == manifest.files["calibration.json"].sha256[:12]
    snapshot.close()


def test_the_manifest_lists_every_file(version: Path) -> None:
    snapshot = Snapshot.open(version)
    assert sorted(snapshot.manifest.files) == FILES
    assert sorted(path.name for path in version.iterdir()) == sorted([*FILES, "manifest.json"])
    snapshot.close()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["one byte", "cut short", "longer", "gone"])
def test_a_damaged_file_is_refused_by_name(version: Path, name: str, damage: str) -> None:
    path = version / name
    data = bytearray(path.read_bytes())
    if damage == "one byte":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut short":
        path.write_bytes(data[:-1])
    elif damage == "longer":
        path.write_bytes(data + b"\n")
    else:
        path.unlink()
    message = refused(version)
    assert name in message
    assert ("missing" if damage == "gone" else "changed") in message


@pytest.mark.parametrize("content", [None, "", "{", '{"format": 2}', '{"format": 3}', "[]"])
def test_a_version_without_a_readable_manifest_is_refused(version: Path, content) -> None:
    (version / "manifest.json").unlink()
    if content is not None:
        (version / "manifest.json").write_text(content)
    assert "manifest.json" in refused(version)


def test_a_manifest_of_another_format_is_refused(version: Path) -> None:
    manifest = json.loads((version / "manifest.json").read_text())
    (version / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    assert "format" in refused(version)


def test_no_flipped_bit_of_a_manifest_goes_unnoticed(version: Path) -> None:
    path = version / "manifest.json"
    whole, data = read_manifest(version), path.read_bytes()
    for place in range(len(data)):
        spoiled = bytearray(data)
        spoiled[place] ^= 1
        path.write_bytes(spoiled)
        try:
            assert read_manifest(version) == whole
        except SnapshotError as error:
            message = str(error)
            assert "manifest.json" in message
            assert "run `whence rebuild`" in message


@pytest.mark.parametrize("checksum", [None, "", "0" * 64, 5])
def test_a_manifest_without_its_checksum_is_refused(version: Path, checksum: object) -> None:
    path = version / "manifest.json"
    content = json.loads(path.read_text()) | {"checksum": checksum}
    path.write_text(json.dumps(content))
    assert "manifest.json" in refused(version)
    del content["checksum"]
    path.write_text(json.dumps(content))
    assert "its checksum differs" in refused(version)


def test_a_version_of_an_older_whence_says_to_rebuild(version: Path) -> None:
    manifest = Manifest.model_validate_json((version / "manifest.json").read_bytes())
    older = {name: file for name, file in manifest.files.items() if "neighbours" not in name}
    rewrite(version, files=older)
    said = refused(version)
    assert "older Whence" in said
    assert "run `whence rebuild`" in said


def test_a_folder_of_another_name_than_its_version_is_refused(version: Path) -> None:
    named = version.name
    building = version.rename(version.parent / f".building-{named}")
    Snapshot.open(building).close()  # as a rebuild does to try it
    assert "give the folder that name" in refused(building.rename(version.parent / "copy"))


def test_a_manifest_that_does_not_fit_its_vectors_is_refused(version: Path) -> None:
    rewrite(version, dimensions={"subject": 47, "style": 6})
    assert "does not fit together" in refused(version)


def test_another_model_is_refused_with_both_ids_and_the_command(version: Path) -> None:
    snapshot = Snapshot.open(version)
    snapshot.require_model("fake-colours")
    with pytest.raises(
        SnapshotError, match=r"'fake-colours', not 'other'; run `whence rebuild --model other`"
    ):
        snapshot.require_model("other")
    snapshot.close()


# Building and publishing


def test_a_version_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    with building(tmp_path, "v1") as folder:
        (folder / "file").write_text("content")
        assert not (tmp_path / "v1").exists()
    assert (tmp_path / "v1" / "file").read_text() == "content"
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_version_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def build() -> None:
        with building(tmp_path, "v1") as folder:
            (folder / "file").write_text("content")
            raise error

    with pytest.raises(error):
        build()
    assert list(tmp_path.iterdir()) == []


def test_publishing_replaces_the_current_version_in_one_step(tmp_path: Path, monkeypatch) -> None:
    assert published_version(tmp_path) is None
    publish(tmp_path, "v1")
    assert published_version(tmp_path) == "v1"
    seen: list[str | None] = []
    replace = os.replace

    def watched(source: Path, target: Path) -> None:
        seen.append(published_version(tmp_path))
        assert source.read_text().strip() == "v2"  # written whole before it takes the name
        replace(source, target)
        seen.append(published_version(tmp_path))

    monkeypatch.setattr(os, "replace", watched)
    publish(tmp_path, "v2")
    assert seen == ["v1", "v2"]
    assert [path.name for path in tmp_path.iterdir()] == ["CURRENT"]


def test_a_publish_that_fails_keeps_the_old_version(tmp_path: Path, monkeypatch) -> None:
    publish(tmp_path, "v1")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        publish(tmp_path, "v2")
    assert published_version(tmp_path) == "v1"


def test_the_published_version_is_opened(version: Path) -> None:
    publish(version.parent, version.name)
    snapshot = open_published(version.parent)
    assert snapshot.version == version.name
    snapshot.close()


def test_no_index_yet_is_told_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match=r"no index .* yet; run `whence train.*`whence rebuild"):
        open_published(tmp_path)


def test_a_published_version_that_has_gone_is_told_by_name(tmp_path: Path) -> None:
    publish(tmp_path, "v1")
    with pytest.raises(SnapshotError, match=r"v1.*whence rebuild"):
        open_published(tmp_path)


def test_versions_are_listed_oldest_first_without_broken_ones_and_copies(version: Path) -> None:
    index = version.parent
    for name, day in (
        ("b-newer", "2999-01-01"),
        ("a-newest", "2999-01-02"),
        ("c-old", "1999-01-01"),
    ):
        shutil.copytree(version, index / name)
        rewrite(index / name, version=name, created_at=datetime.fromisoformat(f"{day}T00:00Z"))
    shutil.copytree(version, index / "copy")
    shutil.copytree(version, index / ".building-x")
    (index / "broken").mkdir()
    (index / "broken" / "manifest.json").write_text("{")
    (index / "empty").mkdir()
    found = [manifest.version for manifest in list_versions(index)]
    assert found == ["c-old", version.name, "b-newer", "a-newest"]


def test_names_of_versions_sort_by_time() -> None:
    earlier = new_version()
    time.sleep(0.002)
    assert earlier < new_version()


@pytest.mark.parametrize(
    "text", ["..", "../elsewhere", "/etc", ".hidden", "a/b", "two\nnames", "é"]
)
def test_what_is_published_is_a_plain_name_and_no_path(tmp_path: Path, text: str) -> None:
    (tmp_path / "CURRENT").write_text(text, encoding="utf-8")
    with pytest.raises(SnapshotError, match=r"CURRENT holds .* `whence rollback VERSION`"):
        open_published(tmp_path)
    (tmp_path / "CURRENT").write_text(new_version() + "\n")
    assert published_version(tmp_path)


def test_a_manifest_of_before_the_log_was_witnessed_asks_for_none(version: Path) -> None:
    content = json.loads((version / "manifest.json").read_bytes())
    del content["takedowns"], content["checksum"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    content["checksum"] = hashlib.sha256(text).hexdigest()
    (version / "manifest.json").write_text(json.dumps(content))
    assert read_manifest(version).takedowns.records == 0
