"""Witnesses of the takedown log, and its repair."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from index.answering.attribution import open_attributor
from index.errors import TakedownError
from index.takedowns.log import TakedownLog
from index.takedowns.purge import purge
from index.takedowns.records import Extent
from index.takedowns.witnesses import WITNESS, attest
from tests.fakes import FakeEmbedder
from tests.index.conftest import House


@pytest.fixture
def log(house: House) -> TakedownLog:
    """The log of a built index, with two records."""
    house.rebuild()
    log = TakedownLog(house.data.takedowns)
    log.add("concept", "one", [], reason="first")
    log.add("image", "other", [], reason="second")
    return log


def lose(log: TakedownLog) -> bytes:
    """Delete the log and the extent beside it; return the log."""
    written = log.path.read_bytes()
    log.path.unlink()
    log.extent_file.unlink()
    return written


def refused(use: Callable[[], object], match: str) -> None:
    with pytest.raises(TakedownError, match=rf"{match}.*whence takedown repair.*takedown accept"):
        use()


def test_log_and_extent_that_vanish_together_are_noticed_by_the_version(
    house: House, log: TakedownLog
) -> None:
    lose(log)
    for use in (
        log.read,
        house.rebuild,
        lambda: log.add("concept", "two", [], reason="r"),
        lambda: log.lift("td-x", reason="r"),
        lambda: open_attributor(house.data, embedder=FakeEmbedder()),
        lambda: purge(house.data),
    ):
        refused(use, rf"0 records of at least 2 in .*{WITNESS}")


@pytest.mark.parametrize("place", ["models/m", "cache/m", "cache/features", "pretrain/run"])
def test_what_was_built_after_a_takedown_knows_of_it(
    tmp_path: Path, place: str, house: House
) -> None:
    log = TakedownLog(house.data.takedowns)
    log.add("concept", "one", [], reason="r")
    (house.data.root / place).mkdir(parents=True)
    attest(house.data.root / place, log.read().extent)
    lose(log)
    refused(log.read, f"0 records of at least 1 in .*{place}")


def test_a_rebuild_leaves_witnesses_in_version_and_cache(house: House, log: TakedownLog) -> None:
    version = house.rebuild().version
    extent = log.read().extent
    for folder in (
        house.data.index / version,
        house.data.embeddings(house.embedder.model_id).parent,
    ):
        assert Extent.model_validate_json((folder / WITNESS).read_bytes()) == extent


def test_without_takedowns_there_are_no_witnesses(house: House) -> None:
    house.rebuild()
    assert not list(house.data.root.rglob(WITNESS))


def test_an_older_log_with_its_own_extent_is_noticed(house: House, log: TakedownLog) -> None:
    old = {path: path.read_bytes() for path in (log.path, log.extent_file)}
    log.add("concept", "two", [], reason="third")
    for path, content in old.items():
        path.write_bytes(content)
    refused(log.read, "2 records of at least 3")


def test_a_server_knows_what_it_has_read_even_if_the_whole_folder_is_older(
    house: House, log: TakedownLog
) -> None:
    backup = house.data.root.with_name("backup")
    shutil.copytree(house.data.root, backup)
    log.add("concept", "two", [], reason="third")
    seen = log.read()
    shutil.rmtree(house.data.root)
    backup.rename(house.data.root)
    assert len(log.read().active) == 2  # nothing here knows of the third
    server = TakedownLog(log.path, seen.extent)
    refused(server.read, "2 records of at least 3 in the memory of this running server")
    server.rescue(seen)
    refused(log.read, "2 records of at least 3")
    assert log.repair() == 1
    assert log.read() == seen
    assert not log.rescue_file.exists()


def test_a_damaged_witness_is_passed_over(
    house: House, log: TakedownLog, caplog: pytest.LogCaptureFixture
) -> None:
    [witness] = house.data.index.glob(f"*/{WITNESS}")
    witness.write_text("")
    assert len(log.read().active) == 2
    assert "the next takedown writes it anew" in caplog.text
    log.add("concept", "two", [], reason="third")
    assert Extent.model_validate_json(witness.read_bytes()).records == 3


def test_a_backup_restores_the_log(house: House, log: TakedownLog, tmp_path: Path) -> None:
    backup = tmp_path / "backup.jsonl"
    before = log.read()
    backup.write_bytes(lose(log))
    assert log.repair(backup) == 2
    assert log.read() == before
    assert house.rebuild().concepts == 1


def test_a_backup_that_is_too_old_is_refused(log: TakedownLog, tmp_path: Path) -> None:
    backup = tmp_path / "backup.jsonl"
    shutil.copy(log.path, backup)
    log.add("concept", "two", [], reason="third")
    lose(log)
    refused(lambda: log.repair(backup), "2 records of at least 3")


@pytest.mark.parametrize("content", [b"garbage\n", b"\xff\n{}\n", None])
def test_a_copy_that_is_none_is_refused(
    log: TakedownLog, tmp_path: Path, content: bytes | None
) -> None:
    backup = tmp_path / "backup.jsonl"
    if content is not None:
        backup.write_bytes(content)
    before = log.path.read_bytes()
    with pytest.raises(TakedownError, match=r"backup\.jsonl"):
        log.repair(backup)
    assert log.path.read_bytes() == before


def test_what_was_recorded_after_a_loss_is_kept(
    house: House, log: TakedownLog, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.jsonl"
    backup.write_bytes(lose(log))
    log.accept(reason="no backup found")
    log.add("concept", "two", [], reason="third")
    assert log.repair(backup) == 2  # it was found
    assert [one.target for one in log.read().active] == ["one", "other", "two"]
    log.add("concept", "three", [], reason="fourth")
    with pytest.raises(TakedownError, match="lacks no record"):
        log.accept(reason="r")


def test_a_damaged_line_is_repaired_from_a_copy(log: TakedownLog, tmp_path: Path) -> None:
    backup = tmp_path / "backup.jsonl"
    shutil.copy(log.path, backup)
    before = log.read()
    first, second = log.path.read_bytes().splitlines()
    log.path.write_bytes(first[:20] + b"\n" + second + b"\n")
    refused(log.read, "line 1")
    with pytest.raises(TakedownError, match="1 records of at least 2"):
        log.repair()
    assert log.repair(backup) == 1
    assert log.read() == before


def test_a_log_that_is_whole_is_not_changed(log: TakedownLog) -> None:
    before = log.path.read_bytes()
    log.extent_file.write_text("garbage")
    assert log.repair() == 0
    assert log.path.read_bytes() == before
    assert json.loads(log.extent_file.read_text())["records"] == 2
