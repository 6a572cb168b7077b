import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import pytest

from index.building import rebuild as rebuild_module
from index.building import writing
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.errors import RebuildError, SnapshotError, TakedownError
from index.layout import DataFolder
from index.snapshot import list_versions, published_version, read_manifest
from index.takedowns.log import TakedownLog
from index.verify import verify
from index.versions import folder_bytes, prune, rollback
from model.checkpoint import save_model
from model.errors import ModelError, WhenceError
from model.images import ImageLimits
from model.sources.local import LocalFile
from model.sources.picture import SETTLED, Picture, Stamp, hash_picture
from tests.fakes import FakeEmbedder, patches, tiny_model
from tests.index.conftest import House


@pytest.fixture
def modelled(house: House) -> House:
    """A house whose embedder's model is among the saved ones."""
    house.embedder.model_id = save_model(house.data.models, tiny_model(), {})
    return house


def versions(data: DataFolder) -> list[str]:
    return [manifest.version for manifest in list_versions(data.index)]


# Keeping some


def test_a_rebuild_keeps_the_last_three_versions(house: House) -> None:
    made = [house.rebuild().version for _ in range(5)]
    assert versions(house.data) == made[-3:]


def test_how_many_are_kept_is_an_option(house: House) -> None:
    made = [house.rebuild(keep=1).version for _ in range(3)]
    assert versions(house.data) == made[-1:]


def test_the_published_version_is_never_removed(modelled: House) -> None:
    made = [modelled.rebuild().version for _ in range(3)]
    rollback(modelled.data, made[0])
    assert prune(modelled.data.index, 1) == [made[1]]
    assert versions(modelled.data) == [made[0], made[2]]


def test_a_clock_that_was_ahead_does_not_change_the_order(
    modelled: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = modelled.rebuild().version
    with monkeypatch.context() as patch:  # a version dated in 2099
        later = datetime(2099, 1, 1, tzinfo=UTC)
        patch.setattr(writing, "datetime", SimpleNamespace(now=lambda _: later))
        ahead = modelled.rebuild().version
    third, fourth = (modelled.rebuild().version for _ in range(2))
    assert versions(modelled.data) == [ahead, third, fourth]
    assert rollback(modelled.data).version == third
    assert first not in versions(modelled.data)


def test_a_version_without_a_number_is_older_and_its_checksum_stays(house: House) -> None:
    numbered = house.rebuild().version
    folder = house.data.index / numbered
    manifest = read_manifest(folder).model_copy(update={"sequence": None})
    text = manifest.model_dump_json(indent=2)
    assert "sequence" not in json.loads(text)
    (folder / "manifest.json").write_text(text)
    assert read_manifest(folder).sequence is None
    second = house.rebuild().version
    assert versions(house.data) == [numbered, second]


def test_a_copied_folder_is_no_version_and_stays(house: House) -> None:
    first = house.rebuild(keep=1).version
    shutil.copytree(house.data.index / first, house.data.index / "backup")
    second = house.rebuild(keep=1).version
    third = house.rebuild(keep=1).version
    assert second != third
    assert versions(house.data) == [third]
    assert (house.data.index / "backup" / "manifest.json").is_file()


def test_a_version_knows_what_it_takes_on_the_disk(house: House) -> None:
    folder = house.data.index / house.rebuild().version
    assert folder_bytes(folder) == sum(path.stat().st_size for path in folder.iterdir())


def test_a_version_that_is_removed_while_it_is_looked_at_is_no_error(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = house.data.index / house.rebuild().version
    stat = Path.stat

    def removed(path: Path, **options: bool) -> os.stat_result:
        if path.parent == folder:
            shutil.rmtree(folder, ignore_errors=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", removed)
    assert folder_bytes(folder) == 0
    monkeypatch.undo()
    assert folder_bytes(folder) == 0
    assert list_versions(house.data.index) == []


# Going back


def test_a_rollback_goes_to_the_version_before(modelled: House) -> None:
    made = [modelled.rebuild().version for _ in range(3)]
    for version in (made[1], made[0]):
        assert rollback(modelled.data).version == version
        assert published_version(modelled.data.index) == version
    with pytest.raises(SnapshotError, match=r"no version before.*whence status"):
        rollback(modelled.data)
    assert rollback(modelled.data, made[2]).version == made[2]


def test_an_unknown_version_is_refused_with_those_there_are(modelled: House) -> None:
    version = modelled.rebuild().version
    with pytest.raises(SnapshotError, match=rf"no version 'x'.*{version}"):
        rollback(modelled.data, "x")


@pytest.mark.parametrize("name", ["", ".", "..", "../index/{}", "./{}", "{}/", "{}/../{}", "copy"])
def test_only_the_name_of_a_version_names_one(modelled: House, name: str) -> None:
    first, second = (modelled.rebuild().version for _ in range(2))
    shutil.copytree(modelled.data.index / first, modelled.data.index / "copy")
    with pytest.raises(SnapshotError, match="there is no version"):
        rollback(modelled.data, name.format(first, first))
    with pytest.raises(SnapshotError, match="there is no version"):
        verify(modelled.data, name.format(first, first), sample=0)
    assert published_version(modelled.data.index) == second
    assert verify(modelled.data, first, sample=0).version == first


def test_a_damaged_version_is_not_published_again(modelled: House) -> None:
    first, second = (modelled.rebuild().version for _ in range(2))
    (modelled.data.index / first / "style.faiss").unlink()
    with pytest.raises(SnapshotError, match=r"style\.faiss is missing"):
        rollback(modelled.data)
    assert published_version(modelled.data.index) == second


def test_a_version_whose_model_is_gone_is_not_published_again(modelled: House) -> None:
    modelled.rebuild()
    second = modelled.rebuild().version
    shutil.rmtree(modelled.data.models)
    with pytest.raises(ModelError, match="needs the model"):
        rollback(modelled.data)
    assert published_version(modelled.data.index) == second


def test_no_rollback_without_the_log_of_takedowns(modelled: House) -> None:
    log = TakedownLog(modelled.data.takedowns)
    log.add("concept", "another", [], reason="r")
    modelled.rebuild()
    second = modelled.rebuild().version
    log.extent_file.unlink()
    for damage in (lambda: log.path.write_text("garbage\n"), log.path.unlink):
        damage()
        with pytest.raises(TakedownError):
            rollback(modelled.data)
    assert published_version(modelled.data.index) == second


def test_no_rollback_during_a_rebuild(modelled: House) -> None:
    modelled.rebuild()
    with (
        filelock.FileLock(modelled.data.index / ".rebuild.lock"),
        pytest.raises(RebuildError, match="another rebuild is running"),
    ):
        rollback(modelled.data)


# Canaries


class Blind(FakeEmbedder):
    """Sees the same in every picture, but for noise."""

    model_id = "blind"

    def embed_pixels(self, pixels):  # type: ignore[no-untyped-def]
        return {
            facet: rows[::-1].copy() if len(rows) > 1 else rows
            for facet, rows in super().embed_pixels(pixels).items()
        }


def test_an_index_that_does_not_find_its_own_exemplars_is_not_published(house: House) -> None:
    house.draw({f"more {n}": range(20 * n, 20 * n + 3) for n in range(10, 25)})
    before = house.rebuild(canary_rate=0.2)
    assert before.canaries >= 0.2
    exemplars = read_sources([house.source])
    with pytest.raises(RebuildError, match=r"only \d+% of the canary queries.*--canary-rate"):
        rebuild(house.data, exemplars, Blind())
    assert published_version(house.data.index) == before.version
    assert versions(house.data) == [before.version]
    assert rebuild(house.data, exemplars, Blind(), RebuildOptions(canary_rate=0)).canaries < 0.5


# When the disk fails


def test_an_unwritable_folder_is_told_in_one_line(tmp_path: Path, house: House) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(RebuildError, match=r"cannot be written.*nothing was published"):
        house.rebuild()


def test_a_damaged_cache_is_told_in_one_line(house: House) -> None:
    path = house.data.embeddings(house.embedder.model_id)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(WhenceError, match=r"not a database.*delete .*embeddings\.sqlite"):
        house.rebuild()


@pytest.mark.parametrize(
    "step",
    [
        "building.writing.write_catalog", "stores.faiss_files.write_vectors",
        "building.writing.write_cohort", "building.writing._calibrate",
        "building.rebuild.publish", "building.rebuild.building",
    ],
)  # fmt: skip
def test_a_full_disk_at_any_step_publishes_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = house.rebuild().version

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"index.{step}", fail)
    with pytest.raises(RebuildError, match=r"No space left.*nothing was published: make room"):
        house.rebuild()
    monkeypatch.undo()
    assert published_version(house.data.index) == before
    assert not list(house.data.index.glob(".building-*"))
    assert house.rebuild().embedded == 0


def test_what_a_killed_rebuild_left_is_cleared_away(house: House) -> None:
    house.rebuild()
    left = house.data.index / ".building-left"
    left.mkdir()
    (left / "vectors").write_text("half")
    (house.data.index / ".CURRENT-left").write_text("left\n")
    house.rebuild()
    assert not [path for path in house.data.index.iterdir() if path.name.endswith("-left")]


# Nothing is done twice


def test_a_rebuild_without_any_change_leaves_the_published_version(house: House) -> None:
    first = house.rebuild()
    again = house.rebuild(force=False)
    assert again.unchanged
    assert (again.version, again.canaries) == (first.version, None)
    assert (again.added, again.kept, again.removed, again.embedded) == (0, 5, 0, 0)
    assert versions(house.data) == [first.version]


@pytest.mark.parametrize("change", ["metadata", "source", "type", "damage", "method", "moved"])
def test_every_change_makes_a_new_version(
    house: House, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    first = house.rebuild()
    options: dict[str, Any] = {}
    exemplars = read_sources([house.source])
    if change == "metadata":
        exemplars = [replace(exemplar, license="CC0-1.0") for exemplar in exemplars]
    elif change == "source":
        options["sources"] = ["another"]
    elif change == "type":
        options["index_type"] = "ivf"
    elif change == "damage":
        (house.data.index / first.version / "style.faiss").unlink()
    elif change == "moved":
        (house.source / "one" / "000.png").rename(house.source / "one" / "moved.png")
        exemplars = read_sources([house.source])
    else:
        monkeypatch.setattr(rebuild_module, "METHOD", rebuild_module.METHOD + 1)
    again = rebuild(house.data, exemplars, house.embedder, RebuildOptions(**options))
    assert not again.unchanged
    assert again.version == published_version(house.data.index) != first.version
    assert again.embedded == 0


def test_unchanged_files_are_not_read_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.sources.picture.SETTLED", -1.0)
    house.rebuild()
    read: list[str] = []

    def watched(picture: Picture, limits: ImageLimits) -> str:
        read.append(picture.name)
        return hash_picture(picture, limits)

    monkeypatch.setattr("index.building.scan.hash_picture", watched)
    assert house.counts() == (0, 5, 0, 0)
    assert read == []
    (house.source / "one" / "000.png").rename(house.source / "one" / "new.png")
    (house.source / "two" / "010.png").touch()
    assert house.counts() == (0, 5, 0, 0)
    assert sorted(read) == ["010.png", "new.png"]


def test_a_file_that_may_change_within_a_tick_of_the_clock_is_read_again(house: House) -> None:
    house.rebuild()
    first = house.source / "one" / "000.png"
    other = house.source / "one" / "001.png"
    content = other.read_bytes()
    first.write_bytes(content)  # at once: a stamp alone may not tell
    summary = house.rebuild()
    assert [Path(skipped.path).name for skipped in summary.skipped] == ["001.png"]


def test_a_change_shows_where_times_are_coarse(house: House, monkeypatch) -> None:
    """A file system that keeps times in steps of two seconds, and no time of change, as FAT does.

    The clock stands still, so that all happens within one step: the stamps are alike, by the first
    assertion, and only the content tells.
    """
    written = now = 1_700_000_001.5

    def stamp(file: LocalFile) -> Stamp:
        return Stamp(f"{file.size}", written // 2 * 2.0)

    monkeypatch.setattr(LocalFile, "stamp", property(stamp))
    monkeypatch.setattr("model.sources.picture.time", SimpleNamespace(time=lambda: now))
    first = house.source / "one" / "000.png"
    patches(0).save(first, "BMP")
    house.rebuild()
    before = LocalFile(first).stamp
    patches(99).save(first, "BMP")
    assert LocalFile(first).stamp == before
    summary = house.rebuild()
    assert (summary.added, summary.removed, summary.embedded) == (1, 1, 1)
    now += SETTLED + 2  # from now on the times tell of every change
    house.rebuild()
    monkeypatch.setattr("index.building.scan.hash_picture", None)  # nothing is read any more
    assert house.rebuild().embedded == 0
